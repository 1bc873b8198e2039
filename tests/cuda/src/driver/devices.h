// The GPUs of the machine, and which of them a process may see.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <vector>

#include "octet.cuh"

namespace fake {

const int MOST_GPUS = 8;

// A GPU of the machine. GPUs are in the order of NVML, which is that of the PCI bus.
struct Gpu {
    u64 vram = 12ull << 30, free = ~0ull;  // free: ~0 for all but what a desktop takes
    int major = 8, minor = 6;
    std::string name = "NVIDIA GeForce RTX 3060 (fake)";
    unsigned char uuid[16] = {0x0c, 0x7e, 0x70, 0xfa, 0x6e, 0x00, 0x4a, 0x11,
                              0x80, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01};
    bool display = false;       // a screen hangs on it
    bool memory_figure = true;  // NVML says how much memory it has
    int open_error = 0;         // what a context on it ends with
    std::vector<u64> mig;       // bytes of its MIG instances; with any, it computes in those only

    u64 free_at_start() const {
        u64 desktop = 400ull << 20;
        return free != ~0ull ? std::min(free, vram) : vram > desktop ? vram - desktop : 0;
    }
};

inline std::string uuid_text(const char* kind, const unsigned char* u) {
    char text[80];
    snprintf(text, sizeof text, "%s-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", kind, u[0],
             u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
    return text;
}

// What a process computes on: a GPU, or an instance of one.
struct Place {
    int gpu = 0, instance = -1;

    bool operator==(const Place& p) const { return gpu == p.gpu && instance == p.instance; }
    bool operator<(const Place& p) const { return gpu != p.gpu ? gpu < p.gpu : instance < p.instance; }

    void uuid(const Gpu& of, unsigned char out[16]) const {
        memcpy(out, of.uuid, 16);
        if (instance >= 0) out[8] = (unsigned char)(0xa0 + instance);
    }
    std::string uuid_text(const Gpu& of) const {
        unsigned char bytes[16];
        uuid(of, bytes);
        return fake::uuid_text(instance < 0 ? "GPU" : "MIG", bytes);
    }
    std::string name(const Gpu& of) const {
        return instance < 0 ? of.name : of.name + " MIG " + std::to_string(of.mig[instance] >> 30) + "gb";
    }
    u64 bytes(const Gpu& of) const { return instance < 0 ? of.vram : of.mig[instance]; }
};

// CUDA's own order: the fastest first, or CUDA_DEVICE_ORDER=PCI_BUS_ID.
inline std::vector<int> cuda_order(const std::vector<Gpu>& gpus) {
    std::vector<int> order;
    for (size_t i = 0; i < gpus.size(); i++) order.push_back((int)i);
    const char* wanted = getenv("CUDA_DEVICE_ORDER");
    if (wanted && !strcmp(wanted, "PCI_BUS_ID")) return order;
    auto speed = [&](int i) { return ((u64)(gpus[i].major * 100 + gpus[i].minor) << 40) + (gpus[i].vram >> 20); };
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return speed(a) > speed(b); });
    return order;
}

// What an entry of CUDA_VISIBLE_DEVICES names; false: nothing, or more than one.
inline bool find_place(const std::vector<Gpu>& gpus, const std::vector<int>& order, std::string entry, Place* out) {
    size_t first = entry.find_first_not_of(" "), last = entry.find_last_not_of(" ");
    if (first == std::string::npos) return false;
    entry = entry.substr(first, last - first + 1);
    auto whole = [&](int gpu) { return Place{gpu, gpus[gpu].mig.empty() ? -1 : 0}; };
    if (entry.find_first_not_of("0123456789") == std::string::npos) {
        unsigned long index = strtoul(entry.c_str(), nullptr, 10);
        if (index >= order.size()) return false;
        return *out = whole(order[index]), true;
    }
    int found = 0;
    for (int gpu : order) {
        bool is_gpu = entry.size() > 4 && Place{gpu, -1}.uuid_text(gpus[gpu]).rfind(entry, 0) == 0;
        if (is_gpu) *out = whole(gpu), found++;
        for (size_t i = 0; i < gpus[gpu].mig.size(); i++) {
            Place instance{gpu, (int)i};
            std::string old = "MIG-" + Place{gpu, -1}.uuid_text(gpus[gpu]) + "/" + std::to_string(i) + "/0";
            bool is_named = entry.size() > 4 && instance.uuid_text(gpus[gpu]).rfind(entry, 0) == 0;
            if (is_named || entry == old) *out = instance, found++;
        }
    }
    return found == 1;
}

// What CUDA lists, in its order: all there is, or what `visible` names up to the first entry that
// is not there. Something named twice leaves nothing. Of MIG instances a process sees one, and
// then no other GPU.
inline std::vector<Place> visible_places(const std::vector<Gpu>& gpus, const char* visible) {
    std::vector<int> order = cuda_order(gpus);
    std::vector<Place> places;
    if (!visible) {
        for (int gpu : order) places.push_back({gpu, gpus[gpu].mig.empty() ? -1 : 0});
    } else {
        std::string rest = visible;
        while (true) {
            size_t comma = rest.find(',');
            Place place;
            if (!find_place(gpus, order, rest.substr(0, comma), &place)) break;
            if (std::find(places.begin(), places.end(), place) != places.end()) return {};
            places.push_back(place);
            if (comma == std::string::npos) break;
            rest = rest.substr(comma + 1);
        }
    }
    for (const Place& place : places)
        if (place.instance >= 0) return {place};
    return places;
}

}  // namespace fake
