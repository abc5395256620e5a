/* SPDX-License-Identifier: Apache-2.0 */
/* spc/verify.h - the verification library: logits in, tokens out, no engine.
 *
 * Two jobs.  Drawing takes a row of logits and gives a token and the row's statistics.  Verifying
 * takes the drafts of a sequence with the rows of both models and decides, under the sequence's
 * rule, which drafts are accepted and which token follows.  The tokens emitted have exactly the
 * rule's target distribution.  Rules, options and random numbers: rules/README.md.
 *
 * Two ways to call.  One sequence in host memory, float32: spc_draft_sample, spc_plain_sample,
 * spc_verify.  A batch, all of it in host or in device memory, in float32, bf16 or fp16, with
 * masks, edits and a rule per sequence: spc_cpu_draw_batch and spc_cpu_verify_batch work on host
 * memory and define the meaning; spc_cuda_draw_batch and spc_cuda_verify_batch do the same on a
 * device, to the bit in a build with SPC_CUDA_EXACT, and otherwise except for decisions so close
 * that the last bits of exp2 tip them.
 *
 * Rows and positions.  Positions count a sequence's tokens from 0, prompt included.  Row i of a
 * round holds the logits that the token at position + i is chosen by: what a model says behind the
 * token before it.  A round at position n so has, for g drafts, the verifier's rows behind tokens
 * n - 1 .. n + g - 1, the last of them for the token behind the drafts, and the drafter's that its
 * drafts were drawn from.  It emits count tokens, of which the first `accepted` are drafts; the
 * next round's position is position + count.  The seed stays as it is: one per sequence.
 *
 * Everything here is a pure function of its arguments: no allocation, no global state, no printing;
 * safe from any number of threads and streams at a time, but for a workspace and the state of
 * slices, which serve one batch at a time.  (Memory that the CUDA runtime allocates when a kernel
 * first runs is allocated by spc_cuda_kernels_load.)  Randomness is addressed by (seed, position),
 * so a token depends on its own rows alone, not on the batch: the same arguments give the same
 * bits, on any number of blocks or ranks.
 *
 * Two headers come with this one: <spc/rules/rule.h> has rules and their texts (spc_rule_parse,
 * spc_rule_format, names and keys), <spc/rules/types.h> every struct that calls take and fill in.
 * The others in that folder are the mathematics, not this interface, and may change in any version.
 *
 *     spc_row_params params;                        // a rule and sampling for each sequence
 *     char message[SPC_RULE_MESSAGE_BYTES];
 *
 *     spc_row_params_init(&params);
 *     if (!spc_rule_parse("token-v3:alpha=0.5", &params.rule, message)) return fail(message);
 *     params.seed = request;
 *     params.bonus = SPC_BONUS_VERIFIER;            // if the drafter has no row behind its drafts
 *     if (spc_params_check(&params, &error)) return fail(error.message);
 *     ... spc_cpu_draw_batch(&draw, NULL, &error) for each draft, from the drafter's row ...
 *     ... spc_cpu_verify_batch(&batch, NULL, &error), then batch.token, count, status ...
 *
 * What is wrong.  A call that returns SPC_EUSAGE names the field that the host can see to be wrong,
 * and has written nothing.  What only the place of the arrays can see becomes a number there:
 * a token of -1 and statistics marked as bad where nothing can be drawn, and SPC_STATUS_* of each
 * sequence of a round, which says what came of it.  Other sequences are not affected by either.
 *
 * Pointers are non-NULL unless a comment says otherwise, and aligned as their type, in device
 * memory too (spc_row_params and 64-bit integers to 8 bytes, logits to their element); a workspace,
 * and state and answers of slices, to 16.  Positions are 0 to 2^60 - 1.  Calls that return a status
 * name a NULL in an error; the others require what their comments say.
 *
 * Versions (spc/status.h).  Structs keep the order of their fields, and a field that is added
 * means, when it is 0 (in spc_row_params: as spc_row_params_init leaves it), what was meant without
 * it: code that begins with zeros and sets fields by their names need only be compiled again.
 * Before 1.0 a minor version may add some, and its shared library has a name of its own; a program
 * that loads the library by hand compares spc_version() with SPC_VERSION_MAJOR and _MINOR. */
