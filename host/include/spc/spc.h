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
 * on how sessions are batched, on the number of threads or on the order of calls.  It may depend on
 * the device, its vector unit, the number of ranks (spc_engine_options.device, isa, tp) and a
 * table of kernels (kernels), whose sums round differently; with fast_prefill also on what is
 * stepped together, and with SPC_GAMMA_AUTO on measured times.
 *
 * Threads.  Different engines are independent.  The sessions of one engine may be used from
 * different threads: calls that run a model take turns on the engine's lock, first come, first
 * served.  One session belongs to one thread at a time, except for spc_session_cancel.  The
 * library's own threads block all signals but those of faults and profilers.  With a GPU a call may
 * leave its thread with the engine's device as the current one (cudaSetDevice).
 *
 * A server steps all its sessions together from one thread, while others hand prompts in, read text
 * and cancel: tests/consumer/server.c.  Sessions that wait for a slot (option wait) are stepped
 * with the others and begin as these end.  Steps of sessions that all wait return at once; so where
 * several threads step, one that has only such lets itself be told by the others: a session begins
 * nowhere but inside of somebody's step, close or restart.
 *
 * Callbacks run on the calling thread while the engine's lock is held, and must return to it: an
 * exception or a longjmp out of one leaves the engine locked.  All sessions wait meanwhile.  A
 * mutex that a callback locks must not be held around calls on the engine but for those named here,
 * or two threads wait for each other.  Of the same engine they may call spc_session_cancel,
 * spc_session_waits, spc_engine_describe, spc_engine_encode, spc_engine_encode_plain,
 * spc_engine_encode_chat, spc_engine_decode, spc_engine_chat, and, of the session they are called
 * for, what reads it (spc_session_tokens, _text, _stats, _finish, _error).  Calls that would need
 * the lock return SPC_EUSAGE and do nothing; spc_session_close does nothing either.
 *
 * Processes.  An engine belongs to the process that opened it: its threads and devices do not
 * survive fork.  In a forked child calls that would run it return SPC_EUSAGE and closing does
 * nothing; open an engine after the fork, or exec.
 *
 * Pointers are non-NULL unless a comment says otherwise.  A call that returns a status answers a
 * NULL with SPC_EUSAGE, naming the argument (a NULL prompt is an empty one: SPC_EINPUT); the others
 * require what their comments say.
 *
 * Errors.  See spc/status.h; err may be NULL.  A call that fails leaves *out NULL and its objects
 * as they were unless it says otherwise.  The library never exits, aborts, prints or reads the
 * environment (CUDA does: its own variables, and where NVTX finds a profiler,
 * NVTX_INJECTION64_PATH). */
#ifndef SPC_SPC_H
#define SPC_SPC_H

#include <stdbool.h>
#include <stdint.h>

#include <spc/status.h>
#include <spc/verify.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In place of a folder: the pair built into the library (English to German, Spanish, French).  It
 * knows prompts of one form, "<s><2de>Good morning.<sep>" (or <2es>, <2fr>): spc_engine_encode of
 * that without `special`, or, with a stranger's sentence, ids of the marks around those of
 * spc_engine_encode_plain.  Of other prompts it makes nonsense. */
#define SPC_EMBEDDED_DRAFTER  "embedded:drafter"
#define SPC_EMBEDDED_VERIFIER "embedded:verifier"

typedef struct spc_engine spc_engine;
typedef struct spc_session spc_session;

/* ---- engine --------------------------------------------------------------------------------- */

/* One line for a log, without newline; valid during the call only.  A line that begins with
 * "warning: " reports something that is not an error but probably not intended. */
typedef void (*spc_log_fn)(void *user, const char *line);
/* Progress of loading, in bytes of both models' weights as they lie in their files: called with 0
 * before they are converted or loaded, then as they are, for every hundredth or every 100 ms, never
 * with less than before, and with the total at the end.  Weights that the CPU reads in mapped files
 * when they are needed count as loaded without being read.  It is called on the thread that opens
 * the engine, or with several GPUs in this process on one that this thread waits for; of several
 * processes in rank 0's alone. */
typedef void (*spc_progress_fn)(void *user, uint64_t done, uint64_t total);

/* May the drafter work while the verifier does?  There are two ways; no token depends on either.
 *
 * Drafting ahead (on a GPU, or with a drafter_device): for a session that is stepped by itself,
 * with SPC_BONUS_STEP, the drafter goes on with the next round.
 *
 * Two halves (on a GPU): of sessions that are stepped together, the drafter drafts for one half
 * while the other half is verified.  All must have a fixed draft length, and none SPC_BONUS_TARGET
 * with a rule that reads the drafter's rows. */
typedef enum {
    SPC_OVERLAP_AUTO, /* where it was measured to be faster */
    SPC_OVERLAP_ON,
    SPC_OVERLAP_OFF
} spc_overlap_mode;

/* This process's place among ranks that are separate processes, on one machine or several.  The
 * network between them is trusted. */
typedef struct {
    int32_t rank;     /* 0 .. world - 1; rank 0 is the one that decodes */
    int32_t world;    /* 1 .. 64 ranks */
    const char *meet; /* where they find each other: "host:port" at which rank 0 listens, or a path
                         (with a '/') that rank 0 writes and all can read; one rank needs none */
    int32_t timeout_ms; /* limit of every wait of one rank for another, > 0; when it passes all
                           ranks end.  GPUs take up to 15 s more, to find the one that hangs */
} spc_place;

