/* SPDX-License-Identifier: Apache-2.0 */
/* sweep.h - inside bench_sweep: examples of a data file, points of a grid, results as JSON lines.
 */
#ifndef SPC_BENCH_SWEEP_H
#define SPC_BENCH_SWEEP_H

#include "bench/quality.h"

#include <spc/spc.h>

#include <jansson.h>

/* ---- examples (sweep_data.c) ---- */

typedef struct {
    int32_t *ids; /* [count] the prompt, owned */
    int32_t count;
    char *reference; /* owned */
} sweep_example;

typedef struct {
    sweep_example *example; /* [count] */
    int32_t count;
} sweep_data;

/* Every `every`-th line of a file, at most `most` (0: all).  A name in .jsonl has lines
 * {"prompt": TEXT, "reference": TEXT}; any other lines of language <tab> English <tab> translation,
 * language de, es or fr, in the prompt format of the embedded pair.  SPC_EINPUT names file and
 * line. */
spc_status sweep_data_read(const spc_engine *engine, const char *path, int32_t every, int32_t most,
                           sweep_data *out, spc_error *err);
void sweep_data_free(sweep_data *data);

/* ---- points (sweep_grid.c) ---- */

typedef struct {
    char rule[SPC_RULE_TEXT_BYTES]; /* canonical */
    int32_t gamma;
    double temperature, top_p;
    int64_t seed;
    spc_verify_mode verify;
    bool nucleus; /* token rules stay inside the verifier's nucleus */
} sweep_point;

typedef struct {
    sweep_point *point; /* [count] */
    int32_t count;
} sweep_grid;

/* What the grid is made of; lists are separated by ';' (rules) or ','. */
typedef struct {
    const char *rules; /* NULL: the default grid */
    const char *gammas, *temperatures, *top_ps, *seeds;
    spc_verify_mode verify;
    bool nucleus;
} sweep_axes;

/* All combinations; each combination of temperature, top-p and seed begins with verifier-only,
 * which the others are compared with.  SPC_EUSAGE, SPC_ERULE name the bad part. */
spc_status sweep_grid_make(const sweep_axes *axes, sweep_grid *out, spc_error *err);
void sweep_grid_free(sweep_grid *grid);

/* The key of a point: what makes a finished one the same. */
enum { SWEEP_KEY_BYTES = 256 };
void sweep_point_key(const sweep_point *point, const char *data, const char *metric,
                     char key[SWEEP_KEY_BYTES]);

#endif
