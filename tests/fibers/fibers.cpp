/* SPDX-License-Identifier: Apache-2.0 */
/* fibers.cpp - the scheduler: runs every fiber up to its next barrier, then lets all of them pass.
 *
 * Blocks run one after the other, or several by turns: then a block runs in one round and rests in
 * another as dice fall, so that blocks that work on each other's behalf meet in many ways.  So do
 * the warps of a block between two barriers, and lanes run up or down: what lacks a barrier shows.
 *
 * Of a kernel of a graph that may begin before the one in front has ended, two blocks do, as far as
 * they may: what they read too early shows.
 *
 * A fiber is entered once, by swapcontext; from then on it and the scheduler jump to each other,
 * which takes no system call.  Its stack serves one block after the other. */
#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <math.h>
#include <memory>
#include <mutex>
#include <set>
#include <setjmp.h>
#include <stdio.h>
#include <time.h>
#include <ucontext.h>
#include <vector>

#include "cuda_runtime_api.h" /* last: it names what compilers know by other names */

fiber_index threadIdx, blockIdx, gridDim;

static int from_environment(const char *name, int otherwise)
{
    const char *text = getenv(name);

    return text ? atoi(text) : otherwise;
}

/* One device of 1 TiB that does not fail. */
static fiber_device whole_device(void)
{
    fiber_device d = {};

    d.devices = from_environment("FIBERS_DEVICES", 1);
    d.first = from_environment("FIBERS_FIRST", 0);
    d.driver = 13000;
    d.memory = (size_t)1 << 40;
    d.fails_after = -1;
    d.stack = 1024;
    d.needs = 872;
    d.major = 9;
    return d;
}

fiber_device fiber_gpu = whole_device();
fiber_cublas fiber_library = {130100, 4, 0, 0, -1, false};

namespace
{

enum { WARP = 32, STACK_BYTES = 256 << 10 };
enum wait_kind { RUNS, AT_BLOCK, AT_WARP, AT_PREVIOUS, ENDED };

/* Of the two factors of a product, what one lane holds. */
struct fragment {
    uint32_t a[4], b[2];
};

struct fiber {
    ucontext_t context; /* for its first entry */
    jmp_buf here;       /* for all others */
    bool entered;
    std::unique_ptr<char[]> stack;
    wait_kind wait;
    int ballot;            /* given to __syncthreads_or */
    uint64_t exchanged[2]; /* given to shuffles, by turns */
    unsigned shuffles;
    fragment given[2]; /* to the last two products: nobody writes one before all have read it */
    unsigned products;
};

std::vector<fiber> fibers; /* of all blocks that run together */
size_t width;              /* threads of a block */
size_t current;            /* index of the fiber that runs */
uint32_t dice = 1;
ucontext_t first_return;
jmp_buf scheduler;
void (*body)(void *);
void *body_user;
int ballot_result[FIBER_BLOCKS];

void wait_at(wait_kind kind)
{
    fiber &self = fibers[current];

    self.wait = kind;
    if (_setjmp(self.here) == 0) _longjmp(scheduler, 1);
}

/* Block after block. */
void enter()
{
    for (;;) {
        body(body_user);
        wait_at(ENDED);
    }
}

/* Run a fiber up to its next wait. */
void resume(size_t i)
{
    fiber &f = fibers[i];

    current = i;
    threadIdx.x = (unsigned)(i % width);
    if (_setjmp(scheduler) != 0) return;
    if (f.entered) _longjmp(f.here, 1);
    f.entered = true;
    swapcontext(&first_return, &f.context);
}

/* Can the fibers [from, to) pass a barrier of this kind?  All that have not ended must stand there.
 */
bool all_wait(size_t from, size_t to, wait_kind kind)
{
    bool any = false;

    for (size_t i = from; i < to; i++) {
        if (fibers[i].wait == ENDED) continue;
        if (fibers[i].wait != kind) return false;
        any = true;
    }
    return any;
}

void release(size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        if (fibers[i].wait != ENDED) fibers[i].wait = RUNS;
    }
}

/* Let go of every barrier of a block that is complete; false when there is none. */
bool pass_barriers(size_t block)
{
    const size_t from = block * width, to = from + width;
    bool passed = false;

    for (size_t warp = from; warp < to; warp += WARP) {
        if (!all_wait(warp, warp + WARP, AT_WARP)) continue;
        release(warp, warp + WARP);
        passed = true;
    }
    if (!passed && all_wait(from, to, AT_BLOCK)) {
        ballot_result[block] = 0;
        for (size_t i = from; i < to; i++) {
            ballot_result[block] |= fibers[i].wait == AT_BLOCK && fibers[i].ballot;
        }
        release(from, to);
        passed = true;
    }
    return passed;
}

bool toss(void)
{
    dice = dice * 1664525u + 1013904223u;
    return dice >> 31;
}

/* Let the threads of a warp run up to their next barrier, from the first or from the last on. */
void run_warp(size_t from, size_t count)
{
    const bool down = toss();

    for (size_t k = 0; k < count; k++) {
        const size_t i = from + (down ? count - 1 - k : k);

        if (fibers[i].wait == RUNS) resume(i);
    }
}

