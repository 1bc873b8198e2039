// Products of one token with matrices whose groups line up with rows (matvec_b*), and of any
// number of tokens with a matrix of any layout (matvec_any). Blocks of 256 threads.
//
// matvec_b2, _b3, _b4, _b8: y = W x, or y += W x where `add`, for `count` (1 to 3) matrices of
// that many bits with the same k: `a` into ya, `b` into yb, `c` into yc.
//   x     f32 (k), aligned to 16 bytes;  amax  f32 (1): max |x|, or more
//   ya    f32 (n of a), and so on; the unused are not looked at
//   grid  x = the tiles of all matrices, n / group_size * ceil(group_size / 16) each
// What a matrix needs, how it is computed and how exactly: matvec.cuh.
//
// matvec_any: y[scatter[i]] = or += weights[i] * W x[gather[i]] for i < t, in f32 with sums in
// another order than the reference's: within 2e-6 of the largest result. One warp a row of w.
//   w        any bits and layout; 4-byte units of 3 bits aligned to 4, f16 to 2
//   x        f32 (rows, k);  y  f32 (rows, n)
//   gather, scatter  int (t), a row each, or null: i;  weights  f32 (t), or null: 1
//   grid     (ceil(n / 8), t). The rows of scatter must differ.
#include "matvec.cuh"

template <int BITS>
FN void matvec(const Matrix& a, const Matrix& b, const Matrix& c, int count, const float* x, const float* amax,
               float* ya, float* yb, float* yc, int add, Shared& shared) {
    Matrix w = a;
    float* y = ya;
    int block = blockIdx.x;
    int tiles = (w.group_size + 15) / 16, blocks = w.n / w.group_size * tiles;
    if (count > 1 && block >= blocks) {
        block -= blocks;
        w = b;
        y = yb;
        tiles = (w.group_size + 15) / 16, blocks = w.n / w.group_size * tiles;
        if (count > 2 && block >= blocks) {
            block -= blocks;
            w = c;
            y = yc;
            tiles = (w.group_size + 15) / 16;
        }
    }
    int r = block / tiles, tile = block % tiles;
    float factor = into_range(amax[0]);
    Sums<BITS> sums;
    clear<BITS>(sums);
    walk<BITS, 8, DEPTH(BITS)>(sums, w, r, tile, threadIdx.x / WARP, x, factor, shared);
    leave<BITS>(shared, sums);
    __syncthreads();
    int part, m = tile_row<BITS>(w, tile, threadIdx.x / 8, part);
    float v = sum_over(collect<BITS>(shared, part), 8) * inverse(factor);
    if (m >= 0 && threadIdx.x % 8 == 0) {
        float* at = y + r + (long long)m * (w.n / w.group_size);
        *at = add ? *at + v : v;
    }
}

#define MATVEC(name, bits)                                                                                             \
    KERNEL(__launch_bounds__(256, RESIDENT(bits)) name)(Matrix a, Matrix b, Matrix c, int count, const float* x,       \
                                                        const float* amax, float* ya, float* yb, float* yc, int add) { \
        __shared__ Shared shared;                                                                                      \
        matvec<bits>(a, b, c, count, x, amax, ya, yb, yc, add, shared);                                                \
    }                                                                                                                  \
    KERNEL_IS_HERE(name)

MATVEC(matvec_b2, 2)
MATVEC(matvec_b3, 3)
MATVEC(matvec_b4, 4)
MATVEC(matvec_b8, 8)

KERNEL(matvec_any)(Matrix w, const float* x, const int* gather, const int* scatter, const float* weights, float* y,
                   int t, int add) {
    int row = blockIdx.x * 8 + threadIdx.x / WARP, lane = threadIdx.x % WARP, i = blockIdx.y;
    if (row >= w.n || i >= t) return;
    x += (long long)(gather ? gather[i] : i) * w.k;
    long long first = (long long)row * w.k + lane;
    int view_row = (int)(first / w.n_groups), c = (int)(first % w.n_groups);
    float sum = 0.0f;
    for (int column = lane; column < w.k; column += WARP) {
        int part = view_row / w.packed_rows;
        long long at = (long long)(view_row - part * w.packed_rows) * w.n_groups + c;
        int q = w.bits == 3 ? (int)(((const u32*)w.w_q)[at] >> 3 * (9 - part) & 7)
                            : ((const u8*)w.w_q)[at] >> (8 - w.bits * (part + 1)) & ((1 << w.bits) - 1);
        sum += ((float)q - param_at(w.zero, c)) * param_at(w.scale, c) * x[column];
        for (c += WARP; c >= w.n_groups; c -= w.n_groups) view_row++;
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        float* at = y + (long long)(scatter ? scatter[i] : i) * w.n + row;
        if (weights) sum *= weights[i];
        *at = add ? *at + sum : sum;
    }
}
KERNEL_IS_HERE(matvec_any)
