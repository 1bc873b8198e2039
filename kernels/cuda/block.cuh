// Maxima over a warp and a block of 256 threads.
#pragma once
#include "octet.cuh"

#define BLOCK_WARPS 8
#define MINUS_INFINITY __int_as_float((int)0xff800000u)

// The maximum over the block, the same in all threads. `scratch` (8) may be written again behind the
// next barrier only.
FN float block_max(float v, float* scratch) {
    v = warp_max(v);
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = v;
    __syncthreads();
    float most = scratch[0];
#pragma unroll
    for (int w = 1; w < BLOCK_WARPS; w++) most = fmaxf(most, scratch[w]);
    return most;
}

// Raises *slot to the largest v of the warp; v is not negative. A look is cheaper than an atomic,
// and mostly another warp was there with more.
FN void raise_warp_max(float* slot, float v) {
    v = warp_max(v);
    if (threadIdx.x % WARP == 0 && v > *(volatile float*)slot) raise_max(slot, v);
}
