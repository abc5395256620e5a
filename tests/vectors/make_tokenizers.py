#!/usr/bin/env python3
"""Random texts and ids through the `tokenizers` package: tokenizers/random.json; and
tokenizers/bytelevel-gpt4o.json with its golden ids.

    make_tokenizers.py [--texts N] [--seed N] [--charsmap MODEL] [--output FILE]

Every case is one of the tokenizers/*.json with some of its parts replaced by what published
tokenizer.json files hold.  Each gets the same random texts and random ids of its own.  --charsmap:
a sentencepiece model (.model) whose precompiled_charsmap the T5 case takes, in place of a small one
that this program trains.
"""
import argparse
import base64
import copy
import io
import json
import pathlib
import random

import sentencepiece
import tokenizers

HERE = pathlib.Path(__file__).parent / "tokenizers"
NAMES = ["bytelevel-gpt2", "bytelevel-llama3", "bytelevel-qwen2", "spbpe-llama2", "spbpe-gemma",
         "unigram-t5"]
UNDER = "\u2581"
# What trips tokenizers: marks and joiners, forms that normalise, spaces of all kinds, controls.
ODD = ["\u00e9\u00e9", "\u00c9\u00e9", "\u0301", "\u0308", "e\u0301", "\u00e9", "a\u0323\u0307", "\u0344", "\u212b", "\ufb01", "\uff21\uff22",
       "\u2460", "\u00bd", "\u3392", "\u1e9e", "\u00df", "\u0130", "\u03a3", "\u01c5", "\u200d", "\u200b", "\u2060",
       "\ufeff", "\u00ad", "\u00a0", "\u3000", "\u2003", "\u2028", "\u0085", "\t", "\n", "\r\n", "\r", "\x00",
       "\x01", "\x7f", "\x1b", "\v", "\f", "\ufffd", "\ufffe", "\U0010ffff", "\ue000", UNDER, UNDER * 2,
       "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\U0001f44d\U0001f3fd",
       "\u2764\ufe0f", "\U0001d400", "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
       "\u0928\u092e\u0938\u094d\u0924\u0947", "\u1112\u1161\u11ab", "\ud55c\uae00", "\u6771\u4eac", "\u30ab\u3099", "\uff76\uff9e",
       "\u0660\u0661", "\u216b", "\u00b2", "'s", "'LL", "\u2019t", "123456", "3.14", "...", "!?", "-", "_", "\"",
       "<0x41>", "<0x0A>", "<0xFF>", "<unk>", "<s>", "</s>", "<pad>", "<eos>", "<bos>", "<|im_start|>",
       "<|begin_of_text|>", "<|eot_id|>", "<s", "</s", "<mask>", "<extra_id_0>", "mask", "##"]


def random_text(rng, words):
    text = ""
    for _ in range(rng.choice([0, 1, 2, 3, 4, 6, 10, 16])):
        kind = rng.random()
        if kind < 0.35:
            text += rng.choice(words)
        elif kind < 0.65:
            text += rng.choice(ODD)
        elif kind < 0.85:
            text += " " * rng.choice([1, 1, 1, 1, 2, 3, 5])
        elif kind < 0.93:
            text += "".join(chr(rng.randrange(33, 127)) for _ in range(rng.randrange(1, 6)))
        else:
            code = rng.choice([rng.randrange(0x110000), rng.randrange(0x3000)])
            text += chr(code) if not 0xD800 <= code < 0xE000 else "\u4e2d"
    return text


def small_charsmap():
    """A charsmap of a few rules, as sentencepiece compiles them."""
    rules = {"\u00a0": " ", "\t": " ", "\n": " ", "\u200b": "", "\x7f": "", "\x01": "", "\ufb01": "fi", "\u00bd": "1\u20442",
             "\uff21": "A", "\uff22": "B", "e\u0301": "\u00e9", "a\u0323\u0307": "\u1ea1\u0307", "\u30ab\u3099": "\u30ac",
             "\uff76\uff9e": "\u30ac", "\u212b": "\u00c5", "\u3000": " ", "\u2460": "1", "\u1112\u1161\u11ab": "\ud55c",
             "...": "\u2026", "\U0001d400": "A"}
    tsv = HERE / "rules.tsv"
    tsv.write_text("".join("%s\t%s\n" % (" ".join("%X" % ord(c) for c in key),
                                         " ".join("%X" % ord(c) for c in value))
                           for key, value in rules.items()))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a small text", "another text"] * 20), model_writer=model, vocab_size=24,
        normalization_rule_tsv=str(tsv), minloglevel=2, hard_vocab_limit=False)
    tsv.unlink()
    return charsmap_of(model.getvalue())


