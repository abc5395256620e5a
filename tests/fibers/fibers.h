/* SPDX-License-Identifier: Apache-2.0 */
/* fibers.h - what the files that make up the emulator know of each other; what they are to kernels
 * and to the engine is in cuda_runtime_api.h and fiber_runtime.h. */
#ifndef SPC_TESTS_FIBERS_FIBERS_H
#define SPC_TESTS_FIBERS_FIBERS_H

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>
#include <vector>

#include "cuda_runtime_api.h" /* last: it names what compilers know by other names */

/* ---- fibers.cpp: the scheduler -------------------------------------------------------------- */

enum { FIBER_WARP = 32, FIBER_STACK = 256 << 10 };
enum fiber_wait { RUNS, AT_BLOCK, AT_WARP, AT_PREVIOUS, ENDED };

/* A product that a warp makes: the factors' rows and columns k by k, and the sums column by column.
 * The first lane that all others have given theirs makes it for all. */
struct fiber_factors {
    float a[16][16], b[8][16], c[8][16];
    unsigned made; /* which of the warp's products lies in c */
};

/* What a thread has asked to be copied to shared memory, and has not waited for. */
struct fiber_copy {
    void *to;
    const void *from;
    size_t bytes;
    unsigned group;
};

/* Where a fiber, or the scheduler, stays while another goes on.  gcc's own jump saves what it must
 * itself, in a fraction of the time that the C library's takes. */
#ifdef __clang__
#include <setjmp.h>
typedef jmp_buf fiber_place;
#define fiber_stay(place) _setjmp(place)
#define fiber_jump(place) _longjmp(place, 1)
#define FIBER_APART       __attribute__((noinline))
#else
typedef void *fiber_place[5];
#define fiber_stay(place) __builtin_setjmp(place)
#define fiber_jump(place) __builtin_longjmp(place, 1)
#define FIBER_APART       __attribute__((noipa))
#endif

/* What the fibers of a warp wait for, and how many of them for what. */
struct fiber_warp_waits {
    uint8_t of[FIBER_WARP], count[ENDED + 1];
};

struct fiber_view;

/* What every switch and every shuffle touch comes first, and fits a line of a cache. */
struct alignas(64) fiber {
    fiber_place here;      /* where it goes on, once it was entered */
    uint64_t exchanged[2]; /* given to shuffles, by turns */
    unsigned shuffles;
    bool entered;
    bool orders; /* it waits at a barrier that orders memory */

    std::unique_ptr<ucontext_t> context; /* for its first entry */
    std::unique_ptr<char[]> stack;
    int ballot; /* given to __syncthreads_or */
    unsigned products;
    /* of the first lane: of the last two products, for nobody writes one before all have read it */
    std::unique_ptr<fiber_factors[]> factors;
    std::vector<fiber_copy> copies;
    unsigned groups; /* of copies, that are complete */
    /* fiber_races.cpp: barriers so far, of the block and of either kind; the number of this moment;
     * what other blocks have done as this thread knows, knows once it has fenced, and lets others
     * know */
    unsigned epoch, warp_epoch;
    uint32_t moment;
    std::shared_ptr<fiber_view> sees, heard, fenced;
};

/* The fibers of the warp of that which runs now, and which of them that is. */
fiber *fiber_warp(unsigned *lane);
/* Wait for the other lanes of the warp, which orders no memory. */
void fiber_meet_warp(void);
/* The fiber that runs, of the thread that asks; NULL: none does. */
extern __thread fiber *fiber_inside;
/* Throw the dice. */
bool fiber_toss(void);
/* Let some blocks of a kernel come as far as they may before the kernel in front ends; later all of
 * its blocks to their ends.  One kernel at a time is between the two. */
void fiber_begin_early(int blocks, int threads, void (*run)(void *user), void *user);
void fiber_end_early(int blocks, int threads, void (*run)(void *user), void *user);

/* ---- fiber_races.cpp ------------------------------------------------------------------------ */

/* A launch begins; a thread of it; so many have met at a barrier, of their block or their warp. */
void fiber_races_launch(void);
void fiber_races_begin(fiber *self);
void fiber_races_meet(fiber *lanes, size_t count, bool block);
/* Memory of the device comes and goes. */
void fiber_memory_taken(const void *at, size_t bytes);
void fiber_memory_freed(const void *at);
/* The thread that runs touches memory. */
void fiber_touch(const void *at, size_t bytes, bool writes);

