// The state of the fake driver, and when queued work runs.
#pragma once

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <set>
#include <thread>

#include "memory.h"
#include "settings.h"

namespace fake {

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
    u64 asked = 0;  // when, in the order of the calls
};

// The memory that it counts, and the objects that end with it.
struct Context {
    Place place;
    int retained = 0;
    bool alive = true;
    u64 memory = 0;
};

struct Stream {
    Context* context = nullptr;
    std::deque<Op> queue;
    u64 enqueued = 0, completed = 0;
    bool blocking = true;  // waits for the null stream, and it for this
    int number = 0, priority = 0;
    Graph* capture = nullptr;
};

struct Event {
    Context* context = nullptr;
    std::shared_ptr<Stream> stream;  // null: never recorded
    u64 seq = 0;
    bool timing = true;
    std::shared_ptr<double> time;
    Graph* capture = nullptr;
};

struct Graph {
    Context* context = nullptr;
    std::vector<Op> ops;  // in the order of capture, which is one they may run in
    int mode = 0;         // of the capture
    pthread_t thread;     // that began it
    bool spoilt = false;  // by a call that a capture does not allow
    // What it takes of the GPU once it can be launched; by drivers before 550, 64 KiB a node.
    u64 bytes() const { return ops.size() << 16; }
};

enum CaptureMode { CAPTURE_GLOBAL, CAPTURE_THREAD_LOCAL, CAPTURE_RELAXED };

struct Module {
    Context* context = nullptr;
    std::string ptx;
    std::map<std::string, octet_host::Kernel*> functions;
};

inline const char* const KIND_NAMES[] = {"event", "copy to the device", "copy to the host", "copy within the device",
                            "fill", "launch", "host function", "allocation", "free"};

