// A CUDA driver without a GPU: libcuda.so.1 for tests, over the kernels compiled for a processor.
//
// What the real one leaves open is made unkind. Work given to a stream is queued and runs only
// when something waits for it, in an order that respects the streams and events and nothing else
// (OCTET_FAKE_CUDA_ORDER). Pinned host memory is read when the copy runs, not when it is asked
// for. Device memory can be touched only while queued work runs: host code that follows a device
// pointer, and a kernel that leaves its allocation, end the process with a line that says so.
// New memory holds NaN bits. The first failure of a lost GPU is the answer to every later call.
//
// Settings are read from OCTET_FAKE_CUDA_<KEY> when the library loads and again at a reset:
//   ORDER         late (only what is waited for, in order), ahead (other streams first), eager
//                 (at once), seed:N (any stream that can go on, by a seeded choice)
//   VRAM, FREE    bytes of VRAM, and of it what other programs leave free
//   CAPABILITY    8.6; DRIVER 535.104.05; CUDA 12.2, what that driver supports; NAME; DEVICES 0 or 1
//   MEMORY_LIMIT  device memory of this process beyond which an allocation fails
//   PINNED_LIMIT  the same of pinned host memory
//   FAIL          WHAT:N or WHAT:N:ecc: the N-th launch, copy, sync or any of them from now on
//                 fails with LAUNCH_FAILED or ECC_UNCORRECTABLE, and so does all that follows
//   GUARD         0: device memory can be touched by the host at any time (faster)
//   NVML_ERROR    what nvmlInit answers, a number
//   REPORT        a file to which the counters go at exit, as JSON
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <set>

#include "octet.cuh"

namespace {

typedef int CUresult;
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    ECC_UNCORRECTABLE = 214,
    UNSUPPORTED_PTX_VERSION = 222,
    FILE_NOT_FOUND = 301,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    CONTEXT_IS_DESTROYED = 709,
    ALREADY_REGISTERED = 712,
    NOT_REGISTERED = 713,
    LAUNCH_FAILED = 719,
    NOT_PERMITTED = 800,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_ISOLATION = 905,
};

struct ErrorText {
    CUresult code;
    const char *name, *text;
};
const ErrorText ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {ECC_UNCORRECTABLE, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
};

typedef unsigned long long CUdeviceptr;
typedef void (*HostFunction)(void*);

// What a misuse was, besides the code that the caller gets.
template <class... A>
CUresult complain(CUresult code, const char* format, A... a) {
    fprintf(stderr, "fake CUDA: ");
    fprintf(stderr, format, a...);
    fprintf(stderr, "\n");
    return code;
}

// ---- Settings and counters ----

struct Settings {
    enum Order { LATE, AHEAD, EAGER, SEEDED } order = LATE;
    u64 seed = 0;
    u64 vram = 12ull << 30, free = ~0ull;  // free: ~0 for all but what a desktop takes
    int major = 8, minor = 6;
    int cuda = 12020;
    std::string driver = "535.104.05", name = "NVIDIA GeForce RTX 3060 (fake)";
    int devices = 1;
    u64 memory_limit = ~0ull, pinned_limit = ~0ull;
    enum { LAUNCH = 1, COPY = 2, SYNC = 4 };
    int fail_kinds = 0;
    u64 fail_at = 0;  // this many more calls, the last of which fails
    CUresult fail_with = LAUNCH_FAILED;
    bool guard = true;
    int nvml_error = 0;

    u64 free_at_start() const {
        u64 desktop = 400ull << 20;
        return free != ~0ull ? std::min(free, vram) : vram > desktop ? vram - desktop : 0;
    }

    bool set(const std::string& key, const std::string& value);
};

bool number(const std::string& text, u64* out) {
    char* end;
    u64 n = strtoull(text.c_str(), &end, 10);
    if (end == text.c_str()) return false;
    std::string unit = end;
    int shift = unit.empty() ? 0 : unit == "KiB" ? 10 : unit == "MiB" ? 20 : unit == "GiB" ? 30 : -1;
    if (shift < 0) return false;
    *out = n << shift;
    return true;
}

bool version(const std::string& text, int* major, int* minor) {
    return sscanf(text.c_str(), "%d.%d", major, minor) == 2;
}

bool Settings::set(const std::string& key, const std::string& value) {
    u64 n;
    int major_, minor_;
    if (key == "ORDER") {
        if (value == "late") order = LATE;
        else if (value == "ahead") order = AHEAD;
        else if (value == "eager") order = EAGER;
        else if (value.rfind("seed:", 0) == 0 && number(value.substr(5), &seed)) order = SEEDED;
        else return false;
        return true;
    }
    if (key == "FAIL") {
        fail_kinds = 0;
        if (value == "none") return true;
        size_t colon = value.find(':');
        if (colon == std::string::npos) return false;
        std::string what = value.substr(0, colon), rest = value.substr(colon + 1);
        fail_with = LAUNCH_FAILED;
        if (rest.size() > 4 && rest.substr(rest.size() - 4) == ":ecc") {
            fail_with = ECC_UNCORRECTABLE;
            rest.resize(rest.size() - 4);
        }
        if (!number(rest, &fail_at) || fail_at == 0) return false;
        fail_kinds = what == "launch" ? LAUNCH : what == "copy" ? COPY : what == "sync" ? SYNC
                     : what == "any" ? LAUNCH | COPY | SYNC : 0;
        return fail_kinds != 0;
    }
    if (key == "CAPABILITY") return version(value, &major, &minor);
    if (key == "CUDA") {
        if (!version(value, &major_, &minor_)) return false;
        cuda = major_ * 1000 + minor_ * 10;
        return true;
    }
    if (key == "DRIVER") return driver = value, true;
    if (key == "NAME") return name = value, true;
    if (key == "REPORT") return true;
    if (!number(value, &n)) return false;
    if (key == "VRAM") vram = n;
    else if (key == "FREE") free = n;
    else if (key == "DEVICES") devices = n ? 1 : 0;
    else if (key == "MEMORY_LIMIT") memory_limit = n;
    else if (key == "PINNED_LIMIT") pinned_limit = n;
    else if (key == "GUARD") guard = n != 0;
    else if (key == "NVML_ERROR") nvml_error = (int)n;
    else return false;
    return true;
}