/* Let some warps of a block run up to their next barrier: one may be there before another has
 * begun, as on a device.  false: the block has ended. */
bool run_block(size_t block)
{
    const size_t from = block * width, to = from + width;
    bool ran = false;

    for (size_t warp = from; warp < to; warp += WARP) {
        const size_t end = warp + WARP < to ? warp + WARP : to;
        bool runs = false;

        for (size_t i = warp; i < end; i++) runs = runs || fibers[i].wait == RUNS;
        ran = ran || runs;
        if (runs && toss()) run_warp(warp, end - warp);
    }
    if (pass_barriers(block) || ran) return true;
    for (size_t i = from; i < to; i++) {
        if (fibers[i].wait == AT_PREVIOUS) return false;
    }
    for (size_t i = from; i < to; i++) {
        if (fibers[i].wait == ENDED) continue;
        fprintf(stderr, "fibers: deadlock: threads wait at different barriers\n");
        abort();
    }
    return false;
}

/* Blocks first .. first + count - 1, until all have ended, or wait for the kernel in front.
 *
 * at   where the fibers of the first of them begin, in blocks */
void go_on(int first, int count, int at = 0)
{
    bool running = true;

    while (running) {
        running = false;
        for (int b = 0; b < count; b++) {
            if (count > 1 && toss()) {
                running = true;
                continue;
            }
            blockIdx.x = (unsigned)(first + b);
            running = run_block((size_t)(at + b)) || running;
        }
    }
}

/* The same from their beginning. */
void run_blocks(int first, int count)
{
    for (size_t i = 0; i < (size_t)count * width; i++) {
        fibers[i].wait = RUNS;
        fibers[i].shuffles = 0;
    }
    go_on(first, count);
}

/* Blocks of a kernel that have begun before the one in front has ended: their fibers, while others
 * run. */
struct early_blocks {
    std::vector<fiber> fibers;
    size_t width;
    int first, count;
    const void *node; /* of the graph */
};

early_blocks begun;
bool before_previous; /* the fibers that run began early */

/* Let the others' fibers be those that run. */
void swap_fibers()
{
    std::swap(fibers, begun.fibers);
    std::swap(width, begun.width);
}

} // namespace

void fiber_await_previous(void)
{
    if (before_previous) wait_at(AT_PREVIOUS);
}

void __syncthreads(void)
{
    fibers[current].ballot = 0;
    wait_at(AT_BLOCK);
}

int __syncthreads_or(int value)
{
    const size_t self = current;

    fibers[self].ballot = value;
    wait_at(AT_BLOCK);
    return ballot_result[self / width];
}

void __syncwarp(void)
{
    wait_at(AT_WARP);
}

void __nanosleep(unsigned)
{
    wait_at(RUNS);
}

uint64_t fiber_shuffle(uint64_t bits, unsigned from)
{
    const size_t self = current;
    const unsigned turn = fibers[self].shuffles++ % 2; /* the same in all lanes */

    /* nobody gives the value after the next before all have read this one */
    fibers[self].exchanged[turn] = bits;
    wait_at(AT_WARP);
    return from < WARP ? fibers[self / WARP * WARP + from].exchanged[turn] : bits;
}

