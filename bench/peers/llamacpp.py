#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plain decoding by spc and by llama.cpp (its Python package) on one GGUF file, interleaved.

    bench/peers/llamacpp.py SPC MODEL.gguf [--threads N] [--tokens N] [--repeats N]

Ten short prompts, greedy, one token at a time.  For both, the time counted is that of --tokens
tokens less that of one, which leaves out loading and prompts.  JSON lines: tokens per second of wall
clock and of CPU time (the better measure on a shared machine), medians over repeats.
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


def both(function):
    """What it returns; seconds of the clock, and of the processor, children included."""
    def spent():
        own, children = (resource.getrusage(who) for who in
                         (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(u.ru_utime + u.ru_stime for u in (own, children))
    clock, processor = time.monotonic(), spent()
    tokens = function()
    return tokens, time.monotonic() - clock, spent() - processor


def spc(args, prompts, tokens):
    command = [args.spc, "run", "--verifier", args.model, "--drafter", args.model, "--rule",
               "verifier-only", "--temperature", "0", "--max-tokens", str(tokens), "--threads",
               str(args.threads), "--input", prompts]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"llamacpp.py: {ran.stderr.strip()}")
    return int(re.search(r": (\d+) tokens,", ran.stderr).group(1))  # a stop token may end a reply


def llama(model, tokens):
    for prompt in PROMPTS:
        model.reset()
        model.eval(model.tokenize(prompt.encode(), add_bos=False))
        for _ in range(tokens - 1):
            model.eval([model.sample(temp=0.0, top_k=1, repeat_penalty=1.0)])
    return tokens * len(PROMPTS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spc")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if args.threads < 1 or args.tokens < 2 or args.repeats < 1:
        parser.error("expected --threads >= 1, --tokens >= 2, --repeats >= 1")
    try:
        import llama_cpp
    except ImportError:
        sys.exit("llamacpp.py: the package llama-cpp-python is not installed: nothing to compare with")
    peer = llama_cpp.Llama(args.model, n_ctx=512, n_threads=args.threads,
                           n_threads_batch=args.threads, verbose=False)
    rates = {"spc": [], "llama.cpp": []}
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as prompts:
        prompts.writelines(json.dumps({"prompt": text}) + "\n" for text in PROMPTS)
        prompts.flush()
        for _ in range(args.repeats):
            for name, run in (("spc", lambda n: spc(args, prompts.name, n)),
                              ("llama.cpp", lambda n: llama(peer, n))):
                one, many = both(lambda: run(1)), both(lambda: run(args.tokens))
                rates[name].append([(many[0] - one[0]) / (many[i] - one[i]) for i in (1, 2)])
    for name, pairs in rates.items():
        print(json.dumps({
            "bench": "llama_cpp", "engine": name, "model": os.path.basename(args.model),
            "threads": args.threads, "repeats": args.repeats,
            "version": llama_cpp.__version__ if name == "llama.cpp" else "",
            "tokens_per_s": round(statistics.median(p[0] for p in pairs), 1),
            "tokens_per_cpu_s": round(statistics.median(p[1] for p in pairs), 1),
            "least": round(min(p[1] for p in pairs), 1),
            "most": round(max(p[1] for p in pairs), 1)}))


if __name__ == "__main__":
    main()
