// Memory of both sides, and copies.
#include "driver.h"

using namespace fake;

API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER;
    *free = d.free_memory(current->place);
    *total = current->place.bytes(d.settings.gpus[current->place.gpu]);
    return SUCCESS;
}

API CUresult cuMemAlloc_v2(CUdeviceptr* at, size_t bytes) {
    ENTER;
    if (CUresult failed = d.check_captures()) return failed;
    return d.allocate(lock, bytes, at);
}

API CUresult cuMemAllocAsync(CUdeviceptr* at, size_t bytes, void* stream) {
    ENTER;
    WITH_STREAM(stream);
    if (s->capture) return CAPTURE_UNSUPPORTED;  // the real one makes a node of it
    if (CUresult failed = d.allocate(lock, bytes, at)) return failed;
    // Whoever writes to it without waiting for this stream loses what it wrote.
    Op op;
    op.kind = Op::SPOIL;
    op.to = *at;
    op.bytes = bytes;
    return d.add(lock, s, std::move(op));
}

// Waits for all work, as the real one does in practice.
API CUresult cuMemFree_v2(CUdeviceptr at) {
    ENTER_RELEASE;
    if (!at) return SUCCESS;
    if (CUresult failed = d.check_captures()) return failed;
    d.force_all(lock);
    auto i = d.memory.live.find(at);
    if (i == d.memory.live.end()) return complain(INVALID_VALUE, "cuMemFree of %#llx, which is no allocation", at);
    d.release(i->second);
    return d.lost;
}

API CUresult cuMemFreeAsync(CUdeviceptr at, void* stream) {
    ENTER_RELEASE;
    WITH_STREAM(stream);
    if (!at) return SUCCESS;
    if (!d.memory.live.count(at)) return complain(INVALID_VALUE, "cuMemFreeAsync of %#llx, which is no allocation", at);
    if (d.lost) return d.release(d.memory.live[at]), d.lost;
    Op op;
    op.kind = Op::RELEASE;
    op.to = at;
    return d.add(lock, s, std::move(op));
}

API CUresult cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    ENTER;
    if (!bytes) return INVALID_VALUE;
    if (d.counts.pinned + bytes > d.settings.pinned_limit) return OUT_OF_MEMORY;
    size_t rounded = (bytes + 4095) / 4096 * 4096;
    *p = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*p == MAP_FAILED) return OUT_OF_MEMORY;
    if (bytes <= SPOIL_LIMIT) memset(*p, octet_host::SPOILT, bytes);
    d.memory.pinned[(u64)*p] = {bytes, current};
    d.counts.pinned += bytes;
    d.counts.pinned_peak = std::max(d.counts.pinned_peak, d.counts.pinned);
    return SUCCESS;
}

API CUresult cuMemAllocHost_v2(void** p, size_t bytes) { return cuMemHostAlloc(p, bytes, 0); }

API CUresult cuMemFreeHost(void* p) {
    ENTER_RELEASE;
    d.force_all(lock);
    auto i = d.memory.pinned.find((u64)p);
    if (i == d.memory.pinned.end()) return complain(INVALID_VALUE, "cuMemFreeHost of %p, which is no allocation", p);
    d.counts.pinned -= i->second.bytes;
    munmap(p, i->second.bytes);
    d.memory.pinned.erase(i);
    return d.lost;
}

API CUresult cuMemHostRegister_v2(void* p, size_t bytes, unsigned) {
    ENTER;
    if (!p || !bytes || d.memory.is_device((u64)p)) return INVALID_VALUE;
    if (d.counts.pinned + bytes > d.settings.pinned_limit) return OUT_OF_MEMORY;
    auto next = d.memory.registered.lower_bound((u64)p);
    bool overlaps = (next != d.memory.registered.end() && next->first < (u64)p + bytes) || d.memory.is_pinned(p, 1);
    if (overlaps) return ALREADY_REGISTERED;
    d.memory.registered[(u64)p] = {bytes, current};
    d.counts.pinned += bytes;
    d.counts.pinned_peak = std::max(d.counts.pinned_peak, d.counts.pinned);
    return SUCCESS;
}

API CUresult cuMemHostUnregister(void* p) {
    ENTER_RELEASE;
    auto i = d.memory.registered.find((u64)p);
    if (i == d.memory.registered.end()) return NOT_REGISTERED;
    u64 first = i->first, end = first + i->second.bytes;
    for (auto& s : d.all_streams())
        for (const Op& op : s->queue) {
            u64 host = op.kind == Op::UP && !op.snapshotted ? op.from : op.kind == Op::DOWN ? op.to : 0;
            if (!host || host >= end || host + op.bytes <= first) continue;
            fprintf(stderr, "fake CUDA: cuMemHostUnregister of memory that a queued %s uses\n", KIND_NAMES[op.kind]);
            abort();
        }
    d.counts.pinned -= i->second.bytes;
    d.memory.registered.erase(i);
    return d.lost;
}

