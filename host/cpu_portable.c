/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_portable.c - the kernels in plain C, and the choice between units at run time. */
#include "cpu_kernels.h"

#include "weights/quant.h"

#include <stdio.h>
#include <string.h>

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

static inline lanes lanes_pick(lanes v, int g)
{
    lanes to;

    for (int i = 0; i < 16; i++) to.lane[i] = v.lane[4 * g + i / 4];
    return to;
}

static inline lanes lanes_u8(uint64_t bytes)
{
    lanes v = lanes_zero();

    for (int i = 0; i < 8; i++) v.lane[i] = (float)(bytes >> (8 * i) & 255);
    return v;
}

static inline lanes lanes_u8_twice(uint64_t bytes)
{
    lanes v;

    for (int i = 0; i < 16; i++) v.lane[i] = (float)(bytes >> (i / 2 * 8) & 255);
    return v;
}

static inline lanes lanes_i8(const int8_t *bytes)
{
    lanes v;

    for (int i = 0; i < 16; i++) v.lane[i] = (float)bytes[i];
    return v;
}

static inline float half_float(uint16_t half)
{
    return spc_half_to_float(half);
}

typedef struct {
    uint8_t byte[64];
} quads;

static inline quads quads_load(const uint8_t *a, const uint8_t *b)
{
    quads v;

    memcpy(v.byte, a, 32);
    memcpy(v.byte + 32, b, 32);
    return v;
}

static inline quads quads_twice(const uint8_t *a, const uint8_t *b)
{
    quads v;

    for (int i = 0; i < 4; i++) memcpy(v.byte + 16 * i, i < 2 ? a : b, 16);
    return v;
}

/* Bits that a neighbour lends are masked by the callers; here they are zeros. */
static inline quads quads_shift(quads v, int a, int b, int c, int d)
{
    const int by[4] = {a, b, c, d};

    for (int i = 0; i < 64; i++) v.byte[i] = (uint8_t)(v.byte[i] >> by[i / 16]);
    return v;
}

static inline quads quads_and(quads v, uint8_t byte)
{
    for (int i = 0; i < 64; i++) v.byte[i] &= byte;
    return v;
}

static inline quads quads_or(quads v, quads w)
{
    for (int i = 0; i < 64; i++) v.byte[i] |= w.byte[i];
    return v;
}

static inline quads quads_flip(quads v)
{
    for (int i = 0; i < 64; i++) v.byte[i] ^= 128;
    return v;
}

static inline quads quads_x(const int8_t *x)
{
    quads v;

    memcpy(v.byte, x, 64);
    return v;
}

static inline quads quads_up4(quads v)
{
    for (int i = 0; i < 64; i++) v.byte[i] = (uint8_t)(v.byte[i] << 4);
    return v;
}

static inline quads quads_bits(uint64_t bits)
{
    quads v;

    for (int i = 0; i < 64; i++) v.byte[i] = (uint8_t)((bits >> i & 1) << 4);
    return v;
}

static inline lanes quads_dot(quads w, quads x, int less)
{
    lanes v;

    for (int l = 0; l < 16; l++) {
        int32_t sum = 0;

        for (int i = 4 * l; i < 4 * l + 4; i++) sum += (w.byte[i] - less) * (int8_t)x.byte[i];
        v.lane[l] = (float)sum;
    }
    return v;
}

static inline lanes lanes_halves(const uint8_t *block, int bytes, int count, bool twice)
{
    uint16_t half[16] = {0};

    for (int i = 0; i < count; i++) {
        uint16_t word;

        memcpy(&word, block + i * bytes, sizeof word);
        half[twice ? 2 * i : i] = word;
        if (twice) half[2 * i + 1] = word;
    }
    return lanes_f16(half);
}

#define BLOCK_OUT  1
#define BLOCK_WIDE 1
#define BLOCK_ROWS 3
#define UNIT       spc_cpu_portable
#define UNIT_NAME  "portable"
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
