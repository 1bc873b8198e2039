// What the fake driver can be told, what it answers, and what it counts.
//
// Settings are read from OCTET_FAKE_CUDA_<KEY> when the library loads and again at a reset:
//   ORDER         late (only what is waited for, in order), ahead (other streams first), eager
//                 (at once), seed:N (any stream that can go on, by a seeded choice)
//   DEVICES       how many GPUs the machine has, up to 8
//   VISIBLE       as CUDA_VISIBLE_DEVICES, in place of it, and read at every call
//   DRIVER        535.104.05; CUDA 12.2, what that driver supports
//   MEMORY_LIMIT  device memory of this process beyond which an allocation fails
//   PINNED_LIMIT  the same of pinned host memory
//   PINNED_SPEED, PAGEABLE_SPEED  bytes a second that a copy to the device takes at the least
//   FAIL          WHAT:N or WHAT:N:ecc: the N-th launch, copy, sync or any of them from now on
//                 fails with LAUNCH_FAILED or ECC_UNCORRECTABLE, and so does all that follows; those
//                 of a graph count when it is launched. WHAT:N:soft: it fails alone, and nothing is
//                 lost; then WHAT may also be event (a point that is marked), stream (a wait for a
//                 stream) or query. Several are separated by commas
//   GRAPHS        0: no stream can be captured
//   GUARD         0: device memory can be touched by the host at any time (faster)
//   NVML_ERROR    what nvmlInit answers, a number
//   REPORT        a file to which the counters go at exit, as JSON
// Of all GPUs, or with _0 to _7 behind the key of one, by the number that NVML gives it:
//   VRAM, FREE    bytes of VRAM, and of it what other programs leave free
//   CAPABILITY    8.6; NAME; UUID, 32 hexadecimal digits
//   DISPLAY       1: a screen hangs on it
//   NVML_MEMORY   0: NVML does not know its memory
//   OPEN_ERROR    a number that CUDA answers when a context on it is asked for
//   MIG           sizes of its MIG instances, separated by commas, or none
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <utility>

