/* SPDX-License-Identifier: Apache-2.0 */
/* backend.h - what a device must be able to do: the verbs.
 *
 * A runner is one model on one device: weights, KV caches of all slots, scratch.  The CPU backend
 * defines what each verb means; every other backend is tested against it.  All memory is reserved
 * by load: the verbs after it allocate nothing.  Calls on runners of one backend come from one
 * thread at a time (the engine holds a lock).
 *
 * round.c composes a round from forward, draw, verify and rewind.  The composed round waits for
 * every drafted token; a backend that can run a round by itself, forwards and all, has one more
 * verb, round. */
#ifndef SPC_HOST_BACKEND_H
#define SPC_HOST_BACKEND_H

#include "rules/edit.h"
#include "rules/row.h"
#include "weights/bundle.h"

#include "host/plan/plan.h"
#include "host/ranks/comm.h"
#include "kernels.h"
#include "meter.h"
#include "pages.h"

#include <spc/spc.h>
#include <spc/verify.h>

typedef struct spc_backend spc_backend;
typedef struct spc_runner spc_runner;

/* GPU: which kernels take up to 16 rows of a linear layer (all rows without `library`).  A matrix
 * has one for all of them: a row's bits do not depend on how many there are. */
typedef enum {
    SPC_LINEAR_AUTO, /* tensor cores for weights of 16 bits, ROW for others */
    SPC_LINEAR_ROW,  /* plain multiplications (cuda/linear_row.cu), for measurements and tests */
} spc_linear_kernels;

/* How much a runner must be able to hold; fixed at load. */
typedef struct {
    int32_t slots;   /* sequences whose KV cache exists at once */
    int32_t context; /* tokens per slot, at most */
    int32_t rows;    /* most rows of one forward; longer prompts come in chunks of this */
    int32_t outputs; /* logits rows kept at once */
    bool library;    /* GPU: more than 16 rows go through cuBLASLt, but for quantised matrices, and
                        where a table (kernels.h) found own kernels faster.  A row's last bits then
                        depend on how many run together, which they otherwise never do, with a table or
                        without */
    spc_linear_kernels linear;
    bool plain;        /* GPU: launch by launch, nothing recorded; to find faults */
    bool no_early;     /* GPU: no kernel begins before the one in front has ended; to measure */
    bool drafter_rows; /* verify_rows will be called: room for the rows where there has to be */
    spc_dtype kv;      /* of keys and values, an encoder's too: F32, BF16, F16 (kv.h) */
    spc_meter *meter;  /* told of the weights that load has read or sent, by the bytes they have in
                          the bundle, on load's thread or one that it waits for; NULL: nobody asks */
    int32_t pages;     /* of KV entries, for all slots together: a slot has none until `map`.  0: as
                          many as all slots can fill, and each has its own until `map` */
} spc_limits;

/* Pages of KV entries that a runner reserves. */
static inline int64_t spc_limits_pages(const spc_limits *limits)
{
    if (limits->pages > 0) return limits->pages;
    return (int64_t)limits->slots * spc_pages_for(limits->context);
}

/* Rows of one forward.  Row r feeds token[r] at position[r] of slot[r]: its KV entry is written
 * there, then it attends to positions 0 .. position[r].  The rows of one slot are consecutive, in
 * rising order of position, and begin at that slot's KV length. */
typedef struct {
    int32_t count;           /* 1 .. limits.rows */
    const int32_t *slot;     /* [count] */
    const int32_t *token;    /* [count], 0 .. vocab - 1 */
    const int32_t *position; /* [count] */
    const int32_t *output;   /* [count] logits row to leave the result in, or -1: none wanted */
} spc_rows;

/* One sequence inside a round.  Row i of the lane has its logits in row `output + i` of the drafter
 * and of the verifier. */
typedef struct {
    const spc_row_params *params; /* rule, sampling, seed; constant while the session lives */
    int64_t position;             /* of the token that row 0 predicts */
    int32_t output;               /* logits row of row 0 */
    int32_t drafts;               /* rows with a draft */
    uint32_t salt;                /* 0, or of the round under block verification */
    bool bonus;                   /* verify: draw the token after a fully kept draft */
    int32_t *draft;               /* [drafts] drafted tokens; draw writes them, verify reads */
    spc_row_stats *stats;         /* [drafts] of the drafter's rows; draw writes, verify reads */
} spc_lane;

/* Does the token behind a fully kept draft depend on the drafter's row there? */
static inline bool spc_lane_bonus_reads(const spc_lane *lane)
{
    if (!spc_rule_uses_drafter(&lane->params->rule)) return false;
    return lane->params->bonus == SPC_BONUS_TARGET || lane->drafts == 0;
}

