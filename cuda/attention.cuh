/* SPDX-License-Identifier: Apache-2.0 */
/* attention.cuh - one warp's part of attention: 16 queries along a leaf of the cache; see
 * attention.cu.
 *
 * Keys and values go from memory into the registers that the products want them in, 16 bytes a
 * load, and nowhere else: the order of columns and keys within a product is what the lanes happen
 * to hold, alike in both factors.
 *
 * Precision.  Queries, weights, and keys and values of float32 enter products as two floats of 11
 * bits each, of which the product of the lower ones is left out: a product is within 1.25 2^-20 of
 * exact.  Keys and values of bf16 have 8 bits, those of fp16 11, subnormal ones too once they are
 * floats: they enter as they are, in two products instead of three, and a product is within 2^-21
 * of exact.
 *
 * Kv is weights_f32, weights_bf16 or weights_f16 (ops.cuh): 16 bytes of a cache as floats. */
#ifndef SPC_CUDA_ATTENTION_CUH
#define SPC_CUDA_ATTENTION_CUH

#include "ops.h"

#include "ops.cuh"

enum {
    STRIP = 16, /* queries of a warp */
    STEP = 16,  /* keys of a step */
};

/* Columns of values that a warp mixes: of larger heads two do half each, from the same scores. */
static __host__ __device__ constexpr int32_t columns_of(int32_t head_dim)
{
    return head_dim <= 128 ? head_dim : 128;
}

static_assert((int)STEP == (int)SPC_CUDA_PAGE_TOKENS, "a step is a page");

/* ---- products of float32 ---------------------------------------------------------------------
 */

/* COUNT floats as sums of two of 11 bits: rounded, and what that leaves, of which a product takes
 * the upper bits.  NaN and infinities pass through one or the other. */
template <int COUNT> struct attend_halves {
    uint32_t high[COUNT], low[COUNT];

    __device__ __forceinline__ void split(int i, float x)
    {
        high[i] = (spc_float_bits(x) + 0x1000u) & 0xffffe000u; /* two plain operations */
        low[i] = spc_float_bits(x - spc_bits_float(high[i]));
    }
};

/* c += a b, 16 x 8 by 8 x 8; mma_16x8x8 says which lane holds what. */
static __device__ __forceinline__ void multiply(float *c, float *less, const attend_halves<4> &a,
                                                const attend_halves<2> &b)
{
    mma_16x8x8(less, a.low, b.high);
    mma_16x8x8(less, a.high, b.low);
    mma_16x8x8(c, a.high, b.high);
}

/* The same where b is two numbers of a cache, which in one of 16 bits have no lower part.
 *
 * less   sums of what lower parts have to do with, which may be c */
template <typename Kv>
static __device__ __forceinline__ void
multiply_entries(float *c, float *less, const attend_halves<4> &a, float first, float second)
{
    if (Kv::COUNT == 8) {
        const uint32_t b[2] = {spc_float_bits(first), spc_float_bits(second)};

        mma_16x8x8(less, a.low, b);
        mma_16x8x8(c, a.high, b);
    } else {
        attend_halves<2> b;

        b.split(0, first);
        b.split(1, second);
        multiply(c, less, a, b);
    }
}

/* ---- entries of the cache --------------------------------------------------------------------
 */

/* Bytes of an entry.  VECTOR: heads are multiples of 16 bytes, all aligned so, and entries are
 * Kv's.  Otherwise one kernel takes every type, an entry at a time, as floats. */
template <typename Kv, bool VECTOR>
static __device__ __forceinline__ int32_t entry_bytes(spc_weight_type type)
{
    if (VECTOR) return 16 / Kv::COUNT;
    return type == SPC_WEIGHT_F32 ? 4 : 2;
}

static __device__ __forceinline__ uint32_t load_entry(const char *head, spc_weight_type type,
                                                      int32_t at)
{
    if (type == SPC_WEIGHT_F32) return ((const uint32_t *)head)[at];

    const uint32_t bits = ((const uint16_t *)head)[at];

    return type == SPC_WEIGHT_BF16 ? bits << 16 : spc_float_bits(weights_f16::one(bits));
}

