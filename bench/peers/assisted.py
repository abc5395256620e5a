#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plain and assisted greedy decoding by spc and transformers on the same checkpoints, interleaved.

    bench/peers/assisted.py SPC VERIFIER DRAFTER [--device cpu|cuda] [--tokens N] [--gamma N] ...

VERIFIER and DRAFTER are folders of Hugging Face checkpoints, or GGUF files (which transformers
converts to --dtype, and spc keeps as they are).  Prompts are ids, the same for both: those of the
verifier's tokenizer for eight short texts, or for the lines of --prompts, each a JSON string
(edits.jsonl beside this script: texts to be repeated with changes); synthetic ones with --ids where
there is none.  Assisted: transformers drafts
--gamma tokens per round without a schedule or a threshold, spc runs the rule strict with as many.

The time is that of decoding, prompt included and loading excluded: of generate() in transformers, of
steps in spc.  JSON lines: tokens per second (median over repeats, with least and most), tokens per
verifier call, the speedup over the same engine's plain decoding, and on how many prompts the ids
equal those of plain transformers.

With --alone only spc runs, nothing else need be installed, --gamma may be auto, and DRAFTER may be
ngram (spc run --help); ids are then compared with those of spc's own plain decoding.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

PROMPTS = ["The capital of France is", "Once upon a time, there was a", "def fibonacci(n):",
           "The three primary colours are", "Water boils at", "import numpy as np\n",
           "In 1969, the first man", "A recipe for bread:"]


def draft_length(text):
    if text == "auto":
        return text
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, or auto, found {text}")
    return int(text)


def texts(name):
    try:
        found = [json.loads(line) for line in pathlib.Path(name).read_text("utf-8").splitlines()]
    except (OSError, ValueError) as why:
        raise argparse.ArgumentTypeError(f"{name}: {why}") from why
    if not found or not all(isinstance(text, str) for text in found):
        raise argparse.ArgumentTypeError(f"{name}: expected lines of JSON strings")
    return found


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spc", help="the program")
    parser.add_argument("verifier")
    parser.add_argument("drafter")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
                        help="of the models in transformers")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--gamma", type=draft_length, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--context", type=int, default=0, help="context of spc; 0: what the models allow")
    parser.add_argument("--ids", metavar="COUNT", type=int, default=0,
                        help="synthetic prompts of COUNT ids in place of text")
    parser.add_argument("--prompts", type=texts, default=PROMPTS, metavar="FILE",
                        help="lines of JSON strings, in place of eight short texts")
    parser.add_argument("--drafter-vocab", metavar="N|FILE",
                        help="also run spc with a drafter that drafts these tokens only")
    parser.add_argument("--alone", action="store_true", help="run spc only")
    args = parser.parse_args()
    if args.gamma == "auto" and not args.alone:
        parser.error("--gamma auto: transformers has no such thing: with --alone only")
    if args.ids and args.prompts is not PROMPTS:
        parser.error("--ids: prompts are ids or those of --prompts: give one of them")
    for name, least in (("threads", 1), ("tokens", 2), ("repeats", 1), ("ids", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name}: expected {least} or more, found {getattr(args, name)}")
    return args


def fail(text):
    sys.exit(f"assisted.py: {text}")


def source(path):
    """How from_pretrained is told of a folder, or of a GGUF file."""
    path = pathlib.Path(path)
    if path.is_file():
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return {"pretrained_model_name_or_path": str(path)}


def prompts_of(transformers, args, vocab):
    """Lists of ids."""
    if args.ids:
        return [[(37 * k + 11 * i) % (vocab - 16) + 16 for i in range(args.ids)] for k in range(8)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source(args.verifier))
    return [tokenizer(text)["input_ids"] for text in args.prompts]


class Transformers:
    """Both models, and how often the verifier has run."""

    def __init__(self, torch, transformers, args):
        def model(path):
            try:
                return transformers.AutoModelForCausalLM.from_pretrained(
                    **source(path), dtype=getattr(torch, args.dtype)).to(args.device).eval()
            except (ImportError, OSError, ValueError) as why:  # GGUF needs more packages
                fail(f"{path}: transformers cannot load it: {str(why).splitlines()[0]}")
        self.torch, self.args, self.calls = torch, args, 0
        self.verifier, self.drafter = model(args.verifier), model(args.drafter)
        self.verifier.register_forward_pre_hook(self.count)
        config = self.drafter.generation_config
        config.num_assistant_tokens = args.gamma
        config.num_assistant_tokens_schedule = "constant"
        config.assistant_confidence_threshold = 0.0

    def count(self, *_):
        self.calls += 1

    def run(self, prompts, assisted):
        """Ids of every prompt, seconds, calls of the verifier."""
        ids, self.calls = [], 0
        begin = time.monotonic()
        for prompt in prompts:
            given = self.torch.tensor([prompt], device=self.args.device)
            out = self.verifier.generate(
                given, attention_mask=self.torch.ones_like(given), do_sample=False,
                max_new_tokens=self.args.tokens, assistant_model=self.drafter if assisted else None)
            ids.append(out[0, len(prompt):].tolist())  # which waits for the device
        return ids, time.monotonic() - begin, self.calls


def spc_lines(text):
    """Ids, seconds and calls from the lines of `spc run --json`."""
    lines = [json.loads(line) for line in text.splitlines()]
    seconds = sum(l["drafter_ms"] + l["verifier_ms"] + l["other_ms"] for l in lines) / 1e3
    calls = sum(l["verifier_calls"] for l in lines)
    return [l["ids"] for l in lines], seconds, calls


def run_spc(args, prompts, assisted, drafter_vocab=None):
    command = [args.spc, "run", "--quiet", "--json", "--input", "-", "--temperature", "0",
               "--verifier", args.verifier, "--drafter", args.drafter if assisted else "none",
               "--rule", "strict" if assisted else "verifier-only", "--gamma", str(args.gamma),
               "--max-tokens", str(args.tokens), "--context", str(args.context), "--device",
               args.device]
    if drafter_vocab:
        command += ["--drafter-vocab", drafter_vocab]
    if args.device == "cpu":  # a GPU has none, and spc says so
        command += ["--threads", str(args.threads)]
    given = "".join(json.dumps({"prompt" if isinstance(prompt, str) else "ids": prompt}) + "\n"
                    for prompt in prompts)
    ran = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if ran.returncode:
        fail(ran.stderr.strip())
    return spc_lines(ran.stdout)


def line_of(engine, assisted, runs, plain, reference):
    """What is told of one engine in one mode; runs: (ids, seconds, calls) of each repeat."""
    tokens = sum(len(ids) for ids in runs[0][0])
    rates = [tokens / seconds for _, seconds, _ in runs]
    rate = statistics.median(rates)
    return {"engine": engine, "mode": "assisted" if assisted else "plain",
            "prompts": len(reference), "tokens": tokens, "tokens_per_s": round(rate, 2),
            "least": round(min(rates), 2), "most": round(max(rates), 2),
            "tokens_per_verifier_call": round(tokens / runs[0][2], 3),
            "speedup_over_plain": round(rate / plain, 3) if plain else 1.0,
            "ids_as_plain": sum(a == b for a, b in zip(runs[0][0], reference))}


def commit():
    """Of the sources this script lies in; "" outside of a repository."""
    ran = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                         check=False, cwd=pathlib.Path(__file__).parent)
    return ran.stdout.strip()


