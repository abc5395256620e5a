#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/vectors/gguf/: GGUF files written by the `gguf` package (0.19).

    make_gguf.py [OUT]        needs gguf, numpy; for the tokenizers also sentencepiece

  blocks.gguf      random blocks of every quantised type, and what the package dequantises them to
                   (tensor NAME.f32)
  MODEL.gguf       the checkpoints ../MODEL as converters write them: Llama's heads interleaved,
                   Gemma's norms plus one; matrices as BF16, which these weights fit exactly
  MODEL-TYPE.gguf  the same with matrices quantised by the package
  phi3-short, phi3-long, smollm3, ministral3, granite, mixtral, qwen3-moe    the checkpoints of that name, in float32
  qwen3-moe-Q8_0   the last one, quantised
  split-0000*      Llama, in two parts
  mixed-K.gguf     a whole model whose matrices are random blocks of Q4_K, Q5_K and Q6_K
  mixed-low.gguf   the same of Q2_K, Q3_K, IQ4_XS and IQ4_NL
  odd-K.gguf       the same, smaller, with a feed-forward part that two ranks cannot halve
  cut-K.gguf       the same, with heads that end inside blocks, on two ranks as on four
  ../fuzz/gguf/tiny     a whole model of 8 tokens, small enough to damage every byte of it
  NAME.tokenizer.gguf   no tensors: the vocabularies of ../tokenizers/NAME.json
  sentencepiece.json    what sentencepiece makes of texts with the vocabulary of spbpe-llama2
