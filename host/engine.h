/* SPDX-License-Identifier: Apache-2.0 */
/* engine.h - inside an engine: two runners, their tokenizer, the slots of its sessions, scratch of
 * a step. */
#ifndef SPC_HOST_ENGINE_H
#define SPC_HOST_ENGINE_H

#include "weights/chat.h"
#include "weights/config.h"
#include "weights/tokenizer.h"

#include "backend.h"
#include "chain.h"
#include "gamma.h"
#include "ngram.h"
#include "overlap.h"
#include "prefix.h"
#include "processor.h"
#include "slots.h"
#include "trace.h"

#include <pthread.h>
#include <stdatomic.h>

/* Logits rows of one session: gamma + 1 of them, and one more where the last is a draft too. */
enum { SPC_LANE_ROWS = SPC_GAMMA_MAX + 2, SPC_SESSIONS_MAX = 4096 };

/* One of the two models. */
typedef struct {
    spc_bundle *bundle; /* owned; the runner reads weights in it */
    spc_plan *plan;     /* owned */
    spc_runner *runner; /* owned; NULL: there is no such model */
    spc_config config;
    spc_meter *meter;      /* told of what is read of it; NULL: nobody asks */
    uint64_t file_bytes;   /* of all tensors, as they were when it was opened */
    uint64_t weight_bytes; /* read by one row */
    uint64_t memory_bytes; /* reserved by the runner */
} spc_model;

/* Rows under construction for one forward, and the lanes of one step.  Sized once. */
typedef struct {
    int32_t *slot, *token, *position, *output; /* [rows] */
    int32_t count;                             /* rows in use */
    int32_t prompts;                           /* of them, of prompts */
    int32_t fed;                               /* rows run since the caller set it to 0 */
    int32_t rows;                              /* most rows of one forward */
    spc_edit_desk edits;                       /* of rows that a forward has left */
    spc_lane *lane;                            /* [sessions] */
    spc_lane *bonus;                           /* [sessions] lanes of late bonus rows */
    spc_verdict *verdict;                      /* [2 * sessions] of the lanes, of the bonus lanes */
    spc_round_request *request;                /* [sessions] of rounds that the backend runs */
    spc_session **group;                       /* [sessions] those of one strategy in a step */
    spc_session **unsure; /* [sessions] those of them that turn to the verifier */
    spc_session **sorted; /* [sessions] those of a round, the ones whose round is in flight first */
} spc_scratch;

/* Long prompts (fill.c): the present step's. */
typedef struct {
    spc_session **session; /* [sessions] put aside: only fed */
    int32_t count;
    bool alone;                     /* the step does nothing else */
    int32_t ahead;                  /* steps of that kind since the device was waited for */
    bool verifier_due, drafter_due; /* their chunks have not been added yet */
} spc_fill;

/* Where an engine looks at the time; tests bring a clock of their own. */
typedef struct {
    uint64_t (*now_ns)(void *user); /* monotonic */
    void *user;
} spc_clock;

/* A thread that waits for the engine, on its own stack. */
typedef struct spc_caller {
    pthread_cond_t turn;
    bool comes;
    struct spc_caller *behind;
} spc_caller;

/* Only one thread is inside of an engine, while a model runs and while slots change hands; the
 * others wait in the order in which they came (entry.h). */
typedef struct {
    pthread_mutex_t lock; /* of the line, for a moment */
    bool taken;
    spc_caller *first, *last;
} spc_line;

struct spc_engine {
    spc_line line;
    _Atomic uintptr_t inside; /* the thread that is; 0: none */
    int64_t process;          /* which opened it */
    int32_t open_sessions;
    uint64_t steps; /* begun; what they mark the sessions in them with */
    bool closed;    /* while sessions were open: it ends with the last one */
    const spc_backend_ops *ops;
    spc_backend *backend; /* owned */
    spc_model drafter;
    spc_ngram_span ngram; /* most > 0: drafts are looked up, and there is no drafter model */
    spc_model verifier;
    spc_tokenizer *tokenizer; /* owned; NULL: prompts are ids */
    size_t longest_token;     /* bytes of the longest piece */
    spc_chat_template chat;   /* the verifier's, with a tokenizer and ... */
    spc_error no_chat;        /* ... where this status is SPC_OK; otherwise why there is none */
    int32_t vocab;
    int32_t context;
    int32_t sessions;
    spc_limits limits; /* of its runners */
    spc_comm *joined;  /* of several processes, until the backend has it; NULL: none */
    int32_t rank;      /* among them */
    bool adopted; /* one of an application's ranks, all of which decide the same by themselves */
    spc_session **slot; /* [sessions] who holds it; NULL: free */
    spc_slots slots;
    spc_pages pages; /* of the caches of both models */
    bool prefix_off; /* spc_engine_options.no_prefix_reuse, or an encoder */
    spc_scratch scratch;
    spc_fill fill;
    int32_t prefill_rows; /* of prompts, beside running sequences in one step */
    spc_gamma gamma;
    spc_clock clock;
    bool composed; /* rounds are, whatever the backend can */
    spc_overlap overlap;
    spc_overlap turns;      /* of batches in two halves: its lengths are classes of their size */
    bool turns_fit;         /* the present step goes the way that is measured */
    uint64_t turn_ns;       /* when the last step of such a batch ended; 0: there was none */
    spc_chain chain[2];     /* of each half */
    spc_kernels kernels;    /* what the backend goes by; empty: defaults */
    const float *synthetic; /* bench_round: drafts are kept with this chance (rules/synthetic.h).
                               NULL: what was decided is kept */
    spc_meter meter;        /* of loading */
    spc_trace *trace;       /* owned; NULL: no profiler */
    spc_log_fn log;
    void *user;
};

