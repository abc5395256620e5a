/* SPDX-License-Identifier: Apache-2.0 */
/* ops.h - launchers of the ops of a plan (host/plan/plan.h says what each computes), callable from
 * C.
 *
 * Launchers check shapes (cudaErrorInvalidValue), launch and return; they allocate nothing, wait
 * for nothing and read no device memory, so they can be captured in a graph.  All pointers are
 * device memory unless said otherwise.  Activations are float32, and every sum is taken in float32,
 * in an order that depends on the shape of the op alone: a row has the same bits whatever runs
 * beside it.  (linear_gemm.cu is the one exception.)
 *
 * `early`, where arguments have it: the launch may begin while the kernel in front of it in the
 * stream still runs, so that its way to the multiprocessors, and the first of a matrix' way from
 * memory, are over when that one ends (programmatic dependent launch: ops.cuh).  That kernel must
 * be one of those below, cuBLASLt's products apart, and the device of compute capability 9.0 or
 * later.  Results are the same.
 *
 * None of these kernels has run on a GPU yet: tests/test_cuda_ops.c, test_cuda_attend.c and
 * test_cuda_linear*.c run them on the CPU, a fiber per thread, against the loops of the CPU
 * backend. */
#ifndef SPC_CUDA_OPS_H
#define SPC_CUDA_OPS_H

#include "rules/edit.h"
#include "rules/round.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Element types of matrices that have kernels; from SPC_WEIGHT_Q8_0 on they are quantised. */
typedef enum {
    SPC_WEIGHT_F32,
    SPC_WEIGHT_BF16,
    SPC_WEIGHT_F16,
    SPC_WEIGHT_Q8_0,
    SPC_WEIGHT_Q4_0,
    SPC_WEIGHT_Q4_1,
    SPC_WEIGHT_Q5_0,
    SPC_WEIGHT_Q5_1,
    SPC_WEIGHT_IQ4_NL,
    SPC_WEIGHT_Q2_K,
    SPC_WEIGHT_Q3_K,
    SPC_WEIGHT_Q4_K,
    SPC_WEIGHT_Q5_K,
    SPC_WEIGHT_Q6_K,
    SPC_WEIGHT_IQ4_XS,
    SPC_WEIGHT_I8,      /* signed integers, with scales beside them */
    SPC_WEIGHT_F8_E4M3, /* 8-bit floats (weights/quant.h), with scales beside them */
    SPC_WEIGHT_F8_E5M2,
    SPC_WEIGHT_COUNT
} spc_weight_type;

/* A matrix [rows, cols] as it lies on the device: every array begins at 16 bytes, and so does every
 * row of data.  Elements behind a row's end are 0.
 *
 * Quantised matrices lie in planes, so that a lane reads 16 bytes at once; quant_planes.cuh says
 * what is in them, spc_cuda_planes_of how long they are. */
typedef struct {
    const void *data; /* [rows, stride]; quantised: the low bits of every weight */
    spc_weight_type type;
    int32_t rows, cols;
    int32_t stride; /* elements; a multiple of 16 bytes, >= cols; quantised: blocks of 32 columns */
    const void *high;  /* Q5_*, Q6_K, Q3_K: the bits beyond 4 (Q3_K: 2); others: NULL */
    const void *scale; /* quantised: scales */
    const void *step;  /* Q6_K, Q2_K, Q3_K: what scales are multiplied with; others: NULL */
    /* I8, F8_*: weight (r, c) is its element times the float
     * scale[(r + scale_row >> scale_shift) * scale_stride + (c + scale_col) / 128], where
     * scale_stride 1 means that there is one for all columns; scale_shift is 0, 7 or 31 (one for
     * all), scale_col a multiple of 8 */
    int32_t scale_shift, scale_stride, scale_row, scale_col;
} spc_cuda_matrix;

/* Elements of a row of so many columns (quantised: blocks): what `stride` must be. */
int32_t spc_cuda_stride(spc_weight_type type, int32_t cols);

/* Bytes of one row in each plane of a quantised matrix; of I8 and F8_* without their scales. */
typedef struct {
    int32_t data, high, scale, step;
} spc_cuda_planes;

spc_cuda_planes spc_cuda_planes_of(spc_weight_type type, int32_t cols);

/* cudaSuccess where this build has code for the current device.
 *
 * early   receives whether its launches may be `early`: code that was written for older devices,
 *         and is compiled for this one as it is loaded, waits for nothing */
