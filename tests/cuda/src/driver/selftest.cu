// Kernels that test what runs them; see tests/.
#include "octet.cuh"

// y[i] = x[i] * factor + i.
KERNEL(selftest_scale)(const float* x, float* y, float factor, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] * factor + (float)i;
}
KERNEL_IS_HERE(selftest_scale)

// y[block] = the sum of the block's x, by shuffles, shared memory and a barrier. 256 threads.
KERNEL(selftest_sum)(const float* x, float* y, int n) {
    __shared__ float parts[8];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = warp_sum(i < n ? x[i] : 0.0f);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = sum;
    __syncthreads();
    float all = threadIdx.x < 8 ? parts[threadIdx.x] : 0.0f;
    if (threadIdx.x < WARP) {
        all = warp_sum(all);
        if (threadIdx.x == 0) y[blockIdx.x] = all;
    }
}
KERNEL_IS_HERE(selftest_sum)

// As selftest_sum without its barrier. `y[0]` is wrong by what was not yet there.
KERNEL(selftest_sum_unsynced)(const float* x, float* y, int n) {
    __shared__ float parts[8];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = warp_sum(i < n ? x[i] : 0.0f);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = sum;
    if (threadIdx.x < WARP) {
        float all = warp_sum(threadIdx.x < 8 ? parts[threadIdx.x] : 0.0f);
        if (threadIdx.x == 0) y[blockIdx.x] = all;
    }
}
KERNEL_IS_HERE(selftest_sum_unsynced)

// One warp. Each lane's number through each shuffle: y (4, 32).
KERNEL(selftest_shuffle)(int* y) {
    int lane = threadIdx.x;
    y[lane] = __shfl_xor_sync(ALL_LANES, lane, 5);
    y[32 + lane] = __shfl_sync(ALL_LANES, lane * 2, 7);
    y[64 + lane] = __shfl_down_sync(ALL_LANES, lane, 3);
    __syncwarp();
    y[96 + lane] = __shfl_xor_sync(ALL_LANES, y[96 - 32 + lane], 1);
}
KERNEL_IS_HERE(selftest_shuffle)

// One warp. c = a b: a (16, 8) row-major, b (8, 8) row-major, c (16, 8).
KERNEL(selftest_mma)(const u16* a, const u16* b, float* c) {
    int g = threadIdx.x / 4, q = threadIdx.x % 4;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    u32 a0 = *(const u32*)(a + g * 8 + 2 * q), a1 = *(const u32*)(a + (g + 8) * 8 + 2 * q);
    u32 b0 = b[2 * q * 8 + g] | (u32)b[(2 * q + 1) * 8 + g] << 16;
    mma_f16(sum, a0, a1, b0);
    c[g * 8 + 2 * q] = sum[0];
    c[g * 8 + 2 * q + 1] = sum[1];
    c[(g + 8) * 8 + 2 * q] = sum[2];
    c[(g + 8) * 8 + 2 * q + 1] = sum[3];
}
KERNEL_IS_HERE(selftest_mma)

// y[i] = f16 of x[i], back[i] = that as f32.
KERNEL(selftest_half)(const float* x, u16* y, float* back, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    y[i] = f2h(x[i]);
    back[i] = h2f(y[i]);
}
KERNEL_IS_HERE(selftest_half)

// 256 threads raise and count.
KERNEL(selftest_atomic)(int* most, int* count) {
    atomicMax(most, (int)(threadIdx.x * 7 % 256));
    atomicAdd(count, 1);
}
KERNEL_IS_HERE(selftest_atomic)

// Faults, one by one; each ends the process.
struct Where {
    float* y;
    int n;
};

KERNEL(selftest_fault)(Where where, int what) {
    __shared__ float some[16];
    int t = threadIdx.x;
    float v = (float)t;
    switch (what) {
        case 0:  // half of a warp in a collective
            if (t < 16) v = warp_sum(v);
            break;
        case 1:  // the halves of a warp in different ones
            if (t < 16) v = warp_sum(v);
            else __syncwarp();
            break;
        case 2:  // a warp misses a barrier
            if (t >= 32) __syncthreads();
            break;
        case 3:  // two barriers
            if (t < 32)
                __syncthreads();
            else
                __syncthreads();
            break;
        case 4:  // a lane at the barrier, its warp in a collective
            if (t < 32 && t != 3) v = warp_sum(v);
            __syncthreads();
            break;
        case 5:  // past the end
            where.y[where.n + 4096 * 16] = v;
            break;
        case 6:  // before the start
            where.y[-4096 * 4] = v;
            break;
        case 7:  // misaligned
            v = *(const float*)((const char*)where.y + 2);
            break;
        case 8:  // past the end of shared memory
            some[t] = v;
            break;
        case 9:  // just past the end: found when it is freed
            if (t == 0) where.y[where.n + 3] = v;
            break;
    }
    if (t < where.n && what != 9) where.y[t] = v + some[t % 16];
}
KERNEL_IS_HERE(selftest_fault)
