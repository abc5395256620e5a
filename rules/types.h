/* SPDX-License-Identifier: Apache-2.0 */
/* types.h - what goes into the calls of spc/verify.h and what comes out: data, and nothing that
 * computes.  The rules' own headers use the same types. */
#ifndef SPC_RULES_TYPES_H
#define SPC_RULES_TYPES_H

#include "rule.h"

#include <stddef.h>

/* ---- a sequence -------------------------------------------------------------------------------
 */

/* Longest draft. */
#define SPC_GAMMA_MAX 16

/* Largest vocabulary. */
#define SPC_VOCAB_MAX (1 << 20)

/* Last position of a token.  The bits above say which stream a random number is of (rng.h). */
#define SPC_POSITION_MAX (((int64_t)1 << 60) - 1)

/* How rows are processed before they are mixed; the same for both models (rules/README.md, "A
 * step"). */
typedef struct {
    float temperature; /* 0: greedy; otherwise >= SPC_TEMPERATURE_MIN */
    int32_t top_k;     /* 0, or the vocabulary and more: off; below 0 is refused */
    float top_p;       /* (0, 1]; 1: off */
    float min_p;       /* [0, 1]; 0: off */
} spc_sampling;

#define SPC_TEMPERATURE_MIN 1e-4f

/* Decide draft by draft, or by one joint coin over the whole draft (same law, at least as many
 * kept). */
typedef enum { SPC_VERIFY_TOKEN, SPC_VERIFY_BLOCK } spc_verify_mode;

/* Where the token after a fully kept draft comes from.
 *
 * TARGET    the target distribution, from the rows of both models: the law does not depend on gamma
 * VERIFIER  the verifier's distribution: needs no drafter row, but the law then depends on gamma
 * STEP      there is none: the last row had a draft of its own and was judged like the others.  A
 *           round without drafts draws from the target distribution (cactus, which has none then,
 *           from the verifier's) */
typedef enum { SPC_BONUS_TARGET, SPC_BONUS_VERIFIER, SPC_BONUS_STEP } spc_bonus_mode;

/* How one sequence is decoded.  Begin with spc_row_params_init, check with spc_params_check before
 * use.  It holds no pointers: devices are given its bytes. */
typedef struct {
    spc_rule rule;         /* from spc_rule_parse */
    spc_sampling sampling; /* temperature and truncation of both models */
    uint64_t seed;         /* of the sequence */
    int32_t verify;        /* spc_verify_mode */
    int32_t bonus;         /* spc_bonus_mode */
    int32_t nucleus;       /* 1: token rules stay inside the verifier's nucleus */
} spc_row_params;

/* ---- rows -------------------------------------------------------------------------------------
 */

/* Element types of logits. */
typedef enum { SPC_LOGITS_F32, SPC_LOGITS_BF16, SPC_LOGITS_F16 } spc_logits_type;

/* A row of logits where it lies. */
typedef struct {
    const void *data; /* [vocab] */
    int32_t type;     /* spc_logits_type */
} spc_logits;

/* Which of 32 tokens a model knows that knows some of the vocabulary: the head of an EAGLE-3
 * drafter, whose list of tokens is called d2t, or one that was cut to frequent tokens (FR-Spec).
 * Its rows have an element for each of these tokens, in ascending order. */
typedef struct {
    uint32_t tokens; /* bit v % 32: it knows token v */
    int32_t before;  /* how many tokens it knows before these 32: the element of the first here */
} spc_subset;

/* The logit of a token that is not to be drafted, in a row over all tokens: its probability is 0,
 * unless a mask leaves no other; then any that it leaves may be drafted. */
#define SPC_LOGIT_NEVER (-1e30f)

/* The rows of one model, one behind the other. */
typedef struct {
    spc_logits logits;        /* of the first row; data NULL: there are none */
    int64_t stride;           /* elements from row to row, >= width */
    int32_t width;            /* tokens the model knows: elements of a row.  Those from here to the
                                 vocabulary are -inf, elements beyond it (padding) count for nothing ... */
    const spc_subset *subset; /* ... or [(vocab + 31) / 32], aligned to 8 bytes: all but these are
                                 (spc_subset_fill).  NULL: element v is of token v */
} spc_logit_rows;

