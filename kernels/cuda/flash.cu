// Attention of many queries over the f16 key-value cache, on tensor cores.
//
// flash_64, flash_128   block 128, grid (ceil(t / 64), n_heads), heads of 64 or 128 values
//     out[i][h] = sum_p softmax_p(q[i][h] . keys[kv][p] / sqrt(head_dim)) values[kv][p]
//     over the positions p of max(0, first + i + 1 - window) ..= first + i, for i < t, with
//     kv = h / (n_heads / n_kv_heads). q, out (t, n_heads, head_dim) f32; keys, values
//     (n_kv_heads, capacity, head_dim) f16, which hold positions 0 .. first + t already.
//     Needs n_heads % n_kv_heads == 0, t > 0, first >= 0, capacity >= first + t,
//     1 <= window <= INT_MAX; q, keys and values aligned to 16 bytes, out to 8.
//
//     Error: queries (times their scale) and weights are rounded to f16, scores and sums are f32:
//     a score errs by 2^-11 of sum |q k| / sqrt(head_dim) at most, out by 2^-10 of sum_p w |v| on
//     top of that; about 0.05% of the output's RMS. Scaled queries beyond 65504 are clamped,
//     non-finite ones make their output NaN.
//
// How (FlashAttention, Dao et al. 2022): a warp has 16 queries in registers and walks the
// positions in tiles of 32 with a running maximum and sum. Scores come out of mma_f16 just as the
// next product takes its left side: key column 8 j + 2 q is column 2 q of product j. Values lie in
// shared memory transposed, two positions a word, so that they are the right side.
#include "octet.cuh"

#define THREADS 128
#define QUERIES 64
#define TILE 32  // positions