#ifndef SPC_VERIFY_H
#define SPC_VERIFY_H

#include "rules/types.h"

#include <spc/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/* strict, temperature 1, no truncation, seed 0, token-wise verification, bonus from the target
 * distribution, nucleus on: as spc_session_options_init.  (Zeros are greedy, with the nucleus off,
 * and a top_p of 0 is refused.) */
SPC_API void spc_row_params_init(spc_row_params *params);

/* SPC_OK, or an error that says what is out of range or cannot be combined.  SPC_ERULE for the
 * sequential rules (drafter-only, verifier-only, seq-chow, token-chow, bild-dynamic): they run one
 * model at a time, which sessions of spc/spc.h do, and no round decides by them. */
SPC_API spc_status spc_params_check(const spc_row_params *params, spc_error *err);

/* Draw the token at `position` from a drafter's row.
 *
 * logits    [vocab]; -inf masks a token
 * vocab     1 .. SPC_VOCAB_MAX
 * params    of the sequence
 * position  of the token in its sequence, prompt included
 * salt      0; under block verification (position of the round's first draft + 1) mod 2^32: were
 *           it the same for two rounds, a discarded draft's noise would be used again, and the
 *           tokens biased
 * stats     receives the row's statistics for spc_verify
 *
 * Returns the token, or -1 (and stats->bad is set) when the row holds NaN, +inf or no finite logit,
 * or when spc_params_check refuses params, unless for a sequential rule: a row can be drawn from
 * under any; or when there is no such vocabulary or position. */
SPC_API int32_t spc_draft_sample(const float *logits, int32_t vocab, const spc_row_params *params,
                                 int64_t position, uint32_t salt, spc_row_stats *stats);

/* Draw the token at `position` from a verifier's row (plain decoding; stream bonus).  As above. */
SPC_API int32_t spc_plain_sample(const float *logits, int32_t vocab, const spc_row_params *params,
                                 int64_t position, spc_row_stats *stats);

/* One sequence in one round. */
typedef struct {
    const spc_row_params *params;
    const float
        *drafter; /* [drafts, or drafts + 1 with a target bonus] rows, stride drafter_stride;
                     NULL: drafts without a distribution (spc_cpu_verify_batch says which rules
                     accept them), or neither the rule nor any draft needs the drafter's rows */
    const float *verifier;   /* [drafts, or drafts + 1 with a bonus] rows, stride verifier_stride */
    int64_t drafter_stride;  /* elements from row to row, >= vocab */
    int64_t verifier_stride; /* the same */
    int32_t vocab;           /* 1 .. SPC_VOCAB_MAX */
    int32_t drafts;          /* 0 .. SPC_GAMMA_MAX + 1 */
    const int32_t *draft;    /* [drafts] ids as drawn from the drafter's rows */
    const spc_row_stats *stats; /* [drafts] as left by spc_draft_sample, or NULL: computed here */
    int64_t position;           /* of the first draft's token */
    uint32_t salt;              /* as for spc_draft_sample */
    bool bonus; /* draw a bonus token when all drafts are accepted (params->bonus says from
                   what; SPC_BONUS_STEP: none behind drafts, there is no such row).  false:
                   leave that row to a later call with drafts = 0 */
} spc_verify_args;

/* Decide one sequence.  The run ends before the first bad row that is needed: drafts accepted so
 * far stay, no further token follows, and status says which model's row it was.  A draft outside
 * the vocabulary or excluded by its own row is rejected with SPC_STATUS_BAD_DRAFT.  params that
 * spc_params_check refuses, a vocabulary, draft length, stride or position out of range, and a
 * missing drafter that they need, give count 0 and SPC_STATUS_BAD_PARAM. */
SPC_API void spc_verify(const spc_verify_args *args, spc_verdict *out);