Settings from_environment() {
    Settings s;
    const char* keys[] = {"ORDER", "VRAM", "FREE", "CAPABILITY", "CUDA", "DRIVER", "NAME", "DEVICES",
                          "MEMORY_LIMIT", "PINNED_LIMIT", "FAIL", "GUARD", "NVML_ERROR"};
    for (const char* key : keys) {
        const char* value = getenv((std::string("OCTET_FAKE_CUDA_") + key).c_str());
        if (value && !s.set(key, value)) {
            fprintf(stderr, "OCTET_FAKE_CUDA_%s=%s makes no sense\n", key, value);
            abort();
        }
    }
    return s;
}

}  // namespace

// Shared with lib.rs.
struct Counters {
    u64 memory, memory_peak, pinned, pinned_peak;  // bytes
    u64 allocations, pinned_allocations, streams, events, modules, graphs, contexts;  // that live now
    u64 launches, copies_up, copies_down, copies_within, bytes_up, bytes_down, bytes_within, syncs;
    u64 pending;  // queued and not yet run
    u64 left_behind;  // objects that lived when their context ended
};

namespace {

// ---- Device memory ----

const size_t RESERVED = 1ull << 40;  // of addresses, which are never given twice
const size_t PAGE = 64 << 10;        // a multiple of any system's pages
const size_t SPOIL_LIMIT = 64 << 20; // more is left as the system gives it, which is zero
const unsigned char SLACK = 0xa5;    // between an allocation's end and its last page's

struct Allocation {
    u64 at;
    size_t bytes;
    char* pages;
    size_t page_bytes;
};

struct Memory {
    char *start = nullptr, *next = nullptr;
    std::map<u64, Allocation> live;
    std::map<u64, size_t> pinned;      // from cuMemHostAlloc: bytes by address
    std::map<u64, size_t> registered;  // by cuMemHostRegister
    bool open = false;

    // The allocation that holds these bytes.
    const Allocation* find(u64 at, size_t bytes) const {
        auto i = live.upper_bound(at);
        if (i == live.begin()) return nullptr;
        const Allocation& a = (--i)->second;
        return at + bytes <= a.at + a.bytes ? &a : nullptr;
    }

    bool is_device(u64 at) const { return start && at - (u64)start < RESERVED; }