typedef struct {
    const char *verifier; /* folder of a checkpoint, or SPC_EMBEDDED_VERIFIER; never NULL */
    const char *drafter;  /* the same for the drafter; NULL: none, verifier-only decoding;
                             "ngram", "ngram:MAX", "ngram:MIN-MAX": drafts are looked up, below */
    int32_t sessions;     /* sessions that may run at once, 1 .. 4096 */
    int32_t context;      /* tokens per session, prompt included; 0: what both models allow, of one
                             with longrope its original context: more takes other frequencies.
                             With an encoder: the limit of the prompt and of the continuation,
                             each */
    int32_t kv_tokens;    /* capacity of each model's KV cache in tokens, for all sessions together;
                             0: enough for all sessions at full context, or, on GPUs where that
                             leaves no memory, as many as fit beside weights and scratch with some
                             memory left, but one session's context at least; the log says how
                             many, and spc_engine_usage does.  (Not on the CPU, nor with nccl_comm:
                             there it is all of it, or SPC_ENOMEM.)  Otherwise at least 16, rounded
                             down to pages of 16 tokens, and never fewer.  A session reserves at
                             its start the pages that its prompt and max_tokens may need, and
                             shares those of a prefix that another session has.  A smaller cache
                             thus runs many short sessions in the memory of a few long ones; a
                             session that does not find enough pages waits (session option wait)
                             or is refused */
    int32_t prefill_rows; /* chunked prefill: rows of a new prompt that one step processes while
                             other sessions are decoding; 0: 64.  Fewer rows keep their steps
                             even, and the new session starts later.  Tokens are the same */
    const char *device;   /* NULL or "cpu"; "cuda", "cuda:1": a GPU; "auto": the first usable GPU,
                             or the CPU where there is none, or with threads, isa, tp or place;
                             "cuda:0,cuda:1": one GPU per rank, over NCCL, or, for tests, one GPU
                             named as often as there are ranks */
    /* Where the drafter runs.  NULL: where the verifier does.  Otherwise "cpu", "cuda" or "cuda:1",
     * but not the GPU that device means; or "cuda:2,cuda:3": it is sharded over these, over NCCL,
     * on which no rank of the verifier may run (or, for tests, one GPU several times).  Drafts are
     * drawn there and verified where the verifier runs; rows of drafter logits that a decision may
     * read (those of the drafts, and one more with SPC_BONUS_TARGET) pass through host memory, 4
     * vocab bytes each, if either device is a GPU. With verifier and drafter both on the CPU, each
     * has threads of its own.
     *
     * With ranks (tp, a list of devices, place) the drafter exists in rank 0's process alone, and
     * the others do not load it.  Drafts go to all ranks; other processes also get 4 vocab / ranks
     * bytes of each of the rows above.  The device may then be the GPU of a rank.  If it fails, or
     * one of its calls takes longer than ranks wait for each other (place->timeout_ms; in one
     * process two minutes), all ranks end with SPC_EDEVICE; what hangs is left alone when the
     * engine closes, including its thread and the drafter's memory.  Not with nccl_comm, nor, but
     * for several GPUs, with drafter_tp > 1 */
    const char *drafter_device;
    /* Tokens that the drafter may draft.  NULL: all.  "32768": the first so many ids, which are the
     * frequent ones where tokenizers number tokens as they found them (byte-level BPE: GPT-2,
     * Llama 3, Qwen).  Otherwise a file of ids in decimal, with blanks between, in any order.
     * Tokens that end a sequence are added.  Its output layer is cut to them, so that a draft reads
     * less, and is rejected where the verifier wants another token.  Rules see a drafter that gives
     * these tokens all of its probability: strict writes what it writes with any drafter, and the
     * target of other rules changes with q.  With drafter_tp > 1 every rank has those of its slice
     * of the vocabulary, and reads no more of the layer than without drafter_vocab: of the first
     * 32768 of 131072 over four ranks the first has all, over eight two have half each.  Not for a
     * layer of 8-bit floats or integers with scales beside it (SPC_EUNSUPPORTED).  A file for
     * `kernels` is made with the same tokens */
    const char *drafter_vocab;
    int32_t tp;             /* tensor parallelism: ranks that the verifier is sharded over.  On the
                               CPU they share its threads; of GPUs they are those that device
                               lists, or with "cuda" the first tp.  0 or 1: as device says.  tp
                               must divide the heads, and the feed-forward size, unless that has a
                               block of its quantised matrices for each rank.  Sums over ranks
                               round differently from those of one */
    int32_t drafter_tp;     /* the same for the drafter: tp; or 0 or 1: not sharded, run by the
                               first rank alone, or replicated on every GPU.  Of a drafter_device of
                               several GPUs: their number, or 0 or 1, which mean that, too */
    void *nccl_comm;        /* NULL, or an ncclComm_t of which this engine is one rank, on a GPU of
                               its own (device "cuda:N").  Every rank, in a thread or process of
                               its own, opens an engine with the same options and makes the same
                               calls in the same order.  The communicator remains the
                               application's, must outlive the engine and must not be used
                               elsewhere meanwhile.  tp: 0, or the size of the communicator (then
                               drafter_tp may shard the drafter too).  Ranks wait for each other
                               for two minutes at most.  Not with gamma auto: every rank would
                               choose by its own times */
    const spc_place *place; /* NULL: all ranks are in this process.  Otherwise this process is one
                               of place->world ranks, over all of which the verifier is sharded
                               (tp: 0, 1 or world), and every rank runs a drafter that is neither
                               sharded nor on a drafter_device.  Ranks are on the CPU; or on GPUs
                               over NCCL, with device "cuda" in all of them: each then takes the
                               GPU of its place among the processes of its machine ("cuda:1":
                               that one).  All open their engines with the same options; then rank
                               0 uses its engine like any other, and the others call
                               spc_engine_follow */
    int32_t threads;        /* CPU threads, of all ranks in this process together; 0: one per
                               core that the process may use (a container's quota counts),
                               divided among the ranks of a machine.  Where both models run
                               on the CPU with a drafter_device, a quarter of the threads (with
                               place, of rank 0's) is the drafter's, and each has at least one.
                               Must be 0 if no model runs on the CPU, else SPC_EUSAGE */
    const char *isa;        /* CPU vector unit: NULL chooses; "portable", "avx2", "avx512",
                               "avx512vnni", "neon", "neondot".  Must be NULL if no model runs on
                               the CPU */
    const char *kv;         /* type of the KV caches of both models and of an encoder's keys and
                               values: NULL or "f32"; "bf16", "f16": rounded to 16 bits, half the
                               memory and half of what attention reads.  bf16 has the range of
                               float32; beyond 65504, the end of f16, rows are bad and their
                               session fails */
    const char *weights;    /* NULL: as in the checkpoints.  "int8": matrices of 16 and 32 bits
                               are quantised at load to 8-bit integers with a scale per output,
                               and kept in host memory while the engine is open; those quantised
                               already stay as they are */
    bool fast_prefill;      /* GPU only: prompts and large batches through cuBLASLt; the last bits
                               of logits may then depend on what runs together.  Quantised
                               matrices keep kernels of their own, and so do layers and numbers
                               of rows for which `kernels` found that faster.  If cuBLASLt is
                               missing, or cannot multiply a layer, opening fails and says so */
    const char *kernels;    /* one GPU only: NULL, or a file of spc_tune_kernels that says which
                               kernels compute the linear layers.  The last bits of logits depend
                               on it, but without fast_prefill not on what runs together: what it
                               says of more than 16 rows is for fast_prefill alone.  A file for
                               another GPU or other layers, truncated or invalid, is SPC_EINPUT;
                               with fast_prefill also one for another version of cuBLASLt */
    bool plain_launches;    /* GPU only: kernel by kernel, waiting for every draft, instead of one
                               CUDA graph per round: same tokens, slower; for debugging */
    spc_overlap_mode overlap; /* ON: one GPU or a drafter_device only */
    bool no_prefix_reuse;     /* run every prompt as a whole.  Otherwise a prefix that a prompt has
                                 in common with another session, open or closed, is shared with it,
                                 in pages of 16 tokens of both models' KV caches, as far as that
                                 one has processed it.  Of sessions that are stepped together and
                                 begin with the same 64 tokens or more the first runs these; the
                                 others wait for it, which is a step or a few.  Tokens are the same.
                                 Models with an encoder never share */
    spc_log_fn log;           /* may be NULL */
    spc_progress_fn progress; /* may be NULL */
    void *user;               /* handed to log and progress */
} spc_engine_options;

