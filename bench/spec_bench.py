#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Spec-Bench (Xia et al., 2024) with spc: chats of one or two turns, decoded by several methods.

    bench/spec_bench.py SPC QUESTIONS.jsonl VERIFIER DRAFTER [--method NAME=OPTIONS]... [-- OPTIONS]

QUESTIONS.jsonl is that of github.com/hemingkx/Spec-Bench (data/spec_bench/question.jsonl): a JSON
object a line with "category" and "turns".  Each method is one `spc chat --input - --json`, which
keeps its models loaded; OPTIONS of `spc chat` are its own, those behind -- are everybody's.  The
first, always there, is the verifier alone.  All methods answer a turn one after the other, and who
begins changes from turn to turn; each goes on from its own replies.  Before that each answers a
greeting, which is not counted, so that neither loading models nor what --gamma auto measures at its
start is in the first turn.

JSON lines, for every method, of each category and of all: tokens per verifier call (which papers
call the mean number of accepted tokens), tokens per second of the prompt and the reply together, as
in Spec-Bench, the speedup over the verifier alone with its 95 % interval (bootstrap over questions),
and how many replies are the verifier's, of those whose conversation was the same until then.
--clock cpu counts seconds of the processor, the better measure on a shared machine; it is for one
thread.  What there is of a run that Ctrl-C ends is printed.
"""
import argparse
import json
import os
import pathlib
import random
import shlex
import statistics
import subprocess
import sys
import time

PLAIN = "verifier"
WARM_UP = "Hello."
METHODS = {"strict": "--rule strict", "token-v3": "--rule token-v3:alpha=0.5",
           "opt": "--rule opt:alpha=0.2", "ngram": "--drafter ngram"}
MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem",
            "humanities")  # which Spec-Bench shows as one


def method(text):
    name, is_one, options = text.partition("=")
    if not name or not is_one:
        raise argparse.ArgumentTypeError(f"expected NAME=OPTIONS, found '{text}'")
    if name == PLAIN:
        raise argparse.ArgumentTypeError(f"the method {PLAIN} is always there: take another name")
    return name, options


def questions(name):
    """(category, turns) of every line."""
    found = []
    try:
        for line in pathlib.Path(name).read_text("utf-8").splitlines():
            row = json.loads(line)
            turns, category = row["turns"], row["category"]
            if not isinstance(turns, list) or not turns or not isinstance(category, str) or not all(
                    isinstance(turn, str) for turn in turns):
                raise ValueError
            found.append(("mt_bench" if category in MT_BENCH else category, turns))
    except OSError as why:
        raise argparse.ArgumentTypeError(f"{name}: {why.strerror}") from why
    except (KeyError, TypeError, ValueError) as why:
        raise argparse.ArgumentTypeError(
            f'{name}: line {len(found) + 1}: expected an object with "category" and "turns", a list '
            "of strings") from why
    if not found:
        raise argparse.ArgumentTypeError(f"{name}: expected lines of JSON, found none")
    return found


def arguments(given):
    common = []
    if "--" in given:
        common = given[given.index("--") + 1:]
        given = given[:given.index("--")]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     epilog="options of spc chat for all methods: behind --")
    parser.add_argument("spc", help="the program")
    parser.add_argument("questions", type=questions, metavar="QUESTIONS.jsonl")
    parser.add_argument("verifier")
    parser.add_argument("drafter")
    parser.add_argument("--method", type=method, action="append", metavar="NAME=OPTIONS",
                        help="options of spc chat; may be repeated (default: " +
                        ", ".join(f"'{name}={options}'" for name, options in METHODS.items()) + ")")
    parser.add_argument("--every", type=int, default=1, help="every so-many-th question")
    parser.add_argument("--tokens", type=int, default=256, help="at most, of a reply")
    parser.add_argument("--temperature", default="0", help="default 0: greedy")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args(given)
    for name in ("every", "tokens"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: expected 1 or more, found {getattr(args, name)}")
    args.common = common
    args.method = dict(args.method or METHODS.items())
    if args.clock == "cpu" and not hasattr(time, "pthread_getcpuclockid"):
        parser.error("--clock cpu: this system has no such clock")
    return args


class Chat:
    """A program that holds a conversation."""

    def __init__(self, args, name, options):
        own = shlex.split(options)
        if not any(option.split("=")[0] == "--drafter" for option in own):
            own += ["--drafter", args.drafter]
        command = [args.spc, "chat", "--quiet", "--input", "-", "--json", "--temperature",
                   args.temperature, "--max-tokens", str(args.tokens), "--verifier", args.verifier,
                   *args.common, *own]
        self.name, self.clock = name, args.clock
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        encoding="utf-8", start_new_session=True)  # no Ctrl-C

    def cpu_seconds(self):
        """Of all its threads so far: the clock that clock_getcpuclockid(3) names, for which Python
        has no function."""
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def ask(self, text, begins):
        said = {"messages": [{"role": "user", "content": text}]} if begins else {"content": text}
        before = self.cpu_seconds() if self.clock == "cpu" else 0
        try:
            self.process.stdin.write(json.dumps(said) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:  # it has said why
            sys.exit(f"spec_bench.py: {self.name}: ended with exit code {self.process.wait()}")
        reply = json.loads(line)
        if self.clock == "cpu":
            reply["seconds"] = self.cpu_seconds() - before
        else:
            reply["seconds"] = 1e-3 * (reply["drafter_ms"] + reply["verifier_ms"] +
                                       reply["other_ms"])
        return reply

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def answer(chats, turns, turn_count):
    """Replies of all methods to a question: {name: replies}."""
    replies = {chat.name: [] for chat in chats}
    for i, turn in enumerate(turns):
        first = (turn_count + i) % len(chats)
        for chat in chats[first:] + chats[:first]:
            replies[chat.name].append(chat.ask(turn, i == 0))
    return replies


def total(answers, name, key):
    return sum(reply[key] for replies in answers for reply in replies[name])


def rate(answers, name):
    return total(answers, name, "tokens") / total(answers, name, "seconds")


def speedup(answers, name):
    return rate(answers, name) / rate(answers, PLAIN)


def interval(answers, name):
    """Of the speedup, over questions."""
    dice = random.Random(1)
    found = sorted(speedup(dice.choices(answers, k=len(answers)), name) for _ in range(1000))
    return round(found[25], 3), round(found[974], 3)


def same_replies(answers, name):
    """Replies that are the verifier's, and how many could be."""
    same = asked = 0
    for replies in answers:
        for mine, other in zip(replies[name], replies[PLAIN]):
            asked += 1
            if mine["ids"] != other["ids"]:
                break
            same += 1
    return same, asked


