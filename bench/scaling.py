#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""scaling.py - what a round should cost on 1 to 64 GPUs, from figures given on the command line.

    scaling.py --shape llama-70b --memory-gbs 3350 --nvlink-us 8 --nvlink-gbs 400 --ib-us 20 --ib-gbs 45
    scaling.py --check ranks.jsonl      # of bench_ranks

PREDICTIONS, NOT MEASUREMENTS: nothing here has been run on several GPUs.  The model is as simple as
it can be and optimistic: a forward reads the rank's share of the weights at the memory's rate, keys
and values are not counted, and nothing overlaps.

    forward(G) = share of weights / memory rate + sums * sum(G)
    sum(G)     = latency + 2 (n - 1) / n * bytes / bandwidth, within a machine of n ranks over NVLink,
                 and the same between machines over InfiniBand, where there are several
    bytes      = batch * (gamma + 1) * hidden * 2          sums = 2 * layers + 1
    verify(G)  = two exchanges of tiles' sums, strict with drafter statistics (rules/shard.h); one is
                 latency + (n - 1) * bytes of a rank / bandwidth
    round      = gamma * drafter + forward + verify        tokens = (1 - a^(gamma + 1)) / (1 - a)

--check sets the same sum against measured CPU ranks: the forward of one rank divided by the ranks
that have a core, plus the measured time of the sums.
"""
import argparse
import json
import sys

# layers, hidden, heads of keys and values, head size, feed-forward columns, vocabulary, tied head
SHAPES = {
    "llama-1b": (16, 2048, 32, 8, 64, 8192, 128256, True),
    "llama-8b": (32, 4096, 32, 8, 128, 14336, 128256, False),
    "llama-70b": (80, 8192, 64, 8, 128, 28672, 128256, False),
    "llama-405b": (126, 16384, 128, 8, 128, 53248, 128256, False),
    "qwen-7b": (28, 3584, 28, 4, 128, 18944, 152064, False),
    "qwen-72b": (80, 8192, 64, 8, 128, 29568, 152064, False),
    "gemma-9b": (42, 3584, 16, 8, 256, 14336, 256000, True),
}
GPUS = (1, 2, 4, 8, 16, 32, 64)


def fits(shape, ranks):
    """Can the shape be cut for so many, as host/plan/split.c does it?"""
    _, _, heads, kv, _, ffn, _, _ = SHAPES[shape]
    return heads % ranks == 0 and ffn % ranks == 0 and (kv % ranks == 0 or ranks % kv == 0)


def weights_of_rank(shape, ranks):
    """Weights that a decoded row reads on one rank; keys and values are held by neighbours where
    there are fewer heads of them than ranks, the embedding is read by one row only."""
    layers, hidden, heads, kv, head, ffn, vocab, _ = SHAPES[shape]
    own_kv = max(kv / ranks, 1)
    layer = 2 * hidden * heads * head / ranks + 2 * hidden * own_kv * head + 3 * hidden * ffn / ranks
    return layers * layer + vocab * hidden / ranks


def sum_seconds(ranks, size, links):
    """One all-reduce of `size` bytes."""
    inside, machines = min(ranks, links.gpus_per_machine), -(-ranks // links.gpus_per_machine)
    seconds = 0.0
    if inside > 1:
        seconds += links.nvlink_us * 1e-6 + 2 * (inside - 1) / inside * size / (links.nvlink_gbs * 1e9)
    if machines > 1:
        seconds += links.ib_us * 1e-6 + 2 * (machines - 1) / machines * size / (links.ib_gbs * 1e9)
    return seconds


def sent_bytes(shape, ranks, gamma):
    """What a rank sends of a sequence in the two steps of a round: rows of a maximum and a sum for
    each tile of 4096 tokens, then a token, with room for a row."""
    tiles = -(-(-(-SHAPES[shape][6] // 4096)) // ranks)
    row = 4 * (3 + 2 * tiles)
    return [-(-size // 8) * 8 for size in ((gamma + 1) * row, row)]


def gather_seconds(ranks, size, links):
    """One all-gather, to which each rank gives `size` bytes."""
    inside, machines = min(ranks, links.gpus_per_machine), -(-ranks // links.gpus_per_machine)
    seconds = 0.0
    if inside > 1:
        seconds += links.nvlink_us * 1e-6 + (inside - 1) * size / (links.nvlink_gbs * 1e9)
    if machines > 1:
        seconds += links.ib_us * 1e-6 + (machines - 1) * inside * size / (links.ib_gbs * 1e9)
    return seconds


def predict(shape, ranks, o):
    """Milliseconds of a forward, the share of it in sums, milliseconds of verification's exchanges,
    and tokens a second of all sequences."""
    layers, hidden = SHAPES[shape][:2]
    size = o.batch * (o.gamma + 1) * hidden * 2
    sums = (2 * layers + 1) * sum_seconds(ranks, size, o) if ranks > 1 else 0.0
    forward = weights_of_rank(shape, ranks) * o.bits / 8 / (o.memory_gbs * 1e9) + sums
    tokens = o.gamma + 1 if o.accept == 1 else (1 - o.accept ** (o.gamma + 1)) / (1 - o.accept)
    verify = sum(gather_seconds(ranks, o.batch * size, o) for size in sent_bytes(shape, ranks, o.gamma))
    seconds = o.gamma * o.drafter_ms * 1e-3 + forward + verify
    return forward * 1e3, sums / forward, verify * 1e3, o.batch * tokens / seconds


def table(o, out):
    print(f"PREDICTED, not measured: {o.shape}, {o.bits} bits a weight, batch {o.batch}, gamma {o.gamma}, "
          f"{o.accept:g} of drafts accepted, drafter {o.drafter_ms:g} ms a token", file=out)
    print(f"from: memory {o.memory_gbs:g} GB/s; NVLink {o.nvlink_us:g} us, {o.nvlink_gbs:g} GB/s; "
          f"InfiniBand {o.ib_us:g} us, {o.ib_gbs:g} GB/s; {o.gpus_per_machine} GPUs a machine", file=out)
    print(f"{'GPUs':>4} {'GiB/GPU':>8} {'forward ms':>11} {'in sums':>8} {'verify ms':>10} {'tokens/s':>9}", file=out)
    for ranks in GPUS:
        if not fits(o.shape, ranks):
            print(f"{ranks:>4} cannot be sharded over so many", file=out)
            continue
        forward, share, verify, rate = predict(o.shape, ranks, o)
        size = weights_of_rank(o.shape, ranks) * o.bits / 8 / 2**30
        print(f"{ranks:>4} {size:>8.1f} {forward:>11.2f} {share:>8.1%} {verify:>10.3f} {rate:>9.0f}", file=out)


def check(path, out):
    """Measured CPU ranks against the model; False: there is nothing to compare."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line for line in map(json.loads, file) if line.get("bench") == "ranks"]
    except OSError as why:
        sys.exit(f"scaling.py: {path}: {why.strerror}")
    except (AttributeError, ValueError):
        sys.exit(f"scaling.py: {path}: expected lines of JSON, each an object, as bench_ranks writes them")
    alone = {(line["model"], line["rows"]): line for line in lines if line["ranks"] == 1}
    print(f"{'way':<10} {'ranks':>5} {'rows':>4} {'measured ms':>11} {'model ms':>9} {'ratio':>6} {'in sums':>8}",
          file=out)
    compared = 0
    for line in lines:
        one = alone.get((line["model"], line["rows"]))
        if line["ranks"] == 1 or not one:
            continue
        model = one["forward_ms"] / min(line["ranks"], line["cores"]) + line["all_reduce_ms"]
        compared += 1
        print(f"{line['way']:<10} {line['ranks']:>5} {line['rows']:>4} {line['forward_ms']:>11.3f} {model:>9.3f} "
              f"{line['forward_ms'] / model:>6.2f} {line['all_reduce_share']:>8.1%}", file=out)
    return compared > 0