/* N-gram drafters ("prompt lookup").  There is no drafter model.  A draft is what followed the last
 * n tokens of a session where they stood before in its prompt or output (with an encoder, also in
 * what that read): at the latest such place, for the longest n of MAX down to MIN that has one.
 * Drafts are looked up one behind the other, up to the first that is not found; a round without any
 * is plain decoding.  "ngram" is "ngram:2-4"; "ngram:MAX" has a MIN of 2, or 1 if MAX is 1; MAX is
 * at most 16.  (A folder of that name is "./ngram".)
 *
 * Such drafts have no probabilities, and rules that read those are refused when a session opens.
 * strict and truncate need none: the output distribution is what it is with any drafter.  lossy,
 * token-v2, token-v3, bild, lossy-greedy, head and typical take the drafter to be sure of its
 * draft; they need SPC_BONUS_VERIFIER and a fixed draft length, and a token without a draft is the
 * verifier's.  With SPC_BONUS_STEP a seed gives the same text for all draft lengths, and a round
 * that found fewer drafts ends with a bonus token.
 *
 * The host looks them up, in time that does not grow with the text.  For each token of a context a
 * session takes 4 bytes of memory, and 6 more for each length from MIN to MAX.  Not with
 * drafter_device, drafter_tp > 1 or SPC_OVERLAP_ON.  On a GPU such rounds are not one CUDA
 * graph: they are composed from one call for each forward pass and one for the verification. */

/* The embedded pair, one session, everything else 0, NULL or off. */
SPC_API void spc_engine_options_init(spc_engine_options *options);

/* Load both models, check that they pair and reserve all memory.  To pair, their tokenizers must
 * agree (the error names the first id on which they differ; where vocabularies are padded to
 * different sizes, the ids that both have are used), and both or neither must have an encoder.
 * Strings in options are read during the call only.
 *
 * With a place the call is collective: what fails on one rank fails on all, and their messages name
 * that rank.
 *
 * SPC_EUSAGE, SPC_EUNSUPPORTED, SPC_EIO, SPC_EFORMAT, SPC_ESHAPE, SPC_EMODEL, SPC_EDEVICE,
 * SPC_ENOMEM; SPC_EINPUT with a table of kernels that does not fit, and with a place where its file
 * (meet) cannot be written */