/* COUNT entries of a head from `at` on; 0 behind its end and where there is no head. */
template <typename Kv, bool VECTOR>
static __device__ __forceinline__ uint4 load_entries(const char *head, spc_weight_type type,
                                                     int32_t at, int32_t dim, bool there)
{
    uint4 x = {0, 0, 0, 0};

    if (!there || at >= dim) return x;
    if (VECTOR) return *(const uint4 *)(head + at * entry_bytes<Kv, VECTOR>(type));
    x.x = load_entry(head, type, at);
    if (at + 1 < dim) x.y = load_entry(head, type, at + 1);
    if (at + 2 < dim) x.z = load_entry(head, type, at + 2);
    if (at + 3 < dim) x.w = load_entry(head, type, at + 3);
    return x;
}

/* ---- a strip ---------------------------------------------------------------------------------
 *
 * Lane 4 g + t holds of queries g and g + 8 the scores of keys 2 t, 2 t + 1, 8 + 2 t and 9 + 2 t of
 * a step, and of their mixed values 2 COUNT columns from 8 COUNT j + 2 COUNT t on. */

template <typename Kv, int DIM> struct attend_queries {
    /* rows g and g + 1, read 16 bytes at a time in steps of COUNT floats, use different banks */
    enum { PAD = Kv::COUNT == 4 ? 16 : 4 };
    alignas(16) float query[STRIP][DIM + PAD];
};

template <typename Kv, int DIM> struct attend_strip {
    enum { COUNT = Kv::COUNT, COLUMNS = columns_of(DIM), TILES = COLUMNS / 8 };
    int32_t first_column;     /* of its values */
    int32_t row[2], head[2];  /* of queries g and g + 8 */
    int32_t from[2], to[2];   /* keys they see; none: there is no such query */
    int32_t all_from, all_to; /* keys that all queries of the strip see */
    float max[2], sum[2];     /* of a leaf; sum: of this lane's keys */
    bool bad[2];              /* a score was none, or a value behind it */
    float mixed[TILES][4]; /* [n]: query g, columns column_of(n, 0) and (n, 1), the same of g + 8 */

    /* Where mixed[n][2 r + i] belongs in its head. */
    __device__ __forceinline__ int32_t column_of(int n, int i) const
    {
        return first_column + 8 * COUNT * (n / COUNT) + 2 * COUNT * (int)(threadIdx.x % 4) +
               n % COUNT + COUNT * i;
    }
};

/* The larger of what the four lanes of a query hold. */
static __device__ __forceinline__ float quad_max(float x)
{
    for (int width = 1; width <= 2; width *= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, x, width);

        x = other > x ? other : x;
    }
    return x;
}

static __device__ __forceinline__ float quad_sum(float x)
{
    for (int width = 1; width <= 2; width *= 2) x += __shfl_xor_sync(0xffffffffu, x, width);
    return x;
}

/* COLUMNS columns of a step's values: [key / 8][key % 2] of key / 2 % 4 = t.
 */
