/* SPDX-License-Identifier: Apache-2.0 */
/* registers.cpp - registers whose values are not needed at the same time share their place.
 *
 * In PTX nearly every value has a register of its own: thousands, of which caches hold few.  One
 * register's place is taken from its first mention in the text to its last, and where those lie in
 * several pieces that are entered by a branch, in all of every loop that it is mentioned in. */
#include <algorithm>

#include "ptx.h"

namespace ptx
{
namespace
{

struct life {
    uint32_t offset, bytes; /* as it was declared */
    uint32_t first, last;
    bool known, written; /* where it is first mentioned it is written */
};

typedef std::pair<uint32_t, uint32_t> range;

std::vector<operand *> mentions(instr *i)
{
    std::vector<operand *> out;

    for (operand &o : i->o) {
        if (o.base == REGISTERS) out.push_back(&o);
    }
    if (i->run == guard || i->run == branch_if || i->run == branch_unless) {
        if (i->guard.base == REGISTERS) out.push_back(&i->guard);
    }
    return out;
}

bool is_result(const instr &i, const operand *o)
{
    const size_t at = (size_t)(o - i.o.data());

    return i.run != guard && at < i.o.size() && at < i.results;
}

/* From where a branch goes back to, to that branch: those that overlap, as one. */
std::vector<range> loops_of(const function &f)
{
    std::vector<range> loops, out;

    for (uint32_t pc = 0; pc < f.code.size(); pc++) {
        const instr &i = f.code[pc];

        if (i.run != branch && i.run != branch_if && i.run != branch_unless) continue;
        if (i.target <= pc) loops.push_back({i.target, pc});
    }
    std::sort(loops.begin(), loops.end());
    for (const range &loop : loops) {
        if (!out.empty() && loop.first <= out.back().second) {
            out.back().second = std::max(out.back().second, loop.second);
        } else {
            out.push_back(loop);
        }
    }
    return out;
}

/* The number of the piece that each instruction is in. */
std::vector<uint32_t> pieces_of(const function &f)
{
    std::vector<uint32_t> piece(f.code.size() + 1, 0);

    for (const instr &i : f.code) {
        if (i.run == branch || i.run == branch_if || i.run == branch_unless) piece[i.target] = 1;
    }
    for (size_t pc = 1; pc < piece.size(); pc++) piece[pc] += piece[pc - 1];
    return piece;
}

} // namespace

void share_registers(function *f, const std::vector<declared> &registers)
{
    const std::vector<uint32_t> piece = pieces_of(*f);
    const std::vector<range> loops = loops_of(*f);
    std::map<uint32_t, life> lives;
    std::map<uint32_t, std::vector<uint32_t>> free_places; /* of so many bytes */
    std::map<uint32_t, uint32_t> places;                   /* by the declared offset */
    std::vector<life> order;
    std::multimap<uint32_t, life> living; /* by their end */
    size_t end = 0;

    for (uint32_t pc = 0; pc < f->code.size(); pc++) {
        for (operand *o : mentions(&f->code[pc])) {
            life &l = lives[o->offset];

            if (!l.known) l = {o->offset, 0, pc, pc, true, is_result(f->code[pc], o)};
            if (l.first == pc && !is_result(f->code[pc], o)) l.written = false;
            l.last = pc;
        }
    }
    for (const declared &d : registers) {
        for (auto next = lives.lower_bound(d.from); next != lives.end() && next->first < d.to;
             ++next) {
            next->second.bytes = d.bytes;
        }
    }
    for (auto &l : lives) {
        life &it = l.second;

        if (piece[it.first] != piece[it.last] || !it.written) {
            for (const range &loop : loops) {
                if (loop.second < it.first || loop.first > it.last) continue;
                it.first = std::min(it.first, loop.first);
                it.last = std::max(it.last, loop.second);
            }
        }
        order.push_back(it);
    }
    std::sort(order.begin(), order.end(),
              [](const life &a, const life &b) { return a.first < b.first; });
    for (const life &l : order) {
        while (!living.empty() && living.begin()->first < l.first) {
            const life &ended = living.begin()->second;

            free_places[ended.bytes].push_back(places[ended.offset]);
            living.erase(living.begin());
        }
        std::vector<uint32_t> &free_ones = free_places[l.bytes];

        if (free_ones.empty()) {
            end = (end + 63) / 64 * 64;
            places[l.offset] = (uint32_t)end;
            end += l.bytes * LANES;
        } else {
            places[l.offset] = free_ones.back();
            free_ones.pop_back();
        }
        living.insert({l.last, l});
    }
    for (instr &i : f->code) {
        for (operand *o : mentions(&i)) o->offset = places[o->offset];
    }
    f->registers = (end + 63) / 64 * 64;
}

} // namespace ptx
