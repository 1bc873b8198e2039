// Products of many tokens with an HQQ matrix, on tensor cores, and the f16 rows they take.
//
// rows_to_f16     block 256, grid t
//     y row_scale = x. x (t, width) f32; y (t, width) f16; row_scale (t) f32, a power of two that
//     keeps |y| below 1. Any width. Error: 2^-11 of a value, or 2^-25 of its row's largest.
//
// silu_mul_rows   block 256, grid t
//     h row_scale = silu(gate) * up. gate, up (t, width) f32; h and row_scale as y and row_scale
//     above. Any width, the same error.
//
// gemm_b2, gemm_b3, gemm_b4, gemm_b8, gemm_wide_b2, gemm_wide_b3, gemm_wide_b4, gemm_wide_b8
//                 block 256
//     For i < t, from = gather ? gather[i] : i, to = scatter ? scatter[i] : i:
//         y[to] = or += (add) weights[i] * row_scale[from] * W x[from]      (weights null: 1)
//     W the n x k matrix `w` of that many bits; x (rows, k) f16; row_scale (rows) f32; gather,
//     scatter (t) int or null, the numbers in scatter all different; weights (t) f32 or null;
//     y (rows, n) f32. The two differ in speed only.
//     Needs n % group_size == 0, group_size % 16 == 0, k % 32 == 0, t > 0; w.w_q and x aligned to
//     16 bytes. Meta groups may be any number that divides n_groups.
//
//     Grid, with R = n / group_size:
//         gemm_b*:      ( ceil(R / 4) * (group_size / 16), ceil(t / 64) )
//         gemm_wide_b*: ( ceil(R / 8) * (group_size / 16), ceil(t / 128) )
//     The wide one loads half as much from shared memory a product, but has a quarter of the
//     blocks, one a multiprocessor where gemm_b* has two: it pays above 64 tokens, where its grid
//     has a block for every other multiprocessor at least. gemm_b* spends less on 32 tokens or
//     fewer.
//
//     Error: weights and x are rounded to f16 (2^-11 of each; 2^-25 for weights below 2^-14;
//     weights beyond 65504 become infinite), sums are f32: about 0.03% of the output's RMS. The
//     sum of an element has one order, whatever t, the kernel and the neighbours: the same row
//     gives the same bits.
//
// How: a block computes 16 view rows of 4 (wide: 8) neighbouring group rows, 64 (128) rows in all,
// for 64 (128) tokens. A step of 64 (32) columns has 256 groups, one a thread: their scales and
// zeros go to shared memory a step ahead, the packed weights are dequantized once into an f16
// tile, and the warps multiply. Tiles are slices of 32 columns, [row][32], and a lane takes
// columns 8 q .. 8 q + 7 of a row with a single 16-byte load, free of bank conflicts: that
// permutes the columns among four mma_f16, in both operands alike.
#include "block.cuh"

#define THREADS 256
#define TILE_HALVES 4096  // 128 x 32 or 64 x 64

struct Tiles {
    uint4 w[2][TILE_HALVES / 8];
    uint4 x[2][TILE_HALVES / 8];
    // w = scale * (1 + q / 2^bits) + offset
    float4 scale[2][THREADS / 4];
    float4 offset[2][THREADS / 4];
};

// What a scale or zero is made of, as loaded: arithmetic here would wait for the loads.
struct RawParam {
    u16 scale, zero;
    u8 q;
};

// Of group c, whose meta group is `meta`.
FN RawParam read_param(const Param& p, int c, int meta) {
    RawParam raw = {p.scale[meta], 0, 0};
    if (p.q) {
        raw.zero = p.zero[meta];
        raw.q = p.q[c];
    }
    return raw;
}

// The meta group `step` groups on: a division only where it wraps.
FN int advance(const Param& p, int meta, int step) {
    if (p.m == 1) return 0;
    meta += step;
    return meta < p.m ? meta : (int)((u32)meta % (u32)p.m);
}

FN float value(const Param& p, const RawParam& raw) {
    const float s = h2f(raw.scale);
    return p.q ? ((float)raw.q - h2f(raw.zero)) * s : s;
}

// 1 + q / 2^BITS for the value in `word` whose lowest bit is bit `at`: the bits as a mantissa.
template <int BITS>
FN float one_and(u32 word, int at) {
    int d = at - (23 - BITS);
    u32 moved = d > 0 ? word >> d : word << -d;
    return __int_as_float((int)((moved & ((1u << BITS) - 1) << (23 - BITS)) | 0x3f800000u));
}

