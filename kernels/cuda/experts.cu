// The experts of one token: gate and up projections with silu (expert_gate_up_b*), then the down
// projection, summed by routing weight (expert_down_b*). Blocks of 256 threads.
//
// Which experts: see `Picks`. For i < picks.count, pick i is the expert in slots[slot[i]], or
// where slot[i] is -1 in slots[place[ids[j[i]]]], which must then be a slot. All are of one shape,
// w1 and w3 (intermediate, hidden), w2 (hidden, intermediate), all of that many bits and of one
// group size each. What the matrices need, how and how exactly is computed: matvec.cuh.
//
// expert_gate_up_b2, _b3, _b4, _b8: h[i] = silu(w1 x) * (w3 x)
//   x       f32 (hidden), aligned to 16 bytes;  amax  f32 (1): max |x|, or more
//   h       f32 (picks.count, intermediate)
//   h_amax  f32 (picks.count): raised to max |h[i]|; the caller set it to 0
//   grid    (tiles, picks.count), tiles = rows_of_groups * ceil(group_size / 16), where
//           rows_of_groups = intermediate / group_size of w1
// Four warps compute the gate, four the up projection.
//
// expert_down_b2, _b3, _b4, _b8: y += sum over i of weights[j[i]] * w2 h[i], always in one order
//   weights f32 (top_k);  h f32 (picks.count, intermediate), aligned to 16 bytes;  h_amax as above
//   y       f32 (hidden)
//   grid    hidden / group_size * ceil(group_size / 16), group_size of w2
// All picks go through one accumulation: h[i] is scaled by its weight first.
#include "block.cuh"
#include "matvec.cuh"

// The down projection has few blocks and long rows: two a multiprocessor, more ahead.
#define DOWN_DEPTH(bits) ((bits) == 2 ? 3 : 2)

// Not an index: that would copy the launch's argument to memory.
FN int number(const int all[MAX_PICKS], int i) {
    int v = all[0];
#pragma unroll
    for (int k = 1; k < MAX_PICKS; k++)
        if (k == i) v = all[k];
    return v;
}

FN const Expert& picked(const Expert* slots, const Picks& picks, const int* ids, const int* place, int i) {
    int slot = number(picks.slot, i);
    return slots[slot >= 0 ? slot : place[ids[number(picks.j, i)]]];
}

template <int BITS>
FN void expert_gate_up(const Expert* slots, const Picks& picks, const int* ids, const int* place, const float* x,
                       const float* amax, float* h, float* h_amax, int rows_of_groups, Shared& shared) {
    int i = blockIdx.y, warp = threadIdx.x / WARP;
    const Expert& expert = picked(slots, picks, ids, place, i);
    const Matrix& w = warp < 4 ? expert.w1 : expert.w3;
    int tiles = gridDim.x / rows_of_groups;
    int r = blockIdx.x / tiles, tile = blockIdx.x % tiles;
    float factor = into_range(amax[0]);
    Sums<BITS> sums;
    clear<BITS>(sums);
    walk<BITS, 4, DEPTH(BITS)>(sums, w, r, tile, warp % 4, x, factor, shared);
    leave<BITS>(shared, sums);
    __syncthreads();
    int part, m = tile_row<BITS>(w, tile, threadIdx.x / 8, part);
    // Of eight threads the first four have the gate, the others the up projection.
    float v = sum_over(collect<BITS>(shared, part), 4) * inverse(factor);
    float up = __shfl_xor_sync(ALL_LANES, v, 4), value = 0.0f;
    if (m >= 0 && threadIdx.x % 8 == 0) {
        value = silu(v) * up;
        h[(long long)i * w.n + r + (long long)m * rows_of_groups] = value;
    }
    raise_warp_max(h_amax + i, fabsf(value));
}

template <int BITS>
FN void expert_down(const Expert* slots, const Picks& picks, const int* ids, const int* place, const float* weights,
                    const float* h, const float* h_amax, float* y, int intermediate, Shared& shared) {
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < MAX_PICKS; i++)
        if (i < picks.count) largest = fmaxf(largest, fabsf(weights[picks.j[i]]) * h_amax[i]);
    float factor = into_range(largest);
    int warp = threadIdx.x / WARP, steps = (intermediate + COLUMNS - 1) / COLUMNS;
    Sums<BITS> sums;
    clear<BITS>(sums);
    // All of one shape: a tile of the first is the same tile of the others.
    const Matrix& first = picked(slots, picks, ids, place, 0).w2;
    int tiles = (first.group_size + 15) / 16, r = blockIdx.x / tiles, tile = blockIdx.x % tiles;
    for (int i = 0; i < picks.count; i++) {
        // Warps go on where the steps of the pick before ended, so that all have as many.
        walk<BITS, 8, DOWN_DEPTH(BITS)>(sums, picked(slots, picks, ids, place, i).w2, r, tile, (warp - i * steps) & 7,
                                   h + (long long)i * intermediate, factor * weights[number(picks.j, i)], shared);
    }
    leave<BITS>(shared, sums);
    __syncthreads();
    int part, m = tile_row<BITS>(first, tile, threadIdx.x / 8, part);
    float v = sum_over(collect<BITS>(shared, part), 8) * inverse(factor);
    if (m >= 0 && threadIdx.x % 8 == 0) y[r + (long long)m * (first.n / first.group_size)] += v;
}

#define EXPERTS(gate_up, down, bits)                                                                            \
    KERNEL(__launch_bounds__(256, RESIDENT(bits)) gate_up)(const Expert* slots, Picks picks, const int* ids,    \
                                                           const int* place, const float* x, const float* amax, \
                                                           float* h, float* h_amax, int rows_of_groups) {       \
        __shared__ Shared shared;                                                                               \
        expert_gate_up<bits>(slots, picks, ids, place, x, amax, h, h_amax, rows_of_groups, shared);             \
    }                                                                                                           \
    KERNEL_IS_HERE(gate_up)                                                                                     \
    KERNEL(__launch_bounds__(256, 2) down)(const Expert* slots, Picks picks, const int* ids, const int* place,  \
                                           const float* weights, const float* h, const float* h_amax, float* y, \
                                           int intermediate) {                                                  \
        __shared__ Shared shared;                                                                               \
        expert_down<bits>(slots, picks, ids, place, weights, h, h_amax, y, intermediate, shared);               \
    }                                                                                                           \
    KERNEL_IS_HERE(down)

EXPERTS(expert_gate_up_b2, expert_down_b2, 2)
EXPERTS(expert_gate_up_b3, expert_down_b3, 3)
EXPERTS(expert_gate_up_b4, expert_down_b4, 4)
EXPERTS(expert_gate_up_b8, expert_down_b8, 8)
