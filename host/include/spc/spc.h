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
 * isa, tp) and on a table of kernels, whose sums round differently; with fast_prefill on what is
 * stepped together.
 *
 * Threads.  Different engines are independent.  The sessions of one engine may be used from
 * different threads: calls that run a model take turns on the engine's lock.  One session belongs
 * to one thread at a time, except for spc_session_cancel.  Callbacks run on the calling thread
 * while the engine's lock is held: they must not call into the same engine, except for
 * spc_session_cancel.
 *
 * Errors.  See spc/status.h.  A call that fails leaves *out NULL and its objects as they were
 * unless it says otherwise.  The library never exits, aborts, prints or reads the environment (CUDA
 * does: its own variables, and where NVTX finds a profiler, NVTX_INJECTION64_PATH). */
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

/* May the drafter work while the verifier does?  On a GPU, or with a drafter_device, for a session
 * that is stepped by itself, with SPC_BONUS_STEP: it goes on with the next round.  On a GPU for
 * sessions that are stepped together, all with a fixed draft length and without SPC_BONUS_TARGET
 * under a rule that reads the drafter's rows: in two halves, one of which it drafts for while the
 * other one is verified.  No token depends on it. */
typedef enum {
    SPC_OVERLAP_AUTO, /* where it was measured to be faster */
    SPC_OVERLAP_ON,
    SPC_OVERLAP_OFF
} spc_overlap_mode;

/* This process's place among ranks that are processes, on one machine or several.  The network
 * between them is trusted. */
typedef struct {
    int32_t rank;     /* 0 .. world - 1; rank 0 is the one that decodes */
    int32_t world;    /* 1 .. 64 ranks */
    const char *meet; /* where they find each other: "host:port" at which rank 0 listens, or a path
                         (with a '/') that all can see and rank 0 writes; one rank needs none */
    int32_t timeout_ms; /* of every wait of one rank for another, > 0: they end together after it;
                           GPUs up to 15 s later, in which the one that hangs is found */
} spc_place;