cudaError_t spc_cuda_has_code(bool *early);

/* out[r] = row token[r] of the table, times scale; of a table that begins at row `first` of a whole
 * one, 0 for rows that are not in it. */
typedef struct {
    spc_cuda_matrix table;
    const int32_t *token; /* [rows] */
    float *out;           /* [rows, table.cols] */
    float scale;
    int32_t rows;
    int32_t first;
} spc_embed_args;

cudaError_t spc_cuda_embed(const spc_embed_args *args, cudaStream_t stream);

/* out[r] = in[row[r]] times scale: the rows whose logits are wanted. */
typedef struct {
    const float *in;    /* [any, dim] */
    const int32_t *row; /* [rows] */
    float *out;         /* [rows, dim] */
    float scale;
    int32_t rows, dim;
    bool early;
} spc_gather_args;

cudaError_t spc_cuda_gather(const spc_gather_args *args, cudaStream_t stream);

/* out[target[r]][v] = in[r]'s logit of token v, SPC_LOGIT_NEVER where it has none. */
typedef struct {
    const float *in;          /* [rows, drafted] */
    const spc_subset *subset; /* [(ids + 31) / 32] of `drafted` tokens, the elements of in; or 0 */
    const int32_t *target;    /* [rows] */
    float *out;               /* [any, ids] */
    int32_t rows, drafted, ids;
    bool early;
} spc_spread_args;

cudaError_t spc_cuda_spread(const spc_spread_args *args, cudaStream_t stream);

/* sum = a + b where there is a b; out = that (or a) / sqrt(mean of squares + eps) * weight. */
typedef struct {
    const float *a;      /* [rows, dim] */
    const float *b;      /* [rows, dim], or NULL: none */
    float *sum;          /* [rows, dim] receives a + b; may be a or b; NULL without a b */
    const float *weight; /* [dim] */
    float *out;          /* [rows, dim]; may be a or b unless that is sum */
    float eps;
    int32_t rows, dim;
    bool early;
} spc_norm_args;

cudaError_t spc_cuda_norm(const spc_norm_args *args, cudaStream_t stream);

/* out = a + b. */
typedef struct {
    const float *a, *b; /* [count] */
    float *out;         /* [count]; may be a or b */
    int64_t count;
    bool early;
} spc_add_args;

cudaError_t spc_cuda_add(const spc_add_args *args, cudaStream_t stream);

enum { SPC_SUM_RANKS = 64 };

/* data[0][i] + data[1][i] + ..., in this order, to all of them: what several ranks hold on one
 * device. */
typedef struct {
    float *data[SPC_SUM_RANKS]; /* [ranks], each [count] */
    int64_t count;
    int32_t ranks;
} spc_sum_args;

cudaError_t spc_cuda_sum(const spc_sum_args *args, cudaStream_t stream);

/* Change logits of rows that are [width] long and hold the ids from `first` on; those of other ids
 * are left to other ranks.  First the edits, then the masks. */
typedef struct {
    float *logits;              /* [any, width] */
    const spc_logit_edit *edit; /* [edits] no logit twice */
    const int32_t *masked;      /* [masks] rows, all different */
    const uint32_t *allowed;    /* [masks, words] token v is bit v % 32 of word v / 32 */
    int32_t edits, masks;
    int32_t words; /* of a mask: those of all ids */
    int32_t first, width;
} spc_edit_args;

cudaError_t spc_cuda_edit(const spc_edit_args *args, cudaStream_t stream);

typedef enum { SPC_GLU_SILU, SPC_GLU_GELU_TANH, SPC_GLU_RELU } spc_glu_kind;

/* out = silu(gate) up, or gelu(gate) up, of gate and up side by side; or max(gate, 0), where there
 * is no up. */
typedef struct {
    const float *in; /* [rows, 2 dim]; SPC_GLU_RELU: [rows, dim] */
    float *out;      /* [rows, out_width], of which dim are written */
    spc_glu_kind kind;
    int32_t rows, dim, out_width;
    bool early;
} spc_glu_args;

cudaError_t spc_cuda_glu(const spc_glu_args *args, cudaStream_t stream);

enum { SPC_CUDA_PAGE_TOKENS = 16 };

/* Keys and values of one layer, in pages of SPC_CUDA_PAGE_TOKENS positions. */
typedef struct {
    void *key;            /* [kv_heads, SPC_CUDA_PAGE_TOKENS, head_dim] of page 0 */
    void *value;          /* the same */
    const int32_t *table; /* [slots, width] the pages of a slot's positions */
    int32_t width;
    int64_t stride;       /* elements from a page to the next */
    spc_weight_type type; /* of elements: F32; BF16 or F16, which are rounded to when written */
} spc_cuda_pages;

