// Modules, launches, streams, events and graphs.
#include "driver.h"

using namespace fake;

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
        const Gpu& gpu = d.settings.gpus[current->place.gpu];
        if (target > gpu.major * 10 + gpu.minor)
            return complain(NO_BINARY_FOR_GPU, "PTX for sm_%d on a GPU of %d.%d", target, gpu.major, gpu.minor);
    }
    Module* m = new Module;
    m->context = current;
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

namespace {

// A kernel's arguments that are pointers must lead to memory.
CUresult check_pointers(Driver& d, const Op& op) {
    for (size_t i = 0; i < op.offsets.size(); i++) {
        u64 at = op.kernel->param_is_pointer[i] ? op.arguments[op.offsets[i] / 8] : 0;
        if (!at || d.memory.find(at, 0) || d.memory.is_pinned((void*)at, 1)) continue;
        d.lose(complain(ILLEGAL_ADDRESS, "%s: argument %zu, %#llx, is not device memory%s", op.kernel->name.c_str(), i,
                        at, d.memory.is_device(at) ? " any more" : ""));
        return d.lost;
    }
    return SUCCESS;
}

}  // namespace

API CUresult cuFuncGetAttribute(int* value, int attribute, void* function) {
    ENTER;
    if (!kernel_of(function)) return INVALID_HANDLE;
    const Gpu& gpu = d.settings.gpus[current->place.gpu];
    const int values[] = {1024, 0, 0, 0, 64, 75, gpu.major * 10 + gpu.minor, 0, 0};
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
    if (!s->capture)
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
    }
    if (CUresult failed = check_pointers(d, op)) return failed;
    if (!s->capture) d.counts.launches++;
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

API CUresult cuStreamCreateWithPriority(void** stream, unsigned flags, int priority) {
    ENTER;
    if (flags > 1) return INVALID_VALUE;
    auto s = std::make_shared<Stream>();
    s->context = current;
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
    if (s->capture) return d.spoil(s->capture);
    if (CUresult failed = d.may_fail(Settings::SYNC | Settings::STREAM)) return failed;
    d.counts.syncs++;
    d.force(lock, s, s->enqueued);
    return d.lost;
}

API CUresult cuStreamQuery(void* stream) {
    ENTER;
    WITH_STREAM(stream);
    if (s->capture) return d.spoil(s->capture);
    if (CUresult failed = d.may_fail(Settings::QUERY)) return failed;
    d.counts.queries++;
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
    if (CUresult failed = d.may_fail(Settings::EVENT)) return failed;
    Event* e = new Event;
    e->context = current;
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

API CUresult cuStreamBeginCapture_v2(void* stream, int mode) {
    ENTER;
    if (mode < CAPTURE_GLOBAL || mode > CAPTURE_RELAXED) return INVALID_VALUE;
    if (!stream || !d.settings.graphs) return CAPTURE_UNSUPPORTED;
    WITH_STREAM(stream);
    if (s->capture) return d.spoil(s->capture);
    s->capture = new Graph;
    s->capture->context = current;
    s->capture->mode = mode;
    s->capture->thread = pthread_self();
    d.captures.insert(s->capture);
    return SUCCESS;
}

API CUresult cuStreamIsCapturing(void* stream, int* status) {
    ENTER;
    WITH_STREAM(stream);
    *status = !s->capture ? 0 : s->capture->spoilt ? 2 : 1;
    return SUCCESS;
}

API CUresult cuStreamEndCapture(void* stream, void** graph) {
    ENTER;
    WITH_STREAM(stream);
    if (!s->capture) return INVALID_VALUE;
    Graph* g = s->capture;
    if (g->mode != CAPTURE_RELAXED && !pthread_equal(g->thread, pthread_self())) return CAPTURE_WRONG_THREAD;
    for (auto& other : d.all_streams())
        if (other->capture == g) other->capture = nullptr;
    for (Event* e : d.events)
        if (e->capture == g) e->capture = nullptr;
    d.captures.erase(g);
    if (g->spoilt) {
        delete g;
        *graph = nullptr;
        return CAPTURE_INVALIDATED;
    }
    d.graphs.insert(g);
    *graph = g;
    return SUCCESS;
}

API CUresult cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    ENTER;
    if (!d.graphs.count((Graph*)graph)) return INVALID_HANDLE;
    if (!d.take_memory(lock, ((Graph*)graph)->bytes())) return OUT_OF_MEMORY;
    Graph* g = new Graph(*(Graph*)graph);
    g->context = current;
    d.executables.insert(g);
    *executable = g;
    return SUCCESS;
}

API CUresult cuGraphUpload(void* executable, void* stream) {
    ENTER;
    WITH_STREAM(stream);
    return d.executables.count((Graph*)executable) ? SUCCESS : INVALID_HANDLE;
}

// Memory that was freed since the capture is found out here: by the real one, much later or never.
API CUresult cuGraphLaunch(void* executable, void* stream) {
    ENTER;
    WITH_STREAM(stream);
    if (!d.executables.count((Graph*)executable)) return INVALID_HANDLE;
    d.counts.launches++;
    for (const Op& op : ((Graph*)executable)->ops) {
        CUresult failed = SUCCESS;
        if (op.kind == Op::LAUNCH && !(failed = d.may_fail(Settings::LAUNCH))) failed = check_pointers(d, op);
        if (op.kind == Op::UP || op.kind == Op::DOWN || op.kind == Op::WITHIN) failed = d.count_copy(op.kind, op.bytes);
        if (failed || (failed = d.add(lock, s, op))) return failed;
    }
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
    d.counts.memory -= ((Graph*)executable)->bytes();
    ((Graph*)executable)->context->memory -= ((Graph*)executable)->bytes();
    delete (Graph*)executable;
    return d.lost;
}
