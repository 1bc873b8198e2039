#!/usr/bin/env python3
"""Compares `octet bench` with llama-bench on the same GGUF file, in turns, as ratios of medians.

    tests/peer/compare.py --octet target/release/octet --llama $(tests/peer/llama.sh) MODEL.gguf...
        [--threads 2] [--rounds 5] [--decode 64] [--prompt 512]

llama.cpp decodes behind as many tokens as Octet does. Of flash attention on and off and of weights
repacked at load and not, the best of the four counts, for the prompt and for decoding apart.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def octet(args, model):
    """Tokens a second of prompt and decoding."""
    report = run(
        [args.octet, "bench", "--json", "--model", model, "--device", "cpu"]
        + ["--threads", str(args.threads), "--repeat", "3"]
        + ["--prompt-tokens", str(args.prompt), "--new-tokens", str(args.decode)]
    )
    return report["prefill_tok_s"], report["decode_tok_s"]


def llama(args, model, flash, repack):
    common = [args.llama, "-m", model, "-t", str(args.threads), "-fa", flash, "--repack", repack]
    common += ["-r", "3", "-o", "json"]
    prompt = run(common + ["-p", str(args.prompt), "-n", "0"])
    decode = run(common + ["-p", "0", "-n", str(args.decode), "-d", str(args.prompt)])
    return prompt[0]["avg_ts"], decode[0]["avg_ts"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--octet", required=True)
    parser.add_argument("--llama", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("models", nargs="+")
    args = parser.parse_args()
    for model in args.models:
        ours, theirs = [], {both: [] for both in itertools.product("01", repeat=2)}
        for _ in range(args.rounds):
            ours.append(octet(args, model))
            for both, runs in theirs.items():
                runs.append(llama(args, model, *both))
        for i, what in enumerate(["prefill", "decode"]):
            mine = statistics.median(run[i] for run in ours)
            best = max(statistics.median(run[i] for run in runs) for runs in theirs.values())
            print(f"{model} {what}: octet {mine:.2f}, llama.cpp {best:.2f} tokens/s, {mine / best:.2f}x", flush=True)


if __name__ == "__main__":
    main()
