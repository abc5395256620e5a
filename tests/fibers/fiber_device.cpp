/* SPDX-License-Identifier: Apache-2.0 */
/* fiber_device.cpp - the devices: what they are, their memory, their stacks and their clock. */
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "fibers.h" /* last: see there */

#ifndef FIBER_CODE
#define FIBER_CODE 90
#endif

static int from_environment(const char *name, int otherwise)
{
    const char *text = getenv(name);

    return text ? atoi(text) : otherwise;
}

/* What others take of the devices, of which so much is to be free. */
static void leave_free(fiber_device *d, const char *bytes)
{
    for (int i = 0; bytes && i < FIBER_DEVICES; i++) {
        d->others[i] = d->memory - strtoull(bytes, NULL, 10);
        bytes = strchr(bytes, ',');
        if (bytes) bytes++;
    }
}

/* One device of 1 TiB that does not fail. */
static fiber_device whole_device(void)
{
    fiber_device d = {};

    d.devices = from_environment("FIBERS_DEVICES", 1);
    d.first = from_environment("FIBERS_FIRST", 0);
    d.driver = 13000;
    d.no_condition = from_environment("FIBERS_NO_CONDITION", 0) != 0;
    d.no_capture = from_environment("FIBERS_NO_CAPTURE", 0) != 0;
    d.memory = (size_t)1 << 40;
    leave_free(&d, getenv("FIBERS_FREE"));
    d.fails_after = -1;
    d.only = -1;
    d.stack = 1024;
    d.needs = 872;
    d.major = 9;
    d.code = FIBER_CODE;
    return d;
}

fiber_device fiber_gpu = whole_device();
fiber_cublas fiber_library = {130100, 4, 0, 0, -1, false};

std::mutex fiber_turn;
static thread_local int current_device;
static std::map<const char *, size_t> pinned; /* memory of the host that the device may use */

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= fiber_gpu.devices || device >= FIBER_DEVICES) {
        return cudaErrorInvalidDevice;
    }
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current_device;
    return cudaSuccess;
}

bool fiber_limited(bool limit)
{
    return limit && (fiber_gpu.only < 0 || fiber_gpu.only == current_device);
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = fiber_gpu.count_error == cudaSuccess ? fiber_gpu.devices : 0;
    return fiber_gpu.count_error;
}

/* Of the thread's device. */
static size_t free_memory(void)
{
    const size_t used = fiber_gpu.used_on[current_device] + fiber_gpu.others[current_device];

    return used < fiber_gpu.memory ? fiber_gpu.memory - used : 0;
}

static void take_memory(int device, size_t bytes)
{
    fiber_gpu.used += bytes;
    fiber_gpu.used_on[device] += bytes;
    if (fiber_gpu.used > fiber_gpu.most_used) fiber_gpu.most_used = fiber_gpu.used;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = free_memory();
    *total = fiber_gpu.memory;
    return cudaSuccess;
}

cudaError_t fiber_may_launch(void)
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

int fiber_code(void)
{
    return fiber_gpu.code < 10 * fiber_gpu.major ? fiber_gpu.code : 10 * fiber_gpu.major;
}

/* ---- stacks ---------------------------------------------------------------------------------- */

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *out, const void *kernel)
{
    if (fiber_gpu.code_error != cudaSuccess) return fiber_gpu.code_error;
    fiber_load(kernel);
    out->localSizeBytes = fiber_gpu.needs;
    out->ptxVersion = fiber_code();
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
    std::lock_guard<std::mutex> lock(fiber_turn);
    const size_t more = value > fiber_gpu.stack ? (value - fiber_gpu.stack) * FIBER_RESIDENT : 0;

    if (more > free_memory()) return cudaErrorMemoryAllocation;
    take_memory(current_device, more);
    fiber_gpu.stack = value;
    return cudaSuccess;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* What the host cannot touch while the device is at rest. */
static std::map<void *, size_t> guarded;
static int at_work;

static void let_touch(void *memory, size_t bytes, bool touched)
{
    if (mprotect(memory, bytes, touched ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) abort();
}

static void let_touch_all(bool touched)
{
    for (auto &g : guarded) let_touch(g.first, g.second, touched);
}

void fiber_at_work(void)
{
    if (fiber_gpu.guarded && at_work++ == 0) let_touch_all(true);
}

void fiber_at_rest(void)
{
    if (fiber_gpu.guarded && --at_work == 0) let_touch_all(false);
}

static void *guarded_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED) return NULL;
    memset(memory, 0xff, bytes); /* NaN */
    let_touch(memory, bytes, false);
    guarded[memory] = bytes;
    fiber_memory_taken(memory, bytes);
    return memory;
}

