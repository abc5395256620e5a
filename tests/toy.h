/* SPDX-License-Identifier: Apache-2.0 */
/* toy.h - a table-driven pair of models behind the backend interface, so that tests run the
 * engine's own rounds where every probability is known.
 *
 * The logits of a row are a function of (model, prefix) alone: a table would be too long, so it is
 * hashed.  draw and verify are the CPU backend's own (host/cpu/cpu_round.c). */
#ifndef SPC_TESTS_TOY_H
#define SPC_TESTS_TOY_H

#include "host/session.h"
#include "host/verify/chance.h"

/* The engine's clock, moved by forwards alone. */
typedef struct {
    uint64_t now_ns;
    uint64_t drafter_ns, drafter_row_ns; /* a forward takes so long, and so much more per row */
    uint64_t verifier_ns, verifier_row_ns;
} toy_clock;

typedef struct {
    uint64_t seed;            /* of the logits */
    int32_t vocab;            /* 2 .. TOY_VOCAB */
    int32_t context;          /* tokens per slot */
    int32_t sessions;         /* slots */
    int32_t pages;            /* of their KV caches; 0: as many as all of them can fill */
    float spread;             /* scale of the logits */
    bool equal;               /* the drafter is the verifier */
    bool reversed;            /* the drafter prefers what the verifier does not */
    int32_t bad_drafter;      /* rows that predict this position hold NaN; 0: none */
    int32_t bad_verifier;     /* the same */
    float bad_value;          /* what they hold instead; 0: NaN */
    const spc_chance *chance; /* NULL: Philox */
    toy_clock *clock;         /* NULL: the machine's */
} toy_pair;

enum { TOY_VOCAB = 64 };

/* Logits of the row behind a prefix, [vocab].  drafter: whose. */
void toy_logits(const toy_pair *pair, bool drafter, const int32_t *prefix, int32_t count,
                float *out);

/* An engine over the pair; asserts that it opens.  `pair` must outlive it. */
spc_engine *toy_engine(const toy_pair *pair);

/* Drop the drafter of an engine without sessions and look drafts up, by so many tokens. */
void toy_look_up(spc_engine *engine, int32_t least, int32_t most);

/* Token that the engine takes for an end of sequence; call before opening sessions. */
void toy_stop_at(spc_engine *engine, int32_t token);

/* Forwards and rows that a runner has been asked for. */
int64_t toy_rows(const spc_runner *runner);

/* ---- the target distribution, written again in double, straight from rules/README.md ---- */

typedef struct {
    const char *rule; /* text */
    float temperature;
    bool nucleus;
} toy_law;

/* pi of the row behind a prefix, [vocab]. */
void toy_target(const toy_pair *pair, const toy_law *law, const int32_t *prefix, int32_t count,
                double *pi);

/* The same from the logits of a drafter and of a verifier, [vocab], vocab <= TOY_VOCAB. */
void toy_target_of(const float *drafter, const float *verifier, int32_t vocab, const toy_law *law,
                   double *pi);

/* ---- every outcome once ---- */

/* Answers the random questions of a run from a script, and knows the script's next variation. */
typedef struct {
    spc_chance chance;
    double probability; /* of the run so far */
    int32_t asked, known;
    int32_t choice[256], choices[256];
} toy_script;

void toy_script_begin(toy_script *script);
/* Before every run. */
void toy_script_run(toy_script *script);
/* After every run: false when all have been seen. */
bool toy_script_next(toy_script *script);

#endif