    static bool covers(const std::map<u64, size_t>& ranges, u64 at, size_t bytes) {
        auto i = ranges.upper_bound(at);
        if (i == ranges.begin()) return false;
        --i;
        return at + bytes <= i->first + i->second;
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
    u64 take(size_t bytes) {
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
        Allocation a = {(u64)(next + page_bytes - rounded), bytes, next, page_bytes};
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

// ---- Streams ----

struct Stream;
struct Graph;

struct Need {
    std::shared_ptr<Stream> stream;
    u64 seq;
};

struct Op {
    enum Kind { MARK, UP, DOWN, WITHIN, FILL, LAUNCH, CALL, SPOIL, RELEASE } kind = MARK;
    u64 to = 0, from = 0;
    size_t bytes = 0;
    std::vector<char> snapshot;  // of pageable memory, taken when the copy was asked for
    bool snapshotted = false;
    u32 value = 0;
    int width = 1;
    octet_host::Kernel* kernel = nullptr;
    dim3 grid, block;
    std::vector<u64> arguments;  // 16-byte slots, so that any argument is aligned
    std::vector<size_t> offsets;
    HostFunction call = nullptr;
    void* data = nullptr;
    std::vector<Need> needs;
    std::shared_ptr<double> time;
};

struct Stream {
    std::deque<Op> queue;
    u64 enqueued = 0, completed = 0;
    bool blocking = true;  // waits for the null stream, and it for this
    int number = 0, priority = 0;
    Graph* capture = nullptr;
};

struct Event {
    std::shared_ptr<Stream> stream;  // null: never recorded
    u64 seq = 0;
    bool timing = true;
    std::shared_ptr<double> time;
    Graph* capture = nullptr;
};

struct Graph {
    std::vector<Op> ops;  // in the order of capture, which is one they may run in
};

struct Module {
    std::string ptx;
    std::map<std::string, octet_host::Kernel*> functions;
};

struct Context {
    int retained = 0;
    bool alive = true;
};

const char* KIND_NAMES[] = {"event", "copy to the device", "copy to the host", "copy within the device",
                            "fill", "launch", "host function", "allocation", "free"};

thread_local Context* current = nullptr;
thread_local bool in_callback = false;

struct Driver {
    std::mutex mutex;
    std::condition_variable idle;
    bool executing = false;
    pthread_t executor;
    const Op* running = nullptr;

    bool initialized = false;
    CUresult lost = SUCCESS;
    Settings settings = from_environment();
    u64 random = 0;
    Counters counts = {};
    Memory memory;
    Context* primary = nullptr;
    std::shared_ptr<Stream> null_stream = std::make_shared<Stream>();
    std::map<void*, std::shared_ptr<Stream>> streams;
    int n_streams = 0;
    std::set<Event*> events;
    std::set<Module*> modules;
    std::set<Graph*> graphs, executables;
    int captures = 0;

    Driver() {
        random = settings.seed;
        memory.open = !settings.guard;
    }

    // Whether a call may go on that needs a context.
    CUresult check() const {
        if (in_callback) return complain(NOT_PERMITTED, "a host function calls the driver");
        if (!initialized) return NOT_INITIALIZED;
        if (lost) return lost;
        if (!current) return INVALID_CONTEXT;
        if (!current->alive) return CONTEXT_IS_DESTROYED;
        return SUCCESS;
    }

    // Counts a call that can be told to fail.
    CUresult may_fail(int kind) {
        if (!(settings.fail_kinds & kind) || --settings.fail_at > 0) return SUCCESS;
        settings.fail_kinds = 0;
        lose(settings.fail_with);
        return lost;
    }

    void lose(CUresult why) {
        lost = why;
        forget_queues();
    }

    void forget_queues() {
        for (auto& s : all_streams()) {
            s->queue.clear();
            s->completed = s->enqueued;
        }
        idle.notify_all();
    }

    std::vector<std::shared_ptr<Stream>> all_streams() {
        std::vector<std::shared_ptr<Stream>> all = {null_stream};
        for (auto& [handle, s] : streams) all.push_back(s);
        std::sort(all.begin(), all.end(), [](auto& a, auto& b) { return a->number < b->number; });
        return all;
    }

    std::shared_ptr<Stream> stream(void* handle) {
        if (!handle || handle == (void*)1) return null_stream;  // 1: CU_STREAM_LEGACY
        auto i = streams.find(handle);
        return i == streams.end() ? nullptr : i->second;
    }

    CUresult add(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Stream>& s, Op op) {
        if (s->capture) {
            if (op.kind != Op::MARK) s->capture->ops.push_back(std::move(op));
            return SUCCESS;
        }
        if (s == null_stream) {
            for (auto& [handle, other] : streams)
                if (other->blocking && other->completed < other->enqueued) op.needs.push_back({other, other->enqueued});
        } else if (s->blocking && null_stream->completed < null_stream->enqueued) {
            op.needs.push_back({null_stream, null_stream->enqueued});
        }
        s->queue.push_back(std::move(op));
        s->enqueued++;
        if (settings.order == Settings::EAGER) force(lock, s, s->enqueued);
        return lost;
    }

    bool can_run(const Stream& s) const {
        if (s.queue.empty()) return false;
        for (const Need& n : s.queue.front().needs)
            if (n.stream->completed < n.seq) return false;
        return true;
    }

    void run_first(std::unique_lock<std::mutex>& lock, Stream& s) {
        Op op = std::move(s.queue.front());
        s.queue.pop_front();
        running = &op;
        execute(lock, op);
        running = nullptr;
        if (op.time)
            *op.time = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
        // A loss of the GPU meanwhile has emptied the queues already.
        if (s.completed < s.enqueued) s.completed++;
    }

    // Runs what this point of a stream needs, and nothing else.
    void run_to(std::unique_lock<std::mutex>& lock, Stream& s, u64 seq) {
        while (s.completed < seq && !s.queue.empty()) {
            std::vector<Need> needs = std::move(s.queue.front().needs);
            s.queue.front().needs.clear();
            for (Need& n : needs) run_to(lock, *n.stream, n.seq);
            if (!s.queue.empty()) run_first(lock, s);
        }
    }

    u64 next_random() {
        random += 0x9e3779b97f4a7c15ull;
        u64 z = random;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        return z ^ z >> 31;
    }

    // Takes the right to run queued work, which one thread has at a time.
    void begin(std::unique_lock<std::mutex>& lock) {
        idle.wait(lock, [&] { return !executing; });
        executing = true;
        executor = pthread_self();
        memory.set_open(true, settings.guard);
    }
    void end() {
        memory.set_open(false, settings.guard);
        executing = false;
        idle.notify_all();
    }

    // Returns once stream `s` has done its first `seq` operations.
    void force(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Stream>& s, u64 seq) {
        if (s->completed >= seq) return;
        begin(lock);
        if (settings.order == Settings::LATE || settings.order == Settings::EAGER) run_to(lock, *s, seq);
        while (s->completed < seq) {
            std::vector<std::shared_ptr<Stream>> able;
            for (auto& other : all_streams())
                if (can_run(*other)) able.push_back(other);
            if (able.empty()) {
                // The stream was destroyed: its handle is gone, its work is not.
                run_to(lock, *s, seq);
                break;
            }
            size_t pick = 0;
            if (settings.order == Settings::SEEDED) pick = next_random() % able.size();
            else while (pick + 1 < able.size() && able[pick] == s) pick++;
            run_first(lock, *able[pick]);
        }
        end();
    }

    void force_all(std::unique_lock<std::mutex>& lock) {
        for (auto& s : all_streams()) force(lock, s, s->enqueued);
    }

    // Runs one operation towards this point, for who polls.
    void step(std::unique_lock<std::mutex>& lock, std::shared_ptr<Stream> s, u64 seq) {
        begin(lock);
        if (s->completed < seq) {
            Stream* at = s.get();
            while (!at->queue.empty() && !can_run(*at))
                for (const Need& n : at->queue.front().needs)
                    if (n.stream->completed < n.seq) {
                        at = n.stream.get();
                        break;
                    }
            if (!at->queue.empty()) run_first(lock, *at);
        }
        end();
    }

    void execute(std::unique_lock<std::mutex>& lock, Op& op) {
        switch (op.kind) {
            case Op::MARK:
                break;
            case Op::UP:
                memcpy((void*)op.to, op.snapshotted ? op.snapshot.data() : (void*)op.from, op.bytes);
                break;
            case Op::DOWN:
                memcpy((void*)op.to, (void*)op.from, op.bytes);
                break;
            case Op::WITHIN:
                memmove((void*)op.to, (void*)op.from, op.bytes);
                break;
            case Op::FILL:
                for (size_t i = 0; i < op.bytes; i += op.width) memcpy((char*)op.to + i, &op.value, op.width);
                break;
            case Op::SPOIL:
                if (op.bytes <= SPOIL_LIMIT) memset((void*)op.to, octet_host::SPOILT, op.bytes);
                break;
            case Op::RELEASE:
                if (const Allocation* a = memory.find(op.to, 0)) release(*a);
                break;
            case Op::LAUNCH: {
                std::vector<void*> params;
                for (size_t offset : op.offsets) params.push_back((char*)op.arguments.data() + offset);
                octet_host::launch(*op.kernel, op.grid, op.block, params.data());
                break;
            }
            case Op::CALL:
                memory.set_open(false, settings.guard);
                lock.unlock();
                in_callback = true;
                op.call(op.data);
                in_callback = false;
                lock.lock();
                memory.set_open(true, settings.guard);
                break;
        }
    }

    void release(const Allocation& a) {
        counts.memory -= a.bytes;
        memory.give_back(a);
    }

    u64 free_memory() const {
        u64 at_start = settings.free_at_start();
        return at_start > counts.memory ? at_start - counts.memory : 0;
    }

    CUresult allocate(std::unique_lock<std::mutex>& lock, size_t bytes, u64* at) {
        if (bytes == 0) return INVALID_VALUE;
        auto fits = [&] { return bytes <= free_memory() && counts.memory + bytes <= settings.memory_limit; };
        if (!fits()) force_all(lock);  // which runs frees that wait in streams
        if (!fits() || !(*at = memory.take(bytes))) return OUT_OF_MEMORY;
        counts.memory += bytes;
        counts.memory_peak = std::max(counts.memory_peak, counts.memory);
        return SUCCESS;
    }

    Counters counters() {
        Counters c = counts;
        c.allocations = memory.live.size();
        c.pinned_allocations = memory.pinned.size() + memory.registered.size();
        c.streams = streams.size();
        c.events = events.size();
        c.modules = modules.size();
        c.graphs = graphs.size() + executables.size();
        c.contexts = primary ? 1 : 0;
        c.pending = 0;
        for (auto& s : all_streams()) c.pending += s->queue.size();
        return c;
    }

    // The end of the last reference to the context takes everything in it along.
    void end_context() {
        Counters c = counters();
        counts.left_behind += c.allocations + c.pinned_allocations + c.streams + c.events + c.modules + c.graphs;
        forget_queues();
        while (!memory.live.empty()) release(memory.live.begin()->second);
        for (auto& [at, bytes] : memory.pinned) munmap((void*)at, bytes);
        memory.pinned.clear();
        memory.registered.clear();
        counts.pinned = 0;
        streams.clear();
        for (Event* e : events) delete e;
        events.clear();
        for (Module* m : modules) delete m;
        modules.clear();
        for (Graph* g : graphs) delete g;
        graphs.clear();
        for (Graph* g : executables) delete g;
        executables.clear();
        captures = 0;
        null_stream = std::make_shared<Stream>();
        primary->alive = false;  // and stays, for threads that still have it as theirs
        primary = nullptr;
        if (lost == LAUNCH_FAILED || lost == ILLEGAL_ADDRESS) lost = SUCCESS;
    }
};

struct sigaction before[NSIG];

void say(const char* text) {
    ssize_t ignored = write(2, text, strlen(text));
    (void)ignored;
}

// Names who touched what, then lets the signal do what it did before.
void on_fault(int signal, siginfo_t* info, void* context);

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

void on_fault(int signal, siginfo_t* info, void* context) {
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
    (void)context;  // otherwise the access runs again, into what handled it before
}

#define API extern "C" __attribute__((visibility("default")))

// Every call that needs a context starts so.
#define ENTER                                          \
    Driver& d = driver();                              \
    std::unique_lock<std::mutex> lock(d.mutex);        \
    if (CUresult failed = d.check()) return failed

// Calls that give something back do so on a lost GPU too, and then say that it is lost.
#define ENTER_RELEASE                                  \
    Driver& d = driver();                              \
    std::unique_lock<std::mutex> lock(d.mutex);        \
    if (CUresult failed = d.check())                   \
        if (failed != d.lost || !current || !current->alive) return failed

#define WITH_STREAM(handle)                            \
    std::shared_ptr<Stream> s = d.stream(handle);      \
    if (!s) return INVALID_HANDLE

const unsigned char UUID[16] = {0x0c, 0x7e, 0x70, 0xfa, 0x6e, 0x00, 0x4a, 0x11,
                                0x80, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01};

}  // namespace

// ---- Initialization, device, context ----

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
    if (d.captures) return CAPTURE_UNSUPPORTED;
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

// ---- Memory ----

API CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER;
    *free = d.free_memory();
    *total = d.settings.vram;
    return SUCCESS;
}

API CUresult cuMemAlloc_v2(CUdeviceptr* at, size_t bytes) {
    ENTER;
    if (d.captures) return CAPTURE_UNSUPPORTED;
    return d.allocate(lock, bytes, at);
}

API CUresult cuMemAllocAsync(CUdeviceptr* at, size_t bytes, void* stream) {
    ENTER;
    WITH_STREAM(stream);
    if (s->capture) return CAPTURE_UNSUPPORTED;  // the real one makes a node of it
    if (CUresult failed = d.allocate(lock, bytes, at)) return failed;
    // Whoever writes to it without waiting for this stream loses what it wrote.
    Op op;
    op.kind = Op::SPOIL;
    op.to = *at;
    op.bytes = bytes;
    return d.add(lock, s, std::move(op));
}

// Waits for all work, as the real one does in practice.
API CUresult cuMemFree_v2(CUdeviceptr at) {
    ENTER_RELEASE;
    if (!at) return SUCCESS;
    if (d.captures) return CAPTURE_UNSUPPORTED;
    d.force_all(lock);
    auto i = d.memory.live.find(at);
    if (i == d.memory.live.end()) return complain(INVALID_VALUE, "cuMemFree of %#llx, which is no allocation", at);
    d.release(i->second);
    return d.lost;
}

API CUresult cuMemFreeAsync(CUdeviceptr at, void* stream) {
    ENTER_RELEASE;
    WITH_STREAM(stream);
    if (!at) return SUCCESS;
    if (!d.memory.live.count(at)) return complain(INVALID_VALUE, "cuMemFreeAsync of %#llx, which is no allocation", at);
    if (d.lost) return d.release(d.memory.live[at]), d.lost;
    Op op;
    op.kind = Op::RELEASE;
    op.to = at;
    return d.add(lock, s, std::move(op));
}

API CUresult cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    ENTER;
    if (!bytes) return INVALID_VALUE;
    if (d.counts.pinned + bytes > d.settings.pinned_limit) return OUT_OF_MEMORY;
    size_t rounded = (bytes + 4095) / 4096 * 4096;
    *p = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*p == MAP_FAILED) return OUT_OF_MEMORY;
    if (bytes <= SPOIL_LIMIT) memset(*p, octet_host::SPOILT, bytes);
    d.memory.pinned[(u64)*p] = bytes;
    d.counts.pinned += bytes;
    d.counts.pinned_peak = std::max(d.counts.pinned_peak, d.counts.pinned);
    return SUCCESS;
}