/* What became of each row of a round that was decided like this, by spc_verify or a batch call: the
 * probabilities behind every verdict, and the log-probabilities of the tokens emitted.  Pure, and
 * independent of where the verdict was reached; it costs further looks at the rows.
 *
 * args     those of the round
 * verdict  of the round; its counts are not checked
 * detail   [drafts + 1]; nothing is written where vocab, drafts or strides are out of range */
SPC_API void spc_verify_describe(const spc_verify_args *args, const spc_verdict *verdict,
                                 spc_row_detail *detail);

/* ---- batches ----------------------------------------------------------------------------------
 */

/* What the CUDA toolkit calls cudaStream_t, of the calling thread's current device, where the
 * arrays of the batch lie too.  NULL is the default stream; the CPU has none. */
typedef struct CUstream_st *spc_stream;

/* Draw a token for every sequence, or only take the statistics of its row (token NULL).  The fields
 * are described in rules/batch.h.
 *
 * What spc_draft_sample gives no token for, a row below 0, and a draft under block verification
 * without a salt, give token -1 and statistics marked as bad; other sequences are not affected.
 *
 * Returns SPC_OK once the work is done (cpu) or enqueued (cuda: the call waits for nothing, does
 * not allocate and can be captured in a graph); SPC_EUSAGE naming the invalid field;
 * cuda: SPC_EDEVICE when the launch fails, SPC_EUNSUPPORTED in a build without CUDA. */
SPC_API spc_status spc_cpu_draw_batch(const spc_draw_batch *batch, spc_stream stream,
                                      spc_error *err);
SPC_API spc_status spc_cuda_draw_batch(const spc_draw_batch *batch, spc_stream stream,
                                       spc_error *err);

/* Decide one round of every sequence, each as spc_verify does.
 *
 * Drafts must have been drawn from their rows under the sequence's parameters and edits, by the
 * calls above or otherwise.  The argmax of a row is no such draw above temperature 0, and beside
 * its row it biases the tokens: it is a draft without a distribution.
 *
 * Drafts without a distribution (batch->drafter.logits.data NULL; an n-gram drafter, or one that
 * takes its argmax): all of q lies on the draft.  Rules that read the drafter's confidence refuse
 * such drafts, unless their number makes them strict; strict, lossy, token-v2, token-v3, bild,
 * lossy-greedy, head, typical and truncate accept them.  A row without a draft then has no q at
 * all: give bonus 0, parameters with SPC_BONUS_VERIFIER, or a rule that does not read q there
 * (strict, truncate).  That goes for sequences without drafts, too.
 *
 * A drafter with fewer tokens than the verifier sets batch->drafter.width: q is 0 on the others.
 * Where its tokens are not the verifier's first ones, as those of an EAGLE-3 head, drafter.subset
 * says which they are; its rows are read as they are, with the results of rows that were spread
 * over the vocabulary by hand.  Ids of tokens, in and out, are always the verifier's.  Rows are
 * never read past their width.
 *
 * Sequences whose parameters spc_params_check would refuse, whose draft length, position or row is
 * out of range (below 0: the calls cannot know how many rows there are) or which lack a drafter as
 * above get count 0 and SPC_STATUS_BAD_PARAM.  Otherwise as spc_verify; errors as for
 * spc_cpu_draw_batch. */
SPC_API spc_status spc_cpu_verify_batch(const spc_verify_batch *batch, spc_stream stream,
                                        spc_error *err);
SPC_API spc_status spc_cuda_verify_batch(const spc_verify_batch *batch, spc_stream stream,
                                         spc_error *err);

/* What spc_logit_rows.subset points to, for a model that knows some of the vocabulary; once, when
 * it is loaded.  (An EAGLE-3 checkpoint has d2t: tokens[i] = i + d2t[i].)
 *
 * tokens  [count] element i of a row is the logit of this token; ascending.  Host memory
 * count   1 .. vocab; the width of the rows
 * vocab   of the batches, the verifier's: 1 .. SPC_VOCAB_MAX
 * subset  [(vocab + 31) / 32] in host memory receives it, to be copied to where the batch lies
 *
 * SPC_EUSAGE naming the first token that is out of range or does not ascend; nothing is written
 * then. */
