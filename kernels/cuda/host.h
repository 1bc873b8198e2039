// CUDA's names for a processor, so that the kernels of this folder run in tests without a GPU.
//
// Every thread of a block is a fiber; blocks run one after the other, so shared memory can be
// static. A barrier or a warp's collective switches to the next fiber. What a GPU leaves open is
// made unkind here: lanes, warps and blocks run upwards and downwards in turn, and shared memory
// holds NaN bits when a block starts, so that a missing __syncthreads or a read of what nobody
// wrote shows. A collective that not all threads reach ends the process and says where.
//
// Compile with: g++ -std=c++17 -O2 -x c++ -DOCTET_HOST -fno-strict-aliasing -fwrapv
// -ffp-contract=off, and for checks of alignment and of array bounds add
// -fsanitize=alignment,bounds -fsanitize-undefined-trap-on-error.
//
// A test without the fake driver: octet_host::run("name", name, grid, block, arguments...).
#pragma once

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if !defined(__x86_64__) && !defined(__aarch64__)
#define OCTET_UCONTEXT  // slower, works everywhere
#endif
#ifdef OCTET_UCONTEXT
#include <ucontext.h>
#endif

#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __constant__ static
// A section of its own, so that its bounds are known and it can be spoilt between blocks.
#define __shared__ static __attribute__((section("octet_shared")))

#define KERNEL(name) static void name
#define KERNEL_IS_HERE(name) static const octet_host::Registered octet_registered_##name(#name, name);

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Of the running thread.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline int __float_as_int(float f) { int i; memcpy(&i, &f, 4); return i; }
static inline float __int_as_float(int i) { float f; memcpy(&f, &i, 4); return f; }
static inline unsigned __float_as_uint(float f) { return (unsigned)__float_as_int(f); }
static inline float __uint_as_float(unsigned i) { return __int_as_float((int)i); }

static inline float octet_expf(float x) { return expf(x); }
static inline float octet_rsqrtf(float x) { return 1.0f / sqrtf(x); }
// Macros, for a C library may declare these names itself.
#define __expf octet_expf
#define rsqrtf octet_rsqrtf

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }

// A value's bits in the exponent-0 case are an integer times 2^-24: never through a float
// subnormal, which is slow on some processors.
static inline float h2f(u16 h) {
    u32 magnitude = h & 0x7fffu, sign = (u32)(h & 0x8000u) << 16;
    float subnormal = (float)(int)magnitude * (1.0f / 16777216.0f);
    u32 normal = (magnitude << 13) + (112u << 23);
    u32 special = magnitude << 13 | 0x7f800000u;
    u32 bits = magnitude < 0x0400u ? __float_as_uint(subnormal) : magnitude < 0x7c00u ? normal : special;
    return __uint_as_float(bits | sign);
}

// Rounds to nearest, ties to even.
static inline u16 f2h(float f) {
    u32 bits = __float_as_uint(f), sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return 0x7fff;                       // as cvt.rn.f16.f32 answers a NaN
    if (bits >= 0x477ff000u) return (u16)(sign | 0x7c00u);       // 65520 and up round to infinity
    if (bits < 0x38800000u)                                      // below 2^-14: 0.5's last place is 2^-24
        return (u16)(sign | (__float_as_uint(__uint_as_float(bits) + 0.5f) - 0x3f000000u));
    bits += 0xfffu + (bits >> 13 & 1u);
    return (u16)(sign | (bits - (112u << 23)) >> 13);
}

static inline u32 f2h2(float low, float high) { return (u32)f2h(low) | (u32)f2h(high) << 16; }

// The bounds of all __shared__ variables; null where there is none.
extern "C" char __start_octet_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_octet_shared[] __attribute__((weak, visibility("hidden")));