// Blocks of the grid are TILE tokens apart; of them this one multiplies the first T.
template <int BITS, int TILE, int T>
FN void gemm_tile(Tiles& tiles, const Matrix& w, const u16* x, const float* row_scale,
                  const int* gather, const int* scatter, const float* weights, float* y, int t,
                  int add) {
    const int GROUP_ROWS = TILE == 128 ? 8 : 4;
    const int ROWS = 16 * GROUP_ROWS;
    const int STEP = THREADS / GROUP_ROWS;  // columns
    const int SLICES = STEP / 32;
    const int WARPS_DOWN = T == 32 ? 4 : 2, WARPS_ACROSS = 8 / WARPS_DOWN;
    const int MT = ROWS / 16 / WARPS_DOWN, NT = T / 8 / WARPS_ACROSS;  // products a warp
    const int X_LOADS = T * STEP / 8 / THREADS;
    const int UNITS = BITS == 3 ? 1 : 8 / BITS;   // view rows that a loaded word holds
    const int W_LOADS = 4 / UNITS;
    const int WORDS = BITS == 3 ? 4 : 1;          // of a load: 4 columns
    const int UNIT_ROWS = 16 / UNITS;             // packed rows of a tile (3 bits: view rows)

    const int tid = threadIdx.x, lane = tid % WARP, warp = tid / WARP;
    const int k = w.k, group_rows = w.n / w.group_size, view_tiles = w.group_size / 16;
    const int first_unit = blockIdx.x % view_tiles * UNIT_ROWS;
    const int first_r = blockIdx.x / view_tiles * GROUP_ROWS;
    const int first_token = blockIdx.y * TILE;
    const int steps = (k + STEP - 1) / STEP;

    // The group whose parameters this thread reads. Group rows beyond the last are the last again;
    // columns beyond the last have a scale of 0.
    const int param_slice = warp / GROUP_ROWS;
    const int param_r = min(first_r + warp % GROUP_ROWS, group_rows - 1);
    int param_c = param_r * k + param_slice * 32 + lane;
    int scale_meta = param_c % w.scale.m, zero_meta = param_c % w.zero.m;
    RawParam raw_scale, raw_zero;
    bool inside;
    auto read_params = [&](int step) {
        inside = step * STEP + param_slice * 32 < k;
        int c = inside ? param_c : param_r * k;
        raw_scale = read_param(w.scale, c, scale_meta);
        raw_zero = read_param(w.zero, c, zero_meta);
        scale_meta = advance(w.scale, scale_meta, STEP);
        zero_meta = advance(w.zero, zero_meta, STEP);
        param_c += STEP;
    };
    auto store_params = [&](int buffer) {
        float s = inside ? value(w.scale, raw_scale) : 0.0f;
        float z = inside ? value(w.zero, raw_zero) : 0.0f;
        const float one = (float)(1 << BITS);
        ((float*)tiles.scale[buffer])[tid] = s * one;
        ((float*)tiles.offset[buffer])[tid] = -(z + one) * s;
    };

    // The four columns, in up to four packed rows, that this thread dequantizes.
    const int quad = tid % 8, quad_r = tid / 8 % GROUP_ROWS, quad_slice = tid / 8 / GROUP_ROWS % SLICES;
    const int unit = tid / 64;
    const long long quad_c = (long long)min(first_r + quad_r, group_rows - 1) * k + 4 * quad;
    long long w_at[BITS == 3 ? W_LOADS : 1];
    int part_shift[W_LOADS];
    if (BITS == 3) {
        #pragma unroll
        for (int i = 0; i < W_LOADS; i++) {
            int view_row = first_unit + unit + 4 * i;
            part_shift[i] = 3 * (9 - view_row / w.packed_rows);
            w_at[BITS == 3 ? i : 0] = (long long)(view_row % w.packed_rows) * w.n_groups + quad_c;
        }
    } else {
        w_at[0] = (long long)(first_unit + unit) * w.n_groups + quad_c;
    }
    // 8 halves of a token each.
    int x_row[X_LOADS];
    #pragma unroll
    for (int i = 0; i < X_LOADS; i++) {
        int token = min(first_token + (tid + THREADS * i) / 4 % T, t - 1);
        x_row[i] = gather ? gather[token] : token;
    }

    u32 raw[W_LOADS * WORDS];
    uint4 x_raw[X_LOADS];
    auto column = [&](int step, int slice) {
        int c = step * STEP + slice * 32;
        return SLICES == 1 || c < k ? c : step * STEP;
    };
    auto read_tiles = [&](int step) {
        const int c = column(step, quad_slice);
        #pragma unroll
        for (int i = 0; i < W_LOADS; i++) {
            if (BITS == 3) {
                uint4 v = *(const uint4*)((const u32*)w.w_q + w_at[BITS == 3 ? i : 0] + c);
                raw[i * WORDS] = v.x;
                raw[i * WORDS + WORDS / 4] = v.y;
                raw[i * WORDS + WORDS / 2] = v.z;
                raw[i * WORDS + WORDS - 1] = v.w;
            } else {
                raw[i] = *(const u32*)((const u8*)w.w_q + w_at[0] + 4LL * i * w.n_groups + c);
            }
        }
        #pragma unroll
        for (int i = 0; i < X_LOADS; i++) {
            int slice = (tid + THREADS * i) / 4 / T;
            x_raw[i] = *(const uint4*)(x + (long long)x_row[i] * k + column(step, slice) + tid % 4 * 8);
        }
    };
    auto store_tiles = [&](int buffer) {
        const float4 s = tiles.scale[buffer][tid % 64], o = tiles.offset[buffer][tid % 64];
        uint2* to = (uint2*)tiles.w[buffer] + (quad_slice * ROWS + quad_r) * 8 + quad;
        #pragma unroll
        for (int i = 0; i < W_LOADS; i++) {
            #pragma unroll
            for (int part = 0; part < UNITS; part++) {
                float v[4];
                #pragma unroll
                for (int b = 0; b < 4; b++) {
                    v[b] = BITS == 3 ? one_and<BITS>(raw[i * WORDS + b % WORDS] >> part_shift[i], 0)
                                     : one_and<BITS>(raw[i], 8 * b + 8 - BITS * (part + 1));
                }
                u32 low = f2h2(fmaf(v[0], s.x, o.x), fmaf(v[1], s.y, o.y));
                u32 high = f2h2(fmaf(v[2], s.z, o.z), fmaf(v[3], s.w, o.w));
                to[(part * UNIT_ROWS + unit + 4 * i) * GROUP_ROWS * 8] = make_uint2(low, high);
            }
        }
        #pragma unroll
        for (int i = 0; i < X_LOADS; i++) tiles.x[buffer][tid + THREADS * i] = x_raw[i];
    };

    float c[MT][NT][4];
    #pragma unroll
    for (int m = 0; m < MT; m++)
        #pragma unroll
        for (int n = 0; n < NT; n++)
            #pragma unroll
            for (int i = 0; i < 4; i++) c[m][n][i] = 0.0f;
    const int warp_row = warp / WARPS_ACROSS * MT * 16, warp_token = warp % WARPS_ACROSS * NT * 8;
    auto multiply = [&](int buffer) {
        const int MS = MT < 2 ? MT : 2;
        #pragma unroll
        for (int slice = 0; slice < SLICES; slice++) {
            // A lane's row g and 16-byte part q: [row][4] of them.
            const uint4* ws = tiles.w[buffer] + (slice * ROWS + warp_row) * 4 + lane;
            const uint4* xs = tiles.x[buffer] + (slice * T + warp_token) * 4 + lane;
            u32 b[NT][4];
            #pragma unroll
            for (int n = 0; n < NT; n++) {
                uint4 v = xs[n * 32];
                b[n][0] = v.x, b[n][1] = v.y, b[n][2] = v.z, b[n][3] = v.w;
            }
            #pragma unroll
            for (int m0 = 0; m0 < MT; m0 += MS) {
                u32 a[MS][2][4];
                #pragma unroll
                for (int m = 0; m < MS; m++)
                    #pragma unroll
                    for (int h = 0; h < 2; h++) {
                        uint4 v = ws[(m0 + m) * 64 + h * 32];
                        a[m][h][0] = v.x, a[m][h][1] = v.y, a[m][h][2] = v.z, a[m][h][3] = v.w;
                    }
                #pragma unroll
                for (int i = 0; i < 4; i++)
                    #pragma unroll
                    for (int m = 0; m < MS; m++)
                        #pragma unroll
                        for (int n = 0; n < NT; n++) mma_f16(c[m0 + m][n], a[m][0][i], a[m][1][i], b[n][i]);
            }
        }
    };

    // While tile s is multiplied, the packed weights and x of s + 1 are in registers, its scales
    // and zeros in shared memory, and those of s + 2 in registers. One barrier a step: buffers
    // written in it were last read in the step before.
    for (int s = -3;; s++) {
        if (s >= 0) multiply(s & 1);
        if (s + 1 == steps) break;
        if (s + 1 >= 0) store_tiles((s + 1) & 1);
        if (s + 2 >= 0 && s + 2 < steps) {
            read_tiles(s + 2);
            store_params(s & 1);
        }
        if (s + 3 < steps) read_params(s + 3);
        __syncthreads();
    }

    // Rows of y that this lane has, -1 where there is none.
    int y_row[MT][2];
    #pragma unroll
    for (int m = 0; m < MT; m++) {
        #pragma unroll
        for (int h = 0; h < 2; h++) {
            u32 row = warp_row + m * 16 + h * 8 + lane / 4;  // of the tile
            u32 tile_row = row / GROUP_ROWS;
            int r = first_r + row % GROUP_ROWS, view_row = first_unit + tile_row % UNIT_ROWS;
            if (BITS != 3) view_row += tile_row / UNIT_ROWS * w.packed_rows;
            y_row[m][h] = r < group_rows ? r + view_row * group_rows : -1;
        }
    }
    #pragma unroll
    for (int n = 0; n < NT; n++) {
        #pragma unroll
        for (int j = 0; j < 2; j++) {
            int token = first_token + warp_token + n * 8 + lane % 4 * 2 + j;
            if (token >= t) continue;
            float by = row_scale[gather ? gather[token] : token];
            if (weights) by *= weights[token];
            float* to = y + (long long)(scatter ? scatter[token] : token) * w.n;
            #pragma unroll
            for (int m = 0; m < MT; m++) {
                #pragma unroll
                for (int h = 0; h < 2; h++) {
                    if (y_row[m][h] < 0) continue;
                    float v = c[m][n][h * 2 + j] * by;
                    if (add) v += to[y_row[m][h]];
                    to[y_row[m][h]] = v;
                }
            }
        }
    }
}