API CUresult cuMemAllocHost_v2(void** p, size_t bytes) { return cuMemHostAlloc(p, bytes, 0); }

API CUresult cuMemFreeHost(void* p) {
    ENTER_RELEASE;
    d.force_all(lock);
    auto i = d.memory.pinned.find((u64)p);
    if (i == d.memory.pinned.end()) return complain(INVALID_VALUE, "cuMemFreeHost of %p, which is no allocation", p);
    d.counts.pinned -= i->second;
    munmap(p, i->second);
    d.memory.pinned.erase(i);
    return d.lost;
}

API CUresult cuMemHostRegister_v2(void* p, size_t bytes, unsigned) {
    ENTER;
    if (!p || !bytes || d.memory.is_device((u64)p)) return INVALID_VALUE;
    if (d.counts.pinned + bytes > d.settings.pinned_limit) return OUT_OF_MEMORY;
    auto next = d.memory.registered.lower_bound((u64)p);
    bool overlaps = (next != d.memory.registered.end() && next->first < (u64)p + bytes) || d.memory.is_pinned(p, 1);
    if (overlaps) return ALREADY_REGISTERED;
    d.memory.registered[(u64)p] = bytes;
    d.counts.pinned += bytes;
    d.counts.pinned_peak = std::max(d.counts.pinned_peak, d.counts.pinned);
    return SUCCESS;
}

