// What tests ask of the fake driver itself; lib.rs has the other side.
#include "driver.h"

using namespace fake;

// Changes a setting; the key as after OCTET_FAKE_CUDA_. 0 if it makes no sense.
API int octet_fake_cuda_set(const char* key, const char* value) {
    Driver& d = driver();
    std::unique_lock<std::mutex> lock(d.mutex);
    bool ok = d.settings.set(key, value);
    d.random = d.settings.seed;
    if (!d.settings.guard) d.memory.set_open(true, false);
    return ok;
}

// Settings as the environment has them, counters at zero, a GPU that is not lost. Objects stay.
API void octet_fake_cuda_reset() {
    Driver& d = driver();
    std::unique_lock<std::mutex> lock(d.mutex);
    d.settings = from_environment();
    d.random = d.settings.seed;
    d.lost = SUCCESS;
    Counters now = d.counts;
    d.counts = {};
    d.counts.memory = d.counts.memory_peak = now.memory;
    d.counts.pinned = d.counts.pinned_peak = now.pinned;
}

API void octet_fake_cuda_counters(Counters* out) {
    Driver& d = driver();
    std::unique_lock<std::mutex> lock(d.mutex);
    *out = d.counters();
}

// What NVML reports.
API void octet_fake_cuda_device(int* devices, int* major, int* minor, u64* total, u64* free, int* lost,
                                int* nvml_error, char name[96], char version[80], char uuid[80]) {
    Driver& d = driver();
    std::unique_lock<std::mutex> lock(d.mutex);
    *devices = d.settings.devices;
    *major = d.settings.major;
    *minor = d.settings.minor;
    *total = d.settings.vram;
    *free = d.free_memory();
    *lost = d.lost;
    *nvml_error = d.settings.nvml_error;
    snprintf(name, 96, "%s", d.settings.name.c_str());
    snprintf(version, 80, "%s", d.settings.driver.c_str());
    const unsigned char* u = UUID;
    snprintf(uuid, 80, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2],
             u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

namespace {

__attribute__((destructor)) void report() {
    const char* path = getenv("OCTET_FAKE_CUDA_REPORT");
    FILE* file = path ? fopen(path, "w") : nullptr;
    if (!file) return;
    Counters c;
    octet_fake_cuda_counters(&c);
    const struct {
        const char* name;
        u64 value;
    } fields[] = {
        {"memory", c.memory}, {"memory_peak", c.memory_peak}, {"pinned", c.pinned}, {"pinned_peak", c.pinned_peak},
        {"allocations", c.allocations}, {"pinned_allocations", c.pinned_allocations}, {"streams", c.streams},
        {"events", c.events}, {"modules", c.modules}, {"graphs", c.graphs}, {"contexts", c.contexts},
        {"launches", c.launches}, {"copies_up", c.copies_up}, {"copies_down", c.copies_down},
        {"copies_within", c.copies_within}, {"bytes_up", c.bytes_up}, {"bytes_down", c.bytes_down},
        {"bytes_within", c.bytes_within}, {"syncs", c.syncs}, {"pending", c.pending}, {"left_behind", c.left_behind},
    };
    const char* separator = "{";
    for (auto& f : fields) {
        fprintf(file, "%s\"%s\": %llu", separator, f.name, f.value);
        separator = ", ";
    }
    fprintf(file, "}\n");
    fclose(file);
}

}  // namespace