/* Read a table of kernels for the models that a backend is to load.  It must outlive the backend.
 * A path of NULL is allowed.  SPC_EINPUT, SPC_EUSAGE no GPU, or several */
spc_status spc_use_kernels(const spc_backend_ops *ops, spc_backend *backend, const char *path,
                           spc_kernels *table, spc_error *err);

/* Time the kernels of both models of an engine that has had no sessions, and write the table.
 * SPC_EUSAGE no GPU, or several; SPC_EINPUT */
spc_status spc_tune_engine(spc_engine *engine, const spc_tuning *how, const char *path,
                           spc_error *err);

/* Open a model by the name users give: a folder, or SPC_EMBEDDED_DRAFTER / SPC_EMBEDDED_VERIFIER.
 */
spc_status spc_open_bundle(const char *name, spc_bundle **out, spc_error *err);

/* Open a model and plan it; `model` holds zeros.  No runner is loaded.  Close it also when this
 * fails. */
spc_status spc_open_model(const char *name, spc_model *model, spc_error *err);
void spc_close_model(spc_model *model);

/* SPC_EUSAGE: there are no such weights (spc_engine_options.weights). */
spc_status spc_check_weights(const char *weights, spc_error *err);

/* Change the matrices of an open model before it is loaded, as spc_engine_options.weights says, by
 * so many threads (0: one per core); NULL changes nothing.  Where matrices are quantised already,
 * and so stay as they are, the log (which may be NULL) is told in a line "warning: ".
 * SPC_EUSAGE, SPC_ENUMERIC, SPC_EMODEL, SPC_ENOMEM */
spc_status spc_change_weights(spc_model *model, const char *weights, int32_t threads,
                              spc_log_fn log, void *user, spc_error *err);

/* The tokenizer of a model; NULL, and no error, when its folder has none. */
spc_status spc_open_tokenizer(spc_model *model, spc_tokenizer **out, spc_error *err);

/* The tokenizers of a pair: both at the same time, or one for both where they are the same text.
 * Where both fail the error is the first one's, whichever was found first; but files that cannot be
 * read at all come first.
 *
 * model   [2]; model[1] NULL: there is one
 * out     [2] as spc_open_tokenizer, NULL on failure; close by spc_close_tokenizers */
spc_status spc_open_tokenizers(spc_model *const *model, spc_tokenizer **out, spc_error *err);
void spc_close_tokenizers(spc_tokenizer *const *tokenizer);

/* Find the verifier's chat template.  That there is none, or none that is known, is no error until
 * somebody wants it.  SPC_ENOMEM */
spc_status spc_engine_find_chat(spc_engine *engine, spc_error *err);

/* Monotonic clock of the machine, in nanoseconds. */
uint64_t spc_now_ns(void);

/* Release everything.  No session is open. */
void spc_engine_end(spc_engine *engine);

/* The engine's time. */
uint64_t spc_engine_now(const spc_engine *engine);

/* Are they ids of its models, and is there a source for an encoder and for nothing else? */
spc_status spc_engine_check_logits(const spc_engine *engine, const int32_t *source,
                                   int32_t source_count, const int32_t *ids, int32_t count,
                                   spc_error *err);

/* Do its models read prompts by an encoder? */
bool spc_engine_encodes(const spc_engine *engine);

/* Is it one that may be used at all?  SPC_EUSAGE: it can only follow rank 0's. */
spc_status spc_engine_check_rank(const spc_engine *engine, spc_error *err);

/* The context of sessions: `wanted` tokens, or with 0 as many as both models allow. */
spc_status spc_engine_choose_context(spc_engine *engine, int32_t wanted, spc_error *err);

/* What a step works with, for engine->sessions of them and forwards of engine->limits.rows rows;
 * and its release, whether or not all of it was had. */
spc_status spc_engine_reserve(spc_engine *engine, spc_error *err);
void spc_engine_release(spc_engine *engine);

/* What each runner of an engine must hold; and, on this device, for prompts beside that. */
spc_limits spc_engine_limits(int32_t sessions, int32_t context);
void spc_engine_widen(spc_limits *limits, const spc_backend_ops *ops, const spc_backend *backend);

/* Of an engine whose models have been found and paired: their configurations and tokenizers are
 * there, their weights are not.  What look returns, if not SPC_OK, ends the opening. */
typedef struct {
    spc_status (*look)(const spc_engine *engine, void *user, spc_error *err);
    void *user;
} spc_engine_check;

/* spc_engine_open, with a check of the caller's own, which may be NULL. */
spc_status spc_engine_open_checked(const spc_engine_options *options, const spc_engine_check *check,
                                   spc_engine **out, spc_error *err);

/* What can be told of an engine's options without a model and without a device.  SPC_EUSAGE,
 * SPC_EUNSUPPORTED */
spc_status spc_engine_options_check(const spc_engine_options *options, spc_error *err);
/* The ranks that they ask for: by their number, or by a list of devices. */
int32_t spc_options_ranks(const spc_engine_options *options);
/* Is this to be one of several processes? */
bool spc_options_grouped(const spc_engine_options *options);

/* An engine over runners that exist already (tests bring their own backend); prefix reuse is off.
 * Takes over backend and runners, also when it fails; drafter may be NULL. */
spc_status spc_engine_assemble(const spc_backend_ops *ops, spc_backend *backend,
                               spc_runner *drafter, spc_runner *verifier, int32_t vocab,
                               int32_t context, int32_t sessions, spc_engine **out, spc_error *err);

#endif