SPC_API spc_status spc_engine_open(const spc_engine_options *options, spc_engine **out,
                                   spc_error *err);

/* Find the fastest kernels for the linear layers of both models on one GPU, and write them to a
 * file for spc_engine_options.kernels.  Whole forward passes of 1, 6 and 16 rows are timed, with
 * every available kernel for each layer; with fast_prefill also passes of 32, 64, 128, 256 and 512
 * rows, as far as the sessions can make so many, with spc's own kernels and with what cuBLASLt
 * suggests.  The call opens an engine with these options (ignoring kernels) and closes it; nothing
 * else should use the GPU meanwhile.
 *
 * path   of the file, which is replaced
 *
 * The errors of spc_engine_open; SPC_EUSAGE: no GPU, or several; SPC_EINPUT: the file cannot be
 * written */
SPC_API spc_status spc_tune_kernels(const spc_engine_options *options, const char *path,
                                    spc_error *err);

/* Close.  NULL is allowed.  Where sessions are open the engine ends with the last of them; until
 * then they can be read and closed, and what would run them returns SPC_EUSAGE.  The engine itself
 * must not be used any more.  On rank 0 of several processes its end ends spc_engine_follow on the
 * others. */
SPC_API void spc_engine_close(spc_engine *engine);

/* On ranks other than 0 of several processes: do what rank 0's engine asks, until that one closes.
 * After that this engine can only be closed, too.
 *
 * SPC_EDEVICE: a rank died, hung past the timeout (or its GPU did) or diverged, and the message
 * names it; or rank 0's drafter_device failed.  SPC_EUSAGE: this is rank 0's engine, or the only
 * process.  Any other status: what failed on this rank */
SPC_API spc_status spc_engine_follow(spc_engine *engine, spc_error *err);

/* What an engine is made of.  Pointers are borrowed until it closes. */
typedef struct {
    const char *device; /* "cpu, 2 threads, avx512", "cuda:0, NVIDIA H100 80GB HBM3"; with a
                           drafter_device "verifier on ...; drafter on ..." */
    int32_t vocab;      /* ids are 0 .. vocab - 1 */
    int32_t context;    /* tokens per session */
    int32_t sessions;   /* at most at once */
    int32_t rank;       /* of spc_engine_options.place; 0 where all ranks are in this process.  Only
                           rank 0 opens sessions and computes logits; others get SPC_EUSAGE */
    bool drafter;       /* is there a model that drafts? */
    bool encoder;       /* do the models read prompts with an encoder (T5)? */
    bool tokenizer;     /* is there one?  Without it prompts are ids and there is no text */
    uint64_t verifier_weight_bytes; /* bytes of weights read by one verifier row */
    uint64_t drafter_weight_bytes;
    uint64_t verifier_memory_bytes; /* reserved besides the weights: KV caches and scratch */
    uint64_t drafter_memory_bytes;
    int32_t ngram_least; /* lengths of n-grams, where drafts are looked up; 0: they are not */
    int32_t ngram_most;
} spc_engine_facts;

SPC_API void spc_engine_describe(const spc_engine *engine, spc_engine_facts *out);

/* How much of an engine is in use, for those who decide where the next prompt goes.  A session
 * holds a slot, and room in the KV caches for its prompt and max_tokens, until it closes or, having
 * ended, loses both to one that waits. */
typedef struct {
    int32_t slots;     /* all */
    int32_t running;   /* of them held by sessions that have not ended ... */
    int32_t ended;     /* ... and by such that have */
    int32_t waiting;   /* sessions that wait for a slot or for room (the option wait) */
    int64_t kv_tokens; /* capacity of each model's KV cache, in tokens */
    int64_t kv_free;   /* of them those that no session holds.  What lies there of prefixes is kept
                          until the room is needed */
} spc_engine_load;

/* Waits for a step that is running.  SPC_EUSAGE: from a callback or a forked process, or the engine
 * has been closed.  From any thread. */
SPC_API spc_status spc_engine_usage(spc_engine *engine, spc_engine_load *out, spc_error *err);

/* Text to ids with the verifier's tokenizer.  Special tokens spelled in the text ("<sep>") become
 * their ids, so the text must be the application's own (see spc_engine_encode_plain); `special`
 * also applies the tokenizer's template (which may add a BOS).
 * SPC_EINPUT: not UTF-8.  SPC_EMODEL: the model has no tokenizer.
 *
 * ids    receives malloc'd ids; free() them; NULL when there are none */
SPC_API spc_status spc_engine_encode(const spc_engine *engine, const char *text, size_t bytes,
                                     bool special, int32_t **ids, int32_t *count, spc_error *err);

/* The same for a stranger's text: what spells a special token ("<|im_end|>") stays text, so nobody
 * ends a turn by writing it.  Tokens that a tokenizer adds to its vocabulary without calling them
 * special (Qwen3's "<think>") are text, and become their ids.  `special` adds what it does above;
 * around a part of a prompt that is put together from several, leave it false. */
SPC_API spc_status spc_engine_encode_plain(const spc_engine *engine, const char *text, size_t bytes,
                                           bool special, int32_t **ids, int32_t *count,
                                           spc_error *err);

/* Ids to text; bytes that are not valid UTF-8 become U+FFFD.  Ids that only pad the model's
 * vocabulary, which a session may emit, stand for no text.
 * SPC_EINPUT: an id out of range.  SPC_EMODEL: the model has no tokenizer.
 *
 * text    receives malloc'd, NUL-terminated text; free() it
 * bytes   receives its length, for texts that contain NUL bytes; may be NULL */
