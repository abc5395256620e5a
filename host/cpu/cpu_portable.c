/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_portable.c - the kernels in plain C, and the choice between units at run time. */
#include "cpu_kernels.h"

#include "weights/quant.h"

#include <stdio.h>
#include <string.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

typedef struct {
    float lane[16];
} lanes;

static inline lanes lanes_set(float x)
{
    lanes v;

    for (int i = 0; i < 16; i++) v.lane[i] = x;
    return v;
}

static inline lanes lanes_zero(void)
{
    return lanes_set(0.0f);
}

static inline lanes lanes_load(const float *x)
{
    lanes v;

    for (int i = 0; i < 16; i++) v.lane[i] = x[i];
    return v;
}

static inline lanes lanes_bf16(const uint16_t *x)
{
    lanes v;

    for (int i = 0; i < 16; i++) v.lane[i] = spc_bfloat_to_float(x[i]);
    return v;
}

static inline lanes lanes_f16(const uint16_t *x)
{
    lanes v;

    for (int i = 0; i < 16; i++) v.lane[i] = spc_half_to_float(x[i]);
    return v;
}

static inline lanes lanes_f8(spc_dtype dtype, const uint8_t *x)
{
    lanes v;

    for (int i = 0; i < 16; i++) v.lane[i] = spc_half_to_float(spc_f8_to_half(dtype, x[i]));
    return v;
}

static inline void lanes_store(float *x, lanes v)
{
    for (int i = 0; i < 16; i++) x[i] = v.lane[i];
}

static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    for (int i = 0; i < 16; i++) c.lane[i] += a.lane[i] * b.lane[i];
    return c;
}

static inline float lanes_sum(lanes v)
{
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) v.lane[i] += v.lane[i + half];
    }
    return v.lane[0];
}

static inline void lanes_sum4(float *out, lanes a, lanes b, lanes c, lanes d)
{
    out[0] = lanes_sum(a);
    out[1] = lanes_sum(b);
    out[2] = lanes_sum(c);
    out[3] = lanes_sum(d);
}

/* ---- integers ---------------------------------------------------------------------------------
 */

static inline lanes lanes_mul(lanes a, lanes b)
{
    for (int i = 0; i < 16; i++) a.lane[i] *= b.lane[i];
    return a;
}

static inline lanes lanes_add(lanes a, lanes b)
{
    for (int i = 0; i < 16; i++) a.lane[i] += b.lane[i];
    return a;
}

static inline lanes lanes_i8(const int8_t *bytes)
{
    lanes v;

    for (int i = 0; i < 16; i++) v.lane[i] = (float)bytes[i];
    return v;
}

typedef struct {
    uint32_t lane[16];
} quads;

static inline void turn(const uint8_t *at, int64_t apart, int words, quads *out)
{
    for (int l = 0; l < 16; l++) {
        for (int c = 0; c < words; c++) memcpy(&out[c].lane[l], at + l * apart + 4 * c, 4);
    }
}

static inline void quads_turn4(const uint8_t *at, int64_t apart, quads *out)
{
    turn(at, apart, 4, out);
}

static inline void quads_turn8(const uint8_t *at, int64_t apart, quads *out)
{
    turn(at, apart, 8, out);
}

static inline quads quads_all(int32_t x)
{
    quads v;

    for (int l = 0; l < 16; l++) v.lane[l] = (uint32_t)x;
    return v;
}

static inline quads quads_and(quads v, uint8_t byte)
{
    for (int l = 0; l < 16; l++) v.lane[l] &= byte * 0x01010101u;
    return v;
}

static inline quads quads_or(quads v, quads w)
{
    for (int l = 0; l < 16; l++) v.lane[l] |= w.lane[l];
    return v;
}

static inline quads quads_up(quads v, int n)
{
    for (int l = 0; l < 16; l++) v.lane[l] <<= n;
    return v;
}

static inline quads quads_down(quads v, int n)
{
    for (int l = 0; l < 16; l++) v.lane[l] >>= n;
    return v;
}

