#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/vectors/NAME for every name below: tiny random models of families beside Llama's.

    python3 make_families.py [NAME ...]    # needs torch and transformers 5.24; float64, eager attention
"""
import json
import pathlib
import sys

import torch
import transformers as hf
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
         "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
         "initializer_range": 0.3}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 2, "image_size": 8, "patch_size": 4}


def gemma3_images():
    """Text and images; the text model's windows are shorter than the text, its positions linear."""
    text = hf.Gemma3TextConfig(
        **SIZES | {"num_hidden_layers": 3}, sliding_window=8, query_pre_attn_scalar=20,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}})
    config = hf.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4,
                             image_token_index=60, boi_token_index=61, eoi_token_index=62)
    return hf.Gemma3ForConditionalGeneration(config)


def mistral3_images():
    """The same, whose head is its own; tensors by the names they have in the program."""
    text = hf.MistralConfig(**SIZES, sliding_window=None)
    vision = hf.PixtralVisionConfig(**VISION, head_dim=8)
    config = hf.Mistral3Config(text_config=text, vision_config=vision, spatial_merge_size=1,
                               image_token_index=60, tie_word_embeddings=False)
    return hf.Mistral3ForConditionalGeneration(config)


def ministral3_config(beta=0.5, **rope):
    """The text, of 40 tokens, is five times as long as the original context."""
    return hf.Ministral3Config(**SIZES, sliding_window=None, rope_parameters={
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "beta_fast": 4.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 8, "llama_4_scaling_beta": beta, **rope})


def ministral3():
    """mscale over mscale_all_dim is not 1."""
    return hf.Ministral3ForCausalLM(ministral3_config(mscale=1.0, mscale_all_dim=0.5))


def ministral3_images():
    """As it is published: of text and images, mscale over mscale_all_dim is 1."""
    vision = hf.PixtralVisionConfig(**VISION, head_dim=8)
    config = hf.Mistral3Config(text_config=ministral3_config(0.1, mscale=1.0, mscale_all_dim=1.0),
                               vision_config=vision, spatial_merge_size=1, image_token_index=60,
                               tie_word_embeddings=True)
    return hf.Mistral3ForConditionalGeneration(config)


def smollm3():
    """The fourth layer has no positions; biases."""
    return hf.SmolLM3ForCausalLM(hf.SmolLM3Config(
        **SIZES | {"num_hidden_layers": 4}, attention_bias=True, mlp_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6}))


def granite():
    """All four multipliers; biases; an eps that counts."""
    sizes = dict(SIZES)
    del sizes["head_dim"]
    return hf.GraniteForCausalLM(hf.GraniteConfig(
        **sizes, rms_norm_eps=0.05, embedding_multiplier=6.0, attention_multiplier=0.4,
        residual_multiplier=0.22, logits_scaling=3.0, attention_bias=True, mlp_bias=True,
        tie_word_embeddings=True))


def phi3(**settings):
    """Fused matrices; a window."""
    sizes = SIZES | settings
    del sizes["head_dim"]
    return hf.Phi3ForCausalLM(hf.Phi3Config(**sizes, sliding_window=24))


def phi3_long(original):
    """Half of a head turns, by divisors: those for contexts of 64 up to `original`, or beyond."""
    dice = torch.Generator().manual_seed(original)
    factors = {key: (1 + scale * torch.rand(4, generator=dice)).tolist()
               for key, scale in (("short_factor", 0.5), ("long_factor", 20.0))}
    return phi3(tie_word_embeddings=True, max_position_embeddings=128, original_max_position_embeddings=original,
                rope_parameters={"rope_type": "longrope", "rope_theta": 1e4,
                                 "partial_rotary_factor": 0.5,
                                 "original_max_position_embeddings": original, **factors})


def mixtral():
    """Two of five experts, whose shares add up; a window."""
    return hf.MixtralForCausalLM(hf.MixtralConfig(
        **SIZES, num_local_experts=5, num_experts_per_tok=2, sliding_window=24))


def qwen3_moe(shares_add_up=True):
    """Three of six experts, narrower than intermediate_size says."""
    return hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(
        **SIZES, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=32,
        norm_topk_prob=shares_add_up))


FAMILIES = {"gemma3-images": gemma3_images, "mistral3-images": mistral3_images, "smollm3": smollm3,
            "granite": granite,
            "ministral3": ministral3, "ministral3-images": ministral3_images,
            "phi3": phi3, "phi3-short": lambda: phi3_long(64), "phi3-long": lambda: phi3_long(16),
            "mixtral": mixtral, "qwen3-moe": qwen3_moe,
            "qwen3-moe-shares": lambda: qwen3_moe(False)}


def make(name):
    torch.manual_seed(len(name))
    model = FAMILIES[name]()
    model.set_attn_implementation("eager")
    if hasattr(model.config, "num_experts_per_tok"):
        model.set_experts_implementation("eager")  # the grouped form knows no float64
    model = model.float().eval()
    for key, tensor in model.named_parameters():
        if key.endswith(("bias", "norm.weight")):
            torch.nn.init.normal_(tensor, mean=0.0 if "gemma" in name else 1.0, std=0.3)
    folder = HERE / name
    model.save_pretrained(folder, save_original_format=name != "mistral3-images")
    model = model.double()
    ids = torch.randint(3, 60, (1, 40))
    prompt = ids[:, :20]  # longer than phi3-long's original context, which the reference needs
    with torch.no_grad():
        logits = model(ids).logits[0]
        greedy = model.generate(prompt, max_new_tokens=24, do_sample=False,
                                eos_token_id=None, pad_token_id=0)[0, 20:]
    save_file({"logits": logits.float().contiguous()}, folder / "logits.safetensors")
    (folder / "golden.json").write_text(json.dumps({
        "ids": ids[0].tolist(), "prompt": prompt[0].tolist(), "greedy": greedy.tolist()}) + "\n")


for each in sys.argv[1:] or FAMILIES:
    make(each)
