/* SPDX-License-Identifier: Apache-2.0 */
/* convert.cpp - numbers of one type to another; which instruction is decoded where. */
#include <limits>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ptx.h"

namespace ptx
{
namespace
{

/* Registers may be wider than what is read from them; what is written to them fills them. */
template <typename D, typename S> void integer(warp &w, const instr &i)
{
    char *const d = array<char>(w, i.o[0]);
    const char *const a = array<char>(w, i.o[1]);
    const unsigned to = i.bytes, from = i.bytes_of;

    if (to == sizeof(D) && from == sizeof(S)) {
        for_lanes(w.now.active, [=](unsigned l) { ((D *)d)[l] = (D)((const S *)a)[l]; });
        return;
    }
    for (uint32_t mask = w.now.active; mask; mask &= mask - 1) {
        const unsigned l = (unsigned)__builtin_ctz(mask);
        S x;

        memcpy(&x, a + l * from, sizeof x);

        const D y = (D)x;
        const int64_t wide = std::is_signed<D>::value ? (int64_t)y : (int64_t)(uint64_t)y;

        memcpy(d + l * to, &wide, to);
    }
}

template <typename D> handler *integer_from(const std::string &type)
{
    if (type == "u8") return integer<D, uint8_t>;
    if (type == "s8") return integer<D, int8_t>;
    if (type == "u16") return integer<D, uint16_t>;
    if (type == "s16") return integer<D, int16_t>;
    if (type == "u32") return integer<D, uint32_t>;
    if (type == "s32") return integer<D, int32_t>;
    if (type == "u64") return integer<D, uint64_t>;
    return type == "s64" ? integer<D, int64_t> : nullptr;
}

handler *integer_to(const std::string &to, const std::string &from)
{
    if (to == "u8") return integer_from<uint8_t>(from);
    if (to == "s8") return integer_from<int8_t>(from);
    if (to == "u16") return integer_from<uint16_t>(from);
    if (to == "s16") return integer_from<int16_t>(from);
    if (to == "u32") return integer_from<uint32_t>(from);
    if (to == "s32") return integer_from<int32_t>(from);
    if (to == "u64") return integer_from<uint64_t>(from);
    return to == "s64" ? integer_from<int64_t>(from) : nullptr;
}

template <typename D, typename S> void floating(warp &w, const instr &i)
{
    D *const d = array<D>(w, i.o[0]);
    const S *const a = array<S>(w, i.o[1]);
    const uint32_t bits = 0x7fffffffu;
    D nan = std::numeric_limits<D>::quiet_NaN();

    if (sizeof(D) == 4) memcpy(&nan, &bits, sizeof bits);
    for_lanes(w.now.active, [=](unsigned l) { d[l] = a[l] != a[l] ? nan : (D)a[l]; });
}

/* Towards 0; the nearest there is; of what is not a number 0, or the upper bit of 64. */
template <typename D, typename S> void truncated(warp &w, const instr &i)
{
    D *const d = array<D>(w, i.o[0]);
    const S *const a = array<S>(w, i.o[1]);
    const double least = (double)std::numeric_limits<D>::min(),
                 most = (double)std::numeric_limits<D>::max();

    for_lanes(w.now.active, [=](unsigned l) {
        const double x = (double)a[l];

        if (x != x) {
            d[l] = sizeof(S) == 8 || sizeof(D) == 8 ? (D)((D)1 << (8 * sizeof(D) - 1)) : (D)0;
        } else {
            d[l] = x <= least  ? std::numeric_limits<D>::min()
                   : x >= most ? std::numeric_limits<D>::max()
                               : (D)x;
        }
    });
}

float half_value(uint16_t bits)
{
    const int sign = bits >> 15, exponent = bits >> 10 & 31, fraction = bits & 1023;
    const uint32_t nan = 0x7fffffffu;
    float x;

    if (exponent == 31 && fraction) {
        memcpy(&x, &nan, sizeof x);
        return x;
    }
    x = exponent == 31  ? INFINITY
        : exponent == 0 ? ldexpf((float)fraction, -24)
                        : ldexpf((float)(1024 + fraction), exponent - 25);
    return sign ? -x : x;
}

void from_half(warp &w, const instr &i)
{
    static const std::vector<float> values = [] {
        std::vector<float> all;

        for (unsigned bits = 0; bits < 65536; bits++) all.push_back(half_value((uint16_t)bits));
        return all;
    }();
    float *const d = array<float>(w, i.o[0]);
    const uint16_t *const a = array<uint16_t>(w, i.o[1]);
    const float *const value = values.data();

    for_lanes(w.now.active, [=](unsigned l) { d[l] = value[a[l]]; });
}

/* To the nearest, of two the even one. */
uint32_t bf16_of(float x)
{
    uint32_t bits;

    if (x != x) return 0x7fffu;
    memcpy(&bits, &x, sizeof bits);
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}

/* The first operand becomes the upper half. */
void bf16_pair(warp &w, const instr &i)
{
    uint32_t *const d = array<uint32_t>(w, i.o[0]);
    const float *const a = array<float>(w, i.o[1]), *const b = array<float>(w, i.o[2]);

    for_lanes(w.now.active, [=](unsigned l) { d[l] = bf16_of(a[l]) << 16 | bf16_of(b[l]); });
}

/* To the nearest of 19 bits, of two the one that is larger in size.  What the lower bits are the
 * ISA leaves open ("the internal layout of tf32 format is implementation defined"): ptxas has had 0
 * for all targets up to now.  Here they are what nobody can take for a part of the number; NaN that
 * they alone tell from infinity are infinity to who cuts them off. */
void tf32(warp &w, const instr &i)
{
    uint32_t *const d = array<uint32_t>(w, i.o[0]);
    const float *const a = array<float>(w, i.o[1]);

    for_lanes(w.now.active, [=](unsigned l) {
        uint32_t bits;

        memcpy(&bits, &a[l], sizeof bits);
        d[l] = (fabsf(a[l]) < INFINITY ? bits + 0x1000u : bits) | 0x1fffu;
    });
}

/* Every float of 8 bits is a half: 4 bits of exponent, 3 of fraction, no infinity. */
uint32_t half_of_e4m3(uint32_t bits)
{
    const uint32_t sign = (bits & 0x80) << 8, exponent = bits >> 3 & 15, fraction = bits & 7;
    uint32_t shift = 0;

    if ((bits & 0x7f) == 0x7f) return 0x7fff;
    if (exponent > 0) return sign | (exponent + 8) << 10 | fraction << 7;
    if (fraction == 0) return sign;
    while (!(fraction << shift & 8)) shift++;
    return sign | (9 - shift) << 10 | (fraction << shift & 7) << 7;
}

void e4m3_pair(warp &w, const instr &i)
{
    uint32_t *const d = array<uint32_t>(w, i.o[0]);
    const uint16_t *const a = array<uint16_t>(w, i.o[1]);

    for_lanes(w.now.active, [=](unsigned l) {
        d[l] = half_of_e4m3(a[l] & 0xff) | half_of_e4m3(a[l] >> 8) << 16;
    });
}

struct entry {
    handler *run;
    unsigned to, from;
};

} // namespace

bool decode_converts(const words &name, const words &operands, source *from, instr *i)
{
    static const std::map<std::string, entry> known = {
        {"rn.f32.s32", {floating<float, int32_t>, 4, 4}},
        {"rn.f32.u32", {floating<float, uint32_t>, 4, 4}},
        {"rn.f32.s64", {floating<float, int64_t>, 4, 8}},
        {"rn.f32.u64", {floating<float, uint64_t>, 4, 8}},
        {"rn.f32.u16", {floating<float, uint16_t>, 4, 2}},
        {"rn.f32.s16", {floating<float, int16_t>, 4, 2}},
        {"rn.f32.f64", {floating<float, double>, 4, 8}},
        {"rn.f64.s32", {floating<double, int32_t>, 8, 4}},
        {"rn.f64.u32", {floating<double, uint32_t>, 8, 4}},
        {"rn.f64.u64", {floating<double, uint64_t>, 8, 8}},
        {"rn.f64.s64", {floating<double, int64_t>, 8, 8}},
        {"f64.f32", {floating<double, float>, 8, 4}},
        {"f32.f16", {from_half, 4, 2}},
        {"rna.tf32.f32", {tf32, 4, 4}},
        {"rn.f16x2.e4m3x2", {e4m3_pair, 4, 2}},
        {"rzi.s32.f32", {truncated<int32_t, float>, 4, 4}},
        {"rzi.u32.f32", {truncated<uint32_t, float>, 4, 4}},
        {"rzi.s64.f32", {truncated<int64_t, float>, 8, 4}},
        {"rzi.u64.f32", {truncated<uint64_t, float>, 8, 4}},
        {"rzi.s64.f64", {truncated<int64_t, double>, 8, 8}},
        {"rzi.u64.f64", {truncated<uint64_t, double>, 8, 8}},
        {"rzi.s32.f64", {truncated<int32_t, double>, 4, 8}},
    };
    std::string types;

    if (name[0] != "cvt") return false;
    for (size_t k = 1; k < name.size(); k++) types += (k > 1 ? "." : "") + name[k];
    if (types == "rn.bf16x2.f32" && operands.size() == 3) {
        i->run = bf16_pair;
        i->o = {from->value(operands[0], 4), from->value(operands[1], 4),
                from->value(operands[2], 4)};
        return true;
    }

    auto found = known.find(types);

    if (operands.size() != 2) return false;
    if (found != known.end()) {
        i->run = found->second.run;
        i->o = {from->value(operands[0], found->second.to),
                from->value(operands[1], found->second.from)};
        return true;
    }
    i->run = name.size() == 3 ? integer_to(name[1], name[2]) : nullptr;
    if (!i->run) return false;
    i->bytes = (uint8_t)from->bytes_of(operands[0]);
    i->bytes_of = (uint8_t)from->bytes_of(operands[1]);
    if (i->bytes == 0 || i->bytes_of == 0) return false;
    i->o = {from->value(operands[0], i->bytes), from->value(operands[1], i->bytes_of)};
    return true;
}

void decode(const std::string &name, const std::vector<std::string> &operands, source *from,
            instr *i)
{
    words parts;

    for (size_t at = 0; at <= name.size();) {
        size_t stop = name.find('.', at);

        if (stop == std::string::npos) stop = name.size();
        parts.push_back(name.substr(at, stop - at));
        at = stop + 1;
    }
    i->results = 1;
    if (decode_values(parts, operands, from, i) || decode_converts(parts, operands, from, i) ||
        decode_memory(parts, operands, from, i) || decode_moves(parts, operands, from, i) ||
        decode_warp(parts, operands, from, i)) {
        return;
    }
    fprintf(stderr, "ptx: not known: %s\n", from->line().c_str());
    abort();
}

} // namespace ptx
