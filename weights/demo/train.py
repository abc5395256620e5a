#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the drafter and verifier of weights/demo/ again.

    train.py DATA OUT [--verifier-seconds 300] [--drafter-seconds 150]

DATA holds train.tsv and dev.tsv, lines of `language <tab> English <tab> translation` with language
de, es or fr: sentence pairs of Tatoeba (tatoeba.org) as www.manythings.org/anki offers them, less
what the test and development splits of the Tatoeba Challenge hold.  OUT receives verifier/ and
drafter/ as Hugging Face checkpoints.

Needs PyTorch with a CUDA GPU, tokenizers and safetensors.  Training goes by the clock: the learning
rate falls along a cosine that ends when the time is up.  The pair in this folder took about six
minutes on one H100; other machines, and other runs, end with other weights of like quality.

A sequence is <s> <2language> English <sep> translation </s>; the loss is on the translation and
</s>.  The verifier learns from the text; the drafter from 0.3 text and 0.7 the verifier.
"""
import argparse
import json
import math
import pathlib
import random
import time

PAD, BOS, EOS, SEP = 0, 1, 2, 3
LONGEST = 128  # tokens of a training sequence
NO_LOSS = -100


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="folder of train.tsv and dev.tsv")
    parser.add_argument("out", type=pathlib.Path, help="folder to write verifier/ and drafter/ to")
    parser.add_argument("--vocab", type=int, default=6144, help="tokens (default 6144)")
    parser.add_argument("--verifier-seconds", type=float, default=300, help="default 300")
    parser.add_argument("--drafter-seconds", type=float, default=150, help="default 150")
    parser.add_argument("--dropout", type=float, default=0.2, help="of the verifier (default 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    return parser.parse_args()


args = arguments()  # before the imports below: --help needs none of them

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from torch import nn  # noqa: E402


# ---- model: Llama, as transformers has it ---------------------------------------------------------

class RMSNorm(nn.Module):
    def __init__(self, dim, eps=1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return (y * self.weight.float()).to(x.dtype)


def rope(x, base=10000.0):
    length, dim = x.shape[-2], x.shape[-1]
    frequency = 1.0 / base ** (torch.arange(0, dim, 2, device=x.device).float() / dim)
    angle = torch.arange(length, device=x.device).float()[:, None] * frequency[None]
    cosine, sine = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
    low, high = x[..., :dim // 2], x[..., dim // 2:]
    return (x.float() * cosine + torch.cat([-high, low], -1).float() * sine).to(x.dtype)


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Block(nn.Module):
    def __init__(self, config, dropout):
        super().__init__()
        dim, ffn = config["hidden_size"], config["intermediate_size"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim, self.dropout = config["head_dim"], dropout
        self.self_attn = nn.ModuleDict({
            "q_proj": linear(dim, self.heads * self.head_dim),
            "k_proj": linear(dim, self.kv_heads * self.head_dim),
            "v_proj": linear(dim, self.kv_heads * self.head_dim),
            "o_proj": linear(self.heads * self.head_dim, dim)})
        self.mlp = nn.ModuleDict({"gate_proj": linear(dim, ffn), "up_proj": linear(dim, ffn),
                                  "down_proj": linear(ffn, dim)})
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(dim), RMSNorm(dim)

    def drop(self, x):
        return F.dropout(x, self.dropout, self.training)

    def attend(self, x):
        batch, length, _ = x.shape

        def split(name, heads):
            y = self.self_attn[name](x).view(batch, length, heads, self.head_dim)
            return y.transpose(1, 2)

        query, key = rope(split("q_proj", self.heads)), rope(split("k_proj", self.kv_heads))
        value, group = split("v_proj", self.kv_heads), self.heads // self.kv_heads
        out = F.scaled_dot_product_attention(
            query, key.repeat_interleave(group, 1), value.repeat_interleave(group, 1),
            is_causal=True, dropout_p=self.dropout if self.training else 0.0)
        return self.self_attn["o_proj"](out.transpose(1, 2).reshape(batch, length, -1))

    def feed(self, x):
        return self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](x)) * self.mlp["up_proj"](x))

    def forward(self, x):
        x = x + self.drop(self.attend(self.input_layernorm(x)))
        return x + self.drop(self.feed(self.post_attention_layernorm(x)))


class Model(nn.Module):
    def __init__(self, config, dropout):
        super().__init__()
        self.dropout = dropout
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        layers = config["num_hidden_layers"]
        self.layers = nn.ModuleList(Block(config, dropout) for _ in range(layers))
        self.norm = RMSNorm(config["hidden_size"])
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                last = "o_proj" in name or "down_proj" in name
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * layers) if last else 1))

    def forward(self, ids):
        x = F.dropout(self.embed_tokens(ids), self.dropout, self.training)
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.embed_tokens.weight)  # the head is the embedding


def llama_config(vocab, dim, layers, heads, kv_heads, ffn, head_dim):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab,
            "hidden_size": dim, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": ffn,
            "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": True, "attention_bias": False,
            "mlp_bias": False, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
            "torch_dtype": "bfloat16"}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1))


def save(model, config, tokenizer, folder):
    folder.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": weight.detach().to(torch.bfloat16).contiguous().cpu()
               for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json",
               {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD})
    write_json(folder / "tokenizer_config.json",
               {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>",
                "eos_token": "</s>", "pad_token": "<pad>", "model_max_length": 512,
                "clean_up_tokenization_spaces": False})
    tokenizer.save(str(folder / "tokenizer.json"))


# ---- data ----------------------------------------------------------------------------------------

def read_rows(path):
    with open(path, encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines]
    return [row for row in rows if len(row) == 3]


def train_tokenizer(rows, vocab):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<sep>"]
    special += [f"<2{language}>" for language in sorted({row[0] for row in rows})]
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator((text for row in rows for text in row[1:]), trainer)
    return tokenizer


def encode(tokenizer, rows):
    """Pairs of prompt and continuation, as ids."""
    sources = tokenizer.encode_batch([row[1] for row in rows])
    targets = tokenizer.encode_batch([row[2] for row in rows])
    pairs = [([BOS, tokenizer.token_to_id(f"<2{row[0]}>")] + source.ids + [SEP],
              target.ids + [EOS]) for row, source, target in zip(rows, sources, targets)]
    return [pair for pair in pairs if len(pair[0]) + len(pair[1]) <= LONGEST]


def pack(pairs):
    """One pair of tensors (inputs, labels) per padded length, on the GPU."""
    by_length = {}
    for pair in pairs:
        by_length.setdefault((len(pair[0]) + len(pair[1]) + 7) // 8 * 8, []).append(pair)
    packed = {}
    for length, group in by_length.items():
        inputs = torch.zeros(len(group), length, dtype=torch.long)
        labels = torch.full((len(group), length), NO_LOSS)
        for i, (prompt, target) in enumerate(group):
            end = len(prompt) + len(target)
            inputs[i, :end] = torch.tensor(prompt + target)
            labels[i, len(prompt) - 1:end - 1] = torch.tensor(target)
        packed[length] = (inputs.cuda(), labels.cuda())
    return packed


def batches(packed, tokens):
    """All sequences once, in random order, in batches of one length and about so many tokens."""
    jobs = []
    for length, (inputs, _) in packed.items():
        order, size = torch.randperm(len(inputs), device="cuda"), max(1, tokens // length)
        jobs += [(length, order[i:i + size]) for i in range(0, len(inputs), size)]
    random.shuffle(jobs)
    for length, rows in jobs:
        yield packed[length][0][rows], packed[length][1][rows]


# ---- training ------------------------------------------------------------------------------------

def logits_of(model, inputs, mask):
    with torch.autocast("cuda", torch.bfloat16):
        logits = model(inputs)
    return logits.reshape(-1, logits.shape[-1])[mask].float()


def loss_of(model, teacher, inputs, labels):
    flat = labels.reshape(-1)
    mask = flat != NO_LOSS
    logits = logits_of(model, inputs, mask)
    loss = F.cross_entropy(logits, flat[mask])
    if teacher is None:
        return loss
    with torch.no_grad():
        wanted = F.log_softmax(logits_of(teacher, inputs, mask), -1)
    return 0.3 * loss + 0.7 * F.kl_div(F.log_softmax(logits, -1), wanted, log_target=True,
                                       reduction="batchmean")


def train(model, packed, seconds, peak_rate, teacher=None):
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, betas=(0.9, 0.98),
                                  weight_decay=0.05, fused=True)
    begin, step = time.time(), 0
    while True:
        for inputs, labels in batches(packed, 32768):
            done = (time.time() - begin) / seconds
            if done >= 1:
                return
            warm_up = min(1, (step + 1) / 400)
            rate = peak_rate * warm_up * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(model, teacher, inputs, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 500 == 0:
                print(f"step {step}, {100 * done:.0f} %, loss {loss.item():.3f}", flush=True)


def evaluate(model, packed):
    """Negative log-likelihood per token, and share of tokens predicted, teacher forced."""
    total = count = right = 0
    model.eval()
    with torch.no_grad():
        for inputs, labels in batches(packed, 65536):
            flat = labels.reshape(-1)
            mask = flat != NO_LOSS
            logits, wanted = logits_of(model, inputs, mask), flat[mask]
            total += F.cross_entropy(logits, wanted, reduction="sum").item()
            right += (logits.argmax(-1) == wanted).sum().item()
            count += wanted.numel()
    model.train()
    return total / count, right / count


def main():
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    rows = {name: read_rows(args.data / f"{name}.tsv") for name in ("train", "dev")}
    tokenizer = train_tokenizer(rows["train"], args.vocab)
    packed = {name: pack(encode(tokenizer, part)) for name, part in rows.items()}
    vocab = tokenizer.get_vocab_size()

    config = llama_config(vocab, dim=320, layers=6, heads=8, kv_heads=4, ffn=896, head_dim=64)
    verifier = Model(config, args.dropout).cuda()
    train(verifier, packed["train"], args.verifier_seconds, 1.5e-3)
    print("verifier: dev nll %.3f, accuracy %.3f" % evaluate(verifier, packed["dev"]))
    save(verifier, config, tokenizer, args.out / "verifier")

    config = llama_config(vocab, dim=128, layers=2, heads=4, kv_heads=2, ffn=384, head_dim=32)
    drafter = Model(config, 0.0).cuda()
    verifier.eval()
    train(drafter, packed["train"], args.drafter_seconds, 4e-3, teacher=verifier)
    print("drafter: dev nll %.3f, accuracy %.3f" % evaluate(drafter, packed["dev"]))
    save(drafter, config, tokenizer, args.out / "drafter")


if __name__ == "__main__":
    main()
