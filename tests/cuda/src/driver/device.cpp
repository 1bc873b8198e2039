// A CUDA driver without a GPU: libcuda.so.1 for tests, over the kernels compiled for a processor.
//
// What the real one leaves open is made unkind. Work given to a stream is queued and runs only
// when something waits for it, in an order that respects the streams and events and nothing else
// (OCTET_FAKE_CUDA_ORDER). Pinned host memory is read when the copy runs, not when it is asked
// for. Device memory can be touched only while queued work runs: host code that follows a device
// pointer, and a kernel that leaves its allocation, end the process with a line that says so.
// New memory holds NaN bits. The first failure of a lost GPU is the answer to every later call.
//
// Here: what there is before memory and work. settings.h lists what can be set.
#include "driver.h"

using namespace fake;

API CUresult cuInit(unsigned flags) {
    Driver& d = driver();
    std::unique_lock<std::mutex> lock(d.mutex);
    if (flags) return INVALID_VALUE;
    if (!d.settings.devices) return NO_DEVICE;
    d.initialized = true;
    return SUCCESS;
}

API CUresult cuDriverGetVersion(int* version) {
    Driver& d = driver();
    std::unique_lock<std::mutex> lock(d.mutex);
    *version = d.settings.cuda;
    return SUCCESS;
}

API CUresult cuGetErrorName(CUresult code, const char** name) {
    for (const ErrorText& e : ERRORS)
        if (e.code == code) return *name = e.name, SUCCESS;
    return *name = nullptr, INVALID_VALUE;
}

API CUresult cuGetErrorString(CUresult code, const char** text) {
    for (const ErrorText& e : ERRORS)
        if (e.code == code) return *text = e.text, SUCCESS;
    return *text = nullptr, INVALID_VALUE;
}

// Calls about a device need no context.
#define ENTER_DEVICE(device)                           \
    Driver& d = driver();                              \
    std::unique_lock<std::mutex> lock(d.mutex);        \
    if (!d.initialized) return NOT_INITIALIZED;        \
    if ((device) < 0 || (device) >= d.settings.devices) return INVALID_DEVICE

API CUresult cuDeviceGetCount(int* count) {
    ENTER_DEVICE(0);
    *count = d.settings.devices;
    return SUCCESS;
}

API CUresult cuDeviceGet(int* device, int ordinal) {
    ENTER_DEVICE(ordinal);
    *device = ordinal;
    return SUCCESS;
}

API CUresult cuDeviceGetName(char* name, int bytes, int device) {
    ENTER_DEVICE(device);
    if (bytes < 1) return INVALID_VALUE;
    snprintf(name, bytes, "%s", d.settings.name.c_str());
    return SUCCESS;
}

API CUresult cuDeviceGetUuid_v2(void* uuid, int device) {
    ENTER_DEVICE(device);
    memcpy(uuid, UUID, sizeof UUID);
    return SUCCESS;
}

API CUresult cuDeviceGetUuid(void* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

API CUresult cuDeviceTotalMem_v2(size_t* bytes, int device) {
    ENTER_DEVICE(device);
    *bytes = d.settings.vram;
    return SUCCESS;
}

API CUresult cuDeviceGetAttribute(int* value, int attribute, int device) {
    ENTER_DEVICE(device);
    // Of an RTX 3060; what is not here is 0, "not supported" or "none".
    const std::map<int, int> values = {
        {1, 1024},  {2, 1024},   {3, 1024},  {4, 64},      {5, 2147483647}, {6, 65535}, {7, 65535},
        {8, 49152}, {9, 65536},  {10, 32},   {11, 2147483647}, {12, 65536}, {13, 1777000}, {14, 512},
        {15, 1},    {16, 28},    {19, 1},    {31, 1},      {33, 1},         {36, 7501000}, {37, 192},
        {38, 2359296}, {39, 1536}, {40, 2},  {41, 1},      {75, d.settings.major}, {76, d.settings.minor},
        {78, 1},    {79, 1},     {80, 1},    {81, 102400}, {82, 65536},     {83, 1},    {89, 1},
        {90, 1},    {95, 1},     {97, 101376}, {99, 1},    {102, 1},        {106, 16},  {111, 1024},
        {115, 1},
    };
    if (attribute < 1 || attribute > 200) return INVALID_VALUE;
    auto i = values.find(attribute);
    *value = i == values.end() ? 0 : i->second;
    return SUCCESS;
}

API CUresult cuDevicePrimaryCtxRetain(void** context, int device) {
    ENTER_DEVICE(device);
    if (d.lost) return d.lost;
    if (!d.primary) d.primary = new Context;
    d.primary->retained++;
    *context = d.primary;
    return SUCCESS;
}

API CUresult cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER_DEVICE(device);
    if (!d.primary) return INVALID_CONTEXT;
    if (--d.primary->retained > 0) return SUCCESS;
    if (!d.lost) d.force_all(lock);
    d.end_context();
    return SUCCESS;
}

API CUresult cuDevicePrimaryCtxSetFlags_v2(int device, unsigned) {
    ENTER_DEVICE(device);
    return SUCCESS;
}

API CUresult cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    ENTER_DEVICE(device);
    *flags = 0;
    *active = d.primary != nullptr;
    return SUCCESS;
}

API CUresult cuCtxSetCurrent(void* context) {
    Driver& d = driver();
    std::unique_lock<std::mutex> lock(d.mutex);
    if (in_callback) return NOT_PERMITTED;
    if (!d.initialized) return NOT_INITIALIZED;
    if (context && context != d.primary) return INVALID_CONTEXT;
    current = (Context*)context;
    return SUCCESS;
}

API CUresult cuCtxGetCurrent(void** context) {
    Driver& d = driver();
    std::unique_lock<std::mutex> lock(d.mutex);
    if (!d.initialized) return NOT_INITIALIZED;
    *context = current;
    return SUCCESS;
}

API CUresult cuCtxGetDevice(int* device) {
    ENTER;
    *device = 0;
    return SUCCESS;
}

API CUresult cuCtxSynchronize() {
    ENTER;
    if (!d.captures.empty()) return d.spoil(nullptr);
    if (CUresult failed = d.may_fail(Settings::SYNC)) return failed;
    d.counts.syncs++;
    d.force_all(lock);
    return d.lost;
}

API CUresult cuCtxSetFlags(unsigned) {
    ENTER;
    return SUCCESS;
}

API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    ENTER;
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return SUCCESS;
}

API CUresult cuCtxSetCacheConfig(int) {
    ENTER;
    return SUCCESS;
}

API CUresult cuCtxGetLimit(size_t* value, int) {
    ENTER;
    *value = 1024;
    return SUCCESS;
}

API CUresult cuCtxSetLimit(int, size_t) {
    ENTER;
    return SUCCESS;
}
