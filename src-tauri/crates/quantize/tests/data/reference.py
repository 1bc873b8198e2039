#!/usr/bin/env python3
"""Writes reference.json: what the reference HQQ makes of seeded matrices.

Run by hand, not by the tests:

    pip install hqq==0.2.8.post1 torch termcolor tqdm numpy
    python reference.py > reference.json

The matrices are made by a generator that the tests repeat bit for bit: word i is SplitMix64's
finalizer of seed + (i + 1) * 0x9e3779b97f4a7c15; a bell-shaped number is the sum of the twelve
16-bit digits of three words, centred and divided by its standard deviation; a heavy-tailed one is
Student's t with five degrees of freedom, made of six of those, divided by its standard deviation.
Only additions, multiplications, divisions and square roots are used, which IEEE 754 rounds alike
everywhere. The sum of the values' bits, each times an odd number, is stored to prove it.

Weights, scales and zeros are quantized by hqq.core.quantize.Quantizer as the demo's were: the
zero solved for (rounded at the start for 4 bits), scales in groups and all zeros together to 8 bits
rounded to nearest, their own scales and zeros in f16. The errors are Frobenius norms of the
difference over those of the weights, after all of it, in f32 arithmetic. `rtn_error` is the same
without the solver.
"""

import json
import sys

import hqq
import numpy as np
import torch
from hqq.core.quantize import Quantizer

SHAPE = (512, 1024)
# bits, group size, scale group size
SPECS = [
    (2, 16, 128),
    (2, 64, 128),
    (3, 64, 128),
    (4, 16, 128),
    (4, 64, 256),
    (8, 64, 128),
    (2, 16, None),
    (4, 64, None),
    (8, 128, None),
]
# distribution, standard deviation, seed: a model's weights, and large ones for the shrinking
# operator, which does nothing to small errors
MATRICES = [("bell", 0.02, 1), ("heavy", 0.02, 2), ("heavy", 1.0, 3)]


def words(seed, count):
    with np.errstate(over="ignore"):
        i = np.arange(1, count + 1, dtype=np.uint64)
        z = np.uint64(seed) + i * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def bells(seed, count):
    digits = words(seed, 3 * count).reshape(count, 3)
    total = np.zeros(count, dtype=np.uint64)
    for shift in (0, 16, 32, 48):
        total += ((digits >> np.uint64(shift)) & np.uint64(0xFFFF)).sum(axis=1, dtype=np.uint64)
    return (total.astype(np.float64) - 393210.0) / np.sqrt(4294967295.0)


def matrix(distribution, std, seed):
    count = SHAPE[0] * SHAPE[1]
    if distribution == "bell":
        values = bells(seed, count)
    else:
        z = bells(seed, 6 * count).reshape(count, 6)
        squares = np.zeros(count)
        for column in range(1, 6):
            squares = squares + z[:, column] * z[:, column]
        values = z[:, 0] / np.sqrt(squares / 5.0) / np.sqrt(5.0 / 3.0)
    return (values * std).astype(np.float32)


def checksum(values):
    with np.errstate(over="ignore"):
        odd = 2 * np.arange(values.size, dtype=np.uint64) + np.uint64(1)
        return int((values.view(np.uint32).astype(np.uint64) * odd).sum(dtype=np.uint64))


def stored_meta(values, shape, **params):
    """What the file holds of scales or zeros: 8 bits, with scale and zero in f16."""
    q, meta = Quantizer.quantize(values, nbits=8, optimize=False, device="cpu", **params)
    scale, zero = (meta[name].half().float() for name in ("scale", "zero"))
    return ((q.float() - zero) * scale).reshape(shape)


def error(weights, bits, group_size, scale_group_size, optimize):
    q, meta = Quantizer.quantize(
        weights,
        nbits=bits,
        group_size=group_size,
        optimize=optimize,
        round_zero=bits == 4,
        axis=0,
        bitpack=False,
        device="cpu",
    )
    scale, zero = meta["scale"], meta["zero"]
    if scale_group_size is None:
        scale, zero = scale.half().float(), zero.half().float()
    else:
        scale = stored_meta(scale, scale.shape, group_size=scale_group_size, axis=0)
        zero = stored_meta(zero, zero.shape, channel_wise=False, group_size=None)
    difference = ((q.float() - zero) * scale).reshape(SHAPE).double() - weights.double()
    return float(difference.norm() / weights.double().norm())


def main():
    matrices = []
    for distribution, std, seed in MATRICES:
        values = matrix(distribution, std, seed)
        weights = torch.from_numpy(values).reshape(SHAPE)
        cases = [
            {
                "bits": bits,
                "group_size": group_size,
                "scale_group_size": scale_group_size,
                "error": round(error(weights, bits, group_size, scale_group_size, True), 7),
                "rtn_error": round(error(weights, bits, group_size, scale_group_size, False), 7),
            }
            for bits, group_size, scale_group_size in SPECS
        ]
        matrices.append(
            {
                "distribution": distribution,
                "std": std,
                "seed": seed,
                "shape": SHAPE,
                "checksum": checksum(values),
                "cases": cases,
            }
        )
    reference = f"hqq {hqq.__version__}, torch {torch.__version__}, CPU"
    json.dump({"reference": reference, "matrices": matrices}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
