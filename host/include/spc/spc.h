/* SPDX-License-Identifier: Apache-2.0 */
/* spc/spc.h - the engine: decode with a drafter and a verifier under a cascade rule.
 *
 * An *engine* owns two models (a small drafter, a large verifier), their tokenizer and a device.  A
 * *session* is one sequence being decoded.  A *step* is one round: the drafter proposes gamma
 * tokens, the verifier scores them in one pass, the session's rule decides which are kept and draws
 * one more.
 *
 *     spc_engine_options options;
 *     spc_engine *engine;
 *     spc_session *session;
 *     spc_error error;
 *
 *     spc_engine_options_init(&options);            // the embedded translation pair
 *     if (spc_engine_open(&options, &engine, &error)) return fail(error.message);
 *     ... spc_session_open(engine, &session_options, prompt, count, &session, &error) ...
 *     ... spc_session_run(session, &error), spc_session_tokens(session, &n) ...
 *
 * Results.  What a session emits depends on the weights, the prompt, its options and its seed, not
 * on how sessions are stepped together, on the number of threads or on the order of calls.  It may
 * depend on the device, on its vector unit and on the number of ranks (spc_engine_options.device,
 * isa, tp), whose sums round differently; with fast_prefill on what is stepped together.
 *
 * Threads.  Different engines are independent.  The sessions of one engine may be used from
 * different threads: calls that run a model take turns on the engine's lock.  One session belongs
 * to one thread at a time, except for spc_session_cancel.  Callbacks run on the calling thread
 * while the engine's lock is held: they must not call into the same engine, except for
 * spc_session_cancel.
 *
 * Errors.  See spc/status.h.  A call that fails leaves *out NULL and its objects as they were
 * unless it says otherwise.  The library never exits, aborts, prints or reads the environment. */
#ifndef SPC_SPC_H
#define SPC_SPC_H

#include <stdbool.h>
#include <stdint.h>

#include <spc/status.h>
#include <spc/verify.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SPC_VERSION_MAJOR 0
#define SPC_VERSION_MINOR 1
#define SPC_VERSION_PATCH 0

/* In place of a folder: the pair built into the library (English to German, Spanish, French). */
#define SPC_EMBEDDED_DRAFTER  "embedded:drafter"
#define SPC_EMBEDDED_VERIFIER "embedded:verifier"

typedef struct spc_engine spc_engine;
typedef struct spc_session spc_session;

/* ---- engine --------------------------------------------------------------------------------- */

/* One line for a log, without newline; valid for the call only.  One that begins with "warning: "
 * tells of what is no error and probably not meant. */
typedef void (*spc_log_fn)(void *user, const char *line);
/* Progress of loading: done of total bytes of weights. */
typedef void (*spc_progress_fn)(void *user, uint64_t done, uint64_t total);

typedef struct {
    const char *verifier;     /* folder of a checkpoint, or SPC_EMBEDDED_VERIFIER; never NULL */
    const char *drafter;      /* the same for the drafter; NULL: none, verifier-only decoding */
    int32_t sessions;         /* sessions that may be open at once, >= 1; each takes KV memory */
    int32_t context;          /* tokens per session, prompt included; 0: what both models allow.
                                 With an encoder: of the prompt and of the continuation, each */
    const char *device;       /* NULL or "cpu"; "cuda", "cuda:1": a GPU; "auto": the first GPU that
                                 can be used, otherwise (or with threads or isa) the CPU */
    int32_t tp;               /* ranks that the verifier is cut for, each with its share of the CPU
                                 threads; 0 or 1: not cut.  Heads and feed-forward part must divide.
                                 Sums of several ranks round differently than those of one */
    int32_t drafter_tp;       /* the same for the drafter: tp, or 0 or 1: on the first rank alone */
    int32_t threads;          /* CPU threads, of all ranks together; 0: one per core */
    const char *isa;          /* vector unit: NULL chooses; "portable", "avx2", "avx512" */
    const char *weights;      /* NULL: as they are in the checkpoints.  "int8": matrices of 16 and
                                 32 bits become 8-bit integers with a scale for each output, in
                                 memory of the host's own while the engine is open; those that are
                                 quantised already stay as they are */
    bool fast_prefill;        /* GPU only: prompts and large batches through cuBLAS; results may
                                 then depend, in the logits' last bits, on what runs together.
                                 Quantised matrices keep to kernels of their own */
    spc_log_fn log;           /* may be NULL */
    spc_progress_fn progress; /* may be NULL */
    void *user;               /* handed to log and progress */
} spc_engine_options;

