// The router: norm, product with the gate, softmax, the best experts. One block of 512 threads for
// a token and a job; two jobs share a launch (this layer's, and the next one's as a guess).
//
// For each token i and job, with x = hidden[i] / sqrt(mean(hidden[i]^2) + eps) * norm:
// the softmax of gate x over all experts, the top_k largest (of equal ones that with the lower
// number), their weights renormalized to sum 1, best first.
//   hidden   f32 (t, width);  n_experts 1 to 256;  top_k 1 to min(8, n_experts)
//   grid     (t, number of jobs, 1 or 2)
// A job:
//   norm     f32 (width);  gate  f16 (n_experts, width);  best with width % 8 == 0 and all aligned
//            to 16
//   normed   f32 (t, width), takes x, or null;  amax  f32 (t), takes max |x|, or null
//   ids      int (t, top_k);  weights  f32 (t, top_k)
//   previous int (top_k), the experts of the token before, -1 for none, or null; may be `ids`
//   newest   int (top_k), takes the chosen experts too, or null (as with t > 1); may be `previous`
//   clear    f32 (n_clear), set to 0 by the way: slots that later kernels raise
//   layer    its number
// Where there is `previous` (then t is 1, and `moment` is read): choice j, in order, becomes
// previous[j] with probability moment->reuse_p, decided by a hash of reuse_seed, position, layer and j,
// unless that expert is among the choices already. Weights stay. Agrees bit for bit with
// model/reuse.rs of the engine.
//
// A logit that is NaN counts as the least one. Where all are NaN, so are the weights.
//
// Error: logits are sums in f32, within 1e-5 of sum |gate x|; weights follow.
#include "norm.cuh"

#define GROUP 8  // experts at a time
#define MAX_EXPERTS 256
#define MAX_TOP_K 8

struct RouterJob {
    const float* norm;
    const u16* gate;
    float* normed;
    float* amax;
    int* ids;
    float* weights;
    const int* previous;
    int* newest;
    float* clear;
    int n_clear;
    int layer;
};

// In [0, 1).
FN float draw(const Moment& moment, int layer, int j) {
    u32 values[3] = {(u32)moment.position, (u32)layer, (u32)j}, h = moment.reuse_seed;
#pragma unroll
    for (int i = 0; i < 3; i++) {
        h = (h ^ values[i]) * 0x9e3779b1u;
        h ^= h >> 15;
    }
    h *= 0x85ebca77u;
    h ^= h >> 13;
    return (float)(h >> 8) / 16777216.0f;
}

// A thread's columns of the experts from `first` on; behind the last expert, that one's.
FN void load_gates(uint4 to[GROUP], const u16* gate, int first, int n_experts, int from, int width) {
#pragma unroll
    for (int e = 0; e < GROUP; e++) {
        const u16* row = gate + (long long)min(first + e, n_experts - 1) * width;
        to[e] = *(const uint4*)(row + run_within<OWN>(0, from, width));
    }
}

FN float dot(uint4 g, const float x[OWN]) {
    return h2f((u16)g.x) * x[0] + h2f((u16)(g.x >> 16)) * x[1] + h2f((u16)g.y) * x[2] + h2f((u16)(g.y >> 16)) * x[3] +
           h2f((u16)g.z) * x[4] + h2f((u16)(g.z >> 16)) * x[5] + h2f((u16)g.w) * x[6] + h2f((u16)(g.w >> 16)) * x[7];
}

// Sums over the warp of eight values: lane l gets that of v[l / 4]. In each exchange a lane hands
// over the half of its values that it does not go on with, so that nine do for all.
FN float warp_sums(const float v[GROUP]) {
    int lane = threadIdx.x % WARP;
    float a[4], b[2];
#pragma unroll
    for (int i = 0; i < 4; i++)
        a[i] = (lane & 16 ? v[i + 4] : v[i]) + __shfl_xor_sync(ALL_LANES, lane & 16 ? v[i] : v[i + 4], 16);
#pragma unroll
    for (int i = 0; i < 2; i++)
        b[i] = (lane & 8 ? a[i + 2] : a[i]) + __shfl_xor_sync(ALL_LANES, lane & 8 ? a[i] : a[i + 2], 8);
    float sum = (lane & 4 ? b[1] : b[0]) + __shfl_xor_sync(ALL_LANES, lane & 4 ? b[0] : b[1], 4);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2);
    return sum + __shfl_xor_sync(ALL_LANES, sum, 1);
}

// A warp's part of the products with the gate, by expert, from its columns of x; `gates` are those
// of the first experts.
FN void products(float* parts, uint4 gates[GROUP], const u16* gate, const float x[OWN], int n_experts, int from,
                 int width) {
    int lane = threadIdx.x % WARP;
    for (int first = 0;;) {
        float v[GROUP];
#pragma unroll
        for (int e = 0; e < GROUP; e++) v[e] = dot(gates[e], x);
        if (first + GROUP < n_experts) load_gates(gates, gate, first + GROUP, n_experts, from, width);
        float sum = warp_sums(v);
        float* part = parts + first + lane / 4;
        if (lane % 4 == 0) *part = from == 0 ? sum : *part + sum;
        first += GROUP;
        if (first >= n_experts) break;
    }
}

// The same for rows of any width that lie anywhere.
FN void products_of_any(float* parts, const u16* gate, const float x[OWN], int n_experts, int from, int width) {
    for (int e = 0; e < n_experts; e++) {
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < OWN; i++) sum += h2f(gate[run_within<1>(i, from, width)]) * x[i];
        sum = warp_sum(sum);
        if (threadIdx.x % WARP == 0) parts[e] = from == 0 ? sum : parts[e] + sum;
        gate += width;
    }
}

