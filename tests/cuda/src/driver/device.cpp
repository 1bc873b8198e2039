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
    if (d.settings.places().empty()) return NO_DEVICE;
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

// Calls about a device need no context. A device is a number in the list of those that are visible.
#define ENTER_DRIVER                                   \
    Driver& d = driver();                              \
    std::unique_lock<std::mutex> lock(d.mutex);        \
    if (!d.initialized) return NOT_INITIALIZED;        \
    const std::vector<Place> places = d.settings.places()

#define ENTER_DEVICE(device)                           \
    ENTER_DRIVER;                                      \
    if ((device) < 0 || (device) >= (int)places.size()) return INVALID_DEVICE; \
    const Place place = places[device];                \
    const Gpu& gpu = d.settings.gpus[place.gpu];       \
    (void)gpu

API CUresult cuDeviceGetCount(int* count) {
    ENTER_DRIVER;
    *count = (int)places.size();
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
    snprintf(name, bytes, "%s", place.name(gpu).c_str());
    return SUCCESS;
}

API CUresult cuDeviceGetUuid_v2(void* uuid, int device) {
    ENTER_DEVICE(device);
    place.uuid(gpu, (unsigned char*)uuid);
    return SUCCESS;
}

// The older call does not tell an instance from its GPU.
API CUresult cuDeviceGetUuid(void* uuid, int device) {
    ENTER_DEVICE(device);
    memcpy(uuid, gpu.uuid, sizeof gpu.uuid);
    return SUCCESS;
}

API CUresult cuDeviceTotalMem_v2(size_t* bytes, int device) {
    ENTER_DEVICE(device);
    *bytes = place.bytes(gpu);
    return SUCCESS;
}

API CUresult cuDeviceGetAttribute(int* value, int attribute, int device) {
    ENTER_DEVICE(device);
    // Of an RTX 3060; what is not here is 0, "not supported" or "none".
    const std::map<int, int> values = {
        {1, 1024},  {2, 1024},   {3, 1024},  {4, 64},      {5, 2147483647}, {6, 65535}, {7, 65535},
        {8, 49152}, {9, 65536},  {10, 32},   {11, 2147483647}, {12, 65536}, {13, 1777000}, {14, 512},
        {15, 1},    {16, 28},    {17, gpu.display}, {19, 1},    {31, 1},      {33, 1},         {36, 7501000}, {37, 192},
        {38, 2359296}, {39, 1536}, {40, 2},  {41, 1},      {75, gpu.major}, {76, gpu.minor},
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
    if (gpu.open_error) return gpu.open_error;
    Context*& primary = d.primaries[place];
    if (!primary) primary = new Context;
    primary->place = place;
    primary->retained++;
    *context = primary;
    return SUCCESS;
}

API CUresult cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER_DEVICE(device);
    auto i = d.primaries.find(place);
    if (i == d.primaries.end()) return INVALID_CONTEXT;
    Context* primary = i->second;
    if (--primary->retained > 0) return SUCCESS;
    if (!d.lost) d.force_all(lock);
    d.end_context(primary);
    return SUCCESS;
}

API CUresult cuDevicePrimaryCtxSetFlags_v2(int device, unsigned) {
    ENTER_DEVICE(device);
    return SUCCESS;
}

API CUresult cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    ENTER_DEVICE(device);
    *flags = 0;
    *active = (int)d.primaries.count(place);
    return SUCCESS;
}

API CUresult cuCtxSetCurrent(void* context) {
    Driver& d = driver();
    std::unique_lock<std::mutex> lock(d.mutex);
    if (in_callback) return NOT_PERMITTED;
    if (!d.initialized) return NOT_INITIALIZED;
    auto is_it = [&](auto& primary) { return primary.second == context; };
    if (context && std::none_of(d.primaries.begin(), d.primaries.end(), is_it)) return INVALID_CONTEXT;
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
    const std::vector<Place> places = d.settings.places();
    *device = (int)(std::find(places.begin(), places.end(), current->place) - places.begin());
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
