#!/usr/bin/env bash
# Processes that decode together over NCCL say what one process says, on one GPU:
#
#   tests/nccl_ranks.sh build/tests/nccl_ranks tests/vectors/llama 12 "1 2 4" [LIBRARY]
#
# A single rank shows NCCL inside graphs.  Not run on a GPU yet.
#
# NCCL refuses two ranks on one GPU of one machine; with a host id of its own each process is taken
# for another machine, which it reaches through the loopback.  For correctness only: ranks that
# share a GPU take turns, and an all-reduce takes milliseconds.
set -u
program=$1 checkpoint=$2 tokens=$3 worlds=$4
library=${5:+"$5"}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
timeout 120 "$program" "$checkpoint" "$tokens" >"$folder/one" || {
    echo "nccl_ranks: one process alone failed ($?)" >&2
    exit 1
}
for world in $worlds; do
    pids=()
    for ((rank = 0; rank < world; rank++)); do
        NCCL_HOSTID="spc-rank-$rank" NCCL_SOCKET_IFNAME=lo NCCL_P2P_DISABLE=1 timeout 120 \
            "$program" "$checkpoint" "$tokens" $rank "$world" "$folder/id$world" ${library:+"$library"} \
            >"$folder/$world.$rank" 2>"$folder/$world.$rank.err" &
        pids+=($!)
    done
    code=0
    for pid in "${pids[@]}"; do
        wait "$pid" || code=$?
    done
    [ $code -ne 77 ] || exit 77 # no NCCL here
    [ $code -eq 0 ] || {
        echo "nccl_ranks: $world processes failed ($code)" >&2
        cat "$folder/$world".*.err >&2
        exit 1
    }
    for ((rank = 0; rank < world; rank++)); do
        cmp "$folder/one" "$folder/$world.$rank" || {
            echo "nccl_ranks: rank $rank of $world says something else than one process" >&2
            exit 1
        }
    done
    echo "$world processes: the tokens of one"
done
