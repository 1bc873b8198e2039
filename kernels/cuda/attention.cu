// Attention of few tokens over the cache, in splits (flash decoding): `attention` leaves partial
// results, `attention_combine` puts them together.
//
// Row i (of t) is the query at position p = moment->position + first + i; it sees the positions
// max(0, p + 1 - window) ..= p. Query head h reads key/value head
// h / (n_heads / n_kv_heads). Scores are q k / sqrt(head_dim).
//   q        f32 (t, n_heads, head_dim);  head_dim even, up to 256
//   keys, values  f16 (n_kv_heads, capacity, head_dim), aligned to 16 bytes, filled up to each row's
//            position
//   partial  f32 (t, n_heads, max_splits, head_dim + 2): over a split's positions p, with m the
//            largest score s, sum e^(s - m) value, then m, then sum e^(s - m). Where a row sees
//            nothing of a split: 0, -inf, 0. Splits behind the last position are left alone.
//   max_splits  at least 16, and one for each 256 positions
//   out      f32 (t, n_heads, head_dim);  amax  f32 (t), raised to max |out|, or null
// attention: grid (n_kv_heads, max_splits, t), blocks of 256 threads. attention_combine: grid
// (n_heads, t), blocks of 128.
//
// Error: f32 throughout, of the stored f16 keys and values; within 2e-5 of a head's max |out|.
#include "block.cuh"

#define TILE 256  // positions at a time: one a thread
#define HEADS 4   // query heads at a time
#define MAX_HEAD_DIM 256
#define AT_ONCE 8  // rows of values a thread has under way

// Split j of `len` positions is j * split_len .. (j + 1) * split_len: 16 of them at most, until they
// are of 256 positions; shorter ones than of 32 do not pay.
FN int split_len_of(int len) {
    int split_len = 32;
    while (split_len < 256 && 16 * split_len < len) split_len *= 2;
    return split_len;
}

// Eight values of a row as f32, from its column d on; zero behind the end.
FN void load_8(float* to, const u16* row, int d, int head_dim, bool vectors) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (vectors) {
        if (d < head_dim) v = *(const uint4*)(row + d);
    } else {
        const u32* pairs = (const u32*)(row + d);
        if (d < head_dim) v.x = pairs[0];
        if (d + 2 < head_dim) v.y = pairs[1];
        if (d + 4 < head_dim) v.z = pairs[2];
        if (d + 6 < head_dim) v.w = pairs[3];
    }
    u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[2 * i] = h2f((u16)words[i]);
        to[2 * i + 1] = h2f((u16)(words[i] >> 16));
    }
}

FN float dot_8(const float k[8], float4 low, float4 high) {
    return k[0] * low.x + k[1] * low.y + k[2] * low.z + k[3] * low.w + k[4] * high.x + k[5] * high.y + k[6] * high.z +
           k[7] * high.w;
}

FN void add_scaled_4(float4& to, uint2 v, float by) {
    to.x += h2f((u16)v.x) * by;
    to.y += h2f((u16)(v.x >> 16)) * by;
    to.z += h2f((u16)v.y) * by;
    to.w += h2f((u16)(v.y >> 16)) * by;
}

// Four of them, as they lie.
FN uint2 load_4(const u16* row, int d, int head_dim, bool vectors) {
    if (vectors) return *(const uint2*)(row + d);
    const u32* pairs = (const u32*)(row + d);
    return make_uint2(pairs[0], d + 2 < head_dim ? pairs[1] : 0);
}