def peer_of(args):
    """Transformers with both models, prompts as ids, and what lines say of versions."""
    try:
        import torch
        import transformers
    except ImportError as missing:
        fail(f"{missing.name} is not installed: nothing to compare with (--alone: spc by itself)")
    if args.device == "cuda" and not torch.cuda.is_available():
        fail("--device cuda: torch finds no GPU")
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    peer = Transformers(torch, transformers, args)
    prompts = prompts_of(transformers, args, peer.verifier.config.vocab_size)
    return peer, prompts, {"torch": torch.__version__, "transformers": transformers.__version__}


def main():
    args = arguments()
    engines, versions = {}, {}
    prompts = prompts_of(None, args, 256) if args.ids else args.prompts
    if not args.alone:
        peer, prompts, versions = peer_of(args)
        engines["transformers"] = peer.run
    engines["spc"] = lambda given, assisted: run_spc(args, given, assisted)
    runs = {}
    for _ in range(args.repeats):
        for assisted in (False, True):
            for engine, run in engines.items():
                runs.setdefault((engine, assisted, None), []).append(run(prompts, assisted))
        if args.drafter_vocab:
            runs.setdefault(("spc", True, args.drafter_vocab), []).append(
                run_spc(args, prompts, True, args.drafter_vocab))
    reference = runs[next(iter(engines)), False, None][0][0]
    plain = {}
    for (engine, assisted, drafter_vocab), done in runs.items():
        line = line_of(engine, assisted, done, plain.get(engine), reference)
        plain.setdefault(engine, line["tokens_per_s"])
        if drafter_vocab:
            line["drafter_vocab"] = os.path.basename(drafter_vocab)
        print(json.dumps({
            "bench": "assisted", **line, "verifier": os.path.basename(args.verifier.rstrip("/")),
            "drafter": os.path.basename(args.drafter.rstrip("/")), "gamma": args.gamma,
            "device": args.device, "threads": args.threads, "repeats": args.repeats,
            "dtype": args.dtype if engine == "transformers" else "as in the files",
            "commit": commit(), **versions}))


if __name__ == "__main__":
    main()
