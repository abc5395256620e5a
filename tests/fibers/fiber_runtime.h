/* SPDX-License-Identifier: Apache-2.0 */
/* fiber_runtime.h - the part of the CUDA runtime that the engine calls, over host memory.
 *
 * Everything happens at once: streams are names.  Or, where a test wants that (fiber_gpu.late), as
 * late as it may: what was sent is done, in an order that streams and events allow, when the host
 * waits for it; of graphs on several streams node by node.  Fresh memory holds garbage.  Threads
 * take turns with kernels.
 *
 * What the toolkit leaves open is refused: nothing to copy or to set, memory that is freed while
 * the device is about to touch it. */
#ifndef SPC_TESTS_FIBER_RUNTIME_H
#define SPC_TESTS_FIBER_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorNotReady = 600,
    cudaErrorIllegalAddress = 700,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureMerge = 902,
    cudaErrorStreamCaptureUnmatched = 903,
    cudaErrorStreamCaptureUnjoined = 904,
    cudaErrorStreamCaptureIsolation = 905,
    cudaErrorCapturedEvent = 907,
    cudaErrorUnknown = 999
} cudaError_t;

typedef enum {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3
} cudaMemcpyKind;

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;

enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };

struct cudaDeviceProp {
    char name[256];
    struct {
        char bytes[16];
    } uuid;
    int major, minor;
};

enum { FIBER_DEVICES = 16 };

/* The devices.  Tests change it to see what becomes of one that is not there, too old, too small or
 * broken; for programs the first two come from the environment, FIBERS_DEVICES and FIBERS_FIRST,
 * and so does what is free on each, FIBERS_FREE: bytes, with commas between them. */
typedef struct {
    int devices;             /* how many of the machine's a process sees ... */
    int first;               /* ... from this one on */
    cudaError_t count_error; /* of cudaGetDeviceCount */
    cudaError_t code_error;  /* cudaSuccess: this build has code for it ... */
    int code;                /* ... written for this compute capability, 90: 9.0, or its own */
    int driver;              /* 13000: 13.0 */
    size_t memory, used;     /* bytes that each has; bytes taken, of all together ... */
    size_t used_on[FIBER_DEVICES];
    size_t others[FIBER_DEVICES]; /* ... and by other processes */
    size_t most_used;
    int allocations;      /* not freed yet */
    int pinned;           /* the same on the host */
    int graphs;           /* the same */
    int launches;         /* so far; of a graph: one */
    int replays;          /* of them, graphs */
    int bodies;           /* of conditional nodes that ran */
    int early;            /* kernels of graphs that began before the one in front of them */
    int major;            /* of compute capability; from 9 on kernels may begin early */
    bool no_early;        /* graphs cannot hold kernels that do, though it is 9 */
    bool no_early_inside; /* bodies of conditional nodes cannot, as it shows when they are to run */
    bool no_early_body;   /* the same, as it shows when they are recorded */
    int waits;            /* of the host for the device */
    bool no_upload;       /* graphs find no memory on the device */
    int fails_at_upload;  /* so does this one of them alone; 0: none */
    int only;             /* graphs have these limits on this device alone; < 0: on all */
    bool guarded;         /* the host cannot touch what is allocated from now on; of one thread
                             only, without cuBLASLt and NCCL */
    bool no_capture;      /* graphs cannot be recorded */
    bool no_condition;    /* graphs cannot hold conditional nodes */
    bool no_body;         /* nothing can be recorded into their bodies */
    bool no_bodies;       /* graphs that have some can be recorded, and not be made to run */
    bool no_record;       /* nothing can be recorded at all, as it shows when it is tried */
    int fails_after;      /* launches that succeed; < 0: all do */
    bool reads_host;      /* it reads memory of the host that is not pinned, when it comes to it */
    bool late;            /* nothing is done before somebody waits; of one thread only */
    int most_left;        /* late: what was sent behind an event that was waited for, at most */
    int together;         /* blocks of the largest launch whose blocks run together */
    int room;             /* for so many of them at a time, others begin when they have ended; 0:
                             for all */
    size_t stack;         /* bytes of every thread's that are there ... */
    size_t needs;         /* ... and that every kernel needs */
    int growths;          /* launches that had to take memory for stacks */
} fiber_device;

extern fiber_device fiber_gpu;

/* What stands in for cuBLASLt (cublasLt.h). */
typedef struct {
    int version;    /* 130100: 13.1.0 */
    int algorithms; /* it has; 0: it cannot multiply at all */
    int products;   /* so far, recorded ones once */
    int columns;    /* of the last of them */
    int fails_at;   /* the product that fails; < 0: none */
    bool stuck;     /* it makes no handle */
} fiber_cublas;

extern fiber_cublas fiber_library;

/* The stream of the launches that follow. */
void fiber_on(cudaStream_t stream);
/* Do what was sent so far: each stream in its order, of several streams whichever dice say among
 * those that need not wait for an event. */