SPC_API spc_status spc_engine_decode(const spc_engine *engine, const int32_t *ids, int32_t count,
                                     bool skip_special, char **text, size_t *bytes, spc_error *err);

/* ---- conversations --------------------------------------------------------------------------
 *
 * A chat model reads a conversation as its chat template writes it.  Templates come with
 * checkpoints as programs (Jinja), which are not run: those of known families are built in, and the
 * verifier's own is recognised when the engine opens.
 *
 *     const spc_message said[] = {{"system", "Be brief.", 9}, {"user", text, bytes}};
 *     spc_chat_facts chat;
 *
 *     if (spc_engine_chat(engine, NULL, &chat, &error) ||
 *         spc_engine_encode_chat(engine, NULL, said, 2, true, &ids, &count, &error)) {
 *         return fail(error.message);
 *     }
 *     session_options.stop_token = &chat.stop_token; // ends the assistant's turn
 *     session_options.stop_token_count = 1;
 *     ... spc_session_open(engine, &session_options, ids, count, &session, &error) ...
 *
 * For the next turn, add the reply (role "assistant", its spc_session_text) and what the user says
 * to the messages, encode them all and call spc_session_restart: the part in common is not run
 * again.  tests/consumer/chat.c is a whole program. */

/* One message.  Everything is borrowed during the call only. */
typedef struct {
    const char *role;    /* "system", "user" or "assistant" */
    const char *content; /* [bytes] UTF-8, anybody's text; may be NULL where bytes is 0 */
    size_t bytes;
} spc_message;

/* The chat template of an engine. */
typedef struct {
    const char *name;   /* "qwen2.5": one of spc_chat_templates; stays valid */
    int32_t stop_token; /* the id that ends a reply.  Often it is not among the model's own ends of
                           sequence: give it in spc_session_options.stop_token */
} spc_chat_facts;

/* Names of the chat templates that are known, separated by ", ".  Never NULL. */
SPC_API const char *spc_chat_templates(void);

/* Which chat template conversations are written with.  An engine opens without one: this call is
 * how a server finds out at its start.  Takes no lock; may be called from any thread.
 *
 * chat_template   the name of one; NULL: the verifier's own
 * out             filled with zeros on failure
 *
 * SPC_EUSAGE: chat_template is not one of spc_chat_templates.  SPC_EMODEL: the model has no
 * tokenizer, or no template of its own, or one that is not known (name one that fits); or the
 * tokenizer lacks a special token of the template, which is named: it is another model's.
 * SPC_EFORMAT, SPC_EIO: the model's own cannot be read */
SPC_API spc_status spc_engine_chat(const spc_engine *engine, const char *chat_template,
                                   spc_chat_facts *out, spc_error *err);

/* A conversation to ids, begin-of-sequence token included, as the template writes it.  Only what
 * the template itself writes becomes special tokens: what a message says stays text, as in
 * spc_engine_encode_plain.  (Where marks of a template are plain text, as the [INST] of Llama 2, no
 * tokenizer can tell them from a message that spells them.)  Templates may strip white space from
 * messages and add a system message of their own.  Takes no lock; may be called from any thread.
 *
 * chat_template   as in spc_engine_chat
 * messages        [message_count], at least one, the oldest first
 * reply           true: go on to where the assistant's next words begin, which is a prompt for
 *                 them.  false: end behind the last message
 * ids             receives malloc'd ids; free() them; NULL when there are none
 * count           how many; they may be more than a context holds (spc_session_open: SPC_EFULL)
 *
 * The errors of spc_engine_chat.  SPC_EINPUT, naming the message by its number, counted from 1: a
 * role that there is not, content that is not UTF-8, roles in an order that the template refuses
 * (a system message for Gemma 2); or no message.  SPC_ENOMEM */
SPC_API spc_status spc_engine_encode_chat(const spc_engine *engine, const char *chat_template,
                                          const spc_message *messages, int32_t message_count,
                                          bool reply, int32_t **ids, int32_t *count,
                                          spc_error *err);

/* ---- logits --------------------------------------------------------------------------------- */

/* Logits of the verifier for given tokens (teacher forced): row i predicts token i + 1.  Uses a
 * free session slot and KV cache for `count` tokens (SPC_EFULL when there is none).
 *
 * source   [source_count] what the encoder reads, 1 to context of them; NULL and 0 for models
 *          without one, else SPC_EINPUT
 * ids      [count], 1 to context of them, each below vocab, else SPC_EINPUT
 * logits   [count, vocab] float32, the caller's */
SPC_API spc_status spc_engine_logits(spc_engine *engine, const int32_t *source,
                                     int32_t source_count, const int32_t *ids, int32_t count,
                                     float *logits, spc_error *err);

/* ---- sessions ------------------------------------------------------------------------------- */

/* Where an emitted token comes from. */
typedef enum {
    SPC_TOKEN_ACCEPTED, /* a draft that the rule kept */
    SPC_TOKEN_RESIDUAL, /* drawn after a rejection */
    SPC_TOKEN_BONUS,    /* drawn after all drafts were kept, or without drafts; token-chow: drawn by
                           the verifier in place of the drafter */
} spc_token_origin;