namespace octet_host {

// ---- Kernels by name ----

struct Kernel {
    std::string name;
    void (*function)();
    void (*call)(void (*function)(), void** params);
    std::vector<size_t> param_sizes;
    std::vector<bool> param_is_pointer;
    // Which of the shared memory its blocks were seen to write, as offsets.
    size_t shared_first = 0, shared_end = 0;
    bool shared_known = false;
};

inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

template <class... P, size_t... I>
void call_with(void (*f)(P...), void** params, std::index_sequence<I...>) {
    (void)params;
    f(*(P*)params[I]...);
}

template <class... P>
Kernel kernel(const char* name, void (*f)(P...)) {
    Kernel k;
    k.name = name;
    k.function = (void (*)())f;
    k.call = [](void (*f)(), void** params) {
        call_with((void (*)(P...))f, params, std::index_sequence_for<P...>());
    };
    k.param_sizes = {sizeof(P)...};
    k.param_is_pointer = {std::is_pointer<P>::value...};
    return k;
}

struct Registered {
    template <class... P>
    Registered(const char* name, void (*f)(P...)) {
        if (!kernels().emplace(name, kernel(name, f)).second) {
            fprintf(stderr, "two kernels are called %s\n", name);
            abort();
        }
    }
};

// ---- Fibers ----

extern "C" void octet_host_switch(void** save, void* to);

#if defined(OCTET_UCONTEXT)
#elif defined(__x86_64__)
asm(R"(
    .text
    .weak octet_host_switch
    .hidden octet_host_switch
    .type octet_host_switch, @function
    .p2align 4
octet_host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size octet_host_switch, . - octet_host_switch
)");
#elif defined(__aarch64__)
asm(R"(
    .text
    .weak octet_host_switch
    .hidden octet_host_switch
    .type octet_host_switch, %function
    .p2align 4
octet_host_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size octet_host_switch, . - octet_host_switch
)");
#endif

constexpr int MAX_THREADS = 1024;
constexpr size_t STACK_BYTES = 128 << 10, GUARD_BYTES = 64 << 10;  // the guard: any page size

enum Kind { SYNCTHREADS, SYNCWARP, SHFL_XOR, SHFL, SHFL_DOWN, MMA };

// Where a collective stands in the source.
struct Site {
    const char* file;
    int line;
    const char* name() const {
        const char* slash = strrchr(file, '/');
        return slash ? slash + 1 : file;
    }
};
// As the last parameters they have the caller's place by default.
#define OCTET_HERE const char* file = __builtin_FILE(), int line = __builtin_LINE()

inline const char* kind_name(int kind) {
    const char* names[] = {"__syncthreads", "__syncwarp", "__shfl_xor_sync",
                           "__shfl_sync",   "__shfl_down_sync", "mma_f16"};
    return names[kind];
}

struct Warp {
    u32 lanes, alive;    // that exist; that have not returned
    u32 ready, waiting;  // that could run but don't; that wait in a collective
    int kind;            // of that collective
    Site site;
    int phase;
    // What lanes hand over, by the phase's parity: nobody can be two collectives ahead.
    u32 words[2][32][3];
    float products[2][32][4];
};

struct Block {
    const Kernel* kernel = nullptr;  // that runs; null between launches
    void** params;
    int threads, warps, alive;
    int thread;  // that runs
    int at_barrier, barriers;
    Site barrier_site;
    u32 runnable;  // warps with a ready lane
    unsigned turn;
    void* scheduler;
    char* stacks = nullptr;
    void* sp[MAX_THREADS];
    dim3 index[MAX_THREADS];
    Warp warp[MAX_THREADS / 32];
#ifdef OCTET_UCONTEXT
    ucontext_t contexts[MAX_THREADS + 1];
#endif
};

inline Block block;

[[noreturn]] inline void die(const char* what) {
    fprintf(stderr, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s\n",
            block.kernel->name.c_str(), blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y,
            threadIdx.z, what);
    fflush(stderr);
    abort();
}

#ifdef OCTET_UCONTEXT
extern "C" inline void octet_host_switch(void** save, void* to) {
    swapcontext((ucontext_t*)*save, (ucontext_t*)to);
}
#endif

[[noreturn]] inline void stuck() {
    char text[512];
    for (int w = 0; w < block.warps; w++) {
        Warp& warp = block.warp[w];
        if (!warp.waiting) continue;
        snprintf(text, sizeof text,
                 "deadlock: lanes %08x of warp %d wait in %s (%s:%d) for lanes %08x, which wait "
                 "elsewhere; %d of %d threads are in __syncthreads (%s:%d)",
                 warp.waiting, w, kind_name(warp.kind), warp.site.name(), warp.site.line, warp.lanes & ~warp.waiting,
                 block.at_barrier, block.threads, block.barrier_site.name(), block.barrier_site.line);
        die(text);
    }
    die("BUG in host.h: nobody waits and nobody can run");
}

// Runs another thread that can; comes back when this one is chosen again.
inline void run_another() {
    Block& b = block;
    int me = b.thread, w = me / 32;
    if (!b.warp[w].ready) {
        b.runnable &= ~(1u << w);
        if (!b.runnable) stuck();
        w = (b.barriers + b.turn) & 1 ? 31 - __builtin_clz(b.runnable) : __builtin_ctz(b.runnable);
    }
    Warp& warp = b.warp[w];
    int lane = (warp.phase + b.barriers + b.turn) & 1 ? 31 - __builtin_clz(warp.ready) : __builtin_ctz(warp.ready);
    warp.ready &= ~(1u << lane);
    b.thread = w * 32 + lane;
    threadIdx = b.index[b.thread];
    octet_host_switch(&b.sp[me], b.sp[b.thread]);
}

[[noreturn]] inline void thread_main() {
    Block& b = block;
    b.kernel->call(b.kernel->function, b.params);
    Warp& warp = b.warp[b.thread / 32];
    char text[160];
    if (warp.waiting) {
        snprintf(text, sizeof text, "returns while lanes %08x of its warp wait in %s (%s:%d)",
                 warp.waiting, kind_name(warp.kind), warp.site.name(), warp.site.line);
        die(text);
    }
    if (b.at_barrier) {
        snprintf(text, sizeof text, "returns while %d threads wait in __syncthreads (%s:%d)",
                 b.at_barrier, b.barrier_site.name(), b.barrier_site.line);
        die(text);
    }
    warp.alive &= ~(1u << b.thread % 32);
    if (--b.alive == 0) octet_host_switch(&b.sp[b.thread], b.scheduler);
    run_another();
    __builtin_unreachable();
}

inline void* fresh_stack(int thread) {
    Block& b = block;
    char* low = b.stacks + thread * (STACK_BYTES + GUARD_BYTES) + GUARD_BYTES;
    // Shifted, or all stacks would compete for the same few lines of the cache.
    char* top = low + STACK_BYTES - thread % 32 * 128;
#if defined(OCTET_UCONTEXT)
    ucontext_t* c = &b.contexts[thread];
    getcontext(c);
    c->uc_stack.ss_sp = low;
    c->uc_stack.ss_size = top - low;
    c->uc_link = nullptr;
    makecontext(c, (void (*)())thread_main, 0);
    return c;
#elif defined(__x86_64__)
    void** sp = (void**)top;
    *--sp = nullptr;                // the return address of thread_main, which never returns
    *--sp = (void*)thread_main;
    return sp - 6;                  // six registers of any content
#else
    void** sp = (void**)(top - 160);
    sp[10] = nullptr;               // x29
    sp[11] = (void*)thread_main;    // x30
    return sp;
#endif
}

inline void run_block() {
    Block& b = block;
    b.alive = b.threads;
    b.at_barrier = b.barriers = 0;
    b.runnable = b.warps == 32 ? ~0u : (1u << b.warps) - 1;
    for (int w = 0; w < b.warps; w++) {
        Warp& warp = b.warp[w];
        int lanes = b.threads - w * 32;
        warp.lanes = warp.alive = warp.ready = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        warp.waiting = 0;
        warp.phase = 0;
    }
    for (int t = 0; t < b.threads; t++) b.sp[t] = fresh_stack(t);
#ifdef OCTET_UCONTEXT
    b.scheduler = &b.contexts[MAX_THREADS];
#endif
    b.thread = b.turn & 1 ? b.threads - 1 : 0;
    b.warp[b.thread / 32].ready &= ~(1u << b.thread % 32);
    threadIdx = b.index[b.thread];
    octet_host_switch(&b.scheduler, b.sp[b.thread]);
}

constexpr int SPOILT = 0xff;  // as float and as f16 a NaN

inline void spoil_shared(Kernel& k) {
    if (!__start_octet_shared) return;
    if (!k.shared_known) {
        memset(__start_octet_shared, SPOILT, __stop_octet_shared - __start_octet_shared);
    } else if (k.shared_end > k.shared_first) {
        memset(__start_octet_shared + k.shared_first, SPOILT, k.shared_end - k.shared_first);
    }
}

inline void note_shared(Kernel& k) {
    if (k.shared_known || !__start_octet_shared) return;
    size_t n = __stop_octet_shared - __start_octet_shared, first = 0, end = n;
    while (first < n && (u8)__start_octet_shared[first] == SPOILT) first++;
    while (end > first && (u8)__start_octet_shared[end - 1] == SPOILT) end--;
    k.shared_first = first;
    k.shared_end = end;
    k.shared_known = true;
}

inline std::mutex& one_at_a_time() {
    static std::mutex m;
    return m;
}

// Runs a grid to its end. `params` are pointers to the arguments, as cuLaunchKernel takes them.
inline void launch(Kernel& k, dim3 grid, dim3 threads, void** params) {
    std::lock_guard<std::mutex> lock(one_at_a_time());
    Block& b = block;
    if (!b.stacks) {
        size_t each = STACK_BYTES + GUARD_BYTES;
        void* p = mmap(nullptr, MAX_THREADS * each, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            perror("stacks of the emulated threads");
            abort();
        }
        b.stacks = (char*)p;
        for (int t = 0; t < MAX_THREADS; t++)
            mprotect(b.stacks + t * each + GUARD_BYTES, STACK_BYTES, PROT_READ | PROT_WRITE);
    }
    b.kernel = &k;
    b.params = params;
    b.threads = (int)(threads.x * threads.y * threads.z);
    b.warps = (b.threads + 31) / 32;
    if (b.threads < 1 || b.threads > MAX_THREADS) die("a block has 1 to 1024 threads");
    gridDim = grid;
    blockDim = threads;
    for (int t = 0; t < b.threads; t++)
        b.index[t] = dim3(t % threads.x, t / threads.x % threads.y, t / (threads.x * threads.y));
    u64 blocks = (u64)grid.x * grid.y * grid.z;
    bool down = b.turn & 1;
    for (u64 n = 0; n < blocks; n++) {
        u64 i = down ? blocks - 1 - n : n;
        blockIdx = dim3((unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / grid.x / grid.y));
        spoil_shared(k);
        run_block();
        note_shared(k);
        b.turn++;
    }
    b.turn = down ? 0 : 1;
    b.kernel = nullptr;
}

template <class T>
struct SameType { using type = T; };

// Launches a kernel function with ordinary arguments.
template <class... P>
void run(const char* name, void (*f)(P...), dim3 grid, dim3 threads, typename SameType<P>::type... arguments) {
    Kernel k = kernel(name, f);
    void* params[] = {(void*)&arguments..., nullptr};
    launch(k, grid, threads, params);
}

// ---- Collectives ----

inline void syncthreads(Site site) {
    Block& b = block;
    char text[160];
    if (b.alive != b.threads) {
        snprintf(text, sizeof text, "__syncthreads (%s:%d), but %d threads of the block have returned",
                 site.name(), site.line, b.threads - b.alive);
        die(text);
    }
    if (b.at_barrier && site.line != b.barrier_site.line) {
        snprintf(text, sizeof text, "__syncthreads (%s:%d), but %d threads wait in another one (%s:%d)",
                 site.name(), site.line, b.at_barrier, b.barrier_site.name(), b.barrier_site.line);
        die(text);
    }
    b.barrier_site = site;
    if (++b.at_barrier < b.threads) return run_another();
    b.at_barrier = 0;
    b.barriers++;
    for (int w = 0; w < b.warps; w++) b.warp[w].ready = b.warp[w].lanes;
    b.runnable = b.warps == 32 ? ~0u : (1u << b.warps) - 1;
    b.warp[b.thread / 32].ready &= ~(1u << b.thread % 32);
}

// All lanes' products at once: products[lane] = its part of a b, as mma_f16 lays it out.
inline void multiply(const u32 (*words)[3], float (*products)[4]) {
    float f[32][6];  // a0, a1, b0 of each lane, two values each
    u16 halves[192];
    memcpy(halves, words, sizeof halves);
    for (int i = 0; i < 192; i++) f[i / 6][i % 6] = h2f(halves[i]);
    float b[8][8];
    for (int lane = 0; lane < 32; lane++) {
        b[lane % 4 * 2][lane / 4] = f[lane][4];
        b[lane % 4 * 2 + 1][lane / 4] = f[lane][5];
    }
    for (int row = 0; row < 16; row++) {
        const float(*a)[6] = f + row % 8 * 4;
        int at = row < 8 ? 0 : 2;
        float sum[8] = {};
        for (int k = 0; k < 8; k++)
            for (int n = 0; n < 8; n++) sum[n] += a[k / 2][at + k % 2] * b[k][n];
        for (int n = 0; n < 8; n++) products[row % 8 * 4 + n / 2][at + n % 2] = sum[n];
    }
}

// Returns once all lanes of the warp are here. The last one to come does the warp's work.
inline void meet(Warp& warp, int kind, Site site, u32 mask) {
    Block& b = block;
    u32 me = 1u << b.thread % 32;
    char text[200];
    if ((mask & warp.lanes) != warp.lanes) die("collectives of a part of a warp are not supported: use ALL_LANES");
    if (warp.alive != warp.lanes) {
        snprintf(text, sizeof text, "%s (%s:%d), but lanes %08x of the warp have returned", kind_name(kind),
                 site.name(), site.line, warp.lanes & ~warp.alive);
        die(text);
    }
    if (!warp.waiting) {
        warp.kind = kind;
        warp.site = site;
    } else if (warp.kind != kind || warp.site.line != site.line) {
        snprintf(text, sizeof text, "%s (%s:%d), but lanes %08x of its warp wait in %s (%s:%d)", kind_name(kind),
                 site.name(), site.line, warp.waiting, kind_name(warp.kind), warp.site.name(), warp.site.line);
        die(text);
    }
    warp.waiting |= me;
    if (warp.waiting != warp.lanes) return run_another();
    int parity = warp.phase & 1;
    if (kind == MMA) {
        if (warp.lanes != ~0u) die("mma_f16 in a warp of fewer than 32 lanes");
        multiply(warp.words[parity], warp.products[parity]);
    }
    warp.phase++;
    warp.ready |= warp.waiting & ~me;
    if (warp.ready) b.runnable |= 1u << b.thread / 32;
    warp.waiting = 0;
}

template <class T>
T shuffle(int kind, Site site, u32 mask, T value, int from) {
    static_assert(sizeof(T) == 4, "a shuffle moves 4 bytes");
    Warp& warp = block.warp[block.thread / 32];
    int parity = warp.phase & 1;
    memcpy(&warp.words[parity][block.thread % 32][0], &value, 4);
    meet(warp, kind, site, mask);
    if (from < 0 || from > 31 || !(warp.lanes >> from & 1)) die("a shuffle from a lane that does not exist");
    memcpy(&value, &warp.words[parity][from][0], 4);
    return value;
}

}  // namespace octet_host

