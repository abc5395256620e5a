/* SPDX-License-Identifier: Apache-2.0 */
/* session.h - inside a session: one sequence, its options, its counters; and what a strategy is. */
#ifndef SPC_HOST_SESSION_H
#define SPC_HOST_SESSION_H

#include "engine.h"
#include "text.h"

#include <stdatomic.h>

/* A strategy makes one step of several sessions that share it.  Each session's own failure goes
 * into the session; what fails here fails all of them. */
typedef struct {
    const char *name;
    spc_status (*step)(spc_engine *engine, spc_session *const *sessions, int32_t count,
                       spc_error *err);
} spc_strategy;

extern const spc_strategy spc_strategy_round;   /* round.c: any one-round rule, and verifier-only */
extern const spc_strategy spc_strategy_drafter; /* sequential.c: the drafter alone */
extern const spc_strategy spc_strategy_token_chow;
extern const spc_strategy spc_strategy_seq_chow;
extern const spc_strategy spc_strategy_bild; /* seq_bild.c */

struct spc_session {
    spc_engine *engine;
    const spc_strategy *strategy;
    spc_row_params params;
    spc_rule rule;        /* as opened: seq-chow may go on under another */
    spc_row_params plain; /* the same under strict: for tokens of the verifier's own */
    int32_t slot;         /* -1: none, it waits for one or ended and lost it */
    int32_t *
        page; /* [page_count] of the KV caches, where 16 positions each lie; room for the context */
    int32_t page_count; /* 0 without a slot */
    int32_t named;      /* of them, from the first: that can be found by their tokens ... */
    int32_t noted[2];   /* ... and are known to hold the verifier's part, the drafter's part */
    bool may_wait;
    atomic_bool waits;   /* changed under the engine's lock, read from anywhere */
    spc_session *behind; /* the next in the line */
    int32_t gamma;       /* or SPC_GAMMA_AUTO */
    int32_t budget;      /* new tokens allowed, >= 1 */
    bool ignore_stop;
    int32_t stop_token[SPC_STOP_TOKENS_MAX]; /* [stop_token_count] */
    int32_t stop_token_count;

    int32_t *token; /* [engine->context] prompt, what was kept, behind it the drafts of a round */
    int32_t prompt; /* tokens of the prompt; with an encoder 1, what the decoder begins with */
    int32_t length; /* tokens held; token[length - 1] is pending: in neither KV cache */
    spc_token_detail *detail; /* [detail_room] of the tokens kept; NULL: not wanted */
    spc_logprob *logprobs;    /* [detail_room, 1 + top_logprobs] the same; NULL: not wanted */
    int32_t top_logprobs;
    int32_t detail_room; /* budget or context, whichever is less */
    int32_t *source;     /* [engine->context] the prompt, where an encoder reads it; NULL: none */
    int32_t source_count;
    spc_processor *processor; /* of its logits; NULL: they stay as they are */
    spc_ngram *ngram; /* the same text, where drafts are looked up in it; NULL: they are not */
    int32_t found;    /* drafts of the present round that were, behind the kept tokens */
    spc_finish finish;
    spc_error error;    /* when FAILED */
    atomic_bool cancel; /* set from any thread */

    /* sequential strategies: tokens written behind the kept ones, not yet decided on */
    int32_t ahead;
    bool asks;      /* token-chow: the next token is the verifier's, which is being fed (fill.c) */
    double log_sum; /* of their gate probabilities' logarithms (seq-chow) */

    spc_gamma_session choice; /* of draft lengths, under SPC_GAMMA_AUTO */

    uint64_t step; /* the last one it was in, by engine->steps */

    /* the present step, of a session that is put aside */
    bool follows; /* another runs what it lacks of its prompt: it waits */
    bool filling;
    int32_t fill_verifier, fill_drafter; /* rows of it that each model is fed */
    bool together;                       /* it is to begin with others whose prompts are fed, too */

    /* the present round */
    spc_row_stats stats[SPC_LANE_ROWS]; /* of the drafter's rows */
    int32_t round_gamma;                /* gamma, or what was chosen, or what budget and context
                                           leave of it */
    bool round_failed;                  /* a drafter row gave no token: the draft broke off there */
    bool in_flight;                     /* the next one has been sent, with as many drafts */
    int32_t half;                       /* of the batch, 0 or 1 */
    bool in_turns;                      /* the halves are */

    spc_text_stream text;
    spc_text_place place; /* of the next token's bytes */
    bool reads_text;      /* stop strings or on_text: the bytes of tokens are followed */
    spc_token_fn on_token;
    void *user;
    spc_stats counters;
};

