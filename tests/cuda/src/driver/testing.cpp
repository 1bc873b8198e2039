// What tests ask of the fake driver itself; lib.rs has the other side.
#include "driver.h"
#include "nvml_device.h"

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

// What NVML reports: it sees all GPUs, whatever CUDA may see.
API int octet_fake_cuda_device(int number, int instance, NvmlDevice* out) {
    Driver& d = driver();
    std::unique_lock<std::mutex> lock(d.mutex);
    *out = {};
    out->devices = d.settings.devices;
    out->nvml_error = d.settings.nvml_error;
    snprintf(out->version, sizeof out->version, "%s", d.settings.driver.c_str());
    if (number < 0 || number >= d.settings.devices) return 0;
    const Gpu& gpu = d.settings.gpus[number];
    if (instance >= (int)gpu.mig.size()) return 0;
    const Place place{number, instance};
    out->major = gpu.major;
    out->minor = gpu.minor;
    out->lost = d.lost;
    out->instances = (int)gpu.mig.size();
    out->display = gpu.display;
    out->memory_figure = gpu.memory_figure;
    out->total = place.bytes(gpu);
    out->free = d.free_memory(place);
    snprintf(out->name, sizeof out->name, "%s", place.name(gpu).c_str());
    snprintf(out->uuid, sizeof out->uuid, "%s", place.uuid_text(gpu).c_str());
    return 1;
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
        {"queries", c.queries}, {"overtaken", c.overtaken},
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