/* Why a token came about: what the rule saw in its row, and how likely the token was. */
typedef struct {
    int32_t draft;           /* what the drafter had proposed there; -1: nothing */
    spc_token_origin origin; /* of the token */
    spc_row_detail row;      /* rules/round.h */
} spc_token_detail;

/* A token and the natural logarithm of its probability. */
typedef struct {
    int32_t token; /* -1: there is none (fewer tokens than asked for may come at all) */
    float value;   /* NaN: unknown, the verifier's row was bad; -inf: it cannot come */
} spc_logprob;

typedef struct {
    int32_t id;
    int32_t position; /* in the sequence, prompt included; with an encoder, in what the decoder
                         reads: 0 is the token it starts from, 1 the first one decoded */
    spc_token_origin origin;
    bool deferred;                  /* the rule deferred to the verifier for it */
    const spc_token_detail *detail; /* with the option details, valid as spc_session_details says;
                                       else NULL */
    const spc_logprob *logprobs;    /* [1 + top_logprobs] with the option logprobs, valid as
                                       spc_session_logprobs says; else NULL */
} spc_token;

/* Called once for every token a session keeps, in order.  Return false to end the session there
 * (SPC_FINISH_CANCELLED); that token is kept.  Tokens that may still be taken back are held until
 * they are final: under seq-chow the drafter's sequence until it has been decided on, under
 * bild-dynamic drafts until the verifier has seen them or the sequence ends among them. */
typedef bool (*spc_token_fn)(void *user, const spc_token *token);
/* Called with text as it becomes final: whole UTF-8 characters, nothing that might still turn out
 * to be part of a stop string, no special tokens.  Not NUL-terminated. */
typedef void (*spc_text_fn)(void *user, const char *text, size_t bytes);

/* A number added to a token's logit. */
typedef struct {
    int32_t token;
    float bias; /* finite, or -inf: the token never comes */
} spc_logit_bias;

/* Which tokens may come next (a grammar, a choice of answers)?  Called for every row of logits that
 * a step reads, of either model, the same row more than once: what it says must depend on its
 * arguments alone.  With nccl_comm every rank asks its own.
 *
 * token     [count] prompt and output so far, and behind them drafts of the round.  With an encoder
 *           the decoder's tokens.  A model's drafts are allowed ones; those of an n-gram drafter
 *           need not be, and then nothing depends on what is said behind them
 * allowed   [(vocab + 31) / 32] all 0: set bit v % 32 of word v / 32 where token v may come
 *
 * false: all may, whatever is set */
typedef bool (*spc_mask_fn)(void *user, const int32_t *token, int32_t count, uint32_t *allowed,
                            int32_t vocab);

enum { SPC_LOGIT_BIAS_MAX = 1024 };

enum { SPC_STOP_TOKENS_MAX = 8, SPC_STOP_STRINGS_MAX = 256, SPC_TOP_LOGPROBS_MAX = 20 };

/* In place of a draft length: the length expected to give the most tokens per unit of time, chosen
 * anew for every round from measured times of both models and from acceptance so far.  Lengths of
 * sessions that step together are chosen together.  Under strict the length may be 0, which is
 * plain decoding; now and then the alternative (drafting, or not) is probed, at no more than 1 % of
 * all time.  There the drafter does not run a prompt before what is expected to come, by the texts
 * that have ended, pays for it.  With an n-gram drafter, whose drafts take no time, the length is
 * at most what was found.
 *
 * At temperature 0 the tokens are those of any fixed length, but for the rule ensemble, whose
 * target then still has two tokens.  Otherwise they have the same distribution, but a different
 * choice, say on a busier machine, may give different tokens for a seed (not with SPC_BONUS_STEP,
 * where a seed gives the same text for all lengths).  The distribution is exact for sessions with
 * different seeds.  Sessions with equal seeds share their noise, and the lengths of one may depend
 * on what another reveals of it, through the sizes and times of their common steps. */
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
    bool nucleus;            /* keep token rules inside the verifier's nucleus (rules/README.md) */
    bool wait;               /* if no session slot is free, or too little of the KV cache: wait for
                                another session to end, instead of SPC_EFULL */
    bool details;            /* keep, for every token, why it came about: spc_session_details.  The
                                tokens are the same.  The host looks at the rows once more, which
                                takes time, and a GPU runs rounds of such a session, and of those
                                stepped with it, verb by verb.  Not for rules that run one model at
                                a time, verifier-only excepted */
    bool logprobs;           /* keep, for every token, how probable it was to the verifier:
                                spc_session_logprobs.  Takes the time that details take, and
                                is refused where they are */
    int32_t top_logprobs;    /* 0 .. SPC_TOP_LOGPROBS_MAX; with logprobs: and so many of the tokens
                                that were most probable */
    bool ignore_stop;        /* go on after end-of-sequence tokens, those of stop_token included */
    const char *const *stop; /* [stop_count] stop strings, non-empty, copied */
    int32_t stop_count;      /* 0 .. SPC_STOP_STRINGS_MAX */
    const int32_t *stop_token; /* [stop_token_count] ids that end a sequence besides the model's own
                                  (such as a chat template's end of turn), copied */
    int32_t stop_token_count;  /* 0 .. SPC_STOP_TOKENS_MAX */
    /* Edits of logits, the same to both models' before anything reads them: rules, temperature,
     * truncation and details see edited rows, and the session's law is the target distribution of
     * these.  In this order: repetition penalty; bias, presence and frequency penalty, added;
     * on_mask.  A GPU runs rounds of such a session, and of those stepped with it, verb by verb. */
    int32_t min_tokens;               /* no end-of-sequence token (stop_token included) among the
                                         first so many, at most max_tokens where that is not 0;
                                         0: off.  Stop strings still end it */
    float repetition_penalty;         /* [0.0001, 100]; 1: off.  Logits above 0 of tokens in prompt
                                         and output (of an encoder's prompt not) are divided by it,
                                         others multiplied */
    float presence_penalty;           /* [-100, 100]; 0: off.  Taken from logits of tokens in the
                                         output */
    float frequency_penalty;          /* the same, as often as they are in it */
    const spc_logit_bias *logit_bias; /* [logit_bias_count] each token once, copied */
    int32_t logit_bias_count;         /* 0 .. SPC_LOGIT_BIAS_MAX */
    spc_mask_fn on_mask;              /* may be NULL.  Where it allows no token, or none that bias
                                         and min_tokens let come, the session fails with
                                         SPC_EINPUT */
    spc_token_fn on_token;            /* may be NULL */
    spc_text_fn on_text;              /* may be NULL */
    void *user;                       /* handed to on_token, on_text and on_mask */
} spc_session_options;