def line_of(args, answers, name, category):
    calls, tokens = total(answers, name, "verifier_calls"), total(answers, name, "tokens")
    same, asked = same_replies(answers, name)
    options = args.method.get(name, "")
    line = {"bench": "spec_bench", "method": name, "options": options, "category": category,
            "questions": len(answers), "turns": sum(len(replies[name]) for replies in answers),
            "tokens": tokens, "prompt_tokens": total(answers, name, "prompt_tokens"),
            "tokens_per_verifier_call": round(tokens / calls, 3) if calls else None,
            "clock": args.clock, "tokens_per_s": round(rate(answers, name), 2),
            "speedup": round(speedup(answers, name), 3)}
    if name != PLAIN:
        line["speedup_low"], line["speedup_high"] = interval(answers, name)
        line["replies_as_verifier"], line["of_replies"] = same, asked
    line["median_turn_s"] = round(statistics.median(
        reply["seconds"] for replies in answers for reply in replies[name]), 3)
    return {**line, "temperature": float(args.temperature), "max_tokens": args.tokens,
            "common": shlex.join(args.common),
            "verifier": os.path.basename(args.verifier.rstrip("/")),
            "drafter": os.path.basename(args.drafter.rstrip("/"))}


def report(args, answers):
    """answers: (category, replies of all methods) of each question."""
    categories = dict.fromkeys(category for category, _ in answers)
    for category in [*categories, "all"]:
        some = [replies for c, replies in answers if category in (c, "all")]
        for name in (PLAIN, *args.method):
            print(json.dumps(line_of(args, some, name, category)), flush=True)


def main():
    args = arguments(sys.argv[1:])
    plain = "--drafter none --rule verifier-only"
    chats = [Chat(args, name, options) for name, options in {PLAIN: plain, **args.method}.items()]
    answers, turn_count = [], 0
    some = args.questions[::args.every]
    try:
        for chat in chats:  # all load at once: until the last has answered, nothing is timed
            chat.ask(WARM_UP, True)
        for category, turns in some:
            answers.append((category, answer(chats, turns, turn_count)))
            turn_count += len(turns)
            if sys.stderr.isatty():
                print(f"\r{len(answers)} of {len(some)} questions ", end="", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"spec_bench.py: interrupted: {len(answers)} of {len(some)} questions",
              file=sys.stderr)
    if answers:
        report(args, answers)
    for chat in chats:
        chat.close()


if __name__ == "__main__":
    main()