void fiber_catch_up(void);
/* The same, up to what this stream was sent last. */
void fiber_catch_up_on(cudaStream_t stream);
/* The device is at work, between the two: its memory can be touched. */
void fiber_at_work(void);
void fiber_at_rest(void);
/* While everything is late: send a copy, a memset. */
cudaError_t fiber_copy_later(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                             cudaStream_t stream);
cudaError_t fiber_set_later(void *at, int value, size_t bytes, cudaStream_t stream);

cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);

/* ---- graphs: kernels with their arguments, behind what streams and events say ---- */

typedef struct fiber_graph *cudaGraph_t, *cudaGraphExec_t;
typedef enum { cudaStreamCaptureModeThreadLocal = 1 } cudaStreamCaptureMode;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);

/* Conditional nodes: a body that runs where a kernel has said so.  The names and shapes of the
 * toolkit's, as far as they are used. */
typedef struct fiber_graph_node *cudaGraphNode_t;
typedef struct {
    int unused;
} cudaGraphEdgeData;
typedef unsigned long long cudaGraphConditionalHandle;
enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone = 0,
    cudaStreamCaptureStatusActive = 1,
    cudaStreamCaptureStatusInvalidated = 2
};
enum { cudaGraphCondAssignDefault = 1, cudaStreamSetCaptureDependencies = 1 };
typedef enum { cudaGraphNodeTypeConditional = 13 } cudaGraphNodeType;
typedef enum { cudaGraphCondTypeIf = 0 } cudaGraphConditionalNodeType;

typedef struct cudaGraphNodeParams {
    cudaGraphNodeType type;
    struct {
        cudaGraphConditionalHandle handle;
        cudaGraphConditionalNodeType type;
        unsigned size;
        cudaGraph_t *phGraph_out;
    } conditional;
} cudaGraphNodeParams;

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *id, cudaGraph_t *graph,
                                     const cudaGraphNode_t **dependencies,
                                     const cudaGraphEdgeData **edges, size_t *count);
cudaError_t cudaGraphConditionalHandleCreate(cudaGraphConditionalHandle *out, cudaGraph_t graph,
                                             unsigned value, unsigned flags);
cudaError_t cudaGraphCreate(cudaGraph_t *out, unsigned flags);
cudaError_t cudaGraphAddNode(cudaGraphNode_t *out, cudaGraph_t graph,
                             const cudaGraphNode_t *dependencies, const cudaGraphEdgeData *edges,
                             size_t count, cudaGraphNodeParams *params);
cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream, cudaGraphNode_t *dependencies,
                                                const cudaGraphEdgeData *edges, size_t count,
                                                unsigned flags);
cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t stream, cudaGraph_t graph,
                                          const cudaGraphNode_t *dependencies,
                                          const cudaGraphEdgeData *edges, size_t count,
                                          cudaStreamCaptureMode mode);
/* Of a kernel. */
void cudaGraphSetConditional(cudaGraphConditionalHandle handle, unsigned value);

/* Nanoseconds of a clock. */
uint64_t fiber_now_ns(void);

cudaError_t cudaMallocHost(void **out, size_t bytes);
cudaError_t cudaFreeHost(void *memory);

/* Does this thread record a graph?  Then nothing but kernels may come. */
bool fiber_captures(void);
/* Is it what comes on this stream that is recorded? */
bool fiber_captures_on(cudaStream_t stream);
/* Calls that a thread must not make while it records (what takes memory, waits, or asks how far a
 * stream is); that nobody may make while anybody does; that a stream does not take while it is
 * recorded.  cudaSuccess, or what it was recorded is lost. */
cudaError_t fiber_unsafe(void);
cudaError_t fiber_unsafe_anywhere(void);
cudaError_t fiber_refuse(cudaStream_t stream);
/* A kernel is loaded at the latest when it is launched, which is too late while it is recorded. */
void fiber_load(const void *kernel);

/* For stand-ins of libraries: note down a call, which is not a kernel and takes no turn, while a
 * graph is recorded; false: none is. */
bool fiber_note_call(void (*call)(void *user), const void *user, size_t bytes);
/* The same for what a recorded call holds: let go of when neither the graph under record nor what
 * was made of it is there any more, as the toolkit's user objects are. */
void fiber_hold(void (*let_go)(void *user), void *user);

/* What this thread's stream holds never ends (a kernel waits for another rank) until it is unstuck:
 * what comes behind is not run, and to wait for it is the end of the test, unless another thread
 * unsticks it soon. */
void fiber_stick(bool stuck);
bool fiber_is_stuck(void);
void fiber_must_not_wait(void);
/* This thread, for another one to unstick. */
void *fiber_self(void);
void fiber_unstick(void *self);
/* The same, but it hangs by itself: nothing gets it going again. */
void fiber_hang(void);
bool fiber_hangs(void *self);
/* What this thread's stream holds waits for another rank, which may come: until somebody has waited
 * for it nothing may be loaded, for that waits for the device while it may keep the other rank,
 * a thread of this process, from coming. */
void fiber_meet(bool meets);
bool fiber_meets(void);

/* What is not a kernel has written to the device's memory (fiber_races.cpp). */
void fiber_memory_written(const void *at, size_t bytes);
/* A test has taken memory for the device otherwise than by asking for it (tests/ptx). */
void fiber_memory_lent(const void *at, size_t bytes);