namespace
{

/* Number k of a row of a (0: the lower, 1: that 8 below) or of a column of b, which 4 lanes hold:
 * pairs of bf16, or floats whose upper 19 bits count. */
float factor(const fiber *lanes, unsigned slot, bool of_a, unsigned row, unsigned k, bool bf16)
{
    const unsigned each = bf16 ? 2 : 1, lane = k / each % 4, upper = k / each / 4;
    const fragment &f = lanes[lane].given[slot];
    const uint32_t bits = of_a ? f.a[row + 2 * upper] : f.b[upper];
    union {
        uint32_t u;
        float f;
    } pun;

    pun.u = !bf16 ? bits & 0xffffe000u : k % 2 ? bits & 0xffff0000u : bits << 16;
    return pun.f;
}

/* Of x > 0, which is no subnormal double: the largest n with 2^n <= x. */
int exponent_of(double x)
{
    uint64_t bits;

    memcpy(&bits, &x, sizeof bits);
    return (int)(bits >> 52) - 1023;
}

double power_of_2(int n)
{
    const uint64_t bits = (uint64_t)(n + 1023) << 52;
    double x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

/* As tensor cores add, as far as others have found out (Fasi et al. 2021, Li et al. 2024): the
 * numbers are cut off below what the largest of them has of bits, and one more; added exactly; and
 * the sum is cut off to a float.  Those of an A100, the coarser ones, add half of a product's
 * numbers at a time; an H100 all, with more bits. */
float add_cut(float c, const double *product, unsigned count)
{
    double largest = fabs((double)c), all = c, unit, units;
    int64_t sum;
    int exponent;
    float near;

    for (unsigned k = 0; k < count; k++) {
        all += product[k];
        largest = fabs(product[k]) > largest ? fabs(product[k]) : largest;
    }
    if (largest == 0.0 || !(fabs(all) < 3.4e38)) return (float)all;
    exponent = exponent_of(largest);
    unit = power_of_2(exponent - 24);
    units = power_of_2(24 - exponent);
    sum = (int64_t)((double)c * units);
    for (unsigned k = 0; k < count; k++) sum += (int64_t)(product[k] * units);
    all = (double)sum * unit;
    near = (float)all;
    return fabs((double)near) > fabs(all) ? nextafterf(near, 0.0f) : near;
}

} // namespace

void fiber_mma(float *c, const uint32_t *a, const uint32_t *b, bool bf16)
{
    const size_t self = current;
    const unsigned slot = fibers[self].products++ % 2, lane = (unsigned)(self % WARP);
    const fiber *warp = &fibers[self / WARP * WARP];

    memcpy(fibers[self].given[slot].a, a, sizeof fibers[self].given[slot].a);
    memcpy(fibers[self].given[slot].b, b, sizeof fibers[self].given[slot].b);
    wait_at(AT_WARP);
    for (unsigned column = 0; column < 2; column++) {
        const fiber *of_b = warp + (lane % 4 * 2 + column) * 4, *of_a = warp + lane / 4 * 4;
        const unsigned count = bf16 ? 16 : 8;
        float x[16];
        bool any = false;

        for (unsigned k = 0; k < count; k++) {
            x[k] = factor(of_b, slot, false, 0, k, bf16);
            any = any || x[k] != 0.0f;
        }
        for (unsigned row = 0; row < 2 && any; row++) { /* rows that are not there cost nothing */
            double product[16];

            for (unsigned k = 0; k < count; k++) {
                product[k] = (double)factor(of_a, slot, true, row, k, bf16) * (double)x[k];
            }
            for (unsigned k = 0; k < count; k += count / 2) {
                c[column + 2 * row] = add_cut(c[column + 2 * row], product + k, count / 2);
            }
        }
    }
}

/* Have fibers for so many blocks of a kernel. */
static void prepare(int blocks, int count, int threads, void (*run)(void *user), void *user)
{
    const size_t wanted = (size_t)threads * (size_t)count;

    if (width != (size_t)threads || fibers.size() < wanted) {
        fibers = std::vector<fiber>(wanted);
        for (fiber &f : fibers) {
            f.stack.reset(new char[STACK_BYTES]);
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.get();
            f.context.uc_stack.ss_size = STACK_BYTES;
            f.context.uc_link = nullptr;
            makecontext(&f.context, enter, 0);
        }
    }
    width = (size_t)threads;
    gridDim.x = (unsigned)blocks;
    body = run;
    body_user = user;
}

void fiber_run(int blocks, int threads, bool together, void (*run)(void *user), void *user)
{
    const int count = !together ? 1 : blocks < FIBER_BLOCKS ? blocks : FIBER_BLOCKS;

    if (together && blocks > FIBER_BLOCKS) {
        fprintf(stderr, "fibers: %d blocks cannot run together\n", blocks);
        abort();
    }
    prepare(blocks, count, threads, run, user);
    for (int block = 0; block < blocks; block += count) run_blocks(block, count);
}

/* Let some blocks come as far as they may before the kernel in front ends. */
static void begin_early(const void *node, int blocks, int threads, void (*run)(void *user),
                        void *user)
{
    static uint32_t which = 1;

    which = which * 1664525u + 1013904223u;
    begun.node = node;
    begun.count = blocks < 2 ? blocks : 2;
    begun.first = (int)((which >> 8) % (unsigned)(blocks - begun.count + 1));
    swap_fibers();
    prepare(blocks, begun.count, threads, run, user);
    before_previous = true;
    run_blocks(begun.first, begun.count);
    before_previous = false;
    for (size_t i = 0; i < (size_t)begun.count * width; i++) {
        if (fibers[i].wait != ENDED) continue;
        fprintf(stderr, "fibers: a thread of a kernel that began early does not wait\n");
        abort();
    }
    swap_fibers();
}

/* All blocks of a kernel of which some have begun. */
static void end_early(int blocks, int threads, void (*run)(void *user), void *user)
{
    prepare(blocks, 1, threads, run, user);
    for (int block = 0; block < blocks; block++) {
        if (block < begun.first || block >= begun.first + begun.count) run_blocks(block, 1);
    }
    swap_fibers();
    release(0, (size_t)begun.count * width);
    for (int b = 0; b < begun.count; b++) go_on(begun.first + b, 1, b); /* they share memory */
    swap_fibers();
}

/* ---- the device ------------------------------------------------------------------------------ */

/* Of everything here: a thread's kernels run one by one, and so do those of several threads. */
static std::mutex turn;
static thread_local int current_device;
enum { GOES, STICKS, HANGS };
static thread_local std::atomic<int> stuck;
static thread_local cudaError_t last_error;

void fiber_stick(bool value)
{
    if (stuck != HANGS) stuck = value ? STICKS : GOES;
}

void fiber_hang(void)
{
    stuck = HANGS;
}

bool fiber_hangs(void *self)
{
    return *(std::atomic<int> *)self == HANGS;
}

bool fiber_is_stuck(void)
{
    return stuck;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    static std::atomic<uintptr_t> made;

    *out = (cudaStream_t)++made;
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    if (fiber_refuse(stream) != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (!stuck) return cudaSuccess;
    last_error = cudaErrorNotReady;
    return cudaErrorNotReady;
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = last_error;

    last_error = cudaSuccess;
    return error;
}

void *fiber_self(void)
{
    return &stuck;
}

void fiber_unstick(void *self)
{
    int sticks = STICKS;

    (void)((std::atomic<int> *)self)->compare_exchange_strong(sticks, GOES);
}

void fiber_must_not_wait(void)
{
    const struct timespec pause = {0, 1000000};

    for (int i = 0; i < 5000; i++) {
        if (!stuck) return;
        (void)nanosleep(&pause, NULL);
    }
    fprintf(stderr, "fibers: a wait without end for a stream that waits for another rank\n");
    abort();
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= fiber_gpu.devices) return cudaErrorInvalidDevice;
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current_device;
    return cudaSuccess;
}

/* ---- late ---- */

/* What was sent: a stream's in the order it was sent in. */
struct fiber_work {
    size_t serial;
    size_t after; /* serial of what must have been done, of another stream; 0: nothing */
    std::function<void()> work;
};

static std::map<cudaStream_t, std::deque<fiber_work>> sent;
static std::map<cudaStream_t, size_t> last; /* serial of what a stream was sent last */
static std::set<size_t> undone;
static size_t serials, left;
static thread_local cudaStream_t launches_on;
static std::map<const char *, size_t> pinned; /* memory of the host that the device may use */

void fiber_on(cudaStream_t stream)
{
    launches_on = stream;
}

static cudaError_t send(cudaStream_t stream, std::function<void()> work, size_t after = 0)
{
    sent[stream].push_back({++serials, after, std::move(work)});
    last[stream] = serials;
    undone.insert(serials);
    left++;
    return cudaSuccess;
}

/* Do the next of any stream that need not wait: mostly of the last one, so that streams come far
 * ahead of each other. */
static void do_one(void)
{
    static uint32_t dice = 1;
    static std::deque<fiber_work> *before;
    std::vector<std::deque<fiber_work> *> ready;
    size_t which;

    for (auto &stream : sent) {
        if (stream.second.empty() || undone.count(stream.second.front().after)) continue;
        ready.push_back(&stream.second);
    }
    if (ready.empty()) {
        fprintf(stderr, "fibers: streams wait for each other\n");
        abort();
    }
    dice = dice * 1664525u + 1013904223u;

    which = (dice >> 16) % ready.size();
    if (dice >> 30) { /* three times of four */
        for (size_t i = 0; i < ready.size(); i++) which = ready[i] == before ? i : which;
    }
    before = ready[which];

    std::deque<fiber_work> &queue = *before;
    fiber_work next = std::move(queue.front());

    queue.pop_front();
    next.work();
    undone.erase(next.serial);
    left--;
}

static void catch_up_to(size_t serial)
{
    while (undone.count(serial)) do_one();
}

void fiber_catch_up(void)
{
    while (left > 0) do_one();
}

static bool is_pinned(const void *at)
{
    auto next = pinned.upper_bound((const char *)at);

    if (next == pinned.begin()) return false;
    --next;
    return (const char *)at < next->first + next->second;
}

/* Memory that is not pinned is read at once, and written before the call returns. */
cudaError_t fiber_copy_later(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                             cudaStream_t stream)
{
    if (kind == cudaMemcpyHostToDevice && !is_pinned(from) && !fiber_gpu.reads_host) {
        std::vector<char> copy((const char *)from, (const char *)from + bytes);

        return send(stream, [=] { memcpy(to, copy.data(), copy.size()); });
    }
    if (kind == cudaMemcpyDeviceToHost && !is_pinned(to)) {
        fiber_catch_up();
        memcpy(to, from, bytes);
        return cudaSuccess;
    }
    return send(stream, [=] { memcpy(to, from, bytes); });
}

cudaError_t fiber_set_later(void *at, int value, size_t bytes, cudaStream_t stream)
{
    return send(stream, [=] { memset(at, value, bytes); });
}

/* ---- stacks ---- */

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *out, const void *kernel)
{
    fiber_load(kernel);
    out->localSizeBytes = fiber_gpu.needs;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetLimit(size_t *value, enum cudaLimit)
{
    *value = fiber_gpu.stack;
    return cudaSuccess;
}

cudaError_t cudaDeviceSetLimit(enum cudaLimit, size_t value)
{
    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    std::lock_guard<std::mutex> lock(turn);
    const size_t more = value > fiber_gpu.stack ? (value - fiber_gpu.stack) * FIBER_RESIDENT : 0;

    if (more > fiber_gpu.memory - fiber_gpu.used) return cudaErrorMemoryAllocation;
    fiber_gpu.used += more;
    fiber_gpu.stack = value;
    return cudaSuccess;
}

/* In front of every allocation: its size. */
enum { HEADER = 256 };

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    char *memory = NULL;

    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    std::lock_guard<std::mutex> lock(turn);

    *out = NULL;
    if (bytes > fiber_gpu.memory - fiber_gpu.used) return cudaErrorMemoryAllocation;
    memory = (char *)aligned_alloc(HEADER, (bytes + 2 * HEADER - 1) / HEADER * HEADER);
    if (!memory) return cudaErrorMemoryAllocation;
    memcpy(memory, &bytes, sizeof bytes);
    memset(memory + HEADER, 0xff, bytes); /* NaN */
    fiber_gpu.used += bytes;
    fiber_gpu.allocations++;
    if (fiber_gpu.used > fiber_gpu.most_used) fiber_gpu.most_used = fiber_gpu.used;
    *out = memory + HEADER;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    size_t bytes;

    if (!memory) return cudaSuccess;
    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (stuck) fiber_must_not_wait();
    fiber_catch_up();

    std::lock_guard<std::mutex> lock(turn);

    memcpy(&bytes, (char *)memory - HEADER, sizeof bytes);
    free((char *)memory - HEADER);
    fiber_gpu.used -= bytes;
    fiber_gpu.allocations--;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    *out = malloc(bytes);
    if (!*out) return cudaErrorMemoryAllocation;

    std::lock_guard<std::mutex> lock(turn);

    pinned[(const char *)*out] = bytes;
    fiber_gpu.pinned++;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory)
{
    if (!memory) return cudaSuccess;
    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    fiber_catch_up();

    std::lock_guard<std::mutex> lock(turn);

    pinned.erase((const char *)memory);
    free(memory);
    fiber_gpu.pinned--;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = fiber_gpu.count_error == cudaSuccess ? fiber_gpu.devices : 0;
    return fiber_gpu.count_error;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = fiber_gpu.memory - fiber_gpu.used;
    *total = fiber_gpu.memory;
    return cudaSuccess;
}