// The norm, and the products with the gate in parts by warp, not yet scaled; returns the scale.
template <int RUN>
FN float norm_and_products(const RouterJob& job, const float* hidden, float* normed, float* amax, int width,
                           int n_experts, float eps, RowSums& sums, float (*parts)[MAX_EXPERTS]) {
    float x[OWN], by[OWN], squares = 0.0f, most = 0.0f, inverse = 1.0f / (float)width;
    for (int from = 0; from < width; from += ROW_COLUMNS) {
        uint4 gates[GROUP];
        load_row<RUN>(x, hidden, from, width);
        load_row<RUN>(by, job.norm, from, width);
        if constexpr (RUN == OWN) load_gates(gates, job.gate, 0, n_experts, from, width);
        weigh<RUN>(x, by, from, width, squares, most);
        if (from + ROW_COLUMNS >= width) put_sums(sums, squares, most);  // while the gates are under way
        if constexpr (RUN == OWN)
            products(parts[threadIdx.x / WARP], gates, job.gate, x, n_experts, from, width);
        else
            products_of_any(parts[threadIdx.x / WARP], job.gate, x, n_experts, from, width);
    }
    __syncthreads();
    float scale = norm_scale(sums, inverse, eps);
    if (normed) store_rows<RUN>(normed, x, hidden, job.norm, scale, width);
    if (amax && threadIdx.x == ROW_THREADS - 1) *amax = row_most(sums) * scale;  // the first warp has enough to do
    return scale;
}

// Behind it the threads that have an expert see what each other wrote.
FN void meet(bool one_warp) {
    if (one_warp)
        __syncwarp();
    else
        __syncthreads();
}

KERNEL(__launch_bounds__(ROW_THREADS, 2) router)(RouterJob a, RouterJob b, const float* hidden, int width, float eps,
                                                 int n_experts, int top_k, const Moment* moment) {
    __shared__ float parts[ROW_WARPS][MAX_EXPERTS];
    __shared__ float4 logits[MAX_EXPERTS / 4];
    __shared__ RowSums sums;
    __shared__ float best_logits[MAX_TOP_K];
    __shared__ int best[MAX_TOP_K];
    RouterJob job = blockIdx.y == 0 ? a : b;
    Moment now = {};
    if (job.previous) now = *moment;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, row = blockIdx.x, e = threadIdx.x;
    hidden += (long long)row * width;
    float* normed = job.normed ? job.normed + (long long)row * width : nullptr;
    float* amax = job.amax ? job.amax + row : nullptr;

    u64 addresses = (u64)hidden | (u64)job.norm | (u64)job.gate | (u64)normed;
    float scale = width % OWN == 0 && (addresses & 15) == 0
                      ? norm_and_products<OWN>(job, hidden, normed, amax, width, n_experts, eps, sums, parts)
                      : norm_and_products<1>(job, hidden, normed, amax, width, n_experts, eps, sums, parts);
    if (row == 0)
        for (int i = threadIdx.x; i < job.n_clear; i += blockDim.x) job.clear[i] = 0.0f;

    // One thread an expert finds how many are better than its own.
    bool one_warp = n_experts <= WARP;
    if (one_warp && warp != 0) return;
    float mine = MINUS_INFINITY;
    if (e < n_experts) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < ROW_WARPS; w++) sum += parts[w][e];
        mine = fmaxf(sum * scale, MINUS_INFINITY);  // which makes a number of NaN
    }
    if (e < MAX_EXPERTS) ((float*)logits)[e] = mine;
    meet(one_warp);
    if (e < n_experts) {
        int better = 0;
#pragma unroll 2
        for (int i = 0; i < n_experts; i += 4) {
            float4 v = logits[i / 4];
            better += v.x > mine || (v.x == mine && i < e);
            better += v.y > mine || (v.y == mine && i + 1 < e);
            better += v.z > mine || (v.z == mine && i + 2 < e);
            better += v.w > mine || (v.w == mine && i + 3 < e);
        }
        if (better < top_k) best[better] = e, best_logits[better] = mine;
    }
    meet(one_warp);
    if (warp != 0) return;

    // One lane a choice.
    bool chooses = lane < top_k;
    int id = chooses ? best[lane] : -1;
    float weight = chooses ? expf(best_logits[lane] - best_logits[0]) : 0.0f, sum = weight;
#pragma unroll
    for (int d = MAX_TOP_K / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, d);
    if (now.reuse_p > 0.0f) {
        int before = chooses ? job.previous[lane] : -1;
#pragma unroll 1
        for (int j = 0; j < top_k; j++) {
            int kept = __shfl_sync(ALL_LANES, before, j), there = id == kept;
#pragma unroll
            for (int d = MAX_TOP_K / 2; d > 0; d >>= 1) there |= __shfl_xor_sync(ALL_LANES, there, d);
            bool keep = !there && kept >= 0 && kept < n_experts && draw(now, job.layer, j) < now.reuse_p;
            if (keep && lane == j) id = kept;
        }
    }
    if (!chooses) return;
    job.ids[(long long)row * top_k + lane] = id;
    job.weights[(long long)row * top_k + lane] = weight / sum;
    if (job.newest) job.newest[lane] = id;
}
KERNEL_IS_HERE(router)