/* What is done to logits before anything else, the same to the rows of both models: row by row, a
 * set of allowed tokens (the others become -inf) and numbers added to single logits (penalties,
 * bias). */
typedef struct {
    const uint32_t *allowed;   /* [rows, allowed_stride] token v is bit v % 32 of word v / 32; or
                                  NULL: all are allowed */
    int64_t allowed_stride;    /* words from row to row */
    const int32_t *edit_first; /* [rows + 1] row r has the edits edit_first[r] .. [r + 1] - 1; or
                                  NULL: there are none.  A row whose edits begin below 0, or end
                                  before they begin, is bad, as one of NaN is */
    const int32_t *edit_token; /* ascending in a row, each token once */
    const float *edit_value;   /* what is added to its logit; -inf bans it */
} spc_edits;

/* Everything later steps need to know of one row of logits. */
typedef struct {
    float max;     /* largest logit */
    int32_t top;   /* its id, the smallest on ties */
    float sum;     /* of exp((z - max) / T) over what truncation leaves; 1 at T = 0 */
    float sum_one; /* of exp(z - max) over all */
    float moment;  /* of y exp(y) over the gate row, y = ln(exp's argument); 0 unless asked for */
    float cut;     /* least logit that truncation leaves; -inf: all */
    int32_t bad;   /* NaN, +inf or no finite logit: nothing else here means anything */
} spc_row_stats;

/* ---- what became of a round -------------------------------------------------------------------
 */

/* What is wrong with a row, or noteworthy about a decision; bits.  With 0 or ZERO_RESIDUAL all is
 * well.  BAD_DRAFT: a draft was none and was rejected, and the round was decided.  BAD_DRAFTER and
 * BAD_VERIFIER: it was decided up to the row that is bad, so count may be above 0; no token follows
 * there.  BAD_PARAM: nothing was decided, and count is 0. */
enum {
    SPC_STATUS_ZERO_RESIDUAL = 1, /* nothing left to draw from after a rejection: drawn from pi */
    SPC_STATUS_BAD_DRAFTER = 2,   /* NaN, +inf or no finite logit in a needed drafter row, or edits
                                     of it that cannot be (spc_edits) */
    SPC_STATUS_BAD_VERIFIER = 4,  /* the same in a needed verifier row */
    SPC_STATUS_BAD_DRAFT = 8,     /* id outside the vocabulary, or one the drafter row excludes */
    SPC_STATUS_BAD_PARAM = 16,    /* parameters out of range, a draft length, position or row that
                                     cannot be, or no drafter where the rule reads one: nothing was
                                     decided */
};

/* What became of the round. */
typedef struct {
    int32_t count;    /* tokens emitted: the kept drafts, then at most one more */
    int32_t accepted; /* drafts kept */
    int32_t verified; /* drafts that reached a verdict: min(accepted + 1, drafts) */
    int32_t drawn;    /* 1: the last token was drawn here (residual or bonus), 0: all are drafts */
    int32_t token[SPC_GAMMA_MAX + 2]; /* [count], then -1 */
    uint32_t deferred; /* bit i: row i turned to the verifier (verified rows, bonus row) */
    uint32_t status;   /* SPC_STATUS_*; bad rows end the sequence */
} spc_verdict;

typedef enum {
    SPC_FATE_NONE,     /* not reached */
    SPC_FATE_KEPT,     /* the draft was kept whatever the coin: pi(d) >= q(d) > 0 */
    SPC_FATE_LUCKY,    /* the draft was kept by its coin, or by that of its block */
    SPC_FATE_REJECTED, /* a token was drawn in the draft's place */
    SPC_FATE_BONUS     /* a token was drawn without a draft */
} spc_row_fate;

/* What became of one row of a round, for those who want to know: computed only when asked for, and
 * then at the price of further looks at the rows.  Probabilities are processed ones; everything is
 * 0, and inside -1, in a row that the round did not reach. */