KERNEL(__launch_bounds__(256, 2) attention)(const float* q, const u16* keys, const u16* values, float* partial,
                                            const Moment* moment, int first, int n_heads, int n_kv_heads, int head_dim,
                                            int capacity, int window, int max_splits) {
    __shared__ float4 query[HEADS][MAX_HEAD_DIM / 4];  // zero behind head_dim to the next 32
    __shared__ float4 scores[TILE];                    // then weights, of HEADS heads
    __shared__ float4 parts[HEADS][256];               // by thread: sums of four columns
    __shared__ float scratch[2][HEADS][BLOCK_WARPS];
    int kv_head = blockIdx.x, split = blockIdx.y, row = blockIdx.z;
    int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP, group = n_heads / n_kv_heads;
    first += moment->position;
    int len = first + (int)gridDim.z, split_len = split_len_of(len), position = first + row;
    if (split * split_len >= len) return;
    int begin = max(split * split_len, window > position ? 0 : position + 1 - window);
    int end = min(split * split_len + split_len, position + 1);
    bool vectors = head_dim % 8 == 0;
    long long kv_start = (long long)kv_head * capacity * head_dim;
    keys += kv_start;
    values += kv_start;
    float scale = 1.0f / sqrtf((float)head_dim);
    int row_lanes = head_dim <= 32 ? 8 : head_dim <= 64 ? 16 : 32;  // that read one row of values
    int rows = 256 / row_lanes, my_row = thread / row_lanes, my_d = thread % row_lanes * 4;

    for (int h0 = 0; h0 < group; h0 += HEADS) {
        int heads = min(HEADS, group - h0);
        const float* q_at = q + ((long long)row * n_heads + kv_head * group + h0) * head_dim;
        __syncthreads();
        for (int i = thread; i < HEADS * MAX_HEAD_DIM; i += 256) {
            int h = i / MAX_HEAD_DIM, d = i % MAX_HEAD_DIM;
            ((float*)query)[i] = h < heads && d < head_dim ? q_at[h * head_dim + d] * scale : 0.0f;
        }
        float m[HEADS], sum[HEADS];
        float4 acc[2][HEADS];
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            m[h] = MINUS_INFINITY;
            sum[h] = 0.0f;
            acc[0][h] = acc[1][h] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
        for (int from = begin; from < end; from += TILE) {
            int count = min(TILE, end - from);
            __syncthreads();
            // Scores: four lanes a position, two positions for each load of the query. The second
            // is 64 further, so that a short split keeps more warps busy.
            for (int base = warp * 8; base < count; base += 128) {
                int i = base + lane / 4;
                const u16* k0 = keys + (long long)(from + min(i, count - 1)) * head_dim;
                const u16* k1 = keys + (long long)(from + min(i + 64, count - 1)) * head_dim;
                float s0[HEADS] = {}, s1[HEADS] = {};
#pragma unroll 4
                for (int d = lane % 4 * 8; d < head_dim; d += 32) {
                    float k[2][8];
                    load_8(k[0], k0, d, head_dim, vectors);
                    load_8(k[1], k1, d, head_dim, vectors);
#pragma unroll
                    for (int h = 0; h < HEADS; h++) {
                        float4 low = query[h][d / 4], high = query[h][d / 4 + 1];
                        s0[h] += dot_8(k[0], low, high);
                        s1[h] += dot_8(k[1], low, high);
                    }
                }
#pragma unroll
                for (int h = 0; h < HEADS; h++) {
                    for (int by = 1; by < 4; by <<= 1) {
                        s0[h] += __shfl_xor_sync(ALL_LANES, s0[h], by);
                        s1[h] += __shfl_xor_sync(ALL_LANES, s1[h], by);
                    }
                }
                if (lane % 4 == 0) {
                    scores[i] = make_float4(s0[0], s0[1], s0[2], s0[3]);
                    scores[i + 64] = make_float4(s1[0], s1[1], s1[2], s1[3]);
                }
            }
            __syncthreads();
            float s[HEADS] = {MINUS_INFINITY, MINUS_INFINITY, MINUS_INFINITY, MINUS_INFINITY};
            if (thread < count) {
                float4 of = scores[thread];
                s[0] = of.x, s[1] = of.y, s[2] = of.z, s[3] = of.w;
            }
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float most = warp_max(s[h]);
                if (lane == 0) scratch[0][h][warp] = most;
            }
            __syncthreads();
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float most = m[h];
#pragma unroll
                for (int w = 0; w < BLOCK_WARPS; w++) most = fmaxf(most, scratch[0][h][w]);
                float shrink = __expf(m[h] - most);
                m[h] = most;
                s[h] = __expf(s[h] - most);
                sum[h] = sum[h] * shrink + s[h];
#pragma unroll
                for (int pass = 0; pass < 2; pass++) {
                    acc[pass][h].x *= shrink;
                    acc[pass][h].y *= shrink;
                    acc[pass][h].z *= shrink;
                    acc[pass][h].w *= shrink;
                }
            }
            scores[thread] = make_float4(s[0], s[1], s[2], s[3]);
            __syncthreads();
#pragma unroll
            for (int pass = 0; pass < 2; pass++) {
                int d = my_d + pass * 4 * WARP;
                if (d >= head_dim) continue;
                for (int base = my_row; base < count; base += AT_ONCE * rows) {
                    uint2 v[AT_ONCE];
#pragma unroll
                    for (int u = 0; u < AT_ONCE; u++) {
                        int i = min(base + u * rows, count - 1);
                        v[u] = load_4(values + (long long)(from + i) * head_dim, d, head_dim, vectors);
                    }
#pragma unroll
                    for (int u = 0; u < AT_ONCE; u++) {
                        if (base + u * rows >= count) break;
                        float4 p = scores[base + u * rows];
                        add_scaled_4(acc[pass][0], v[u], p.x);
                        add_scaled_4(acc[pass][1], v[u], p.y);
                        add_scaled_4(acc[pass][2], v[u], p.z);
                        add_scaled_4(acc[pass][3], v[u], p.w);
                    }
                }
            }
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float of_warp = warp_sum(sum[h]);
            if (lane == 0) scratch[1][h][warp] = of_warp;
        }
