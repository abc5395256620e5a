#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""BLEU and verifier calls of `spc run` on a translation test set, one JSON line per method.

Needs sacrebleu (pip install sacrebleu) and a file of `language <tab> English <tab> translation`
lines, language being de, es or fr, such as a Tatoeba test split.  Rows 0, N, 2N, ... are used.

    bench/bleu.py --spc build/bench/spc --tsv test.tsv --every 3 --rows 1200
"""
import argparse
import json
import subprocess
import sys

try:
    import sacrebleu
except ImportError:
    sacrebleu = None

# What is run: rule, temperature.  Verifier and drafter alone are the fair ends of the scale.
METHODS = [
    ("verifier-only", 0), ("drafter-only", 0), ("strict", 0), ("token-v3:alpha=0.5", 0),
    ("verifier-only", 1), ("drafter-only", 1), ("strict", 1), ("token-v3:alpha=0.5", 1),
    ("token-v2:alpha=0.5", 1), ("opt:alpha=0", 1),
]


def translate(spc, rows, rule, temperature, gamma, max_tokens):
    """All rows through `spc run`: their texts in order, and the counters of each."""
    texts, counters = [None] * len(rows), []
    for language in sorted({row[0] for row in rows}):
        prompts = "\n".join(json.dumps({"prompt": row[1], "id": i})
                            for i, row in enumerate(rows) if row[0] == language)
        command = [spc, "run", "--to", language, "--input", "-", "--json", "--quiet",
                   "--rule", rule, "--temperature", str(temperature), "--gamma", str(gamma),
                   "--max-tokens", str(max_tokens), "--batch", "8"]
        out = subprocess.run(command, input=prompts, text=True, check=True, stdout=subprocess.PIPE)
        for line in out.stdout.splitlines():
            result = json.loads(line)
            texts[result["id"]] = result["text"]
            counters.append(result)
    return texts, counters


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spc", required=True, help="the program")
    parser.add_argument("--tsv", required=True, help="test set")
    parser.add_argument("--every", type=int, default=1, help="take every N-th row (default 1)")
    parser.add_argument("--rows", type=int, help="at most so many rows")
    parser.add_argument("--gamma", type=int, default=5, help="draft length (default 5)")
    parser.add_argument("--max-tokens", type=int, default=48, help="per sentence (default 48)")
    args = parser.parse_args()

    if not sacrebleu:
        sys.exit("bleu.py: sacrebleu is not installed (pip install sacrebleu)")
    with open(args.tsv, encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines][::args.every][:args.rows]
    references = [[row[2] for row in rows]]
    for rule, temperature in METHODS:
        texts, counters = translate(args.spc, rows, rule, temperature, args.gamma, args.max_tokens)
        tokens = sum(c["tokens"] for c in counters)
        calls = sum(c["verifier_calls"] for c in counters)
        print(json.dumps({
            "bench": "bleu", "rule": rule, "temperature": temperature, "gamma": args.gamma,
            "rows": len(rows), "bleu": round(sacrebleu.corpus_bleu(texts, references).score, 2),
            "verifier_calls_per_token": round(calls / tokens, 4), "tokens": tokens,
            "sacrebleu": sacrebleu.__version__}), flush=True)


if __name__ == "__main__":
    main()