cudaError_t fiber_has_code(void)
{
    return fiber_gpu.code_error;
}

/* ---- graphs ---------------------------------------------------------------------------------- */

/* A kernel, or a body that runs if *condition says so; what must have run before it. */
struct fiber_node {
    int blocks, threads; /* blocks 0: a call, not a kernel */
    bool together, early;
    void (*body)(void *);
    std::vector<char> user;
    std::shared_ptr<unsigned> condition;
    std::shared_ptr<fiber_graph> inner;
    std::vector<size_t> after; /* nodes of the same graph */
};

struct fiber_condition {
    std::shared_ptr<unsigned> value;
    unsigned initial;
    int nodes; /* that ask it */
};

struct fiber_graph {
    std::vector<fiber_node> nodes;
    std::vector<fiber_condition> conditions;
    std::vector<std::shared_ptr<void>> held;
    std::vector<cudaGraph_t> bodies; /* one for each conditional node, as the toolkit gives them */
};

typedef std::vector<size_t> frontier; /* the last nodes of a stream */

/* A capture: the streams that take part, each with what its next node comes behind. */
struct recording {
    fiber_graph *graph;
    cudaStream_t origin;
    bool is_body;
    std::map<cudaStream_t, frontier> streams;
    std::atomic<bool> invalid;
    bool lost_body; /* a body of it was invalid when it ended */
};