#pragma unroll
        for (int pass = 0; pass < 2; pass++) {
            if (pass * 4 * WARP >= head_dim) break;
            __syncthreads();
#pragma unroll
            for (int h = 0; h < HEADS; h++) parts[h][thread] = acc[pass][h];
            __syncthreads();
            int h = thread / row_lanes, d = my_d + pass * 4 * WARP;
            if (h >= heads) continue;
            float4 total = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            for (int i = 0; i < rows; i++) {
                float4 v = parts[h][i * row_lanes + thread % row_lanes];
                total = make_float4(total.x + v.x, total.y + v.y, total.z + v.z, total.w + v.w);
            }
            long long head = (long long)row * n_heads + kv_head * group + h0 + h;
            float* to = partial + (head * max_splits + split) * (head_dim + 2);
            if (d < head_dim) to[d] = total.x, to[d + 1] = total.y;
            if (d + 2 < head_dim) to[d + 2] = total.z, to[d + 3] = total.w;
            if (d == 0) {
                float all = 0.0f;
                for (int w = 0; w < BLOCK_WARPS; w++) all += scratch[1][h][w];
                to[head_dim] = h == 0 ? m[0] : h == 1 ? m[1] : h == 2 ? m[2] : m[3];
                to[head_dim + 1] = all;
            }
        }
    }
}
KERNEL_IS_HERE(attention)

#define SPLITS_AT_ONCE 16

// A thread's column of 16 splits, and for one of them its lane's maximum and sum; behind the last
// split, that one's.
struct SplitColumns {
    float v[SPLITS_AT_ONCE], m, sum;
};

FN void load_splits(SplitColumns& to, const float* partial, int from, int n_splits, int d, int head_dim) {
    int stride = head_dim + 2;
    const float* own = partial + min(from + (int)threadIdx.x % SPLITS_AT_ONCE, n_splits - 1) * stride + head_dim;
    to.m = own[0];
    to.sum = own[1];
#pragma unroll
    for (int i = 0; i < SPLITS_AT_ONCE; i++) to.v[i] = partial[min(from + i, n_splits - 1) * stride + d];
}

KERNEL(__launch_bounds__(128) attention_combine)(const float* partial, float* out, float* amax,
                                                 const Moment* moment, int first, int n_heads, int head_dim,
                                                 int max_splits) {
    long long head = (long long)blockIdx.y * n_heads + blockIdx.x;
    int thread = threadIdx.x, lane = thread % WARP;
    int len = moment->position + first + (int)gridDim.y, split_len = split_len_of(len);
    int n_splits = (len + split_len - 1) / split_len;
    partial += head * max_splits * (head_dim + 2);
    float most = 0.0f;
    // Every warp by itself: a barrier would cost more than the maxima and weights again.
    for (int pass = 0; pass < head_dim; pass += 128) {
        int d = pass + thread;
        SplitColumns splits;
        load_splits(splits, partial, 0, n_splits, min(d, head_dim - 1), head_dim);
        float m = splits.m, sum = 0.0f, acc = 0.0f;
#pragma unroll 1
        for (int i = SPLITS_AT_ONCE + lane; i < n_splits; i += WARP)
            m = fmaxf(m, partial[i * (head_dim + 2) + head_dim]);
        m = warp_max(m);
        for (int from = 0;;) {
            float weight = from + lane % SPLITS_AT_ONCE < n_splits ? __expf(splits.m - m) : 0.0f;
            sum += weight * splits.sum;
#pragma unroll
            for (int i = 0; i < SPLITS_AT_ONCE; i++) {
                float by = __shfl_sync(ALL_LANES, weight, i);
                if (from + i < n_splits) acc += by * splits.v[i];
            }
            from += SPLITS_AT_ONCE;
            if (from >= n_splits) break;
            load_splits(splits, partial, from, n_splits, min(d, head_dim - 1), head_dim);
        }
#pragma unroll
        for (int i = SPLITS_AT_ONCE / 2; i > 0; i >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, i);
        if (d >= head_dim) continue;
        float v = acc / sum;
        out[head * head_dim + d] = v;
        most = fmaxf(most, fabsf(v));
    }
    if (!amax) return;
    most = warp_max(most);
    // Without a look first: the block is done, and does not wait for the atomic.
    if (lane == 0) raise_max(amax + blockIdx.y, most);
}
KERNEL_IS_HERE(attention_combine)
