#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prompts that begin alike, decoded together, with and without sharing what they begin with.

    bench/prefix.py SPC VERIFIER DRAFTER [--common N] [--own N] [--batch N] [--tokens N] ...

A batch of prompts of ids: --common of them the same in all, then --own others.  Each is decoded
greedily to --tokens tokens by `spc run`, with shared prefixes and with --no-prefix-reuse, in turns.
JSON lines: seconds of all steps together, loading excluded (median over repeats, with least and
most) and as a share of the unshared time, how many prompt tokens were taken over, and on how many
prompts the ids agree.  The limit of that share, were decoding free: the common tokens once and all
others, of the tokens of all prompts.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spc", help="the program")
    parser.add_argument("verifier")
    parser.add_argument("drafter")
    parser.add_argument("--common", type=int, default=1024, help="ids that all prompts begin with")
    parser.add_argument("--own", type=int, default=16, help="ids behind them")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16, help="decoded for each prompt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    for name, least in (("common", 1), ("own", 1), ("batch", 2), ("tokens", 1), ("threads", 1),
                        ("repeats", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name}: expected {least} or more, found {getattr(args, name)}")
    return args


def prompts_of(args):
    """Lists of ids of 16 to 255, which every model has."""
    common = [16 + (11 * i + i * i % 7) % 240 for i in range(args.common)]
    return [common + [16 + (37 * (k + 1) + 13 * i) % 240 for i in range(args.own)]
            for k in range(args.batch)]


def run(args, prompts, shared):
    """Ids, seconds and tokens taken over."""
    command = [args.spc, "run", "--quiet", "--json", "--device", "cpu", "--input", "-",
               "--verifier", args.verifier, "--drafter", args.drafter, "--temperature", "0",
               "--ignore-stop", "--max-tokens", str(args.tokens), "--batch", str(args.batch),
               "--context", str(args.common + args.own + args.tokens + 32),
               "--threads", str(args.threads)] + ([] if shared else ["--no-prefix-reuse"])
    given = "".join(json.dumps({"ids": prompt}) + "\n" for prompt in prompts)
    try:
        ran = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except OSError as why:
        sys.exit(f"prefix.py: {args.spc}: {why.strerror}")
    if ran.returncode:
        sys.exit(f"prefix.py: {ran.stderr.strip()}")
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    seconds = sum(l["drafter_ms"] + l["verifier_ms"] + l["other_ms"] for l in lines) / 1e3
    return [l["ids"] for l in lines], seconds, sum(l["reused_tokens"] for l in lines)


def main():
    args = arguments()
    prompts = prompts_of(args)
    runs = {False: [], True: []}
    for _ in range(args.repeats):
        for shared, done in runs.items():
            done.append(run(args, prompts, shared))
    whole = args.batch * (args.common + args.own)
    plain = statistics.median(seconds for _, seconds, _ in runs[False])
    for shared, done in runs.items():
        seconds = [one[1] for one in done]
        print(json.dumps({
            "bench": "prefix", "shared": shared, "prompts": args.batch, "common": args.common,
            "own": args.own, "tokens": args.tokens, "seconds": round(statistics.median(seconds), 3),
            "least": round(min(seconds), 3), "most": round(max(seconds), 3),
            "of_unshared": round(statistics.median(seconds) / plain, 3),
            "limit": round((args.common + args.batch * args.own) / whole, 3) if shared else 1.0,
            "reused_tokens": done[0][2],
            "ids_agree": sum(a == b for a, b in zip(done[0][0], runs[False][0][0])),
            "verifier": os.path.basename(args.verifier.rstrip("/")),
            "drafter": os.path.basename(args.drafter.rstrip("/")), "threads": args.threads,
            "repeats": args.repeats}))


if __name__ == "__main__":
    main()