/* Rows of the drafter, from the lane's first on, that its verification may read. */
static inline int32_t spc_lane_drafter_rows(const spc_lane *lane)
{
    return lane->drafts + (lane->bonus && spc_lane_bonus_reads(lane) ? 1 : 0);
}

/* At most so many in one call of edit. */
enum { SPC_EDITS_MOST = 4096, SPC_MASKS_MOST = 64, SPC_MASK_WORDS_MOST = SPC_VOCAB_MAX / 32 };

/* What sessions do to their rows of logits before anything reads them. */
typedef struct {
    int32_t edits;              /* 0 .. SPC_EDITS_MOST */
    const spc_logit_edit *edit; /* [edits] no logit of a row twice */
    int32_t masks;              /* 0 .. SPC_MASKS_MOST, of SPC_MASK_WORDS_MOST words together */
    const int32_t *masked;      /* [masks] rows, all different */
    const uint32_t *allowed; /* [masks, spc_mask_words(ids)] token v is bit v % 32 of word v / 32;
                                the others become -inf, whatever the edits */
} spc_edit_list;

static inline int32_t spc_mask_words(int32_t ids)
{
    return (ids + 31) / 32;
}

/* How long a round took. */
typedef struct {
    uint64_t verify_ns; /* from the last draw to the end of verification, by the device's clock (of
                           two devices by the host's); UINT64_MAX: nothing was drawn */
    uint64_t round_ns; /* from its beginning to there, or to the end of late rows where there may be
                          any, by the same; UINT64_MAX: as long as the call, which did not find it
                          sent (spc_round_request.was_in_flight) */
} spc_round_times;

/* Rounds that a backend ran by itself, by the clock of the device of their verifier. */
typedef struct {
    uint64_t rounds;
    uint64_t draft_ns;  /* from the beginning to the last draw */
    uint64_t score_ns;  /* the verifier's forwards */
    uint64_t decide_ns; /* verification; late rows come behind */
    uint64_t gap_ns;    /* from there to the beginning of the round behind: late rows, the host */
} spc_round_clock;

enum { SPC_ROUND_STOPS = SPC_CONFIG_STOPS + SPC_STOP_TOKENS_MAX };

/* One sequence of a round that a backend runs by itself.  Both caches are as after a round: the
 * verifier lacks the pending token alone; the drafter that one or the two last where there are
 * drafts, the pending one alone where there is nothing but a late bonus, else anything. */
typedef struct {
    spc_lane lane;        /* drafts: how many to draw, at most.  bonus: draw the token after a fully
                             kept draft, unless the draft ended early.  lane.stats is not used */
    int32_t slot;         /* in both models */
    int32_t length;       /* committed tokens, lane.position of them before the first draft */
    const int32_t *token; /* [length] the last is pending */
    bool late;     /* the same as bonus, from the drafter's row behind the drafts too: that row
                      is run when all drafts were kept.  Never both */
    bool unscored; /* the last draft ends the round: no row is scored behind it */
    int32_t ahead; /* of a sequence by itself whose last draft ends the round, whose verification is
                      by token: while the verifier works, draw so many drafts of the next round, as
                      if all of this one were kept.  They are what that round would draw */
    bool may_chain; /* unless it ends in this round, the next one draws as many drafts.  Where all
                      sequences of a round do, the backend may run that one behind it, before this
                      one has returned: `in_flight` */
    int32_t half;  /* 0; or 1: of the second half of a batch.  Each half may have a round in flight;
                      rows of logits of the two are different ones */
    bool in_turns; /* the next round, if it is sent, drafts while the verifier works on the other
                      half.  Not late */
    const float *synthetic; /* NULL; or the chance with which drafts are kept, whatever the models
                               say: the same of all sequences (rules/synthetic.h) */
    int32_t stop[SPC_ROUND_STOPS]; /* [stop_count] ids behind which nothing is drafted or drawn */
    int32_t stop_count;
    /* what became of it */
    bool failed;   /* a drafter row was bad: the draft broke off there (lane.drafts says where) */
    bool again;    /* the late row ran, and its verdict is there */
    int32_t ready; /* drafts that an earlier round had drawn ahead; `ahead` receives how many this
                      one has */
    bool was_in_flight; /* this round had been sent behind the one before */
    bool in_flight;     /* the next one has been sent: it is what a call with the same sequences, or
                           some of them, finds; another call has to wait for it and gets nothing of
                           it */
} spc_round_request;

