// The router: norm, product with the gate, softmax, the best experts. One block of 256 threads for
// a token and a job; two jobs share a launch (this layer's, and the next one's as a guess).
//
// For each token i and job, with x = hidden[i] / sqrt(mean(hidden[i]^2) + eps) * norm:
// the softmax of gate x over all experts, the top_k largest (of equal ones that with the lower
// number), their weights renormalized to sum 1, best first.
//   hidden   f32 (t, width);  n_experts 1 to 256;  top_k 1 to min(8, n_experts)
//   grid     (t, number of jobs, 1 or 2)
// A job:
//   norm     f32 (width);  gate  f16 (n_experts, width), best with width % 8 == 0 and aligned to 16
//   normed   f32 (t, width), takes x, or null;  amax  f32 (t), takes max |x|, or null
//   ids      int (t, top_k);  weights  f32 (t, top_k)
//   previous int (top_k), the experts of the token before, or null; may be `ids`
//   clear    f32 (n_clear), set to 0 by the way: slots that later kernels raise
//   layer    its number
// Where reuse.p > 0 and there is `previous` (then t is 1): choice j, in order, becomes previous[j]
// with probability p, decided by a hash of seed, position, layer and j, unless that expert is among
// the choices already. Weights stay. Agrees bit for bit with model/reuse.rs of the engine.
//
// Error: logits are sums in f32, within 1e-5 of sum |gate x|; weights follow.
#include "block.cuh"

#define TILE 4096  // columns in shared memory at a time
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
    float* clear;
    int n_clear;
    int layer;
};

struct Reuse {
    float p;
    u32 seed;
    int position;
};

// In [0, 1).
FN float draw(const Reuse& reuse, int layer, int j) {
    u32 values[3] = {(u32)reuse.position, (u32)layer, (u32)j}, h = reuse.seed;
#pragma unroll
    for (int i = 0; i < 3; i++) {
        h = (h ^ values[i]) * 0x9e3779b1u;
        h ^= h >> 15;
    }
    h *= 0x85ebca77u;
    h ^= h >> 13;
    return (float)(h >> 8) / 16777216.0f;
}

// One warp's product of a gate's row with x in shared memory, zero behind `len` to the next 256.
FN float dot(const u16* gate, const float* x, int len, bool vectors) {
    int lane = threadIdx.x % WARP;
    float sum = 0.0f;
    if (vectors) {
#pragma unroll 4
        for (int i = lane * 8; i < len; i += WARP * 8) {
            uint4 v = *(const uint4*)(gate + i);
            float4 a = *(const float4*)(x + i), b = *(const float4*)(x + i + 4);
            sum += h2f((u16)v.x) * a.x + h2f((u16)(v.x >> 16)) * a.y + h2f((u16)v.y) * a.z +
                   h2f((u16)(v.y >> 16)) * a.w + h2f((u16)v.z) * b.x + h2f((u16)(v.z >> 16)) * b.y +
                   h2f((u16)v.w) * b.z + h2f((u16)(v.w >> 16)) * b.w;
        }
    } else {
        for (int i = lane; i < len; i += WARP) sum += h2f(gate[i]) * x[i];
    }
    return warp_sum(sum);
}