template <int BITS>
FN void gemm(const Matrix& w, const u16* x, const float* row_scale, const int* gather,
             const int* scatter, const float* weights, float* y, int t, int add) {
    __shared__ Tiles tiles;
    if (t - (int)blockIdx.y * 64 <= 32) {
        gemm_tile<BITS, 64, 32>(tiles, w, x, row_scale, gather, scatter, weights, y, t, add);
    } else {
        gemm_tile<BITS, 64, 64>(tiles, w, x, row_scale, gather, scatter, weights, y, t, add);
    }
}

template <int BITS>
FN void gemm_wide(const Matrix& w, const u16* x, const float* row_scale, const int* gather,
                  const int* scatter, const float* weights, float* y, int t, int add) {
    __shared__ Tiles tiles;
    gemm_tile<BITS, 128, 128>(tiles, w, x, row_scale, gather, scatter, weights, y, t, add);
}

#define GEMM(name, blocks, body)                                                                  \
    KERNEL(__launch_bounds__(THREADS, blocks) name)(                                              \
        Matrix w, const u16* x, const float* row_scale, const int* gather, const int* scatter,    \
        const float* weights, float* y, int t, int add) {                                         \
        body(w, x, row_scale, gather, scatter, weights, y, t, add);                               \
    }                                                                                             \
    KERNEL_IS_HERE(name)