template <typename Kv, int COLUMNS, bool VECTOR> struct attend_values {
    enum { COUNT = Kv::COUNT, LOADS = COLUMNS / (8 * COUNT) };
    uint4 part[2][2][LOADS];

    __device__ __forceinline__ void load(const char *value, spc_weight_type type, int32_t count,
                                         int32_t dim, int32_t first_column)
    {
        const int32_t row = dim * entry_bytes<Kv, VECTOR>(type);
        const int lane = threadIdx.x % OPS_LANES, g = lane / 4, t = lane % 4;

#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int k = 8 * (i / 2) + 2 * t + i % 2;

#pragma unroll
            for (int j = 0; j < LOADS; j++) {
                part[i / 2][i % 2][j] = load_entries<Kv, VECTOR>(
                    value + k * row, type, first_column + 8 * COUNT * j + COUNT * g, dim,
                    k < count);
            }
        }
    }

    /* What is no number becomes 0, or it would reach queries that do not see it: 0 NaN is NaN.
     * The keys it stood at, a bit each. */
    __device__ __forceinline__ uint32_t sift()
    {
        uint32_t broken = 0;

#pragma unroll
        for (int i = 0; i < 4; i++) {
            float odd = 0.0f;

#pragma unroll
            for (int j = 0; j < LOADS; j++) {
                float x[COUNT];

                Kv::spread(part[i / 2][i % 2][j], x);
#pragma unroll
                for (int n = 0; n < COUNT; n++) odd += x[n] * 0.0f;
            }
            if (odd != odd) broken |= 1u << (8 * (i / 2) + 2 * (threadIdx.x % 4) + i % 2);
#pragma unroll
            for (int j = 0; j < LOADS; j++) {
                if (odd != odd) part[i / 2][i % 2][j] = {0, 0, 0, 0};
            }
        }
        return broken;
    }
};

/* Queries are bad that see one of these keys, in any lane's view. */
template <typename Kv, int DIM>
static __device__ __forceinline__ void spoil(attend_strip<Kv, DIM> *s, uint32_t broken,
                                             int32_t first)
{
    if (!(warp_max((float)broken) > 0.0f)) return;
    for (int k = 0; k < STEP; k++) {
        const bool of_key = warp_max((float)(broken >> k & 1u)) > 0.0f;

#pragma unroll
        for (int r = 0; r < 2; r++) {
            s->bad[r] |= of_key && first + k >= s->from[r] && first + k < s->to[r];
        }
    }
}

