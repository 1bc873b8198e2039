// What all kernels share: types, half precision, warps, tensor cores, and the packed HQQ matrix.
//
// Compiled two ways from one source: by NVRTC for compute_75 (the .ptx beside each .cu), and by a
// C++ compiler with OCTET_HOST for tests, where a warp's lanes are fibers on a processor. So a
// kernel uses what is defined here and the CUDA built-ins threadIdx, blockIdx, blockDim, gridDim,
// __shared__ (static, at most 48 KB), __syncthreads, __syncwarp, __shfl_xor_sync, __shfl_sync,
// atomicMax on int, float4/int4/uint4/uint2 and the float functions of C, and nothing else.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;  // also: the bits of an f16
typedef unsigned int u32;
typedef unsigned long long u64;

#define WARP 32
#define ALL_LANES 0xffffffffu

#ifdef OCTET_HOST
#include "host.h"  // the same names for a processor; defines KERNEL, h2f, f2h, f2h2, mma_f16
#else
#define KERNEL(name) extern "C" __global__ void name
// Makes a kernel known to the host build.
#define KERNEL_IS_HERE(name)

__device__ __forceinline__ float h2f(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

// Rounds to nearest, ties to even.
__device__ __forceinline__ u16 f2h(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

// Two halves, `low` in the low bits.
__device__ __forceinline__ u32 f2h2(float low, float high) {
    return (u32)f2h(low) | (u32)f2h(high) << 16;
}

// c += a b on tensor cores, a 16 x 8 (row-major), b 8 x 8 (column-major), c 16 x 8 in f32.
// With g = lane / 4 and q = lane % 4: a0 holds row g, columns 2q and 2q + 1; a1 row g + 8, the
// same columns; b0 rows 2q and 2q + 1 of column g; c[0], c[1] row g, columns 2q and 2q + 1;
// c[2], c[3] row g + 8. Subnormal halves count in full.
__device__ __forceinline__ void mma_f16(float c[4], u32 a0, u32 a1, u32 b0) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(b0));
}
#endif

#ifdef OCTET_HOST
#define FN static inline
#else
#define FN __device__ __forceinline__
#endif

// A scale or zero a group. Quantized: value(c) = (q[c] - zero[c % m]) * scale[c % m], u8 q, f16
// scale and zero. Plain (q null): value(c) = scale[c % m], with m the number of groups, or 1.
struct Param {
    const u8* q;
    const u16* scale;
    const u16* zero;
    int m;
    int unused;
};

// One HQQ matrix, n rows (out) by k columns (in), packed as in the file (see layout.rs, and
// "byte by byte" there): viewed as group_size rows by n_groups = n * k / group_size columns, a
// group is a column. w_q is (packed_rows, n_groups) u8, or int for 3 bits. In device memory w_q,
// scale.q and zero.q are aligned to 16 bytes, f16 arrays to 2.
struct Matrix {
    const void* w_q;
    Param scale;
    Param zero;
    int n, k;
    int bits;  // 2, 3, 4, 8
    int group_size;
    int n_groups;
    int packed_rows;  // ceil(group_size / units), units a byte 4, 2, 1, or 10 an int
};

// expert(x) = w2 (silu(w1 x) * w3 x)
struct Expert {
    Matrix w1, w2, w3;
};

// Which experts a launch computes, for one token: for i < count, the router's choice number
// j[i], whose weights lie in slot[i]; where slot[i] is -1, in place[ids[j[i]]].
#define MAX_PICKS 8
struct Picks {
    int count;
    int j[MAX_PICKS];
    int slot[MAX_PICKS];
};

// What differs from token to token: kernels read it, so that their launches can be recorded once and run for every
// token.
struct Moment {
    int position;    // in the cache, of the first token of the pass
    float reuse_p;   // for router.cu
    u32 reuse_seed;  // for router.cu
    int unused;
};

FN float param_at(const Param& p, int c) {
    int i = p.m == 1 ? 0 : c % p.m;
    float s = h2f(p.scale[i]);
    return p.q ? ((float)p.q[c] - h2f(p.zero[i])) * s : s;
}

// The quantized value of flat weight `i`: the plain definition, for any layout.
FN int q_at(const Matrix& w, long long i) {
    int row = (int)(i / w.n_groups), c = (int)(i % w.n_groups);  // of the view
    int part = row / w.packed_rows, unit_row = row % w.packed_rows;
    long long at = (long long)unit_row * w.n_groups + c;
    if (w.bits == 3) return ((const u32*)w.w_q)[at] >> (3 * (9 - part)) & 7;
    return ((const u8*)w.w_q)[at] >> (8 - w.bits * (part + 1)) & ((1 << w.bits) - 1);
}

FN float warp_sum(float v) {
    for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(ALL_LANES, v, d);
    return v;
}

FN float warp_max(float v) {
    for (int d = 16; d > 0; d >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, d));
    return v;
}

// Raises *slot to `v`, which is not negative (so that its bits order like an int).
FN void raise_max(float* slot, float v) { atomicMax((int*)slot, __float_as_int(v)); }

// A power of two that brings values of magnitude up to `amax` below 1 in magnitude, so that they
// fit f16 whatever their size (below 4 from 2^126 on); 1 for zero. Its inverse is exact too.
FN float into_half_range(float amax) {
    int e = (__float_as_int(amax) >> 23 & 255) - 127;  // amax < 2^(e + 1)
    if (e < -100) return 1.0f;
    if (e > 125) e = 125;  // whose factor is the smallest normal float
    return __int_as_float((127 - (e + 1)) << 23);
}

FN float silu(float x) { return x / (1.0f + __expf(-x)); }