/* What happens to queries, keys and values before attention, each part where its pointers are:
 * norm of every head of queries and keys, rotation by position, then queries times a factor of
 * their position, keys and values into the cache. */
typedef struct {
    float *qkv;                /* [rows, width]: ends with keys, values; queries before them */
    const float *query_weight; /* [head_dim] of the norm; NULL: none */
    const float *key_weight;   /* the same */
    const float *cosine;       /* [context, pairs]; NULL: no rotation */
    const float *sine;         /* the same */
    const float *query_scale;  /* [context], beside a rotation; NULL: none */
    spc_cuda_pages cache;      /* key NULL: none */
    const int32_t *slot;       /* [rows] */
    const int32_t *position;   /* [rows] */
    float eps;
    int32_t rows, width, heads, kv_heads, head_dim;
    int32_t pairs; /* of a head that turn, its first entries with as many behind them; 0: all */
    bool early;
} spc_rope_args;

cudaError_t spc_cuda_rope(const spc_rope_args *args, cudaStream_t stream);

/* Consecutive rows of one slot, in rising order of position and of what they see. */
typedef struct {
    int32_t row, rows;
} spc_attend_tile;

/* Attention of every row over keys 0 .. seen - 1 of its slot, or the last `window` of them. */
typedef struct {
    const float *query; /* [rows, width], queries [heads, head_dim] first */
    spc_cuda_pages cache;
    const float *bias;       /* [heads, 2 context - 1] by key - position + context - 1, or NULL */
    const int32_t *slot;     /* [rows] */
    const int32_t *position; /* [rows] */
    const int32_t *seen;     /* [rows] 1 .. context */
    const spc_attend_tile *tile; /* [tiles] that cover the rows; see spc_cuda_attend_tile_rows */
    float *out;                  /* [rows, out_width], of which [heads, head_dim] are written */
    float *workspace;            /* spc_cuda_attend_workspace floats, 16-byte aligned, of launches
                                    that wait for each other; see spc_cuda_attend_workspace_init */
    float scale;                 /* of scores */
    float cap;                   /* scores become cap tanh(score / cap); 0: they do not */
    int32_t rows, tiles, width, out_width, heads, kv_heads, head_dim, context;
    int32_t window;    /* 0: all */
    int32_t most_seen; /* the largest of `seen` */
    bool apart;        /* no row's new key is another tile's to read */
    bool early;
} spc_attend_args;

enum { SPC_ATTEND_HEAD_DIM = 256 }; /* the largest there is a kernel for */

/* The largest most_seen that launches as this one does: a recorded launch serves all up to it. */
int32_t spc_cuda_attend_reach(int32_t most_seen, int32_t context);
/* Most rows of a tile, for these heads. */
int32_t spc_cuda_attend_tile_rows(int32_t heads, int32_t kv_heads, int32_t head_dim);
/* Floats of workspace for so many rows. */
int64_t spc_cuda_attend_workspace(int32_t rows, int32_t heads, int32_t head_dim, int32_t context);

/* Before its first launch. */
cudaError_t spc_cuda_attend_workspace_init(float *workspace, cudaStream_t stream);

cudaError_t spc_cuda_attend(const spc_attend_args *args, cudaStream_t stream);

/* spc_cuda_rope and then spc_cuda_attend over the same qkv and cache, where a row sees the keys up
 * to its own; both in one launch where rows are few and `apart`, to the same bits.  It then leaves
 * qkv as it is; otherwise it is lost.
 *
 * attend->early   of a launch behind that of rope */
cudaError_t spc_cuda_rope_attend(const spc_rope_args *rope, const spc_attend_args *attend,
                                 cudaStream_t stream);

enum {
    SPC_LINEAR_PARTS = 3,
    SPC_LINEAR_SLICES = 64,
    SPC_LINEAR_STRIP = 16 /* rows for which the kernels read weights once */
};

/* Kernels of linear ops: linear_row.cu; linear_tile.cu with linear_tile_quant.cu; linear_quant.cu.
 */
typedef enum { SPC_KERNEL_ROW, SPC_KERNEL_TILE, SPC_KERNEL_QUANT } spc_linear_kernel;

