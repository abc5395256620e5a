#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Are the tests of drawing and verification able to fail?
mutants.py SOURCE WORK CC CXX TEST_OBJECTS_AND_LIBRARIES... [--races] [--only TEXT]

Breaks a copy of the sources in one place at a time, builds what includes that place, links it with a
test and expects the test to fail; and changes it where nothing may change, and expects it to pass.
A test object is named by its file: the tests below are test_NAME.c.o.  With --races (CXX is GCC)
also what only tests/fibers/fiber_races.cpp finds."""
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys

SECONDS = 300
HOST = ("host/verify/batch.c", "host/verify/cuts.c", "host/verify/shard.c", "host/verify/tile_pairs.c",
        "host/verify/tiles.c", "host/verify/verify.c", "rules/rule.c")

# what is built, the test it is linked with, and the cases of it that are run
SUITES = {
    "queue": (("tests/fibers/queue.cpp",), "cuda_verify", "cuda_verify/rows_of_several_tiles*"),
    "kernels of slices": (("tests/fibers/shard.cpp",), "cuda_shard", "cuda_shard/*s"),
    "races of the queue": (("tests/fibers/queue.cpp",), "cuda_verify",
                           "cuda_verify/rows_of_several_tiles*"),
    "races of ops": (("tests/fibers/ops.cpp",), "cuda_linear_tile", "*"),
    "attention": (("tests/fibers/ops.cpp",), "cuda_attend", "cuda_attend/what_comes*"),
    "races of attention": (("tests/fibers/ops.cpp",), "cuda_attend", "cuda_attend/what_comes*"),
    "slices": (HOST, "host_shard", "host_shard/@(every_rule*|masks*|draws|more*)"),
    "traffic": (HOST, "host_shard_traffic", "*"),
    "statistics": (HOST, "host_verify_statistics", "*"),
    "law": (HOST, "host_verify_law", "host_verify_law/*"),
    "draw": (HOST, "host_verify_draw",
             "host_verify_draw/@(the_last*|positions*|a_far*|every_draw*|blocks*)"),
    "cuts": (HOST, "host_cuts", "*"),
    "some tokens": (HOST, "host_subset", "*"),
    "some tokens on a device": (("tests/fibers/queue.cpp",), "cuda_verify",
                                "cuda_verify/@(models_that_know*|rows_that_begin*)"),
    "broken keys": (("tests/fibers/ops.cpp",), "cuda_attend", "cuda_attend/a_broken*"),
    "salt": (HOST, "host_verify_draw", "host_verify_draw/blocks_without*"),
}

# suite, what, file, text, its replacement; no text: nothing is changed
MUST_PASS = [
    *[(suite, "as it is", "rules/row.h", "", "") for suite in SUITES],
    ("queue", "one job to decide with", "cuda/queue.cu", "spc_queue_deciders(sequences)", "1"),
    ("queue", "no job to spare", "cuda/queue.cu", "spc_queue_ahead(sequences, rows)", "0"),
    ("queue", "a guess that is too high", "rules/truncate.h", "#define SPC_RANKED_FLOOR 10.0f",
     "#define SPC_RANKED_FLOOR 0.01f"),
    ("cuts", "guesses that are too high", "host/verify/cuts.c", ": (float)HELD_MOST;", ": 1;"),
    ("cuts", "entries are held once", "host/verify/cuts.c", "if (row.held->floor > floor) hold",
     "if (row.held->floor == SPC_INFINITY) hold"),
    ("cuts", "room for few entries", "host/verify/cuts.c", "HELD_MOST = 8192", "HELD_MOST = 40"),
]
MUST_FAIL = [
    ("some tokens", "those before them do not count", "rules/round.h",
     "(uint32_t)word.before +", "0u +"),
    ("some tokens", "rows have no end", "rules/round.h",
     "return element >= 0 && element < view->width ? element : -1;", "return element;"),
    ("some tokens", "tiles have no end", "host/verify/tiles.c", "wrong || known > width - start ? -1",
     "wrong ? -1"),
    ("some tokens", "words are believed", "host/verify/tiles.c", "wrong || known > width - start ? -1",
     "known > width - start ? -1"),
    ("some tokens", "the top is an element", "host/verify/tiles.c", "t->words ? token_of(t->words, top) :",
     "t->words ? top :"),
    ("some tokens", "the top's word alone", "host/verify/tiles.c", "return 32 * w + __builtin_ctz(left);",
     "return __builtin_ctz(left);"),
    ("some tokens", "those that are not known weigh something", "host/verify/tiles.c",
     "spread(t->words, t->count, value, 0.0f, whole);",
     "spread(t->words, t->count, value, 1e-6f, whole);"),
    ("some tokens", "edited rows are taken for plain", "host/verify/tiles.c",
     "row->subset && !row->allowed && row->edits <= 0", "row->subset && !row->allowed"),
    ("some tokens", "edits of any token", "host/verify/tiles.c",
     "if (spc_view_element(row, token) >= 0) buffer", "buffer"),
    ("some tokens", "tokens may repeat", "host/verify/batch.c", "i > 0 ? tokens[i - 1] + 1 : 0;",
     "i > 0 ? tokens[i - 1] : 0;"),
    ("some tokens on a device", "each is known", "cuda/stage.cuh",
     "!(tokens >> lane & 1u) || token", "token"),
    ("some tokens on a device", "a word of another warp", "cuda/stage.cuh",
     "lane * SPC_LANES) / WARP + warp;", "lane * SPC_LANES) / WARP;"),
    ("some tokens on a device", "edits are forgotten", "cuda/stage.cuh",
     "return row->logits.data && row->subset && !row->allowed && row->edits <= 0;",
     "return row->logits.data && row->subset;"),
    ("some tokens on a device", "rows are taken for plain", "cuda/stage.cuh",
     "row->logits.data && !row->subset && !row->allowed", "row->logits.data && !row->allowed"),
    ("some tokens on a device", "rows have no end", "cuda/stage.cuh",
     " || element < 0 ||\n            element >= width) {", " || element < 0) {"),
    ("some tokens on a device", "rows of one place have one width", "cuda/decide.cuh",
     " && scratch.known_width[r] == row->width", ""),
    ("broken keys", "all see what the last does", "cuda/attend_leaves.cuh",
     "s->all_to = keys_of(a, first_row, &lowest);",
     "(void)keys_of(a, first_row, &lowest);\n    s->all_to = end;"),
    ("broken keys", "a bias breaks nothing", "cuda/attention.cuh",
     "            s->bad[r] |= !(*x - *x == 0.0f);\n            top", "            top"),
    ("cuts", "what there is no room for is left out", "host/verify/cuts.c",
     "if (found > HELD_MOST - h->count) return;", "if (found > HELD_MOST - h->count) break;"),
    ("cuts", "a search ends where too little is above", "host/verify/cuts.c",
     "if (!spc_search_below(search, above)) return false;", "return false;"),
    ("cuts", "only what is held is looked at", "host/verify/cuts.c",
     "if (spc_search_logit(search, search->low) >= h->floor) {", "if (true) {"),
    ("cuts", "sums in another order", "host/verify/cuts.c",
     "lane[token[i] % SPC_LANES] += weight[i]", "lane[i % SPC_LANES] += weight[i]"),
    ("races of the queue", "pieces are not handed over", "cuda/pieces.cuh",
     "    if (threadIdx.x == 0) fence_blocks();\n}", "}"),
    ("races of the queue", "pieces are not taken over", "cuda/jobs.cuh",
     "        if (scratch.claim > 0 && !knows) fence_blocks(); /* it has the piece */\n", ""),
    ("races of the queue", "sums are not handed over", "cuda/pieces.cuh",
     "    if (last) fence_blocks();", "    (void)last;"),
    ("races of the queue", "sums are not taken over", "cuda/decide.cuh",
     "    if ((int32_t)threadIdx.x < scratch.q.tiles) fence_blocks();", ""),
    ("races of the queue", "a job is not taken over", "cuda/jobs.cuh",
     "            fence_blocks();\n            return slot;", "            return slot;"),
    ("races of the queue", "a job is not handed over", "cuda/jobs.cuh",
     "        fence_blocks();\n        atomicExch(scratch.q.left + slot, pieces",
     "        atomicExch(scratch.q.left + slot, pieces"),
    ("races of the queue", "a job is not given back", "cuda/jobs.cuh",
     "    fence_blocks();\n    atomicAnd(", "    atomicAnd("),
    ("races of the queue", "tiles are not handed over", "cuda/queue.cu",
     "        fence_blocks();\n        at = one->cut", "        at = one->cut"),
    ("races of the queue", "rows are not taken over", "cuda/queue.cu",
     "        fence_blocks();\n        scratch.finished[i]", "        scratch.finished[i]"),
    ("races of the queue", "a sequence is not taken over", "cuda/sequence.cuh",
     "    fence_blocks();\n    return true;", "    return true;"),
    ("races of the queue", "a sequence is decided too early", "cuda/sequence.cuh",
     "ripe) != tiles) return false;", "ripe) == 0) return false;"),
    ("races of the queue", "weights are read before they are there", "cuda/decide.cuh",
     "#define ROUND_MEET() __syncthreads()", "#define ROUND_MEET() ((void)0)"),
    ("races of the queue", "all write the weights", "cuda/decide.cuh",
     "#define ROUND_WRITES (threadIdx.x == 0)", "#define ROUND_WRITES true"),
    ("races of ops", "parts of sums are not handed over", "cuda/fence.cuh",
     "        fence_blocks();\n        last =", "        last ="),
    ("races of ops", "parts of sums are not taken over", "cuda/fence.cuh",
     "            fence_blocks();\n            *ticket", "            *ticket"),
    ("races of ops", "a barrier is missing", "cuda/fence.cuh",
     "    __syncthreads();\n    if (count == 1)", "    if (count == 1)"),
    ("races of attention", "new keys are read before they are there", "cuda/attend_leaves.cuh",
     "    __syncthreads(); /* queries,", "    /* queries,"),
    ("races of attention", "a new key is every block's", "cuda/attend_leaves.cuh",
     "if (!is_query && h->position / w.keys / w.together != at.share)", "if (false)"),
    ("races of attention", "columns behind a head are whatever was there", "cuda/attend_leaves.cuh",
     "for (int32_t i = dim + lane; i < DIM; i += OPS_LANES) query[i] = 0.0f;", ""),
    ("races of attention", "queries behind the last are whatever was there", "cuda/attend_leaves.cuh",
     "j < padded; j += LEAF_WARPS", "j < 0; j += LEAF_WARPS"),
    ("attention", "a ticket stays taken", "cuda/fence.cuh",
     "            *ticket = 0; /* for the next launch */\n", ""),
    ("races of attention", "every block joins", "cuda/fence.cuh", "== (uint32_t)count - 1", "== 0u"),
    ("attention", "the last block joins, not the last to come", "cuda/fence.cuh",
     "        last = atomicAdd(ticket, 1u) == (uint32_t)count - 1;",
     "        last = (int32_t)blockIdx.x % count == count - 1;"),
    ("attention", "values turn, too", "cuda/attend_leaves.cuh", " && h->kind != HEAD_VALUE", ""),
    ("races of ops", "what nobody left is read", "cuda/linear_tile.cuh",
     "for (int p = 0; p < pieces; p++) all +=",
     "if (*(const volatile float *)(left + pieces * FLOATS) == 1.5f) return 0;\n"
     "        for (int p = 0; p < pieces; p++) all +="),
    ("races of the queue", "a word behind the batch is read", "cuda/queue.cu",
     "    const int32_t live = spc_live(a.b.live, a.b.sequences), i = (int32_t)threadIdx.x;",
     "    const int32_t live = spc_live(a.b.live, a.b.sequences), i = (int32_t)threadIdx.x;\n"
     "    if (((const volatile uint8_t *)a.q.all)[-1] == 1) return;"),
    ("queue", "a sum that nobody asked for is one of the launch before", "cuda/tile_sums.cuh",
     "    if (!needs.unscaled) to->sum_one = 0.0f;\n", ""),
    ("queue", "a sum that was begun keeps its job", "cuda/decide.cuh",
     "        give_slot(a->slot);\n    }", "    }"),
    ("queue", "a sum that was begun stays open", "cuda/decide.cuh",
     "        if (rest > 0) atomicSub(&scratch.q.all->open, 1);\n", ""),
    ("queue", "a reduction is skipped", "cuda/device.cuh", "for (int half = WARPS / 2; half > 0;",
     "for (int half = WARPS / 2; half > 1;"),
    ("queue", "lane 0 only", "cuda/device.cuh", "value = warp_sum_of_block(s->lane[0]);",
     "value = s->lane[0][0];"),
    ("queue", "a sum is read before it is there", "cuda/device.cuh",
     "    __syncthreads(); /* s may be written again only", "    /* s may be written again only"),
    ("queue", "a lane for its neighbour", "cuda/tile_sums.cuh", "(upper_of(word[k]) - max)",
     "(lower_of(word[k]) - max)"),
    ("queue", "tiles are read before they are there", "cuda/stage.cuh",
     "fiber_wait_copies(LATER);", "fiber_wait_copies(LATER + 1);"),
    ("queue", "the first tile only", "cuda/decide.cuh", "for (int32_t i = 0; i < tiles; i++) sum +=",
     "for (int32_t i = 0; i < 1; i++) sum +="),
    ("queue", "streams share their numbers", "rules/rng.h", "| (uint32_t)stream << 28", ""),
    ("queue", "no salt", "rules/rng.h", "counter.word[3] = key.salt;", "counter.word[3] = 0;"),
    ("queue", "the residual subtracts nothing", "rules/block.h",
     "return spc_positive(weight * target - drafter);", "return spc_positive(weight * target);"),
    ("queue", "eta is dropped", "rules/round_body.h", "t->eta = fold(pair, SPC_SUM_OUTSIDE, 0);",
     "t->eta = 0;"),
    ("queue", "the bonus is the verifier's", "rules/round_body.h",
     "bool from_verifier =\n", "bool from_verifier = true ||\n"),
    ("queue", "a level too few", "rules/truncate.h", "return s->low == s->high;",
     "return s->high - s->low < 300u;"),
    ("queue", "mass loses its carry", "cuda/cut_tiles.cuh", "+ (before + low < before ? 1u : 0u)", ""),
    ("queue", "drafts have the logits of the first", "cuda/decide.cuh", "scratch.draft_logits[r];",
     "scratch.draft_logits[0];"),
    ("queue", "coins tossed side by side are turned over", "cuda/decide.cuh",
     "            kept = keeps(", "            kept = !keeps("),

    ("statistics", "a reduction is skipped", "rules/row.h",
     "half = SPC_LANES / 2; half > 0;", "half = SPC_LANES / 2; half > 1;"),
    ("statistics", "lane 0 only", "rules/row.h", "half = SPC_LANES / 2; half > 0;",
     "half = 0; half > 0;"),
    ("statistics", "the first tile only", "host/verify/verify.c",
     "t < spc_tile_count(vocab); t++) {\n        spc_partial part",
     "t < 1; t++) {\n        spc_partial part"),
    ("statistics", "tiles keep their own maximum", "rules/row.h", "float y = tile.max - max;",
     "float y = 0;"),
    ("law", "eta is dropped", "rules/round_body.h", "t->eta = fold(pair, SPC_SUM_OUTSIDE, 0);",
     "t->eta = 0;"),
    ("draw", "the residual's first tile only", "host/verify/verify.c",
     "t < spc_tile_count(pair->round->vocab); t++) {\n        spc_tile_summands",
     "t < 1; t++) {\n        spc_tile_summands"),
    ("draw", "streams share their numbers", "rules/rng.h", "| (uint32_t)stream << 28", ""),
    ("salt", "no salt", "rules/rng.h", "counter.word[3] = key.salt;", "counter.word[3] = 0;"),
    ("draw", "the residual subtracts nothing", "rules/block.h",
     "return spc_positive(weight * target - drafter);", "return spc_positive(weight * target);"),
    ("draw", "the bonus is the verifier's", "rules/round_body.h",
     "bool from_verifier =\n", "bool from_verifier = true ||\n"),
    ("draw", "a residual is drawn with the draft's numbers", "rules/round_body.h",
     "draw_fold(pair, what, x, key, SPC_STREAM_RESIDUAL)",
     "draw_fold(pair, what, x, key, SPC_STREAM_DRAFT)"),

    ("slices", "each rank's first tile only", "rules/shard_body.h",
     "t < tiles_of(a, rank); t++) sum +=", "t < 1; t++) sum +="),
    ("slices", "rows of rank 0 only", "rules/shard_body.h",
     "rank < a->world; rank++) {\n        const uint32_t *word = answer_of(a, rank) + row + SPC",
     "rank < 1; rank++) {\n        const uint32_t *word = answer_of(a, rank) + row + SPC"),
    ("slices", "ranks are added from right to left", "rules/shard_body.h",
     "const uint32_t *word = answer_of(a, rank);\n\n        for (int32_t t = 0; t < tiles_of(a, rank)",
     "const uint32_t *word = answer_of(a, a->world - 1 - rank);\n\n"
     "        for (int32_t t = 0; t < tiles_of(a, a->world - 1 - rank)"),
    ("slices", "the last of the winners", "rules/shard_body.h",
     "if (time < (best ? spc_bits_float(best[0]) : SPC_INFINITY)) best",
     "if (time < SPC_INFINITY) best"),
    ("slices", "a token on the edge is its neighbour's", "rules/shard_body.h",
     "token >= spc_cut_first(&a->cuts, rank + 1)", "token > spc_cut_first(&a->cuts, rank + 1)"),
    ("slices", "counts of rank 0 only", "rules/shard_body.h",
     "rank < a->world; rank++) {\n        const uint32_t *word = answer_of(a, rank) + 2 * i;",
     "rank < 1; rank++) {\n        const uint32_t *word = answer_of(a, rank) + 2 * i;"),
    ("slices", "what is above a bin is forgotten", "rules/shard_body.h", "        c.above += here;\n",
     ""),
    ("slices", "what became a target stays in the log", "rules/shard_body.h",
     "    drop_words(r, r->start[part]);\n", ""),
    ("slices", "a row that was cut counts as whole", "rules/shard_body.h",
     "stats.bad || !needs.restricts ? SPC_ROW_FINAL : SPC_ROW_MERGED", "SPC_ROW_FINAL"),
    ("slices", "drafts have the logits of rank 0", "rules/shard_body.h",
     "answer_of(a, owner_of(a, round->draft[row]))", "answer_of(a, 0)"),
    ("slices", "answers lie upon each other", "host/verify/shard.c", "r.state->at = at;",
     "r.state->at = 0;"),
    ("slices", "the first tile of a slice races alone", "host/verify/shard.c",
     "t < a->tiles; t++) {\n        uint32_t word =", "t < 1; t++) {\n        uint32_t word ="),
    ("slices", "a race has the numbers of tile 0", "host/verify/shard.c",
     "(spc_stream_id)a->ask->stream, a->first + t);\n        float arrives",
     "(spc_stream_id)a->ask->stream, t);\n        float arrives"),
    ("slices", "nobody sends more", "host/verify/shard.c", "+= 4 * (int64_t)asked_words(r, round);",
     "+= 0 * (int64_t)asked_words(r, round);"),
    ("traffic", "the drafter's rows are always asked for", "rules/shard_body.h",
     "if (!round->stats) q.drafter_rows", "q.drafter_rows"),
    ("traffic", "a token drawn brings its tiles along", "rules/shard.h",
     "default: return SPC_WINNER_WORDS;", "default: return SPC_WINNER_WORDS + (tiles + 1) / 2 * 2;"),

    ("kernels of slices", "answers lie upon each other", "cuda/shard.cu",
     "at += scratch.words[i];", "at += 0;"),
    ("kernels of slices", "counts begin with what was there", "cuda/shard.cu",
     "if (!begins_empty(state->ask.kind)", "if (true || !begins_empty(state->ask.kind)"),
    ("kernels of slices", "the first tile of a slice races alone", "cuda/shard.cu",
     "scratch.first, scratch.tiles, scratch.ask.key", "scratch.first, 1, scratch.ask.key"),
    ("kernels of slices", "the maximum is where it may", "cuda/shard.cu",
     "if (threadIdx.x == 0 && best != 0xffffffffull) word[0] = (uint32_t)best;", ""),
    ("kernels of slices", "lane 0 only", "cuda/device.cuh",
     "value = warp_sum_of_block(s->lane[0]);", "value = s->lane[0][0];"),
    ("kernels of slices", "both sums are one", "cuda/shard.cu",
     "fold_sum(i == 0 ? what : SPC_SUM_ABOVE_VERIFIER, t)", "fold_sum(what, t)"),
]


def build(source, work, compilers, objects, mutant):
    suite, _, name, old, new = mutant
    sources, test, _ = SUITES[suite]
    tree = work / "tree"
    shutil.rmtree(work, ignore_errors=True)
    for folder in ("cuda", "host", "rules", "tests/fibers"):
        shutil.copytree(source / folder, tree / folder, symlinks=True)
    text = (tree / name).read_text()
    if old not in text:
        sys.exit(f"mutants.py: {name}: expected {old!r}, found nothing like it")
    if old:
        (tree / name).write_text(text.replace(old, new, 1))
    built = []
    for path in sources:
        own = (["-DSPC_HAS_CUDA", f"-I{tree}/tests/fibers", "-std=c++17"] if path.endswith(".cpp")
               else ["-D_GNU_SOURCE", "-std=c11"])
        if suite.startswith("races"):
            own += ["-fsanitize=thread", "--param", "tsan-distinguish-volatile=1"]
        built.append(str(work / path.replace("/", "_")) + ".o")
        subprocess.run([compilers[path.endswith(".cpp")], *own, f"-I{tree}", f"-I{tree}/host/include",
                        "-O1", "-ffp-contract=off", "-w", "-c", str(tree / path), "-o", built[-1]],
                       check=True)
    own = [o for o in objects if o.endswith(f"/test_{test}.c.o")]
    others = [o for o in objects if not o.endswith(".c.o")]
    if len(own) != 1:
        sys.exit(f"mutants.py: expected one test_{test}.c.o, found {len(own)}")
    subprocess.run([compilers[1], *built, *own, *others, "-o", str(work / "test")], check=True)


def passes(work, suite):
    try:
        return subprocess.run([str(work / "test"), "--filter", SUITES[suite][2]],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                              timeout=SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def main(arguments):
    only = ""
    if "--only" in arguments:
        at = arguments.index("--only")
        only = arguments[at + 1]
        arguments = arguments[:at] + arguments[at + 2:]
    races = "--races" in arguments
    arguments = [a for a in arguments if a != "--races"]
    source, work = pathlib.Path(arguments[0]), pathlib.Path(arguments[1])
    mutants = [(m, True) for m in MUST_PASS] + [(m, False) for m in MUST_FAIL]
    mutants = [(m, wanted) for m, wanted in mutants if only in f"{m[0]}: {m[1]}"
               and (races or not m[0].startswith("races"))]

    def judge(number):
        mutant, wanted = mutants[number]
        folder = work / str(number)
        build(source, folder, arguments[2:4], arguments[4:], mutant)
        good = passes(folder, mutant[0]) == wanted
        shutil.rmtree(folder)
        print(f"{'ok   ' if good else 'WRONG'} {mutant[0]}: {mutant[1]}: "
              f"must {'pass' if wanted else 'fail'}", flush=True)
        return good

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(judge, range(len(mutants))))
    sys.exit(not results or not all(results))


if __name__ == "__main__":
    main(sys.argv[1:])