def parse(arguments):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--check", metavar="FILE", help="compare the lines of bench_ranks with the model")
    p.add_argument("--shape", choices=sorted(SHAPES))
    for name, text in (("memory-gbs", "rate at which a GPU reads its memory"),
                       ("nvlink-us", "latency of a small all-reduce within a machine"),
                       ("nvlink-gbs", "bandwidth of a large one, per GPU"),
                       ("ib-us", "the same between machines"), ("ib-gbs", "the same between machines")):
        p.add_argument("--" + name, type=float, metavar="X", help=text)
    p.add_argument("--gpus-per-machine", type=int, default=8, metavar="N")
    p.add_argument("--bits", type=float, default=16, help="of a weight (default 16)")
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--gamma", type=int, default=5)
    p.add_argument("--accept", type=float, default=0.8, help="chance that a draft is accepted (default 0.8)")
    p.add_argument("--drafter-ms", type=float, default=1.0, help="per drafted token (default 1)")
    o = p.parse_args(arguments)
    if o.check:
        return o
    figures = (o.memory_gbs, o.nvlink_us, o.nvlink_gbs, o.ib_us, o.ib_gbs)
    if not o.shape or None in figures:
        p.error("expected --check FILE, or --shape with --memory-gbs, --nvlink-us, --nvlink-gbs, --ib-us, --ib-gbs")
    if min(figures) <= 0 or o.gpus_per_machine < 1 or o.batch < 1 or o.gamma < 0 or not 0 <= o.accept <= 1:
        p.error("expected figures above 0, and --accept of 0 to 1")
    return o


def main(arguments, out=sys.stdout):
    o = parse(arguments)
    if not o.check:
        table(o, out)
        return 0
    if check(o.check, out):
        return 0
    print(f"scaling.py: {o.check}: no lines of bench_ranks with one rank and with several", file=sys.stderr)
    return 6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