static inline void __syncthreads(OCTET_HERE) { octet_host::syncthreads({file, line}); }

static inline void __syncwarp(unsigned mask = ALL_LANES, OCTET_HERE) {
    octet_host::Site site = {file, line};
    octet_host::meet(octet_host::block.warp[octet_host::block.thread / 32], octet_host::SYNCWARP, site, mask);
}

template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int d, OCTET_HERE) {
    octet_host::Site site = {file, line};
    return octet_host::shuffle(octet_host::SHFL_XOR, site, mask, value, octet_host::block.thread % 32 ^ d);
}

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int lane, OCTET_HERE) {
    octet_host::Site site = {file, line};
    return octet_host::shuffle(octet_host::SHFL, site, mask, value, lane & 31);
}

template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned d, OCTET_HERE) {
    octet_host::Site site = {file, line};
    int me = octet_host::block.thread % 32, from = me + (int)d;
    return octet_host::shuffle(octet_host::SHFL_DOWN, site, mask, value, from > 31 ? me : from);
}

// See octet.cuh.
static inline void mma_f16(float c[4], u32 a0, u32 a1, u32 b0, OCTET_HERE) {
    octet_host::Site site = {file, line};
    octet_host::Warp& warp = octet_host::block.warp[octet_host::block.thread / 32];
    int parity = warp.phase & 1, lane = octet_host::block.thread % 32;
    u32* words = warp.words[parity][lane];
    words[0] = a0;
    words[1] = a1;
    words[2] = b0;
    octet_host::meet(warp, octet_host::MMA, site, ALL_LANES);
    for (int i = 0; i < 4; i++) c[i] += warp.products[parity][lane][i];
}

// One fiber runs at a time: plain arithmetic is atomic.
static inline int atomicMax(int* at, int v) {
    int old = *at;
    if (v > old) *at = v;
    return old;
}
static inline int atomicAdd(int* at, int v) {
    int old = *at;
    *at = old + v;
    return old;
}
