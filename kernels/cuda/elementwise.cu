// Norm, rotary positions, and sums by element. Blocks of 256 threads; all f32 unless said, and
// within 1e-6 of the largest value of an exact result (1e-5 with silu).
//
// rms_norm: y[i] = x[i] * w / sqrt(mean(x[i]^2) + eps), for each row i
//   x, y   (t, width), may be the same;  w  (width)
//   amax   (t), set to max |y[i]|, or null
//   clear  (n_clear), set to 0 by the way: slots that later kernels raise
//   grid   t, at least 1
//
// rope_append: rotates queries in place, and keys and values on their way into the cache
//   q       (t, n_heads, head_dim);  k, v  (t, n_kv_heads, head_dim);  head_dim even
//   angles  (t, head_dim / 2) of (cos, sin): of a head's halves a and b, a pair becomes
//           (a cos - b sin, b cos + a sin)
//   keys, values  f16 (n_kv_heads, capacity, head_dim), written at the positions first .. first + t
//   grid    at least ceil((n_heads + 2 n_kv_heads) * t * head_dim / 2 / 256)
//
// silu_mul: gate = silu(gate) * up, (n); amax (1), if not null, is raised to max |gate|
// add_scaled: y += weight[0] * x, (n); weight null: 1
//   grid    ceil(n / 256)
#include "block.cuh"

KERNEL(__launch_bounds__(256) rms_norm)(const float* x, const float* w, float* y, float* amax, float* clear,
                                        int n_clear, int width, float eps) {
    __shared__ float scratch[2][BLOCK_WARPS];
    if (blockIdx.x == 0)
        for (int i = threadIdx.x; i < n_clear; i += blockDim.x) clear[i] = 0.0f;
    x += (long long)blockIdx.x * width;
    y += (long long)blockIdx.x * width;
    int vectors = (((u64)x | (u64)w | (u64)y) & 15) == 0 ? width / 4 : 0;
    float sum = 0.0f, most = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
        float4 v = ((const float4*)x)[i];
        sum += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    for (int i = 4 * vectors + threadIdx.x; i < width; i += blockDim.x) sum += x[i] * x[i];
    float scale = 1.0f / sqrtf(block_sum(sum, scratch[0]) / (float)width + eps);
#pragma unroll 4
    for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
        float4 v = ((const float4*)x)[i], by = ((const float4*)w)[i];
        v = make_float4(v.x * scale * by.x, v.y * scale * by.y, v.z * scale * by.z, v.w * scale * by.w);
        ((float4*)y)[i] = v;
        most = fmaxf(most, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
    }
    for (int i = 4 * vectors + threadIdx.x; i < width; i += blockDim.x) {
        float v = x[i] * scale * w[i];
        y[i] = v;
        most = fmaxf(most, fabsf(v));
    }
    if (!amax) return;
    most = block_max(most, scratch[1]);
    if (threadIdx.x == 0) amax[blockIdx.x] = most;
}
KERNEL_IS_HERE(rms_norm)

KERNEL(__launch_bounds__(256) rope_append)(float* q, const float* k, const float* v, const float2* angles, u16* keys,
                                           u16* values, int t, int n_heads, int n_kv_heads, int head_dim,
                                           int capacity, int first) {
    // One pair a thread: all queries' first, then the keys', then the values'.
    int half = head_dim / 2, heads = n_heads + 2 * n_kv_heads;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)t * heads * half) return;
    int d = (int)(i % half), row = (int)(i / half);  // of t * heads, by kind
    if (row < t * n_heads) {
        float2 angle = angles[(long long)(row / n_heads) * half + d];
        float* at = q + (long long)row * head_dim + d;
        float a = at[0], b = at[half];
        at[0] = a * angle.x - b * angle.y;
        at[half] = b * angle.x + a * angle.y;
        return;
    }
    row -= t * n_heads;
    bool is_key = row < t * n_kv_heads;
    if (!is_key) row -= t * n_kv_heads;
    int token = row / n_kv_heads, head = row % n_kv_heads;
    const float* from = (is_key ? k : v) + (long long)row * head_dim + d;
    float a = from[0], b = from[half];
    if (is_key) {
        float2 angle = angles[(long long)token * half + d];
        float rotated = a * angle.x - b * angle.y;
        b = b * angle.x + a * angle.y;
        a = rotated;
    }
    u16* to = (is_key ? keys : values) + ((long long)head * capacity + first + token) * head_dim + d;
    to[0] = f2h(a);
    to[half] = f2h(b);
}
KERNEL_IS_HERE(rope_append)

KERNEL(__launch_bounds__(256) silu_mul)(float* gate, const float* up, float* amax, int n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    float v = 0.0f;
    if (i < n) gate[i] = v = silu(gate[i]) * up[i];
    if (amax) raise_warp_max(amax, fabsf(v));
}
KERNEL_IS_HERE(silu_mul)

KERNEL(__launch_bounds__(256) add_scaled)(float* y, const float* x, const float* weight, int n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += weight ? weight[0] * x[i] : x[i];
}
KERNEL_IS_HERE(add_scaled)
