/* SPDX-License-Identifier: Apache-2.0 */
/* sweep.h - inside bench_sweep: examples of a data file, points of a grid, how a point is decoded
 * and timed, results as JSON lines. */
#ifndef SPC_BENCH_SWEEP_H
#define SPC_BENCH_SWEEP_H

#include "bench/quality.h"

#include <spc/spc.h>

#include <jansson.h>
#include <signal.h>

/* ---- examples (sweep_data.c) ---- */

typedef struct {
    int32_t *ids; /* [count] the prompt, owned */
    int32_t count;
    int64_t line;            /* of the file, from 1 */
    char *reference, *tests; /* owned; NULL: not there */
    char *before;            /* owned; NULL: what is generated is a program */
} sweep_example;

typedef struct {
    sweep_example *example; /* [count] */
    int32_t count;
} sweep_data;

/* How the prompts of a .jsonl are put to the models. */
typedef struct {
    bool chat;                 /* as the user's message of a conversation */
    const char *chat_template; /* how that is written; NULL: by the verifier's own template */
    const char *ask;           /* ahead of every prompt; NULL: nothing */
} sweep_asking;

/* Does the name end in .jsonl? */
bool sweep_data_is_json(const char *path);

/* Every `every`-th line of a file, at most `most` (0: all).
 *
 * A name in .jsonl has an object per line: "prompt"; "reference", or "answer", which goes first,
 * for metrics of text; for pass@1 "test" and "entry_point" (HumanEval: the text goes on from the
 * prompt) or "test_list" and perhaps "test_setup_code" (MBPP: the text is a program).  Any other
 * name has lines of language <tab> English <tab> translation, language de, es or fr, in the prompt
 * format of the embedded pair.  SPC_EINPUT names file and line, also for what the metric needs and
 * lacks. */
spc_status sweep_data_read(const spc_engine *engine, const char *path, int32_t every, int32_t most,
                           const sweep_asking *asking, const quality_metric *metric,
                           sweep_data *out, spc_error *err);
void sweep_data_free(sweep_data *data);

/* FNV-1a over prompts and what is expected of them. */
uint64_t sweep_data_hash(const sweep_data *data);

/* ---- models (sweep_model.c) ---- */

/* FNV-1a over a model's configuration and a sample of each of its tensors.  Of "ngram" and NULL it
 * is that of nothing.  Errors as when the model is loaded. */
spc_status sweep_model_hash(const char *name, uint64_t *out, spc_error *err);

/* ---- points (sweep_grid.c) ---- */

typedef struct {
    char rule[SPC_RULE_TEXT_BYTES]; /* canonical */
    int32_t gamma, batch;
    double temperature, top_p, min_p;
    int32_t top_k;
    spc_verify_mode verify;
    bool nucleus; /* token rules stay inside the verifier's nucleus */
    spc_bonus_mode bonus;
} sweep_point;

typedef struct {
    sweep_point *point; /* [count] */
    int32_t count;
    int64_t *seed; /* [seeds] each point is decoded with all of them */
    int32_t seeds;
    int32_t batch; /* the largest */
} sweep_grid;

enum { SWEEP_BATCH_MAX = 256, SWEEP_POINTS_MAX = 100000 };

/* What the grid is made of; lists are separated by ';' (rules) or ','. */
typedef struct {
    const char *rules; /* NULL: the default grid */
    const char *gammas, *batches, *temperatures, *top_ps, *top_ks, *min_ps;
    const char *seed_list, *seed_count; /* one of them NULL: seeds as a list, or 0 .. count - 1 */
    spc_verify_mode verify;
    bool nucleus;
    spc_bonus_mode bonus; /* rules that take a step alone have that */
} sweep_axes;

/* "target", "verifier", "step", in the order of spc_bonus_mode. */
enum { SWEEP_BONUSES = SPC_BONUS_STEP + 1 };
extern const char *const sweep_bonuses[SWEEP_BONUSES];

/* All combinations; each combination of batch, temperature and truncation begins with
 * verifier-only, which the others are compared with.  SPC_EUSAGE, SPC_ERULE name the bad part. */
spc_status sweep_grid_make(const sweep_axes *axes, sweep_grid *out, spc_error *err);
void sweep_grid_free(sweep_grid *grid);