static thread_local std::vector<std::unique_ptr<recording>> recorded; /* bodies behind graphs */
static std::set<recording *> recordings;                              /* of all threads */
static std::mutex of_recordings;

bool fiber_captures(void)
{
    return !recorded.empty();
}

static recording *capture_of(cudaStream_t stream)
{
    for (auto &r : recorded) {
        if (r->streams.count(stream)) return r.get();
    }
    return nullptr;
}

/* Is it recorded, and no body of it is meanwhile? */
bool fiber_captures_on(cudaStream_t stream)
{
    return fiber_captures() && capture_of(stream) == recorded.back().get();
}

/* What must not be while this thread records: all that it does record is lost. */
cudaError_t fiber_unsafe(void)
{
    for (auto &r : recorded) r->invalid = true;
    return fiber_captures() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

/* The same of what waits for the whole device, whoever records. */
cudaError_t fiber_unsafe_anywhere(void)
{
    std::lock_guard<std::mutex> lock(of_recordings);

    for (recording *r : recordings) r->invalid = true;
    return recordings.empty() ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}

static cudaError_t invalidate(recording *r, cudaError_t error)
{
    r->invalid = true;
    return error;
}

cudaError_t fiber_refuse(cudaStream_t stream)
{
    recording *r = capture_of(stream);

    return r ? invalidate(r, cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

static cudaError_t may_launch(void)
{
    if (fiber_gpu.fails_after >= 0 && fiber_gpu.launches >= fiber_gpu.fails_after) {
        return cudaErrorIllegalAddress;
    }
    fiber_gpu.launches++;
    if (fiber_gpu.needs > fiber_gpu.stack) {
        fiber_gpu.growths++;
        fiber_gpu.stack = fiber_gpu.needs;
    }
    return cudaSuccess;
}

/* One more node behind what its stream has had. */
static size_t add_node(recording *r, cudaStream_t stream, fiber_node node)
{
    node.after = r->streams[stream];
    r->graph->nodes.push_back(std::move(node));
    r->streams[stream] = {r->graph->nodes.size() - 1};
    return r->graph->nodes.size() - 1;
}

/* Behind one kernel, and nothing else. */
static bool may_be_early(recording *r)
{
    const frontier &behind = r->streams[launches_on];

    return !fiber_gpu.no_early && behind.size() == 1 && r->graph->nodes[behind[0]].blocks > 0;
}

/* On a device a launch on another stream would not be recorded but run. */
static cudaError_t record_launch(fiber_node node)
{
    recording *r = capture_of(launches_on);

    if (r != recorded.back().get()) {
        fprintf(stderr, "fibers: a launch on a stream that is not recorded, while another is\n");
        abort();
    }
    if (r->invalid) return cudaErrorStreamCaptureInvalidated;
    if (node.early && !may_be_early(r)) return invalidate(r, cudaErrorInvalidValue);
    if (fiber_gpu.no_body && r->is_body) return cudaErrorStreamCaptureUnsupported; /* this alone */
    if (fiber_gpu.no_record) return invalidate(r, cudaErrorStreamCaptureUnsupported);
    add_node(r, launches_on, std::move(node));
    return cudaSuccess;
}

/* ---- kernels are loaded before they are recorded ---- */

static std::set<const void *> loaded;

void fiber_load(const void *kernel)
{
    std::lock_guard<std::mutex> lock(of_recordings);

    loaded.insert(kernel);
}

/* To load one may take memory, and wait for the device. */
static cudaError_t must_be_loaded(const void *kernel)
{
    std::lock_guard<std::mutex> lock(of_recordings);

    if (loaded.insert(kernel).second && fiber_captures()) {
        fprintf(stderr, "fibers: a kernel is loaded while a graph is recorded\n");
        return fiber_unsafe();
    }
    return cudaSuccess;
}

cudaError_t fiber_submit(const void *kernel, int blocks, int threads, bool together, bool early,
                         void (*body)(void *), const void *user, size_t bytes)
{
    const char *from = (const char *)user;
    std::vector<char> copy(from, from + bytes);
    cudaError_t error = must_be_loaded(kernel);

    if (error != cudaSuccess) return error;
    if (fiber_captures()) {
        return record_launch({blocks, threads, together, early, body, copy, {}, {}, {}});
    }
    if (stuck) return cudaSuccess;

    std::lock_guard<std::mutex> lock(turn);

    error = may_launch();
    if (error == cudaSuccess && fiber_gpu.late) {
        return send(launches_on,
                    [=]() mutable { fiber_run(blocks, threads, together, body, copy.data()); });
    }
    if (error == cudaSuccess) fiber_run(blocks, threads, together, body, copy.data());
    return error;
}

bool fiber_note_call(void (*call)(void *), const void *user, size_t bytes)
{
    const char *from = (const char *)user;
    recording *r;

    if (!fiber_captures()) {
        fiber_catch_up();
        return false;
    }
    r = recorded.back().get();
    add_node(r, r->origin,
             {0, 0, false, false, call, std::vector<char>(from, from + bytes), {}, {}, {}});
    return true;
}

void fiber_hold(void (*let_go)(void *), void *user)
{
    recorded.back()->graph->held.push_back(std::shared_ptr<void>(user, let_go));
}

static cudaError_t begin(cudaStream_t stream, fiber_graph *graph, bool is_body)
{
    std::lock_guard<std::mutex> lock(of_recordings);

    recorded.emplace_back(new recording{graph, stream, is_body, {{stream, {}}}, {false}, false});
    recordings.insert(recorded.back().get());
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    if (fiber_gpu.no_capture) return cudaErrorStreamCaptureUnsupported;
    if (capture_of(stream)) return cudaErrorInvalidValue;
    {
        std::lock_guard<std::mutex> lock(turn);

        fiber_gpu.graphs++;
    }
    return begin(stream, new fiber_graph, false);
}

/* Does every last node of a stream lie before those of the origin? */
static bool is_joined(const recording *r)
{
    std::vector<size_t> next = r->streams.at(r->origin);
    std::set<size_t> before;

    while (!next.empty()) {
        const size_t node = next.back();

        next.pop_back();
        if (!before.insert(node).second) continue;
        for (size_t i : r->graph->nodes[node].after) next.push_back(i);
    }
    for (auto &stream : r->streams) {
        for (size_t node : stream.second) {
            if (!before.count(node)) return false;
        }
    }
    return true;
}

/* A body that is not valid when it ends is freed although its node has it, and to end the graph
 * around it is the end of the process: https://github.com/NVIDIA/cuda-python/issues/2918. */
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    std::unique_ptr<recording> r;
    cudaError_t error = cudaSuccess;

    *out = NULL;
    if (!fiber_captures() || recorded.back()->origin != stream) {
        return cudaErrorStreamCaptureUnmatched;
    }
    {
        std::lock_guard<std::mutex> lock(of_recordings);

        r = std::move(recorded.back());
        recorded.pop_back();
        recordings.erase(r.get());
    }
    if (r->lost_body) {
        fprintf(stderr, "fibers: a driver would crash: a conditional node's body was not valid\n");
        abort();
    }
    if (r->invalid) {
        error = cudaErrorStreamCaptureInvalidated;
    } else if (!is_joined(r.get())) {
        error = cudaErrorStreamCaptureUnjoined;
    }
    if (error == cudaSuccess) {
        *out = r->graph;
    } else if (r->is_body) {
        recorded.back()->lost_body = true;
    } else {
        std::lock_guard<std::mutex> lock(turn);

        delete r->graph;
        fiber_gpu.graphs--;
    }
    return error;
}

static cudaGraphNode_t handle_of(size_t node)
{
    return (cudaGraphNode_t)(uintptr_t)(node + 1);
}

static size_t node_of(cudaGraphNode_t handle)
{
    return (size_t)(uintptr_t)handle - 1;
}

/* Valid until the next call about the stream. */
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *, cudaGraph_t *graph,
                                     const cudaGraphNode_t **dependencies,
                                     const cudaGraphEdgeData **edges, size_t *count)
{
    static thread_local std::vector<cudaGraphNode_t> behind;
    recording *r = capture_of(stream);

    *status = !r           ? cudaStreamCaptureStatusNone
              : r->invalid ? cudaStreamCaptureStatusInvalidated
                           : cudaStreamCaptureStatusActive;
    if (*status != cudaStreamCaptureStatusActive) return cudaSuccess;
    behind.clear();
    for (size_t node : r->streams[stream]) behind.push_back(handle_of(node));
    *graph = r->graph;
    *dependencies = behind.data();
    *edges = NULL;
    *count = behind.size();
    return cudaSuccess;
}

cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle *out, cudaGraph_t graph,
                                             unsigned value, unsigned)
{
    if (!graph) return cudaErrorInvalidValue;
    if (fiber_gpu.no_condition) return cudaErrorStreamCaptureUnsupported;
    graph->conditions.push_back({std::make_shared<unsigned>(value), value, 0});
    *out = (cudaGraphConditionalHandle)(uintptr_t)graph->conditions.back().value.get();
    return cudaSuccess;
}