/* 8 TILES keys of a step: [key / 8] of key % 8 = g. */
template <typename Kv, int DIM, bool VECTOR, int TILES> struct attend_keys {
    enum { COUNT = Kv::COUNT, LOADS = DIM / (4 * COUNT) };
    uint4 part[TILES][LOADS];

    /* Keys from `begin` on of a step's, of which `count` are there. */
    __device__ __forceinline__ void load(const char *key, spc_weight_type type, int32_t begin,
                                         int32_t count, int32_t dim)
    {
        const int32_t row = dim * entry_bytes<Kv, VECTOR>(type);
        const int lane = threadIdx.x % OPS_LANES, g = lane / 4, t = lane % 4;

#pragma unroll
        for (int u = 0; u < TILES; u++) {
            const int at = begin + 8 * u + g;

#pragma unroll
            for (int s = 0; s < LOADS; s++) {
                part[u][s] = load_entries<Kv, VECTOR>(key + at * row, type,
                                                      4 * COUNT * s + COUNT * t, dim, at < count);
            }
        }
    }

    /* Their scores: queries from shared memory.  All products of a key are added to one sum, each
     * waiting for the one before; two sums, where there are registers, wait half as long. */
    __device__ __forceinline__ void score(const attend_queries<Kv, DIM> &shared,
                                          float (*score)[4]) const
    {
        const int lane = threadIdx.x % OPS_LANES, g = lane / 4, t = lane % 4;
        float more[TILES][4], (*less)[4] = DIM / COUNT <= 16 ? more : score;

#pragma unroll
        for (int i = 0; i < TILES * 4; i++) more[i / 4][i % 4] = 0.0f;
        __syncwarp(); /* a product is of all lanes; some went another way to get here */
#pragma unroll
        for (int s = 0; s < LOADS; s++) {
            float of_key[TILES][COUNT];

#pragma unroll
            for (int u = 0; u < TILES; u++) Kv::spread(part[u][s], of_key[u]);
#pragma unroll
            for (int i = 0; i < COUNT; i += 4) {
                const int column = 4 * COUNT * s + COUNT * t + i;
                const float4 upper = *(const float4 *)&shared.query[g][column];
                const float4 lower = *(const float4 *)&shared.query[g + 8][column];
                attend_halves<4> q[2];

                q[0].split(0, upper.x);
                q[0].split(1, lower.x);
                q[0].split(2, upper.y);
                q[0].split(3, lower.y);
                q[1].split(0, upper.z);
                q[1].split(1, lower.z);
                q[1].split(2, upper.w);
                q[1].split(3, lower.w);
#pragma unroll
                for (int u = 0; u < TILES; u++) {
                    multiply_entries<Kv>(score[u], less[u], q[0], of_key[u][i], of_key[u][i + 1]);
                    multiply_entries<Kv>(score[u], less[u], q[1], of_key[u][i + 2],
                                         of_key[u][i + 3]);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < TILES * 4; i++) {
            if (less == more) score[i / 4][i % 4] += more[i / 4][i % 4];
        }
    }
};

/* From products to weights: scale, cap, bias; maxima and sums go along. */
template <typename Kv, int DIM>
static __device__ __forceinline__ void weigh(attend_strip<Kv, DIM> *s, const spc_attend_args &a,
                                             int32_t first, float (*score)[4])
{
    const int t = threadIdx.x % 4;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = -SPC_INFINITY, base, shrink;

#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int32_t key = first + 8 * (i / 2) + 2 * t + i % 2;
            float *x = &score[i / 2][2 * r + i % 2];

            if (key < s->from[r] || key >= s->to[r]) continue;
            *x *= a.scale;
            s->bad[r] |= !(*x - *x == 0.0f); /* before a cap makes a number of an infinite key */
            if (a.cap > 0.0f) *x = bounded(*x, a.cap);
            if (a.bias) {
                *x += a.bias[s->head[r] * (2 * (int64_t)a.context - 1) + key -
                             a.position[s->row[r]] + a.context - 1];
            }
            s->bad[r] |= !(*x - *x == 0.0f);
            top = *x > top ? *x : top;
        }
        top = quad_max(top);
        top = top > s->max[r] ? top : s->max[r];
        base = top > -SPC_INFINITY ? top : 0.0f; /* nothing seen yet */
        shrink = spc_exp2((s->max[r] - base) * SPC_LOG2_E);
        s->max[r] = top;
        s->sum[r] *= shrink;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int32_t key = first + 8 * (i / 2) + 2 * t + i % 2;
            float *x = &score[i / 2][2 * r + i % 2];

            *x = key >= s->from[r] && key < s->to[r] ? spc_exp2((*x - base) * SPC_LOG2_E) : 0.0f;
            s->sum[r] += *x;
        }
#pragma unroll
        for (int n = 0; n < s->TILES; n++) {
            s->mixed[n][2 * r] *= shrink;
            s->mixed[n][2 * r + 1] *= shrink;
        }
    }
}

/* Who has registers for a step's keys and values at once asks for each a product ahead: values
 * before scores are taken, the next step's keys before values are mixed.  One after the other, what
 * a step waits for is two trips to memory. */
template <typename Kv, int DIM> static __host__ __device__ constexpr bool looks_ahead(void)
{
    return DIM / Kv::COUNT <= 16;
}

/* Where a step's keys and values are, and how many of them. */
typedef struct {
    const char *key, *value;
    int32_t count;
} attend_place;

template <typename Kv, bool VECTOR>
static __device__ __forceinline__ attend_place entries_of(const spc_attend_args &a, int64_t page,
                                                          int32_t count)
{
    const int64_t at = page * entry_bytes<Kv, VECTOR>(a.cache.type);

    return {(const char *)a.cache.key + at, (const char *)a.cache.value + at, count};
}