/* The embedded pair, 1 session, everything else chosen. */
SPC_API void spc_engine_options_init(spc_engine_options *options);

/* Load both models, check that they pair (the first id on which their tokenizers differ is named;
 * of vocabularies padded to different sizes the ids that both have are decoded; both have an
 * encoder or neither) and reserve all memory.  Strings in options are read during the call only.
 *
 * SPC_EUSAGE, SPC_EUNSUPPORTED, SPC_EIO, SPC_EFORMAT, SPC_ESHAPE, SPC_EMODEL, SPC_EDEVICE,
 * SPC_ENOMEM */
SPC_API spc_status spc_engine_open(const spc_engine_options *options, spc_engine **out,
                                   spc_error *err);

/* Close.  NULL is allowed.  Every session must have been closed before. */
SPC_API void spc_engine_close(spc_engine *engine);

/* What an engine is made of.  Pointers are borrowed until it closes. */
typedef struct {
    const char *device; /* "cpu, 2 threads, avx512", "cuda:0, NVIDIA H100 80GB HBM3" */
    int32_t vocab;      /* ids are 0 .. vocab - 1 */
    int32_t context;    /* tokens per session */
    int32_t sessions;   /* at most at once */
    bool drafter;       /* is there one? */
    bool encoder;       /* do the models read prompts by one (T5)? */
    bool tokenizer;     /* is there one?  Without it prompts are ids and there is no text */
    uint64_t verifier_weight_bytes; /* bytes of weights read by one verifier row */
    uint64_t drafter_weight_bytes;
    uint64_t verifier_memory_bytes; /* reserved beside the weights: KV caches and scratch */
    uint64_t drafter_memory_bytes;
} spc_engine_facts;

SPC_API void spc_engine_describe(const spc_engine *engine, spc_engine_facts *out);

/* Text to ids with the verifier's tokenizer.  Special tokens written in the text ("<sep>") become
 * their id; `special` also runs the tokenizer's template (a BOS, where it has one).
 * SPC_EINPUT: not UTF-8.  SPC_EMODEL: the model has no tokenizer.
 *
 * ids    receives malloc'd ids, free() them; NULL when there are none */
SPC_API spc_status spc_engine_encode(const spc_engine *engine, const char *text, size_t bytes,
                                     bool special, int32_t **ids, int32_t *count, spc_error *err);

/* Ids to text; bytes that form no UTF-8 become U+FFFD.
 *
 * text    receives malloc'd, terminated text, free() it
 * bytes   receives its length, for texts that hold zero bytes; may be NULL */
SPC_API spc_status spc_engine_decode(const spc_engine *engine, const int32_t *ids, int32_t count,
                                     bool skip_special, char **text, size_t *bytes, spc_error *err);

/* Logits of the verifier for given tokens (teacher forced): row i predicts token i + 1.  Uses a
 * free session slot (SPC_EFULL when there is none).
 *
 * source   [source_count] what the encoder reads, 1 to context of them; NULL and 0 for models
 *          without one, else SPC_EINPUT
 * ids      [count], 1 to context of them, each below vocab, else SPC_EINPUT
 * logits   [count, vocab] float32, the caller's */
SPC_API spc_status spc_engine_logits(spc_engine *engine, const int32_t *source,
                                     int32_t source_count, const int32_t *ids, int32_t count,
                                     float *logits, spc_error *err);

/* ---- sessions ------------------------------------------------------------------------------- */

/* How the emitted token came to be. */
typedef enum {
    SPC_TOKEN_ACCEPTED, /* a draft that the rule kept */
    SPC_TOKEN_RESIDUAL, /* drawn after a rejection */
    SPC_TOKEN_BONUS,    /* drawn after all drafts were kept, or without drafts; token-chow: drawn by
                           the verifier in place of the drafter */
} spc_token_origin;