cudaError_t cudaGraphAddNode(cudaGraphNode_t *out, cudaGraph_t graph,
                             const cudaGraphNode_t *dependencies, const cudaGraphEdgeData *,
                             size_t count, cudaGraphNodeParams *params)
{
    fiber_node node = {};

    if (!graph || params->conditional.size != 1) return cudaErrorInvalidValue;
    for (fiber_condition &c : graph->conditions) {
        if ((uintptr_t)c.value.get() != params->conditional.handle) continue;
        if (c.nodes++ == 0) node.condition = c.value;
    }
    if (!node.condition) return cudaErrorInvalidValue; /* another graph's, or another node's */
    for (size_t i = 0; i < count; i++) node.after.push_back(node_of(dependencies[i]));
    node.inner = std::make_shared<fiber_graph>();
    graph->nodes.push_back(node);
    graph->bodies.assign(1, node.inner.get());
    params->conditional.phGraph_out = graph->bodies.data();
    *out = handle_of(graph->nodes.size() - 1);
    return cudaSuccess;
}

cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream, cudaGraphNode_t *dependencies,
                                                const cudaGraphEdgeData *, size_t count, unsigned)
{
    recording *r = capture_of(stream);

    if (!r || r->invalid) return cudaErrorInvalidValue;
    r->streams[stream].clear();
    for (size_t i = 0; i < count; i++) r->streams[stream].push_back(node_of(dependencies[i]));
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph,
                                          const cudaGraphNode_t *, const cudaGraphEdgeData *,
                                          size_t, cudaStreamCaptureMode)
{
    if (!graph || capture_of(stream)) return cudaErrorInvalidValue;
    return begin(stream, graph, true);
}

