#!/usr/bin/env python3
"""Writes logits.json: how far the reference HQQ takes a small Mixtral's logits from the float ones.

Run by hand, like reference.py, whose generator and quantizer it uses:

    python logits.py > logits.json

The model's tensors are drawn in the order of `tensors()`, seed 100 and up, bell-shaped with a
standard deviation of 1/sqrt(columns), the experts' with heavy tails; norms are ones. The error of a
case is the Frobenius norm of the difference of all logits over that of the float logits, where
`tokens` are read as one prompt. The forward pass is that of the demo model's training script.
"""

import json
import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "demo" / "train"))
from model import Matrix, Mixtral, Norm, Shape  # noqa: E402

import reference  # noqa: E402

SHAPE = Shape(
    vocab_size=512,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=2,
    rope_theta=1e6,
    max_position_embeddings=512,
)
TOKENS = [(37 * i * i + 11 * i + 5) % 512 for i in range(96)]
# expert bits and group, attention bits and group; scales in groups of 128 and 256
CASES = [(2, 16, 4, 64), (4, 64, 4, 64)]


def tensors(model):
    """Parameters in the order in which they are drawn: (parameter, heavy tails)."""
    yield model.embed_tokens.weight, False
    yield model.lm_head.weight, False
    for layer in model.layers:
        a, moe = layer.self_attn, layer.block_sparse_moe
        for p in (a.q_proj, a.k_proj, a.v_proj, a.o_proj, moe.gate):
            yield p.weight, False
        for e in moe.experts:
            for p in (e.w1, e.w2, e.w3):
                yield p.weight, True


def draw(model):
    with torch.no_grad():
        for seed, (p, heavy) in enumerate(tensors(model), 100):
            rows, columns = p.shape
            reference.SHAPE = (rows, columns)
            values = reference.matrix("heavy" if heavy else "bell", 1 / math.sqrt(columns), seed)
            p.copy_(torch.from_numpy(values).reshape(rows, columns))
        # Files hold the trunk in f16.
        for p in (model.embed_tokens.weight, model.lm_head.weight):
            p.copy_(p.half().float())
        for layer in model.layers:
            gate = layer.block_sparse_moe.gate.weight
            gate.copy_(gate.half().float())


def quantized(weights, bits, group_size, scale_group_size, optimize):
    q, meta = reference.Quantizer.quantize(
        weights, nbits=bits, group_size=group_size, optimize=optimize, round_zero=bits == 4,
        axis=0, bitpack=False, device="cpu",
    )
    scale, zero = meta["scale"], meta["zero"]
    scale = reference.stored_meta(scale, scale.shape, group_size=scale_group_size, axis=0)
    zero = reference.stored_meta(zero, zero.shape, channel_wise=False, group_size=None)
    return ((q.float() - zero) * scale).reshape(weights.shape)


@torch.no_grad()
def logits(model):
    n = len(TOKENS)
    mask = torch.ones(1, n, n, dtype=torch.bool).tril()
    live = torch.ones(1, n, dtype=torch.bool)
    position = torch.arange(n, dtype=torch.float32)[None]
    return model(torch.tensor([TOKENS]), position, mask, live)[0].double()


@torch.no_grad()
def main():
    torch.manual_seed(0)
    model = Mixtral(SHAPE).eval()
    assert all(isinstance(m.weight, torch.nn.Parameter) for m in model.modules() if isinstance(m, (Matrix, Norm)))
    draw(model)
    exact = logits(model)
    cases = []
    for expert_bits, expert_group, attention_bits, attention_group in CASES:
        errors = []
        for optimize in (True, False):
            draw(model)
            for layer in model.layers:
                for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                    p = getattr(layer.self_attn, name).weight
                    p.copy_(quantized(p, attention_bits, attention_group, 256, optimize))
                for expert in layer.block_sparse_moe.experts:
                    for p in (expert.w1.weight, expert.w2.weight, expert.w3.weight):
                        p.copy_(quantized(p, expert_bits, expert_group, 128, optimize))
            errors.append(round(float((logits(model) - exact).norm() / exact.norm()), 5))
        cases.append(
            {
                "expert_bits": expert_bits,
                "expert_group": expert_group,
                "attention_bits": attention_bits,
                "attention_group": attention_group,
                "error": errors[0],
                "rtn_error": errors[1],
            }
        )
    out = {
        "reference": f"hqq {reference.hqq.__version__}, torch {torch.__version__}, CPU",
        "config": SHAPE.config(),
        "tokens": TOKENS,
        "float_norm": float(exact.norm()),
        "float_first": [round(float(x), 5) for x in exact[-1, :8]],
        "cases": cases,
    }
    json.dump(out, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
