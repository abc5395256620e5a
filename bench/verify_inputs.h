/* SPDX-License-Identifier: Apache-2.0 */
/* verify_inputs.h - what bench_verify works on: the rows of a shape, and arrays around them. */
#ifndef SPC_BENCH_VERIFY_INPUTS_H
#define SPC_BENCH_VERIFY_INPUTS_H

#include "verify_place.h"

enum { NOISE = 1 << 20, SHAPES_MAX = 32, SETS_MAX = 256, POSITION = 100 };

typedef struct {
    int32_t sequences, drafts, vocab;
} shape;

typedef struct {
    shape shape[SHAPES_MAX];
    int32_t shapes;
    const char *rules; /* ';' between */
    double temperature, top_p;
    int32_t runs;
    int32_t known; /* tokens that the drafter knows; 0: all */
    bool f32, block, no_stats, reference, cpu, json;
} options;

/* Everything one shape needs; pointers marked (place) are the place's memory. */
typedef struct {
    bench_place *at;
    const options *o;
    shape shape;
    int64_t stride; /* of rows, elements */
    size_t element; /* bytes */
    int32_t sets;
    char *logits[SETS_MAX];            /* (place) [verifier rows, drafter rows] */
    int32_t *draft[SETS_MAX];          /* (place) [B, G] */
    spc_row_stats *stats[SETS_MAX];    /* (place) [B, G] */
    spc_row_params *params;            /* (place) [B] */
    int64_t *row, *position;           /* (place) [G + 1, B] */
    uint32_t *salt;                    /* (place) [B] */
    int32_t *drafts;                   /* (place) [B] */
    int32_t *drawn;                    /* (place) [B] */
    spc_row_stats *drawn_stats;        /* (place) [B] */
    int32_t *token, *count, *accepted; /* (place) [B, G + 1], [B], [B] */
    uint32_t *status;                  /* (place) [B] */
    spc_verdict *verdict;              /* (place) [B] */
    void *workspace;                   /* (place) */
    size_t workspace_bytes;
    void *owned[SETS_MAX * 3 + 33]; /* to be released */
    int32_t owned_count;
    float *noise; /* [NOISE] normal numbers */
    spc_row_params host_params;
    size_t read_bytes;  /* of the floor */
    spc_subset *subset; /* (place) of the drafter's rows, or NULL: it knows all tokens */
    int32_t known;      /* that it knows */
} bench;

/* Normal numbers, [NOISE]. */
void inputs_noise(float *noise);

/* Make those of b->shape, by b->o.  false: b->at->error says why not. */
bool inputs_open(bench *b);
void inputs_close(bench *b);

/* Bytes of all rows of one model in a set. */
size_t inputs_rows_bytes(const bench *b);

#endif
