#!/usr/bin/env bash
# bench/gpu_run goes through all of its steps: with stand-ins for the tools and programs it starts.
#
#   tests/gpu_run.sh bench/gpu_run
set -u
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/bench" "$folder/tools"
cp "$1" "$folder/bench/gpu_run"
cd "$folder" || exit 1
stand_in() { # FILE TEXT
    mkdir -p "$(dirname "$1")"
    printf '#!/bin/sh\n%s\n' "$2" >"$1"
    chmod +x "$1"
}
for tool in nvidia-smi cmake ctest compute-sanitizer; do stand_in tools/$tool "echo $tool \$*"; done
stand_in tools/python3 'echo "gpu: $*"'
stand_in tools/pkg-config 'exit 0'
for program in gpu/spc gpu/tests/verify_cuda gpu/tests/test_cuda_driver gpu/tests/soak gpu/bench_verify \
    gpu/bench_device gpu/bench_round gpu-exact/tests/test_cuda_verify gpu-exact/tests/test_cuda_shard gpu-exact/tests/test_cuda_dealt; do
    stand_in build/$program 'echo "{\"arguments\": \"$*\"}"'
done
fail() {
    echo "gpu_run: $1" >&2
    cat said >&2
    exit 1
}
run() { PATH=$folder/tools:$PATH bench/gpu_run "$@" >said 2>&1; }
run out || fail "a step failed ($?)"
[ "$(grep -c ' ok$' said)" -gt 60 ] || fail "expected more than 60 steps"
for kind in verify device round; do
    [ -s out/$kind.jsonl ] || fail "no lines in $kind.jsonl"
done
run out tests && [ "$(grep -c ' ok$' said)" -lt 10 ] || fail "expected the part that was named alone"
run out nonsense && fail "expected a part without that name to be refused"
stand_in tools/pkg-config 'exit 1'
run out build && fail "expected the exit code to tell that there are no tests"
grep -q '^build: no Criterion' said && grep -q '^build  *[0-9]* s  ok' said || fail "expected benchmarks without tests"
stand_in tools/ctest 'exit 3'
run out tests sanitizers && fail "expected the exit code to tell of a failed step"
grep -q '^tests .*FAILED (3)' said && grep -q '^memcheck .* ok' said || fail "expected the other steps to go on"
echo "gpu_run: all steps"