typedef struct {
    int32_t id;
    int32_t position; /* in the sequence, prompt included; with an encoder, behind the token the
                         decoder begins with */
    spc_token_origin origin;
    bool deferred; /* the rule turned to the verifier for it */
} spc_token;

/* Called once for every token a session keeps, in order.  Return false to end the session there
 * (SPC_FINISH_CANCELLED); that token is kept.  What a strategy may still take back is not told:
 * seq-chow tells the drafter's sequence when it has been decided on, bild-dynamic its drafts when
 * the verifier has seen them or the sequence ends among them. */
typedef bool (*spc_token_fn)(void *user, const spc_token *token);
/* Called with text as it becomes certain: whole UTF-8 characters, nothing that might still turn out
 * to be part of a stop string, special tokens left out.  Not terminated. */
typedef void (*spc_text_fn)(void *user, const char *text, size_t bytes);

enum { SPC_STOP_TOKENS_MAX = 8 };

typedef struct {
    const char *rule;  /* rule text, "token-v3:alpha=0.5"; also "verifier-only", "drafter-only" */
    int32_t gamma;     /* draft length, 0 .. SPC_GAMMA_MAX */
    float temperature; /* 0: greedy; otherwise > 0, at least 1e-4 */
    int32_t top_k;     /* 0: off */
    float top_p;       /* (0, 1]; 1: off */
    float min_p;       /* [0, 1]; 0: off */
    uint64_t seed;
    int32_t max_tokens; /* budget of new tokens; 0: as many as the context holds */
    spc_verify_mode verify;
    spc_bonus_mode bonus;
    bool nucleus;            /* keep token rules inside the verifier's nucleus (rules.md 4.3) */
    bool ignore_stop;        /* go on behind end-of-sequence tokens, stop_token's too */
    const char *const *stop; /* [stop_count] stop strings, non-empty, copied */
    int32_t stop_count;
    const int32_t *stop_token; /* [stop_token_count] ids that end a sequence beside the model's own
                                  (a chat template's end of turn), copied */
    int32_t stop_token_count;  /* 0 .. SPC_STOP_TOKENS_MAX */
    spc_token_fn on_token;     /* may be NULL */
    spc_text_fn on_text;       /* may be NULL */
    void *user;                /* handed to on_token and on_text */
} spc_session_options;

/* strict, gamma 5, temperature 1, nothing cut, seed 0, bonus from the target distribution. */
SPC_API void spc_session_options_init(spc_session_options *options);

/* Begin a sequence.  No model runs yet.  Models with an encoder read the prompt by it, each by its
 * own, and decode from the token their config names (decoder_start_token_id).
 *
 * prompt   [count] ids, at least one, copied; room for one more token must remain in the context
 *          (with an encoder the prompt may fill it)
 *
 * SPC_EUSAGE an option out of range; SPC_ERULE; SPC_EUNSUPPORTED options that do not go together;
 * SPC_EINPUT empty prompt or an id out of range; SPC_EFULL no free session, prompt too long */
SPC_API spc_status spc_session_open(spc_engine *engine, const spc_session_options *options,
                                    const int32_t *prompt, int32_t count, spc_session **out,
                                    spc_error *err);
SPC_API void spc_session_close(spc_session *session); /* NULL is allowed */

/* Begin anew with another prompt: the next turn of a conversation, say, whose prompt is all of it.
 * What the two sequences have in common from the start is not run again, by neither model (an
 * encoder reads every prompt as a whole); from there on the session is as one newly opened with its
 * options and this prompt: the same tokens, counters from zero.  It may be in any state, FAILED too
 * (then nothing is reused).
 *
 * prompt   as in spc_session_open; the error leaves the session as it was */
SPC_API spc_status spc_session_restart(spc_session *session, const int32_t *prompt, int32_t count,
                                       spc_error *err);

