// Turns a fault of a kernel, or of the host in device memory, into a line that says who and where.
#include <signal.h>
#include <unistd.h>

#include "driver.h"

namespace fake {

namespace {

struct sigaction before[NSIG];

void say(const char* text) {
    ssize_t ignored = write(2, text, strlen(text));
    (void)ignored;
}

// Names who touched what, then lets the signal do what it did before.
void on_fault(int signal, siginfo_t* info, void*);

}  // namespace

Driver& driver() {
    // Never destroyed: threads may still call while the process ends.
    static Driver* d = [] {
        Driver* d = new Driver;
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int s : {SIGSEGV, SIGBUS, SIGILL, SIGTRAP}) sigaction(s, &action, &before[s]);
        return d;
    }();
    return *d;
}

namespace {

void on_fault(int signal, siginfo_t* info, void*) {
    Driver& d = driver();
    char text[400];
    bool device_side = d.executing && pthread_equal(d.executor, pthread_self()) && d.running;
    bool is_address = signal == SIGSEGV || signal == SIGBUS;
    u64 at = is_address ? (u64)info->si_addr : 0;
    if (device_side || (is_address && d.memory.is_device(at))) {
        if (!device_side) {
            say("fake CUDA: host code follows a device pointer\n");
        } else if (octet_host::block.kernel) {
            snprintf(text, sizeof text, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): ",
                     octet_host::block.kernel->name.c_str(), blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x,
                     threadIdx.y, threadIdx.z);
            say(text);
        } else {
            snprintf(text, sizeof text, "fake CUDA: a %s: ", KIND_NAMES[d.running->kind]);
            say(text);
        }
        if (!is_address) {
            say("a misaligned access, or an index outside of its array\n");
        } else if (!d.memory.is_device(at)) {
            snprintf(text, sizeof text, "address %#llx is not memory\n", at);
            say(text);
        } else {
            const Allocation* below = nullptr;
            auto i = d.memory.live.upper_bound(at);
            if (i != d.memory.live.begin()) below = &(--i)->second;
            if (below && at < below->at + below->page_bytes + PAGE)
                snprintf(text, sizeof text, "address %#llx, %lld bytes from the start of an allocation of %zu\n", at,
                         (long long)(at - below->at), below->bytes);
            else
                snprintf(text, sizeof text, "address %#llx is in no allocation, or in one freed before\n", at);
            say(text);
        }
        abort();
    }
    sigaction(signal, &before[signal], nullptr);
    if (signal == SIGTRAP || signal == SIGILL) raise(signal);
    // Otherwise the access runs again, into what handled it before.
}

}  // namespace

}  // namespace fake
