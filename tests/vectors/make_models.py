#!/usr/bin/env python3
"""What llama.cpp makes of the models of tests/models/fetch.py: models.json beside this program.

    make_models.py FOLDER

Ids of texts, and greedy continuations of conversations (of a text, where the model is none for
conversations) with, for each of their tokens, by how much its logit leads: where that is little,
other kernels may choose otherwise.
"""
import json
import pathlib
import sys

import llama_cpp
import numpy

TEXTS = [
    "def add(a, b):\n    return a + b\n",
    "  two  spaces, \ttabs\r\n\n\nlines",
    "1234567 + 89 = ?",
    "naïve Übergröße, café; 日本語 русский 🙂",
    "It's we'll I'M they'd",
    "<|im_start|>user\nHi.<|im_end|>\n",
]
USER = ["Write a Python function that reverses a string.", "What is the capital of France?"]
GOES_ON = ["The capital of France is", "Die Römer bauten ihre Straßen, um"]
QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
SYSTEM = {
    "qwen2.5-coder-1.5b-instruct": QWEN,
    "qwen2.5-coder-0.5b-instruct": QWEN,
    "smollm2-135m-instruct": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "gemma-3-270m": None,  # pretrained only: texts go on
}
TOKENS = 40


def greedy(model, ids):
    """Continuation of ids, and the lead of each of its tokens."""
    out, lead = [], []
    model.reset()
    model.eval(ids)
    while len(out) < TOKENS:
        logits = numpy.asarray(model.scores[model.n_tokens - 1])
        best, second = numpy.partition(logits, -2)[[-1, -2]]
        out.append(int(logits.argmax()))
        lead.append(round(float(best - second), 3))
        if out[-1] == model.token_eos():
            break
        model.eval(out[-1:])
    return out, lead


def golden(folder, name):
    model = llama_cpp.Llama(str(folder / f"{name}.gguf"), n_ctx=256, n_threads=1, logits_all=True,
                            verbose=False)

    def encode(text):
        return model.tokenize(text.encode(), add_bos=False, special=True)

    def prompt_of(text):
        if SYSTEM[name] is None:
            return [model.token_bos()] + encode(text)
        return encode(f"<|im_start|>system\n{SYSTEM[name]}<|im_end|>\n"
                      f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")

    replies = []
    for text in GOES_ON if SYSTEM[name] is None else USER:
        prompt = prompt_of(text)
        ids, lead = greedy(model, prompt)
        replies.append({"user": text, "prompt": prompt, "ids": ids, "lead": lead})
        print(name, repr(model.detokenize(ids).decode()), min(lead), file=sys.stderr)
    return {"texts": [{"text": t, "ids": encode(t)} for t in TEXTS], "replies": replies}


folder = pathlib.Path(sys.argv[1])
lines = [f"{json.dumps(n)}: {json.dumps(golden(folder, n))}" for n in SYSTEM]
(pathlib.Path(__file__).parent / "models.json").write_text("{" + ",\n".join(lines) + "}\n")
