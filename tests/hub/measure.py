#!/usr/bin/env python3
"""Downloads from the test hub by Octet and by curl, in turns, with the same parallelism.

    octet synth --config config.json --out /dev/shm/model     # and a tokenizer.json into it
    tests/hub/measure.py --octet target/release/octet --hub target/release/octet-test-hub /dev/shm/model

Everything lies in memory (--work, a tmpfs). Prints each round, then medians: speed by the clock and
by the processor's time (client and hub together, which is what counts where others use the
machine), the speed of checking against that of sha256sum, and the memory taken.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import time
import urllib.request

REPO = "measure/model"
PARALLEL = 8


def cpu_seconds(pid):
    """Of a process that runs."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    def __init__(self, args):
        self.octet, self.model, self.work = args.octet, args.model, args.work
        self.hub = subprocess.Popen(
            [args.hub, "--repo", f"{REPO}={args.model}"], stdout=subprocess.PIPE, text=True
        )
        self.url = self.hub.stdout.readline().strip()
        with urllib.request.urlopen(f"{self.url}/api/models/{REPO}?blobs=true") as answer:
            listed = json.load(answer)["siblings"]
        self.files = [file["rfilename"] for file in listed]
        self.bytes = sum(file["size"] for file in listed)

    def run(self, command, env=None):
        """Seconds, processor seconds with the hub's, and peak memory in MB."""
        hub, begun = cpu_seconds(self.hub.pid), time.monotonic()
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        if status != 0:
            raise SystemExit(f"{command[0]} ended with {status}")
        cpu = usage.ru_utime + usage.ru_stime + cpu_seconds(self.hub.pid) - hub
        return seconds, cpu, usage.ru_maxrss / 1000

    def curl(self):
        folder = os.path.join(self.work, "curl")
        os.makedirs(folder)
        config = os.path.join(folder, "config")
        with open(config, "w") as out:
            for name in self.files:
                out.write(f'url = "{self.url}/{REPO}/resolve/main/{name}"\n')
                out.write(f'output = "{folder}/{name}"\n')
        parallel = ["--parallel", "--parallel-max", str(PARALLEL)]
        figures = self.run(["curl", "-sSfL", "--no-progress-meter", *parallel, "-K", config])
        shutil.rmtree(folder)
        return figures

    def octet_pull_and_verify(self):
        home = os.path.join(self.work, "octet")
        os.makedirs(home)
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env.update(HF_ENDPOINT=self.url, HF_HOME=home, HF_HUB_CACHE=f"{home}/hub", HOME=home)
        for name in ["CONFIG", "DATA", "CACHE"]:
            env[f"XDG_{name}_HOME"] = f"{home}/{name}"
        pulled = self.run([self.octet, "models", "pull", REPO], env)
        verified = self.run([self.octet, "models", "verify", REPO], env)
        shutil.rmtree(home)
        return pulled, verified

    def sha256sum(self):
        paths = [os.path.join(self.model, name) for name in self.files]
        return self.run(["sha256sum", *paths])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--octet", required=True)
    parser.add_argument("--hub", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", default="/dev/shm/octet-measure")
    parser.add_argument("model")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    bench = Bench(args)
    figures = {"curl": [], "octet": [], "verify": [], "sha256sum": []}
    try:
        for round in range(args.rounds):
            turns = ["curl", "octet"]
            for turn in turns if round % 2 == 0 else reversed(turns):
                if turn == "curl":
                    figures["curl"].append(bench.curl())
                else:
                    pulled, verified = bench.octet_pull_and_verify()
                    figures["octet"].append(pulled)
                    figures["verify"].append(verified)
            figures["sha256sum"].append(bench.sha256sum())
            speeds = [f"{name} {bench.bytes / 1e6 / runs[-1][0]:.0f}" for name, runs in figures.items()]
            print(f"round {round + 1}, MB/s: {', '.join(speeds)}", flush=True)
    finally:
        bench.hub.terminate()
        shutil.rmtree(args.work, ignore_errors=True)

    def median(name, part):
        return statistics.median(run[part] for run in figures[name])

    print(f"{len(bench.files)} files, {bench.bytes / 1e9:.2f} GB, medians of {args.rounds}")
    for ours, theirs in [("octet", "curl"), ("verify", "sha256sum")]:
        clock, cpu = (median(theirs, part) / median(ours, part) for part in (0, 1))
        speed = [bench.bytes / 1e6 / median(name, 0) for name in (ours, theirs)]
        peak = max(run[2] for run in figures[ours])
        print(
            f"{ours} {speed[0]:.0f} MB/s, {theirs} {speed[1]:.0f} MB/s: {clock:.0%} by the clock, "
            f"{cpu:.0%} by processor time; {ours} peaks at {peak:.0f} MB"
        )


main()
