#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/vectors/rope-*: tiny random Llamas, one for each way to stretch rotary positions.

    python3 make_rope.py        # needs torch and transformers 5.17; float64, eager attention
"""
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
ROPES = {
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
             "original_max_position_embeddings": 16},
    "yarn-given": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 8.0, "beta_fast": 4.0,
                   "beta_slow": 0.5, "mscale": 1.0, "mscale_all_dim": 0.4, "truncate": False,
                   "original_max_position_embeddings": 8},
}


def make(name, rope):
    torch.manual_seed(len(name))
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=1, head_dim=16,
                         max_position_embeddings=64, rope_parameters=rope, bos_token_id=1,
                         eos_token_id=2, attention_bias=name == "dynamic",
                         mlp_bias=name == "dynamic", initializer_range=0.3,
                         attn_implementation="eager")
    model = LlamaForCausalLM(config).float().eval()
    for key, tensor in model.named_parameters():
        if key.endswith("bias"):
            torch.nn.init.normal_(tensor, std=0.3)
    folder = HERE / f"rope-{name}"
    model.save_pretrained(folder)
    model = model.double()
    ids = torch.randint(3, 64, (1, 40))
    with torch.no_grad():
        logits = model(ids).logits[0]
        greedy = model.generate(ids[:, :12], max_new_tokens=24, do_sample=False,
                                eos_token_id=None, pad_token_id=0)[0, 12:]
    save_file({"logits": logits.float().contiguous()}, folder / "logits.safetensors")
    (folder / "golden.json").write_text(json.dumps({
        "ids": ids[0].tolist(), "prompt": ids[0, :12].tolist(), "greedy": greedy.tolist()}) + "\n")


for each in ROPES.items():
    make(*each)
