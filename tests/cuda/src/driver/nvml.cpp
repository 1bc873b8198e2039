// libnvidia-ml.so.1 beside the fake CUDA driver: what Octet asks NVML, answered from there. It
// sees every GPU, whatever CUDA_VISIBLE_DEVICES says.
#include <stdio.h>
#include <string.h>

#include "nvml_device.h"

typedef unsigned long long u64;

namespace {

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    GPU_IS_LOST = 15,
    VERSION_MISMATCH = 25,
};

// A handle is a number; what it points to is never read.
const size_t OF_INSTANCE = 64;  // handles of a GPU's instances follow one another

void* handle(int gpu, int instance) { return (void*)(OF_INSTANCE * (size_t)(gpu + 1) + (size_t)(instance + 1)); }

struct Device : NvmlDevice {
    bool there;

    explicit Device(void* handle) : Device((int)((size_t)handle / OF_INSTANCE) - 1, (int)((size_t)handle % OF_INSTANCE) - 1) {}
    Device(int gpu, int instance) { there = octet_fake_cuda_device(gpu, instance, this); }
};

// Of no GPU in particular.
Device machine() { return Device(-1, -1); }

int text(const char* from, char* to, unsigned length) {
    if (strlen(from) + 1 > length) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

#define WITH_DEVICE(handle)                \
    Device d(handle);                      \
    if (!d.there) return INVALID_ARGUMENT

API int nvmlInit_v2() { return machine().nvml_error; }
API int nvmlInitWithFlags(unsigned) { return machine().nvml_error; }
API int nvmlShutdown() { return SUCCESS; }

API const char* nvmlErrorString(int code) {
    switch (code) {
        case SUCCESS: return "The operation was successful";
        case INVALID_ARGUMENT: return "Invalid Argument";
        case NOT_SUPPORTED: return "Not Supported";
        case NOT_FOUND: return "Not Found";
        case INSUFFICIENT_SIZE: return "Insufficient Size";
        case 9: return "Driver Not Loaded";
        case GPU_IS_LOST: return "GPU is lost";
        case 18: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}

API int nvmlSystemGetDriverVersion(char* version, unsigned length) { return text(machine().version, version, length); }
API int nvmlSystemGetNVMLVersion(char* version, unsigned length) { return text(machine().version, version, length); }

API int nvmlDeviceGetCount_v2(unsigned* count) {
    *count = (unsigned)machine().devices;
    return SUCCESS;
}

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
    if (index >= (unsigned)machine().devices) return INVALID_ARGUMENT;
    *device = handle((int)index, -1);
    return SUCCESS;
}

API int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
    for (int gpu = 0; gpu < machine().devices; gpu++)
        for (int instance = -1; instance < Device(gpu, -1).instances; instance++)
            if (!strcmp(Device(gpu, instance).uuid, uuid)) return *device = handle(gpu, instance), SUCCESS;
    return NOT_FOUND;
}

API int nvmlDeviceGetName(void* device, char* name, unsigned length) {
    WITH_DEVICE(device);
    return text(d.name, name, length);
}

API int nvmlDeviceGetUUID(void* device, char* uuid, unsigned length) {
    WITH_DEVICE(device);
    return text(d.uuid, uuid, length);
}

API int nvmlDeviceGetIndex(void* device, unsigned* index) {
    WITH_DEVICE(device);
    *index = (unsigned)((size_t)device / OF_INSTANCE) - 1;
    return SUCCESS;
}

API int nvmlDeviceGetCudaComputeCapability(void* device, int* major, int* minor) {
    WITH_DEVICE(device);
    *major = d.major;
    *minor = d.minor;
    return SUCCESS;
}

API int nvmlDeviceGetDisplayActive(void* device, int* active) {
    WITH_DEVICE(device);
    *active = d.display;
    return SUCCESS;
}

API int nvmlDeviceGetDisplayMode(void* device, int* connected) { return nvmlDeviceGetDisplayActive(device, connected); }

API int nvmlDeviceGetMigMode(void* device, unsigned* now, unsigned* pending) {
    WITH_DEVICE(device);
    *now = *pending = d.instances > 0;
    return SUCCESS;
}

API int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void* instance, void** device) {
    WITH_DEVICE(instance);
    *device = handle((int)((size_t)instance / OF_INSTANCE) - 1, -1);
    return SUCCESS;
}

struct Memory {
    u64 total, free, used;
};

API int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
    WITH_DEVICE(device);
    if (d.lost) return GPU_IS_LOST;
    if (!d.memory_figure) return NOT_SUPPORTED;
    *memory = {d.total, d.free, d.total - d.free};
    return SUCCESS;
}

struct Memory2 {
    unsigned version;
    u64 total, reserved, free, used;
};

API int nvmlDeviceGetMemoryInfo_v2(void* device, Memory2* memory) {
    WITH_DEVICE(device);
    if (memory->version != (sizeof(Memory2) | 2u << 24)) return VERSION_MISMATCH;
    if (d.lost) return GPU_IS_LOST;
    if (!d.memory_figure) return NOT_SUPPORTED;
    *memory = {memory->version, d.total, 0, d.free, d.total - d.free};
    return SUCCESS;
}
