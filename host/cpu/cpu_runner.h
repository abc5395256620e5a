/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_runner.h - a model on the CPU: what load lays out (cpu_load.c) and the verbs run over
 * (backend_cpu.c). */
#ifndef SPC_HOST_CPU_RUNNER_H
#define SPC_HOST_CPU_RUNNER_H

#include "cpu_kernels.h"
#include "cpu_threads.h"
#include "host/backend.h"
#include "host/kv.h"

struct spc_backend {
    spc_team *team;
    const spc_cpu_kernels *kernels;
    char device[64];
};

/* Queries that a thread attends with at once. */
enum { SPC_CPU_QUERIES = 8 };

struct spc_runner {
    spc_backend *backend;
    const spc_plan *plan;
    spc_limits limits;
    void *arena;        /* everything below lies in it */
    spc_matrix *matrix; /* [weights] as they lie in the checkpoint */
    float **vector;     /* [weights] vectors as float32, and tables of relative positions as
                           [heads, 2 context - 1], by the key's offset from the query plus context
                           - 1; NULL for other matrices */
    float **buffer;     /* [buffers] each [most_rows, dim] */
    float **out;        /* [most_rows, or pairs] where the rows of a linear op begin */
    float *wanted;      /* [outputs, dim] rows whose logits are wanted, gathered */
    float *logits;      /* [outputs, plan->ids] */
    float *some;        /* [outputs, plan->drafted] of a drafter that drafts some tokens */
    spc_kv cache;
    int32_t *length;  /* [slots] tokens in the cache */
    int32_t *room;    /* [slots] tokens that a slot's pages take */
    float *cosine[2]; /* [context, pairs that turn] of rope, and of local_rope where there is one */
    float *sine[2];   /* the same */
    float *query_scale; /* [context] what queries are multiplied with behind; NULL: nothing */
    float *scores;      /* [threads, SPC_CPU_QUERIES, context] */
    spc_q8 quantised;   /* input of a linear op with quantised matrices */
    float **scale; /* [weights] of matrices of 8-bit floats and I8, as float32; NULL for others */
    void **part;   /* [weights] copies of matrices cut by inputs, whose rows do not lie behind
                      each other in the checkpoint; NULL: read where it is mapped */

    /* plans with experts: a pair is a row and one of the experts it takes (cpu_experts.c) */
    int32_t *pair;   /* [pairs] row times chosen + k, in the order of their experts */
    int32_t *first;  /* [experts + 1] where the pairs of each begin */
    float *gathered; /* [pairs, dim or ffn, the wider] inputs of experts, in that order */
    float *mixed;    /* [pairs, dim] outputs of MIX before they are added, row by row */

    /* plans with an encoder */
    spc_kv memory;            /* a slot's pages are its own */
    int32_t *source;          /* [slots] tokens in the memory */
    int32_t *source_slot;     /* [context] rows of the encoder: one slot, ... */
    int32_t *source_position; /* ... and positions 0, 1, ... */
};

/* The verbs memory, load and unload of the CPU backend. */
size_t spc_cpu_memory(const spc_backend *b, const spc_plan *plan, const spc_limits *limits);
spc_status spc_cpu_load(spc_backend *b, const spc_plan *plan, const spc_bundle *weights,
                        const spc_limits *limits, spc_runner **out, spc_error *err);
void spc_cpu_unload(spc_runner *r);

#endif