API CUresult cuMemHostUnregister(void* p) {
    ENTER_RELEASE;
    auto i = d.memory.registered.find((u64)p);
    if (i == d.memory.registered.end()) return NOT_REGISTERED;
    u64 first = i->first, end = first + i->second;
    for (auto& s : d.all_streams())
        for (const Op& op : s->queue) {
            u64 host = op.kind == Op::UP && !op.snapshotted ? op.from : op.kind == Op::DOWN ? op.to : 0;
            if (!host || host >= end || host + op.bytes <= first) continue;
            fprintf(stderr, "fake CUDA: cuMemHostUnregister of memory that a queued %s uses\n", KIND_NAMES[op.kind]);
            abort();
        }
    d.counts.pinned -= i->second;
    d.memory.registered.erase(i);
    return d.lost;
}

API CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* at, void* p, unsigned) {
    ENTER;
    if (!d.memory.is_pinned(p, 1)) return INVALID_VALUE;
    *at = (CUdeviceptr)p;
    return SUCCESS;
}

namespace {

CUresult check_device(Driver& d, const char* call, const char* which, u64 at, size_t bytes) {
    if (d.memory.find(at, bytes)) return SUCCESS;
    if (!d.memory.is_device(at)) return complain(INVALID_VALUE, "%s: %s %#llx is not device memory", call, which, at);
    return complain(INVALID_VALUE, "%s: %zu bytes from %s %#llx leave the allocation, or it is freed", call, bytes,
                    which, at);
}

CUresult check_host(Driver& d, const char* call, const char* which, const void* p) {
    if (!p) return INVALID_VALUE;
    if (d.memory.is_device((u64)p)) return complain(INVALID_VALUE, "%s: %s %p is device memory", call, which, p);
    return SUCCESS;
}

// All copies; `wait`: return when it is done.
CUresult copy(const char* call, Op::Kind kind, u64 to, u64 from, size_t bytes, void* stream, bool wait) {
    ENTER;
    WITH_STREAM(stream);
    if (!bytes) return SUCCESS;
    if (kind != Op::DOWN)
        if (CUresult failed = check_device(d, call, "destination", to, bytes)) return failed;
    if (kind != Op::UP)
        if (CUresult failed = check_device(d, call, "source", from, bytes)) return failed;
    if (kind == Op::UP)
        if (CUresult failed = check_host(d, call, "source", (void*)from)) return failed;
    if (kind == Op::DOWN)
        if (CUresult failed = check_host(d, call, "destination", (void*)to)) return failed;
    if (wait && d.captures) return CAPTURE_UNSUPPORTED;
    if (CUresult failed = d.may_fail(Settings::COPY)) return failed;
    Op op;
    op.kind = kind;
    op.to = to;
    op.from = from;
    op.bytes = bytes;
    switch (kind) {
        case Op::UP:
            d.counts.copies_up++;
            d.counts.bytes_up += bytes;
            // Pageable memory goes through a staging buffer of the driver, filled before it returns.
            if (!wait && !d.memory.is_pinned((void*)from, bytes)) {
                op.snapshot.assign((char*)from, (char*)from + bytes);
                op.snapshotted = true;
            }
            break;
        case Op::DOWN:
            d.counts.copies_down++;
            d.counts.bytes_down += bytes;
            if (!d.memory.is_pinned((void*)to, bytes)) {
                if (s->capture) return CAPTURE_UNSUPPORTED;
                wait = true;
            }
            break;
        default:
            d.counts.copies_within++;
            d.counts.bytes_within += bytes;
    }
    if (CUresult failed = d.add(lock, s, std::move(op))) return failed;
    if (wait) d.force(lock, s, s->enqueued);
    return d.lost;
}

CUresult fill(const char* call, u64 to, u32 value, int width, size_t count, void* stream, bool wait) {
    ENTER;
    WITH_STREAM(stream);
    if (!count) return SUCCESS;
    if (to % width) return INVALID_VALUE;
    if (CUresult failed = check_device(d, call, "destination", to, count * width)) return failed;
    Op op;
    op.kind = Op::FILL;
    op.to = to;
    op.bytes = count * width;
    op.value = value;
    op.width = width;
    if (CUresult failed = d.add(lock, s, std::move(op))) return failed;
    if (wait) d.force(lock, s, s->enqueued);
    return d.lost;
}

}  // namespace

