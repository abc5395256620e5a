/* SPDX-License-Identifier: Apache-2.0 */
/* kernels.h - a table of what was measured to be fastest for the linear layers of one GPU, kept in
 * a file.
 *
 * Bits depend on the kernel of a layer and on how many warps share its columns.  So they are never
 * chosen by a clock while an engine opens: spc_tune_kernels measures once and writes the
 * file, spc_engine_options.kernels reads it, and results depend on the file as on any option.
 *
 * Up to 16 rows, and more of them without fast_prefill, go by an entry's one kernel, whatever their
 * number: a row's bits do not depend on its company, and nothing that was measured may change that.
 * With fast_prefill, which gives the promise up, more than 16 rows go by what an entry says of
 * their number. */
#ifndef SPC_HOST_KERNELS_H
#define SPC_HOST_KERNELS_H

#include <spc/spc.h>

#include <stdbool.h>

enum {
    SPC_KERNELS_PARTS = 3,   /* matrices that one launch takes */
    SPC_KERNELS_ROWS = 3,    /* row counts that are timed: spc_kernels_rows */
    SPC_KERNELS_WIDE = 5,    /* the same of more than 16: spc_kernels_wide */
    SPC_KERNELS_WORDS = 8,   /* of an algorithm of cuBLASLt */
    SPC_KERNELS_MOST = 4096, /* layers of a table */
    SPC_KERNELS_TEXT = 128
};

/* Rows of the forwards that are timed: a token, a draft of five with the token behind it, the most
 * that own kernels take at once. */
extern const int32_t spc_kernels_rows[SPC_KERNELS_ROWS];
/* 32, 64 and so on: each is timed for all numbers of rows above the one before. */
extern const int32_t spc_kernels_wide[SPC_KERNELS_WIDE];

/* A linear layer: matrices of one type over the same columns. */
typedef struct {
    char type[16]; /* "bf16", "q4_k" */
    int32_t columns, parts;
    int32_t outputs[SPC_KERNELS_PARTS]; /* [parts] */
} spc_kernels_shape;

typedef enum {
    SPC_KERNELS_NONE,    /* not timed: cuBLASLt's own choice */
    SPC_KERNELS_OWN,     /* the entry's kernel, as up to 16 rows */
    SPC_KERNELS_CUBLASLT /* cuBLASLt, by an algorithm for each matrix */
} spc_kernels_by;

/* What is done with more than 16 rows where fast_prefill is on. */
typedef struct {
    spc_kernels_by by;
    /* [parts] of CUBLASLT: the library's own bytes, which its version says how to read */
    uint64_t algorithm[SPC_KERNELS_PARTS][SPC_KERNELS_WORDS];
    double forward_us, default_us; /* as in an entry; by default cuBLASLt chooses */
} spc_kernels_many;

/* What is done with it (cuda/ops.h says what these mean). */
typedef struct {
    spc_kernels_shape shape;
    char kernel[8]; /* "row", "tile", "quant" */
    int32_t slices;
    int32_t tiles[2]; /* of "tile", else 0 */
    /* medians of whole forwards of the model it was timed in, in microseconds, by spc_kernels_rows:
     * with this entry and with the default instead, all other layers alike */
    double forward_us[SPC_KERNELS_ROWS], default_us[SPC_KERNELS_ROWS];
    spc_kernels_many many[SPC_KERNELS_WIDE]; /* by spc_kernels_wide */
} spc_kernels_entry;

typedef struct {
    char where[SPC_KERNELS_TEXT]; /* file it was read from, for messages */
    char gpu[SPC_KERNELS_TEXT];   /* "NVIDIA H100 80GB HBM3, compute capability 9.0"; "": nothing
                                     was measured yet */
    int32_t driver, toolkit;      /* CUDA versions as 13000, when it was measured */
    int32_t cublaslt; /* the library's version as 130100, whose algorithms it has; 0: more than 16
                         rows were not measured */
    spc_kernels_entry *entry; /* [count], owned */
    int32_t count;
} spc_kernels;

/* A way replaces the default where the forwards together take less than this share of the time:
 * less of a gain is noise. */
#define SPC_KERNELS_GAIN 0.997

bool spc_kernels_same(const spc_kernels_shape *a, const spc_kernels_shape *b);
/* The entry of a layer, or NULL. */
const spc_kernels_entry *spc_kernels_find(const spc_kernels *table, const spc_kernels_shape *shape);

/* Set the entry of a layer, which may be there already.  SPC_ENOMEM */
spc_status spc_kernels_set(spc_kernels *table, const spc_kernels_entry *entry, spc_error *err);

/* Read a file.  SPC_EINPUT names the file and what is wrong: it cannot be read, is cut short, says
 * what no table says, or contradicts itself.  SPC_ENOMEM
 *
 * out   zeros on failure; spc_kernels_clear it */
spc_status spc_kernels_read(const char *path, spc_kernels *out, spc_error *err);

/* Can a file be written there?  SPC_EINPUT, before kernels are timed for it. */
spc_status spc_kernels_place(const char *path, spc_error *err);
/* Write a file.  SPC_EINPUT, SPC_ENOMEM */
spc_status spc_kernels_write(const spc_kernels *table, const char *path, spc_error *err);

/* Give back what it owns, leave zeros. */
void spc_kernels_clear(spc_kernels *table);

/* "bf16 [2048, 512, 512] x 2048", for messages. */
const char *spc_kernels_shape_text(const spc_kernels_shape *shape, char text[SPC_KERNELS_TEXT]);

#endif