/* What load would take of the memory of a GPU. */
typedef struct {
    int32_t device;           /* its number */
    uint64_t weights, memory; /* bytes, exactly; memory: beside the weights */
    uint64_t room;            /* bytes that are free there */
} spc_claim;

/* Ranks may each have a GPU, and a drafter others of its own. */
enum { SPC_CLAIMS = 2 * SPC_RANKS_MAX };

typedef struct {
    spc_claim item[SPC_CLAIMS];
    int32_t count;
} spc_claims;

/* Rows of one forward, where a round of all sessions has not more: a chunk of a prompt.  A CPU is
 * no faster with more than the first; a GPU reads all weights in the time that it computes some 300
 * rows of 16-bit ones. */
enum { SPC_CHUNK_ROWS = 64, SPC_CHUNK_ROWS_GPU = 512 };

/* How kernels are timed. */
typedef struct {
    uint64_t (*now_ns)(void *user); /* a clock */
    void *user;
    int32_t runs;     /* >= 1, of which the median is taken */
    int32_t together; /* >= 1 forwards of a run, sent before the device is waited for */
} spc_tuning;

typedef struct {
    const char *name; /* "cpu", "cuda", "ranks", "cuda-ranks", "group", "apart" */

    /* Open a device.  threads: 0 chooses; the CPU's.  which: NULL chooses, otherwise a vector unit
     * of the CPU by name, or a GPU by number; an unknown or absent one is SPC_EUSAGE and lists what
     * there is. */
    spc_status (*open)(spc_backend **out, int32_t threads, const char *which, spc_error *err);
    void (*close)(spc_backend *backend);               /* NULL allowed */
    const char *(*device)(const spc_backend *backend); /* "cpu, 2 threads, avx512" */
    /* Rows of a prompt of which a forward makes the most: fewer read the weights more often than
     * they need.  NULL: SPC_CHUNK_ROWS. */
    int32_t (*chunk_rows)(const spc_backend *backend);

    /* Bytes that load would take beside the weights: exactly what it will reserve.  SIZE_MAX / 2
     * and more: of sizes beyond counting, or where the ranks' plans could not be made. */
    size_t (*memory)(const spc_backend *backend, const spc_plan *plan, const spc_limits *limits);
    /* Bind the plan to the tensors of a bundle and reserve every byte the runner will ever use.
     * Every tensor is checked for name, shape and type (SPC_ESHAPE names tensor, expected, found).
     * The CPU reads weights in place: the bundle must outlive the runner.  A GPU without room is
     * SPC_ENOMEM and says what is needed, what is free and what to lower. */
    spc_status (*load)(spc_backend *backend, const spc_plan *plan, const spc_bundle *weights,
                       const spc_limits *limits, spc_runner **out, spc_error *err);
    void (*unload)(spc_runner *runner); /* NULL allowed */
    /* Has the runner hung, and been given up?  Then unload leaves it, and its plan and weights have
     * to stay, too.  NULL: never. */
    bool (*given_up)(const spc_runner *runner);

    /* Plans with an encoder: run it over the tokens of a prompt [count], 1 to limits.context, and
     * leave with the slot what its rows will attend to, until the slot's next encode.  The slot's
     * KV length must be 0, and forward takes no row of a slot that has not been encoded. */
    spc_status (*encode)(spc_runner *runner, int32_t slot, const int32_t *token, int32_t count,
                         spc_error *err);
    /* Run rows, of positions that their slots have pages for; leave the logits rows asked for.
     * Advances the KV length of each slot.  A row's result depends on its own slot alone: not on
     * its neighbours, their number or their order. */
    spc_status (*forward)(spc_runner *runner, const spc_rows *rows, spc_error *err);
    /* Logits row, [vocab] float32 on the host, valid until the next forward that writes it. */
    const float *(*logits)(const spc_runner *runner, int32_t output);
    /* KV length of a slot, in tokens. */
    int32_t (*length)(const spc_runner *runner, int32_t slot);
    /* Forget KV entries at and after length (<= the present one): sets a counter, copies nothing.
     */
    void (*rewind)(spc_runner *runner, int32_t slot, int32_t length);
    /* Give a slot pages: the KV entries of its positions 16 i .. 16 i + 15 lie in page[i] from now
     * on, and it can hold no more than [count] pages take.  The first `length` of them are there,
     * run by this slot or another in these very pages: the slot holds these and no others.  Slots
     * may have pages in common, as far as their tokens are the same: what one of them writes there
     * is what the others have, to the bit.  An encoder's memory has pages of its own. */
    spc_status (*map)(spc_runner *runner, int32_t slot, const int32_t *page, int32_t count,
                      int32_t length, spc_error *err);

    /* Change logits where the last forward that wrote the row has left them, for all that read them
     * from now on. */
    spc_status (*edit)(spc_runner *runner, const spc_edit_list *list, spc_error *err);
    /* Draw draft i of every lane that has drafts > i from the drafter's row i: writes
     * lane->draft[i], -1 when the row is bad, and lane->stats[i]. */
    spc_status (*draw)(spc_runner *drafter, const spc_lane *lanes, int32_t count, int32_t i,
                       spc_error *err);
    /* Decide what the round emits, one verdict per lane (spc/verify.h).  drafter may be NULL when
     * no rule among the lanes reads its rows. */
    spc_status (*verify)(spc_runner *drafter, spc_runner *verifier, const spc_lane *lanes,
                         int32_t count, spc_verdict *out, spc_error *err);

    /* The same with the rows of a drafter that ran on another backend: [outputs, ids] on the host,
     * of which those of the lanes mean something (spc_lane_drafter_rows).  NULL rows as a NULL
     * drafter above.  The verifier was loaded with limits.drafter_rows.  NULL: not here. */
    spc_status (*verify_rows)(const float *rows, spc_runner *verifier, const spc_lane *lanes,
                              int32_t count, spc_verdict *out, spc_error *err);

    /* Bytes that the stacks of kernels take of a device, once for all runners, from when it is
     * opened: not claimed, nor free.  NULL: none. */
    size_t (*stacks)(const spc_backend *backend);
    /* What it turned out that the device cannot do, so that it is done without: a line, once for
     * each; NULL: nothing that was not told.  Valid until the next call.  May be NULL. */
    const char *(*notice)(spc_backend *backend);

    /* Draft, score and verify one round of every sequence, to the bits of the verbs above in their
     * order, and wait once.  A draft that is a stop, or whose row was bad, is the last: drafts
     * receives how many there are, draft which.  KV lengths end behind the last row that a kept
     * draft may need.  Sequences of any rule, draft length and position go together.  NULL: rounds
     * are composed.
     *
     * drafter     may be NULL when nothing is to be drafted and no rule reads its rows
     * out         [count] verdicts
     * late        [count] of the late rows that ran */
    spc_status (*round)(spc_runner *drafter, spc_runner *verifier, spc_round_request *request,
                        int32_t count, spc_verdict *out, spc_verdict *late, spc_round_times *times,
                        spc_error *err);
    bool round_alone; /* round takes one sequence, unscored: others are composed */
    /* What is kept of a verifier's rounds from the first call on, at two more small launches in
     * each; borrowed until unload.  NULL: there is no round, or no clock. */
    const spc_round_clock *(*round_clock)(spc_runner *verifier);
    /* Make logits rows first .. first + count - 1 of the last forward, or none, whole for `logits`.
     * Fails where the device did, also behind a call of `logits` that could not say so.  NULL: they
     * always are whole, and none fails. */
    spc_status (*gather)(spc_runner *runner, int32_t first, int32_t count, spc_error *err);
    /* Add what load would take of each device to what other models take there; of several processes
     * this one's.  The errors of tensors that load would refuse.  NULL: it takes memory that nobody
     * counts: the CPU's, which reads weights where they are and has the rest when it is written. */
    spc_status (*claim)(const spc_backend *backend, const spc_plan *plan, const spc_bundle *weights,
                        const spc_limits *limits, spc_claims *claims, spc_error *err);
    /* Load models with the kernels of a table from now on; it must outlive the backend.  Load then
     * fails with SPC_EINPUT where the table lacks a layer.  SPC_EINPUT: it is of another GPU.
     * NULL: there is nothing to choose. */
    spc_status (*use_kernels)(spc_backend *backend, const spc_kernels *table, spc_error *err);
    /* Time every way that a model's linear layers can go, those apart that the table has, and add
     * the fastest; where limits.library is set also of more than 16 rows.  The runner was loaded
     * without a table and holds no sequence.  SPC_EINPUT: the table is of another GPU, or of
     * another version of cuBLASLt.  NULL as above. */
    spc_status (*tune)(spc_runner *runner, const spc_tuning *how, spc_kernels *table,
                       spc_error *err);
} spc_backend_ops;

extern const spc_backend_ops spc_backend_cpu;
extern const spc_backend_ops spc_backend_cuda; /* in builds with CUDA */

#endif