API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    return copy(__func__, Op::UP, to, (u64)from, bytes, nullptr, true);
}
API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, void* stream) {
    return copy(__func__, Op::UP, to, (u64)from, bytes, stream, false);
}
API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    return copy(__func__, Op::DOWN, (u64)to, from, bytes, nullptr, true);
}
API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, void* stream) {
    return copy(__func__, Op::DOWN, (u64)to, from, bytes, stream, false);
}
// Within the device, the real one does not wait either.
API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return copy(__func__, Op::WITHIN, to, from, bytes, nullptr, false);
}
API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, void* stream) {
    return copy(__func__, Op::WITHIN, to, from, bytes, stream, false);
}
API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t n) {
    return fill(__func__, to, value, 1, n, nullptr, false);
}
API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, void* stream) {
    return fill(__func__, to, value, 1, n, stream, false);
}
API CUresult cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t n) {
    return fill(__func__, to, value, 2, n, nullptr, false);
}
API CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t n, void* stream) {
    return fill(__func__, to, value, 2, n, stream, false);
}
API CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t n) {
    return fill(__func__, to, value, 4, n, nullptr, false);
}
API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t n, void* stream) {
    return fill(__func__, to, value, 4, n, stream, false);
}

// ---- Modules and launches ----

API CUresult cuModuleLoadData(void** module, const void* image) {
    ENTER;
    const char* text = (const char*)image;
    if (!text || !*text) return INVALID_IMAGE;
    std::string ptx = text;
    size_t at = ptx.find(".version ");
    int major, minor, target;
    if (at != std::string::npos && sscanf(ptx.c_str() + at, ".version %d.%d", &major, &minor) == 2) {
        // PTX 8.0 came with CUDA 12.0, 8.1 with 12.1, and so on.
        if (major * 1000 + minor * 10 > d.settings.cuda - 4000)
            return complain(UNSUPPORTED_PTX_VERSION, "PTX %d.%d is too new for CUDA %d.%d", major, minor,
                            d.settings.cuda / 1000, d.settings.cuda % 1000 / 10);
    }
    at = ptx.find(".target sm_");
    if (at != std::string::npos && sscanf(ptx.c_str() + at, ".target sm_%d", &target) == 1) {
        if (target > d.settings.major * 10 + d.settings.minor)
            return complain(NO_BINARY_FOR_GPU, "PTX for sm_%d on a GPU of %d.%d", target, d.settings.major,
                            d.settings.minor);
    }
    Module* m = new Module;
    m->ptx = std::move(ptx);
    d.modules.insert(m);
    *module = m;
    return SUCCESS;
}

API CUresult cuModuleLoadDataEx(void** module, const void* image, unsigned, int*, void**) {
    return cuModuleLoadData(module, image);
}

API CUresult cuModuleUnload(void* module) {
    ENTER_RELEASE;
    if (!d.modules.erase((Module*)module)) return INVALID_HANDLE;
    d.force_all(lock);
    delete (Module*)module;
    return d.lost;
}

// A kernel of this name must be compiled in; and if the image is PTX, be in there too.
API CUresult cuModuleGetFunction(void** function, void* module, const char* name) {
    ENTER;
    if (!d.modules.count((Module*)module)) return INVALID_HANDLE;
    const std::string& ptx = ((Module*)module)->ptx;
    if (ptx.find(".entry ") != std::string::npos && ptx.find(std::string(".entry ") + name + "(") == std::string::npos)
        return complain(NOT_FOUND, "the PTX has no kernel %s: is it of an older source?", name);
    auto i = octet_host::kernels().find(name);
    if (i == octet_host::kernels().end()) return complain(NOT_FOUND, "there is no kernel %s", name);
    *function = &i->second;
    return SUCCESS;
}

