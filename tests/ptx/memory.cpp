/* SPDX-License-Identifier: Apache-2.0 */
/* memory.cpp - loads, stores and atomic operations.
 *
 * Every address is looked at: it must be aligned as the instruction demands, and lie in memory that
 * was allocated.  A block that begins early must leave alone what kernels write until it has
 * waited: not only the kernel in front may still run, but those in front of that one, too, which
 * here have ended by then. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../fibers/fibers.h"
#include "ptx.h"

namespace ptx
{
namespace
{

/* Memory of the device. */
struct memory {
    uint64_t to;
    bool written; /* by kernels */
};

std::map<uint64_t, memory> taken; /* by where it begins */
std::mutex of_taken;
uint64_t changes = 1; /* of taken */

/* ---- addresses ------------------------------------------------------------------------------- */

/* Does it lie in memory that only this block has: its own, its lanes', its arguments? */
bool is_own(const warp &w, uint64_t at, unsigned bytes)
{
    const block &b = *w.in;

    if (at >= (uint64_t)b.shared && at + bytes <= (uint64_t)b.shared + b.kernel->shared)
        return true;
    if (at >= (uint64_t)b.arguments &&
        at + bytes <= (uint64_t)b.arguments + b.kernel->argument_bytes) {
        return true;
    }
    for (const std::vector<char> &m : w.memory) {
        if (at >= (uint64_t)m.data() && at + bytes <= (uint64_t)m.data() + m.size()) return true;
    }
    return false;
}

void look_up(const warp &w, const instr &i, uint64_t at, unsigned bytes)
{
    std::lock_guard<std::mutex> lock(of_taken);
    auto next = taken.upper_bound(at);

    if (next != taken.begin()) {
        --next;
        if (at + bytes <= next->second.to) {
            next->second.written |= i.writes;
            if (w.in->before_previous && next->second.written) {
                fail(w, i, "memory that kernels write, before the wait for those in front");
            }
            i.known_from = next->first;
            i.known_to = next->second.to;
            i.known_at = changes;
            return;
        }
    }
    if (fiber_is_pinned((const void *)at)) return;
    fprintf(stderr, "ptx: address %#llx\n", (unsigned long long)at);
    fail(w, i, "an address where nothing was allocated");
}

/* The addresses of the active lanes, on the host. */
void find(const warp &w, const instr &i, const operand *by, unsigned bytes, uint64_t *at)
{
    const uint32_t active = w.now.active;
    const uint64_t offset = (uint64_t)i.value;

    if (i.at == OF_KERNEL || i.at == OF_BLOCK) {
        const uint64_t from = (uint64_t)(i.at == OF_KERNEL ? w.in->arguments : w.in->shared);
        const size_t limit =
            i.at == OF_KERNEL ? w.in->kernel->argument_bytes : w.in->kernel->shared;

        if (offset % bytes != 0 || offset + bytes > limit) fail(w, i, "a wrong address");
        for (unsigned l = 0; l < LANES; l++) at[l] = from + offset;
    } else if (i.at == OF_LANE) {
        if (offset % bytes != 0) fail(w, i, "an address that is not aligned");
        for_lanes(active, [&](unsigned l) { at[l] = (uint64_t)memory_of(w, l) + offset; });
    } else if (i.at == BY_REGISTER32) {
        const uint32_t *const base = array<uint32_t>(w, *by);
        const uint32_t size = (uint32_t)w.in->kernel->shared;

        for_lanes(active, [&](unsigned l) {
            const uint32_t address = base[l] + (uint32_t)offset;

            if (address % bytes != 0) fail(w, i, "an address that is not aligned");
            if (address + bytes > size || address + bytes < address) {
                fail(w, i, "an address behind shared memory");
            }
            at[l] = (uint64_t)w.in->shared + address;
        });
    } else {
        const uint64_t *const base = array<uint64_t>(w, *by);
        const uint64_t window = i.shared ? (uint64_t)w.in->shared : 0;

        for_lanes(active, [&](unsigned l) {
            at[l] = window + base[l] + offset;
            look_at(w, i, at[l], bytes);
        });
    }
}