SPC_API spc_status spc_subset_fill(const int32_t *tokens, int32_t count, int32_t vocab,
                                   spc_subset *subset, spc_error *err);

/* Bytes of workspace for batches of at most this many sequences and drafts and this vocabulary
 * (max_drafts 0 for draws); 0 when one of them is out of range. */
SPC_API size_t spc_workspace_bytes(int32_t sequences, int32_t max_drafts, int32_t vocab);

/* Prepare a workspace in device memory, `bytes` long (spc_workspace_bytes) and aligned to 16 bytes
 * (otherwise SPC_EUSAGE), once, in stream order.  A workspace serves one batch at a time, of any
 * shape it is large enough for; each call leaves it ready for the next.  After a failed launch it
 * has to be prepared again. */
SPC_API spc_status spc_cuda_workspace_init(void *workspace, size_t bytes, spc_stream stream,
                                           spc_error *err);

/* Load the kernels of all spc_cuda_* calls onto the current device, and make sure that the device
 * has the stacks they need.  Without this call both happen at the first launch, which may then wait
 * for the device and allocate memory; under CUDA's lazy loading even a launch that is being
 * captured.  Call it once per device, before the first launch and before measuring free memory.
 *
 * Stacks are local memory.  The driver allocates them once for all kernels of the process, for
 * every thread that can be resident on the device: cudaLimitStackSize bytes each, 1024 unless
 * someone changed it.  The kernels need less; where the limit is below what they need it is raised
 * to that, for which the driver waits for the device.
 *
 * stack_bytes  receives the device memory that the stacks of all threads take together (225 MiB on
 *              an H100 with 132 multiprocessors); a workspace does not include it.  May be NULL
 *
 * Returns SPC_EDEVICE, SPC_ENOMEM, or SPC_EUNSUPPORTED in a build without CUDA. */
SPC_API spc_status spc_cuda_kernels_load(size_t *stack_bytes, spc_error *err);

/* SPC_OK, or an error naming the invalid field of a batch: shapes, strides and missing arrays.  The
 * calls above begin with this check. */
SPC_API spc_status spc_draw_batch_check(const spc_draw_batch *batch, spc_error *err);
SPC_API spc_status spc_verify_batch_check(const spc_verify_batch *batch, spc_error *err);

/* ---- slices of the vocabulary -----------------------------------------------------------------
 */

/* Draw and verify when each rank holds a slice of the verifier's logits (tensor parallelism), with
 * results bit-identical to those of the calls above over whole rows.  A slice begins at a multiple
 * of 4096 tokens, rank r's at spc_shard_first(cut, r, world), where shards.cut is the vocabulary
 * that the output layer is padded to.  Padded to a multiple of 4096 * world it is cut into equal
 * parts, as most stacks cut theirs; many let the padding be chosen (vLLM and SGLang:
 * padding_size of ParallelLMHead).  Llama 3's 128256 tokens are 131072 then, for up to 32 ranks.
 * One round is
 *
 *   shards.send_bytes = spc_verify_first_bytes(batch, shards)
 *   for (step = 0; step == 0 || left[0] > 0; step++) {
 *       partial(batch, shards, step)     every rank answers the questions about its slice
 *       all-gather of shards->answers    done by the caller; rank r's part begins at
 *                                        r * send_bytes and has send_bytes bytes
 *       combine(batch, shards, step)     every rank reads all answers and concludes the same
 *       shards.send_bytes = left[1]
 *   }
 *
 * on every rank, with the same batch except for the slices.  Results of a sequence are written by
 * every rank when it is decided.  On a device all-gather is enqueued on the same stream, `left` is
 * copied to the host behind combine, and, as the arrays that spc_verify_first_bytes reads are not
 * at hand there, step 0 sends what spc_shard_sizes says, `first` for each sequence.
 *
 * How many steps that takes depends on the rule: most end after the
 * second or third; opt, bild and fuzzy take one more for each draft examined, truncation one to
 * five for each row (top-k and top-p together ten), and rules that solve an equation (lossy with
 * beta=solve, mentored) tens or hundreds.  Extra steps change nothing, so a graph can hold a fixed
 * number of them; a caller that does not read `left` between steps sends `later` of spc_shard_sizes
 * for each sequence.  How many bytes are needed, and why: rules/shard.h.
 *
 * Rows that a later decision might read are read in the first step, even where the unsharded call
 * would not read them: they must exist, but may be bad.
 *
 * Errors as for the batch calls; SPC_EUSAGE for an invalid rank, size or address.
 * A sequence whose state is too small for its parameters, or whose answer goes beyond send_bytes,
 * gets SPC_STATUS_BAD_PARAM. */