namespace {

octet_host::Kernel* kernel_of(void* function) {
    for (auto& [name, k] : octet_host::kernels())
        if (&k == function) return &k;
    return nullptr;
}

}  // namespace

API CUresult cuFuncGetAttribute(int* value, int attribute, void* function) {
    ENTER;
    if (!kernel_of(function)) return INVALID_HANDLE;
    const int values[] = {1024, 0, 0, 0, 64, 75, d.settings.major * 10 + d.settings.minor, 0, 0};
    if (attribute < 0 || attribute > 8) return INVALID_VALUE;
    *value = values[attribute];
    return SUCCESS;
}

API CUresult cuFuncSetAttribute(void* function, int, int) {
    ENTER;
    return kernel_of(function) ? SUCCESS : INVALID_HANDLE;
}

API CUresult cuFuncSetCacheConfig(void* function, int) {
    ENTER;
    return kernel_of(function) ? SUCCESS : INVALID_HANDLE;
}

API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int threads, size_t) {
    ENTER;
    if (!kernel_of(function)) return INVALID_HANDLE;
    if (threads < 1 || threads > 1024) return INVALID_VALUE;
    *blocks = std::min(16, 1536 / threads);
    return SUCCESS;
}

API CUresult cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                            unsigned bz, unsigned shared_bytes, void* stream, void** params, void** extra) {
    ENTER;
    WITH_STREAM(stream);
    octet_host::Kernel* k = kernel_of(function);
    if (!k) return INVALID_HANDLE;
    const char* name = k->name.c_str();
    if (!gx || !gy || !gz || gx > 0x7fffffff || gy > 65535 || gz > 65535)
        return complain(INVALID_VALUE, "%s: a grid of %u x %u x %u", name, gx, gy, gz);
    if (!bx || !by || !bz || bz > 64 || bx > 1024 || by > 1024 || bx * by * bz > 1024)
        return complain(INVALID_VALUE, "%s: a block of %u x %u x %u", name, bx, by, bz);
    if (shared_bytes) return complain(INVALID_VALUE, "%s: no kernel here has dynamic shared memory", name);
    if (extra || (!params && !k->param_sizes.empty())) return complain(INVALID_VALUE, "%s: no kernelParams", name);
    if (CUresult failed = d.may_fail(Settings::LAUNCH)) return failed;
    Op op;
    op.kind = Op::LAUNCH;
    op.kernel = k;
    op.grid = dim3(gx, gy, gz);
    op.block = dim3(bx, by, bz);
    size_t bytes = 0;
    for (size_t size : k->param_sizes) {
        op.offsets.push_back(bytes);
        bytes += (size + 15) / 16 * 16;
    }
    op.arguments.resize(bytes / 8);
    for (size_t i = 0; i < k->param_sizes.size(); i++) {
        memcpy((char*)op.arguments.data() + op.offsets[i], params[i], k->param_sizes[i]);
        if (!k->param_is_pointer[i]) continue;
        u64 at = op.arguments[op.offsets[i] / 8];
        if (!at || d.memory.find(at, 0) || d.memory.is_pinned((void*)at, 1)) continue;
        d.lose(complain(ILLEGAL_ADDRESS, "%s: argument %zu, %#llx, is not device memory%s", name, i, at,
                        d.memory.is_device(at) ? " any more" : ""));
        return d.lost;
    }
    d.counts.launches++;
    return d.add(lock, s, std::move(op));
}

API CUresult cuLaunchHostFunc(void* stream, HostFunction call, void* data) {
    ENTER;
    WITH_STREAM(stream);
    if (!call) return INVALID_VALUE;
    Op op;
    op.kind = Op::CALL;
    op.call = call;
    op.data = data;
    return d.add(lock, s, std::move(op));
}

// ---- Streams and events ----

API CUresult cuStreamCreateWithPriority(void** stream, unsigned flags, int priority) {
    ENTER;
    if (flags > 1) return INVALID_VALUE;
    auto s = std::make_shared<Stream>();
    s->blocking = !(flags & 1);
    s->number = ++d.n_streams;
    s->priority = std::max(-5, std::min(0, priority));
    d.streams[s.get()] = s;
    *stream = s.get();
    return SUCCESS;
}