"""
import json
import math
import pathlib
import re
import struct
import sys

import gguf
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "gguf"
Q = gguf.GGMLQuantizationType
BLOCKS = [Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.Q3_K,
          Q.IQ4_NL, Q.IQ4_XS, Q.Q2_K]
# Where float16 scales stand in a block.
SCALES = {Q.Q8_0: [0], Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2],
          Q.Q2_K: [80, 82], Q.Q3_K: [108], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208],
          Q.IQ4_NL: [0], Q.IQ4_XS: [0]}
LAYER = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up",
         "mlp.gate": "ffn_gate_inp", "block_sparse_moe.gate": "ffn_gate_inp",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
PLAIN = {"post_attention_layernorm": "ffn_norm"}
GEMMA = {"post_attention_layernorm": "post_attention_norm",
         "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}


def blocks():
    dice = np.random.default_rng(3)
    writer = gguf.GGUFWriter(OUT / "blocks.gguf", "none")
    for kind in BLOCKS:
        entries, size = gguf.GGML_QUANT_SIZES[kind]
        data = dice.integers(0, 256, (3, 512 // entries, size), dtype=np.uint8)
        for at in SCALES[kind]:
            halves = dice.normal(0, 0.1, data.shape[:2]).astype(np.float16)
            data[:, :, at:at + 2] = halves[:, :, None].view(np.uint8)
        data = data.reshape(3, -1)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        writer.add_tensor(kind.name + ".f32", gguf.quants.dequantize(data, kind))
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(folder):
    raw = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    out = {}
    for name, entry in json.loads(raw[8:8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + x for x in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            halves = np.frombuffer(raw[begin:end], np.uint16).astype(np.uint32) << 16
            out[name] = halves.view(np.float32).reshape(entry["shape"])
        else:
            out[name] = np.frombuffer(raw[begin:end], np.float32).reshape(entry["shape"])
    return out


def name_of(name, gemma):
    whole = {"model.embed_tokens.weight": "token_embd.weight",
             "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in whole:
        return whole[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{({**LAYER, **(GEMMA if gemma else PLAIN)})[part]}.{kind}"


EXPERTS = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps",
           "w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps"}


def stacked(tensors):
    """Names of GGUF; of the experts of a layer one tensor for each kind of matrix."""
    out = {}
    for name, x in tensors.items():
        found = re.fullmatch(r"model\.layers\.(\d+)\.\w+\.experts\.(\d+)\.(\w+)\.weight", name)
        if not found:
            yield name, x
            continue
        layer, expert, part = found.groups()
        out.setdefault(f"blk.{layer}.{EXPERTS[part]}.weight", {})[int(expert)] = x
    for name, matrices in out.items():
        yield name, np.stack([matrices[i] for i in range(len(matrices))])


def interleave(x, heads):
    """The two halves of each head by turns, as converters of Llama put them."""
    rest = x.shape[1:]
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *rest).swapaxes(1, 2).reshape(x.shape)


def metadata(writer, c, arch):
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    rope = c.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    if c.get("sliding_window"):
        writer.add_sliding_window(c["sliding_window"])
    if c.get("attn_logit_softcapping"):
        writer.add_attn_logit_softcapping(c["attn_logit_softcapping"])
    if c.get("final_logit_softcapping"):
        writer.add_final_logit_softcapping(c["final_logit_softcapping"])
    if arch == "gemma3":
        writer.add_key_value("gemma3.attention.sliding_window_pattern",
                             c.get("_sliding_window_pattern", 6), gguf.GGUFValueType.UINT32)
        writer.add_key_value("gemma3.rope.freq_base_swa",
                             float(c["rope_parameters"]["sliding_attention"]["rope_theta"]),
                             gguf.GGUFValueType.FLOAT32)
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    if arch == "granite":
        writer.add_attention_scale(c["attention_multiplier"])
        writer.add_embedding_scale(c["embedding_multiplier"])
        writer.add_residual_scale(c["residual_multiplier"])
        writer.add_logit_scale(c["logits_scaling"])
        writer.add_rope_scaling_finetuned(True)
    if arch == "mistral3":
        writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
        writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
    if rope.get("rope_type") == "longrope":
        original = rope["original_max_position_embeddings"]
        scale = math.log(c["max_position_embeddings"] / original) / math.log(original)
        writer.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + max(scale, 0)))
        for key in ("long", "short"):
            writer.add_tensor(f"rope_factors_{key}.weight",
                              np.array(rope[key + "_factor"], np.float32))
    if "num_local_experts" in c:
        writer.add_expert_count(c["num_local_experts"])
        writer.add_expert_used_count(c["num_experts_per_tok"])
    if "moe_intermediate_size" in c:
        writer.add_expert_feed_forward_length(c["moe_intermediate_size"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def model(name, arch, kind=None, split=None, file=None):
    folder = HERE / name
    c = json.loads((folder / "config.json").read_text())
    out = OUT / ("split.gguf" if split else (file or (arch if kind is None else f"{arch}-{kind.name}")) + ".gguf")
    writer = gguf.GGUFWriter(out, arch, split_max_tensors=split or 0)
    metadata(writer, c, arch)
    for tensor, x in stacked(load(folder)):
        to = tensor if tensor.startswith("blk.") else name_of(tensor, arch.startswith("gemma"))
        if arch in ("llama", "smollm3", "mistral3", "granite") and (".attn_q." in to or ".attn_k." in to):
            x = interleave(x, c["num_attention_heads" if "_q." in to else "num_key_value_heads"])
        if arch.startswith("gemma") and "norm" in to:
            x = x + np.float32(1)
        if x.ndim == 1 or "ffn_gate_inp" in to:  # (converters keep routers)
            writer.add_tensor(to, np.ascontiguousarray(x, np.float32))
            continue
        wanted = Q.BF16 if kind is None else kind
        exact = gguf.quants.quantize(np.ascontiguousarray(x), wanted)
        assert kind is not None or (gguf.quants.dequantize(exact, wanted) == x).all(), f"{tensor} is no bfloat16"
        writer.add_tensor(to, exact, raw_dtype=wanted)
    finish(writer)


def vocabulary(name):
    t = json.loads((HERE / "tokenizers" / (name + ".json")).read_text())
    bytelevel = name.startswith("bytelevel")
    special = {a["id"]: a for a in t["added_tokens"]}
    by_id = {i: content for content, i in t["model"]["vocab"].items()}
    by_id.update({i: a["content"] for i, a in special.items()})
    tokens = [by_id[i] for i in range(len(by_id))]

    def type_of(i):
        if tokens[i].startswith("<0x") and not bytelevel:
            return gguf.TokenType.BYTE
        if i in special:
            return gguf.TokenType.CONTROL if special[i]["special"] else gguf.TokenType.USER_DEFINED
        return gguf.TokenType.UNKNOWN if tokens[i] == "<unk>" else gguf.TokenType.NORMAL
    return t, tokens, [type_of(i) for i in range(len(tokens))]


def tokenizer(name, pre):
    t, tokens, types = vocabulary(name)
    writer = gguf.GGUFWriter(OUT / (name + ".tokenizer.gguf"), "llama")
    writer.add_tokenizer_model("gpt2" if pre else "llama")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if pre:
        writer.add_tokenizer_pre(pre)
        writer.add_token_merges([" ".join(m) if isinstance(m, list) else m
                                 for m in t["model"]["merges"]])
        writer.add_add_bos_token(False)
    else:
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
        writer.add_bos_token_id(tokens.index("<s>"))
        writer.add_unk_token_id(tokens.index("<unk>"))
        writer.add_add_bos_token(True)
    finish(writer)


def tiny():
    """Llama of one layer: one of each type with blocks of 32."""
    dice = np.random.default_rng(4)
    writer = gguf.GGUFWriter(HERE / "fuzz" / "gguf" / "tiny", "llama")
    metadata(writer, {"num_hidden_layers": 1, "max_position_embeddings": 16, "hidden_size": 32,
                      "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1,
                      "rms_norm_eps": 1e-5, "head_dim": 16}, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", "\u2581", "a", "b", "\u2581a", "ab"])
    writer.add_token_types([2, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_scores([0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0])
    shapes = {"token_embd": (8, 32, Q.Q8_0), "blk.0.attn_q": (32, 32, Q.Q4_0),
              "blk.0.attn_k": (16, 32, Q.Q4_1), "blk.0.attn_v": (16, 32, Q.Q5_0),
              "blk.0.attn_output": (32, 32, Q.Q5_1), "blk.0.ffn_gate": (32, 32, Q.F16),
              "blk.0.ffn_up": (32, 32, Q.Q4_0), "blk.0.ffn_down": (32, 32, Q.Q4_0)}
    for name, (rows, cols, kind) in shapes.items():
        x = dice.normal(0, 0.3, (rows, cols)).astype(np.float32)
        writer.add_tensor(name + ".weight", gguf.quants.quantize(x, kind), raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(name + ".weight", np.ones(32, np.float32))
    finish(writer)


def random_blocks(dice, rows, cols, kind):
    """Of types that the package does not write."""
    # d, and what the offsets' scale is in units of it: entries of about +-0.1 around 0
    steps = {Q.Q2_K: (6e-3, 1.5), Q.Q3_K: (1e-3, None), Q.Q4_K: (4e-4, 7.5),
             Q.Q5_K: (2e-4, 15.5), Q.Q6_K: (5e-5, None), Q.IQ4_NL: (1e-3, None),
             Q.IQ4_XS: (6e-5, None)}
    entries, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rows * cols // entries
    data = dice.integers(0, 256, (blocks, size), dtype=np.uint8)
    d = (steps[kind][0] * dice.uniform(0.5, 1.5, (blocks, 1))).astype(np.float16)
    for at, x in zip(SCALES[kind], (d, d * np.float16(steps[kind][1] or 0))):
        data[:, at:at + 2] = x.view(np.uint8)
    return data.reshape(rows, -1)


# Matrices of mixed models: as files of *_K_M mix them, V is Q6_K beside Q and K of Q4_K; of types
# about 4 bits and below.
MIXED = {"mixed-K": (6, {"token_embd": Q.Q6_K, "attn_q": Q.Q4_K, "attn_k": Q.Q4_K, "attn_v": Q.Q6_K,
                         "attn_output": Q.Q5_K, "ffn_gate": Q.Q4_K, "ffn_up": Q.Q5_K,
                         "ffn_down": Q.Q6_K}),
         "mixed-low": (8, {"token_embd": Q.Q3_K, "attn_q": Q.IQ4_XS, "attn_k": Q.IQ4_XS,
                           "attn_v": Q.Q3_K, "attn_output": Q.IQ4_NL, "ffn_gate": Q.Q2_K,
                           "ffn_up": Q.Q2_K, "ffn_down": Q.Q3_K})}


def mixed(name):
    """Llama of one layer, each matrix of its own type."""
    seed, kinds = MIXED[name]
    dice = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(OUT / (name + ".gguf"), "llama")
    metadata(writer, {"num_hidden_layers": 1, "max_position_embeddings": 64, "hidden_size": 256,
                      "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2,
                      "rms_norm_eps": 1e-5, "head_dim": 64}, "llama")
    shapes = {"token_embd": (40, 256), "attn_q": (512, 256), "attn_k": (128, 256),
              "attn_v": (128, 256), "attn_output": (256, 512), "ffn_gate": (512, 256),
              "ffn_up": (512, 256), "ffn_down": (256, 512)}
    for part, (rows, cols) in shapes.items():
        kind, where = kinds[part], "" if part == "token_embd" else "blk.0."
        writer.add_tensor(f"{where}{part}.weight", random_blocks(dice, rows, cols, kind),
                          raw_dtype=kind)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(name + ".weight", np.ones(256, np.float32))
    finish(writer)


def odd():
    """As files of *_K_M whose feed-forward part has an odd number of blocks (Qwen2.5 0.5B and 1.5B
    have 19 and 35): here 3, of which two ranks cannot have the same."""
    dice = np.random.default_rng(7)
    writer = gguf.GGUFWriter(OUT / "odd-K.gguf", "llama")
    metadata(writer, {"num_hidden_layers": 1, "max_position_embeddings": 64, "hidden_size": 64,
                      "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 1,
                      "rms_norm_eps": 1e-5, "head_dim": 32}, "llama")
    shapes = {"token_embd": (40, 64, Q.Q8_0), "blk.0.attn_q": (128, 64, Q.Q5_0),
              "blk.0.attn_k": (32, 64, Q.Q5_0), "blk.0.attn_v": (32, 64, Q.Q8_0),
              "blk.0.attn_output": (64, 128, Q.Q5_0), "blk.0.ffn_gate": (768, 64, Q.Q4_0),
              "blk.0.ffn_up": (768, 64, Q.Q5_0)}
    for name, (rows, cols, kind) in shapes.items():
        x = dice.normal(0, 0.1, (rows, cols)).astype(np.float32)
        writer.add_tensor(name + ".weight", gguf.quants.quantize(x, kind), raw_dtype=kind)
    writer.add_tensor("blk.0.ffn_down.weight", random_blocks(dice, 64, 768, Q.Q6_K),
                      raw_dtype=Q.Q6_K)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(name + ".weight", np.ones(64, np.float32))
    finish(writer)


def cut():
    """As files of *_K_M whose heads are an odd number of half blocks on a rank (Qwen2.5 7B has seven
    of 128 on each of four): here 384 on each of two, 192 on each of four."""
    dice = np.random.default_rng(8)
    writer = gguf.GGUFWriter(OUT / "cut-K.gguf", "llama")
    metadata(writer, {"num_hidden_layers": 2, "max_position_embeddings": 64, "hidden_size": 64,
                      "intermediate_size": 128, "num_attention_heads": 12, "num_key_value_heads": 4,
                      "rms_norm_eps": 1e-5, "head_dim": 64}, "llama")
    shapes = {"attn_q": (768, 64, Q.Q4_0), "attn_k": (256, 64, Q.Q4_0), "attn_v": (256, 64, Q.Q5_0),
              "ffn_gate": (128, 64, Q.Q4_0), "ffn_up": (128, 64, Q.Q4_0),
              "ffn_down": (64, 128, Q.Q8_0)}
    x = dice.normal(0, 0.1, (40, 64)).astype(np.float32)
    writer.add_tensor("token_embd.weight", gguf.quants.quantize(x, Q.Q8_0), raw_dtype=Q.Q8_0)
    for layer, output in enumerate((Q.Q4_K, Q.Q6_K)):
        for name, (rows, cols, kind) in shapes.items():
            x = dice.normal(0, 0.1, (rows, cols)).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.{name}.weight", gguf.quants.quantize(x, kind),
                              raw_dtype=kind)
        writer.add_tensor(f"blk.{layer}.attn_output.weight", random_blocks(dice, 64, 768, output),
                          raw_dtype=output)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(64, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
    finish(writer)


def sentencepiece_golden(name):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb

    _, tokens, types = vocabulary(name)
    proto = pb.ModelProto()
    proto.trainer_spec.model_type = pb.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    kinds = pb.ModelProto.SentencePiece
    for i, (token, kind) in enumerate(zip(tokens, types)):
        piece = proto.pieces.add()
        piece.piece, piece.score = token, -float(i)
        piece.type = {gguf.TokenType.BYTE: kinds.BYTE, gguf.TokenType.NORMAL: kinds.NORMAL
                      }.get(kind, kinds.UNKNOWN if token == "<unk>" else kinds.CONTROL)
    sp = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    texts = [row["text"] for row in
             json.loads((HERE / "tokenizers" / (name + ".golden.json")).read_text())]
    texts += json.loads((HERE / "tokenizers" / "random.json").read_text())["texts"]
    # Control tokens are text to sentencepiece, and it ends a text at a zero byte.
    texts = [t for t in texts if "<" not in t and "\0" not in t and t]
    rows = [{"text": t, "ids": sp.encode(t), "decoded": sp.decode(sp.encode(t))} for t in texts]
    (OUT / "sentencepiece.json").write_text(json.dumps(rows, separators=(",", ":")) + "\n")


def main():
    OUT.mkdir(exist_ok=True)
    (HERE / "fuzz" / "gguf").mkdir(exist_ok=True)
    tiny()
    blocks()
    for name in MIXED:
        mixed(name)
    odd()
    cut()
    for name in ("qwen2", "gemma2", "gemma3"):
        model(name, name)
    for kind in (Q.Q8_0, Q.Q4_0):
        model("llama", "llama", kind)
    for name in ("smollm3", "phi3-short", "phi3-long", "granite"):
        model(name, name.split("-")[0], Q.F32, file=name)
    model("mixtral", "llama", Q.F32, file="mixtral")
    model("qwen3-moe", "qwen3moe", Q.F32, file="qwen3-moe")
    model("qwen3-moe", "qwen3moe", Q.Q8_0, file="qwen3-moe-Q8_0")
    model("ministral3", "mistral3", Q.F32, file="ministral3")
    model("llama", "llama", split=16)
    for name, pre in (("bytelevel-gpt2", "gpt-2"), ("bytelevel-llama3", "llama-bpe"),
                      ("bytelevel-qwen2", "qwen2"), ("bytelevel-gpt4o", "gpt-4o"),
                      ("spbpe-llama2", None)):
        tokenizer(name, pre)
    sentencepiece_golden("spbpe-llama2")


main()