/* A value stays until it is set, as there is no default. */
void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned value)
{
    *(unsigned *)(uintptr_t)handle = value;
}

/* All conditions have one node, here and in bodies. */
static bool is_whole(const fiber_graph *graph)
{
    for (const fiber_condition &c : graph->conditions) {
        if (c.nodes != 1) return false;
    }
    for (const fiber_node &node : graph->nodes) {
        if (node.inner && !is_whole(node.inner.get())) return false;
    }
    return true;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    std::lock_guard<std::mutex> lock(turn);

    if (!is_whole(graph)) return cudaErrorInvalidValue;
    *out = new fiber_graph(*graph);
    fiber_gpu.graphs++;
    return cudaSuccess;
}

static void run_nodes(fiber_graph *graph, std::unique_lock<std::mutex> &lock);

static void run_node(fiber_node &node, std::unique_lock<std::mutex> &lock)
{
    if (begun.node == &node) {
        begun.node = nullptr;
        end_early(node.blocks, node.threads, node.body, node.user.data());
    } else if (node.inner) {
        if (!*node.condition) return;
        fiber_gpu.bodies++;
        run_nodes(node.inner.get(), lock);
    } else if (node.blocks == 0) { /* it may wait for another thread's */
        lock.unlock();
        node.body(node.user.data());
        lock.lock();
    } else {
        fiber_run(node.blocks, node.threads, node.together, node.body, node.user.data());
    }
}

