#!/usr/bin/env bash
# Builds llama.cpp's llama-bench, the peer of `octet bench` on the same GGUF file, from the source
# distribution of llama-cpp-python 0.3.36, and prints its path. About 10 minutes on 2 cores. Linux.
#     tests/peer/llama.sh                into $PEER_DIR, or octet-peer in the temporary folder
#     PEER_AVX2=1 tests/peer/llama.sh    without AVX-512, beside the other
set -euo pipefail
version=0.3.36
peer=${PEER_DIR:-${TMPDIR:-/tmp}/octet-peer}
mkdir -p "$peer"
cd "$peer"
for tool in cmake ninja; do
    command -v "$tool" >/dev/null || { echo "llama.sh: $tool is missing; install it" >&2; exit 1; }
done
archive=llama_cpp_python-$version.tar.gz
[ -f "$archive" ] ||
    python3 -m pip download -q --no-deps --no-binary llama-cpp-python "llama-cpp-python==$version"
[ -d "llama_cpp_python-$version" ] || tar xf "$archive"
source=llama_cpp_python-$version/vendor/llama.cpp

build=$source/build
wide=ON
if [ -n "${PEER_AVX2:-}" ]; then
    build=$source/build-avx2
    wide=OFF
fi
options=(-DGGML_NATIVE=OFF -DGGML_{AVX,AVX2,FMA,F16C,BMI2}=ON -DGGML_AVX512{,_VNNI,_VBMI,_BF16}=$wide)
# Virtual machines may report AMX and crash at its first use.
if [ $wide = ON ] && ! grep -q amx_tile /proc/cpuinfo; then
    options=(-DGGML_NATIVE=ON)
fi
if [ ! -x "$build/bin/llama-bench" ]; then
    cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "${options[@]}" \
        -DGGML_AMX_TILE=OFF -DGGML_AMX_INT8=OFF -DGGML_AMX_BF16=OFF -DLLAMA_CURL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF >/dev/null
    ninja -C "$build" llama-bench >/dev/null
fi
echo "$peer/$build/bin/llama-bench"
