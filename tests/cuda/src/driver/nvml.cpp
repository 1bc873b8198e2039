// libnvidia-ml.so.1 beside the fake CUDA driver: what Octet asks NVML, answered from there.
#include <stdio.h>
#include <string.h>

typedef unsigned long long u64;

extern "C" void octet_fake_cuda_device(int* devices, int* major, int* minor, u64* total, u64* free, int* lost,
                                       int* nvml_error, char name[96], char version[80], char uuid[80]);

namespace {

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15, VERSION_MISMATCH = 25 };

struct Device {
    int devices, major, minor, lost, nvml_error;
    u64 total, free;
    char name[96], version[80], uuid[80];

    Device() {
        octet_fake_cuda_device(&devices, &major, &minor, &total, &free, &lost, &nvml_error, name, version, uuid);
    }
};

int text(const char* from, char* to, unsigned length) {
    if (strlen(from) + 1 > length) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API int nvmlInit_v2() { return Device().nvml_error; }
API int nvmlInitWithFlags(unsigned) { return Device().nvml_error; }
API int nvmlShutdown() { return SUCCESS; }

API const char* nvmlErrorString(int code) {
    switch (code) {
        case SUCCESS: return "The operation was successful";
        case INVALID_ARGUMENT: return "Invalid Argument";
        case INSUFFICIENT_SIZE: return "Insufficient Size";
        case 9: return "Driver Not Loaded";
        case GPU_IS_LOST: return "GPU is lost";
        case 18: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}

API int nvmlSystemGetDriverVersion(char* version, unsigned length) { return text(Device().version, version, length); }
API int nvmlSystemGetNVMLVersion(char* version, unsigned length) { return text(Device().version, version, length); }

API int nvmlDeviceGetCount_v2(unsigned* count) {
    *count = (unsigned)Device().devices;
    return SUCCESS;
}

// The only device's handle; what it points to is never read.
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
    if (index >= (unsigned)Device().devices) return INVALID_ARGUMENT;
    *device = (void*)1;
    return SUCCESS;
}

API int nvmlDeviceGetName(void*, char* name, unsigned length) { return text(Device().name, name, length); }
API int nvmlDeviceGetUUID(void*, char* uuid, unsigned length) { return text(Device().uuid, uuid, length); }

API int nvmlDeviceGetCudaComputeCapability(void*, int* major, int* minor) {
    Device d;
    *major = d.major;
    *minor = d.minor;
    return SUCCESS;
}

struct Memory {
    u64 total, free, used;
};

API int nvmlDeviceGetMemoryInfo(void*, Memory* memory) {
    Device d;
    if (d.lost) return GPU_IS_LOST;
    *memory = {d.total, d.free, d.total - d.free};
    return SUCCESS;
}

struct Memory2 {
    unsigned version;
    u64 total, reserved, free, used;
};

API int nvmlDeviceGetMemoryInfo_v2(void*, Memory2* memory) {
    Device d;
    if (memory->version != (sizeof(Memory2) | 2u << 24)) return VERSION_MISMATCH;
    if (d.lost) return GPU_IS_LOST;
    *memory = {memory->version, d.total, 0, d.free, d.total - d.free};
    return SUCCESS;
}