/* The key of a point: what makes a finished one the same within one output file. */
enum { SWEEP_KEY_BYTES = 256 };
void sweep_point_key(const sweep_point *point, char key[SWEEP_KEY_BYTES]);

/* ---- decoding a point (sweep_decode.c) ---- */

/* What the points of a sweep have in common; all borrowed. */
typedef struct {
    spc_engine *engine;
    const sweep_data *data;
    const quality_metric *metric;
    const quality_python *python; /* NULL: the metric runs none */
    const int64_t *seed;          /* [seeds] */
    int32_t seeds, max_tokens;
    int32_t stop_token;                /* ends a text besides the verifier's own ends; -1: none */
    const volatile sig_atomic_t *stop; /* becomes 1: end between two steps */
    void (*progress)(void *user, double share);
    void *user;
} sweep_job;

/* Sums over all examples and seeds of a point. */
typedef struct {
    spc_stats total;
    double *counts; /* [seeds, examples, metric->counts], the caller's */
    int64_t finished[SPC_FINISH_COUNT];
    int64_t grams, repeated; /* runs of four tokens, and those that the same text had before */
    uint64_t hash;           /* FNV-1a over the output hashes, in order of seeds and examples */
    /* Of the examples that the verifier alone decoded too, for its time. */
    uint64_t paired_ns, verifier_ns;
    int64_t paired_tokens, verifier_tokens;
} sweep_outcome;

/* Decode all examples under a point, point->batch of them together.  Every fourth turn (of one
 * example, or of some batches) the verifier alone decodes the same ones right before or right
 * behind, by turns: a machine whose speed drifts changes both alike.
 *
 * out        out->counts is set by the caller, the rest is overwritten
 * finished   false with SPC_OK: *job->stop became 1 */
spc_status sweep_decode(const sweep_job *job, const sweep_point *point, sweep_outcome *out,
                        bool *finished, spc_error *err);

/* Time inside steps, nanoseconds. */
uint64_t sweep_step_ns(const spc_stats *stats);

/* ---- results (sweep_line.c, sweep_file.c) ---- */

/* The line of a point: `setup`, the point, quality and cost.  NULL: no memory.
 *
 * base   line of verifier-only under the same conditions; NULL: there is none, or this is it */
json_t *sweep_line(const json_t *setup, const sweep_job *job, const sweep_point *point,
                   const sweep_outcome *out, const json_t *base);

/* The line of a point that could not be decoded. */
json_t *sweep_line_failed(const json_t *setup, const sweep_point *point, const char *why);

/* The file that results are appended to; it is the state of a sweep. */
typedef struct {
    const char *path;
    int fd;       /* -1: closed */
    json_t *done; /* lines by key */
} sweep_file;

/* Open, lock and read.  A last line that an interruption has cut is taken off and told on stderr.
 * SPC_EINPUT: it cannot be opened, another sweep writes to it, a line is no result, or its setup
 * (any member of `setup`) is not this one. */
spc_status sweep_file_open(const char *path, const json_t *setup, sweep_file *out, spc_error *err);

/* The line of a finished (or failed) point; NULL: it is still to run.  Borrowed. */
const json_t *sweep_file_find(const sweep_file *file, const sweep_point *point);

/* Append a line, which is owned by the file from now on.  On failure the file is as before. */
spc_status sweep_file_append(sweep_file *file, json_t *line, spc_error *err);
void sweep_file_close(sweep_file *file);

/* ---- progress on stderr (sweep_progress.c) ---- */

/* A bar on a terminal; elsewhere a line per finished point. */
typedef struct {
    int32_t points, done; /* of the grid; finished, those of earlier runs among them */
    int32_t ran;          /* finished in this run */
    uint64_t begin;       /* ns */
    uint64_t told;        /* ns, when the bar was drawn */
    const char *rule;     /* of the point that runs */
    bool terminal;
} sweep_progress;

void sweep_progress_begin(sweep_progress *progress, int32_t points, int32_t done);
/* share: of the running point, 0 .. 1.  Fits sweep_job.progress. */
void sweep_progress_tell(void *progress, double share);
void sweep_progress_point(sweep_progress *progress, const json_t *line);
void sweep_progress_end(const sweep_progress *progress); /* takes the bar away */

#endif