cudaError_t cudaGraphUpload(cudaGraphExec_t graph, cudaStream_t stream);

static inline cudaError_t cudaMemset(void *at, int value, size_t bytes)
{
    fiber_catch_up();
    fiber_at_work();
    if (!fiber_is_stuck()) memset(at, value, bytes);
    fiber_memory_written(at, bytes);
    fiber_at_rest();
    return cudaSuccess;
}

static inline cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream)
{
    if (fiber_refuse(stream) != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (bytes == 0) return cudaErrorInvalidValue;
    if (fiber_gpu.late) return fiber_set_later(at, value, bytes, stream);
    return cudaMemset(at, value, bytes);
}

cudaError_t cudaGetDevice(int *device);

/* One multiprocessor. */
enum { FIBER_RESIDENT = 2048 };
enum cudaDeviceAttr {
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrMaxThreadsPerMultiProcessor = 39,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrPageableMemoryAccess = 88
};

static inline cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute,
                                                 int device)
{
    (void)device;
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 1; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 228 << 10; break;
    case cudaDevAttrPageableMemoryAccess: *value = (int)fiber_gpu.reads_host; break;
    default: *value = (int)FIBER_RESIDENT;
    }
    return cudaSuccess;
}

/* Stacks are memory of the device for all its threads, taken when the limit rises.  As the toolkit
 * has it, up to what is used: objects that nvcc makes ask, too (tests/ptx). */
struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, ptxVersion;
};
enum cudaLimit { cudaLimitStackSize = 0 };

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *out, const void *kernel);
cudaError_t cudaDeviceGetLimit(size_t *value, enum cudaLimit limit);
cudaError_t cudaDeviceSetLimit(enum cudaLimit limit, size_t value);

static inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes,
                                          cudaMemcpyKind kind, cudaStream_t stream)
{
    if (fiber_refuse(stream) != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (bytes == 0) return cudaErrorInvalidValue;
    if (fiber_gpu.late) return fiber_copy_later(to, from, bytes, kind, stream);
    if (fiber_is_stuck() && kind != cudaMemcpyDeviceToDevice) fiber_must_not_wait(); /* pageable */
    fiber_at_work();
    if (!fiber_is_stuck()) memcpy(to, from, bytes);
    fiber_memory_written(to, bytes);
    fiber_at_rest();
    return cudaSuccess;
}

static inline cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from,
                                            size_t from_pitch, size_t width, size_t height,
                                            cudaMemcpyKind kind, cudaStream_t stream)
{
    if (fiber_refuse(stream) != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (width == 0 || height == 0 || to_pitch < width || from_pitch < width)
        return cudaErrorInvalidValue;
    for (size_t i = 0; i < height && fiber_gpu.late; i++) {
        (void)fiber_copy_later((char *)to + i * to_pitch, (const char *)from + i * from_pitch,
                               width, kind, stream);
    }
    if (fiber_gpu.late) return cudaSuccess;
    fiber_at_work();
    for (size_t i = 0; i < height && !fiber_is_stuck(); i++) {
        memcpy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
        fiber_memory_written((char *)to + i * to_pitch, width);
    }
    fiber_at_rest();
    return cudaSuccess;
}

static inline cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    (void)kind;
    fiber_catch_up();
    fiber_at_work();
    memcpy(to, from, bytes);
    fiber_memory_written(to, bytes);
    fiber_at_rest();
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device);

static inline cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device)
{
    (void)snprintf(out->name, sizeof out->name, "fibers");
    memset(&out->uuid, 0, sizeof out->uuid);
    out->uuid.bytes[0] = (char)(fiber_gpu.first + device);
    out->major = fiber_gpu.major;
    out->minor = 0;
    return cudaSuccess;
}

static inline cudaError_t cudaDriverGetVersion(int *version)
{
    *version = fiber_gpu.driver;
    return cudaSuccess;
}

static inline cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);

static inline cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    (void)stream;
    return cudaSuccess;
}

static inline cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    fiber_gpu.waits++;
    if (fiber_unsafe() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (fiber_is_stuck()) fiber_must_not_wait();
    fiber_catch_up_on(stream);
    fiber_meet(false);
    return cudaSuccess;
}

/* An answer of cudaErrorNotReady is kept as the thread's last error, as that of a device is. */
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaGetLastError(void);

/* Ranks meet on the host before they look at each other's events: what was recorded has happened.
 */
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags);
static inline cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    return cudaEventCreateWithFlags(out, 0);
}

/* Of two that were recorded while nothing was late. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);

static inline cudaError_t cudaDeviceSynchronize(void)
{
    if (fiber_unsafe_anywhere() != cudaSuccess) return cudaErrorStreamCaptureUnsupported;
    if (fiber_is_stuck()) fiber_must_not_wait();
    fiber_catch_up();
    return cudaSuccess;
}

static inline const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    default: return "error";
    }
}

#ifdef __cplusplus
}
#endif

#endif