/* strict, gamma 5, temperature 1, no truncation, seed 0, token-wise verification, bonus from the
 * target distribution, nucleus on, no edits of logits. */
SPC_API void spc_session_options_init(spc_session_options *options);

/* Begin a sequence.  No model runs yet.  An engine runs as many sessions at once as it was opened
 * for.  With the option wait more may be open; they start in the order they were opened, as others
 * end or close, or have run a beginning that the first of them shares.  A session that ended then
 * no longer keeps its KV cache for spc_session_restart; its tokens and text stay.  With an encoder,
 * each model reads the prompt with its own, and decodes from the token that its config names
 * (decoder_start_token_id).
 *
 * prompt   [count] ids, at least one, copied; room for one more token must remain in the context
 *          (with an encoder the prompt may fill it)
 *
 * SPC_EUSAGE: an option out of range.  SPC_ERULE.  SPC_EUNSUPPORTED: options that exclude each
 * other (verify block and bonus step; gamma auto and bonus verifier, where the target distribution
 * is not the verifier's: it would depend on gamma; gamma auto and nccl_comm; details or logprobs
 * and a rule that runs one model at a time; a rule or a bonus that an n-gram drafter has nothing
 * for).  SPC_EINPUT: an empty prompt or an id out of range.  SPC_EFULL: no free session or no room
 * in the KV caches (without wait), a prompt that is too long, or one that with max_tokens needs
 * more than the KV caches can ever hold.  SPC_ENOMEM */
SPC_API spc_status spc_session_open(spc_engine *engine, const spc_session_options *options,
                                    const int32_t *prompt, int32_t count, spc_session **out,
                                    spc_error *err);
SPC_API void spc_session_close(spc_session *session); /* NULL is allowed */

/* Start over with another prompt, such as the whole of a conversation for its next turn.  The
 * prefix that the two sequences have in common is not run again by either model (an encoder reads
 * every prompt as a whole).  Otherwise the session is like one newly opened with its options and
 * this prompt: the same tokens, counters from zero.  It may be in any state, even FAILED (then
 * nothing is reused).  SPC_EFULL: its slot went to a session that waited and none is free, or the
 * KV caches have no room for the new prompt; with the option wait it waits instead.
 *
 * prompt   as in spc_session_open; an error leaves the session as it was */
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

/* Is it waiting for a slot, or for room in the KV caches?  Until then its steps do nothing. */
SPC_API bool spc_session_waits(const spc_session *session);

/* Step until the session ends.  SPC_EFULL: it is waiting, and still is; step the others. */
SPC_API spc_status spc_session_run(spc_session *session, spc_error *err);

/* One step of several sessions of one engine together: each model reads its weights once for all of
 * them.  Sessions that have ended are skipped.  Each session keeps its own error
 * (spc_session_error).  The first one is returned, also that of a session that had failed before;
 * the other sessions still make their step.
 *
 * How long a step takes.  A new session with a long prompt may give no token for many steps.  While
 * others are decoding, a step processes at most prefill_rows of new prompts.  While none is, it is
 * one forward pass of each model, over at most 512 rows of prompts (on CPUs fewer in engines for
 * few sessions, 64 for one; prefill_rows where that is more), and sessions that are stepped
 * together begin to decode together, those excepted that wait for one whose prompt begins as theirs
 * do (no_prefix_reuse). Beyond that a step takes one round of the sessions that decode.  Not
 * divided are: an encoder's pass over a prompt, what a drafter catches up on to try drafts again,
 * and the measuring of the first step, both with SPC_GAMMA_AUTO.  On a GPU the passes over prompts
 * may still run when the call returns, those of four steps at most.
 *
 * sessions [count], all different, all of this engine, else SPC_EUSAGE and nothing runs */
SPC_API spc_status spc_engine_step(spc_engine *engine, spc_session *const *sessions, int32_t count,
                                   spc_error *err);

/* End a session at its next step, in which no model runs for it, also while its prompt is being
 * processed: then it ends without tokens.  A step that is running takes the time it does (see
 * spc_engine_step).  Other sessions emit what they would have.  May be called from any thread, from
 * callbacks and from signal handlers; with nccl_comm between the same two steps on every rank.  A
 * restart forgets it. */
SPC_API void spc_session_cancel(spc_session *session);

SPC_API spc_finish spc_session_finish(const spc_session *session);

