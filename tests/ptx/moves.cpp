/* SPDX-License-Identifier: Apache-2.0 */
/* moves.cpp - addresses and their windows, registers in parts, copies that go on by themselves. */
#include <stdlib.h>
#include <string.h>

#include "../fibers/fibers.h"
#include "ptx.h"

namespace ptx
{
namespace
{

/* Of what has a name. */
template <typename T> void address_of(warp &w, const instr &i)
{
    T *const d = array<T>(w, i.o[0]);

    for_lanes(w.now.active, [&](unsigned l) {
        const char *const from = i.at == OF_LANE     ? memory_of(w, l)
                                 : i.at == OF_KERNEL ? w.in->arguments
                                                     : nullptr;

        d[l] = (T)((uint64_t)from + (uint64_t)i.value);
    });
}

/* From an address in the window of shared memory, and back. */
void out_of_window(warp &w, const instr &i)
{
    uint64_t *const d = array<uint64_t>(w, i.o[0]);
    const uint64_t *const a = array<uint64_t>(w, i.o[1]);

    for_lanes(w.now.active, [&](unsigned l) { d[l] = a[l] + (uint64_t)w.in->shared; });
}

void into_window(warp &w, const instr &i)
{
    uint64_t *const d = array<uint64_t>(w, i.o[0]);
    const uint64_t *const a = array<uint64_t>(w, i.o[1]);

    for_lanes(w.now.active, [&](unsigned l) { d[l] = a[l] - (uint64_t)w.in->shared; });
}

void keep(warp &w, const instr &i)
{
    uint64_t *const d = array<uint64_t>(w, i.o[0]);
    const uint64_t *const a = array<uint64_t>(w, i.o[1]);

    for_lanes(w.now.active, [&](unsigned l) { d[l] = a[l]; });
}

/* Several registers to one, or one to several. */
void pack(warp &w, const instr &i)
{
    char *const d = array<char>(w, i.o[0]);
    const unsigned each = i.bytes / i.count;

    for (unsigned k = 0; k < i.count; k++) {
        const char *const a = array<char>(w, i.o[k + 1]);

        for_lanes(w.now.active,
                  [=](unsigned l) { memcpy(d + l * i.bytes + k * each, a + l * each, each); });
    }
}

void unpack(warp &w, const instr &i)
{
    const char *const a = array<char>(w, i.o[0]);
    const unsigned each = i.bytes / i.count;

    for (unsigned k = 0; k < i.count; k++) {
        char *const d = array<char>(w, i.o[k + 1]);

        for_lanes(w.now.active,
                  [=](unsigned l) { memcpy(d + l * each, a + l * i.bytes + k * each, each); });
    }
}

void time_now(warp &w, const instr &i)
{
    uint64_t *const d = array<uint64_t>(w, i.o[0]);
    const uint64_t now = fiber_now_ns();

    for_lanes(w.now.active, [=](unsigned l) { d[l] = now; });
}

bool decode_mov(const words &name, const words &operands, source *from, instr *i)
{
    const bool packs = operands[1][0] == '{', unpacks = operands[0][0] == '{';
    const unsigned bytes = (unsigned)atoi(name[1].c_str() + 1) / 8;

    if (operands[1] == "%globaltimer") {
        i->run = time_now;
        i->o = {from->value(operands[0], 8)};
        return bytes == 8;
    }
    if (packs || unpacks) {
        const words parts = elements(operands[packs]);

        i->run = packs ? pack : unpack;
        i->bytes = (uint8_t)bytes;
        i->count = (uint8_t)parts.size();
        i->results = packs;
        i->o = {from->value(operands[!packs], bytes)};
        for (const std::string &p : parts) {
            i->o.push_back(from->value(p, bytes / (unsigned)parts.size()));
        }
        return true;
    }
    if (!from->bytes_of(operands[0]) || i->at < OF_LANE) return false; /* decode_values looked */
    i->run = bytes == 8 ? address_of<uint64_t> : address_of<uint32_t>;
    i->o = {from->value(operands[0], bytes)};
    return true;
}

/* ---- copies ---------------------------------------------------------------------------------- */

void do_copy(const copy &c)
{
    memcpy((void *)c.to, (const void *)c.from, c.bytes);
}

/* Each copy is done at once or when it is waited for, as dice fall. */
void begin_copy(warp &w, const instr &i)
{
    const uint32_t *const to = array<uint32_t>(w, i.o[0]);
    const uint64_t *const from = array<uint64_t>(w, i.o[1]);

    for_lanes(w.now.active, [&](unsigned l) {
        const uint32_t offset = to[l] + (uint32_t)i.value;
        const uint64_t at = from[l] + i.moved[0];
        const copy c = {l, w.groups[l], (uint64_t)w.in->shared + offset, at, i.bytes};

        if (offset % i.bytes != 0) fail(w, i, "an address that is not aligned");
        if (offset + i.bytes > w.in->kernel->shared) fail(w, i, "an address behind shared memory");
        look_at(w, i, at, i.bytes);
        if (fiber_toss()) {
            do_copy(c);
        } else {
            w.copies.push_back(c);
        }
    });
}

void end_group(warp &w, const instr &)
{
    for_lanes(w.now.active, [&](unsigned l) { w.groups[l]++; });
}

void wait_for_copies(warp &w, const instr &i)
{
    size_t left = 0;

    for (const copy &c : w.copies) {
        if ((w.now.active >> c.lane & 1) && c.group + (unsigned)i.value < w.groups[c.lane]) {
            do_copy(c);
        } else {
            w.copies[left++] = c;
        }
    }
    w.copies.resize(left);
}

bool decode_copy(const words &name, const words &operands, source *from, instr *i)
{
    instr other = {};

    if (name[2] == "commit_group") {
        i->run = end_group;
    } else if (name[2] == "wait_group") {
        i->run = wait_for_copies;
        i->value = atoi(operands[0].c_str());
    } else {
        if (name[2] != "cg" || operands.size() != 3 || operands[2] != "16") return false;
        i->run = begin_copy;
        i->results = 0;
        i->bytes = 16;
        from->address(operands[0], true, i);
        from->address(operands[1], false, &other);
        if (i->at != BY_REGISTER32 || other.at != BY_REGISTER64) return false;
        i->o.push_back(other.o[0]);
        i->moved = {(uint32_t)other.value};
        i->global = true;
    }
    return true;
}

} // namespace

bool decode_moves(const words &name, const words &operands, source *from, instr *i)
{
    if (name[0] == "mov" && name.size() == 2) return decode_mov(name, operands, from, i);
    if (name[0] == "cp" && name.size() > 2) return decode_copy(name, operands, from, i);
    if (name[0] != "cvta" || name.back() != "u64" || operands.size() != 2) return false;
    i->run = name[name.size() - 2] != "shared" ? keep
             : name[1] == "to"                 ? into_window
                                               : out_of_window;
    i->o = {from->value(operands[0], 8), from->value(operands[1], 8)};
    return true;
}

} // namespace ptx