/* ---- loads and stores ------------------------------------------------------------------------ */

template <typename M, typename D> void load(warp &w, const instr &i)
{
    uint64_t at[LANES];

    find(w, i, &i.o.back(), (unsigned)sizeof(M) * i.count, at);
    for (unsigned v = 0; v < i.count; v++) {
        D *const d = array<D>(w, i.o[v]);

        for_lanes(w.now.active, [&](unsigned l) {
            M x;

            memcpy(&x, (const char *)at[l] + v * sizeof x, sizeof x);
            d[l] = (D)x;
        });
    }
}

template <typename M, typename S> void store(warp &w, const instr &i)
{
    uint64_t at[LANES];

    find(w, i, &i.o.back(), (unsigned)sizeof(M) * i.count, at);
    for (unsigned v = 0; v < i.count; v++) {
        const S *const from = array<S>(w, i.o[v]);

        for_lanes(w.now.active, [&](unsigned l) {
            const M x = (M)from[l];

            memcpy((char *)at[l] + v * sizeof x, &x, sizeof x);
        });
    }
}

template <typename M> handler *load_to(unsigned bytes)
{
    const bool is_signed = std::is_signed<M>::value;

    if (bytes == 2 && sizeof(M) <= 2) return is_signed ? load<M, int16_t> : load<M, uint16_t>;
    if (bytes == 4 && sizeof(M) <= 4) return is_signed ? load<M, int32_t> : load<M, uint32_t>;
    if (bytes == 8) return is_signed ? load<M, int64_t> : load<M, uint64_t>;
    return nullptr;
}

template <typename M> handler *store_from(unsigned bytes)
{
    if (bytes == 2 && sizeof(M) <= 2) return store<M, uint16_t>;
    if (bytes == 4 && sizeof(M) <= 4) return store<M, uint32_t>;
    return bytes == 8 ? store<M, uint64_t> : nullptr;
}

handler *load_of(const std::string &type, unsigned bytes)
{
    if (type == "s8") return load_to<int8_t>(bytes);
    if (type == "s16") return load_to<int16_t>(bytes);
    if (type == "s32") return load_to<int32_t>(bytes);
    switch (atoi(type.c_str() + 1)) {
    case 8: return load_to<uint8_t>(bytes);
    case 16: return load_to<uint16_t>(bytes);
    case 32: return load_to<uint32_t>(bytes);
    case 64: return load_to<uint64_t>(bytes);
    default: return nullptr;
    }
}

handler *store_of(const std::string &type, unsigned bytes)
{
    switch (atoi(type.c_str() + 1)) {
    case 8: return store_from<uint8_t>(bytes);
    case 16: return store_from<uint16_t>(bytes);
    case 32: return store_from<uint32_t>(bytes);
    case 64: return store_from<uint64_t>(bytes);
    default: return nullptr;
    }
}

bool decode_move(const words &name, const words &operands, source *from, instr *i)
{
    const bool loads = name[0] == "ld";
    const std::string &type = name.back();
    unsigned count = 1, bytes;
    words values;

    if (operands.size() != 2) return false;
    for (size_t k = 1; k + 1 < name.size(); k++) {
        const std::string &word = name[k];

        if (word == "v2" || word == "v4") {
            count = (unsigned)(word[1] - '0');
        } else if (word == "shared") {
            i->shared = true;
        } else if (word == "global") {
            i->global = true;
        } else if (word != "param" && word != "local" && word != "cs" && word != "relaxed" &&
                   word != "gpu" && word != "volatile" && word != "nc") {
            return false;
        }
    }
    values = elements(operands[loads ? 0 : 1]);
    if (values.size() != count) return false;
    bytes = from->bytes_of(values[0]);
    if (bytes == 0 && !loads) bytes = (unsigned)atoi(type.c_str() + 1) / 8;
    i->run = loads ? load_of(type, bytes) : store_of(type, bytes);
    if (!i->run) return false;
    i->count = (uint8_t)count;
    i->results = loads ? i->count : 0;
    i->writes = !loads;
    for (const std::string &v : values) i->o.push_back(from->value(v, bytes));
    from->address(operands[loads ? 1 : 0], i->shared, i);
    return true;
}

