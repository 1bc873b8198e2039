// The product of a packed matrix with one vector, for matrices whose groups line up with rows:
// what matvec.cu and experts.cu are made of.
//
// Needs n % group_size == 0, group_size % 16 == 0, k % 16 == 0, meta values m == 1 or m % 4 == 0,
// x aligned to 16 bytes, and the alignments of `Matrix`.
//
// With R = n / group_size, group row r (the columns c = r k + column of the packed view) serves
// the rows r, r + R, r + 2R, ...; row r + m R of the matrix is row m of the view. So
//
//   y[r + m R] = sum q u - sum zero u,   u = scale x,
//
// where u and the second sum are shared by the group's rows. A block takes one *tile* of a group
// row: all parts of UNIT_ROWS packed rows, 16 rows of the matrix (20 for 3 bits). Its warps share
// the columns, 128 a *step*, of which each lane computes u for 4 neighbouring ones.
//
// The sums run on tensor cores. A holds quantized values as they lie in the packed bits: masked,
// they are subnormal halves, q times a power of two, exact. With g = lane / 4, the lanes
// 4g .. 4g + 3 supply row g of A and column g of B, and of the product only the diagonal is meant:
// (g, g), and (g + 8, g) for a second row of the matrix. So rows of A may stand for different
// columns of the matrix: SHARE neighbouring g read the same 4 * SHARE columns a lane in different
// packed rows, and exchange their u; other g read other columns.
//
// Error: u is rounded to f16 (1/2048 of each term at most), which is about 0.02% of the root of the
// sum of the terms' squares, and so of the output's RMS; the rest is f32. u is scaled so that x
// fits f16 whatever its size; scales beyond 2000 in magnitude do not fit.
#pragma once
#include "octet.cuh"

#define COLUMNS 128  // of a step
#define UNIT_24 5.9604644775390625e-8f  // 2^-24: the unit of subnormal halves

template <int BITS>
struct Packing {
    static constexpr int UNIT_ROWS = BITS == 3 ? 2 : 2 * BITS;  // packed rows of a tile
    static constexpr int SHARE = BITS == 3 ? 2 : 4;
    static constexpr int PAIRS = BITS == 3 ? 5 : 2;  // of rows of the matrix that one lane sums
    static constexpr int ROWS = 2 * PAIRS * SHARE;   // of the matrix, a tile
    static constexpr int VECTORS = BITS == 3 ? 2 : UNIT_ROWS / SHARE;  // of 16 bytes, a lane and step
    static constexpr int UNIT_BYTES = BITS == 3 ? 4 : 1;
};

#define MAX_TILE_ROWS 20

// Steps read ahead: what registers allow.
#define DEPTH(bits) ((bits) == 2 ? 2 : 1)
// Blocks a multiprocessor for those registers.
#define RESIDENT(bits) ((bits) == 3 || (bits) == 8 ? 2 : 3)

// What the warps of a block leave for each other. `u` is read in vectors.
struct alignas(16) Shared {
    u32 u[8][2][64];               // by warp, step % 2, in pairs of f16: columns 0 and 2, 1 and 3 of a lane
    float q[8][MAX_TILE_ROWS][4];  // by warp, row of the tile, columns of the step
    float zero[8];
};

// Weights are read once: they should not displace x and meta values from L1.
FN u32 load_once(const u32* p) {
#ifdef OCTET_HOST
    return *p;
#else
    u32 v;
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
#endif
}

FN uint4 load_once(const uint4* p) {
#ifdef OCTET_HOST
    return *p;
#else
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p));
    return v;
#endif
}