typedef struct {
    int32_t fate;       /* spc_row_fate */
    uint32_t deferred;  /* 1: the rule turned to the verifier for this token */
    float drafter;      /* q(d) of the draft; 0 without one */
    float verifier;     /* p(d) */
    float target;       /* pi(d) */
    float coin;         /* the uniform that the draft was judged by */
    float top_drafter;  /* largest probability of the row that the gate reads; 0 without a drafter,
                           and under rules that compare none (those without a gate, token-v3) */
    float top_verifier; /* the same of the verifier */
    float tv;           /* sum of max(0, p - q); 0 in a bonus row that is drawn without q, which is
                           then not read (strict, truncate, SPC_BONUS_VERIFIER) */
    float outside;      /* eta: mass of q outside the set of a token rule; 0 without a set */
    int32_t inside;     /* tokens in the set; -1 without a set */
    float log_verifier; /* ln p of the token emitted at this row */
    float log_target;   /* ln pi of the same; of cactus, which has no pi without a draft, ln p */
} spc_row_detail;

/* ---- batches ----------------------------------------------------------------------------------
 *
 * The struct lies in host memory and is read before the call returns.  Every array lies in the
 * memory of the place that runs the call (host memory for spc_cpu_*, device memory for spc_cuda_*),
 * and is read and written in the order of the stream; the caller owns all of them.  What is written
 * overlaps nothing else.  Begin with zeros (= {0}): what may be NULL is then not there.
 *
 * Drafts may be ragged: entries of [sequences, max_drafts] behind a sequence's own count for
 * nothing.
 *
 * A graph that captured a call repeats it with the struct as it was: the same arrays, strides and
 * number of sequences.  What changes from replay to replay is in arrays: parameters, rows,
 * positions, drafts and their lengths, masks and edits, and `live`. */

/* One row of logits per sequence: draw a token, or take the row's statistics. */
typedef struct {
    int32_t sequences;            /* entries of the arrays, >= 1 */
    const int32_t *live;          /* [1] how many of them are there now, or NULL: all; nothing is
                                     written for the others */
    int32_t vocab;                /* tokens that can be drawn, 1 .. SPC_VOCAB_MAX; the verifier's
                                     where logits.subset says which of them the rows know */
    const spc_row_params *params; /* [sequences] */
    spc_logit_rows logits;
    const int64_t *row; /* [sequences] which row of logits; NULL: row s of sequence s.  Below 0:
                           this sequence draws nothing now, and gets token -1 and statistics
                           marked as bad */
    spc_edits edits;    /* by row of these logits (a round's are by row of the verifier) */
    const int64_t *position; /* [sequences] of the token to be drawn, prompt included */
    const uint32_t *salt;    /* [sequences] as for spc_draft_sample; NULL: 0, and no drafts of
                                sequences under block verification */
    int32_t plain;           /* 1: as spc_plain_sample draws; 0: a draft */
    int32_t *token; /* [sequences] receives the token, -1 for a bad row; NULL: none is drawn */
    spc_row_stats *stats;   /* [sequences] receives the row's statistics, or NULL */
    float *log_probability; /* [sequences] receives ln of the token's processed probability, -inf
                               where there is no token; or NULL */
    int32_t out_stride;     /* those of sequence s are the entries s * out_stride of these arrays;
                               0: 1.  With max_drafts, what step i of drafting writes to draft + i
                               and stats + i is where spc_verify_batch reads it */
    void *workspace; /* cuda: scratch for the form that spreads a batch over the device; NULL:
                        the reference form, one block per sequence, slow.  cpu: not used */
    size_t workspace_bytes; /* at least spc_workspace_bytes */
} spc_draw_batch;

