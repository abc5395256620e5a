/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_quant_body.h - products with quantised matrices, included by cpu_kernels_body.h.
 *
 * A row of activations becomes 8-bit integers with a scale for each 32 entries; products of
 * integers are exact, so that only their scaling and adding up rounds.  All of that is
 * multiplications and additions that are not fused, in the same order everywhere: all units
 * and the portable loops agree to the bit.
 *
 * The result for an output: over its runs of 32 entries (Q2_K, Q3_K, Q6_K: 16), in their order,
 *
 *   sum    += (weight scale * activation scale) * (sum of the run's integer products)
 *   offset += weight offset * (activation scale * sum of the run's activation integers)
 *
 * the latter where the format has offsets, and sum + offset in the end.
 *
 * Sixteen outputs are computed together, one in each lane, so that a run of integer products is
 * added up inside a lane and converted and scaled once.  Their blocks lie a row of the matrix
 * apart; turning them makes vectors that hold the same four entries of all sixteen, and these serve
 * every row of activations.  (Lanes along a row instead, which needs no turning, convert and scale
 * eight times as often.) */

#include "cpu_quant_unpack.h"

/* What the five kinds of formats ask of the multiplication. */
typedef struct {
    int32_t run;  /* entries that share a scale */
    bool offsets; /* and an offset */
    bool eight;   /* bytes with a sign: Q8_0, IQ4_* */
} quant_kind;

ALWAYS_INLINE quant_kind kind_of(spc_dtype dtype)
{
    switch (dtype) {
    case SPC_DTYPE_Q8_0:
    case SPC_DTYPE_IQ4_NL:
    case SPC_DTYPE_IQ4_XS: return (quant_kind){32, false, true};
    case SPC_DTYPE_Q4_0:
    case SPC_DTYPE_Q5_0: return (quant_kind){32, false, false};
    case SPC_DTYPE_Q2_K: return (quant_kind){16, true, false};
    case SPC_DTYPE_Q3_K:
    case SPC_DTYPE_Q6_K: return (quant_kind){16, false, false};
    default: return (quant_kind){32, true, false};
    }
}

/* What is taken from the unsigned numbers of a format that has no offsets. */
static int32_t less_of(spc_dtype dtype)
{
    switch (dtype) {
    case SPC_DTYPE_Q8_0:
    case SPC_DTYPE_IQ4_NL:
    case SPC_DTYPE_IQ4_XS: return EIGHT_LESS;
    case SPC_DTYPE_Q4_0: return 8;
    case SPC_DTYPE_Q5_0: return 16;
    case SPC_DTYPE_Q3_K: return 4;
    case SPC_DTYPE_Q6_K: return 32;
    default: return 0;
    }
}

/* ---- multiply ---------------------------------------------------------------------------------
 */

/* Of one row of activations with 16 outputs. */
typedef struct {
    lanes sum, offset;
} quant_sum;

/* What is multiplied with: rows of activations, from a column on. */
typedef struct {
    const int8_t *q;
    const float *scale, *sum;
    const int32_t *total;
    int64_t stride;
} quant_rows;

ALWAYS_INLINE quant_rows rows_at(const spc_q8 *in, int64_t row, int64_t column)
{
    int64_t at = row * in->stride + column;

    return (quant_rows){in->q + at, in->scale + at / 32, in->sum + at / 32, in->total + at / 16,
                        in->stride};
}

/* The run `run` (entries[0 ..] are its, scale is its) times `rows` rows; rows and kind are
 * constants where this is inlined. */
ALWAYS_INLINE void multiply_run(quant_kind kind, const quads *entry, lanes scale, lanes offset,
                                int32_t less, const quant_rows *x, int32_t run, int32_t rows,
                                quant_sum *to)
{
    const int32_t first = run * kind.run;
    quads product[BLOCK_ROWS];

    UNROLL(8)
    for (int32_t r = 0; r < rows; r++) {
        const int32_t *total = x->total + (r * x->stride + first) / 16;

        product[r] = quads_all(kind.offsets     ? 0
                               : kind.run == 16 ? -less * total[0]
                                                : -less * (total[0] + total[1]));
    }
    UNROLL(8)
    for (int32_t c = 0; c < kind.run / 4; c++) {
        UNROLL(8)
        for (int32_t r = 0; r < rows; r++) {
            product[r] =
                quads_dot(product[r], entry[c], x->q + r * x->stride + first + 4 * c, kind.eight);
        }
    }
    UNROLL(8)
    for (int32_t r = 0; r < rows; r++) {
        int64_t at = (r * x->stride + first) / 32;
        lanes both = lanes_mul(scale, lanes_set(x->scale[at]));

        to[r].sum = lanes_add(to[r].sum, lanes_mul(both, lanes_of(product[r])));
        if (!kind.offsets) continue;

        const float sum = kind.run == 32
                              ? x->sum[at]
                              : x->scale[at] * (float)x->total[(r * x->stride + first) / 16];

        to[r].offset = lanes_add(to[r].offset, lanes_mul(offset, lanes_set(sum)));
    }
}

/* An unpacked chunk times `rows` rows. */
ALWAYS_INLINE void multiply(quant_kind kind, const unpacked *w, int32_t blocks, int32_t less,
                            const quant_rows *x, int32_t rows, quant_sum *to)
{
    const int32_t runs = blocks * 32 / kind.run;
    quant_sum sum[BLOCK_ROWS];

    UNROLL(8)
    for (int32_t r = 0; r < rows; r++) sum[r] = to[r];
    for (int32_t run = 0; run < runs; run++) {
        multiply_run(kind, w->entry + run * kind.run / 4, w->scale[run], w->offset[run], less, x,
                     run, rows, sum);
    }
    UNROLL(8)
    for (int32_t r = 0; r < rows; r++) to[r] = sum[r];
}

/* The same for any number of rows. */
ALWAYS_INLINE void multiply_all(quant_kind kind, const unpacked *w, int32_t blocks, int32_t less,
                                quant_rows x, int32_t rows, quant_sum *to)
{
    while (rows > 0) {
        int32_t tiles = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS, part = (rows + tiles - 1) / tiles;

        switch (part) {
        case 1: multiply(kind, w, blocks, less, &x, 1, to); break;
        case 2: multiply(kind, w, blocks, less, &x, 2, to); break;
#if BLOCK_ROWS > 3
        case 4: multiply(kind, w, blocks, less, &x, 4, to); break;
        case 5: multiply(kind, w, blocks, less, &x, 5, to); break;
        case 6: multiply(kind, w, blocks, less, &x, 6, to); break;
#endif
        default: multiply(kind, w, blocks, less, &x, 3, to); break;
        }
        x.q += part * x.stride;
        x.scale += part * x.stride / 32;
        x.sum += part * x.stride / 32;
        x.total += part * x.stride / 16;
        to += part;
        rows -= part;
    }
}

/* One body for all formats of a kind. */
typedef void (*multiply_fn)(const unpacked *w, int32_t blocks, int32_t less, quant_rows x,
                            int32_t rows, quant_sum *to);

static void multiply_offsets(const unpacked *w, int32_t blocks, int32_t less, quant_rows x,
                             int32_t rows, quant_sum *to)
{
    multiply_all(kind_of(SPC_DTYPE_Q4_K), w, blocks, less, x, rows, to);
}

static void multiply_less(const unpacked *w, int32_t blocks, int32_t less, quant_rows x,
                          int32_t rows, quant_sum *to)
{
    multiply_all(kind_of(SPC_DTYPE_Q4_0), w, blocks, less, x, rows, to);
}

static void multiply_eight(const unpacked *w, int32_t blocks, int32_t less, quant_rows x,
                           int32_t rows, quant_sum *to)
{
    multiply_all(kind_of(SPC_DTYPE_Q8_0), w, blocks, less, x, rows, to);
}

static void multiply_sixteen(const unpacked *w, int32_t blocks, int32_t less, quant_rows x,
                             int32_t rows, quant_sum *to)
{
    multiply_all(kind_of(SPC_DTYPE_Q6_K), w, blocks, less, x, rows, to);
}

static void multiply_sixteen_offsets(const unpacked *w, int32_t blocks, int32_t less, quant_rows x,
                                     int32_t rows, quant_sum *to)
{
    multiply_all(kind_of(SPC_DTYPE_Q2_K), w, blocks, less, x, rows, to);
}

/* ---- tiles ------------------------------------------------------------------------------------
 */

/* Sixteen outputs whose rows begin at `at`, `apart` bytes from each other. */
typedef struct {
    const uint8_t *at;
    int64_t apart;
    int32_t cols, less;
    const char *ahead; /* what the tile after this one reads, ... */
    int32_t lines;     /* ... in so many lines for each quarter of a chunk */
} quant_tile;

/* Part g of four of what is asked for ahead in a chunk.  All at once would fill the buffers of the
 * first-level cache and stop the loads behind it. */
ALWAYS_INLINE void prefetch_quarter(const quant_tile *t, int32_t chunk, int32_t g)
{
    const char *ahead = t->ahead + (chunk * 4 + g) * (int64_t)t->lines * 64;

    for (int32_t i = 0; i < t->lines; i++) __builtin_prefetch(ahead + 64 * i, 0, 2);
}

ALWAYS_INLINE int32_t blocks_at(const quant_tile *t, int32_t column)
{
    int32_t left = (t->cols - column) / 32;

    return left < 8 ? left : 8;
}

ALWAYS_INLINE int64_t chunk_bytes(spc_dtype dtype)
{
    return CHUNK / spc_dtype_elements(dtype) * spc_dtype_bytes(dtype);
}

#if QUANT_FEW > 0
/* Times few rows, a constant where this is inlined: entries go from registers into products. */
ALWAYS_INLINE void tile_few(spc_dtype dtype, const quant_tile *t, const spc_q8 *in, int64_t row,
                            int32_t rows, quant_sum *to)
{
    const quant_kind kind = kind_of(dtype);
    const int32_t runs = 64 / kind.run;
    const uint8_t *at = t->at;
    quant_sum sum[BLOCK_ROWS];
    unpacked w;

    UNROLL(8)
    for (int32_t r = 0; r < rows; r++) sum[r].sum = sum[r].offset = lanes_zero();
    for (int32_t column = 0; column < t->cols; column += CHUNK, at += chunk_bytes(dtype)) {
        int32_t blocks = blocks_at(t, column);
        quant_rows x = rows_at(in, row, column);

        if (spc_dtype_elements(dtype) == CHUNK) unpack_head(dtype, at, t->apart, &w);
        UNROLL(4)
        for (int32_t g = 0; g < 4; g++) {
            quads entry[16];

            if (2 * g >= blocks) break;
            prefetch_quarter(t, column / CHUNK, g);
            unpack_quarter(dtype, at, t->apart, g, blocks, &w, entry);
            UNROLL(4)
            for (int32_t h = 0; h < runs; h++) {
                int32_t run = runs * g + h;

                if (run * kind.run >= blocks * 32) break;
                multiply_run(kind, entry + h * kind.run / 4, w.scale[run], w.offset[run], t->less,
                             &x, run, rows, sum);
            }
        }
    }
    UNROLL(8)
    for (int32_t r = 0; r < rows; r++) to[r] = sum[r];
}
#endif

/* Times several: entries wait in the first-level cache. */
ALWAYS_INLINE void tile_rows(spc_dtype dtype, multiply_fn times, const quant_tile *t,
                             const spc_q8 *in, int64_t row, int32_t rows, quant_sum *sum)
{
    const uint8_t *at = t->at;
    unpacked w;

    for (int32_t r = 0; r < rows; r++) sum[r].sum = sum[r].offset = lanes_zero();
    for (int32_t column = 0; column < t->cols; column += CHUNK, at += chunk_bytes(dtype)) {
        int32_t blocks = blocks_at(t, column);

        if (spc_dtype_elements(dtype) == CHUNK) unpack_head(dtype, at, t->apart, &w);
        UNROLL(4)
        for (int32_t g = 0; g < 4; g++) {
            if (2 * g >= blocks) break;
            prefetch_quarter(t, column / CHUNK, g);
            unpack_quarter(dtype, at, t->apart, g, blocks, &w, w.entry + 16 * g);
        }
        times(&w, blocks, t->less, rows_at(in, row, column), rows, sum);
    }
}

/* The choice between the two. */
ALWAYS_INLINE void quant_tile_of(spc_dtype dtype, multiply_fn times, const quant_tile *t,
                                 const spc_q8 *in, int64_t row, int32_t rows, quant_sum *sum)
{
#if QUANT_FEW >= 1
    if (rows == 1) {
        tile_few(dtype, t, in, row, 1, sum);
        return;
    }
#endif
#if QUANT_FEW >= 2
    if (rows == 2) {
        tile_few(dtype, t, in, row, 2, sum);
        return;
    }
#endif
    tile_rows(dtype, times, t, in, row, rows, sum);
}

/* Rows of activations that one unpacking serves: their sums are on the stack. */
enum { QUANT_ROWS = 8 * BLOCK_ROWS };

/* The outputs from `skip` on of a tile. */
ALWAYS_INLINE void store_sums(spc_dtype dtype, const quant_sum *sum, int32_t skip, int32_t outs,
                              int32_t rows, float *const *out, int32_t at)
{
    for (int32_t r = 0; r < rows; r++) {
        float part[ALONG];

        lanes_store(part,
                    kind_of(dtype).offsets ? lanes_add(sum[r].sum, sum[r].offset) : sum[r].sum);
        memcpy(out[r] + at, part + skip, (size_t)outs * sizeof *part);
    }
}

/* A matrix's last outputs are computed with the ones in front of them, to make sixteen; those of a
 * matrix that has no sixteen each in all lanes. */
ALWAYS_INLINE void quant_of(const spc_matrix *m, spc_dtype dtype, multiply_fn times, int32_t from,
                            int32_t to, const spc_q8 *in, int32_t rows, float *const *out,
                            int32_t at)
{
    const int64_t length = (int64_t)m->cols / spc_dtype_elements(dtype) * spc_dtype_bytes(dtype);
    const bool few = m->rows < ALONG;
    const int64_t quarters = (m->cols + CHUNK / 4 - 1) / (CHUNK / 4);
    quant_tile t = {.apart = few ? 0 : length,
                    .cols = m->cols,
                    .less = less_of(dtype),
                    .lines = (int32_t)(ALONG * length / quarters + 63) / 64};
    quant_sum sum[QUANT_ROWS];

    for (int32_t row = 0; row < rows; row += QUANT_ROWS) {
        int32_t part = rows - row < QUANT_ROWS ? rows - row : QUANT_ROWS, outs;

        for (int32_t o = from; o < to; o += outs) {
            outs = few ? 1 : to - o < ALONG ? to - o : ALONG;

            int32_t skip = !few && o + ALONG > m->rows ? o + ALONG - m->rows : 0;

            t.at = (const uint8_t *)m->data + (o - skip) * length;
            t.ahead = (const char *)t.at + ALONG * length;
            quant_tile_of(dtype, times, &t, in, row, part, sum);
            store_sums(dtype, sum, skip, outs, part, out + row, at + o);
        }
    }
}

static void quant_linear(const spc_matrix *m, int32_t from, int32_t to, const spc_q8 *in,
                         int32_t rows, float *const *out, int32_t at)
{
#define OF(dtype, times)                                                    \
    case SPC_DTYPE_##dtype:                                                 \
        quant_of(m, SPC_DTYPE_##dtype, times, from, to, in, rows, out, at); \
        break
    switch (m->dtype) {
        OF(Q8_0, multiply_eight);
        OF(Q4_0, multiply_less);
        OF(Q4_1, multiply_offsets);
        OF(Q5_0, multiply_less);
        OF(Q5_1, multiply_offsets);
        OF(IQ4_NL, multiply_eight);
        OF(IQ4_XS, multiply_eight);
        OF(Q2_K, multiply_sixteen_offsets);
        OF(Q3_K, multiply_sixteen);
        OF(Q4_K, multiply_offsets);
        OF(Q5_K, multiply_offsets);
    default: quant_of(m, SPC_DTYPE_Q6_K, multiply_sixteen, from, to, in, rows, out, at);
    }
#undef OF
}

/* ---- activations ------------------------------------------------------------------------------
 */

/* 32 entries: q = nearest (ties to even) of x 127 / max |x|.  Loops that compilers turn into
 * vectors. */
ALWAYS_INLINE void quantise_block(const float *x, int8_t *q, float *scale, float *sum,
                                  int32_t *total)
{
    float lane[16], max = 0.0f, inverse, step;
    int32_t whole[32], bad = 0;

    for (int32_t l = 0; l < 16; l++) {
        float a = x[l] < 0.0f ? -x[l] : x[l], b = x[l + 16] < 0.0f ? -x[l + 16] : x[l + 16];

        lane[l] = a > b ? a : b;
        bad |= !(a < SPC_INFINITY) | !(b < SPC_INFINITY);
    }
    for (int32_t l = 0; l < 16; l++) max = lane[l] > max ? lane[l] : max;
    step = max / 127.0f;
    inverse = max > 1e-30f ? 127.0f / max : 0.0f; /* less counts as nothing */
    /* adding 1.5 * 2^23 leaves nothing behind the point */
    for (int32_t i = 0; i < 32; i++) {
        whole[i] = bad ? 0 : (int32_t)(x[i] * inverse + 12582912.0f - 12582912.0f);
    }
    for (int32_t i = 0; i < 32; i++) q[i] = (int8_t)whole[i];
    total[0] = total[1] = 0;
    for (int32_t l = 0; l < 16; l++) total[0] += whole[l];
    for (int32_t l = 16; l < 32; l++) total[1] += whole[l];
    if (bad) step = NAN; /* a broken activation must not pass for a small one */
    *scale = step;
    *sum = step * (float)(total[0] + total[1]);
}

static void quantise(const float *in, int32_t cols, int64_t row, const spc_q8 *out)
{
    for (int32_t c = 0; c < cols; c += 32) {
        int64_t at = row * out->stride + c;

        quantise_block(in + c, out->q + at, out->scale + at / 32, out->sum + at / 32,
                       out->total + at / 16);
    }
}