template <int HEAD_DIM>
FN void flash(const float* q, const u16* keys, const u16* values, float* out, int t, int n_heads,
              int n_kv_heads, int capacity, int first, int window) {
    const int SLICES = HEAD_DIM / 32;   // of keys: [slice][position][32 values]
    const int OCTETS = HEAD_DIM / 8;    // products across a value row
    const int V_LOADS = HEAD_DIM / 64;  // pairs of positions, 8 values each, a thread
    const int TILE_PARTS = TILE * HEAD_DIM / 8;
    __shared__ uint4 k_tiles[2][TILE_PARTS];
    // Row d: word 4 q + j is positions 8 j + 2 q and the next; rows and words swizzled as in
    // store_tiles, against bank conflicts.
    __shared__ uint4 v_tiles[2][TILE_PARTS];

    const int tid = threadIdx.x, lane = tid % WARP, warp = tid / WARP;
    const int g = lane / 4, quad = lane % 4;
    const int head = blockIdx.y;
    // Late queries see most positions: they start first.
    const int first_query = (int)(gridDim.x - 1 - blockIdx.x) * QUERIES;
    const long long cache = (long long)(head / (n_heads / n_kv_heads)) * capacity * HEAD_DIM;
    keys += cache;
    values += cache;

    // Queries beyond the last are the last again.
    const int warp_first = min(first_query + warp * 16, t - 1);
    const int row[2] = {min(first_query + warp * 16 + g, t - 1), min(first_query + warp * 16 + g + 8, t - 1)};
    const int warp_last = min(first_query + warp * 16 + 15, t - 1);
    const float scale = rsqrtf((float)HEAD_DIM) * 1.44269504f;  // exponents are base 2

    // Value 32 s + 8 quad + 2 i of a row, and the next, go into product 4 s + i.
    u32 a[SLICES][2][4];
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        const float* from = q + ((long long)row[h] * n_heads + head) * HEAD_DIM + 8 * quad;
        #pragma unroll
        for (int s = 0; s < SLICES; s++) {
            #pragma unroll
            for (int i = 0; i < 2; i++) {
                float4 v = *(const float4*)(from + 32 * s + 4 * i);
                float x[4] = {v.x, v.y, v.z, v.w};
                #pragma unroll
                for (int j = 0; j < 4; j++) {
                    // fminf and fmaxf make a number of NaN; the difference is 0 or NaN.
                    const float y = x[j] * scale;
                    x[j] = fminf(fmaxf(y, -65504.0f), 65504.0f) + (y - y);
                }
                a[s][h][2 * i] = f2h2(x[0], x[1]);
                a[s][h][2 * i + 1] = f2h2(x[2], x[3]);
            }
        }
    }

    const int last_position = first + min(first_query + QUERIES, t) - 1;
    const int begin = max(0, first + first_query + 1 - window) / TILE * TILE;

    const int pair_low = lane / 4;  // of the 8 pairs that a warp loads at once
    uint4 k_raw[SLICES], v_raw[V_LOADS][2];
    auto read_tiles = [&](int at) {
        // What lies beyond the last position is the last again: weights of 0 must meet numbers.
        const long long k_from = (long long)min(at + tid / 4, last_position) * HEAD_DIM + tid % 4 * 8;
        #pragma unroll
        for (int s = 0; s < SLICES; s++) k_raw[s] = *(const uint4*)(keys + k_from + 32 * s);
        #pragma unroll
        for (int i = 0; i < V_LOADS; i++) {
            const int rest = warp + 4 * i, octet = quad + rest / 2 * 4;
            const int pair = pair_low % 4 * 4 + pair_low / 4 + rest % 2 * 2;
            #pragma unroll
            for (int h = 0; h < 2; h++) {
                long long position = min(at + 2 * pair + h, last_position);
                v_raw[i][h] = *(const uint4*)(values + position * HEAD_DIM + octet * 8);
            }
        }
    };
    auto store_tiles = [&](int buffer) {
        #pragma unroll
        for (int s = 0; s < SLICES; s++) k_tiles[buffer][s * THREADS + tid] = k_raw[s];
        u32* v_tile = (u32*)v_tiles[buffer];
        #pragma unroll
        for (int i = 0; i < V_LOADS; i++) {
            const int rest = warp + 4 * i, octet = quad + rest / 2 * 4;
            // Word 4 q + j of pair 4 j + q; then the octet's two low bits into bits 3 and 4 of
            // the bank, for 32 lanes store one row of 4 octets and words 0 .. 7 or 8 .. 15.
            const int word = (pair_low / 4 + rest % 2 * 2) * 4 + pair_low % 4;
            const int swizzled = word ^ (octet / 2 % 2 * 8);
            u32 low[4] = {v_raw[i][0].x, v_raw[i][0].y, v_raw[i][0].z, v_raw[i][0].w};
            u32 high[4] = {v_raw[i][1].x, v_raw[i][1].y, v_raw[i][1].z, v_raw[i][1].w};
            #pragma unroll
            for (int d = 0; d < 8; d++) {
                u32 two = d % 2 ? low[d / 2] >> 16 | (high[d / 2] & 0xffff0000u)
                                : (low[d / 2] & 0xffffu) | high[d / 2] << 16;
                v_tile[((octet * 8 + d) ^ octet % 2) * 16 + swizzled] = two;
            }
        }
    };

    float o[OCTETS][4];
    #pragma unroll
    for (int n = 0; n < OCTETS; n++)
        #pragma unroll
        for (int i = 0; i < 4; i++) o[n][i] = 0.0f;
    // Finite: a tile that a query does not see at all then leaves it as it was.
    float running_max[2] = {-1e30f, -1e30f}, sum[2] = {0.0f, 0.0f};

    auto attend = [&](int buffer, int at) {
        float s[TILE / 8][4];
        #pragma unroll
        for (int j = 0; j < TILE / 8; j++)
            #pragma unroll
            for (int i = 0; i < 4; i++) s[j][i] = 0.0f;
        #pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            u32 b[TILE / 8][4];
            #pragma unroll
            for (int j = 0; j < TILE / 8; j++) {
                uint4 v = k_tiles[buffer][slice * THREADS + j * 32 + lane];
                b[j][0] = v.x, b[j][1] = v.y, b[j][2] = v.z, b[j][3] = v.w;
            }
            #pragma unroll
            for (int i = 0; i < 4; i++)
                #pragma unroll
                for (int j = 0; j < TILE / 8; j++) mma_f16(s[j], a[slice][0][i], a[slice][1][i], b[j][i]);
        }

        // The same for the whole warp: whether every query sees every position of the tile.
        const bool all_seen = at + TILE - 1 <= first + warp_first && first + warp_last - at < window;
        if (!all_seen) {
            #pragma unroll
            for (int j = 0; j < TILE / 8; j++) {
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    int back = first + row[i / 2] - (at + j * 8 + quad * 2 + i % 2);
                    if (back < 0 || back >= window) s[j][i] = __int_as_float((int)0xff800000u);
                }
            }
        }

        u32 p[TILE / 8][2];
        #pragma unroll
        for (int h = 0; h < 2; h++) {
            float m = running_max[h];
            #pragma unroll
            for (int j = 0; j < TILE / 8; j++) m = fmaxf(m, fmaxf(s[j][2 * h], s[j][2 * h + 1]));
            m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, 1));
            m = fmaxf(m, __shfl_xor_sync(ALL_LANES, m, 2));
            const float keep = exp2f(running_max[h] - m);
            running_max[h] = m;
            sum[h] *= keep;
            #pragma unroll
            for (int j = 0; j < TILE / 8; j++) {
                float p0 = exp2f(s[j][2 * h] - m), p1 = exp2f(s[j][2 * h + 1] - m);
                sum[h] += p0 + p1;
                p[j][h] = f2h2(p0, p1);
            }
            #pragma unroll
            for (int n = 0; n < OCTETS; n++) {
                o[n][2 * h] *= keep;
                o[n][2 * h + 1] *= keep;
            }
        }

        const int GROUP = 4;  // products in flight before one depends on another
        #pragma unroll
        for (int n0 = 0; n0 < OCTETS; n0 += GROUP) {
            u32 b[GROUP][4];
            #pragma unroll
            for (int n = 0; n < GROUP; n++) {
                const int octet = n0 + n;
                uint4 v = v_tiles[buffer][((octet * 8 + g) ^ octet % 2) * 4 + (quad ^ octet / 2 % 2 * 2)];
                b[n][0] = v.x, b[n][1] = v.y, b[n][2] = v.z, b[n][3] = v.w;
            }
            #pragma unroll
            for (int j = 0; j < TILE / 8; j++)
                #pragma unroll
                for (int n = 0; n < GROUP; n++) mma_f16(o[n0 + n], p[j][0], p[j][1], b[n][j]);
        }
    };

    // One barrier a tile: the buffer written after it was last read before it.
    read_tiles(begin);
    int buffer = 0;
    for (int at = begin; at <= last_position; at += TILE) {
        store_tiles(buffer);
        __syncthreads();
        if (at + TILE <= last_position) read_tiles(at + TILE);
        // A warp does without tiles that none of its queries sees.
        if (first_query + warp * 16 < t && at <= first + warp_last &&
            first + warp_first - (at + TILE - 1) < window)
            attend(buffer, at);
        buffer ^= 1;
    }

    #pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(ALL_LANES, sum[h], 1);
        sum[h] += __shfl_xor_sync(ALL_LANES, sum[h], 2);
        if (first_query + warp * 16 + g + 8 * h >= t) continue;
        const float by = 1.0f / sum[h];
        float* to = out + ((long long)row[h] * n_heads + head) * HEAD_DIM + 2 * quad;
        #pragma unroll
        for (int n = 0; n < OCTETS; n++) *(float2*)(to + 8 * n) = make_float2(o[n][2 * h] * by, o[n][2 * h + 1] * by);
    }
}

KERNEL(__launch_bounds__(THREADS, 2) flash_64)(const float* q, const u16* keys, const u16* values,
                                               float* out, int t, int n_heads, int n_kv_heads,
                                               int capacity, int first, int window) {
    flash<64>(q, keys, values, out, t, n_heads, n_kv_heads, capacity, first, window);
}
KERNEL_IS_HERE(flash_64)

KERNEL(__launch_bounds__(THREADS, 2) flash_128)(const float* q, const u16* keys, const u16* values,
                                                float* out, int t, int n_heads, int n_kv_heads,
                                                int capacity, int first, int window) {
    flash<128>(q, keys, values, out, t, n_heads, n_kv_heads, capacity, first, window);
}
KERNEL_IS_HERE(flash_128)