/* ---- atomic operations ----------------------------------------------------------------------- */

struct add {
    template <typename T> static T of(T a, T b)
    {
        return a + b;
    }
};

struct exchange {
    template <typename T> static T of(T, T b)
    {
        return b;
    }
};

struct bits_and {
    template <typename T> static T of(T a, T b)
    {
        return a & b;
    }
};

struct bits_or {
    template <typename T> static T of(T a, T b)
    {
        return a | b;
    }
};

template <typename F, typename T> void atomic(warp &w, const instr &i)
{
    uint64_t at[LANES];
    T *const d = array<T>(w, i.o[0]);
    const T *const b = array<T>(w, i.o[1]);

    find(w, i, &i.o.back(), sizeof(T), at);
    for (uint32_t mask = w.now.active; mask; mask &= mask - 1) {
        const unsigned l = (unsigned)__builtin_ctz(mask);
        T old;

        memcpy(&old, (const void *)at[l], sizeof old);

        const T value = F::of(old, b[l]);

        memcpy((void *)at[l], &value, sizeof value);
        d[l] = old;
    }
}

bool decode_atomic(const words &name, const words &operands, source *from, instr *i)
{
    static const std::map<std::string, handler *> known = {
        {"add.u32", atomic<add, uint32_t>},      {"add.s32", atomic<add, uint32_t>},
        {"add.u64", atomic<add, uint64_t>},      {"exch.b32", atomic<exchange, uint32_t>},
        {"and.b32", atomic<bits_and, uint32_t>}, {"or.b32", atomic<bits_or, uint32_t>},
    };
    const unsigned bytes = name.back().substr(1) == "64" ? 8 : 4;

    if (name.size() < 3 || operands.size() != 3) return false;

    auto found = known.find(name[name.size() - 2] + "." + name.back());

    if (found == known.end()) return false;
    for (size_t k = 1; k + 2 < name.size(); k++) {
        if (name[k] == "shared") i->shared = true;
        if (name[k] == "global") i->global = true;
        if (name[k] != "shared" && name[k] != "global") return false;
    }
    i->run = found->second;
    i->writes = true;
    i->o = {from->value(operands[0], bytes), from->value(operands[2], bytes)};
    from->address(operands[1], i->shared, i);
    return true;
}

} // namespace

void look_at(const warp &w, const instr &i, uint64_t at, unsigned bytes)
{
    if (at % bytes != 0) {
        fprintf(stderr, "ptx: address %#llx\n", (unsigned long long)at);
        fail(w, i, "an address that is not aligned");
    }
    if (!w.in->before_previous && i.known_at == changes && at >= i.known_from &&
        at + bytes <= i.known_to) {
        return;
    }
    if (!i.global && is_own(w, at, bytes)) return;
    look_up(w, i, at, bytes);
}

/* "{a,b}", or one. */
words elements(const std::string &text)
{
    words out;
    std::string one;

    for (char c : text) {
        if (c == ',' || c == '}') {
            if (!one.empty()) out.push_back(one);
            one.clear();
        } else if (c != '{') {
            one += c;
        }
    }
    if (!one.empty()) out.push_back(one);
    return out;
}

bool decode_memory(const words &name, const words &operands, source *from, instr *i)
{
    if (name[0] == "ld" || name[0] == "st") return decode_move(name, operands, from, i);
    return name[0] == "atom" && decode_atomic(name, operands, from, i);
}

} // namespace ptx

/* ---- what tests/fibers tells of memory ------------------------------------------------------- */

void fiber_memory_taken(const void *at, size_t bytes)
{
    std::lock_guard<std::mutex> lock(ptx::of_taken);

    ptx::taken[(uint64_t)at] = {(uint64_t)at + bytes, false};
    ptx::changes++;
}

void fiber_memory_freed(const void *at)
{
    std::lock_guard<std::mutex> lock(ptx::of_taken);

    ptx::taken.erase((uint64_t)at);
    ptx::changes++;
}

void fiber_memory_lent(const void *at, size_t bytes)
{
    fiber_memory_taken(at, bytes);
}

void fiber_memory_written(const void *, size_t)
{
}
