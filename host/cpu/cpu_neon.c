/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_neon.c - the kernels for 64-bit ARM: 16 lanes in four registers. */
#if defined(__aarch64__)
#include "cpu_kernels.h"
#include "weights/quant.h"

#include <arm_neon.h>

/* Four registers, one after the other. */
#define EACH(i) _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)

typedef struct {
    float32x4_t v[4];
} lanes;

static inline lanes lanes_set(float x)
{
    lanes to;

    EACH(i) to.v[i] = vdupq_n_f32(x);
    return to;
}

static inline lanes lanes_zero(void)
{
    return lanes_set(0.0f);
}

static inline lanes lanes_load(const float *x)
{
    lanes to;

    EACH(i) to.v[i] = vld1q_f32(x + 4 * i);
    return to;
}

static inline lanes lanes_bf16(const uint16_t *x)
{
    lanes to;

    EACH(i) to.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(x + 4 * i), 16));
    return to;
}

static inline float32x4_t halves(uint16x4_t bits)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(bits));
}

static inline lanes lanes_f16(const uint16_t *x)
{
    lanes to;

    EACH(i) to.v[i] = halves(vld1_u16(x + 4 * i));
    return to;
}

/* Eight of them as halves. */
static inline uint16x8_t f8_to_halves(spc_dtype dtype, uint8x8_t x)
{
    const uint16x8_t size = vdupq_n_u16(0x7f), nan = vdupq_n_u16(0x7e00);
    const uint16x8_t wide = vmovl_u8(x), small = vandq_u16(wide, size);
    uint16x8_t half;

    if (dtype == SPC_DTYPE_F8_E5M2) return vshlq_n_u16(wide, 8);
    half = vorrq_u16(vshlq_n_u16(vbicq_u16(wide, size), 8), vshlq_n_u16(small, 7));
    return vorrq_u16(half, vandq_u16(vceqq_u16(small, size), nan));
}

static inline lanes lanes_f8(spc_dtype dtype, const uint8_t *x)
{
    const uint16x8_t low = f8_to_halves(dtype, vld1_u8(x));
    const uint16x8_t high = f8_to_halves(dtype, vld1_u8(x + 8));

    return (lanes){{halves(vget_low_u16(low)), halves(vget_high_u16(low)),
                    halves(vget_low_u16(high)), halves(vget_high_u16(high))}};
}

static inline void lanes_store(float *x, lanes v)
{
    EACH(i) vst1q_f32(x + 4 * i, v.v[i]);
}

static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    EACH(i) c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
    return c;
}

/* Sixteen lanes folded to four. */
static inline float32x4_t four_of(lanes v)
{
    return vaddq_f32(vaddq_f32(v.v[0], v.v[2]), vaddq_f32(v.v[1], v.v[3]));
}

static inline float lanes_sum(lanes v)
{
    const float32x4_t four = four_of(v);
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));

    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

/* Two lanes of a, then two of b. */
static inline float32x4_t two_of_both(lanes a, lanes b)
{
    const float32x4_t x = four_of(a), y = four_of(b);

    return vaddq_f32(vcombine_f32(vget_low_f32(x), vget_low_f32(y)),
                     vcombine_f32(vget_high_f32(x), vget_high_f32(y)));
}

static inline void lanes_sum4(float *out, lanes a, lanes b, lanes c, lanes d)
{
    vst1q_f32(out, vpaddq_f32(two_of_both(a, b), two_of_both(c, d)));
}

/* ---- integers ---------------------------------------------------------------------------------
 */

static inline lanes lanes_mul(lanes a, lanes b)
{
    EACH(i) a.v[i] = vmulq_f32(a.v[i], b.v[i]);
    return a;
}

static inline lanes lanes_add(lanes a, lanes b)
{
    EACH(i) a.v[i] = vaddq_f32(a.v[i], b.v[i]);
    return a;
}

