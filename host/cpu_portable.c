/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_portable.c - the kernels in plain C, and the choice between units at run time. */
#include "cpu_kernels.h"

#include <stdio.h>

static float half_to_float(uint16_t half)
{
    union {
        uint32_t u;
        float f;
    } pun;
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u,
             part = half & 1023u;

    if (exponent == 31) {
        pun.u = sign | 0x7f800000u | part << 13;
    } else if (exponent > 0) {
        pun.u = sign | (exponent + 112) << 23 | part << 13;
    } else { /* subnormal: part * 2^-24 */
        pun.f = (float)part * 5.9604645e-8f;
        pun.u |= sign;
    }
    return pun.f;
}

static float bfloat_to_float(uint16_t value)
{
    union {
        uint32_t u;
        float f;
    } pun;

    pun.u = (uint32_t)value << 16;
    return pun.f;
}

float spc_element(const void *data, spc_dtype dtype, int64_t i)
{
    switch (dtype) {
    case SPC_DTYPE_BF16: return bfloat_to_float(((const uint16_t *)data)[i]);
    case SPC_DTYPE_F16: return half_to_float(((const uint16_t *)data)[i]);
    default: return ((const float *)data)[i];
    }
}

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

    for (int i = 0; i < 16; i++) v.lane[i] = bfloat_to_float(x[i]);
    return v;
}

static inline lanes lanes_f16(const uint16_t *x)
{
    lanes v;

    for (int i = 0; i < 16; i++) v.lane[i] = half_to_float(x[i]);
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
