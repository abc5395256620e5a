#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prompts and plain decoding by spc and by llama.cpp (its Python package) on GGUF files,
interleaved.

    bench/peers/llamacpp.py SPC MODEL.gguf ... [--threads N] [--tokens N] [--prompt N] [--repeats N]

Decoding: ten short prompts, greedy, one token at a time; the time of --tokens tokens less that of
one.  Prompts: one of --prompt tokens, and the first token after it; the time less that of a prompt of
one token.  Both leave out loading.  JSON lines: tokens per second of wall clock and of CPU time (the
better measure on a shared machine), medians over repeats, least and most of CPU time.
"""
import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

PROMPTS = ["The capital of France is", "Once upon a time, there was a", "def fibonacci(n):",
           "The three primary colours are", "Water boils at", "import numpy as np\n",
           "In 1969, the first man", "A recipe for bread:", "The opposite of hot is",
           "Dear Sir or Madam,"]
IDS = [100 + 7919 * i % 20000 for i in range(4096)]  # what a prompt says costs nothing
CONTEXT = 256  # beside the long prompt: a short one and what is decoded


def both(function):
    """What it returns; seconds of the clock, and of the processor, children included."""
    def spent():
        own, children = (resource.getrusage(who) for who in
                         (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(u.ru_utime + u.ru_stime for u in (own, children))
    clock, processor = time.monotonic(), spent()
    tokens = function()
    return tokens, time.monotonic() - clock, spent() - processor


def spc(args, model, prompts, tokens):
    """Tokens decoded after prompts, which are texts or lists of ids."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as lines:
        for prompt in prompts:
            key = "prompt" if isinstance(prompt, str) else "ids"
            lines.write(json.dumps({key: prompt}) + "\n")
        lines.flush()
        command = [args.spc, "run", "--verifier", model, "--drafter", "none", "--temperature", "0",
                   "--max-tokens", str(tokens), "--threads", str(args.threads), "--context",
                   str(CONTEXT + args.prompt), "--input", lines.name]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"llamacpp.py: {ran.stderr.strip()}")
    return int(re.search(r": (\d+) tokens?,", ran.stderr).group(1))  # a stop token may end a reply


def llama(peer, prompts, tokens):
    for prompt in prompts:
        if isinstance(prompt, str):
            prompt = peer.tokenize(prompt.encode(), add_bos=False)
        peer.reset()
        peer.eval(prompt)
        for _ in range(tokens - 1):
            peer.eval([peer.sample(temp=0.0, top_k=1, repeat_penalty=1.0)])
    return tokens * len(prompts)


def rates(run, tokens, prompt):
    """Tokens per second of the clock and of the processor: decoding, prompt."""
    one, many = both(lambda: run(PROMPTS, 1)), both(lambda: run(PROMPTS, tokens))
    short, long = both(lambda: run([IDS[:1]], 1)), both(lambda: run([IDS[:prompt]], 1))
    return {"decode": [(many[0] - one[0]) / (many[i] - one[i]) for i in (1, 2)],
            "prompt": [(prompt - 1) / (long[i] - short[i]) for i in (1, 2)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spc")
    parser.add_argument("models", nargs="+", metavar="MODEL.gguf")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.threads < 1 or args.tokens < 2 or args.repeats < 1 or not 2 <= args.prompt <= len(IDS):
        parser.error(f"expected --threads >= 1, --tokens >= 2, --prompt 2 to {len(IDS)}, "
                     "--repeats >= 1")
    try:
        import llama_cpp
    except ImportError:
        sys.exit("llamacpp.py: the package llama-cpp-python is not installed: nothing to compare with")
    for model in args.models:
        peer = llama_cpp.Llama(model, n_ctx=CONTEXT + args.prompt, n_threads=args.threads,
                               n_threads_batch=args.threads, verbose=False)
        engines = {"spc": lambda prompts, tokens: spc(args, model, prompts, tokens),
                   "llama.cpp": lambda prompts, tokens: llama(peer, prompts, tokens)}
        measured = {name: [] for name in engines}
        for _ in range(args.repeats):
            for name, run in engines.items():
                measured[name].append(rates(run, args.tokens, args.prompt))
        for name, runs in measured.items():
            for what in ("decode", "prompt"):
                clock, processor = zip(*(r[what] for r in runs))
                print(json.dumps({
                    "bench": "llama_cpp", "engine": name, "what": what,
                    "model": os.path.basename(model), "threads": args.threads,
                    "tokens": args.tokens if what == "decode" else args.prompt,
                    "repeats": args.repeats,
                    "version": llama_cpp.__version__ if name == "llama.cpp" else "",
                    "tokens_per_s": round(statistics.median(clock), 1),
                    "tokens_per_cpu_s": round(statistics.median(processor), 1),
                    "least": round(min(processor), 1), "most": round(max(processor), 1)}), flush=True)
        del peer


if __name__ == "__main__":
    main()