// Four f16 at a multiple of 4 bytes.
FN uint2 load_pairs(const u16* p) {
#ifdef OCTET_HOST
    return make_uint2(((const u32*)p)[0], ((const u32*)p)[1]);
#else
    uint2 v;
    asm("ld.global.nc.u32 %0, [%2];\n\tld.global.nc.u32 %1, [%2 + 4];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
#endif
}

// Bytes of a and b (a's are 0 to 3, b's 4 to 7), one a nibble of `which`.
FN u32 bytes_of(u32 a, u32 b, u32 which) {
#ifdef OCTET_HOST
    u64 both = (u64)b << 32 | a;
    u32 v = 0;
    for (int i = 0; i < 4; i++) v |= (u32)(both >> (8 * (which >> (4 * i) & 7)) & 255) << (8 * i);
    return v;
#else
    return __byte_perm(a, b, which);
#endif
}

FN float low_half(u32 w) { return h2f((u16)w); }
FN float high_half(u32 w) { return h2f((u16)(w >> 16)); }

// Bytes as subnormal halves.
FN u32 even_bytes(u32 w) { return w & 0x00ff00ffu; }
FN u32 odd_bytes(u32 w) { return w >> 8 & 0x00ff00ffu; }

// Four neighbouring f16, the only one four times where m == 1; i is a multiple of 4.
FN uint2 four_halves(const u16* p, int m, int i) {
    if (m == 1) return make_uint2(p[0] * 0x10001u, p[0] * 0x10001u);
    p += i;
    return make_uint2(p[0] | (u32)p[1] << 16, p[2] | (u32)p[3] << 16);
}

// What one lane reads of a step: weights of 4 * SHARE columns, the rest of its own four of them.
template <int BITS>
struct Step {
    uint4 w[Packing<BITS>::VECTORS];
    u32 scale_q, zero_q;
    uint2 meta_scale, meta_zero;  // of the scale
    float4 x;
};

// One lane's sums over its columns.
template <int BITS>
struct Sums {
    float q[Packing<BITS>::PAIRS][4];
    float zeros[4];  // zero_q u and u, where zeros share one meta value
    float zero;      // zero u
};

// This lane's place among those that share columns.
template <int BITS>
FN int share() { return threadIdx.x / 4 % Packing<BITS>::SHARE; }

// The first of this lane's four columns in a step.
template <int BITS>
FN int lane_column() {
    constexpr int SHARE = Packing<BITS>::SHARE;
    int lane = threadIdx.x % WARP, g = lane / 4, q = lane % 4;
    return (g / SHARE * 4 + q) * 4 * SHARE + g % SHARE * 4;
}

// One lane's way through a tile of `w`.
template <int BITS>
struct Walk {
    const u8* w_q;  // the lane's first packed row of the tile, its first column
    const u8* scale;
    const u8* zero;
    const float* x;
    int c;       // group of the lane's column in step 0
    bool exists;  // its packed row: 3 bits may have one too few
};

template <int BITS>
FN Walk<BITS> walk_of(const Matrix& w, int r, int tile, const float* x) {
    using P = Packing<BITS>;
    int unit_row = tile * P::UNIT_ROWS + share<BITS>(), column = lane_column<BITS>();
    long long c = (long long)r * w.k + column;
    Walk<BITS> at;
    at.w_q = (const u8*)w.w_q + ((long long)unit_row * w.n_groups + c - 4 * share<BITS>()) * P::UNIT_BYTES;
    at.scale = w.scale.q + c;
    at.zero = w.zero.q + c;
    at.x = x + column;
    at.c = (int)c;
    at.exists = BITS != 3 || unit_row < w.packed_rows;
    return at;
}

template <int BITS>
FN void load_weights(Step<BITS>& s, const Walk<BITS>& at, u32 n_groups, int column) {
    using P = Packing<BITS>;
#pragma unroll
    for (int i = 0; i < P::VECTORS; i++) {
        s.w[i] = make_uint4(0, 0, 0, 0);
        // 3 bits: the same packed row's next four columns.
        u64 row = BITS == 3 ? 16 * i : (u64)n_groups * (P::SHARE * i);
        if (at.exists) s.w[i] = load_once((const uint4*)(at.w_q + row + column * P::UNIT_BYTES));
    }
}

// Adds q u over four columns, those of the lane number `i` that shares; u02 holds the first and
// third one's u. Parts come with the powers of two that `part_unit` takes off.
template <int BITS>
FN void multiply(Sums<BITS>& sums, const Step<BITS>& s, int i, u32 u02, u32 u13) {
    u32 w[Packing<BITS>::VECTORS][4];
#pragma unroll
    for (int v = 0; v < Packing<BITS>::VECTORS; v++)
        w[v][0] = s.w[v].x, w[v][1] = s.w[v].y, w[v][2] = s.w[v].z, w[v][3] = s.w[v].w;
    if constexpr (BITS == 2) {
        u32 even = w[0][i], odd = even >> 8;
        mma_f16(sums.q[0], even & 0x00c000c0u, even & 0x00300030u, u02);
        mma_f16(sums.q[1], even & 0x000c000cu, even & 0x00030003u, u02);
        mma_f16(sums.q[0], odd & 0x00c000c0u, odd & 0x00300030u, u13);
        mma_f16(sums.q[1], odd & 0x000c000cu, odd & 0x00030003u, u13);
    } else if constexpr (BITS == 4) {
#pragma unroll
        for (int p = 0; p < 2; p++) {
            u32 even = w[p][i], odd = even >> 8;
            mma_f16(sums.q[p], even & 0x00f000f0u, even & 0x000f000fu, u02);
            mma_f16(sums.q[p], odd & 0x00f000f0u, odd & 0x000f000fu, u13);
        }
    } else if constexpr (BITS == 8) {
#pragma unroll
        for (int p = 0; p < 2; p++) {
            u32 a = w[2 * p][i], b = w[2 * p + 1][i];
            mma_f16(sums.q[p], even_bytes(a), even_bytes(b), u02);
            mma_f16(sums.q[p], odd_bytes(a), odd_bytes(b), u13);
        }
    } else {
#pragma unroll
        for (int column = 0; column < 2; column++) {
            u32 a = w[i][column], b = w[i][column + 2];
            u32 low = bytes_of(a, b, 0x5410), high = bytes_of(a, b, 0x7632);
            u32 low6 = low >> 6, high6 = high >> 6;
            u32 part4 = (low >> 15 & 0x00010001u) | (high << 1 & 0x00060006u);
            u32 u = column ? u13 : u02;
            mma_f16(sums.q[0], high6 & 0x00e000e0u, high6 & 0x001c001cu, u);
            mma_f16(sums.q[1], high & 0x00e000e0u, high & 0x001c001cu, u);
            mma_f16(sums.q[2], part4, low6 & 0x01c001c0u, u);
            mma_f16(sums.q[3], low6 & 0x00380038u, low & 0x01c001c0u, u);
            mma_f16(sums.q[4], low & 0x00380038u, low & 0x00070007u, u);
        }
    }
}

// 2^24 over the power of two that `multiply` leaves on a part.
template <int BITS>
FN float part_unit(int part) {
    int shift = 0;
    if constexpr (BITS == 2) shift = 6 - 2 * part;
    if constexpr (BITS == 4) shift = 4 - 4 * part;
    if constexpr (BITS == 3) shift = (int)(0x0363602525ull >> (4 * part)) & 15;
    return __int_as_float((127 + 24 - shift) << 23);
}

// Which row of the view is number `i` of the tile's rows, (share * PAIRS + pair) * 2 + which of the
// two; its part is given too. -1 where there is none.
template <int BITS>
FN int tile_row(const Matrix& w, int tile, int i, int& part) {
    using P = Packing<BITS>;
    int unit_row = tile * P::UNIT_ROWS + i / (2 * P::PAIRS), in_lane = i % (2 * P::PAIRS);
    if constexpr (BITS == 2 || BITS == 3) part = in_lane;
    if constexpr (BITS == 4) unit_row += P::SHARE * (in_lane / 2), part = in_lane % 2;
    if constexpr (BITS == 8) unit_row += P::SHARE * in_lane, part = 0;
    int m = part * w.packed_rows + unit_row;
    return i < P::ROWS && unit_row < w.packed_rows && m < w.group_size ? m : -1;
}

// Adds a step, whose u are given back; x counts `factor` times. Through `words` (64 of the warp)
// lanes exchange u: other lanes may read them until the barrier in the next call, so that calls
// take two in turn.
template <int BITS>
FN void add(Sums<BITS>& sums, const Step<BITS>& s, float factor, u32* words, float u[4]) {
    constexpr int SHARE = Packing<BITS>::SHARE;
    u32 q[2] = {even_bytes(s.scale_q), odd_bytes(s.scale_q)};
    u32 meta_scale[2] = {s.meta_scale.x, s.meta_scale.y}, meta_zero[2] = {s.meta_zero.x, s.meta_zero.y};
    float x[4] = {s.x.x, s.x.y, s.x.z, s.x.w};
    factor *= 1.0f / UNIT_24;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float q_j = j < 2 ? low_half(q[j % 2]) : high_half(q[j % 2]);
        float zero = j % 2 ? high_half(meta_zero[j / 2]) : low_half(meta_zero[j / 2]);
        float scale = j % 2 ? high_half(meta_scale[j / 2]) : low_half(meta_scale[j / 2]);
        u[j] = (q_j - zero * UNIT_24) * scale * (x[j] * factor);
    }
    u32 u02 = f2h2(u[0], u[2]), u13 = f2h2(u[1], u[3]);
    *(uint2*)(words + lane_column<BITS>() / 2) = make_uint2(u02, u13);
    __syncwarp();
    mma_f16(sums.zeros, even_bytes(s.zero_q), 0x00010001u, u02);
    mma_f16(sums.zeros, odd_bytes(s.zero_q), 0x00010001u, u13);
    const uint4* shared_u = (const uint4*)(words + (lane_column<BITS>() - 4 * share<BITS>()) / 2);
#pragma unroll
    for (int i = 0; i < SHARE; i += 2) {
        uint4 v = shared_u[i / 2];
        multiply<BITS>(sums, s, i, v.x, v.y);
        multiply<BITS>(sums, s, i + 1, v.z, v.w);
    }
}

