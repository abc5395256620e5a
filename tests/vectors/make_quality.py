#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes quality/golden.json: made-up pairs of texts, and what sacrebleu, rouge_score and SQuAD's
evaluate-v1.1 say of random subsets of them.

    pip install sacrebleu==2.6.0 rouge_score==0.1.2 && tests/vectors/make_quality.py
"""
import collections
import json
import pathlib
import random
import re
import string

import sacrebleu
from rouge_score import rouge_scorer

PAIRS, SUBSETS = 240, 24
WORDS = """der die das kleine größere Straße Mädchen läuft schläft gestern um 9.30 Uhr nach Köln-Deutz weil
el niño comió 1.234,5 kilos de pan ayer y la señora cantó mañana también ¿quién ¡hola
l'été dernier nous avons aujourd'hui mangé du fromage à Paris n'est-ce pas où cœur
the a an quick brown foxes jumped over lazy dogs in 2020 for $3.50 only 50% of them don't e.g. Mr. U.S.
“quoted” «guillemets» (brackets) [square] &amp; &quot;x&quot; <tag> 3-4 -5 5.- a,b ... !? — – ; : / \\
_under_ #tag @me ~x ^y `z` {k} =1 +2 *3 ÄRGER ÉTÉ İzmir ΟΔΟΣ ßtraße 日本語 文字 한국어 слово 😀 👩‍👧
ﬁn x² ½ naïve cafe\u0301 zero\u200bwidth thin\u2009space nb\u00a0space""".split(" ")
WORDS = [word for line in WORDS for word in line.split("\n") if word]


def sentence(rng):
    return [rng.choice(WORDS) for _ in range(rng.choice([0, 1, 2, 3, 4, 5, 6, 8, 11, 14, 18, 25, 40]))]


def edit(rng, words):
    """Drop, replace, repeat, end with a sign, raise, swap."""
    out = []
    for word in words:
        chance = rng.random()
        if chance < .06:
            continue
        if chance < .12:
            word = rng.choice(WORDS)
        elif chance < .15:
            out.append(word)
        elif chance < .18:
            word += rng.choice(".,!?;:")
        elif chance < .21:
            word = word.upper()
        elif chance < .23 and out:
            out[-1], word = word, out[-1]
        out.append(word)
    return out


def normalize_answer(text):
    """As SQuAD's evaluate-v1.1 defines it."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(hypothesis, reference):
    a, b = normalize_answer(hypothesis).split(), normalize_answer(reference).split()
    same = sum((collections.Counter(a) & collections.Counter(b)).values())
    if same == 0:
        return 0
    precision, recall = same / len(a), same / len(b)
    return 2 * precision * recall / (precision + recall)


def scores(rows, pairs):
    hypotheses, references = zip(*[pairs[i] for i in rows])
    rouge = rouge_scorer.RougeScorer(["rouge2"], use_stemmer=False)
    both = list(zip(hypotheses, references))
    values = {
        "bleu": sacrebleu.corpus_bleu(hypotheses, [references]).score,
        "chrf": sacrebleu.corpus_chrf(hypotheses, [references]).score,
        "rouge2": 100 * sum(rouge.score(r, h)["rouge2"].fmeasure for h, r in both) / len(rows),
        "exact": 100 * sum(normalize_answer(h) == normalize_answer(r) for h, r in both) / len(rows),
        "f1": 100 * sum(f1(h, r) for h, r in both) / len(rows)}
    return dict({"rows": rows}, **{name: round(value, 8) for name, value in values.items()})


def main():
    rng = random.Random(20261123)
    pairs = []
    for _ in range(PAIRS):
        reference = sentence(rng)
        hypothesis = edit(rng, reference) if rng.random() < .9 else sentence(rng)
        pairs.append([rng.choice([" ", " ", " ", "  "]).join(hypothesis), " ".join(reference)])
    subsets = [scores(list(range(PAIRS)), pairs)]
    while len(subsets) < SUBSETS:
        count = rng.choice([1, 2, 5, 10, 25, 60, 120, 180])
        subsets.append(scores(sorted(rng.sample(range(PAIRS), count)), pairs))
    out = pathlib.Path(__file__).parent / "quality" / "golden.json"
    lines = [",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
             for rows in (pairs, subsets)]
    out.write_text('{"pairs": [\n%s],\n"subsets": [\n%s]}\n' % tuple(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