/* Is there memory at this address that a device has not? */
static bool is_of_host(uintptr_t at)
{
    static std::set<uintptr_t> harmless; /* found so before */
    auto next = guarded.upper_bound((void *)at);
    unsigned long from, to, inode;
    char line[512], rights[8];
    bool found = false;
    FILE *maps;

    if (next != guarded.begin() &&
        at < (uintptr_t)std::prev(next)->first + std::prev(next)->second) {
        return false;
    }
    if (at < 4096 || harmless.count(at)) return false;
    maps = fopen("/proc/self/maps", "r");
    while (maps && !found && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx %7s %*s %*s %lu", &from, &to, rights, &inode) != 4) continue;
        found = from <= at && at < to && rights[1] == 'w' && inode == 0;
    }
    if (maps) (void)fclose(maps);
    if (!found) harmless.insert(at);
    return found;
}

void fiber_check_arguments(const void *arguments, size_t bytes)
{
    if (!fiber_gpu.guarded) return;
    for (size_t i = 0; i + sizeof(uintptr_t) <= bytes; i += sizeof(uintptr_t)) {
        uintptr_t word;

        memcpy(&word, (const char *)arguments + i, sizeof word);
        /* behind a number of 32 bits a struct may have padding, with half an address in it */
        if ((uint32_t)word < 1u << 24) continue;
        if (!is_of_host(word)) continue;
        fprintf(stderr, "fibers: a kernel is given an address of the host: %#lx, word %zu of %zu\n",
                (unsigned long)word, i / sizeof word, bytes / sizeof word);
        abort();
    }
}

/* In front of every allocation. */
typedef struct {
    size_t bytes;
    int device;
} header;

enum { HEADER = 256 };

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    const header taken = {bytes, current_device};
    char *memory = NULL;

    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    std::lock_guard<std::mutex> lock(fiber_turn);

    *out = NULL;
    if (bytes > free_memory()) return cudaErrorMemoryAllocation;
    if (fiber_gpu.guarded && bytes > 0) {
        *out = guarded_memory(bytes);
        return *out ? cudaSuccess : cudaErrorMemoryAllocation;
    }
    memory = (char *)aligned_alloc(HEADER, (bytes + 2 * HEADER - 1) / HEADER * HEADER);
    if (!memory) return cudaErrorMemoryAllocation;
    memcpy(memory, &taken, sizeof taken);
    memset(memory + HEADER, 0xff, bytes); /* NaN */
    take_memory(current_device, bytes);
    fiber_gpu.allocations++;
    *out = memory + HEADER;
    fiber_memory_taken(*out, bytes);
    return cudaSuccess;
}

/* Freed while the device was at work: a driver may wait until it is idle, and need not. */
static std::map<const char *, size_t> gone;

void fiber_must_be_there(const void *at)
{
    auto next = gone.upper_bound((const char *)at);

    if (next == gone.begin()) return;
    --next;
    if ((const char *)at >= next->first + next->second) return;
    fprintf(stderr, "fibers: memory was freed before the device had done with it\n");
    abort();
}

void fiber_check_words(const void *words, size_t bytes)
{
    for (size_t i = 0; !gone.empty() && i + sizeof(void *) <= bytes; i += sizeof(void *)) {
        const void *at;

        memcpy(&at, (const char *)words + i, sizeof at);
        fiber_must_be_there(at);
    }
}

/* When all is done that was sent so far. */
static void free_later(const char *memory, size_t bytes, void (*let_go)(const char *memory))
{
    if (fiber_is_busy()) gone[memory] = bytes;
    fiber_at_end([=] {
        gone.erase(memory);
        let_go(memory);
    });
}

static void free_memory_of(const char *memory)
{
    fiber_memory_freed(memory);
    free((char *)(uintptr_t)memory - HEADER);
}

static void free_pinned(const char *memory)
{
    free((char *)(uintptr_t)memory);
}

cudaError_t cudaFree(void *memory)
{
    header taken;

    if (!memory) return cudaSuccess;
    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (fiber_is_stuck()) fiber_must_not_wait();

    std::lock_guard<std::mutex> lock(fiber_turn);

    if (guarded.count(memory)) {
        fiber_memory_freed(memory);
        (void)munmap(memory, guarded[memory]);
        guarded.erase(memory);
        return cudaSuccess;
    }
    memcpy(&taken, (char *)memory - HEADER, sizeof taken);
    fiber_gpu.used -= taken.bytes;
    fiber_gpu.used_on[taken.device] -= taken.bytes;
    fiber_gpu.allocations--;
    free_later((const char *)memory, taken.bytes, free_memory_of);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes)
{
    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    *out = malloc(bytes);
    if (!*out) return cudaErrorMemoryAllocation;

    std::lock_guard<std::mutex> lock(fiber_turn);

    pinned[(const char *)*out] = bytes;
    fiber_gpu.pinned++;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory)
{
    if (!memory) return cudaSuccess;
    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;

    std::lock_guard<std::mutex> lock(fiber_turn);
    const size_t bytes = pinned[(const char *)memory];

    pinned.erase((const char *)memory);
    fiber_gpu.pinned--;
    free_later((const char *)memory, bytes, free_pinned);
    return cudaSuccess;
}

bool fiber_is_pinned(const void *at)
{
    auto next = pinned.upper_bound((const char *)at);

    if (next == pinned.begin()) return false;
    --next;
    return (const char *)at < next->first + next->second;
}

/* ---- clock ----------------------------------------------------------------------------------- */

uint64_t fiber_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