/* How a kernel goes about matrices.  A row's bits depend on kernel and slices, not on tiles. */
typedef struct {
    spc_linear_kernel kernel;
    int32_t slices;   /* warps that share the columns of an output, a power of two up to
                         SPC_LINEAR_SLICES, TILE from 8 on; more than 8 are in several blocks, whose
                         sums meet in a fixed order */
    int32_t tiles[2]; /* TILE: of 16 outputs that a block has, 1, 2 or 4 (fp16: at most 2; two parts
                         of as many rows: at least 2; quantised: 2, or of most types below 6 bits 4,
                         which up to 8 rows use), for up to 8 rows and for more; others: 0 */
} spc_linear_way;

/* out[r] = the products of several matrices with in[r], behind each other, plus biases, bounded by
 * cap tanh(x / cap) where there is a cap. */
typedef struct {
    spc_cuda_matrix part[SPC_LINEAR_PARTS]; /* [parts], of one type and one number of columns */
    const float *bias[SPC_LINEAR_PARTS];    /* [rows of the part], or NULL */
    const float *in;                        /* [rows, cols] */
    float *out;                             /* [any, width] */
    const int32_t *target;                  /* [rows] row of out; NULL: the same */
    float cap;                              /* 0: none */
    int32_t parts, rows, width;
    spc_linear_way way; /* slices 0: the kernel's default */
    void *scratch;      /* SPC_LINEAR_SCRATCH bytes, zeros before its first launch, of launches that
                           wait for each other; NULL where slices are 8 or fewer */
    void *wide;         /* TILE: spc_cuda_linear_wide_bytes, 16-byte aligned, of such launches; more
                           than 16 rows then read weights once for 64 of them, to the same bits.
                           NULL: once for 16 */
    bool early;         /* not of spc_cuda_linear_gemm */
} spc_linear_args;

enum { SPC_LINEAR_SCRATCH = 1165312 };

/* The default of a kernel for these parts: by counting, what keeps the multiprocessors of an H100
 * busy.  It depends on the parts alone. */
spc_linear_way spc_cuda_linear_default(const spc_linear_args *args, spc_linear_kernel kernel);
/* Can these parts go that way? */
bool spc_cuda_linear_can(const spc_linear_args *args, const spc_linear_way *way);
/* Is there such a way for some tiles, with columns for every warp? */
bool spc_cuda_linear_feeds(const spc_linear_args *args, spc_linear_kernel kernel, int32_t slices);

/* Bytes of `wide` for up to so many columns, and outputs of all parts together. */
int64_t spc_cuda_linear_wide_bytes(int32_t cols, int32_t outs);

/* Rows in strips of up to 16, each of which reads the weights once. */
cudaError_t spc_cuda_linear_row(const spc_linear_args *args, cudaStream_t stream);

/* The same for quantised matrices: every weight becomes the float32 that weights/quant.c makes of
 * it - to the bit, but for types with an offset, which round once more (quant.cuh) - once for all
 * rows of a strip, and is multiplied with float32 activations.  (The CPU rounds activations to 8
 * bits instead and multiplies integers; host/cpu/cpu_kernels.h says how far off that is.) */
cudaError_t spc_cuda_linear_quant(const spc_linear_args *args, cudaStream_t stream);

/* What may be done along with a linear op, each part where it is set. */
typedef struct {
    const float *norm; /* [cols] in becomes in / sqrt(mean of squares + eps) * norm first; the root
                          is divided by behind the products, so last bits differ from those of
                          spc_cuda_norm */
    float eps;         /* of norm */
    bool gate;         /* there are two parts of as many rows: out [rows, part's rows] is
                          activation(first) second, as spc_cuda_glu has it, to the bit */
    spc_glu_kind glu;  /* of gate: SILU or GELU_TANH */
    const float *add;  /* [any, width] as out, added to it in the end, to the bit as spc_cuda_add
                          does; may be out */
} spc_linear_more;

/* The same as spc_cuda_linear_row on tensor cores, for weights of 16 bits; strips of up to 16 rows,
 * or of 64 where there is memory for it (linear_wide.cu); and, without a norm and in strips of up
 * to 16 rows, for the quantised ones that it takes.  A row has the same bits in any strip, but not
 * those of spc_cuda_linear_row or spc_cuda_linear_quant.
 *
 * more   NULL: nothing */
cudaError_t spc_cuda_linear_tile(const spc_linear_args *args, const spc_linear_more *more,
                                 cudaStream_t stream);