def charsmap_of(model):
    from sentencepiece import sentencepiece_model_pb2 as pb

    proto = pb.ModelProto()
    proto.ParseFromString(model)
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def added(ident, content, **flags):
    token = {"id": ident, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    return {**token, **flags}


def cases(base, charsmap):
    """(name, base, replaced parts of the file, replaced parts of its model)"""
    def metaspace(scheme, split):
        return {"type": "Metaspace", "replacement": UNDER, "prepend_scheme": scheme, "split": split}

    def sequence(kind, *parts):
        return {"type": "Sequence", {"n": "normalizers", "p": "pretokenizers", "d": "decoders",
                                     "t": "processors"}[kind]: list(parts)}

    def first(name, count):
        return base[name]["added_tokens"][:count]

    def regex_replace(pattern, content):
        return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": UNDER}
    llama = base["spbpe-llama2"]
    yield from ((name, name, {}, {}) for name in NAMES)

    # Llama 2, Mistral, Phi-3: byte tokens that are no added tokens; three ways to begin a text.
    yield "llama2", "spbpe-llama2", {"added_tokens": first("spbpe-llama2", 3)}, {}
    yield ("llama2-early", "spbpe-llama2",
           {"added_tokens": [{**t, "normalized": True} for t in first("spbpe-llama2", 3)]}, {})
    yield ("phi3", "spbpe-llama2",
           {"added_tokens": first("spbpe-llama2", 3) +
            [added(1100, "<|im_start|>", rstrip=True, special=True), added(1101, "</s", rstrip=True),
             added(1102, "<mask>", lstrip=True, special=True), added(1103, "mask", single_word=True),
             added(1104, UNDER * 2, normalized=True)]}, {})
    yield ("spaces", "spbpe-llama2",
           {"added_tokens": first("spbpe-llama2", 3) + [added(1100, "  "), added(1101, "    ")]}, {})
    for scheme in ("first", "always", "never"):
        for split in (False, True):
            yield ("mistral-%s-%s" % (scheme, "split" if split else "whole"), "spbpe-llama2",
                   {"added_tokens": first("spbpe-llama2", 3), "normalizer": None,
                    "pre_tokenizer": metaspace(scheme, split)}, {})
    yield "unknown-apart", "spbpe-llama2", {"added_tokens": first("spbpe-llama2", 3)}, {
        "byte_fallback": False, "fuse_unk": False}
    yield "unknown-fused", "spbpe-llama2", {"added_tokens": first("spbpe-llama2", 3)}, {
        "byte_fallback": False, "fuse_unk": True}
    yield "unknown-none", "spbpe-llama2", {"added_tokens": first("spbpe-llama2", 3)}, {
        "byte_fallback": False, "fuse_unk": False, "unk_token": None}
    yield "merges-as-text", "spbpe-llama2", {"added_tokens": first("spbpe-llama2", 3)}, {
        "merges": [" ".join(pair) for pair in llama["model"]["merges"]]}
    yield "whole-words", "spbpe-llama2", {"added_tokens": first("spbpe-llama2", 3)}, {
        "ignore_merges": True}

    # Gemma: 1 has no pre-tokenizer; 2 and 3 have added tokens that are no special ones.
    yield "gemma1", "spbpe-gemma", {"added_tokens": first("spbpe-gemma", 4), "pre_tokenizer": None}, {}
    yield ("gemma3", "spbpe-gemma",
           {"added_tokens": first("spbpe-gemma", 4) +
            [added(1100, "\n"), added(1101, "\n\n"), added(1102, UNDER * 2), added(1103, UNDER * 3),
             added(1104, "<|im_start|>", special=True), added(1105, "\t")]}, {})

    # Byte level: Llama 3, SmolLM2, DeepSeek, RoBERTa.
    yield ("llama3-ignore-merges", "bytelevel-llama3",
           {"post_processor": sequence("t", {**byte_level, "use_regex": False},
                                       base["bytelevel-llama3"]["post_processor"])},
           {"ignore_merges": True})
    yield ("smollm2", "bytelevel-gpt2",
           {"pre_tokenizer": sequence("p", {"type": "Digits", "individual_digits": True}, byte_level)}, {})
    yield ("digits-together", "bytelevel-gpt2",
           {"pre_tokenizer": sequence("p", {"type": "Digits", "individual_digits": False}, byte_level)}, {})
    yield ("prefix-space", "bytelevel-gpt2",
           {"pre_tokenizer": {**byte_level, "add_prefix_space": True},
            "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1],
                               "trim_offsets": True, "add_prefix_space": True},
            "added_tokens": first("bytelevel-gpt2", 3) + [
                added(1100, "<mask>", lstrip=True, special=True), added(1101, "mask", single_word=True),
                added(1102, "Hello", normalized=True), added(1103, "\u00e9\u00e9", normalized=True)]}, {})
    for behaviour in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield ("split-%s%s" % (behaviour.lower(), "-inverted" if invert else ""), "bytelevel-gpt2",
                   {"pre_tokenizer": sequence(
                       "p", {"type": "Split", "pattern": {"Regex": "\\s|\\d"}, "behavior": behaviour,
                             "invert": invert}, {**byte_level, "use_regex": False})}, {})
    for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"):
        yield ("normal-" + name.lower(), "bytelevel-gpt2", {"normalizer": {"type": name}}, {})
    yield ("normal-sequence", "bytelevel-qwen2",
           {"normalizer": sequence("n", {"type": "Strip", "strip_left": True, "strip_right": True},
                                   {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
                                   regex_replace("\\s+", " "), {"type": "Prepend", "prepend": "x "}),
            "added_tokens": base["bytelevel-qwen2"]["added_tokens"] + [
                added(1100, "\u00c9\u00e9", normalized=True), added(1101, "<mask>", normalized=True)]}, {})
    yield ("words", "bytelevel-gpt2",
           {"pre_tokenizer": sequence("p", {"type": "Whitespace"}, {**byte_level, "use_regex": False})}, {})
    yield ("punctuation", "bytelevel-gpt2",
           {"pre_tokenizer": sequence("p", {"type": "WhitespaceSplit"},
                                      {"type": "Punctuation", "behavior": "Isolated"},
                                      {**byte_level, "use_regex": False})}, {})

    # T5: the charsmap of sentencepiece, words apart, unknown words.
    t5 = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
          "added_tokens": first("unigram-t5", 3) + [
              added(1100, "<extra_id_0>", special=True), added(1101, "<mask>", rstrip=True, special=True)]}
    yield ("t5", "unigram-t5",
           {**t5, "pre_tokenizer": sequence("p", {"type": "WhitespaceSplit"}, metaspace("always", True))}, {})
    yield ("t5-later", "unigram-t5",
           {**t5, "normalizer": sequence("n", t5["normalizer"], regex_replace(" {2,}", UNDER)),
            "pre_tokenizer": metaspace("always", True)}, {})
    yield ("xlm", "unigram-t5",
           {**t5, "normalizer": sequence("n", {"type": "Nmt"}, {"type": "NFKC"},
                                         {"type": "Strip", "strip_left": False, "strip_right": True},
                                         regex_replace(" {2,}", UNDER)),
            "pre_tokenizer": metaspace("always", False), "decoder": metaspace("always", False)}, {})
    vocab = base["unigram-t5"]["model"]["vocab"]
    yield ("unigram-bytes", "unigram-t5", {"pre_tokenizer": metaspace("never", False)}, {
        "vocab": vocab[:800] + [["<0x%02X>" % i, -20.0 - i / 256] for i in range(256)],
        "byte_fallback": True})