static inline lanes lanes_i8(const int8_t *bytes)
{
    const int8x16_t all = vld1q_s8(bytes);
    const int16x8_t low = vmovl_s8(vget_low_s8(all)), high = vmovl_s8(vget_high_s8(all));

    return (lanes){{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                    vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
                    vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                    vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

typedef struct {
    uint32x4_t v[4]; /* outputs 0 .. 3, 4 .. 7, 8 .. 11, 12 .. 15 */
} quads;

/* Four by four words of four rows across, out[c].v[i]. */
static inline void turn_four(const uint8_t *at, int64_t apart, int i, quads *out)
{
    uint32x4_t row[4], even[2], odd[2];

    EACH(r) row[r] = vreinterpretq_u32_u8(vld1q_u8(at + r * apart));
#pragma GCC unroll 2
    for (int p = 0; p < 2; p++) {
        even[p] = vtrn1q_u32(row[2 * p], row[2 * p + 1]);
        odd[p] = vtrn2q_u32(row[2 * p], row[2 * p + 1]);
    }
#define PAIRS(which, words) \
    vreinterpretq_u32_u64(  \
        which(vreinterpretq_u64_u32((words)[0]), vreinterpretq_u64_u32((words)[1])))
    out[0].v[i] = PAIRS(vtrn1q_u64, even);
    out[1].v[i] = PAIRS(vtrn1q_u64, odd);
    out[2].v[i] = PAIRS(vtrn2q_u64, even);
    out[3].v[i] = PAIRS(vtrn2q_u64, odd);
#undef PAIRS
}

static inline void quads_turn4(const uint8_t *at, int64_t apart, quads *out)
{
    EACH(i) turn_four(at + 4 * i * apart, apart, i, out);
}

static inline void quads_turn8(const uint8_t *at, int64_t apart, quads *out)
{
    quads_turn4(at, apart, out);
    quads_turn4(at + 16, apart, out + 4);
}

static inline quads quads_all(int32_t x)
{
    quads to;

    EACH(i) to.v[i] = vdupq_n_u32((uint32_t)x);
    return to;
}

static inline quads quads_and(quads v, uint8_t byte)
{
    EACH(i) v.v[i] = vandq_u32(v.v[i], vdupq_n_u32(byte * 0x01010101u));
    return v;
}

static inline quads quads_or(quads v, quads w)
{
    EACH(i) v.v[i] = vorrq_u32(v.v[i], w.v[i]);
    return v;
}

static inline quads quads_up(quads v, int n)
{
    EACH(i) v.v[i] = v.v[i] << n;
    return v;
}

static inline quads quads_down(quads v, int n)
{
    EACH(i) v.v[i] = v.v[i] >> n;
    return v;
}

static inline quads quads_fifth(quads v, quads bits, int c)
{
    static const uint8_t lane[16] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};
    const uint8x16_t from = vaddq_u8(vld1q_u8(lane), vdupq_n_u8((uint8_t)(c / 2)));
    const uint8x16_t bit = vreinterpretq_u8_u32(vdupq_n_u32(c % 2 ? 0x80402010u : 0x08040201u));

    EACH(i)
    {
        const uint8x16_t byte = vqtbl1q_u8(vreinterpretq_u8_u32(bits.v[i]), from);
        const uint8x16_t set = vandq_u8(vtstq_u8(byte, bit), vdupq_n_u8(16));

        v.v[i] = vorrq_u32(v.v[i], vreinterpretq_u32_u8(set));
    }
    return v;
}

static inline quads quads_byte(quads v, int k)
{
    EACH(i) v.v[i] = v.v[i] >> 8 * k & vdupq_n_u32(255);
    return v;
}

static inline quads quads_signed_byte(quads v, int k)
{
    EACH(i)
    {
        v.v[i] = vreinterpretq_u32_s32(vreinterpretq_s32_u32(v.v[i] << (24 - 8 * k)) >> 24);
    }
    return v;
}

static inline lanes lanes_of(quads v)
{
    lanes to;

    EACH(i) to.v[i] = vcvtq_f32_s32(vreinterpretq_s32_u32(v.v[i]));
    return to;
}

static inline lanes lanes_low_half(quads v)
{
    lanes to;

    EACH(i) to.v[i] = halves(vmovn_u32(v.v[i]));
    return to;
}

static inline lanes lanes_high_half(quads v)
{
    lanes to;

    EACH(i) to.v[i] = halves(vshrn_n_u32(v.v[i], 16));
    return to;
}

#define EIGHT_LESS 0

static inline quads quads_eight(quads v)
{
    return v;
}

static inline quads quads_levels(quads v)
{
    static const int8_t level[16] = {SPC_QUANT_LEVELS};
    const int8x16_t table = vld1q_s8(level);

    EACH(i)
    {
        v.v[i] = vreinterpretq_u32_s8(vqtbl1q_s8(table, vreinterpretq_u8_u32(v.v[i])));
    }
    return v;
}

/* Four products of signed bytes, in each lane: those without a sign are below 64. */
static inline int32x4_t dot_four(int32x4_t sum, int8x16_t w, int8x16_t x)
{
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, w, x);
#else
    const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);

    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}

static inline quads quads_dot(quads sum, quads w, const int8_t *x, bool eight)
{
    int32_t word;

    (void)eight;
    __builtin_memcpy(&word, x, sizeof word);

    const int8x16_t four = vreinterpretq_s8_s32(vdupq_n_s32(word));

    EACH(i)
    {
        sum.v[i] = vreinterpretq_u32_s32(
            dot_four(vreinterpretq_s32_u32(sum.v[i]), vreinterpretq_s8_u32(w.v[i]), four));
    }
    return sum;
}

#define BLOCK_OUT   2
#define BLOCK_WIDE  4
#define BLOCK_ROWS  3
#define QUANT_FEW   1
#define ATTEND_TILE 1
#if defined(__ARM_FEATURE_DOTPROD)
#define UNIT      spc_cpu_neondot
#define UNIT_NAME "neondot"
#else
#define UNIT      spc_cpu_neon
#define UNIT_NAME "neon"
#endif
#include "cpu_kernels_body.h"
#endif
