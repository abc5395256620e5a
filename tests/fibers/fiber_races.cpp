/* SPDX-License-Identifier: Apache-2.0 */
/* fiber_races.cpp - finds what a device may do in either order.
 *
 * Kernels that are compiled with -fsanitize=thread call what is here at every access to memory (the
 * compiler's own library of these functions knows nothing of fibers, and is not linked).  Of every
 * byte we keep who wrote it last and which two threads read it last; of every thread, up to which
 * barrier it has come.  Two accesses of which one writes are a race unless something orders them.
 *
 * Within a block: a barrier of it; within a warp __syncwarp too.  (A shuffle or a product of tensor
 * cores brings lanes together, but orders no memory.)
 *
 * Between blocks: one fenced what it did and then changed a word by an atomic operation; the other
 * read that word by one, or fresh, and fenced behind it.  What a thread knows so, all know that it
 * meets at a barrier.  Atomic operations and fresh reads are no race among themselves.
 *
 * Between launches: that one ends before the next begins; kernels that begin early are looked at as
 * if they did not.
 *
 * Nor may a kernel touch what is no memory of the device, nor read of it what nobody wrote. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unordered_map>

#include "fibers.h" /* last: see there */

/* What one thread knows to have ended of the blocks of its launch. */
struct fiber_view {
    struct lane {
        unsigned block, epoch, thread, warp_epoch;
        bool atomic; /* of that thread, atomic operations alone */
    };

    std::vector<unsigned> ended; /* of each block: epochs before this one */
    std::vector<lane> lanes;     /* of an epoch that goes on: a thread, and those it met there */
};

extern "C" char __executable_start, _end; /* of the program */