GEMM(gemm_b2, 2, gemm<2>)
GEMM(gemm_b3, 1, gemm<3>)  // its loads need the registers
GEMM(gemm_b4, 2, gemm<4>)
GEMM(gemm_b8, 2, gemm<8>)
GEMM(gemm_wide_b2, 1, gemm_wide<2>)
GEMM(gemm_wide_b3, 1, gemm_wide<3>)
GEMM(gemm_wide_b4, 1, gemm_wide<4>)
GEMM(gemm_wide_b8, 1, gemm_wide<8>)

KERNEL(rows_to_f16)(const float* x, u16* y, float* row_scale, int width) {
    __shared__ float scratch[BLOCK_WARPS];
    const long long row = (long long)blockIdx.x * width;
    float amax = 0.0f;
    for (int i = threadIdx.x; i < width; i += THREADS) amax = fmaxf(amax, fabsf(x[row + i]));
    const float into = into_half_range(block_max(amax, scratch));
    for (int i = threadIdx.x; i < width; i += THREADS) y[row + i] = f2h(x[row + i] * into);
    if (threadIdx.x == 0) row_scale[blockIdx.x] = 1.0f / into;
}
KERNEL_IS_HERE(rows_to_f16)

KERNEL(silu_mul_rows)(const float* gate, const float* up, u16* h, float* row_scale, int width) {
    __shared__ float scratch[BLOCK_WARPS];
    const long long row = (long long)blockIdx.x * width;
    float amax = 0.0f;
    for (int i = threadIdx.x; i < width; i += THREADS)
        amax = fmaxf(amax, fabsf(silu(gate[row + i]) * up[row + i]));
    const float into = into_half_range(block_max(amax, scratch));
    // Again rather than kept: an exponential costs less than registers for a whole row.
    for (int i = threadIdx.x; i < width; i += THREADS)
        h[row + i] = f2h(silu(gate[row + i]) * up[row + i] * into);
    if (threadIdx.x == 0) row_scale[blockIdx.x] = 1.0f / into;
}
KERNEL_IS_HERE(silu_mul_rows)