SPC_API spc_status spc_cpu_verify_partial(const spc_verify_batch *batch, const spc_shards *shards,
                                          int32_t step, spc_stream stream, spc_error *err);
SPC_API spc_status spc_cpu_verify_combine(const spc_verify_batch *batch, const spc_shards *shards,
                                          int32_t step, spc_stream stream, spc_error *err);
SPC_API spc_status spc_cpu_draw_partial(const spc_draw_batch *batch, const spc_shards *shards,
                                        int32_t step, spc_stream stream, spc_error *err);
SPC_API spc_status spc_cpu_draw_combine(const spc_draw_batch *batch, const spc_shards *shards,
                                        int32_t step, spc_stream stream, spc_error *err);
SPC_API spc_status spc_cuda_verify_partial(const spc_verify_batch *batch, const spc_shards *shards,
                                           int32_t step, spc_stream stream, spc_error *err);
SPC_API spc_status spc_cuda_verify_combine(const spc_verify_batch *batch, const spc_shards *shards,
                                           int32_t step, spc_stream stream, spc_error *err);
SPC_API spc_status spc_cuda_draw_partial(const spc_draw_batch *batch, const spc_shards *shards,
                                         int32_t step, spc_stream stream, spc_error *err);
SPC_API spc_status spc_cuda_draw_combine(const spc_draw_batch *batch, const spc_shards *shards,
                                         int32_t step, spc_stream stream, spc_error *err);

/* The first token of a rank's slice; of rank `world` the end, vocab.
 *
 * vocab  by which rows are cut, padding included: 1 .. SPC_VOCAB_MAX
 * rank   0 .. world
 * world  1 .. SPC_SHARDS_MAX
 *
 * -1 when one of them is out of range. */
SPC_API int32_t spc_shard_first(int32_t vocab, int32_t rank, int32_t world);

/* Bytes that a sequence needs on each rank: for state and, at most, for answers in the first step
 * and in a later one. */
typedef struct {
    size_t state, first, later;
} spc_shard_bytes;

/* For sequences with any of these parameters (host memory).
 *
 * params      [count], checked
 * max_drafts  of the batch; 0 for draws
 * vocab       of the verifier, as it is sharded: padding included
 * world       ranks
 *
 * Zeros when count, max_drafts, vocab or world is out of range. */
SPC_API spc_shard_bytes spc_shard_sizes(const spc_row_params *params, int32_t count,
                                        int32_t max_drafts, int32_t vocab, int32_t world);

/* send_bytes of the first step.  The batch's arrays must be in host memory, except for rows, drafts
 * and statistics, which are not read; of shards, only what is the same on every rank is read. */
SPC_API size_t spc_verify_first_bytes(const spc_verify_batch *batch, const spc_shards *shards);
SPC_API size_t spc_draw_first_bytes(const spc_draw_batch *batch, const spc_shards *shards);

/* The checks that these calls begin with. */
SPC_API spc_status spc_draw_shards_check(const spc_draw_batch *batch, const spc_shards *shards,
                                         int32_t step, spc_error *err);
SPC_API spc_status spc_verify_shards_check(const spc_verify_batch *batch, const spc_shards *shards,
                                           int32_t step, spc_error *err);

#ifdef __cplusplus
}
#endif

#endif