/* Why a session ended. */
#define SPC_FINISH_MAP(X)                                                                       \
    X(RUNNING, "running")                                                                       \
    X(STOP_TOKEN, "stop-token")   /* an end-of-sequence id; it is the last token */             \
    X(STOP_STRING, "stop-string") /* the last token completed it; it is not part of the text */ \
    X(MAX_TOKENS, "max-tokens")                                                                 \
    X(CONTEXT, "context")                                                                       \
    X(CANCELLED, "cancelled")                                                                   \
    X(FAILED, "failed") /* spc_session_step returned the error; earlier tokens are kept */

#define SPC_FINISH_ENUM(id, text) SPC_FINISH_##id,
typedef enum { SPC_FINISH_MAP(SPC_FINISH_ENUM) SPC_FINISH_COUNT } spc_finish;
#undef SPC_FINISH_ENUM

SPC_API const char *spc_finish_name(spc_finish finish);

/* One step of one session; nothing when it has ended.  After an error the session is FAILED, its
 * tokens so far stay readable, and the error is returned again by further steps.
 *
 * SPC_ENUMERIC a model wrote NaN or infinity: the message names the model and the position */
SPC_API spc_status spc_session_step(spc_session *session, spc_error *err);

/* Steps until the session ends. */
SPC_API spc_status spc_session_run(spc_session *session, spc_error *err);

/* One step of several sessions of one engine together: each model reads its weights once for all of
 * them.  Ended sessions are passed over.  Each session's own error is kept with it
 * (spc_session_error); the first one is returned, and the others still make their step.
 *
 * sessions [count], all different, all of this engine, else SPC_EUSAGE and nothing runs */
SPC_API spc_status spc_engine_step(spc_engine *engine, spc_session *const *sessions, int32_t count,
                                   spc_error *err);

/* End a session at its next step.  May be called from any thread and from callbacks. */
SPC_API void spc_session_cancel(spc_session *session);

SPC_API spc_finish spc_session_finish(const spc_session *session);

/* The error a FAILED session ended with; NULL otherwise.  Borrowed until it closes. */
SPC_API const spc_error *spc_session_error(const spc_session *session);

/* Tokens kept so far, without the prompt; a stop token is included.  Borrowed until the next step.
 */
SPC_API const int32_t *spc_session_tokens(const spc_session *session, int32_t *count);

/* Text of the kept tokens: special tokens left out, cut before a stop string.
 *
 * text    receives malloc'd, terminated text, free() it
 * bytes   receives its length, for texts that hold zero bytes; may be NULL */
SPC_API spc_status spc_session_text(const spc_session *session, char **text, size_t *bytes,
                                    spc_error *err);

/* Counters of rules.md 5.7.  Arrays are by draft position, 0 first. */
typedef struct {
    int64_t prompt_tokens;
    int64_t reused_tokens;  /* of the prompt: were in a KV cache already (spc_session_restart) */
    int64_t tokens;         /* kept */
    int64_t discarded;      /* decided by a round but behind a stop; seq-chow: dropped as a whole */
    int64_t rounds;         /* steps that ran */
    int64_t verifier_calls; /* forwards of the verifier that scored, prefill-only ones apart */
    int64_t drafter_calls;  /* forwards of the drafter that drafted or served a bonus row */
    int64_t prefill_calls;  /* forwards of either that only fed a prompt */
    int64_t drafted[SPC_GAMMA_MAX];
    int64_t verified[SPC_GAMMA_MAX]; /* reached a verdict */
    int64_t accepted[SPC_GAMMA_MAX];
    int64_t rejected[SPC_GAMMA_MAX];
    int64_t deferred[SPC_GAMMA_MAX]; /* of the verified */
    int64_t bonus;                   /* bonus tokens kept */
    int64_t bonus_deferred; /* of them, where the rule turned to the verifier; with the sum of
                               deferred: the calls of an oracle that knows when to defer */
    int64_t zero_residuals;
    uint64_t draft_ns;    /* drafter forwards and draws, wall clock, shared equally in a batch */
    uint64_t verify_ns;   /* verifier forwards and verification */
    uint64_t other_ns;    /* everything else inside steps */
    uint64_t output_hash; /* FNV-1a, 64 bit, over the kept ids as little-endian int32 */
} spc_stats;

SPC_API void spc_session_stats(const spc_session *session, spc_stats *out);

#ifdef __cplusplus
}
#endif

#endif
