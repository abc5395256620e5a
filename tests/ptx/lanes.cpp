/* SPDX-License-Identifier: Apache-2.0 */
/* lanes.cpp - what the lanes of a warp do together: shuffles, folds, products of tensor cores. */
#include <math.h>
#include <string.h>

#include "../fibers/fiber_product.h"
#include "ptx.h"

namespace ptx
{
namespace
{

/* The lanes that an instruction names, the same in all that execute it. */
uint32_t named(const warp &w, const instr &i, const operand &o)
{
    const uint32_t *const mask = array<uint32_t>(w, o);
    const unsigned first = (unsigned)__builtin_ctz(w.now.active);

    for_lanes(w.now.active, [&](unsigned l) {
        if (mask[l] != mask[first]) fail(w, i, "lanes name different lanes");
        if (!(mask[l] >> l & 1)) fail(w, i, "a lane does not name itself");
    });
    return mask[first];
}

enum kind { UP, DOWN, BUTTERFLY, INDEX };

/* Of the lane that has it, the lane it reads; itself where there is none. */
unsigned partner(unsigned l, kind how, uint32_t b, uint32_t c, bool *valid)
{
    const uint32_t clamp = c & 31, segment = c >> 8 & 31;
    const uint32_t most = (l & segment) | (clamp & ~segment), least = l & segment;
    uint32_t from;

    b &= 31;
    switch (how) {
    case UP: from = l - b; break;
    case DOWN: from = l + b; break;
    case BUTTERFLY: from = l ^ b; break;
    default: from = least | (b & ~segment);
    }
    *valid = how == UP ? (int32_t)from >= (int32_t)most : from <= most;
    return *valid ? from : l;
}

template <kind how> void shuffle(warp &w, const instr &i)
{
    const uint32_t together = named(w, i, i.o[5]);

    if (!meet(w, i, together)) return;

    uint32_t *const d = array<uint32_t>(w, i.o[0]), *const p = array<uint32_t>(w, i.o[1]);
    const uint32_t *const a = array<uint32_t>(w, i.o[2]), *const b = array<uint32_t>(w, i.o[3]),
                          *const c = array<uint32_t>(w, i.o[4]);
    uint32_t given[LANES];

    memcpy(given, a, sizeof given);
    for_lanes(w.now.active, [&](unsigned l) {
        bool valid;
        const unsigned from = partner(l, how, b[l], c[l], &valid);

        if (!(together >> from & 1)) fail(w, i, "a lane that does not take part is read");
        d[l] = given[from];
        if (i.count) p[l] = valid ? ALL : 0;
    });
}

template <bool greatest> void reduce(warp &w, const instr &i)
{
    const uint32_t together = named(w, i, i.o[2]);

    if (!meet(w, i, together)) return;

    uint32_t *const d = array<uint32_t>(w, i.o[0]);
    const uint32_t *const a = array<uint32_t>(w, i.o[1]);
    uint32_t result = greatest ? 0 : ALL;

    for_lanes(together, [&](unsigned l) {
        if (greatest ? a[l] > result : a[l] < result) result = a[l];
    });
    for_lanes(w.now.active, [&](unsigned l) { d[l] = result; });
}

/* ---- products -------------------------------------------------------------------------------- */

float value_of(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

/* A [16, K] times B [K, 8] behind C; which lane holds what is that of the PTX ISA's figures. */
template <unsigned K> struct factors {
    float a[16][K], b[8][K];
};

void gather(const warp &w, const instr &i, factors<16> *f)
{
    for (unsigned l = 0; l < LANES; l++) {
        const unsigned group = l >> 2, in_group = l % 4;

        for (unsigned e = 0; e < 8; e++) { /* a0 .. a7, two in a register */
            const uint32_t two = array<uint32_t>(w, i.o[4 + e / 2])[l];
            const unsigned row = e < 2 || (e >= 4 && e < 6) ? group : group + 8;
            const unsigned col = in_group * 2 + (e & 1) + (e >= 4 ? 8 : 0);

            f->a[row][col] = value_of(e & 1 ? two & 0xffff0000u : two << 16);
        }
        for (unsigned e = 0; e < 4; e++) {
            const uint32_t two = array<uint32_t>(w, i.o[8 + e / 2])[l];
            const unsigned row = in_group * 2 + (e & 1) + (e >= 2 ? 8 : 0);

            f->b[group][row] = value_of(e & 1 ? two & 0xffff0000u : two << 16);
        }
    }
}

void gather(const warp &w, const instr &i, factors<8> *f)
{
    const uint32_t upper = 0xffffe000u;

    for (unsigned l = 0; l < LANES; l++) {
        const unsigned group = l >> 2, in_group = l % 4;

        for (unsigned e = 0; e < 4; e++) {
            const uint32_t x = array<uint32_t>(w, i.o[4 + e])[l];

            f->a[e % 2 ? group + 8 : group][e < 2 ? in_group : in_group + 4] = value_of(x & upper);
        }
        for (unsigned e = 0; e < 2; e++) {
            const uint32_t x = array<uint32_t>(w, i.o[8 + e])[l];

            f->b[group][in_group + 4 * e] = value_of(x & upper);
        }
    }
}

template <unsigned K> bool all_finite(const factors<K> &f)
{
    float none = 0.0f;

    for (unsigned k = 0; k < 16 * K; k++) none += f.a[k / K][k % K] * 0.0f;
    return none == 0.0f;
}

/* Columns of zeros, rows that are not there, cost little. */
template <unsigned K> void multiply(warp &w, const instr &i)
{
    factors<K> f;
    bool zero[8], finite;

    if (!meet(w, i, ALL)) return;
    gather(w, i, &f);
    finite = all_finite(f);
    for (unsigned n = 0; n < 8; n++) {
        zero[n] = finite;
        for (unsigned k = 0; k < K; k++) zero[n] = zero[n] && f.b[n][k] == 0.0f;
    }
    for (unsigned e = 0; e < 4; e++) {
        float *const d = array<float>(w, i.o[e]);
        const float *const c = array<float>(w, i.o[10 + e]);

        for (unsigned l = 0; l < LANES; l++) {
            const unsigned row = e < 2 ? l >> 2 : (l >> 2) + 8, col = l % 4 * 2 + (e & 1);
            const float *const a = f.a[row], *const b = f.b[col];

            if (zero[col]) {
                d[l] = c[l];
                continue;
            }
            d[l] = fiber_add_cut<K / 2>(fiber_add_cut<K / 2>(c[l], a, b), a + K / 2, b + K / 2);
        }
    }
}

bool decode_product(const words &name, const words &operands, source *from, instr *i)
{
    static const unsigned counts[] = {4, 4, 2, 4};
    std::string kind;

    for (const std::string &word : name) kind += "." + word;
    if (kind == ".mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32") {
        i->run = multiply<16>;
    } else if (kind == ".mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32") {
        i->run = multiply<8>;
    } else {
        return false;
    }
    if (operands.size() != 4) return false;
    i->results = 4;
    for (unsigned k = 0; k < 4; k++) {
        const std::string inside = operands[k].substr(1, operands[k].size() - 2) + ",";
        unsigned count = 0;

        for (size_t at = 0; at < inside.size(); count++) {
            const size_t stop = inside.find(',', at);

            i->o.push_back(from->value(inside.substr(at, stop - at), 4));
            at = stop + 1;
        }
        if (count != counts[k]) return false;
    }
    return true;
}

/* shfl.sync.down.b32 d|p, a, b, c, lanes */
bool decode_shuffle(const words &name, const words &operands, source *from, instr *i)
{
    const size_t bar = operands[0].find('|');

    if (name.size() != 4 || name[1] != "sync" || name[3] != "b32" || operands.size() != 5) {
        return false;
    }
    i->run = name[2] == "up"     ? shuffle<UP>
             : name[2] == "down" ? shuffle<DOWN>
             : name[2] == "bfly" ? shuffle<BUTTERFLY>
                                 : shuffle<INDEX>;
    i->count = bar != std::string::npos;
    i->results = 1 + i->count;
    i->o.push_back(from->value(operands[0].substr(0, bar), 4));
    i->o.push_back(i->count ? from->value(operands[0].substr(bar + 1), 4) : i->o[0]);
    for (size_t k = 1; k < 5; k++) i->o.push_back(from->value(operands[k], 4));
    return true;
}

/* Which lanes a predicate holds for. */
void ballot(warp &w, const instr &i)
{
    const uint32_t together = named(w, i, i.o[2]);

    if (!meet(w, i, together)) return;

    uint32_t *const d = array<uint32_t>(w, i.o[0]);
    const uint32_t holds = mask_of(array<uint32_t>(w, i.o[1])) & together;

    for_lanes(w.now.active, [=](unsigned l) { d[l] = holds; });
}

void nothing(warp &, const instr &)
{
}

void trapped(warp &w, const instr &i)
{
    fail(w, i, "a trap");
}

} // namespace

bool decode_warp(const words &name, const words &operands, source *from, instr *i)
{
    std::string all;

    for (const std::string &word : name) all += (all.empty() ? "" : ".") + word;
    if (name[0] == "mma") return decode_product(name, operands, from, i);
    if (name[0] == "shfl") return decode_shuffle(name, operands, from, i);
    if (all == "redux.sync.min.u32" || all == "redux.sync.max.u32") {
        i->run = name[2] == "max" ? reduce<true> : reduce<false>;
        for (const std::string &o : operands) i->o.push_back(from->value(o, 4));
    } else if (all == "vote.sync.ballot.b32" && operands.size() == 3 && operands[1][0] != '!') {
        i->run = ballot;
        for (const std::string &o : operands) i->o.push_back(from->value(o, 4));
    } else if (all == "bar.sync" && operands.size() == 1 && operands[0] == "0") {
        i->run = barrier;
    } else if (all == "bar.red.or.pred" && operands.size() == 3 && operands[1] == "0") {
        i->run = barrier_or;
        i->o = {from->value(operands[0], 4), from->value(operands[2], 4)};
    } else if (all == "bar.warp.sync") {
        i->run = meet_warp;
        i->results = 0;
        i->o = {from->value(operands[0], 4)};
    } else if (all == "nanosleep.u32") {
        i->run = sleep;
    } else if (all == "griddepcontrol.wait") {
        i->run = await_previous;
    } else if (all == "fence.acq_rel.gpu" || all == "griddepcontrol.launch_dependents") {
        i->run = nothing;
    } else if (all == "trap") {
        i->run = trapped;
    } else {
        return false;
    }
    return true;
}

} // namespace ptx
