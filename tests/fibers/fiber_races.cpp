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
 * Nor may a kernel touch what is no memory of the device, nor read of it what nobody wrote; shared
 * memory holds nothing but what the block itself wrote. */
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

extern "C" char __executable_start, __bss_start, _end; /* of the program */

namespace
{

/* Shared memory is variables of the program, which one block after the other has; constants are
 * there too. */
bool is_shared(const void *at)
{
    return (const char *)at >= &__executable_start && (const char *)at < &_end;
}

struct {
    const char *at;
    size_t bytes;
} may_be_left;

/* Variables that begin as what others have left: not what a thread is told of itself with. */
bool begins_left(const void *at)
{
    return (const char *)at >= &__bss_start && (const char *)at < &_end && at != &threadIdx &&
           at != &blockIdx && at != &gridDim &&
           (size_t)((const char *)at - may_be_left.at) >= may_be_left.bytes;
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

/* Of the bytes of a page: words of which all bytes were touched alike, as nearly all are, so that a
 * cache holds more of them; of the others, whose `write` is APART, each byte. */
enum : uint32_t { APART = UINT32_MAX };
enum { WORD = 4 };

struct page {
    touched word[PAGE / WORD];
    std::unique_ptr<touched[]> byte; /* once there was such a word */
};

std::vector<moment> moments; /* of this launch; the first has the number `first` */
uint32_t first = 1;
std::unordered_map<uintptr_t, std::unique_ptr<page>> pages;
std::unordered_map<const void *, fiber_view> released; /* by the words of atomic operations */
struct {
    uintptr_t number;
    page *is;
} used[64]; /* of `pages`, those touched last, by the end of their number */

/* Memory of the device, and which of its bytes were written; null: all. */
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

inline page *page_of(const void *at)
{
    const uintptr_t number = (uintptr_t)at / PAGE;
    auto &last = used[number % (sizeof used / sizeof *used)];

    if (number != last.number || !last.is) {
        std::unique_ptr<page> &of = pages[number];

        if (!of) of.reset(new page());
        last = {number, of.get()};
    }
    return last.is;
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

/* What accesses are numbered by; before `first` they are of earlier launches. */
inline bool is_earlier(uint32_t number)
{
    return (number & ~ATOMIC) < first;
}

inline const moment &moment_of(uint32_t number)
{
    return moments[(number & ~ATOMIC) - first];
}

/* Has an access of this launch ended before what the thread does now, as it can know? */
FIBER_APART bool knows_ended(uint32_t number, const fiber &self, const moment &now, bool shared)
{
    const moment &then = moment_of(number);

    if (then.block != now.block) return shared || knows(self.sees.get(), then, number & ATOMIC);
    if (then.thread == now.thread || then.epoch != now.epoch) return true;
    return then.thread / FIBER_WARP == now.thread / FIBER_WARP && then.warp_epoch != now.warp_epoch;
}

void found(const void *at, const char *does, const char *did, uint32_t number, const moment &now,
           const void *from)
{
    const moment &then = moment_of(number);

    fprintf(
        stderr,
        "fibers: race: thread %u of block %u %s at %p what thread %u of block %u %s, and nothing "
        "orders the two (0x%tx)\n",
        now.thread, now.block, does, at, then.thread, then.block, did,
        (const char *)from - &__executable_start);
    abort();
}

inline uint32_t number_of(fiber *self, unsigned thread)
{
    if (self->moment < first) {
        self->moment = first + (uint32_t)moments.size();
        moments.push_back({blockIdx.x, self->epoch, thread, self->warp_epoch});
    }
    return self->moment;
}

/* What is wrong with memory that is of no allocation or, from there on, not of this one alone, or
 * else was not written. */
FIBER_APART void refuse_memory(const allocation *of, const void *at, size_t bytes, bool writes,
                               const void *from)
{
    const char *wrong = !of ? "which is no memory of the device" : "which nobody wrote";

    if (!of && fiber_is_pinned(at)) return;
    if (of && (size_t)(of->at + of->bytes - (const char *)at) < bytes) {
        wrong = "of which the end is no memory of the device";
    }
    fprintf(stderr, "fibers: thread %u of block %u %s %zu bytes at %p, %s (0x%tx)\n", threadIdx.x,
            blockIdx.x, writes ? "writes" : "reads", bytes, at, wrong,
            (const char *)from - &__executable_start);
    abort();
}

FIBER_APART const allocation *look_up(const void *at)
{
    std::lock_guard<std::mutex> lock(allocations_turn);

    return last_used = allocation_of(at);
}

inline bool all_written(const char *written, size_t bytes)
{
    static const char all[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

    return bytes <= sizeof all ? memcmp(written, all, bytes) == 0 : !memchr(written, 0, bytes);
}

/* Is it there, and was it written? */
inline void check_memory(const void *at, size_t bytes, bool writes, bool atomic, const void *from)
{
    const allocation *of = last_used;

    if (!of || (size_t)((const char *)at - of->at) >= of->bytes) of = look_up(at);
    const size_t first_byte = of ? (size_t)((const char *)at - of->at) : 0;

    if (!of || of->bytes - first_byte < bytes ||
        ((!writes || atomic) && of->written && !all_written(&of->written[first_byte], bytes))) {
        refuse_memory(of, at, bytes, writes, from);
        return;
    }
    if (writes && of->written) memset(&of->written[first_byte], 1, bytes);
}

/* An access of the thread that runs. */
struct access {
    const fiber *self;
    uint32_t number; /* with `atomic` */
    bool shared, left, writes;
    uint32_t atomic;
    const void *from;
};

inline bool ended_before(uint32_t number, const access &a)
{
    return number == a.number || is_earlier(number) ||
           knows_ended(number, *a.self, moment_of(a.number), a.shared);
}

/* What is wrong with shared memory that the block has not written. */
FIBER_APART void refuse_left(const void *at, const access &a)
{
    fprintf(stderr,
            "fibers: thread %u of block %u reads shared memory at %p, which nobody of its block "
            "wrote (0x%tx)\n",
            threadIdx.x, blockIdx.x, at, (const char *)a.from - &__executable_start);
    abort();
}

/* May it touch what was touched so? */
inline void check_order(const touched &t, const void *at, const access &a)
{
    if (a.left && (is_earlier(t.write) || moment_of(t.write).block != moment_of(a.number).block)) {
        refuse_left(at, a);
    }
    if (!(t.write & a.atomic) && !ended_before(t.write, a)) {
        found(at, a.writes ? "writes" : "reads", "wrote", t.write, moment_of(a.number), a.from);
    }
    for (int r = 0; r < 2 && a.writes; r++) {
        if (t.read[r] & a.atomic || ended_before(t.read[r], a)) continue;
        found(at, "writes", "read", t.read[r], moment_of(a.number), a.from);
    }
}

/* Of the two that read last, is the first to be kept behind this access?  It is another warp's. */
inline bool keeps_reader(const touched &t, const access &a)
{
    return !a.writes && t.read[0] != a.number && !is_earlier(t.read[0]) &&
           moment_of(t.read[0]).thread / FIBER_WARP != moment_of(a.number).thread / FIBER_WARP;
}

inline bool alike(const touched &t, const touched &u)
{
    return t.write == u.write && t.read[0] == u.read[0] && t.read[1] == u.read[1];
}

/* Touch the first of so many words or bytes, and those behind it that were touched as it was.
 * Returns how many that are.  (A struct copied as a whole would go by way of the stack.) */
inline size_t touch_alike(touched *t, size_t most, const void *at, const access &a)
{
    const touched was = *t;
    const uint32_t write = a.writes ? a.number : was.write;
    const uint32_t reader = a.writes ? was.read[0] : a.number;
    const uint32_t other = keeps_reader(was, a) ? was.read[0] : was.read[1];
    size_t n = 0;

    check_order(was, at, a);
    do {
        t[n].write = write;
        t[n].read[0] = reader;
        t[n].read[1] = other;
        n++;
    } while (n < most && alike(t[n], was));
    return n;
}

/* Bytes of one word, not all of it or touched apart before. */
FIBER_APART void touch_part(page *of, const char *at, size_t bytes, const access &a)
{
    const size_t first_byte = (uintptr_t)at % WORD;
    touched &word = of->word[(uintptr_t)at % PAGE / WORD];

    if (!of->byte) of->byte.reset(new touched[PAGE]);
    touched *const t = &of->byte[(uintptr_t)at % PAGE - first_byte];

    for (size_t i = 0; i < WORD && word.write != APART; i++) t[i] = word;
    for (size_t i = 0; i < bytes;) {
        i += touch_alike(t + first_byte + i, bytes - i, at + i, a);
    }
    word.write = APART;
    if (alike(t[0], t[1]) && alike(t[0], t[2]) && alike(t[0], t[3])) word = t[0];
}

/* Bytes of one page. */
inline void touch_bytes(const char *at, size_t bytes, const access &a)
{
    page *const of = page_of(at);

    for (size_t i = 0; i < bytes;) {
        const size_t in = (uintptr_t)(at + i) % PAGE, left = WORD - in % WORD;
        touched *const word = &of->word[in / WORD];

        if (left == WORD && bytes - i >= WORD && word->write != APART) {
            i += WORD * touch_alike(word, (bytes - i) / WORD, at + i, a);
        } else {
            const size_t part = left < bytes - i ? left : bytes - i;

            touch_part(of, at + i, part, a);
            i += part;
        }
    }
}

/* Most of the time of a test goes here, so that there is one of it for every number of bytes. */
__attribute__((always_inline)) inline void touch(const void *at, size_t bytes, bool writes,
                                                 uint32_t atomic, const void *from)
{
    fiber *const self = fiber_inside;

    if (!self || (size_t)((const char *)at - self->stack.get()) < FIBER_STACK) return;
    const bool shared = is_shared(at), reads = !writes || atomic != 0;
    const access a = {self,   number_of(self, threadIdx.x) | atomic,
                      shared, shared && reads && begins_left(at),
                      writes, atomic,
                      from};

    if (!a.shared) check_memory(at, bytes, writes, atomic != 0, from);
    for (size_t i = 0; i < bytes;) {
        const size_t left = PAGE - ((uintptr_t)at + i) % PAGE;
        const size_t part = left < bytes - i ? left : bytes - i;

        touch_bytes((const char *)at + i, part, a);
        i += part;
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

void fiber_memory_lent(const void *at, size_t bytes)
{
    std::lock_guard<std::mutex> lock(allocations_turn);

    if (looked_at) allocations[(const char *)at] = {(const char *)at, bytes, nullptr};
}

void fiber_memory_written(const void *at, size_t bytes)
{
    if (!looked_at) return;
    std::lock_guard<std::mutex> lock(allocations_turn);
    const allocation *const of = allocation_of(at);

    if (!of || !of->written) return;
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
    fiber *const self = fiber_inside;

    if (!looked_at || !self) return;
    if (self->heard) join(&self->sees, *self->heard);
    self->heard = nullptr;
    self->fenced =
        self->sees ? std::make_shared<fiber_view>(*self->sees) : std::make_shared<fiber_view>();
    if (self->fenced->ended.size() <= blockIdx.x) self->fenced->ended.resize(blockIdx.x + 1);
    self->fenced->ended[blockIdx.x] = self->epoch;
    self->fenced->lanes.push_back({blockIdx.x, self->epoch, threadIdx.x, self->warp_epoch, false});
}

void fiber_atomic(const void *at, size_t bytes, bool writes)
{
    fiber *const self = fiber_inside;

    if (!looked_at || !self) return;
    touch(at, bytes, writes, ATOMIC, __builtin_return_address(0));
    if (is_shared(at)) return;
    const auto word = released.find(at);

    if (word != released.end()) join(&self->heard, word->second);
    if (!writes) return;
    if (self->fenced) join(&released[at], *self->fenced);
    join(&released[at], {{}, {{blockIdx.x, self->epoch, threadIdx.x, self->warp_epoch, true}}});
}

void fiber_touch(const void *at, size_t bytes, bool writes)
{
    if (looked_at) touch(at, bytes, writes, 0, __builtin_return_address(0));
}

void fiber_may_be_left(const void *at, size_t bytes)
{
    may_be_left = {(const char *)at, bytes};
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