// The usual matrix: scales in several meta groups, zeros in one. (One wait for all, hence no &&.)
FN bool is_usual(const Matrix& w) {
    u64 odd = ((u64)w.scale.scale | (u64)w.scale.zero) & 3;
    return (w.scale.q != nullptr) & (w.scale.m > 1) & (w.zero.q != nullptr) & (w.zero.m == 1) & (odd == 0);
}

// The steps first, first + STRIDE, ... below `end` of a usual matrix, all of whose columns exist,
// reading STEPS of them ahead.
template <int BITS, int STRIDE, int STEPS>
FN void usual_steps(Sums<BITS>& sums, const Matrix& w, int r, int tile, const float* x, int first, int end,
                    float factor, u32 (*words)[64]) {
    constexpr int PACE = STRIDE * COLUMNS;
    using P = Packing<BITS>;
    int left = (end - first + STRIDE - 1) / STRIDE;
    if (left <= 0) return;
    Walk<BITS> at = walk_of<BITS>(w, r, tile, x);
    at.w_q += first * COLUMNS * P::UNIT_BYTES;
    at.scale += first * COLUMNS;
    at.zero += first * COLUMNS;
    at.x += first * COLUMNS;
    u32 n_groups = w.n_groups, m = w.scale.m, meta = (u32)(at.c + first * COLUMNS) % m, meta_pace = PACE % m;
    const u16 *meta_scale = w.scale.scale, *meta_zero = w.scale.zero;
    auto load = [&](Step<BITS>& s, int i) {
        load_weights<BITS>(s, at, n_groups, i * PACE);
        s.scale_q = load_once((const u32*)(at.scale + i * PACE));
        s.zero_q = load_once((const u32*)(at.zero + i * PACE));
        s.meta_scale = load_pairs(meta_scale + meta);
        s.meta_zero = load_pairs(meta_zero + meta);
        s.x = *(const float4*)(at.x + i * PACE);
        // The smaller as unsigned: where it did not pass m, taking m off wraps around.
        meta = min(meta + meta_pace, meta + meta_pace - m);
    };
    Step<BITS> ahead[STEPS];
#pragma unroll
    for (int i = 0; i < STEPS; i++)
        if (i < left) load(ahead[i], i);
    for (;;) {
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            float u[4];
            add<BITS>(sums, ahead[i], factor, words[STEPS % 2 ? left % 2 : i % 2], u);
            if (left > STEPS) load(ahead[i], STEPS + i);
            if (--left == 0) return;
        }
        at.w_q += STEPS * PACE * P::UNIT_BYTES;
        at.scale += STEPS * PACE;
        at.zero += STEPS * PACE;
        at.x += STEPS * PACE;
    }
}

