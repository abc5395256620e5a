#!/usr/bin/env bash
# Processes that share one GPU and decode together over NCCL print what one process prints, and end
# with one line when one of them is killed:
#
#   tests/nccl_ranks.sh build/spc tests/vectors/llama 12 "2 4"
#
# NCCL refuses two ranks on one GPU of one machine; with a host id of its own each process is taken
# for another machine, which it reaches through the loopback.  For correctness only: ranks that
# share a GPU take turns, and an all-reduce takes milliseconds.  Not run on a GPU yet.
#
# What one GPU cannot show: NVLink and a GPU for each process (spc launch -n 8 -- run --device cuda
# --verifier MODEL ..., with NCCL_DEBUG=INFO), several machines (srun -N 2 --ntasks-per-node 8
# --gpus-per-node 8 spc run --ranks-from env --meet /shared/file --device cuda ...), and what either
# gains: the statistics beside that of -n 1.
set -u
program=$1 checkpoint=$2 tokens=$3 worlds=$4
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fail() { # WHAT [FILE...]
    echo "nccl_ranks: $1" >&2
    shift
    cat "$@" </dev/null >&2
    exit 1
}
prompts() { # COUNT
    for ((k = 0; k < $1; k++)); do echo "{\"ids\": [1, 5, 9, $((3 + k % 64))]}"; done
}
prompts 2 >"$folder/few"
prompts 2000 >"$folder/many"
start_rank() { # RANK WORLD PROMPTS TEMPERATURE NAME: in the background, as rank 0 to NAME.0
    NCCL_HOSTID="spc-rank-$1" NCCL_SOCKET_IFNAME=lo NCCL_P2P_DISABLE=1 timeout 120 "$program" run \
        --verifier "$checkpoint" --drafter "$checkpoint" --device cuda:0 --gamma 3 --ignore-stop \
        --max-tokens "$tokens" --rank-timeout 60 --input "$folder/$3" --temperature "$4" \
        --rank "$1" --world "$2" --meet "$folder/meet" >"$folder/$5.$1" 2>"$folder/$5.$1.err" &
    pids+=($!)
}
for temperature in 0 0.8; do
    timeout 120 "$program" run --verifier "$checkpoint" --drafter "$checkpoint" --device cuda:0 \
        --gamma 3 --ignore-stop --max-tokens "$tokens" --input "$folder/few" \
        --temperature $temperature >"$folder/one" 2>"$folder/one.err" ||
        fail "one process alone failed ($?)" "$folder/one.err"
    for world in $worlds; do
        pids=() code=0
        for ((rank = 0; rank < world; rank++)); do start_rank $rank "$world" few $temperature all; done
        for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
        ! grep -qs "cannot load libnccl\|without NCCL's header" "$folder"/all.*.err || exit 77
        [ $code -eq 0 ] || fail "$world processes failed ($code)" "$folder"/all.*.err
        cmp "$folder/one" "$folder/all.0" || fail "$world processes print something else than one"
        echo "$world processes, temperature $temperature: the tokens of one"
    done
done
pids=()
for rank in 0 1; do start_rank $rank 2 many 0 long; done
for ((k = 0; k < 600; k++)); do
    [ ! -s "$folder/long.0" ] || break # the first answer is there
    sleep 0.1
done
# whom timeout has started; not every kernel lists children
kill -KILL $(cat "/proc/${pids[1]}/task/${pids[1]}/children" 2>/dev/null || pgrep -P "${pids[1]}")
code=0
wait "${pids[0]}" || code=$?
wait "${pids[1]}" 2>/dev/null
[ $code -eq 4 ] || fail "rank 1 was killed: expected exit code 4, found $code" "$folder/long.0.err"
grep "rank 1 is gone" "$folder/long.0.err" || fail "rank 0 does not say so" "$folder/long.0.err"