#include "devices.h"

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
    OUT_OF_RESOURCES = 701,
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
    {OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
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

// A call that is to fail.
struct Failure {
    int kinds = 0;
    u64 at = 0;  // this many more calls, the last of which fails
    CUresult with = LAUNCH_FAILED;
    bool soft = false;  // alone
};

struct Settings {
    enum Order { LATE, AHEAD, EAGER, SEEDED } order = LATE;
    u64 seed = 0;
    std::vector<Gpu> gpus;
    int cuda = 12020;
    std::string driver = "535.104.05";
    int devices = 1;
    bool has_visible = false;
    std::string visible;
    u64 memory_limit = ~0ull, pinned_limit = ~0ull;
    u64 pinned_speed = 0, pageable_speed = 0;  // 0: as fast as it goes
    enum { LAUNCH = 1, COPY = 2, SYNC = 4, EVENT = 8, STREAM = 16, QUERY = 32 };
    std::vector<Failure> failures;
    bool graphs = true;
    bool guard = true;
    int nvml_error = 0;

    Settings() {
        for (int i = 0; i < MOST_GPUS; i++) {
            gpus.emplace_back();
            gpus[i].uuid[0] += 0x10 * i;
            gpus[i].uuid[15] += i;
        }
    }

    std::vector<Place> places() const {
        std::vector<Gpu> there(gpus.begin(), gpus.begin() + devices);
        return visible_places(there, has_visible ? visible.c_str() : getenv("CUDA_VISIBLE_DEVICES"));
    }

    bool set(const std::string& key, const std::string& value);
    bool set_of_gpu(Gpu& gpu, const std::string& key, const std::string& value);
    bool set_failures(std::string value);
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

inline bool Settings::set_of_gpu(Gpu& gpu, const std::string& key, const std::string& value) {
    u64 n;
    if (key == "CAPABILITY") return version(value, &gpu.major, &gpu.minor);
    if (key == "NAME") return gpu.name = value, true;
    if (key == "UUID") {
        if (value.size() != 32) return false;
        for (int i = 0; i < 16; i++) gpu.uuid[i] = (unsigned char)strtoul(value.substr(2 * i, 2).c_str(), nullptr, 16);
        return true;
    }
    if (key == "MIG") {
        gpu.mig.clear();
        for (std::string rest = value; value != "none" && !rest.empty();) {
            size_t comma = rest.find(',');
            if (!number(rest.substr(0, comma), &n)) return false;
            gpu.mig.push_back(n);
            rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
        }
        return true;
    }
    if (!number(value, &n)) return false;
    if (key == "VRAM") gpu.vram = n;
    else if (key == "FREE") gpu.free = n;
    else if (key == "DISPLAY") gpu.display = n != 0;
    else if (key == "NVML_MEMORY") gpu.memory_figure = n != 0;
    else if (key == "OPEN_ERROR") gpu.open_error = (int)n;
    else return false;
    return true;
}

inline bool Settings::set_failures(std::string value) {
    failures.clear();
    if (value == "none") return true;
    const std::pair<const char*, int> kinds[] = {{"launch", LAUNCH}, {"copy", COPY},     {"sync", SYNC},
                                                 {"event", EVENT},   {"stream", STREAM}, {"query", QUERY},
                                                 {"any", LAUNCH | COPY | SYNC}};
    while (true) {
        size_t end = value.find(','), colon = value.find(':');
        if (colon == std::string::npos) return false;
        std::string what = value.substr(0, colon), rest = value.substr(colon + 1, end - colon - 1);
        Failure failure;
        auto ends_with = [&](const std::string& tail) {
            if (rest.size() <= tail.size() || rest.substr(rest.size() - tail.size()) != tail) return false;
            return rest.resize(rest.size() - tail.size()), true;
        };
        if (ends_with(":ecc")) failure.with = ECC_UNCORRECTABLE;
        if (ends_with(":soft")) failure.soft = true, failure.with = OUT_OF_RESOURCES;
        for (auto& [name, kind] : kinds)
            if (what == name) failure.kinds = kind;
        if (!failure.kinds || !number(rest, &failure.at) || !failure.at) return false;
        failures.push_back(failure);
        if (end == std::string::npos) return true;
        value = value.substr(end + 1);
    }
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
    if (key == "FAIL") return set_failures(value);
    if (key == "CUDA") {
        if (!version(value, &major_, &minor_)) return false;
        cuda = major_ * 1000 + minor_ * 10;
        return true;
    }
    if (key == "DRIVER") return driver = value, true;
    if (key == "VISIBLE") return has_visible = true, visible = value, true;
    if (key == "REPORT") return true;
    size_t tail = key.size() > 2 && key[key.size() - 2] == '_' ? key.size() - 1 : std::string::npos;
    if (tail != std::string::npos && key[tail] >= '0' && key[tail] < '0' + MOST_GPUS)
        return set_of_gpu(gpus[key[tail] - '0'], key.substr(0, tail - 1), value);
    bool of_gpus = true;
    for (Gpu& gpu : gpus) of_gpus = of_gpus && set_of_gpu(gpu, key, value);
    if (of_gpus) return key != "UUID";
    if (!number(value, &n)) return false;
    if (key == "DEVICES" && n <= MOST_GPUS) devices = (int)n;
    else if (key == "MEMORY_LIMIT") memory_limit = n;
    else if (key == "PINNED_LIMIT") pinned_limit = n;
    else if (key == "PINNED_SPEED") pinned_speed = n;
    else if (key == "PAGEABLE_SPEED") pageable_speed = n;
    else if (key == "GRAPHS") graphs = n != 0;
    else if (key == "GUARD") guard = n != 0;
    else if (key == "NVML_ERROR") nvml_error = (int)n;
    else return false;
    return true;
}

inline Settings from_environment() {
    Settings s;
    std::vector<std::string> keys = {"ORDER", "CUDA", "DRIVER", "DEVICES", "VISIBLE", "MEMORY_LIMIT", "PINNED_LIMIT",
                                     "PINNED_SPEED", "PAGEABLE_SPEED", "FAIL", "GRAPHS", "GUARD", "NVML_ERROR"};
    const char* of_gpus[] = {"VRAM", "FREE", "CAPABILITY", "NAME", "UUID", "DISPLAY", "NVML_MEMORY", "OPEN_ERROR",
                              "MIG"};
    for (const char* key : of_gpus) {
        keys.push_back(key);
        for (int i = 0; i < MOST_GPUS; i++) keys.push_back(std::string(key) + "_" + std::to_string(i));
    }
    for (const std::string& key : keys) {
        const char* value = getenv(("OCTET_FAKE_CUDA_" + key).c_str());
        if (value && !s.set(key, value)) {
            fprintf(stderr, "OCTET_FAKE_CUDA_%s=%s makes no sense\n", key.c_str(), value);
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
    u64 queries;      // of streams
    u64 overtaken;    // copies that ran before a kernel that was launched earlier and given their destination
};

}  // namespace fake