namespace
{

/* Shared memory is variables of the program, which one block after the other has; constants are
 * there too. */
bool is_shared(const void *at)
{
    return (const char *)at >= &__executable_start && (const char *)at < &_end;
}

/* Where a thread stands between two barriers. */
struct moment {
    unsigned block, epoch, thread, warp_epoch;
};

enum : uint32_t { ATOMIC = 1u << 31 };
enum { PAGE = 4096 };

/* Who touched a byte: numbers of moments, with ATOMIC; those of earlier launches are too small. */
struct touched {
    uint32_t write, read[2];
};

std::vector<moment> moments; /* of this launch; the first has the number `first` */
uint32_t first = 1;
std::unordered_map<uintptr_t, std::unique_ptr<touched[]>> pages;
std::unordered_map<const void *, fiber_view> released; /* by the words of atomic operations */
struct {
    uintptr_t page;
    touched *bytes;
} used[64]; /* of `pages`, those touched last, by the end of their number */

/* Memory of the device, and which of its bytes were written. */
struct allocation {
    const char *at;
    size_t bytes;
    std::unique_ptr<char[]> written;
};

bool looked_at; /* some kernels are compiled so */
std::mutex allocations_turn;
std::map<const char *, allocation> allocations;
const allocation *last_used; /* by a kernel */

/* While it is this thread's turn. */
const allocation *allocation_of(const void *at)
{
    auto next = allocations.upper_bound((const char *)at);

    if (next == allocations.begin()) return nullptr;
    --next;
    return (const char *)at < next->second.at + next->second.bytes ? &next->second : nullptr;
}

touched *bytes_at(uintptr_t at)
{
    const uintptr_t page = at / PAGE;
    auto &last = used[page % (sizeof used / sizeof *used)];

    if (page != last.page || !last.bytes) {
        std::unique_ptr<touched[]> &bytes = pages[page];

        if (!bytes) bytes.reset(new touched[PAGE]());
        last = {page, bytes.get()};
    }
    return last.bytes + at % PAGE;
}

void join(fiber_view *to, const fiber_view &from)
{
    if (to->ended.size() < from.ended.size()) to->ended.resize(from.ended.size());
    for (size_t b = 0; b < from.ended.size(); b++) {
        if (to->ended[b] < from.ended[b]) to->ended[b] = from.ended[b];
    }
    for (const fiber_view::lane &l : from.lanes) {
        bool has = l.block < to->ended.size() && to->ended[l.block] > l.epoch;

        for (const fiber_view::lane &k : to->lanes) {
            has = has || (k.block == l.block && k.epoch == l.epoch && k.thread == l.thread &&
                          k.warp_epoch >= l.warp_epoch && k.atomic <= l.atomic);
        }
        if (!has) to->lanes.push_back(l);
    }
}

void join(std::shared_ptr<fiber_view> *to, const fiber_view &from)
{
    if (!*to) *to = std::make_shared<fiber_view>();
    if (to->use_count() > 1) *to = std::make_shared<fiber_view>(**to);
    join(to->get(), from);
}

bool knows(const fiber_view *view, const moment &m, bool atomic)
{
    if (!view) return false;
    if (m.block < view->ended.size() && view->ended[m.block] > m.epoch) return true;
    for (const fiber_view::lane &l : view->lanes) {
        if (l.block != m.block || l.epoch != m.epoch) continue;
        if (l.thread == m.thread && (atomic || !l.atomic)) return true;
        if (!l.atomic && l.thread / FIBER_WARP == m.thread / FIBER_WARP &&
            l.warp_epoch > m.warp_epoch) {
            return true;
        }
    }
    return false;
}

/* Has this access ended before what the thread does now, as it can know? */
bool ended_before(uint32_t number, const fiber &self, const moment &now, bool shared)
{
    if ((number & ~ATOMIC) < first) return true;
    const moment &then = moments[(number & ~ATOMIC) - first];

    if (then.block != now.block) return shared || knows(self.sees.get(), then, number & ATOMIC);
    if (then.thread == now.thread || then.epoch != now.epoch) return true;
    return then.thread / FIBER_WARP == now.thread / FIBER_WARP && then.warp_epoch != now.warp_epoch;
}

void found(const void *at, const char *does, const char *did, uint32_t number, const moment &now,
           const void *from)
{
    const moment &then = moments[(number & ~ATOMIC) - first];

    fprintf(
        stderr,
        "fibers: race: thread %u of block %u %s at %p what thread %u of block %u %s, and nothing "
        "orders the two (0x%tx)\n",
        now.thread, now.block, does, at, then.thread, then.block, did,
        (const char *)from - &__executable_start);
    abort();
}

uint32_t number_of(fiber *self, unsigned thread)
{
    if (self->moment < first) {
        self->moment = first + (uint32_t)moments.size();
        moments.push_back({blockIdx.x, self->epoch, thread, self->warp_epoch});
    }
    return self->moment;
}

/* Is it there, and was it written? */
void check_memory(const void *at, size_t bytes, bool writes, bool atomic, const void *from)
{
    const allocation *of = last_used;
    const char *wrong = nullptr;

    if (!of || (const char *)at < of->at || (const char *)at >= of->at + of->bytes) {
        std::lock_guard<std::mutex> lock(allocations_turn);

        last_used = of = allocation_of(at);
    }
    if (!of && !fiber_is_pinned(at)) wrong = "which is no memory of the device";
    if (of && (size_t)(of->at + of->bytes - (const char *)at) < bytes) {
        wrong = "of which the end is no memory of the device";
    }
    if (of && !wrong && (!writes || atomic) &&
        memchr(&of->written[(const char *)at - of->at], 0, bytes)) {
        wrong = "which nobody wrote";
    }
    if (of && !wrong && writes) memset(&of->written[(const char *)at - of->at], 1, bytes);
    if (!wrong) return;
    fprintf(stderr, "fibers: thread %u of block %u %s %zu bytes at %p, %s (0x%tx)\n", threadIdx.x,
            blockIdx.x, writes ? "writes" : "reads", bytes, at, wrong,
            (const char *)from - &__executable_start);
    abort();
}

/* An access of the thread that runs. */
struct access {
    const fiber *self;
    uint32_t number; /* with `atomic` */
    moment now;
    bool shared, writes;
    uint32_t atomic;
    const void *from;
};

void touch_byte(touched *t, const char *at, const access &a)
{
    if (t->write != a.number && !(t->write & a.atomic) &&
        !ended_before(t->write, *a.self, a.now, a.shared)) {
        found(at, a.writes ? "writes" : "reads", "wrote", t->write, a.now, a.from);
    }
    for (int r = 0; r < 2 && a.writes; r++) {
        if (t->read[r] & a.atomic || ended_before(t->read[r], *a.self, a.now, a.shared)) continue;
        found(at, "writes", "read", t->read[r], a.now, a.from);
    }
    if (a.writes) {
        t->write = a.number;
    } else if (t->read[0] != a.number) {
        /* of the two, keep another warp's */
        if ((t->read[0] & ~ATOMIC) >= first &&
            moments[(t->read[0] & ~ATOMIC) - first].thread / FIBER_WARP !=
                a.now.thread / FIBER_WARP) {
            t->read[1] = t->read[0];
        }
        t->read[0] = a.number;
    }
}

void touch(const void *at, size_t bytes, bool writes, uint32_t atomic, const void *from)
{
    unsigned thread;
    fiber *const self = looked_at ? fiber_running(&thread) : nullptr;

    if (!self || ((const char *)at >= self->stack.get() &&
                  (const char *)at < self->stack.get() + FIBER_STACK)) {
        return;
    }
    const uint32_t number = number_of(self, thread) | atomic;
    const moment now = moments[(number & ~ATOMIC) - first];
    const bool shared = is_shared(at);

    if (!shared) check_memory(at, bytes, writes, atomic != 0, from);

    touched *t = nullptr, before = {}, after = {};

    for (size_t i = 0; i < bytes; i++) {
        t = t && ((uintptr_t)at + i) % PAGE != 0 ? t + 1 : bytes_at((uintptr_t)at + i);
        if (i > 0 && memcmp(t, &before, sizeof before) == 0) { /* as the byte in front: most */
            *t = after;
            continue;
        }
        before = *t;
        touch_byte(t, (const char *)at + i, {self, number, now, shared, writes, atomic, from});
        after = *t;
    }
}

} // namespace