/* The keys from `first` on, as far as the strip sees them. */
template <typename Kv, int DIM, bool VECTOR>
static __device__ __forceinline__ void
step(attend_strip<Kv, DIM> *s, const attend_queries<Kv, DIM> &shared, const spc_attend_args &a,
     attend_keys<Kv, DIM, VECTOR, 2> *ahead, const attend_place &at, const attend_place &next,
     int32_t first)
{
    enum { COUNT = Kv::COUNT };
    const spc_weight_type type = a.cache.type;
    const bool edge = first < s->all_from || first + STEP > s->all_to;
    float score[2][4] = {{0.0f, 0.0f, 0.0f, 0.0f}, {0.0f, 0.0f, 0.0f, 0.0f}};
    attend_values<Kv, columns_of(DIM), VECTOR> v;

    if (looks_ahead<Kv, DIM>()) {
        v.load(at.value, type, at.count, a.head_dim, s->first_column);
        ahead->score(shared, score);
        ahead->load(next.key, type, 0, next.count, a.head_dim);
    } else if (DIM / COUNT <= 32) {
        attend_keys<Kv, DIM, VECTOR, 2> k;

        k.load(at.key, type, 0, at.count, a.head_dim);
        k.score(shared, score);
    } else {
#pragma unroll
        for (int u = 0; u < 2; u++) { /* registers are too few for more */
            attend_keys<Kv, DIM, VECTOR, 1> k;

            __syncwarp(); /* no load before */
            k.load(at.key, type, 8 * u, at.count, a.head_dim);
            k.score(shared, score + u);
        }
        __syncwarp();
    }
    /* on its way while scores become weights */
    if (!looks_ahead<Kv, DIM>()) v.load(at.value, type, at.count, a.head_dim, s->first_column);
    weigh(s, a, first, score);
    if (edge) spoil(s, v.sift(), first);
    __syncwarp(); /* a product is of all lanes */
#pragma unroll
    for (int u = 0; u < 2; u++) {
        attend_halves<4> weight; /* k of this product: t is key 2 t, 4 + t is key 2 t + 1 */

        weight.split(0, score[u][0]);
        weight.split(1, score[u][2]);
        weight.split(2, score[u][1]);
        weight.split(3, score[u][3]);
#pragma unroll
        for (int j = 0; j < v.LOADS; j++) {
            float even[COUNT], odd[COUNT];

            Kv::spread(v.part[u][0][j], even);
            Kv::spread(v.part[u][1][j], odd);
#pragma unroll
            for (int n = 0; n < COUNT; n++) {
                float *mixed = s->mixed[COUNT * j + n];

                multiply_entries<Kv>(mixed, mixed, weight, even[n], odd[n]);
            }
        }
    }
}

/* A leaf by itself, from key low on. */
template <typename Kv, int DIM, bool VECTOR>
static __device__ __forceinline__ void
sum_leaf(attend_strip<Kv, DIM> *s, const attend_queries<Kv, DIM> &shared, const spc_attend_args &a,
         int32_t slot, int32_t kv_head, int32_t low, int32_t end)
{
    attend_place at =
        entries_of<Kv, VECTOR>(a, page_row(a.cache, slot, kv_head, low, a.head_dim), end - low);
    attend_keys<Kv, DIM, VECTOR, 2> ahead;

    if (looks_ahead<Kv, DIM>()) ahead.load(at.key, a.cache.type, 0, at.count, a.head_dim);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        s->max[r] = -SPC_INFINITY;
        s->sum[r] = 0.0f;
        s->bad[r] = false;
    }
#pragma unroll
    for (int n = 0; n < s->TILES; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) s->mixed[n][i] = 0.0f;
    }
    for (int32_t first = low; first < end; first += STEP) {
        const int32_t after = first + STEP < end ? first + STEP : first; /* known in good time */
        const attend_place next = entries_of<Kv, VECTOR>(
            a, page_row(a.cache, slot, kv_head, after, a.head_dim), end - first - STEP);

        step<Kv, DIM, VECTOR>(s, shared, a, &ahead, at, next, first);
        at = next;
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const bool bad = quad_max(s->bad[r] ? 1.0f : 0.0f) > 0.0f;

        s->sum[r] = quad_sum(s->sum[r]);
#pragma unroll
        for (int n = 0; n < s->TILES; n++) {
            if (bad) s->mixed[n][2 * r] = s->mixed[n][2 * r + 1] = NAN;
        }
    }
}

#endif