static inline quads quads_fifth(quads v, quads bits, int c)
{
    for (int l = 0; l < 16; l++) {
        for (int j = 0; j < 4; j++) v.lane[l] |= (bits.lane[l] >> (4 * c + j) & 1) << (8 * j + 4);
    }
    return v;
}

static inline quads quads_byte(quads v, int k)
{
    for (int l = 0; l < 16; l++) v.lane[l] = v.lane[l] >> (8 * k) & 255;
    return v;
}

static inline quads quads_signed_byte(quads v, int k)
{
    for (int l = 0; l < 16; l++) {
        v.lane[l] = (uint32_t)(int32_t)(int8_t)(uint8_t)(v.lane[l] >> (8 * k));
    }
    return v;
}

static inline lanes lanes_of(quads v)
{
    lanes to;

    for (int l = 0; l < 16; l++) to.lane[l] = (float)(int32_t)v.lane[l];
    return to;
}

static inline lanes lanes_low_half(quads v)
{
    lanes to;

    for (int l = 0; l < 16; l++) to.lane[l] = spc_half_to_float((uint16_t)v.lane[l]);
    return to;
}

static inline lanes lanes_high_half(quads v)
{
    return lanes_low_half(quads_down(v, 16));
}

#define EIGHT_LESS 0

static inline quads quads_eight(quads v)
{
    return v;
}

static inline quads quads_levels(quads v)
{
    static const int8_t level[16] = {SPC_QUANT_LEVELS};

    for (int l = 0; l < 16; l++) {
        uint32_t four = 0;

        for (int i = 0; i < 4; i++) {
            four |= (uint32_t)(uint8_t)level[v.lane[l] >> (8 * i) & 15] << (8 * i);
        }
        v.lane[l] = four;
    }
    return v;
}

static inline quads quads_dot(quads sum, quads w, const int8_t *x, bool eight)
{
    for (int l = 0; l < 16; l++) {
        int32_t product = 0;

        for (int i = 0; i < 4; i++) {
            uint8_t byte = (uint8_t)(w.lane[l] >> (8 * i));

            product += (eight ? (int32_t)(int8_t)byte : (int32_t)byte) * x[i];
        }
        sum.lane[l] += (uint32_t)product;
    }
    return sum;
}

#define BLOCK_OUT   1
#define BLOCK_WIDE  1
#define BLOCK_ROWS  3
#define QUANT_FEW   0
#define ATTEND_TILE 1
#define UNIT        spc_cpu_portable
#define UNIT_NAME   "portable"
#include "cpu_kernels_body.h"

/* ---- choice -----------------------------------------------------------------------------------
 */

static bool is_present(const spc_cpu_kernels *unit)
{
#if defined(__x86_64__)
    if (unit == &spc_cpu_avx512vnni) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vnni");
    }
    if (unit == &spc_cpu_avx512) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    }
    if (unit == &spc_cpu_avx2) {
        /* every machine with AVX2 has F16C, which clang 14 cannot ask for */
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    }
#elif defined(__aarch64__)
    if (unit == &spc_cpu_neondot) return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
    if (unit == &spc_cpu_neon) return true;
#endif
    return unit == &spc_cpu_portable;
}

const spc_cpu_kernels *spc_cpu_kernels_find(const char *name, char *known)
{
    static const spc_cpu_kernels *const units[] = {
#if defined(__x86_64__)
        &spc_cpu_avx512vnni,
        &spc_cpu_avx512,
        &spc_cpu_avx2,
#elif defined(__aarch64__)
        &spc_cpu_neondot,
        &spc_cpu_neon,
#endif
        &spc_cpu_portable
    };
    const spc_cpu_kernels *found = NULL;
    int used = 0;

    if (known) known[0] = '\0';
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (!is_present(units[i])) continue;
        if (known) used += sprintf(known + used, "%s%s", used ? ", " : "", units[i]->name);
        if (!found && (!name || strcmp(name, units[i]->name) == 0)) found = units[i];
    }
    return found;
}