void fiber_memory_taken(const void *at, size_t bytes)
{
    if (!looked_at || bytes == 0) return;
    std::lock_guard<std::mutex> lock(allocations_turn);

    allocations[(const char *)at] = {(const char *)at, bytes,
                                     std::unique_ptr<char[]>(new char[bytes]())};
}

void fiber_memory_freed(const void *at)
{
    std::lock_guard<std::mutex> lock(allocations_turn);

    allocations.erase((const char *)at);
    last_used = nullptr;
}

void fiber_memory_lent(const void *, size_t)
{
}

void fiber_memory_written(const void *at, size_t bytes)
{
    if (!looked_at) return;
    std::lock_guard<std::mutex> lock(allocations_turn);
    const allocation *const of = allocation_of(at);

    if (!of) return;
    const size_t left = (size_t)(of->at + of->bytes - (const char *)at);

    memset(&of->written[(const char *)at - of->at], 1, bytes < left ? bytes : left);
}

void fiber_races_launch(void)
{
    first += (uint32_t)moments.size();
    moments.clear();
    released.clear();
}

void fiber_races_begin(fiber *self)
{
    self->epoch = self->warp_epoch = self->moment = 0;
    self->sees = self->heard = self->fenced = nullptr;
}

void fiber_races_meet(fiber *lanes, size_t count, bool block)
{
    std::shared_ptr<fiber_view> sees;

    if (!looked_at) return;
    sees = lanes[0].sees;
    for (size_t i = 1; i < count; i++) {
        if (lanes[i].sees == lanes[i - 1].sees || !lanes[i].sees) continue;
        join(&sees, *lanes[i].sees);
    }
    for (size_t i = 0; i < count; i++) {
        lanes[i].sees = sees;
        lanes[i].moment = 0;
        lanes[i].warp_epoch++;
        if (block) lanes[i].epoch++;
    }
}

void fiber_fence(void)
{
    unsigned thread;
    fiber *const self = looked_at ? fiber_running(&thread) : nullptr;

    if (!self) return;
    if (self->heard) join(&self->sees, *self->heard);
    self->heard = nullptr;
    self->fenced =
        self->sees ? std::make_shared<fiber_view>(*self->sees) : std::make_shared<fiber_view>();
    if (self->fenced->ended.size() <= blockIdx.x) self->fenced->ended.resize(blockIdx.x + 1);
    self->fenced->ended[blockIdx.x] = self->epoch;
    self->fenced->lanes.push_back({blockIdx.x, self->epoch, thread, self->warp_epoch, false});
}

void fiber_atomic(const void *at, size_t bytes, bool writes)
{
    unsigned thread;
    fiber *const self = looked_at ? fiber_running(&thread) : nullptr;

    if (!self) return;
    touch(at, bytes, writes, ATOMIC, __builtin_return_address(0));
    if (is_shared(at)) return;
    const auto word = released.find(at);

    if (word != released.end()) join(&self->heard, word->second);
    if (!writes) return;
    if (self->fenced) join(&released[at], *self->fenced);
    join(&released[at], {{}, {{blockIdx.x, self->epoch, thread, self->warp_epoch, true}}});
}

void fiber_touch(const void *at, size_t bytes, bool writes)
{
    touch(at, bytes, writes, 0, __builtin_return_address(0));
}

/* ---- what compilers call ---- */

#define SPC_TOUCH(name, bytes)                                   \
    extern "C" void __tsan_read##name(void *at)                  \
    {                                                            \
        touch(at, bytes, false, 0, __builtin_return_address(0)); \
    }                                                            \
    extern "C" void __tsan_write##name(void *at)                 \
    {                                                            \
        touch(at, bytes, true, 0, __builtin_return_address(0));  \
    }                                                            \
    extern "C" void __tsan_volatile_read##name(void *at)         \
    {                                                            \
        fiber_atomic(at, bytes, false);                          \
    }                                                            \
    extern "C" void __tsan_volatile_write##name(void *at)        \
    {                                                            \
        fiber_atomic(at, bytes, true);                           \
    }

SPC_TOUCH(1, 1)
SPC_TOUCH(2, 2)
SPC_TOUCH(4, 4)
SPC_TOUCH(8, 8)
SPC_TOUCH(16, 16)

extern "C" void __tsan_read_range(void *at, long bytes)
{
    touch(at, (size_t)bytes, false, 0, __builtin_return_address(0));
}

extern "C" void __tsan_write_range(void *at, long bytes)
{
    touch(at, (size_t)bytes, true, 0, __builtin_return_address(0));
}

extern "C" void __tsan_init(void)
{
    looked_at = true;
}

extern "C" void __tsan_func_entry(void *)
{
}

extern "C" void __tsan_func_exit(void *)
{
}