/* Does it take these parts? */
bool spc_cuda_tile_takes(const spc_linear_args *args);

/* ---- more rows by cuBLASLt ---- */

/* Products have up to so many rows: 32, 64, 128, 256 or 512, a bucket each. */
enum {
    SPC_GEMM_BUCKETS = 5,
    SPC_GEMM_ROWS = 512,  /* of the last */
    SPC_GEMM_STEP = 16,   /* rows of products are a multiple of it */
    SPC_GEMM_CHOICES = 4, /* algorithms to choose from, at most */
    SPC_GEMM_SAID = 96
};

static inline int32_t spc_gemm_rows(int32_t bucket)
{
    return SPC_GEMM_ROWS >> (SPC_GEMM_BUCKETS - 1 - bucket);
}

/* The first that has so many rows, or the last. */
static inline int32_t spc_gemm_bucket(int32_t rows)
{
    int32_t bucket = 0;

    while (bucket < SPC_GEMM_BUCKETS - 1 && spc_gemm_rows(bucket) < rows) bucket++;
    return bucket;
}

/* cuBLASLt with memory to work in. */
typedef struct spc_cuda_gemm_state *spc_cuda_gemm;

/* Of all matrices whose products may come: most columns and outputs of one, most rows. */
typedef struct {
    int32_t cols, outs, rows;
} spc_gemm_most;

/* Bytes of device memory for that. */
size_t spc_cuda_gemm_bytes(const spc_gemm_most *most);

/* memory   of spc_cuda_gemm_bytes, 256-byte aligned, until it is closed; of launches that wait for
 *          each other
 * said     receives what failed: "libcublasLt.so.13 cannot be loaded" */
cudaError_t spc_cuda_gemm_open(const spc_gemm_most *most, void *memory, spc_cuda_gemm *out,
                               char said[SPC_GEMM_SAID]);
void spc_cuda_gemm_close(spc_cuda_gemm gemm); /* NULL is allowed */

/* The call of the library that failed in the last of the calls below, and its status:
 * "cublasLtMatmul: CUBLAS_STATUS_NOT_SUPPORTED"; "": none did, or gemm is NULL. */
const char *spc_cuda_gemm_said(spc_cuda_gemm gemm);
/* Version of the library: 130100 is 13.1.0. */
int32_t spc_cuda_gemm_version(spc_cuda_gemm gemm);

/* How a part is multiplied with the rows of a bucket. */
typedef struct {
    uint64_t algorithm[8]; /* cuBLASLt's own bytes, of one version of it */
    uint32_t takes;        /* bit i: it takes (i + 1) SPC_GEMM_STEP rows too; other numbers are
                              filled up to the bucket's */
} spc_gemm_product;

/* How a launch is. */
typedef struct {
    spc_gemm_product part[SPC_GEMM_BUCKETS][SPC_LINEAR_PARTS];
} spc_gemm_plan;

/* Rows of the products of a launch in a bucket: all, or as many as there is memory for. */
int32_t spc_cuda_gemm_rows(spc_cuda_gemm gemm, const spc_linear_args *args, int32_t bucket);
/* What the library would multiply a part by, what it holds for fastest first.
 *
 * count   receives how many there are; 0: it cannot */
cudaError_t spc_cuda_gemm_suggest(spc_cuda_gemm gemm, const spc_linear_args *args, int32_t part,
                                  int32_t bucket, spc_gemm_product choice[SPC_GEMM_CHOICES],
                                  int32_t *count);
/* Multiply once by each part's product of a bucket, whatever lies in its memory: what the library
 * loads for them is there before they are recorded in a graph, and it is known that they run. */
cudaError_t spc_cuda_gemm_warm(spc_cuda_gemm gemm, const spc_linear_args *args, int32_t bucket,
                               const spc_gemm_product *product, cudaStream_t stream);
/* Can the part go by this algorithm?  Fills in which numbers of rows it takes. */
bool spc_cuda_gemm_can(spc_cuda_gemm gemm, const spc_linear_args *args, int32_t part,
                       int32_t bucket, spc_gemm_product *product);

/* The same as spc_cuda_linear_row, by cuBLASLt, which reads the weights once for the rows of a
 * bucket: results differ in their last bits, and by how many rows go together.
 *
 * plan   has products of every part in the buckets up to that of the rows */
cudaError_t spc_cuda_linear_gemm(spc_cuda_gemm gemm, const spc_linear_args *args,
                                 const spc_gemm_plan *plan, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