API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* at, void* p, unsigned) {
    ENTER;
    if (!d.memory.is_pinned(p, 1)) return INVALID_VALUE;
    *at = (CUdeviceptr)p;
    return SUCCESS;
}

namespace {

CUresult check_device(Driver& d, const char* call, const char* which, u64 at, size_t bytes) {
    if (d.memory.find(at, bytes)) return SUCCESS;
    if (!d.memory.is_device(at)) return complain(INVALID_VALUE, "%s: %s %#llx is not device memory", call, which, at);
    return complain(INVALID_VALUE, "%s: %zu bytes from %s %#llx leave the allocation, or it is freed", call, bytes,
                    which, at);
}

CUresult check_host(Driver& d, const char* call, const char* which, const void* p) {
    if (!p) return INVALID_VALUE;
    if (d.memory.is_device((u64)p)) return complain(INVALID_VALUE, "%s: %s %p is device memory", call, which, p);
    return SUCCESS;
}

// All copies; `wait`: return when it is done.
CUresult copy(const char* call, Op::Kind kind, u64 to, u64 from, size_t bytes, void* stream, bool wait) {
    ENTER;
    WITH_STREAM(stream);
    if (!bytes) return SUCCESS;
    if (kind != Op::DOWN)
        if (CUresult failed = check_device(d, call, "destination", to, bytes)) return failed;
    if (kind != Op::UP)
        if (CUresult failed = check_device(d, call, "source", from, bytes)) return failed;
    if (kind == Op::UP)
        if (CUresult failed = check_host(d, call, "source", (void*)from)) return failed;
    if (kind == Op::DOWN)
        if (CUresult failed = check_host(d, call, "destination", (void*)to)) return failed;
    if (wait)
        if (CUresult failed = d.check_captures()) return failed;
    if (s->capture && kind == Op::DOWN && !d.memory.is_pinned((void*)to, bytes)) return d.spoil(s->capture);
    if (!s->capture)
        if (CUresult failed = d.count_copy(kind, bytes)) return failed;
    Op op;
    op.kind = kind;
    op.to = to;
    op.from = from;
    op.bytes = bytes;
    switch (kind) {
        case Op::UP:
            // Pageable memory goes through a staging buffer of the driver, filled before it returns.
            if (!wait && !d.memory.is_pinned((void*)from, bytes)) {
                op.snapshot.assign((char*)from, (char*)from + bytes);
                op.snapshotted = true;
            }
            break;
        case Op::DOWN:
            if (!d.memory.is_pinned((void*)to, bytes)) wait = true;
            break;
        default:
            break;
    }
    if (CUresult failed = d.add(lock, s, std::move(op))) return failed;
    if (wait) d.force(lock, s, s->enqueued);
    return d.lost;
}

CUresult fill(const char* call, u64 to, u32 value, int width, size_t count, void* stream, bool wait) {
    ENTER;
    WITH_STREAM(stream);
    if (!count) return SUCCESS;
    if (to % width) return INVALID_VALUE;
    if (CUresult failed = check_device(d, call, "destination", to, count * width)) return failed;
    Op op;
    op.kind = Op::FILL;
    op.to = to;
    op.bytes = count * width;
    op.value = value;
    op.width = width;
    if (CUresult failed = d.add(lock, s, std::move(op))) return failed;
    if (wait) d.force(lock, s, s->enqueued);
    return d.lost;
}

}  // namespace

API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    return copy(__func__, Op::UP, to, (u64)from, bytes, nullptr, true);
}
API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* stream) {
    return copy(__func__, Op::UP, to, (u64)from, bytes, stream, false);
}
API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    return copy(__func__, Op::DOWN, (u64)to, from, bytes, nullptr, true);
}
API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* stream) {
    return copy(__func__, Op::DOWN, (u64)to, from, bytes, stream, false);
}
// Within the device, the real one does not wait either.
API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return copy(__func__, Op::WITHIN, to, from, bytes, nullptr, false);
}
API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* stream) {
    return copy(__func__, Op::WITHIN, to, from, bytes, stream, false);
}
API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t n) {
    return fill(__func__, to, value, 1, n, nullptr, false);
}
API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, void* stream) {
    return fill(__func__, to, value, 1, n, stream, false);
}
API CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t n) {
    return fill(__func__, to, value, 2, n, nullptr, false);
}
API CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t n, void* stream) {
    return fill(__func__, to, value, 2, n, stream, false);
}
API CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t n) {
    return fill(__func__, to, value, 4, n, nullptr, false);
}
API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t n, void* stream) {
    return fill(__func__, to, value, 4, n, stream, false);
}