/* ---- fiber_device.cpp ----------------------------------------------------------------------- */

/* Of everything here: a thread's kernels run one by one, and so do those of several threads. */
extern std::mutex fiber_turn;

/* Count a launch, unless the device fails. */
cudaError_t fiber_may_launch(void);
/* What the code that runs was written for, as ptxVersion has it. */
int fiber_code(void);
bool fiber_is_pinned(const void *at);
/* What the device comes to is still there; all that words of a kernel's arguments may mean. */
void fiber_must_be_there(const void *at);
void fiber_check_words(const void *words, size_t bytes);
/* Of a kernel; where memory is guarded none may be an address of the host. */
void fiber_check_arguments(const void *arguments, size_t bytes);

/* ---- fiber_streams.cpp ---------------------------------------------------------------------- */

/* Keep an error as the thread's last one, as all calls of a device's do. */
cudaError_t fiber_failed(cudaError_t error);
/* Has the thread's device this limit, where some device has it? */
bool fiber_limited(bool limit);
/* The device of a stream: that of the thread that made it; of none, of the thread that asks. */
int fiber_device_of(cudaStream_t stream);
/* That fiber_on named last. */
cudaStream_t fiber_launches_on(void);
/* While everything is late: one more piece of work for a stream, behind what it was sent before
 * and, where after is not 0, behind the work of that serial number. */
cudaError_t fiber_send(cudaStream_t stream, std::function<void()> work, size_t after = 0);
/* The same for what takes several steps, which those of other streams may come between; the step
 * that ends it says so. */
cudaError_t fiber_send_steps(cudaStream_t stream, std::function<bool()> step, size_t after = 0);
/* When all that was sent so far is done, or now. */
void fiber_at_end(std::function<void()> then);
/* Is anything left to be done? */
bool fiber_is_busy(void);

/* ---- fiber_capture.cpp, fiber_graph.cpp ----------------------------------------------------- */

/* What a kernel says of a condition, once for each time that its graph runs. */
struct fiber_value {
    unsigned now;
    bool set, running; /* whether its graph does */
};

/* A kernel, or a body that runs if its condition says so; what must have run before it. */
struct fiber_node {
    int blocks, threads; /* blocks 0: a call, not a kernel */
    bool together, early;
    void (*body)(void *);
    std::vector<char> user;
    std::shared_ptr<fiber_value> condition;
    std::shared_ptr<fiber_graph> inner;
    std::vector<size_t> after; /* nodes of the same graph */
};

struct fiber_condition {
    std::shared_ptr<fiber_value> value;
    cudaGraphConditionalHandle handle;
    unsigned initial;
    int nodes; /* that ask it */
};

struct fiber_graph {
    std::vector<fiber_node> nodes;
    std::vector<fiber_condition> conditions;
    std::vector<std::shared_ptr<void>> held;
    std::vector<cudaGraph_t> bodies; /* one for each conditional node, as the toolkit gives them */
    bool lost;                       /* a body that was invalid when it ended */
};

typedef std::vector<size_t> fiber_frontier; /* the last nodes of a stream */

/* A capture: the streams that take part, each with what its next node comes behind. */
struct fiber_recording {
    uint64_t id; /* no other capture has it, nor will */
    fiber_graph *graph;
    cudaStream_t origin;
    bool is_body;
    std::map<cudaStream_t, fiber_frontier> streams;
    std::atomic<bool> invalid;
    bool lost_body; /* a body of it was invalid when it ended */
};

struct CUevent_st {
    int device;            /* of the thread that made it */
    uint64_t ns;           /* when it was recorded */
    size_t after;          /* serial of what its stream had been sent last */
    uint64_t in;           /* capture that it was last recorded in; 0: in none */
    fiber_frontier behind; /* ... behind these nodes */
};

/* The capture of this thread that the stream takes part in; NULL: none. */
fiber_recording *fiber_capture_of(cudaStream_t stream);
/* An event of a capture takes the stream along into it; one of no capture cannot be waited for
 * there. */
cudaError_t fiber_wait_in_capture(fiber_recording *to, cudaStream_t stream, cudaEvent_t event);

#endif
