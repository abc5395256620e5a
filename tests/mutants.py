#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Are the tests of kernels able to fail?  mutants.py SOURCE WORK CXX TEST_OBJECT LIBRARY...

Breaks a copy of the kernels in one place at a time, builds tests/fibers/queue.cpp from it, and
expects test_cuda_verify to fail; and changes it where nothing may change, and expects it to pass."""
import pathlib
import shutil
import subprocess
import sys

FILTER = "cuda_verify/rows_of_several_tiles*"
SECONDS = 120

# what, file, text, its replacement, must the test pass?
MUTANTS = [
    ("the kernels as they are", "cuda/rows.cuh", "", "", True),
    ("one job to decide with", "cuda/queue.cu", "spc_queue_deciders(sequences)", "1", True),
    ("no job to spare", "cuda/queue.cu", "spc_queue_ahead(sequences, rows)", "0", True),
    ("a guess that is too high", "rules/truncate.h", "#define SPC_RANKED_FLOOR 10.0f",
     "#define SPC_RANKED_FLOOR 0.01f", True),
    ("a reduction is skipped", "cuda/device.cuh", "for (int half = WARPS / 2; half > 0;",
     "for (int half = WARPS / 2; half > 1;", False),
    ("lane 0 only", "cuda/device.cuh", "value = warp_sum_of_block(s->lane[0]);",
     "value = s->lane[0][0];", False),
    ("the first tile only", "cuda/decide.cuh", "for (int32_t i = 0; i < tiles; i++) sum +=",
     "for (int32_t i = 0; i < 1; i++) sum +=", False),
    ("streams share their numbers", "rules/rng.h", "| (uint32_t)stream << 28", "", False),
    ("no salt", "rules/rng.h", "counter.word[3] = key.salt;", "counter.word[3] = 0;", False),
    ("the residual subtracts nothing", "rules/block.h",
     "return spc_positive(weight * target - drafter);", "return spc_positive(weight * target);",
     False),
    ("eta is dropped", "rules/round_body.h", "t->eta = fold(pair, SPC_SUM_OUTSIDE, 0);",
     "t->eta = 0;", False),
    ("the bonus is the verifier's", "rules/round_body.h",
     "bool from_verifier =\n", "bool from_verifier = true ||\n", False),
    ("a level too few", "rules/truncate.h", "return s->low == s->high;",
     "return s->high - s->low < 300u;", False),
    ("mass loses its carry", "cuda/jobs.cuh", "+ (before + low < before ? 1u : 0u)", "", False),
    ("drafts have the logits of the first", "cuda/decide.cuh", "scratch.draft_logits[r];",
     "scratch.draft_logits[0];", False),
]


def build(source, work, compiler, objects, mutant):
    _, name, old, new, _ = mutant
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("cuda", "rules", "tests/fibers", "host/include"):
        shutil.copytree(source / folder, tree / folder)
    text = (tree / name).read_text()
    if old not in text:
        sys.exit(f"mutants.py: {name}: expected {old!r}, found nothing like it")
    if old:
        (tree / name).write_text(text.replace(old, new, 1))
    subprocess.run([compiler, "-DSPC_HAS_CUDA", f"-I{tree}/tests/fibers", f"-I{tree}",
                    f"-I{tree}/host/include", "-std=c++17", "-O1", "-ffp-contract=off", "-w", "-c",
                    str(tree / "tests/fibers/queue.cpp"), "-o", str(work / "queue.o")], check=True)
    subprocess.run([compiler, str(work / "queue.o"), *objects, "-o", str(work / "test")], check=True)


def passes(work):
    try:
        return subprocess.run([str(work / "test"), "--filter", FILTER], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def main():
    source, work = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    work.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for mutant in MUTANTS:
        build(source, work, sys.argv[3], sys.argv[4:], mutant)
        good = passes(work) == mutant[4]
        wrong += not good
        print(f"{'ok   ' if good else 'WRONG'} {mutant[0]}: must {'pass' if mutant[4] else 'fail'}",
              flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