// The same steps of any matrix, also where columns end.
template <int BITS, int STRIDE>
FN void any_steps(Sums<BITS>& sums, const Matrix& w, int r, int tile, const float* x, int first, int end, float factor,
                  u32 (*words)[64]) {
    if (first >= end) return;
    Walk<BITS> at = walk_of<BITS>(w, r, tile, x);
    for (int step = first; step < end; step += STRIDE) {
        int column = step * COLUMNS;
        Step<BITS> s = {};
        float zero[4] = {0.0f, 0.0f, 0.0f, 0.0f}, u[4];
        if (column + lane_column<BITS>() < w.k) {
            load_weights<BITS>(s, at, w.n_groups, column);
            int c = at.c + column;
            // A plain parameter is the value 1 with the scale alone.
            s.scale_q = w.scale.q ? *(const u32*)(at.scale + column) : 0x01010101u;
            s.meta_scale = four_halves(w.scale.scale, w.scale.m, w.scale.m == 1 ? 0 : c % w.scale.m);
            if (w.scale.q) s.meta_zero = four_halves(w.scale.zero, w.scale.m, w.scale.m == 1 ? 0 : c % w.scale.m);
            s.x = *(const float4*)(at.x + column);
            if (w.zero.m == 1) {
                s.zero_q = w.zero.q ? *(const u32*)(at.zero + column) : 0x01010101u;
            } else {
#pragma unroll
                for (int j = 0; j < 4; j++) zero[j] = param_at(w.zero, c + j);
            }
        }
        add<BITS>(sums, s, factor, words[0], u);
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 4; j++) sums.zero += zero[j] * h2f(f2h(u[j]));
    }
}

