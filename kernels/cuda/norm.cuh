// The root mean square norm of a row, by a block of 512 threads: what rms_norm and the router share.
//
// For one token such a block is alone on the GPU, and its time is that of a few trips to memory. So
// a thread loads all its columns before it uses one, keeps their products for the output, and the
// block meets once. A row of up to 4096 columns is loaded once, a longer one in steps, and again
// for the output.
#pragma once
#include "block.cuh"

#define ROW_THREADS 512
#define ROW_WARPS (ROW_THREADS / WARP)
#define OWN 8                            // columns of a thread at a time
#define ROW_COLUMNS (OWN * ROW_THREADS)  // and of the block

// Sums by warp, for the barrier.
struct RowSums {
    float4 squares[ROW_WARPS / 4], most[ROW_WARPS / 4];
};

// Where a thread's column number i is, of the block's. They lie in runs of RUN: 8 or 4 where that
// divides `width` and rows are aligned to 16 bytes, else 1. RUN is the template parameter of all below.
template <int RUN>
FN int column(int i) {
    return (i / RUN * ROW_THREADS + (int)threadIdx.x) * RUN + i % RUN;
}

// Where the run with column i starts; behind the end of the row, its last run: a load that is not
// needed waits for nothing, unlike a branch around it.
template <int RUN>
FN int run_within(int i, int from, int width) {
    return min(from + column<RUN>(i), width - RUN);
}

template <int RUN>
FN void load_row(float to[OWN], const float* row, int from, int width) {
#pragma unroll
    for (int i = 0; i < OWN; i += RUN) {
        const float* at = row + run_within<RUN>(i, from, width);
        if constexpr (RUN == 1) {
            to[i] = at[0];
        } else {
#pragma unroll
            for (int j = 0; j < RUN; j += 4) {
                float4 v = *(const float4*)(at + j);
                to[i + j] = v.x, to[i + j + 1] = v.y, to[i + j + 2] = v.z, to[i + j + 3] = v.w;
            }
        }
    }
}

// Makes v, which holds x, x * w, 0 behind the end; adds x^2 up and raises `most` to |x * w|.
template <int RUN>
FN void weigh(float v[OWN], const float w[OWN], int from, int width, float& squares, float& most) {
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        bool within = from + column<RUN>(i) < width;
        float x = within ? v[i] : 0.0f;
        v[i] = within ? x * w[i] : 0.0f;
        squares += x * x;
        most = fmaxf(most, fabsf(v[i]));
    }
}

template <int RUN>
FN void store_row(float* row, const float v[OWN], float scale, int from, int width) {
#pragma unroll
    for (int i = 0; i < OWN; i += RUN) {
        int at = from + column<RUN>(i);
        if (at >= width) break;
        if constexpr (RUN == 1) {
            row[at] = v[i] * scale;
        } else {
#pragma unroll
            for (int j = i; j < i + RUN; j += 4)
                *(float4*)(row + at + j - i) =
                    make_float4(v[j] * scale, v[j + 1] * scale, v[j + 2] * scale, v[j + 3] * scale);
        }
    }
}

// The whole output, from the end, whose products `v` still holds; `x` may be `to`.
template <int RUN>
FN void store_rows(float* to, float v[OWN], const float* x, const float* w, float scale, int width) {
    for (int from = (width - 1) / ROW_COLUMNS * ROW_COLUMNS;;) {
        store_row<RUN>(to, v, scale, from, width);
        from -= ROW_COLUMNS;
        if (from < 0) return;
        float by[OWN], squares = 0.0f, most = 0.0f;
        load_row<RUN>(v, x, from, width);
        load_row<RUN>(by, w, from, width);
        weigh<RUN>(v, by, from, width, squares, most);
    }
}

// Leaves the warp's sum and maximum for all others, which see it behind the next barrier. After the
// first exchange half of the lanes go on with the one, half with the other.
FN void put_sums(RowSums& sums, float squares, float most) {
    bool upper = threadIdx.x & 16;
    float v = upper ? most : squares, other = __shfl_xor_sync(ALL_LANES, upper ? squares : most, 16);
    v = upper ? fmaxf(v, other) : v + other;
#pragma unroll
    for (int d = 8; d > 0; d >>= 1) {
        other = __shfl_xor_sync(ALL_LANES, v, d);
        v = upper ? fmaxf(v, other) : v + other;
    }
    float* to = (float*)(upper ? sums.most : sums.squares);
    if (threadIdx.x % 16 == 0) to[threadIdx.x / WARP] = v;
}

// 1 / sqrt(mean(x^2) + eps), within 8e-7 of itself: 2e-7 are rsqrtf's, the rest half of some twenty
// roundings of the sum; NaN where f32 cannot hold the sum, whose root would make every value 0.
// `inverse` is 1 / width.
FN float norm_scale(const RowSums& sums, float inverse, float eps) {
    float4 s = sums.squares[0];
#pragma unroll
    for (int i = 1; i < ROW_WARPS / 4; i++) {
        float4 v = sums.squares[i];
        s = make_float4(s.x + v.x, s.y + v.y, s.z + v.z, s.w + v.w);
    }
    float sum = (s.x + s.y) + (s.z + s.w);
    return rsqrtf(sum * inverse + eps) + (sum - sum);
}

FN float row_most(const RowSums& sums) {
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < ROW_WARPS / 4; i++) {
        float4 v = sums.most[i];
        most = fmaxf(most, fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w)));
    }
    return most;
}