/* The error a FAILED session ended with; NULL otherwise.  Borrowed until it closes. */
SPC_API const spc_error *spc_session_error(const spc_session *session);

/* Tokens kept so far, without the prompt; a stop token is included.  Borrowed until the next step.
 */
SPC_API const int32_t *spc_session_tokens(const spc_session *session, int32_t *count);

/* Of the same tokens, one by one, what the option details keeps; NULL without it.  Of a token's
 * log-probabilities row.log_target is that of the target distribution, its own law whether it was
 * drafted or drawn, and row.log_verifier the verifier's.  Borrowed until the session restarts or
 * closes.
 *
 * count   receives how many there are: as many as tokens, without the option 0 */
SPC_API const spc_token_detail *spc_session_details(const spc_session *session, int32_t *count);

/* Of the same tokens, one by one, what the option logprobs keeps; NULL without it: [count,
 * 1 + top_logprobs], of each first the token itself, then the most probable ones, falling, of equal
 * ones the lower id first.  The distribution is what the verifier's logits say: they are edited
 * (bias, penalties, masks), but neither temperature nor truncation nor the rule has been applied;
 * the token's own law is in spc_session_details.  Borrowed until the session restarts or closes.
 *
 * count   receives how many there are: as many as tokens, without the option 0 */
SPC_API const spc_logprob *spc_session_logprobs(const spc_session *session, int32_t *count);

/* Text of the kept tokens, without special tokens, cut before a stop string.
 *
 * text    receives malloc'd, NUL-terminated text; free() it
 * bytes   receives its length, for texts that contain NUL bytes; may be NULL */
SPC_API spc_status spc_session_text(const spc_session *session, char **text, size_t *bytes,
                                    spc_error *err);

/* Counters of a session.  Arrays are by draft position, 0 first. */
typedef struct {
    int64_t prompt_tokens;
    int64_t reused_tokens;  /* of the prompt: found in the KV cache, left by this session
                               (spc_session_restart) or another */
    int64_t tokens;         /* kept */
    int64_t discarded;      /* decided by a round but beyond a stop; seq-chow: dropped as a whole */
    int64_t rounds;         /* steps that ran */
    int64_t verifier_calls; /* forward passes of the verifier that scored; not prefill_calls */
    int64_t drafter_calls;  /* forward passes of the drafter that drafted or served a bonus row; of
                               an n-gram drafter there are none */
    int64_t prefill_calls;  /* forward passes of either model that only processed a prompt */
    int64_t drafted_ahead;  /* drafts drawn while the verifier worked on the round before ... */
    int64_t ahead_used;     /* ... and those of them that the next round started with */
    int64_t in_turns;       /* rounds whose drafts were drawn while the verifier worked on the other
                               half of the batch */
    int64_t chained;        /* rounds enqueued on a GPU before the host had read the round before:
                               the GPU did not wait for the host in between */
    int64_t drafted[SPC_GAMMA_MAX];
    int64_t verified[SPC_GAMMA_MAX]; /* reached a verdict */
    int64_t accepted[SPC_GAMMA_MAX];
    int64_t rejected[SPC_GAMMA_MAX];
    int64_t deferred[SPC_GAMMA_MAX]; /* of the verified */
    int64_t bonus;                   /* bonus tokens kept */
    int64_t bonus_deferred; /* of them, those the rule deferred; with the sum of deferred: the
                               verifier calls of an oracle that knows when to defer */
    int64_t zero_residuals; /* rejections with an empty residual */
    int64_t chosen[SPC_GAMMA_MAX + 1]; /* gamma auto: rounds by the draft length chosen, ... */
    int64_t probes;     /* ... and those that drafted, or did not, only to probe whether it pays */
    int64_t catch_up;   /* rows the drafter had to catch up on when it drafted again */
    uint64_t draft_ns;  /* drafter forwards and draws, or look-ups, wall clock, shared equally in a
                           batch */
    uint64_t verify_ns; /* verifier forwards and verification */
    uint64_t other_ns;  /* everything else inside steps */
    uint64_t output_hash; /* FNV-1a, 64 bit, over the kept ids as little-endian int32 */
} spc_stats;

SPC_API void spc_session_stats(const spc_session *session, spc_stats *out);

/* What gamma auto chooses by.  Times are wall clock, of one sequence, updated by every round. */
typedef struct {
    double draft_ns;   /* the drafter: one token */
    double plain_ns;   /* the verifier: one row, with everything a round takes besides drafting */
    double score_ns;   /* the same for gamma + 1 rows */
    double break_even; /* least acceptance at which drafting pays; 1: at none */
    double acceptance; /* of first drafts, as seen so far (0.7 before any was) */
    double factor;     /* speed expected at that acceptance, relative to plain decoding */
    int32_t gamma;     /* with this draft length */
} spc_gamma_facts;

/* False, and zeros: nothing has been measured yet.  That happens, and is logged, when the first
 * session with gamma auto makes its first step.  Do not call while a step runs. */
SPC_API bool spc_engine_gamma(const spc_engine *engine, spc_gamma_facts *out);

/* The facts as one readable line: "gamma auto: drafter 0.08 ms a token, ..." */
enum { SPC_GAMMA_LINE_BYTES = 256 };
SPC_API void spc_gamma_line(const spc_gamma_facts *facts, char line[SPC_GAMMA_LINE_BYTES]);

#ifdef __cplusplus
}
#endif

#endif
