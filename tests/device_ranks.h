/* SPDX-License-Identifier: Apache-2.0 */
/* device_ranks.h - what every group over device memory must leave, for ranks that are threads. */
#ifndef SPC_TESTS_DEVICE_RANKS_H
#define SPC_TESTS_DEVICE_RANKS_H

#include "host/ranks/comm_device.h"

#include <cuda_runtime_api.h>
#include <string.h>
#include <time.h>

enum { RANKS_ELEMENTS = 700, RANKS_MOST = 8 };

/* A claim inside a thread: what fails is the rank's result. */
#define CLAIM(condition)                                                                    \
    do {                                                                                    \
        if (condition) break;                                                               \
        return spc_error_set(err, SPC_EINTERNAL, "rank %d: not " #condition, (int)c->rank); \
    } while (0)
#define CALL(call)                           \
    do {                                     \
        spc_status called = (call);          \
        if (called != SPC_OK) return called; \
    } while (0)

static inline double ranks_now(void)
{
    struct timespec at;

    (void)clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

/* Values whose sum depends on the order of addition. */
static inline float ranks_value(int32_t rank, int32_t i)
{
    static const float scale[RANKS_MOST] = {1e-3f, 3e4f, -1.7f, -3e4f, 0.3f};

    return scale[rank] * (1.0f + (float)((i * 37 + rank * 11) % 101) / 7.0f);
}

/* To the device and back, behind each other in the stream. */
static inline spc_status ranks_copy(spc_device_comm *c, void *to, const void *from, size_t bytes,
                                    bool back, cudaStream_t stream, spc_error *err)
{
    CLAIM(cudaMemcpyAsync(to, from, bytes, back ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice,
                          stream) == cudaSuccess);
    return back ? c->ops->wait(c, stream, err) : SPC_OK;
}

static inline spc_status ranks_sum(spc_device_comm *c, float *on, cudaStream_t stream,
                                   spc_error *err)
{
    float data[RANKS_ELEMENTS];

    for (size_t count = 1; count <= RANKS_ELEMENTS; count = count * 3 + 4) {
        for (int32_t i = 0; i < (int32_t)count; i++) data[i] = ranks_value(c->rank, i);
        CALL(ranks_copy(c, on, data, sizeof data, false, stream, err));
        CALL(c->ops->all_reduce(c, on, count, stream, err));
        CALL(ranks_copy(c, data, on, sizeof data, true, stream, err));
        for (int32_t i = 0; i < (int32_t)count; i++) {
            float sum = ranks_value(0, i);

            for (int32_t r = 1; r < c->world; r++) sum += ranks_value(r, i);
            CLAIM(memcmp(&sum, &data[i], sizeof sum) == 0);
        }
    }
    return SPC_OK;
}

static inline spc_status ranks_broadcast(spc_device_comm *c, void *on, cudaStream_t stream,
                                         spc_error *err)
{
    char text[64], expected[64];

    for (int32_t root = 0; root < c->world; root++) {
        memset(text, 'a' + c->rank, sizeof text);
        CALL(ranks_copy(c, on, text, sizeof text, false, stream, err));
        CALL(c->ops->broadcast(c, on, 40, root, stream, err));
        CALL(ranks_copy(c, text, on, sizeof text, true, stream, err));
        memset(expected, 'a' + root, 40);
        memset(expected + 40, 'a' + c->rank, 24);
        CLAIM(memcmp(text, expected, sizeof text) == 0);
    }
    return SPC_OK;
}

/* Parts of 7 bytes; of 0, 5, 10 and 15. */
static inline spc_status ranks_gather(spc_device_comm *c, void *on, cudaStream_t stream,
                                      spc_error *err)
{
    char text[64], expected[64];
    size_t begin[RANKS_MOST + 1] = {0};

    for (int32_t equal = 0; equal < 2; equal++) {
        for (int32_t r = 0; r < c->world; r++) {
            size_t bytes = equal ? 7 : (size_t)r * 5;

            memset(expected + begin[r], 'A' + r, bytes);
            begin[r + 1] = begin[r] + bytes;
        }
        memset(text, 'A' + c->rank, sizeof text);
        CALL(ranks_copy(c, on, text, sizeof text, false, stream, err));
        CALL(c->ops->all_gather(c, on, begin, stream, err));
        CALL(ranks_copy(c, text, on, sizeof text, true, stream, err));
        CLAIM(memcmp(text, expected, begin[c->world]) == 0);
        CLAIM(text[begin[c->world]] == 'A' + c->rank);
    }
    return SPC_OK;
}

/* A word along the ranks. */
static inline spc_status ranks_pass(spc_device_comm *c, void *on, cudaStream_t stream,
                                    spc_error *err)
{
    char text[64];

    for (int32_t r = 1; r < c->world; r++) {
        memset(text, 'a' + c->rank, sizeof text);
        CALL(ranks_copy(c, on, text, sizeof text, false, stream, err));
        if (c->rank == r - 1) CALL(c->ops->send(c, on, 9, r, stream, err));
        if (c->rank == r) CALL(c->ops->recv(c, on, 9, r - 1, stream, err));
        CALL(ranks_copy(c, text, on, sizeof text, true, stream, err));
        if (c->rank != r) continue;
        CLAIM(text[0] == 'a' + r - 1 && text[8] == 'a' + r - 1 && text[9] == 'a' + r);
    }
    return SPC_OK;
}

static inline spc_status ranks_all_calls(spc_device_comm *c, void *on, cudaStream_t stream,
                                         spc_error *err)
{
    CALL(ranks_sum(c, on, stream, err));
    CALL(ranks_broadcast(c, on, stream, err));
    CALL(ranks_gather(c, on, stream, err));
    return ranks_pass(c, on, stream, err);
}

/* Every call, over device memory and a stream of this rank's own. */
static inline spc_status ranks_sum_and_move(spc_device_comm *c, spc_error *err)
{
    cudaStream_t stream;
    void *on;
    spc_status status;

    CLAIM(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    CLAIM(cudaMalloc(&on, RANKS_ELEMENTS * sizeof(float)) == cudaSuccess);
    status = ranks_all_calls(c, on, stream, err);
    (void)cudaFree(on);
    (void)cudaStreamDestroy(stream);
    return status;
}

#endif