def gpt4o(base):
    """Texts split as GPT-4o's vocabulary (o200k), which Phi-4-mini has, splits them: with bytes, and
    merges that go across where it splits, or Llama 3 does."""
    letters, ends = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    begin, short = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    pattern = "|".join([
        begin + letters + "*" + ends + "+" + short, begin + letters + "+" + ends + "*" + short,
        r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
    full = copy.deepcopy(base["bytelevel-llama3"])
    merges = [["e", "H"], ["e", "I"], ["A", "S"], ["T", "'"], ["t", "'"], ["'", "S"], ["3", "4"],
              ["d", "t"], ["E", "w"], ["\u010a", "\u0120"], ["/", "\u010a"], ["/", "a"]]
    tokens = ["<s>", "</s>"] + sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens += [a + b for a, b in merges]
    full["model"].update(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    full["added_tokens"] = [added(i, tokens[i], special=True) for i in range(2)]
    full["post_processor"] = None
    full["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}
    (HERE / "bytelevel-gpt4o.json").write_text(json.dumps(full, indent=1) + "\n")
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(full))
    texts = ["Hello", "theHouseIsGreen and NASAandtheSea", "it's IT'S they'LL iTs we've, don't",
             "1234567 years, 3.14", "a // b\n\n /c\r\n", "\u00dcberGr\u00f6\u00dfe na\u00efve",
             "\u6771\u4eac\u30bf\u30ef\u30fc \u01c5ep", "tabs\t\tand  spaces   ", "snake_caseAnd-Kebab",
             "e\u0301teEt\u00e9 MixedCASEwords", "x//\n/a"]
    rows = []
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        rows.append({"text": text, "ids": ids,
                     "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
    (HERE / "bytelevel-gpt4o.golden.json").write_text(json.dumps(rows, separators=(",", ":")) + "\n")


def random_ids(rng, size):
    low = rng.randrange(size)
    return [rng.randrange(size) if rng.random() < 0.6 else (low + rng.randrange(8)) % size
            for _ in range(rng.randrange(1, 12))]


def record(rng, name, base, parts, model, full, texts):
    out = {"name": name, "base": base, "parts": parts, "model": model}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(full))
    out["ids"] = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    out["ids_special"] = tokenizer.encode(texts[0]).ids
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    wrong = [t for t in full["added_tokens"] if vocab[t["content"]] != t["id"]]
    assert not wrong, f"{name}: the vocabulary has {wrong} under another id"
    size = max(vocab.values()) + 1
    fallback = full["decoder"] and "ByteFallback" in json.dumps(full["decoder"])
    out["decode"] = []
    own = iter([ids for ids in out["ids"][::2] if ids])
    while len(out["decode"]) < len(texts):
        ids = next(own, None) or random_ids(rng, size)
        # Of byte tokens that make no UTF-8 the package turns every one into U+FFFD, also the part
        # that was good; no stream could do that, and spc does as Unicode recommends.
        if fallback and "\ufffd" in tokenizer.decode(ids, skip_special_tokens=False):
            continue
        # Version 0.23 decodes a normalised token to its normalised content, 0.22 to its content.
        if not any(token["normalized"] and token["id"] in ids for token in full["added_tokens"]):
            out["decode"].append(ids)
    out["decoded"] = [tokenizer.decode(ids, skip_special_tokens=False) for ids in out["decode"]]
    out["decoded_plain"] = [tokenizer.decode(ids) for ids in out["decode"]]
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--charsmap", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "random.json")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    base = {name: json.loads((HERE / (name + ".json")).read_text()) for name in NAMES}
    words = sorted({word for row in json.loads((HERE / "bytelevel-gpt2.golden.json").read_text())
                    for word in row["text"].split()})
    gpt4o(base)
    texts = ["Hello"] + [random_text(rng, words) for _ in range(options.texts - 1)]
    charsmap = charsmap_of(options.charsmap.read_bytes()) if options.charsmap else small_charsmap()
    out = []
    for name, of, parts, model in cases(base, charsmap):
        full = copy.deepcopy(base[of])
        full.update(parts)
        full["model"].update(model)
        out.append(record(rng, name, of, parts, model, full, texts))
    with options.output.open("w") as file:
        file.write('{"texts":%s,\n"cases":[\n%s]}\n' % (
            json.dumps(texts, separators=(",", ":")),
            ",\n".join(json.dumps(case, separators=(",", ":")) for case in out)))


if __name__ == "__main__":
    main()