/* One round of every sequence. */
typedef struct {
    int32_t sequences;            /* entries of the arrays, >= 1 */
    const int32_t *live;          /* [1] how many of them are there now, or NULL: all; nothing is
                                     written for the others */
    int32_t vocab;                /* tokens of the verifier, 1 .. SPC_VOCAB_MAX */
    int32_t max_drafts;           /* longest draft length, 0 .. SPC_GAMMA_MAX + 1 */
    const spc_row_params *params; /* [sequences] */
    spc_logit_rows drafter;       /* logits.data NULL: the drafts come without a distribution */
    /* [sequences] row of the first draft, >= 0; NULL without rows.  The others follow it, one for
     * each draft, and, nobody can check, one more where a bonus is drawn, unless the rule (strict,
     * truncate, cactus) or, behind drafts, SPC_BONUS_VERIFIER does without.  A drafter that has run
     * a row for each draft alone lacks it: give bonus 0, and draw later, or one of these */
    const int64_t *drafter_row;
    spc_logit_rows verifier;
    const int64_t *verifier_row; /* [sequences] the same of the verifier, which has one more where a
                                    bonus is drawn */
    spc_edits edits;       /* by row of the verifier; done to the drafter's row beside it too */
    const int32_t *drafts; /* [sequences] draft lengths, 0 .. max_drafts */
    const int32_t *draft;  /* [sequences, max_drafts] ids; NULL when max_drafts is 0 */
    const spc_row_stats *stats; /* [sequences, max_drafts] of the drafter's rows as left by a draw
                                   with the same parameters and edits, or NULL: taken here */
    const int64_t *position;    /* [sequences] of the first draft's token */
    const uint32_t *salt;       /* [sequences] as for spc_draft_sample; NULL: 0, under block
                                   verification (position + 1) mod 2^32 */
    const int32_t *bonus;       /* [sequences] 1: draw a token when all drafts are kept, but for
                                   drafts under SPC_BONUS_STEP; 0: leave that row to a later call;
                                   NULL: 1 */
    int32_t *token;             /* [sequences, max_drafts + 1] receives what is emitted, then -1 */
    int32_t *count;             /* [sequences] receives how many tokens that are */
    uint32_t *status;           /* [sequences] receives SPC_STATUS_* */
    int32_t *accepted;          /* [sequences] receives how many drafts were kept, or NULL */
    spc_verdict *verdict;       /* [sequences] receives all of it once more, or NULL */
    spc_row_detail *detail;     /* [sequences, max_drafts + 1] receives what became of each row, or
                                   NULL; rows behind drafts[s], and all of a sequence with
                                   SPC_STATUS_BAD_PARAM, are left as they were.  Taking it costs
                                   further looks at the rows. */
    void *workspace; /* cuda: scratch for the form that spreads a batch over the device; NULL:
                        the reference form, one block per sequence, slow.  cpu: not used */
    size_t workspace_bytes; /* at least spc_workspace_bytes */
} spc_verify_batch;

/* ---- slices of the vocabulary -----------------------------------------------------------------
 */

enum { SPC_SHARDS_MAX = 64 };

/* One rank's part in a batch whose rows are cut.  In the batch, the verifier's (and the drawn)
 * logits.data points to the first token of the slice, stride counts the elements between slices,
 * width is that of the whole row; masks, edits, drafts and statistics are those of whole rows.
 * Rows of some of the tokens (subset) are not cut: drafter_whole is 1 for them.
 * workspace is not used. */
typedef struct {
    int32_t rank;  /* 0 .. world - 1 */
    int32_t world; /* 1 .. SPC_SHARDS_MAX */
    int32_t cut;   /* vocabulary by which the slices are cut, padding included: >= the batch's; 0:
                      that one */
    int32_t drafter_whole; /* 1: every rank has the drafter's whole rows; 0: they are cut alike */
    void *state;           /* [sequences, state_bytes] of this rank, aligned to 16 bytes; step 0
                              begins it anew */
    size_t state_bytes;    /* per sequence; spc_shard_sizes */
    void *answers;         /* [world, send_bytes], aligned to 16 bytes: partial writes this rank's
                              part, the caller gathers, combine reads all of them */
    size_t send_bytes;     /* what each rank sends in this step, the same on every rank; a multiple
                              of 8.  Step 0: spc_verify_first_bytes, spc_draw_first_bytes or more;
                              later ones: left[1] or more; at most sequences + 1 MiB */
    int64_t *left;         /* [2] combine writes how many sequences have a question open, and how
                              many bytes their answers take: the same on every rank */
} spc_shards;

#endif