template <int BITS>
FN void clear(Sums<BITS>& sums) {
#pragma unroll
    for (int p = 0; p < Packing<BITS>::PAIRS; p++)
        sums.q[p][0] = sums.q[p][1] = sums.q[p][2] = sums.q[p][3] = 0.0f;
    sums.zero = 0.0f;
}

// Whether this lane has sums on the diagonal, and which of two neighbours they are.
FN bool is_diagonal() { return threadIdx.x % WARP / 8 == threadIdx.x % 4; }
FN float diagonal(float even, float odd) { return threadIdx.x / 4 % 2 ? odd : even; }

// Adds to `sums` the tile's product with the columns of the steps first, first + STRIDE, ...
template <int BITS, int STRIDE, int STEPS>
FN void walk(Sums<BITS>& sums, const Matrix& w, int r, int tile, int first, const float* x, float factor,
             Shared& shared) {
    u32(*words)[64] = shared.u[threadIdx.x / WARP];
    sums.zeros[0] = sums.zeros[1] = sums.zeros[2] = sums.zeros[3] = 0.0f;
    int whole = is_usual(w) ? w.k / COLUMNS : 0, steps = (w.k + COLUMNS - 1) / COLUMNS;
    usual_steps<BITS, STRIDE, STEPS>(sums, w, r, tile, x, first, whole, factor, words);
    __syncwarp();
    if (first < whole) first += (whole - first + STRIDE - 1) / STRIDE * STRIDE;
    any_steps<BITS, STRIDE>(sums, w, r, tile, x, first, steps, factor, words);
    if (w.zero.m == 1 && is_diagonal()) {
        float scale = h2f(w.zero.scale[0]), zero = w.zero.q ? h2f(w.zero.zero[0]) : 0.0f;
        float zero_q = diagonal(sums.zeros[0], sums.zeros[1]), u = diagonal(sums.zeros[2], sums.zeros[3]);
        sums.zero += (zero_q - zero * u) * (scale * (1.0f / UNIT_24));
    }
}

template <int BITS>
FN void leave(Shared& shared, const Sums<BITS>& sums) {
    using P = Packing<BITS>;
    int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4;
    if (is_diagonal()) {
        float(*to)[4] = shared.q[warp] + g % P::SHARE * (2 * P::PAIRS);
#pragma unroll
        for (int p = 0; p < P::PAIRS; p++) {
            to[2 * p][g / P::SHARE] = diagonal(sums.q[p][0], sums.q[p][1]);
            to[2 * p + 1][g / P::SHARE] = diagonal(sums.q[p][2], sums.q[p][3]);
        }
    }
    float zero = warp_sum(sums.zero);
    if (threadIdx.x % WARP == 0) shared.zero[warp] = zero;
}

// The part of warp threadIdx.x % 8 in the product of the tile's row threadIdx.x / 8.
template <int BITS>
FN float collect(const Shared& shared, int part) {
    using P = Packing<BITS>;
    int row = threadIdx.x / 8, warp = threadIdx.x % 8;
    float sum = 0.0f;
    if (row < P::ROWS) {
#pragma unroll
        for (int i = 0; i < 8 / P::SHARE; i++) sum += shared.q[warp][row][i];
    }
    return sum * part_unit<BITS>(part) - shared.zero[warp];
}

// The sum over `lanes` neighbouring lanes, a power of two, in each of them.
FN float sum_over(float v, int lanes) {
    for (int d = lanes / 2; d > 0; d >>= 1) v += __shfl_xor_sync(ALL_LANES, v, d);
    return v;
}

// x times this lies within f16: a power of two. Some of the range above 1 is used too, so that
// small x keep their precision beside a large one.
FN float into_range(float amax) { return into_half_range(fmaxf(amax, 1e-27f)) * 32.0f; }

FN float inverse(float power_of_two) { return __int_as_float(0x7f000000 - __float_as_int(power_of_two)); }
