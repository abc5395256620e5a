/* SPDX-License-Identifier: Apache-2.0 */
/* values.cpp - instructions that make numbers of numbers (numbers.h), each lane for itself. */
#include <stdlib.h>
#include <string.h>

#include "numbers.h"
#include "ptx.h"

namespace ptx
{
namespace
{

/* ---- handlers -------------------------------------------------------------------------------- */

template <typename F, typename R, typename A = R> void unary(warp &w, const instr &i)
{
    R *const d = array<R>(w, i.o[0]);
    const A *const a = array<A>(w, i.o[1]);

    for_lanes(w.now.active, [=](unsigned l) { d[l] = (R)F::of(a[l]); });
}

template <typename F, typename A, typename B = A> void binary(warp &w, const instr &i)
{
    A *const d = array<A>(w, i.o[0]);
    const A *const a = array<A>(w, i.o[1]);
    const B *const b = array<B>(w, i.o[2]);

    for_lanes(w.now.active, [=](unsigned l) { d[l] = F::of(a[l], b[l]); });
}

template <typename R, typename A> void wide(warp &w, const instr &i)
{
    R *const d = array<R>(w, i.o[0]);
    const A *const a = array<A>(w, i.o[1]), *const b = array<A>(w, i.o[2]);

    for_lanes(w.now.active, [=](unsigned l) { d[l] = (R)a[l] * (R)b[l]; });
}

template <typename T> void multiply_add(warp &w, const instr &i)
{
    T *const d = array<T>(w, i.o[0]);
    const T *const a = array<T>(w, i.o[1]), *const b = array<T>(w, i.o[2]),
                   *const c = array<T>(w, i.o[3]);

    for_lanes(w.now.active, [=](unsigned l) { d[l] = (T)(a[l] * b[l] + c[l]); });
}

template <typename T> T fused(T a, T b, T c);

template <> float fused(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}

template <> double fused(double a, double b, double c)
{
    return __builtin_fma(a, b, c);
}

template <typename T> void fuse(warp &w, const instr &i)
{
    T *const d = array<T>(w, i.o[0]);
    const T *const a = array<T>(w, i.o[1]), *const b = array<T>(w, i.o[2]),
                   *const c = array<T>(w, i.o[3]);

    for_lanes(w.now.active, [=](unsigned l) { d[l] = plain(fused(a[l], b[l], c[l])); });
}

void fuse_bf16(warp &w, const instr &i)
{
    uint32_t *const d = array<uint32_t>(w, i.o[0]);
    const uint32_t *const a = array<uint32_t>(w, i.o[1]), *const b = array<uint32_t>(w, i.o[2]),
                          *const c = array<uint32_t>(w, i.o[3]);

    for_lanes(w.now.active, [=](unsigned l) {
        const auto upper = [](uint32_t x) { return max_nan_bf16::half(x & 0xffff0000u); };

        d[l] = fused_bf16(upper(a[l]), upper(b[l]), upper(c[l])) << 16 |
               fused_bf16(upper(a[l] << 16), upper(b[l] << 16), upper(c[l] << 16));
    });
}

#if defined(__x86_64__)
/* Half of a product's instructions are these: without the processor's own they are calls. */
__attribute__((target("avx2,fma"))) void fuse_fast(warp &w, const instr &i)
{
    float *const d = array<float>(w, i.o[0]);
    const float *const a = array<float>(w, i.o[1]), *const b = array<float>(w, i.o[2]),
                       *const c = array<float>(w, i.o[3]);
    float y[LANES];
    uint32_t mask = w.now.active;

    for (unsigned l = 0; l < LANES; l++) {
        const float sum = __builtin_fmaf(a[l], b[l], c[l]);
        union {
            uint32_t bits;
            float is;
        } nan = {0x7fffffffu};

        y[l] = sum != sum ? nan.is : sum;
    }
    if (mask == ALL) memcpy(d, y, sizeof y);
    for (mask = mask == ALL ? 0 : mask; mask; mask &= mask - 1) {
        d[__builtin_ctz(mask)] = y[__builtin_ctz(mask)];
    }
}
#endif

template <typename T> void select(warp &w, const instr &i)
{
    T *const d = array<T>(w, i.o[0]);
    const T *const a = array<T>(w, i.o[1]), *const b = array<T>(w, i.o[2]);
    const uint32_t *const p = array<uint32_t>(w, i.o[3]);

    for_lanes(w.now.active, [=](unsigned l) { d[l] = p[l] ? a[l] : b[l]; });
}

template <typename T, typename F> void compare(warp &w, const instr &i, F holds)
{
    uint32_t *const d = array<uint32_t>(w, i.o[0]);
    const T *const a = array<T>(w, i.o[1]), *const b = array<T>(w, i.o[2]);

    for_lanes(w.now.active, [=](unsigned l) { d[l] = holds(a[l], b[l]) ? ALL : 0; });
}

#define COMPARE(name, expression)                              \
    template <typename T> void name(warp &w, const instr &i)   \
    {                                                          \
        compare<T>(w, i, [](T a, T b) { return expression; }); \
    }

COMPARE(is_eq, a == b)
COMPARE(is_ne, a<b || a> b)
COMPARE(is_lt, a < b)
COMPARE(is_le, a <= b)
COMPARE(is_gt, a > b)
COMPARE(is_ge, a >= b)
COMPARE(is_equ, !(a < b || a > b))
COMPARE(is_neu, !(a == b))
COMPARE(is_ltu, !(a >= b))
COMPARE(is_leu, !(a > b))
COMPARE(is_gtu, !(a <= b))
COMPARE(is_geu, !(a < b))
COMPARE(is_num, a == a && b == b)
COMPARE(is_nan, a != a || b != b)

template <typename T> handler *comparison(const std::string &name)
{
    static const std::map<std::string, handler *> known = {
        {"eq", is_eq<T>},   {"ne", is_ne<T>},   {"lt", is_lt<T>},   {"le", is_le<T>},
        {"gt", is_gt<T>},   {"ge", is_ge<T>},   {"equ", is_equ<T>}, {"neu", is_neu<T>},
        {"ltu", is_ltu<T>}, {"leu", is_leu<T>}, {"gtu", is_gtu<T>}, {"geu", is_geu<T>},
        {"num", is_num<T>}, {"nan", is_nan<T>}};
    auto found = known.find(name);

    return found == known.end() ? nullptr : found->second;
}

handler *comparison_of(const std::string &name, const std::string &type)
{
    if (type == "u16" || type == "b16") return comparison<uint16_t>(name);
    if (type == "s16") return comparison<int16_t>(name);
    if (type == "u32" || type == "b32") return comparison<uint32_t>(name);
    if (type == "s32") return comparison<int32_t>(name);
    if (type == "u64" || type == "b64") return comparison<uint64_t>(name);
    if (type == "s64") return comparison<int64_t>(name);
    if (type == "f32") return comparison<float>(name);
    return type == "f64" ? comparison<double>(name) : nullptr;
}

void permute(warp &w, const instr &i)
{
    uint32_t *const d = array<uint32_t>(w, i.o[0]);
    const uint32_t *const a = array<uint32_t>(w, i.o[1]), *const b = array<uint32_t>(w, i.o[2]),
                          *const c = array<uint32_t>(w, i.o[3]);

    for_lanes(w.now.active, [=](unsigned l) {
        const uint64_t bytes = (uint64_t)b[l] << 32 | a[l];
        uint32_t out = 0;

        for (unsigned k = 0; k < 4; k++) {
            const uint32_t which = c[l] >> (4 * k);
            uint32_t byte = (uint32_t)(bytes >> (which % 8 * 8)) & 0xffu;

            if (which & 8) byte = byte & 0x80 ? 0xff : 0;
            out |= byte << (8 * k);
        }
        d[l] = out;
    });
}

/* Bits of a into b. */
template <typename T> void insert(warp &w, const instr &i)
{
    T *const d = array<T>(w, i.o[0]);
    const T *const a = array<T>(w, i.o[1]), *const b = array<T>(w, i.o[2]);
    const uint32_t *const at = array<uint32_t>(w, i.o[3]), *const many = array<uint32_t>(w, i.o[4]);
    const unsigned bits = 8 * sizeof(T);

    for_lanes(w.now.active, [=](unsigned l) {
        const unsigned from = at[l] & 0xff, count = many[l] & 0xff;
        const T ones = count >= bits ? (T)-1 : (T)(((T)1 << count) - 1);
        const T mask = from >= bits ? 0 : (T)(ones << from);

        d[l] = from >= bits ? b[l] : (T)((b[l] & ~mask) | ((T)(a[l] << from) & mask));
    });
}

void funnel_left(warp &w, const instr &i)
{
    uint32_t *const d = array<uint32_t>(w, i.o[0]);
    const uint32_t *const a = array<uint32_t>(w, i.o[1]), *const b = array<uint32_t>(w, i.o[2]),
                          *const c = array<uint32_t>(w, i.o[3]);

    for_lanes(w.now.active, [=](unsigned l) {
        d[l] = (uint32_t)(((uint64_t)b[l] << 32 | a[l]) << (c[l] & 31) >> 32);
    });
}

/* ---- names ----------------------------------------------------------------------------------- */

/* What executes an instruction, and the bytes of its operands. */
struct entry {
    handler *run;
    std::vector<unsigned> bytes;
};

typedef std::map<std::string, entry> table;

#define UNARY(name, f, T)            \
    {                                \
        name,                        \
        {                            \
            unary<f, T>,             \
            {                        \
                sizeof(T), sizeof(T) \
            }                        \
        }                            \
    }
#define BINARY(name, f, T)                      \
    {                                           \
        name,                                   \
        {                                       \
            binary<f, T>,                       \
            {                                   \
                sizeof(T), sizeof(T), sizeof(T) \
            }                                   \
        }                                       \
    }
#define SHIFT(name, f, T)               \
    {                                   \
        name,                           \
        {                               \
            binary<f, T, uint32_t>,     \
            {                           \
                sizeof(T), sizeof(T), 4 \
            }                           \
        }                               \
    }
#define WIDE(name, R, A)                        \
    {                                           \
        name,                                   \
        {                                       \
            wide<R, A>,                         \
            {                                   \
                sizeof(R), sizeof(A), sizeof(A) \
            }                                   \
        }                                       \
    }
#define SELECT(name, T)                            \
    {                                              \
        name,                                      \
        {                                          \
            select<T>,                             \
            {                                      \
                sizeof(T), sizeof(T), sizeof(T), 4 \
            }                                      \
        }                                          \
    }
#define FOUR(name, f, T)                                   \
    {                                                      \
        name,                                              \
        {                                                  \
            f,                                             \
            {                                              \
                sizeof(T), sizeof(T), sizeof(T), sizeof(T) \
            }                                              \
        }                                                  \
    }

table make_table()
{
    table t = {
        BINARY("add.s16", add, uint16_t),
        BINARY("add.s32", add, uint32_t),
        BINARY("add.u32", add, uint32_t),
        BINARY("add.s64", add, uint64_t),
        BINARY("add.u64", add, uint64_t),
        BINARY("add.rn.f32", add, float),
        BINARY("add.rn.f64", add, double),
        BINARY("sub.s16", sub, uint16_t),
        BINARY("sub.s32", sub, uint32_t),
        BINARY("sub.u32", sub, uint32_t),
        BINARY("sub.s64", sub, uint64_t),
        BINARY("sub.u64", sub, uint64_t),
        BINARY("sub.rn.f32", sub, float),
        BINARY("sub.rn.f64", sub, double),
        BINARY("mul.rn.f32", mul, float),
        BINARY("mul.rn.f64", mul, double),
        BINARY("mul.lo.s32", mul, uint32_t),
        BINARY("mul.lo.u32", mul, uint32_t),
        BINARY("mul.lo.s64", mul, uint64_t),
        BINARY("mul.lo.u64", mul, uint64_t),
        BINARY("mul.hi.s32", mul_hi, int32_t),
        BINARY("mul.hi.u32", mul_hi, uint32_t),
        BINARY("mul.hi.s64", mul_hi, int64_t),
        BINARY("mul.hi.u64", mul_hi, uint64_t),
        WIDE("mul.wide.s32", int64_t, int32_t),
        WIDE("mul.wide.u32", uint64_t, uint32_t),
        WIDE("mul.wide.s16", int32_t, int16_t),
        WIDE("mul.wide.u16", uint32_t, uint16_t),
        FOUR("mad.lo.s32", multiply_add<uint32_t>, uint32_t),
        FOUR("mad.lo.u32", multiply_add<uint32_t>, uint32_t),
        FOUR("mad.lo.s64", multiply_add<uint64_t>, uint64_t),
        FOUR("fma.rn.f32", fuse<float>, float),
        FOUR("fma.rn.f64", fuse<double>, double),
        FOUR("fma.rn.bf16x2", fuse_bf16, uint32_t),
        BINARY("div.rn.f32", divide, float),
        BINARY("div.rn.f64", divide, double),
        BINARY("div.s32", divide, int32_t),
        BINARY("div.u32", divide, uint32_t),
        BINARY("div.s64", divide, int64_t),
        BINARY("div.u64", divide, uint64_t),
        BINARY("rem.s32", rem, int32_t),
        BINARY("rem.u32", rem, uint32_t),
        BINARY("rem.s64", rem, int64_t),
        BINARY("rem.u64", rem, uint64_t),
        BINARY("min.s32", min, int32_t),
        BINARY("min.u32", min, uint32_t),
        BINARY("min.s64", min, int64_t),
        BINARY("min.u64", min, uint64_t),
        BINARY("min.f32", min, float),
        BINARY("max.s32", max, int32_t),
        BINARY("max.u32", max, uint32_t),
        BINARY("max.s64", max, int64_t),
        BINARY("max.u64", max, uint64_t),
        BINARY("max.f32", max, float),
        BINARY("max.NaN.f32", max_nan, float),
        BINARY("max.NaN.bf16x2", max_nan_bf16, uint32_t),
        BINARY("and.b16", bit_and, uint16_t),
        BINARY("and.b32", bit_and, uint32_t),
        BINARY("and.b64", bit_and, uint64_t),
        BINARY("and.pred", bit_and, uint32_t),
        BINARY("or.b16", bit_or, uint16_t),
        BINARY("or.b32", bit_or, uint32_t),
        BINARY("or.b64", bit_or, uint64_t),
        BINARY("or.pred", bit_or, uint32_t),
        BINARY("xor.b16", bit_xor, uint16_t),
        BINARY("xor.b32", bit_xor, uint32_t),
        BINARY("xor.b64", bit_xor, uint64_t),
        BINARY("xor.pred", bit_xor, uint32_t),
        SHIFT("shl.b16", shl, uint16_t),
        SHIFT("shl.b32", shl, uint32_t),
        SHIFT("shl.b64", shl, uint64_t),
        SHIFT("shr.u16", shr, uint16_t),
        SHIFT("shr.s16", shr, int16_t),
        SHIFT("shr.u32", shr, uint32_t),
        SHIFT("shr.s32", shr, int32_t),
        SHIFT("shr.u64", shr, uint64_t),
        SHIFT("shr.s64", shr, int64_t),
        SHIFT("shr.b32", shr, uint32_t),
        UNARY("neg.f32", negate, float),
        UNARY("neg.f64", negate, double),
        UNARY("neg.s16", negate, int16_t),
        UNARY("neg.s32", negate, int32_t),
        UNARY("neg.s64", negate, int64_t),
        UNARY("abs.f32", absolute, float),
        UNARY("abs.f64", absolute, double),
        UNARY("abs.s32", absolute, int32_t),
        UNARY("not.b16", bit_not, uint16_t),
        UNARY("not.b32", bit_not, uint32_t),
        UNARY("not.b64", bit_not, uint64_t),
        UNARY("not.pred", bit_not, uint32_t),
        UNARY("sqrt.rn.f32", root, float),
        UNARY("sqrt.rn.f64", root, double),
        UNARY("rcp.rn.f32", inverse, float),
        UNARY("rcp.rn.f64", inverse, double),
        UNARY("rcp.approx.ftz.f64", inverse_rough, double),
        UNARY("ex2.approx.ftz.f32", power_rough, float),
        UNARY("popc.b32", count_ones, uint32_t),
        FOUR("prmt.b32", permute, uint32_t),
        FOUR("shf.l.wrap.b32", funnel_left, uint32_t),
        {"bfi.b32", {insert<uint32_t>, {4, 4, 4, 4, 4}}},
        {"bfi.b64", {insert<uint64_t>, {8, 8, 8, 4, 4}}},
    };

    for (const char *kind : {"b", "u", "s", "f"}) {
        const std::string select_name = std::string("selp.") + kind;
        const std::string move_name = std::string("mov.") + kind;

        t[select_name + "16"] = {select<uint16_t>, {2, 2, 2, 4}};
        t[select_name + "32"] = {select<uint32_t>, {4, 4, 4, 4}};
        t[select_name + "64"] = {select<uint64_t>, {8, 8, 8, 4}};
        t[move_name + "16"] = {unary<same, uint16_t>, {2, 2}};
        t[move_name + "32"] = {unary<same, uint32_t>, {4, 4}};
        t[move_name + "64"] = {unary<same, uint64_t>, {8, 8}};
    }
    t["mov.pred"] = {unary<same, uint32_t>, {4, 4}};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        t["fma.rn.f32"].run = fuse_fast;
    }
#endif
    return t;
}

std::string join(const words &name)
{
    std::string out;

    for (const std::string &word : name) out += (out.empty() ? "" : ".") + word;
    return out;
}

} // namespace

bool decode_values(const words &name, const words &operands, source *from, instr *i)
{
    static const table known = make_table();
    auto found = known.find(join(name));

    if (name[0] == "setp" && name.size() == 3 && operands.size() == 3) {
        const unsigned bytes = (unsigned)atoi(name[2].c_str() + 1) / 8;

        i->run = comparison_of(name[1], name[2]);
        if (!i->run) return false;
        i->o = {from->value(operands[0], 4), from->value(operands[1], bytes),
                from->value(operands[2], bytes)};
        return true;
    }
    if (found == known.end() || found->second.bytes.size() != operands.size()) return false;
    if (name[0] == "mov" && (operands[0][0] == '{' || operands[1][0] == '{')) return false;
    if (operands[1] == "%globaltimer") return false; /* memory.cpp has these */
    if (name[0] == "mov" && from->variable(operands[1], i)) return false;
    i->run = found->second.run;
    for (size_t k = 0; k < operands.size(); k++) {
        i->o.push_back(from->value(operands[k], found->second.bytes[k]));
    }
    return true;
}

} // namespace ptx