KERNEL(__launch_bounds__(256) router)(RouterJob a, RouterJob b, const float* hidden, int width, float eps,
                                      int n_experts, int top_k, Reuse reuse) {
    __shared__ float4 tile[TILE / 4];
    __shared__ float logits[MAX_EXPERTS], scratch[2][BLOCK_WARPS];
    RouterJob job = blockIdx.y == 0 ? a : b;
    float* x = (float*)tile;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, row = blockIdx.x;
    hidden += (long long)row * width;
    if (row == 0)
        for (int i = threadIdx.x; i < job.n_clear; i += blockDim.x) job.clear[i] = 0.0f;

    bool vectors = width % 8 == 0 && ((u64)job.gate & 15) == 0;
    float squares = 0.0f, most = 0.0f;
    for (int from = 0; from < width; from += TILE) {
        int len = min(TILE, width - from);
        for (int i = threadIdx.x; i < len; i += blockDim.x) {
            float v = hidden[from + i];
            squares += v * v;
            v *= job.norm[from + i];
            most = fmaxf(most, fabsf(v));
            x[i] = v;
        }
        __syncthreads();
        for (int e = warp; e < n_experts; e += BLOCK_WARPS) {
            float sum = dot(job.gate + (long long)e * width + from, x, len, vectors);
            if (lane == 0) logits[e] = from == 0 ? sum : logits[e] + sum;
        }
        __syncthreads();
    }
    float scale = 1.0f / sqrtf(block_sum(squares, scratch[0]) / (float)width + eps);
    if (job.normed) {
        float* to = job.normed + (long long)row * width;
        for (int i = threadIdx.x; i < width; i += blockDim.x)
            to[i] = width <= TILE ? x[i] * scale : hidden[i] * job.norm[i] * scale;
    }
    if (job.amax) {
        most = block_max(most, scratch[1]);
        if (threadIdx.x == 0) job.amax[row] = most * scale;
    }
    if (warp != 0) return;

    // Eight experts a lane.
    float mine[MAX_EXPERTS / WARP], best_logits[MAX_TOP_K], sum = 0.0f;
    int best[MAX_TOP_K];
#pragma unroll
    for (int i = 0; i < MAX_EXPERTS / WARP; i++) {
        int e = i * WARP + lane;
        mine[i] = e < n_experts ? logits[e] * scale : MINUS_INFINITY;
    }
#pragma unroll
    for (int j = 0; j < MAX_TOP_K; j++) {
        float v = MINUS_INFINITY;
        int id = MAX_EXPERTS;
#pragma unroll
        for (int i = 0; i < MAX_EXPERTS / WARP; i++)
            if (mine[i] > v) v = mine[i], id = i * WARP + lane;
        for (int d = WARP / 2; d > 0; d >>= 1) {
            float other = __shfl_xor_sync(ALL_LANES, v, d);
            int other_id = __shfl_xor_sync(ALL_LANES, id, d);
            if (other > v || (other == v && other_id < id)) v = other, id = other_id;
        }
        // Where nothing compares (a logit is NaN): some expert that exists.
        best[j] = id < n_experts ? id : j;
        best_logits[j] = v;
#pragma unroll
        for (int i = 0; i < MAX_EXPERTS / WARP; i++)
            if (i * WARP + lane == id) mine[i] = MINUS_INFINITY;
    }
    if (lane != 0) return;
    float top = best_logits[0];
#pragma unroll
    for (int j = 0; j < MAX_TOP_K; j++) {
        best_logits[j] = j < top_k ? expf(best_logits[j] - top) : 0.0f;
        sum += best_logits[j];
    }
    if (reuse.p > 0.0f && job.previous) {
        int previous[MAX_TOP_K];
#pragma unroll
        for (int j = 0; j < MAX_TOP_K; j++) previous[j] = j < top_k ? job.previous[j] : -1;
#pragma unroll
        for (int j = 0; j < MAX_TOP_K; j++) {
            bool keep = previous[j] >= 0 && previous[j] < n_experts && draw(reuse, job.layer, j) < reuse.p;
#pragma unroll
            for (int i = 0; i < MAX_TOP_K; i++) keep &= i >= top_k || best[i] != previous[j];
            if (keep) best[j] = previous[j];
        }
    }
#pragma unroll
    for (int j = 0; j < MAX_TOP_K; j++) {
        if (j >= top_k) break;
        job.ids[(long long)row * top_k + j] = best[j];
        job.weights[(long long)row * top_k + j] = best_logits[j] / sum;
    }
}
KERNEL_IS_HERE(router)