typedef struct {
    const char *verifier; /* folder of a checkpoint, or SPC_EMBEDDED_VERIFIER; never NULL */
    const char *drafter;  /* the same for the drafter; NULL: none, verifier-only decoding */
    int32_t sessions;     /* sessions that may run at once, >= 1 */
    int32_t context;      /* tokens per session, prompt included; 0: what both models allow.
                             With an encoder: of the prompt and of the continuation, each */
    int32_t kv_tokens;    /* tokens that the KV caches of each model hold, of all sessions together;
                             0: as many as all sessions can fill.  They are given out in pages of
                             16: a session that begins reserves as many as its prompt and max_tokens
                             may come to, and shares those of a beginning that another has.  With
                             fewer, many short sessions run in the memory of few long ones; who
                             finds too few waits (session option wait) */
    int32_t prefill_rows; /* rows of a prompt that a step takes along beside sequences that run
                             already, which then do not wait for all of it; 0: 64.  Fewer: they
                             go on more evenly, and the prompt begins later.  Tokens are the
                             same */
    const char *device;   /* NULL or "cpu"; "cuda", "cuda:1": a GPU; "auto": the first GPU that
                             can be used, otherwise (or with threads, isa, tp or
                             place) the CPU;
                             "cuda:0,cuda:1": a GPU for each rank, over NCCL, or one of them
                             named as often as there are ranks, for tests */
    /* NULL: where the verifier runs.  "cpu", "cuda" or "cuda:1", not the GPU that device means: the
     * drafter runs there.  Drafts are drawn where it runs and verified where the verifier does;
     * rows of its logits that a decision may read (of the drafts, and one behind them with
     * SPC_BONUS_TARGET) go through the host's memory, 4 vocab bytes each, where one of the two is a
     * GPU.  "cpu" beside a verifier on the CPU has threads of its own.
     *
     * With ranks (tp, a list of devices, place) it is in rank 0's process alone, the others do not
     * load it: drafts go to all of them, to other processes with 4 vocab / ranks bytes of each of
     * these rows.  It may then be the GPU of a rank.  Where it fails, or a call of it takes longer
     * than ranks wait for each other (place->timeout_ms; in one process two minutes), all ranks end
     * with SPC_EDEVICE: what has hung stays as it is when the engine closes, its thread and the
     * drafter's memory too.  Not with drafter_tp > 1 nor nccl_comm */
    const char *drafter_device;
    int32_t tp;               /* ranks that the verifier is cut for: CPU threads share them; of GPUs
                                 those that device lists, or with "cuda" the first tp.  0 or 1: as
                                 device says.  Heads and feed-forward part must divide.  Sums of
                                 several ranks round differently than those of one */
    int32_t drafter_tp;       /* the same for the drafter: tp, or 0 or 1: not cut, on the first rank
                                 alone, or on every GPU for itself */
    void *nccl_comm;          /* NULL; or an ncclComm_t whose rank this engine is, on a GPU of its
                                 own (device "cuda:N").  Every rank, in a thread or process of its
                                 own, opens an engine with the same options and makes the same calls
                                 in the same order.  The communicator stays the application's, must
                                 outlive the engine and is not used beside it.  tp: 0, or its ranks
                                 (with which drafter_tp may cut the drafter too).  A rank is waited
                                 for for two minutes.  Not with gamma auto, by which ranks
                                 would choose each for itself */
    const spc_place *place;   /* NULL: all ranks are in this process.  Otherwise this process is one
                                 of place->world ranks, for all of which the verifier is cut (tp: 0,
                                 1 or as many), and a drafter that is neither cut nor on a
                                 drafter_device runs on each.  On the CPU, or, with device "cuda"
                                 on all, each on the GPU of its place among the processes of its
                                 machine ("cuda:1": on that one), over NCCL.  All open their engines
                                 with the same options; then rank 0 uses its own like any other, and
                                 the others call spc_engine_follow */
    int32_t threads;          /* CPU threads, of all ranks in this process together; 0: one per
                                 core, shared out between the ranks of a machine.  Where both models
                                 run on the CPU apart, a quarter of them (with place of rank 0's) is
                                 the drafter's, one at least for each */
    const char *isa;          /* vector unit: NULL chooses; "portable", "avx2", "avx512" */
    const char *kv;           /* keys and values of both models, an encoder's too: NULL or "f32";
                                 "bf16", "f16": rounded to 16 bits, half of the memory and of what
                                 attention reads.  bf16 has the range of float32; beyond 65504, the
                                 end of f16, rows are bad and their session fails */
    const char *weights;      /* NULL: as they are in the checkpoints.  "int8": matrices of 16 and
                                 32 bits become 8-bit integers with a scale for each output, in
                                 memory of the host's own while the engine is open; those that are
                                 quantised already stay as they are */
    bool fast_prefill;        /* GPU only: prompts and large batches through cuBLASLt; results may
                                 then depend, in the logits' last bits, on what runs together.
                                 Quantised matrices keep to kernels of their own, and so do layers
                                 and numbers of rows that `kernels` found faster that way.  Where
                                 the library is missing, or cannot multiply a layer, opening fails
                                 and says so */
    const char *kernels;      /* one GPU only; NULL, or a file of spc_tune_kernels that says which
                                 kernels compute the linear layers.  Logits' last bits depend on it,
                                 and without fast_prefill on nothing that runs together: what it
                                 says of more than 16 rows is for fast_prefill alone.  A file of
                                 another GPU, of other layers, cut short or wrong is SPC_EINPUT, and
                                 with fast_prefill one of another version of cuBLASLt */
    bool plain_launches;      /* GPU only: kernel after kernel, every draft waited for, instead of a
                                 round as one graph: the same tokens, slower; to find faults */
    spc_overlap_mode overlap; /* ON: one GPU or a drafter_device only */
    bool no_prefix_reuse;     /* run every prompt as a whole.  Otherwise what its beginning shares
                                 with another session's text, open or closed, is shared with it in
                                 pages of 16 tokens of the KV caches of both models; tokens are the
                                 same.
                                 Not for models with an encoder */
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
 * With a place it is collective: what fails on one rank fails on all, whose messages name it.
 *
 * SPC_EUSAGE, SPC_EUNSUPPORTED, SPC_EIO, SPC_EFORMAT, SPC_ESHAPE, SPC_EMODEL, SPC_EDEVICE,
 * SPC_ENOMEM; with a place also SPC_EINPUT (a file to meet by that cannot be written) */
SPC_API spc_status spc_engine_open(const spc_engine_options *options, spc_engine **out,
                                   spc_error *err);

/* Find out which kernels compute the linear layers of both models fastest on one GPU, and write it
 * to a file for spc_engine_options.kernels: whole forwards of 1, 6 and 16 rows are timed, for each
 * layer each way there is.  With fast_prefill also forwards of 32, 64, 128, 256 and 512 rows, as
 * far as the sessions make so many: own kernels and what cuBLASLt suggests.  It opens an engine of
 * these options for that (kernels in them is not used) and closes it; nothing else should use the
 * GPU meanwhile.
 *
 * path   of the file, which is written anew
 *
 * The errors of spc_engine_open; SPC_EUSAGE no GPU or several; SPC_EINPUT the file cannot be
 * written */
SPC_API spc_status spc_tune_kernels(const spc_engine_options *options, const char *path,
                                    spc_error *err);

/* Close.  NULL is allowed.  Every session must have been closed before.  On rank 0 of several
 * processes this lets the others go. */
SPC_API void spc_engine_close(spc_engine *engine);

/* Ranks other than 0 of several processes: do what rank 0's engine asks, until it closes.  All that
 * is left then is to close this one, too.
 *
 * SPC_EDEVICE a rank died, hung past the timeout (or its GPU did), or differs: the message names
 * it, or rank 0's drafter_device fails; another status: what failed on this rank.  SPC_EUSAGE: it
 * is rank 0's engine, or there is one process */
SPC_API spc_status spc_engine_follow(spc_engine *engine, spc_error *err);

/* What an engine is made of.  Pointers are borrowed until it closes. */
typedef struct {
    const char *device; /* "cpu, 2 threads, avx512", "cuda:0, NVIDIA H100 80GB HBM3"; with a
                           drafter_device "verifier on ...; drafter on ..." */
    int32_t vocab;      /* ids are 0 .. vocab - 1 */
    int32_t context;    /* tokens per session */
    int32_t sessions;   /* at most at once */
    int32_t rank;       /* of spc_engine_options.place; 0 where all ranks are in this process.  Only
                           rank 0 opens sessions and computes logits, else SPC_EUSAGE */
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
 * free session slot and KV caches for `count` tokens (SPC_EFULL when there are none).
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

/* In place of a draft length: the one that is expected to give the most tokens per time, chosen
 * anew for every round from measured times of both models and from what was accepted so far.
 * Lengths of sessions that step together are chosen together.  Under strict that may be none, which
 * is plain decoding; now and then the other of the two is tried, at no more than 1 % of all time.
 *
 * At temperature 0 the tokens are those of any fixed length.  Otherwise they follow the same law,
 * but another choice, on a busier machine say, may give other tokens for a seed (not with bonus
 * step, where a seed gives one text for any lengths).  The law holds exactly for sessions of
 * different seeds: those of equal seeds share their noise, and what one shows of it another's
 * lengths may follow, through the size and the times of their common steps. */
#define SPC_GAMMA_AUTO (-1)

typedef struct {
    const char *rule;  /* rule text, "token-v3:alpha=0.5"; also "verifier-only", "drafter-only" */
    int32_t gamma;     /* draft length, 0 .. SPC_GAMMA_MAX, or SPC_GAMMA_AUTO */
    float temperature; /* 0: greedy; otherwise > 0, at least 1e-4 */
    int32_t top_k;     /* 0: off */
    float top_p;       /* (0, 1]; 1: off */
    float min_p;       /* [0, 1]; 0: off */
    uint64_t seed;
    int32_t max_tokens; /* budget of new tokens; 0: as many as the context holds */
    spc_verify_mode verify;
    spc_bonus_mode bonus;
    bool nucleus;            /* keep token rules inside the verifier's nucleus (rules.md 4.3) */
    bool wait;               /* where all of the engine's sessions run, or hold too much of the KV
                                caches: wait for one to end */
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

/* Begin a sequence.  No model runs yet.  An engine runs as many sessions at once as it was opened
 * for; with the option wait more may be open, and begin in the order they were opened, as others
 * end or close.  Then a session that ended no longer keeps its caches for spc_session_restart, its
 * tokens and text stay.  Models with an encoder read the prompt by it, each by its
 * own, and decode from the token their config names (decoder_start_token_id).
 *
 * prompt   [count] ids, at least one, copied; room for one more token must remain in the context
 *          (with an encoder the prompt may fill it)
 *
 * SPC_EUSAGE an option out of range; SPC_ERULE; SPC_EUNSUPPORTED options that do not go together
 * (gamma auto and bonus verifier, where the rule reads drafter rows: the law would follow gamma;
 * gamma auto and nccl_comm);
 * SPC_EINPUT empty prompt or an id out of range; SPC_EFULL no free session or
 * no room in the KV caches (without wait), a prompt that is too long, or with max_tokens more than
 * the KV caches ever hold */
SPC_API spc_status spc_session_open(spc_engine *engine, const spc_session_options *options,
                                    const int32_t *prompt, int32_t count, spc_session **out,
                                    spc_error *err);
SPC_API void spc_session_close(spc_session *session); /* NULL is allowed */

/* Begin anew with another prompt: the next turn of a conversation, say, whose prompt is all of it.
 * What the two sequences have in common from the start is not run again, by neither model (an
 * encoder reads every prompt as a whole); from there on the session is as one newly opened with its
 * options and this prompt: the same tokens, counters from zero.  It may be in any state, FAILED too
 * (then nothing is reused).  SPC_EFULL: its place went to one that waited, and none is free, or the
 * KV caches have no room for so much more; with the option wait it waits instead.
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

/* Does it wait for another session to end or close?  Its steps do nothing then. */
SPC_API bool spc_session_waits(const spc_session *session);

/* Steps until the session ends.  SPC_EFULL: it waits, and goes on doing so; step the others. */
SPC_API spc_status spc_session_run(spc_session *session, spc_error *err);

/* One step of several sessions of one engine together: each model reads its weights once for all of
 * them.  Ended sessions are passed over.  A new session with a long prompt may give no token yet:
 * of its prompt no more than prefill_rows are fed in a step with others that run.  Each session's
 * own error is kept with it (spc_session_error); the first one is returned, and the others still
 * make their step.
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
    int64_t reused_tokens;  /* of the prompt: were in a KV cache already, of this session
                               (spc_session_restart) or another */
    int64_t tokens;         /* kept */
    int64_t discarded;      /* decided by a round but behind a stop; seq-chow: dropped as a whole */
    int64_t rounds;         /* steps that ran */
    int64_t verifier_calls; /* forwards of the verifier that scored, prefill-only ones apart */
    int64_t drafter_calls;  /* forwards of the drafter that drafted or served a bonus row */
    int64_t prefill_calls;  /* forwards of either that only fed a prompt */
    int64_t drafted_ahead;  /* drafts drawn while the verifier worked on the round before ... */
    int64_t ahead_used;     /* ... and those of them that their round began with */
    int64_t in_turns;       /* rounds whose drafts were drawn while the verifier worked on the other
                               half of their batch */
    int64_t chained;        /* rounds that a GPU was given before the one in front of them had been
                               seen: it did not wait for the host between the two */
    int64_t drafted[SPC_GAMMA_MAX];
    int64_t verified[SPC_GAMMA_MAX]; /* reached a verdict */
    int64_t accepted[SPC_GAMMA_MAX];
    int64_t rejected[SPC_GAMMA_MAX];
    int64_t deferred[SPC_GAMMA_MAX]; /* of the verified */
    int64_t bonus;                   /* bonus tokens kept */
    int64_t bonus_deferred; /* of them, where the rule turned to the verifier; with the sum of
                               deferred: the calls of an oracle that knows when to defer */
    int64_t zero_residuals;
    int64_t chosen[SPC_GAMMA_MAX + 1]; /* gamma auto: rounds by the draft length chosen, ... */
    int64_t probes;       /* ... and those that drafted, or did not, only to see whether it pays */
    int64_t catch_up;     /* rows that the drafter lacked when it was to draft again */
    uint64_t draft_ns;    /* drafter forwards and draws, wall clock, shared equally in a batch */
    uint64_t verify_ns;   /* verifier forwards and verification */
    uint64_t other_ns;    /* everything else inside steps */
    uint64_t output_hash; /* FNV-1a, 64 bit, over the kept ids as little-endian int32 */
} spc_stats;

SPC_API void spc_session_stats(const spc_session *session, spc_stats *out);

/* What gamma auto chooses by.  Times are of one sequence, wall clock, corrected by every round. */
typedef struct {
    double draft_ns;   /* the drafter: one token */
    double plain_ns;   /* the verifier: one row, with all that a round takes beside drafting */
    double score_ns;   /* the same: gamma + 1 rows */
    double break_even; /* least acceptance at which drafting pays; 1: at none */
    double acceptance; /* of first drafts, as seen so far (0.7 before anything was) */
    double factor;     /* speed expected at that acceptance, relative to plain decoding */
    int32_t gamma;     /* with this draft length */
} spc_gamma_facts;

/* False, and zeros: nothing was measured yet.  It is when the first session with gamma auto makes
 * its first step; the log is told then.  Not while a step runs. */
SPC_API bool spc_engine_gamma(const spc_engine *engine, spc_gamma_facts *out);

/* The facts as one line for people: "gamma auto: drafter 0.08 ms a token, ..." */
enum { SPC_GAMMA_LINE_BYTES = 256 };
SPC_API void spc_gamma_line(const spc_gamma_facts *facts, char line[SPC_GAMMA_LINE_BYTES]);

#ifdef __cplusplus
}
#endif

#endif
