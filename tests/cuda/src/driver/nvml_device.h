// What the fake NVML asks the fake driver of a GPU, or of an instance of one.
#pragma once

struct NvmlDevice {
    int devices, major, minor, lost, nvml_error;
    int instances, display, memory_figure;
    unsigned long long total, free;
    char name[96], version[80], uuid[80];
};

// `instance`: -1 for the whole GPU. 0 if there is none; then only `devices`, `version` and
// `nvml_error` are filled in.
extern "C" int octet_fake_cuda_device(int gpu, int instance, NvmlDevice* out);