/* What can be told of a session's options without an engine; params receives rule and sampling.
 * SPC_EUSAGE, SPC_ERULE, SPC_EUNSUPPORTED */
spc_status spc_session_options_check(const spc_session_options *options, spc_row_params *params,
                                     spc_error *err);
/* SPC_EUSAGE: they have stop strings, and the engine's models have no tokenizer; a bias of an id
 * that these do not have. */
spc_status spc_session_check_models(const spc_engine *engine, const spc_session_options *options,
                                    spc_error *err);

/* Tokens that a session's pages take. */
int32_t spc_session_room(const spc_session *session);

/* Look up the drafts of a round that has at most so many, for a session with n-grams.  Returns how
 * many of these the round can have; under SPC_BONUS_STEP it may have found one more. */
int32_t spc_session_look_up(spc_session *session, int32_t most);

/* Is it an end of sequence, to the model or to this session, and does the session heed them? */
bool spc_session_is_stop(const spc_session *session, int32_t token);

/* Keep one more token: append, count, tell, and find out whether it ends the sequence.  Returns
 * false when it does; session->finish says why. */
bool spc_session_keep(spc_session *session, int32_t token, spc_token_origin origin, bool deferred);

/* What is kept of the k-th token with the option logprobs; NULL without it. */
static inline spc_logprob *spc_session_logprob_room(const spc_session *s, int32_t k)
{
    return s->logprobs ? s->logprobs + (int64_t)k * (1 + s->top_logprobs) : NULL;
}

/* A round was decided for these sessions, whose lanes and verdicts are in the engine's scratch:
 * note for those with the options why each of its tokens comes about, how probable it was, where
 * that will be kept (details.c). */
spc_status spc_details_note(spc_engine *engine, spc_session *const *sessions, int32_t count,
                            spc_error *err);

/* End with an error that names the model and the position of the row that is bad. */
void spc_session_fail_row(spc_session *session, bool drafter, int32_t position);

/* End with this error. */
void spc_session_fail(spc_session *session, const spc_error *error);

/* ---- rows of a forward under construction (feed.c) ---- */

/* Feed what a model lacks of token[0 .. to) of a session, its source first; rows are gathered, and
 * run whenever a forward is full.  The rows from position `wanted` on, `to`: none, leave their
 * logits in row output, output + 1, ... */
spc_status spc_feed(spc_engine *engine, spc_model *model, spc_session *session, int32_t to,
                    int32_t wanted, int32_t output, spc_error *err);
/* Run what is gathered. */
spc_status spc_feed_flush(spc_engine *engine, spc_model *model, spc_error *err);

/* Logits rows output .. output + count - 1 of the last forward will be read. */
spc_status spc_feed_read(spc_engine *engine, spc_model *model, int32_t output, int32_t count,
                         spc_error *err);

/* ---- prompts that begin alike (share.c) ---- */

/* Before spc_fill_begin: sessions take over what others have run of their prompts, and those follow
 * whose prompt begins as one does that is about to be run. */
void spc_share_begin(spc_engine *engine, spc_session *const *sessions, int32_t count);

/* ---- long prompts (fill.c) ---- */

/* Rows that a model lacks of a session before its next step's own; 0 also where it is not asked. */
int32_t spc_fill_lacks(const spc_session *session, const spc_model *model);

/* Put sessions aside whose prompts are longer than what this step may take along. */
void spc_fill_begin(spc_engine *engine, spc_session *const *sessions, int32_t count);

/* Was it put aside in the last step, before its first token?  Then how much of its prompt the
 * models that it goes on with have processed, of what they have to.  A strategy that has the
 * drafter alone at first (token-chow, seq-chow) begins anew where it asks the verifier. */
bool spc_session_filled(const spc_session *session, int32_t *done, int32_t *of);

/* Add a model's chunks to the rows of the forward under construction; once a step. */
spc_status spc_fill_add(spc_engine *engine, spc_model *model, spc_error *err);
/* Rows of a prompt that are fed by themselves: more, and a session is put aside for them. */
int32_t spc_fill_rows(const spc_engine *engine);
/* Rows that a step of so many running sessions takes along. */
int32_t spc_fill_room(const spc_engine *engine, int32_t running);
/* Run what is still due. */
spc_status spc_fill_end(spc_engine *engine, spc_error *err);

/* FNV-1a, 64 bit, over ids as little-endian int32, continued from `hash`; begin with SPC_HASH_NONE.
 */
#define SPC_HASH_NONE 0xcbf29ce484222325u
uint64_t spc_hash_tokens(uint64_t hash, const int32_t *token, int32_t count);

#endif
