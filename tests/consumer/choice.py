#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Structured output from Python: choice.py LIBSPC.SO SENTENCE ANSWER ANSWER [...]

Translates an English sentence to German with the pair built into the library, but only by one of
the answers given: a mask leaves drafter and verifier the tokens that some answer goes on with.  A
grammar or a JSON schema is a mask of the same kind.
"""
import sys

import engine


def mask_of(start, answers):
    """Lets one of some sequences of ids come, which begins behind so many tokens."""

    def mask(_, token, count, allowed, vocab):
        said = token[start:count]
        for answer in answers:
            if len(answer) > len(said) and answer[:len(said)] == said:
                allowed[answer[len(said)] // 32] |= 1 << answer[len(said)] % 32
        return True

    return engine.ON_MASK(mask)


def choose(pair, sentence, answers, **options):
    """The text of one of the answers."""
    prompt, end, said = pair.encode(f"<s><2de>{sentence}<sep>"), pair.encode("</s>"), []
    mask = mask_of(len(prompt), [pair.encode(answer) + end for answer in answers])
    pair.decode(prompt, said.append, on_mask=mask, **options)
    return b"".join(said).decode()


def main():
    if len(sys.argv) < 5:
        sys.exit(__doc__.strip())
    with engine.Engine(engine.load(sys.argv[1])) as pair:
        print(choose(pair, sys.argv[2], sys.argv[3:], rule=b"token-v3:alpha=0.3", temperature=0.0))


if __name__ == "__main__":
    main()