/* Sometimes, of the kernels that may. */
static void begin_early(fiber_node &node)
{
    if (!node.early || begun.node || !toss()) return;
    fiber_gpu.early++;
    begin_early(&node, node.blocks, node.threads, node.body, node.user.data());
}

/* In any order that the nodes' edges allow. */
static void run_nodes(fiber_graph *graph, std::unique_lock<std::mutex> &lock)
{
    static uint32_t dice = 1;
    std::vector<size_t> left(graph->nodes.size()), ready;
    std::vector<std::vector<size_t>> behind(graph->nodes.size());

    for (fiber_condition &c : graph->conditions) *c.value = c.initial;
    for (size_t i = 0; i < graph->nodes.size(); i++) {
        left[i] = graph->nodes[i].after.size();
        if (left[i] == 0) ready.push_back(i);
        for (size_t before : graph->nodes[i].after) behind[before].push_back(i);
    }
    while (!ready.empty() && !stuck) {
        dice = dice * 1664525u + 1013904223u;

        size_t which = (dice >> 16) % ready.size();

        for (size_t i = 0; i < ready.size(); i++) { /* what has begun ends next */
            if (&graph->nodes[ready[i]] == begun.node) which = i;
        }

        const size_t node = ready[which];

        ready.erase(ready.begin() + (ptrdiff_t)which);
        if (&graph->nodes[node] != begun.node) {
            for (size_t i : behind[node]) begin_early(graph->nodes[i]);
        }
        run_node(graph->nodes[node], lock);
        for (size_t i : behind[node]) {
            if (--left[i] == 0) ready.push_back(i);
        }
    }
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    if (stuck) return cudaSuccess;
    if (capture_of(stream)) return fiber_refuse(stream);

    std::unique_lock<std::mutex> lock(turn);
    cudaError_t error = may_launch();

    if (error != cudaSuccess) return error;
    fiber_gpu.replays++;
    if (fiber_gpu.late) {
        return send(stream, [graph] {
            std::unique_lock<std::mutex> later(turn);

            run_nodes(graph, later);
        });
    }
    run_nodes(graph, lock);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    if (!fiber_captures()) fiber_catch_up(); /* one that is under way ends */
    std::lock_guard<std::mutex> lock(turn);

    delete graph;
    fiber_gpu.graphs--;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    return cudaGraphDestroy(graph);
}

/* ---- events ---------------------------------------------------------------------------------- */

struct CUevent_st {
    uint64_t ns;         /* when it was recorded */
    size_t after;        /* serial of what its stream had been sent last */
    const recording *in; /* last recorded in a capture; NULL: not */
    frontier behind;     /* ... behind these nodes */
};

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned)
{
    *out = new CUevent_st{};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    recording *r = capture_of(stream);

    if (r && r->invalid) return cudaErrorStreamCaptureInvalidated;
    event->in = r;
    if (r) event->behind = r->streams[stream];
    if (!r && fiber_gpu.late) event->after = last[stream];
    event->ns = fiber_now_ns();
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    *ms = (float)(end->ns - begin->ns) * 1e-6f;
    return cudaSuccess;
}

/* An event of a capture takes the stream along into it; one of no capture cannot be waited for
 * there. */
static cudaError_t wait_in_capture(recording *to, cudaStream_t stream, cudaEvent_t event)
{
    recording *from = nullptr;

    for (auto &r : recorded) {
        if (r.get() == event->in) from = r.get();
    }
    if (!from && to) return invalidate(to, cudaErrorStreamCaptureIsolation);
    if (!from) return cudaErrorInvalidValue; /* that capture has ended */
    if (to && to != from) {
        from->invalid = true;
        return invalidate(to, cudaErrorStreamCaptureMerge);
    }
    for (size_t node : event->behind) from->streams[stream].push_back(node);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    recording *to = capture_of(stream);

    if (to || event->in) return wait_in_capture(to, stream, event);
    if (!fiber_gpu.late || !undone.count(event->after)) return cudaSuccess;
    return send(
        stream, [] {}, event->after);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    fiber_gpu.waits++;
    if (event->in) return cudaErrorCapturedEvent;
    if (stuck) fiber_must_not_wait();
    catch_up_to(event->after);
    if ((int)left > fiber_gpu.most_left) fiber_gpu.most_left = (int)left;
    return cudaSuccess;
}

/* ---- clock ----------------------------------------------------------------------------------- */

uint64_t fiber_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
