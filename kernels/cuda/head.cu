// The output matrix: logits of t tokens. Blocks of 256 threads, 8 rows each: the warps share the
// columns, so that x is read once for the 8 rows. Sums are f32 in another order than the
// reference's: within 1e-5 of the largest logit of the exact product with the stored values.
//
// head_q8: y[i] = W x[i], W in blocks of 64 columns of a row: i8 times the block's scale
//   q      i8 (n, ceil(k / 64), 64), zero behind column k, aligned to 16 bytes
//   scale  f32 (n, ceil(k / 64));  x  f32 (t, k);  y  f32 (t, n);  grid (ceil(n / 8), t)
// head_f16: the same for W f16 (n, k). Vectors are loaded where k % 8 == 0 and w is aligned to 16
//   bytes.
// x is best aligned to 16 bytes with k % 4 == 0.
#include "octet.cuh"

#define ROWS 8  // of a block
#define WARPS 8

// x[0 .. N) of a lane's columns, zero behind the end.
template <int N>
FN void load_x(float* to, const float* x, int column, int k) {
    if (column + N <= k && ((u64)(x + column) & 15) == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            float4 v = *(const float4*)(x + column + i);
            to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = column + i < k ? x[column + i] : 0.0f;
    }
}

// Adds up the warps' and lanes' parts of the block's rows and writes them.
FN void finish(float* sums, float (*shared)[ROWS], float* y, int first, int n) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float sum = warp_sum(sums[r]);
        if (lane == r) shared[warp][r] = sum;
    }
    __syncthreads();
    if (threadIdx.x >= ROWS || first + (int)threadIdx.x >= n) return;
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += shared[w][threadIdx.x];
    y[(long long)blockIdx.y * n + first + threadIdx.x] = sum;
}

// Byte j of w, which is signed and offset by 128, in the middle of the mantissa of 2^15.
FN float offset_byte(u32 w, int j) {
    return __int_as_float(0x47000000u | (j == 0 ? w << 8 : w >> (8 * j - 8)) & 0xff00u) - (32768.0f + 128.0f);
}

KERNEL(__launch_bounds__(256, 2) head_q8)(const i8* q, const float* scale, const float* x, float* y, int n, int k) {
    __shared__ float shared[WARPS][ROWS];
    int first = blockIdx.x * ROWS, blocks = (k + 63) / 64;
    x += (long long)blockIdx.y * k;
    float sums[ROWS] = {};
    // A lane's 16 columns lie in one block of 64.
    for (int column = threadIdx.x * 16; column < blocks * 64; column += WARPS * WARP * 16) {
        float u[16], by[ROWS];
        uint4 v[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            long long row = min(first + r, n - 1);
            v[r] = *(const uint4*)(q + row * blocks * 64 + column);
            by[r] = scale[row * blocks + column / 64];
        }
        load_x<16>(u, x, column, k);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            u32 words[4] = {v[r].x, v[r].y, v[r].z, v[r].w};
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < 16; i++) sum += offset_byte(words[i / 4] ^ 0x80808080u, i % 4) * u[i];
            sums[r] += sum * by[r];
        }
    }
    finish(sums, shared, y, first, n);
}
KERNEL_IS_HERE(head_q8)

KERNEL(__launch_bounds__(256, 2) head_f16)(const u16* w, const float* x, float* y, int n, int k) {
    __shared__ float shared[WARPS][ROWS];
    int first = blockIdx.x * ROWS;
    x += (long long)blockIdx.y * k;
    float sums[ROWS] = {};
    bool vectors = k % 8 == 0 && ((u64)w & 15) == 0;
    for (int column = threadIdx.x * 8; column < k; column += WARPS * WARP * 8) {
        float u[8];
        load_x<8>(u, x, column, k);
        uint4 v[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const u16* at = w + (long long)min(first + r, n - 1) * k + column;
            if (vectors) {
                v[r] = *(const uint4*)at;
            } else {
                u32 h[8];
#pragma unroll
                for (int i = 0; i < 8; i++) h[i] = column + i < k ? at[i] : 0;
                v[r] = make_uint4(h[0] | h[1] << 16, h[2] | h[3] << 16, h[4] | h[5] << 16, h[6] | h[7] << 16);
            }
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            u32 words[4] = {v[r].x, v[r].y, v[r].z, v[r].w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[r] += h2f((u16)words[i]) * u[2 * i];
                sums[r] += h2f((u16)(words[i] >> 16)) * u[2 * i + 1];
            }
        }
    }
    finish(sums, shared, y, first, n);
}
KERNEL_IS_HERE(head_f16)
