// Norm, rotary positions, and sums by element. Blocks of 256 threads unless said; all f32 unless
// said, and within 1e-6 of the largest value of an exact result (1e-5 with silu).
//
// rms_norm: y[i] = x[i] * w / sqrt(mean(x[i]^2) + eps), for each row i
//   x, y   (t, width), may be the same;  w  (width);  best with width % 4 == 0 and aligned to 16
//   amax   (t), set to max |y[i]|, or null
//   clear  (n_clear), set to 0 by the way: slots that later kernels raise
//   grid   t, at least 1;  blocks of 512 threads
//
// rope_append: rotates queries in place, and keys and values on their way into the cache
//   q       (t, n_heads, head_dim);  k, v  (t, n_kv_heads, head_dim);  head_dim even
//   angles  (t, head_dim / 2) of (cos, sin): of a head's halves a and b, a pair becomes
//           (a cos - b sin, b cos + a sin)
//   keys, values  f16 (n_kv_heads, capacity, head_dim), written at the t positions from moment->position on;
//           NaN where f16 cannot hold the value
//   grid    at least ceil((n_heads + 2 n_kv_heads) * t * head_dim / 2 / 256), below 2^31 / 256
//
// silu_mul: gate = silu(gate) * up, (n); amax (1), if not null, is raised to max |gate|
// add_scaled: y += weight[0] * x, (n); weight null: 1
//   grid    ceil(n / 256)
#include "norm.cuh"

template <int RUN>
FN void norm_row(const float* x, const float* w, float* y, float* amax, int width, float eps, RowSums& sums) {
    float v[OWN], by[OWN], squares = 0.0f, most = 0.0f, inverse = 1.0f / (float)width;
    for (int from = 0; from < width; from += ROW_COLUMNS) {
        load_row<RUN>(v, x, from, width);
        load_row<RUN>(by, w, from, width);
        weigh<RUN>(v, by, from, width, squares, most);
    }
    put_sums(sums, squares, most);
    __syncthreads();
    float scale = norm_scale(sums, inverse, eps);
    store_rows<RUN>(y, v, x, w, scale, width);
    // A product with a positive number keeps order, rounded too. Of NaN: 0.
    if (amax && threadIdx.x == 0) *amax = fmaxf(row_most(sums) * scale, 0.0f);
}

KERNEL(__launch_bounds__(ROW_THREADS) rms_norm)(const float* x, const float* w, float* y, float* amax, float* clear,
                                                int n_clear, int width, float eps) {
    __shared__ RowSums sums;
    x += (long long)blockIdx.x * width;
    y += (long long)blockIdx.x * width;
    if (amax) amax += blockIdx.x;
    if (width % 4 == 0 && (((u64)x | (u64)w | (u64)y) & 15) == 0)
        norm_row<4>(x, w, y, amax, width, eps, sums);
    else
        norm_row<1>(x, w, y, amax, width, eps, sums);
    if (blockIdx.x == 0)
        for (int i = threadIdx.x; i < n_clear; i += blockDim.x) clear[i] = 0.0f;
}
KERNEL_IS_HERE(rms_norm)

// A key of -inf would be a score that counts for nothing, and no error.
FN u16 stored_half(float v) {
    u16 h = f2h(v);
    return (h & 0x7c00) == 0x7c00 ? 0x7e00 : h;
}

KERNEL(__launch_bounds__(256) rope_append)(float* q, const float* k, const float* v, const float2* angles, u16* keys,
                                           u16* values, const Moment* moment, int t, int n_heads, int n_kv_heads,
                                           int head_dim, int capacity) {
    // One pair a thread: all queries' first, then the keys', then the values'.
    int half = head_dim / 2, heads = n_heads + 2 * n_kv_heads, first = moment->position;
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (u32)(t * heads * half)) return;
    int row = (int)(i / (u32)half), d = (int)(i - (u32)(row * half));  // row: of t * heads, by kind
    if (row < t * n_heads) {
        float2 angle = angles[(long long)((u32)row / n_heads) * half + d];
        float* at = q + (long long)row * head_dim + d;
        float a = at[0], b = at[half];
        at[0] = a * angle.x - b * angle.y;
        at[half] = b * angle.x + a * angle.y;
        return;
    }
    row -= t * n_heads;
    bool is_key = row < t * n_kv_heads;
    if (!is_key) row -= t * n_kv_heads;
    int token = (int)((u32)row / n_kv_heads), head = row - token * n_kv_heads;
    const float* from = (is_key ? k : v) + (long long)row * head_dim + d;
    float a = from[0], b = from[half];
    if (is_key) {
        float2 angle = angles[(long long)token * half + d];
        float rotated = a * angle.x - b * angle.y;
        b = b * angle.x + a * angle.y;
        a = rotated;
    }
    u16* to = (is_key ? keys : values) + ((long long)head * capacity + first + token) * head_dim + d;
    to[0] = stored_half(a);
    to[half] = stored_half(b);
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
