// Device memory, and which host memory is pinned.
//
// A device address is an address of this process that is closed (PROT_NONE) but while work runs.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <map>

#include "octet.cuh"

namespace fake {

const size_t RESERVED = 1ull << 40;  // of addresses, which are never given twice
const size_t PAGE = 64 << 10;        // a multiple of any system's pages
const size_t SPOIL_LIMIT = 64 << 20; // more is left as the system gives it, which is zero
const unsigned char SLACK = 0xa5;    // between an allocation's end and its last page's

struct Allocation {
    u64 at;
    size_t bytes;
    char* pages;
    size_t page_bytes;
    void* owner;  // the context
};

struct HostRange {
    size_t bytes;
    void* owner;
};

struct Memory {
    char *start = nullptr, *next = nullptr;
    std::map<u64, Allocation> live;
    std::map<u64, HostRange> pinned;      // from cuMemHostAlloc, by address
    std::map<u64, HostRange> registered;  // by cuMemHostRegister
    bool open = false;

    // The allocation that holds these bytes.
    const Allocation* find(u64 at, size_t bytes) const {
        auto i = live.upper_bound(at);
        if (i == live.begin()) return nullptr;
        const Allocation& a = (--i)->second;
        return at + bytes <= a.at + a.bytes ? &a : nullptr;
    }

    bool is_device(u64 at) const { return start && at - (u64)start < RESERVED; }

    static bool covers(const std::map<u64, HostRange>& ranges, u64 at, size_t bytes) {
        auto i = ranges.upper_bound(at);
        if (i == ranges.begin()) return false;
        --i;
        return at + bytes <= i->first + i->second.bytes;
    }
    bool is_pinned(const void* p, size_t bytes) const {
        return covers(pinned, (u64)p, bytes) || covers(registered, (u64)p, bytes);
    }

    void set_open(bool wanted, bool guard) {
        if (wanted == open) return;
        if (!wanted && !guard) return;
        for (auto& [at, a] : live) mprotect(a.pages, a.page_bytes, wanted ? PROT_READ | PROT_WRITE : PROT_NONE);
        open = wanted;
    }

    // Its end meets the end of its pages but for the alignment, and the page after that is closed.
    u64 take(size_t bytes, void* owner) {
        if (!start) {
            void* p = mmap(nullptr, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (p == MAP_FAILED) {
                perror("fake CUDA: addresses for device memory");
                abort();
            }
            start = (char*)p;
            next = start + PAGE + (PAGE - (u64)start % PAGE) % PAGE;
        }
        size_t rounded = (bytes + 255) / 256 * 256, page_bytes = (rounded + PAGE - 1) / PAGE * PAGE;
        if (next + page_bytes + PAGE > start + RESERVED) return 0;
        Allocation a = {(u64)(next + page_bytes - rounded), bytes, next, page_bytes, owner};
        next += page_bytes + PAGE;
        if (mprotect(a.pages, a.page_bytes, PROT_READ | PROT_WRITE) != 0) return 0;
        if (bytes <= SPOIL_LIMIT) memset((void*)a.at, octet_host::SPOILT, bytes);
        memset((char*)a.at + bytes, SLACK, rounded - bytes);
        if (!open) mprotect(a.pages, a.page_bytes, PROT_NONE);
        live[a.at] = a;
        return a.at;
    }

    void give_back(const Allocation& a) {
        mprotect(a.pages, a.page_bytes, PROT_READ | PROT_WRITE);
        size_t rounded = (a.bytes + 255) / 256 * 256;
        for (size_t i = a.bytes; i < rounded; i++) {
            if (((unsigned char*)a.at)[i] == SLACK) continue;
            fprintf(stderr, "fake CUDA: something wrote %zu bytes past the end of an allocation of %zu bytes\n",
                    i - a.bytes, a.bytes);
            abort();
        }
        mmap(a.pages, a.page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        live.erase(a.at);
    }
};

}  // namespace fake
