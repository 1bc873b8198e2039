// What the fake driver can be told, what it answers, and what it counts.
//
// Settings are read from OCTET_FAKE_CUDA_<KEY> when the library loads and again at a reset:
//   ORDER         late (only what is waited for, in order), ahead (other streams first), eager
//                 (at once), seed:N (any stream that can go on, by a seeded choice)
//   VRAM, FREE    bytes of VRAM, and of it what other programs leave free
//   CAPABILITY    8.6; DRIVER 535.104.05; CUDA 12.2, what that driver supports; NAME; DEVICES 0 or 1
//   MEMORY_LIMIT  device memory of this process beyond which an allocation fails
//   PINNED_LIMIT  the same of pinned host memory
//   FAIL          WHAT:N or WHAT:N:ecc: the N-th launch, copy, sync or any of them from now on
//                 fails with LAUNCH_FAILED or ECC_UNCORRECTABLE, and so does all that follows; those
//                 of a graph count when it is launched
//   GRAPHS        0: no stream can be captured
//   GUARD         0: device memory can be touched by the host at any time (faster)
//   NVML_ERROR    what nvmlInit answers, a number
//   REPORT        a file to which the counters go at exit, as JSON
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <string>

#include "octet.cuh"

namespace fake {

typedef int CUresult;
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    ECC_UNCORRECTABLE = 214,
    UNSUPPORTED_PTX_VERSION = 222,
    FILE_NOT_FOUND = 301,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    CONTEXT_IS_DESTROYED = 709,
    ALREADY_REGISTERED = 712,
    NOT_REGISTERED = 713,
    LAUNCH_FAILED = 719,
    NOT_PERMITTED = 800,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_ISOLATION = 905,
    CAPTURE_WRONG_THREAD = 908,
};

struct ErrorText {
    CUresult code;
    const char *name, *text;
};
inline const ErrorText ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {ECC_UNCORRECTABLE, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

typedef unsigned long long CUdeviceptr;
typedef void (*HostFunction)(void*);

// What a misuse was, besides the code that the caller gets.
template <class... A>
CUresult complain(CUresult code, const char* format, A... a) {
    fprintf(stderr, "fake CUDA: ");
    fprintf(stderr, format, a...);
    fprintf(stderr, "\n");
    return code;
}

struct Settings {
    enum Order { LATE, AHEAD, EAGER, SEEDED } order = LATE;
    u64 seed = 0;
    u64 vram = 12ull << 30, free = ~0ull;  // free: ~0 for all but what a desktop takes
    int major = 8, minor = 6;
    int cuda = 12020;
    std::string driver = "535.104.05", name = "NVIDIA GeForce RTX 3060 (fake)";
    int devices = 1;
    u64 memory_limit = ~0ull, pinned_limit = ~0ull;
    enum { LAUNCH = 1, COPY = 2, SYNC = 4 };
    int fail_kinds = 0;
    u64 fail_at = 0;  // this many more calls, the last of which fails
    CUresult fail_with = LAUNCH_FAILED;
    bool graphs = true;
    bool guard = true;
    int nvml_error = 0;

    u64 free_at_start() const {
        u64 desktop = 400ull << 20;
        return free != ~0ull ? std::min(free, vram) : vram > desktop ? vram - desktop : 0;
    }

    bool set(const std::string& key, const std::string& value);
};

inline bool number(const std::string& text, u64* out) {
    char* end;
    u64 n = strtoull(text.c_str(), &end, 10);
    if (end == text.c_str()) return false;
    std::string unit = end;
    int shift = unit.empty() ? 0 : unit == "KiB" ? 10 : unit == "MiB" ? 20 : unit == "GiB" ? 30 : -1;
    if (shift < 0) return false;
    *out = n << shift;
    return true;
}

inline bool version(const std::string& text, int* major, int* minor) {
    return sscanf(text.c_str(), "%d.%d", major, minor) == 2;
}

inline bool Settings::set(const std::string& key, const std::string& value) {
    u64 n;
    int major_, minor_;
    if (key == "ORDER") {
        if (value == "late") order = LATE;
        else if (value == "ahead") order = AHEAD;
        else if (value == "eager") order = EAGER;
        else if (value.rfind("seed:", 0) == 0 && number(value.substr(5), &seed)) order = SEEDED;
        else return false;
        return true;
    }
    if (key == "FAIL") {
        fail_kinds = 0;
        if (value == "none") return true;
        size_t colon = value.find(':');
        if (colon == std::string::npos) return false;
        std::string what = value.substr(0, colon), rest = value.substr(colon + 1);
        fail_with = LAUNCH_FAILED;
        if (rest.size() > 4 && rest.substr(rest.size() - 4) == ":ecc") {
            fail_with = ECC_UNCORRECTABLE;
            rest.resize(rest.size() - 4);
        }
        if (!number(rest, &fail_at) || fail_at == 0) return false;
        fail_kinds = what == "launch" ? LAUNCH : what == "copy" ? COPY : what == "sync" ? SYNC
                     : what == "any" ? LAUNCH | COPY | SYNC : 0;
        return fail_kinds != 0;
    }
    if (key == "CAPABILITY") return version(value, &major, &minor);
    if (key == "CUDA") {
        if (!version(value, &major_, &minor_)) return false;
        cuda = major_ * 1000 + minor_ * 10;
        return true;
    }
    if (key == "DRIVER") return driver = value, true;
    if (key == "NAME") return name = value, true;
    if (key == "REPORT") return true;
    if (!number(value, &n)) return false;
    if (key == "VRAM") vram = n;
    else if (key == "FREE") free = n;
    else if (key == "DEVICES") devices = n ? 1 : 0;
    else if (key == "MEMORY_LIMIT") memory_limit = n;
    else if (key == "PINNED_LIMIT") pinned_limit = n;
    else if (key == "GRAPHS") graphs = n != 0;
    else if (key == "GUARD") guard = n != 0;
    else if (key == "NVML_ERROR") nvml_error = (int)n;
    else return false;
    return true;
}

inline Settings from_environment() {
    Settings s;
    const char* keys[] = {"ORDER", "VRAM", "FREE", "CAPABILITY", "CUDA", "DRIVER", "NAME", "DEVICES",
                          "MEMORY_LIMIT", "PINNED_LIMIT", "FAIL", "GRAPHS", "GUARD", "NVML_ERROR"};
    for (const char* key : keys) {
        const char* value = getenv((std::string("OCTET_FAKE_CUDA_") + key).c_str());
        if (value && !s.set(key, value)) {
            fprintf(stderr, "OCTET_FAKE_CUDA_%s=%s makes no sense\n", key, value);
            abort();
        }
    }
    return s;
}

// Shared with lib.rs.
struct Counters {
    u64 memory, memory_peak, pinned, pinned_peak;  // bytes
    u64 allocations, pinned_allocations, streams, events, modules, graphs, contexts;  // that live now
    u64 launches, copies_up, copies_down, copies_within, bytes_up, bytes_down, bytes_within, syncs;
    u64 pending;  // queued and not yet run
    u64 left_behind;  // objects that lived when their context ended
};

}  // namespace fake