inline thread_local Context* current = nullptr;
inline thread_local bool in_callback = false;

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
    std::map<Place, Context*> primaries;
    u64 asked = 0;
    std::shared_ptr<Stream> null_stream = std::make_shared<Stream>();
    std::map<void*, std::shared_ptr<Stream>> streams;
    int n_streams = 0;
    std::set<Event*> events;
    std::set<Module*> modules;
    std::set<Graph*> graphs, executables, captures;

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
        CUresult result = SUCCESS;
        for (size_t i = 0; i < settings.failures.size();) {
            Failure& f = settings.failures[i];
            if (!(f.kinds & kind) || --f.at > 0) {
                i++;
                continue;
            }
            if (!f.soft) lose(f.with);
            result = f.with;
            settings.failures.erase(settings.failures.begin() + i);
        }
        return result;
    }

    // The same of a copy.
    CUresult count_copy(Op::Kind kind, size_t bytes) {
        if (CUresult failed = may_fail(Settings::COPY)) return failed;
        (kind == Op::UP ? counts.copies_up : kind == Op::DOWN ? counts.copies_down : counts.copies_within)++;
        (kind == Op::UP ? counts.bytes_up : kind == Op::DOWN ? counts.bytes_down : counts.bytes_within) += bytes;
        return SUCCESS;
    }

    void lose(CUresult why) {
        lost = why;
        forget_queues();
    }

    // The answer to a call that no capture may see, such as a wait for a stream that is captured,
    // or for all of them. It spoils those captures.
    CUresult spoil(Graph* capture) {
        for (Graph* g : captures)
            if (!capture || g == capture) g->spoilt = true;
        return CAPTURE_UNSUPPORTED;
    }

    // The same of a call that could only be unsafe, such as an allocation: captures of other
    // threads may allow it.
    CUresult check_captures() {
        for (Graph* g : captures)
            if (g->mode == CAPTURE_GLOBAL || (g->mode == CAPTURE_THREAD_LOCAL && pthread_equal(g->thread, pthread_self())))
                return spoil(g);
        return SUCCESS;
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
        op.asked = ++asked;
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
                note_overtaken(op);
                copy_takes(lock, op);
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

    // A kernel that waits in another stream, and was launched before this copy was asked for, reads
    // what the copy brings in place of what it was given.
    void note_overtaken(const Op& copy) {
        for (auto& s : all_streams())
            for (const Op& op : s->queue) {
                if (op.kind != Op::LAUNCH || op.asked > copy.asked) continue;
                auto inside = [&](u64 at) { return at >= copy.to && at < copy.to + copy.bytes; };
                if (std::none_of(op.arguments.begin(), op.arguments.end(), inside)) continue;
                counts.overtaken++;
                return;
            }
    }

    // Waits as long as a copy from the host takes at the speed that was set.
    void copy_takes(std::unique_lock<std::mutex>& lock, const Op& op) {
        bool pinned = !op.snapshotted && memory.is_pinned((void*)op.from, op.bytes);
        u64 speed = pinned ? settings.pinned_speed : settings.pageable_speed;
        if (!speed) return;
        memory.set_open(false, settings.guard);
        lock.unlock();
        std::this_thread::sleep_for(std::chrono::duration<double>((double)op.bytes / (double)speed));
        lock.lock();
        memory.set_open(true, settings.guard);
    }

    void release(const Allocation& a) {
        counts.memory -= taken(a.bytes);
        ((Context*)a.owner)->memory -= taken(a.bytes);
        memory.give_back(a);
    }

    // Of a GPU or an instance, what it has free.
    u64 free_memory(const Place& place) const {
        const Gpu& gpu = settings.gpus[place.gpu];
        u64 at_start = place.instance < 0 ? gpu.free_at_start() : gpu.mig[place.instance], used = 0;
        for (auto& [at, context] : primaries)
            if (at == place || (place.instance < 0 && at.gpu == place.gpu)) used += context->memory;
        return at_start > used ? at_start - used : 0;
    }

    // What an allocation takes of the GPU: the driver maps 2 MiB at a time, which small ones share.
    static u64 taken(u64 bytes) {
        const u64 unit = bytes > 1 << 20 ? 2 << 20 : 512;
        return (bytes + unit - 1) / unit * unit;
    }

    // Counts that much as taken of the GPU, if there is room.
    bool take_memory(std::unique_lock<std::mutex>& lock, u64 wanted) {
        auto fits = [&] { return wanted <= free_memory(current->place) && counts.memory + wanted <= settings.memory_limit; };
        if (!fits()) force_all(lock);  // which runs frees that wait in streams
        if (!fits()) return false;
        counts.memory += wanted;
        current->memory += wanted;
        counts.memory_peak = std::max(counts.memory_peak, counts.memory);
        return true;
    }

    CUresult allocate(std::unique_lock<std::mutex>& lock, size_t bytes, u64* at) {
        if (bytes == 0) return INVALID_VALUE;
        if (!take_memory(lock, taken(bytes))) return OUT_OF_MEMORY;
        if ((*at = memory.take(bytes, current))) return SUCCESS;
        counts.memory -= taken(bytes);
        current->memory -= taken(bytes);
        return OUT_OF_MEMORY;
    }

    Counters counters() {
        Counters c = counts;
        c.allocations = memory.live.size();
        c.pinned_allocations = memory.pinned.size() + memory.registered.size();
        c.streams = streams.size();
        c.events = events.size();
        c.modules = modules.size();
        c.graphs = graphs.size() + executables.size();
        c.contexts = primaries.size();
        c.pending = 0;
        for (auto& s : all_streams()) c.pending += s->queue.size();
        return c;
    }

    // The end of the last reference to a context takes everything in it along.
    void end_context(Context* context) {
        auto is_own = [&](auto* object) { return object->context == context; };
        auto drop_all = [&](auto& objects) {
            for (auto i = objects.begin(); i != objects.end();) {
                if (!is_own(*i)) {
                    ++i;
                    continue;
                }
                counts.left_behind++;
                delete *i;
                i = objects.erase(i);
            }
        };
        for (Graph* g : executables)
            if (is_own(g)) counts.memory -= g->bytes();
        drop_all(events);
        drop_all(modules);
        drop_all(graphs);
        drop_all(executables);
        u64 left_behind = counts.left_behind;
        drop_all(captures);  // a part of its stream
        counts.left_behind = left_behind;
        for (auto i = streams.begin(); i != streams.end();) {
            if (!is_own(i->second.get())) {
                ++i;
                continue;
            }
            counts.left_behind++;
            i->second->queue.clear();
            i->second->completed = i->second->enqueued;
            i = streams.erase(i);
        }
        idle.notify_all();
        for (auto i = memory.live.begin(); i != memory.live.end();) {
            const Allocation a = (i++)->second;
            if (a.owner != context) continue;
            counts.left_behind++;
            release(a);
        }
        for (auto* ranges : {&memory.pinned, &memory.registered})
            for (auto i = ranges->begin(); i != ranges->end();) {
                if (i->second.owner != context) {
                    ++i;
                    continue;
                }
                counts.left_behind++;
                counts.pinned -= i->second.bytes;
                if (ranges == &memory.pinned) munmap((void*)i->first, i->second.bytes);
                i = ranges->erase(i);
            }
        context->alive = false;  // and stays, for threads that still have it as theirs
        primaries.erase(context->place);
        if (primaries.empty()) {
            null_stream->queue.clear();
            null_stream = std::make_shared<Stream>();
        }
        if (lost == LAUNCH_FAILED || lost == ILLEGAL_ADDRESS) lost = SUCCESS;
    }
};

// The only one there is.
Driver& driver();

}  // namespace fake

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