API CUresult cuStreamCreate(void** stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

// Its work is done first: the real one returns at once, but keeps what it needs.
API CUresult cuStreamDestroy_v2(void* stream) {
    ENTER_RELEASE;
    if (!stream) return INVALID_HANDLE;
    WITH_STREAM(stream);
    d.force(lock, s, s->enqueued);
    d.streams.erase(stream);
    return d.lost;
}

API CUresult cuStreamGetPriority(void* stream, int* priority) {
    ENTER;
    WITH_STREAM(stream);
    *priority = s->priority;
    return SUCCESS;
}

API CUresult cuStreamSynchronize(void* stream) {
    ENTER;
    WITH_STREAM(stream);
    if (s->capture) return CAPTURE_UNSUPPORTED;
    if (CUresult failed = d.may_fail(Settings::SYNC)) return failed;
    d.counts.syncs++;
    d.force(lock, s, s->enqueued);
    return d.lost;
}

API CUresult cuStreamQuery(void* stream) {
    ENTER;
    WITH_STREAM(stream);
    if (s->capture) return CAPTURE_UNSUPPORTED;
    if (s->completed >= s->enqueued) return SUCCESS;
    d.step(lock, s, s->enqueued);
    return d.lost ? d.lost : NOT_READY;
}

API CUresult cuStreamWaitEvent(void* stream, void* event, unsigned) {
    ENTER;
    WITH_STREAM(stream);
    if (!d.events.count((Event*)event)) return INVALID_HANDLE;
    Event* e = (Event*)event;
    if (e->capture) {
        s->capture = e->capture;  // joins, for what it does runs in the graph too
        return SUCCESS;
    }
    if (s->capture) return e->stream ? CAPTURE_ISOLATION : SUCCESS;
    if (!e->stream || e->stream->completed >= e->seq) return SUCCESS;
    Op op;
    op.needs.push_back({e->stream, e->seq});
    return d.add(lock, s, std::move(op));
}

API CUresult cuEventCreate(void** event, unsigned flags) {
    ENTER;
    Event* e = new Event;
    e->timing = !(flags & 2);
    d.events.insert(e);
    *event = e;
    return SUCCESS;
}

API CUresult cuEventDestroy_v2(void* event) {
    ENTER_RELEASE;
    if (!d.events.erase((Event*)event)) return INVALID_HANDLE;
    delete (Event*)event;
    return d.lost;
}

API CUresult cuEventRecord(void* event, void* stream) {
    ENTER;
    WITH_STREAM(stream);
    if (!d.events.count((Event*)event)) return INVALID_HANDLE;
    Event* e = (Event*)event;
    e->capture = s->capture;
    if (s->capture) return SUCCESS;
    e->time = std::make_shared<double>(0.0);
    Op op;
    op.time = e->time;
    e->stream = s;
    e->seq = s->enqueued + 1;
    return d.add(lock, s, std::move(op));
}

API CUresult cuEventQuery(void* event) {
    ENTER;
    if (!d.events.count((Event*)event)) return INVALID_HANDLE;
    Event* e = (Event*)event;
    if (!e->stream || e->stream->completed >= e->seq) return SUCCESS;
    d.step(lock, e->stream, e->seq);
    return d.lost ? d.lost : NOT_READY;
}

API CUresult cuEventSynchronize(void* event) {
    ENTER;
    if (!d.events.count((Event*)event)) return INVALID_HANDLE;
    Event* e = (Event*)event;
    if (CUresult failed = d.may_fail(Settings::SYNC)) return failed;
    d.counts.syncs++;
    if (e->stream) d.force(lock, e->stream, e->seq);
    return d.lost;
}

API CUresult cuEventElapsedTime(float* ms, void* from, void* to) {
    ENTER;
    if (!d.events.count((Event*)from) || !d.events.count((Event*)to)) return INVALID_HANDLE;
    Event *a = (Event*)from, *b = (Event*)to;
    if (!a->timing || !b->timing || !a->stream || !b->stream) return INVALID_HANDLE;
    if (a->stream->completed < a->seq || b->stream->completed < b->seq) return NOT_READY;
    *ms = (float)(*b->time - *a->time);
    return SUCCESS;
}

// ---- Graphs ----

API CUresult cuStreamBeginCapture_v2(void* stream, int) {
    ENTER;
    if (!stream) return CAPTURE_UNSUPPORTED;
    WITH_STREAM(stream);
    if (s->capture) return CAPTURE_UNSUPPORTED;
    s->capture = new Graph;
    d.captures++;
    return SUCCESS;
}

API CUresult cuStreamIsCapturing(void* stream, int* status) {
    ENTER;
    WITH_STREAM(stream);
    *status = s->capture ? 1 : 0;
    return SUCCESS;
}

API CUresult cuStreamEndCapture(void* stream, void** graph) {
    ENTER;
    WITH_STREAM(stream);
    if (!s->capture) return INVALID_VALUE;
    Graph* g = s->capture;
    for (auto& other : d.all_streams())
        if (other->capture == g) other->capture = nullptr;
    for (Event* e : d.events)
        if (e->capture == g) e->capture = nullptr;
    d.captures--;
    d.graphs.insert(g);
    *graph = g;
    return SUCCESS;
}

API CUresult cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    ENTER;
    if (!d.graphs.count((Graph*)graph)) return INVALID_HANDLE;
    Graph* g = new Graph(*(Graph*)graph);
    d.executables.insert(g);
    *executable = g;
    return SUCCESS;
}

API CUresult cuGraphUpload(void* executable, void* stream) {
    ENTER;
    WITH_STREAM(stream);
    return d.executables.count((Graph*)executable) ? SUCCESS : INVALID_HANDLE;
}

API CUresult cuGraphLaunch(void* executable, void* stream) {
    ENTER;
    WITH_STREAM(stream);
    if (!d.executables.count((Graph*)executable)) return INVALID_HANDLE;
    if (CUresult failed = d.may_fail(Settings::LAUNCH)) return failed;
    d.counts.launches++;
    for (const Op& op : ((Graph*)executable)->ops)
        if (CUresult failed = d.add(lock, s, op)) return failed;
    return d.lost;
}

API CUresult cuGraphDestroy(void* graph) {
    ENTER_RELEASE;
    if (!d.graphs.erase((Graph*)graph)) return INVALID_HANDLE;
    delete (Graph*)graph;
    return d.lost;
}

API CUresult cuGraphExecDestroy(void* executable) {
    ENTER_RELEASE;
    if (!d.executables.erase((Graph*)executable)) return INVALID_HANDLE;
    delete (Graph*)executable;
    return d.lost;
}

// ---- For tests ----

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
