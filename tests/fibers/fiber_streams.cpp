/* SPDX-License-Identifier: Apache-2.0 */
/* fiber_streams.cpp - streams and events: what is late is done when somebody waits for it, in an
 * order that they allow; what is stuck never is. */
#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <vector>

#include "fibers.h" /* last: see there */

/* ---- stuck ----------------------------------------------------------------------------------- */

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

static thread_local bool meeting;

void fiber_meet(bool meets)
{
    meeting = meets;
}

bool fiber_meets(void)
{
    return meeting;
}

static std::map<cudaStream_t, int> devices;
static std::mutex of_devices;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    std::lock_guard<std::mutex> lock(of_devices);

    *out = (cudaStream_t)(uintptr_t)(devices.size() + 1);
    (void)cudaGetDevice(&devices[*out]);
    return cudaSuccess;
}

int fiber_device_of(cudaStream_t stream)
{
    std::lock_guard<std::mutex> lock(of_devices);
    int device;

    (void)cudaGetDevice(&device);
    return stream ? devices.at(stream) : device;
}

cudaError_t fiber_failed(cudaError_t error)
{
    if (error != cudaSuccess) last_error = error;
    return error;
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

/* ---- late ------------------------------------------------------------------------------------ */

/* What was sent: a stream's in the order it was sent in. */
struct fiber_work {
    size_t serial;
    size_t after; /* serial of what must have been done, of another stream; 0: nothing */
    std::function<bool()> step;
};

static std::map<cudaStream_t, std::deque<fiber_work>> sent;
static std::map<cudaStream_t, size_t> last; /* serial of what a stream was sent last */
static std::set<size_t> undone;
static std::vector<std::function<void()>> at_end; /* when nothing is left */
static size_t serials, left;
static thread_local cudaStream_t launches_on;

void fiber_on(cudaStream_t stream)
{
    launches_on = stream;
}

cudaStream_t fiber_launches_on(void)
{
    return launches_on;
}

cudaError_t fiber_send_steps(cudaStream_t stream, std::function<bool()> step, size_t after)
{
    sent[stream].push_back({++serials, after, std::move(step)});
    last[stream] = serials;
    undone.insert(serials);
    left++;
    return cudaSuccess;
}

cudaError_t fiber_send(cudaStream_t stream, std::function<void()> work, size_t after)
{
    return fiber_send_steps(
        stream,
        [work]() {
            work();
            return true;
        },
        after);
}

void fiber_at_end(std::function<void()> then)
{
    if (left == 0) return then();
    at_end.push_back(std::move(then));
}

bool fiber_is_busy(void)
{
    return left > 0;
}

/* Do the next step of any stream that need not wait: mostly of the last one, so that streams come
 * far ahead of each other. */
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

    if (!queue.front().step()) return;
    undone.erase(queue.front().serial);
    queue.pop_front();
    if (--left > 0) return;
    for (const auto &then : at_end) then();
    at_end.clear();
}

static void catch_up_to(size_t serial)
{
    while (undone.count(serial)) do_one();
}

void fiber_catch_up(void)
{
    while (left > 0) do_one();
}

void fiber_catch_up_on(cudaStream_t stream)
{
    if (left > 0) catch_up_to(last[stream]);
}

/* Who asks again and again sees it go on. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (!stuck && left > 0 && undone.count(last[stream])) do_one();
    if (stuck || (left > 0 && undone.count(last[stream]))) return fiber_failed(cudaErrorNotReady);
    meeting = false;
    return cudaSuccess;
}

static void move_bytes(void *to, const void *from, size_t bytes)
{
    fiber_must_be_there(to);
    fiber_must_be_there(from);
    fiber_at_work();
    memcpy(to, from, bytes);
    fiber_memory_written(to, bytes);
    fiber_at_rest();
}

/* Memory that is not pinned is read at once, and written before the call returns, unless the device
 * does either by itself. */
cudaError_t fiber_copy_later(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                             cudaStream_t stream)
{
    if (kind == cudaMemcpyHostToDevice && !fiber_is_pinned(from) && !fiber_gpu.reads_host) {
        std::vector<char> copy((const char *)from, (const char *)from + bytes);

        return fiber_send(stream, [=] { move_bytes(to, copy.data(), copy.size()); });
    }
    if (kind == cudaMemcpyDeviceToHost && !fiber_is_pinned(to) && !fiber_gpu.reads_host) {
        fiber_catch_up_on(stream);
        move_bytes(to, from, bytes);
        return cudaSuccess;
    }
    return fiber_send(stream, [=] { move_bytes(to, from, bytes); });
}

cudaError_t fiber_set_later(void *at, int value, size_t bytes, cudaStream_t stream)
{
    return fiber_send(stream, [=] {
        fiber_must_be_there(at);
        fiber_at_work();
        memset(at, value, bytes);
        fiber_memory_written(at, bytes);
        fiber_at_rest();
    });
}

/* ---- events ---------------------------------------------------------------------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned)
{
    *out = new CUevent_st{};
    return cudaGetDevice(&(*out)->device);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    fiber_recording *r = fiber_capture_of(stream);

    if (event->device != fiber_device_of(stream)) return cudaErrorInvalidResourceHandle;
    if (r && r->invalid) return cudaErrorStreamCaptureInvalidated;
    event->in = r ? r->id : 0;
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

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    fiber_recording *to = fiber_capture_of(stream);

    if (to || event->in) return fiber_wait_in_capture(to, stream, event);
    if (!fiber_gpu.late || !undone.count(event->after)) return cudaSuccess;
    return fiber_send(
        stream, [] {}, event->after);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    fiber_gpu.waits++;
    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (event->in) return cudaErrorCapturedEvent;
    if (stuck) fiber_must_not_wait();
    catch_up_to(event->after);
    if ((int)left > fiber_gpu.most_left) fiber_gpu.most_left = (int)left;
    return cudaSuccess;
}
