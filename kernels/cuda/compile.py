#!/usr/bin/env python3
"""Compiles the kernels of this folder to the PTX beside them, and reports what they take.

    compile.py --nvidia DIR --check            fails if a .ptx or REPORT.md is not what the
                                               sources give
    compile.py --nvidia DIR --write [FILE.cu]  writes them; with files, only the PTX of those

DIR is the folder `nvidia` of the wheels in requirements.txt; `.ci/ptx` installs them and runs
this. The output depends on the sources and the wheels alone: no paths, no time.
"""

import argparse
import concurrent.futures
import ctypes
import difflib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
OPTIONS = ["--gpu-architecture=compute_75", "-default-device", "--std=c++17"]
# T4 and RTX 20; A100; RTX 30; RTX 40; H100.
ARCHITECTURES = [75, 80, 86, 89, 90]
MOST_SHARED = 48 << 10
# Kernels that may spill registers, with the reason.
MAY_SPILL = {}


class Nvrtc:
    def __init__(self, nvidia):
        lib = nvidia / "cuda_nvrtc/lib"
        # By hand, because NVRTC looks for it by name only.
        ctypes.CDLL(str(lib / "libnvrtc-builtins.so.12.0"), mode=ctypes.RTLD_GLOBAL)
        self.lib = ctypes.CDLL(str(lib / "libnvrtc.so.12"))
        self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name, *args):
        code = getattr(self.lib, name)(*args)
        return "" if code == 0 else f"{name}: {self.lib.nvrtcGetErrorString(code).decode()}"

    def text(self, name, program):
        size = ctypes.c_size_t()
        self.call(f"{name}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self.call(name, program, text)
        return text.value.decode()

    def compile(self, source, headers):
        """The PTX of a file. Headers go in as text, so that no path gets into it."""
        program = ctypes.c_void_p()
        names = (ctypes.c_char_p * len(headers))(*[h.name.encode() for h in headers])
        texts = (ctypes.c_char_p * len(headers))(*[h.read_bytes() for h in headers])
        failed = self.call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            ctypes.c_char_p(source.read_bytes()),
            ctypes.c_char_p(source.name.encode()),
            len(headers),
            texts,
            names,
        )
        if failed:
            sys.exit(failed)
        options = (ctypes.c_char_p * len(OPTIONS))(*[o.encode() for o in OPTIONS])
        failed = self.call("nvrtcCompileProgram", program, len(OPTIONS), options)
        log = self.text("nvrtcGetProgramLog", program).strip()
        if log:
            print(log, file=sys.stderr)
        if failed:
            sys.exit(f"{source.name}: {failed}")
        return self.text("nvrtcGetPTX", program)


def assemble(ptxas, ptx, architecture):
    """{kernel: (registers, shared bytes, spilled bytes)} of a PTX text."""
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "kernels.ptx"
        path.write_text(ptx)
        run = subprocess.run(
            [ptxas, "-v", f"--gpu-name=sm_{architecture}", "-o", path.with_suffix(".cubin"), path],
            stderr=subprocess.PIPE,
            text=True,
        )
    if run.returncode != 0:
        raise RuntimeError(f"ptxas for sm_{architecture}:\n{run.stderr}")
    found, kernel, spilled = {}, None, 0
    for line in run.stderr.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = match[1]
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found[kernel] = (int(match[1]), int(shared[1]) if shared else 0, spilled)
    return found


def report(ptxas, texts):
    """REPORT.md, and what is wrong with the figures."""
    lines = [
        "# What the kernels take",
        "",
        "Written by `.ci/ptx --write` (ptxas 12.0.140). Registers are per thread, by architecture; shared",
        "memory and spills in bytes, the most of any architecture.",
        "",
        "| Kernel | File | Shared | " + " | ".join(f"sm_{a}" for a in ARCHITECTURES) + " | Spills |",
        "|---|---|--:|" + "--:|" * len(ARCHITECTURES) + "--:|",
    ]
    wrong = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {
            source: [pool.submit(assemble, ptxas, ptx, a) for a in ARCHITECTURES]
            for source, ptx in texts.items()
        }
    for source, running in jobs.items():
        by = [job.result() for job in running]
        for kernel in sorted(by[0]):
            registers = [str(b[kernel][0]) for b in by]
            shared, spills = (max(b[kernel][i] for b in by) for i in (1, 2))
            lines.append(f"| {kernel} | {source.name} | {shared} | {' | '.join(registers)} | {spills} |")
            if spills and kernel not in MAY_SPILL:
                wrong.append(f"{kernel} ({source.name}) spills {spills} bytes of registers")
            if shared > MOST_SHARED:
                wrong.append(f"{kernel} ({source.name}) takes {shared} bytes of shared memory")
    return "\n".join(lines) + "\n", wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nvidia", type=pathlib.Path, required=True)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true")
    mode.add_argument("--write", action="store_true")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    args = parser.parse_args()

    nvrtc = Nvrtc(args.nvidia)
    headers = sorted(HERE.glob("*.cuh"))
    sources = [f.resolve() for f in args.files] or sorted(HERE.glob("*.cu"))
    texts = {source: nvrtc.compile(source, headers) for source in sources}
    outputs = {source.with_suffix(".ptx"): ptx for source, ptx in texts.items()}
    wrong = []
    if not args.files:
        outputs[HERE / "REPORT.md"], wrong = report(args.nvidia / "cuda_nvcc/bin/ptxas", texts)
        for path in sorted(set(HERE.glob("*.ptx")) - set(outputs)):
            wrong.append(f"{path.name} has no source beside it")

    for path, text in outputs.items():
        old = path.read_text() if path.exists() else ""
        if old == text:
            continue
        if args.write:
            path.write_text(text)
            print(f"wrote {path.name}")
        else:
            wrong.append(f"{path.name} is not what the sources give; .ci/ptx --write writes it")
            diff = difflib.unified_diff(old.splitlines(), text.splitlines(), "committed", "compiled", lineterm="", n=1)
            print("\n".join(list(diff)[:40]), file=sys.stderr)
    if wrong:
        sys.exit("\n".join(f"ptx: {w}" for w in wrong))
    print(f"ptx: {len(sources)} files compile to the PTX beside them" if args.check else "ptx: written")


if __name__ == "__main__":
    main()
