/* SPDX-License-Identifier: Apache-2.0 */
/* plan.h - a model as data: a flat array of ops over named buffers and named weights.
 *
 * Architectures write plans, backends run them, and neither knows the other.  A plan says what one
 * row of tokens goes through; how many rows there are, and where their keys and values lie, is the
 * backend's business.
 *
 * A plan with an encoder has two parts: its first ops run once for a sequence, over all tokens of
 * its prompt; the others over the tokens that are decoded.  The encoder leaves keys and values in
 * the sequence's memory, and the decoder attends to them. */
#ifndef SPC_HOST_PLAN_H
#define SPC_HOST_PLAN_H

#include "weights/config.h"

#include "rules/round.h"

#include "host/ranks/comm.h"

/* What an op computes, per row.  a, b: buffers read; out: buffer written; w: weights.
 *
 * EMBED    out = row `token` of w[0], times `scale`
 * NORM     out = a / sqrt(mean(a^2) + eps) * w[0]   (RMSNorm)
 * LINEAR   out = w[0] a, and w[1] a, w[2] a behind it where there are several; plus bias[0] ...
 * QK_NORM  NORM of each head of a, in place: queries by w[0], keys by w[1]
 * ROPE     queries and keys of a rotated by their position, in place, each head as far as the
 *          config's rope turns it; by that, or by local_rope where `local` is set; then queries
 *          times what rope has for their position (rope.h)
 * ATTEND   keys and values of a go into the cache of `layer`; out = attention over positions up to
 *          the own one, or over the last `window` of them; scores are `scale` q k, bounded by
 *          `cap` tanh(score / cap) where there is a cap, and w[0] adds what it has for the relative
 *          position, where there is one
 * STORE    keys and values of a go into the memory of `layer` (ops of the encoder only)
 * RECALL   ATTEND over everything in the memory of `layer`; nothing is written
 * RELU     out = max(a, 0)
 * GLU      out = activation(a[0 .. n)) * a[n .. 2n)
 * ADD      out = a + b
 * ROUTE    out = the config's `chosen` experts of highest score in a, highest first, as numbers;
 *          behind them the share of each: exp of its score, over the sum of exp of all scores, or
 *          over that of the chosen ones where shares add up
 * EXPERTS  out = of each expert chosen in b, first w[0] a of all of them, then w[1] a of all
 * MIX      out = over the experts chosen in b, the sum of their share times w[0] of their part of a
 * REDUCE   out = the sum of every rank's out, in place (a is out); plans of several ranks only
 * HEAD     logits = w[0] a `scale`, bounded by `cap`; only for rows whose logits are wanted
 *
 * In EXPERTS and MIX w[k] is the matrix of expert 0; those of the others are the weights behind it.
 *
 * In QK_NORM, ROPE and ATTEND a holds queries [heads, head_dim], keys and values
 * [kv_heads, head_dim]; in STORE it ends with such keys and values, in RECALL it begins with
 * such queries. */
#define SPC_OP_MAP(X)     \
    X(EMBED, "embed")     \
    X(NORM, "norm")       \
    X(LINEAR, "linear")   \
    X(QK_NORM, "qknorm")  \
    X(ROPE, "rope")       \
    X(ATTEND, "attend")   \
    X(STORE, "store")     \
    X(RECALL, "recall")   \
    X(RELU, "relu")       \
    X(GLU, "glu")         \
    X(ADD, "add")         \
    X(ROUTE, "route")     \
    X(EXPERTS, "experts") \
    X(MIX, "mix")         \
    X(REDUCE, "reduce")   \
    X(HEAD, "head")

#define SPC_OP_ENUM(id, name) SPC_OP_##id,
typedef enum { SPC_OP_MAP(SPC_OP_ENUM) SPC_OP_COUNT } spc_op_kind;
#undef SPC_OP_ENUM

enum { SPC_OP_WEIGHTS = 3, SPC_PLAN_NAME = 80 };

/* spc_op_of fills in what an architecture need not say. */
typedef struct {
    spc_op_kind kind;
    int32_t out, a, b;              /* buffers; -1: none */
    int32_t weight[SPC_OP_WEIGHTS]; /* indices of weights; -1: none */
    int32_t bias[SPC_OP_WEIGHTS];   /* LINEAR: indices of vectors; -1: none */
    int32_t layer;                  /* ATTEND, STORE, RECALL */
    int32_t window;                 /* ATTEND: positions it sees; 0: all */
    bool local;                     /* ROPE: by local_rope */
    float scale;                    /* EMBED, ATTEND, RECALL, HEAD */
    float cap;                      /* ATTEND, HEAD: 0: none */
    spc_activation activation;      /* GLU */
} spc_op;

/* Activations of one row: what ops write, and zeros before and behind it, which are there from the
 * start and stay.  Zeros are where a rank reads blocks of a matrix that it shares with others. */
typedef struct {
    const char *name;       /* a literal */
    int32_t dim;            /* floats per row, zeros among them */
    int32_t before, behind; /* zeros; of what comes out of an attention or a gate only */
} spc_buffer;

/* How a table [buckets, heads] is read by relative position (T5). */
typedef enum {
    SPC_RELATIVE_NONE, /* it is no such table */
    SPC_RELATIVE_PAST, /* buckets are those of tokens before the own one */
    SPC_RELATIVE_BOTH  /* half of them are, the others of tokens behind it */
} spc_relative;

typedef struct {
    char name[SPC_PLAN_NAME]; /* as in the checkpoint */
    int32_t rows, cols;       /* [rows, cols]; cols 0: a vector [rows] */
    int32_t of_rows, of_cols; /* the checkpoint's tensor, of which they are a part: all of it ... */
    int32_t row, col;         /* ... but where one tensor is several weights, or the plan is one of
                                 several ranks: where they begin */
    float plus;               /* vectors: added to every entry (Gemma stores w - 1) */
    spc_relative relative;
} spc_weight;

typedef struct {
    spc_config config; /* the sizes ops take: heads, head_dim, rope, eps ... */
    int32_t ids;       /* logits per row: config.vocab, or fewer where a paired model has fewer */
    /* a drafter that drafts some of the ids (narrow.h): [(ids + 31) / 32], owned, of `drafted` ids,
     * which the head's rows are of; the others' logits are SPC_LOGIT_NEVER.  NULL: it drafts all.
     * Of a rank's part: those in its slice, of which there may be none */
    spc_subset *subset;
    int32_t drafted;
    spc_op *op;         /* [op_count] */
    spc_buffer *buffer; /* [buffer_count] */
    spc_weight *weight; /* [weight_count] */
    int32_t op_count, buffer_count, weight_count;
    int32_t encoder_ops; /* of op_count, the first; 0: no encoder */
    /* a matrix behind attention, or behind a gate, is read from multiples of so many inputs on, up
     * to another: a quantised type consists of whole blocks (spc_plan_read_blocks); 1: anywhere */
    int32_t attention_block, gate_block;
    spc_comm *comm; /* borrowed; the ranks that run this model together; NULL: one alone */
    bool alone;     /* a backend of several ranks is to run it on the first of them */
    int32_t op_capacity, buffer_capacity, weight_capacity;
    bool no_memory; /* an append failed; spc_plan_build reports it */
} spc_plan;

/* Plan of a model; unknown architectures are SPC_EMODEL and the known ones are listed.
 *
 * where   names the model in messages */
spc_status spc_plan_build(const spc_config *config, const char *where, spc_plan **out,
                          spc_error *err);
void spc_plan_close(spc_plan *plan); /* NULL is allowed */

/* Note in how large blocks of inputs a checkpoint has the matrices that ranks cut by inputs.  Until
 * then a plan is cut as if they were of floats. */
void spc_plan_read_blocks(spc_plan *plan, const spc_bundle *bundle);

/* One rank's part of a model that the ranks of `comm` run together.
 *
 * Queries, keys, values, gates and what comes out of them are cut by heads and by columns of the
 * feed-forward part, the matrices behind them by inputs, and their outputs are summed: two sums a
 * layer.  Embedding and head are cut by ids, at multiples of the tile in which rows are verified
 * (spc_plan_first_id); one more sum puts embedded rows together.  A head of some ids (subset) is
 * cut there too, so that a rank has those of its slice.  Where there are fewer heads of keys and
 * values than ranks, neighbours hold the same one.
 *
 * Of quantised matrices ranks hold whole blocks.  A feed-forward part is cut between them, so that
 * some ranks may have a block more than others.  Heads may end inside one, and so may columns of a
 * feed-forward part of fewer blocks than ranks: then the ranks on both sides hold it, at most one
 * more at each end of a rank's part, and each has zeros for the inputs that are the other's
 * (spc_buffer).  Products with zeros add nothing, so that every input counts
 * once in the sum.  Memory is planned by these parts and buffers, shared blocks and zeros included.
 *
 * What the CPU rounds to 8 bits it rounds by 32 inputs, by the largest of them: where parts end at
 * multiples of 32, as of common models, to what one rank alone would round them to; of 32 that two
 * ranks share each rounds its own, no coarser.
 *
 * SPC_EUSAGE: heads or feed-forward part do not divide; says which numbers of ranks do.
 * SPC_ENOMEM.
 *
 * whole   is not changed; its ids are taken over
 * comm    borrowed until the part is closed
 * where   names the model in messages */
spc_status spc_plan_split(const spc_plan *whole, spc_comm *comm, const char *where, spc_plan **out,
                          spc_error *err);

/* The same for rank `rank` of `world`, who do not sum over a spc_comm (plan.comm is NULL). */
spc_status spc_plan_part(const spc_plan *whole, int32_t rank, int32_t world, const char *where,
                         spc_plan **out, spc_error *err);

/* Can it be cut for so many ranks? */
bool spc_plan_divides(const spc_plan *plan, int32_t world);

/* SPC_EUSAGE: it cannot, as above. */
spc_status spc_plan_check_cut(const spc_plan *whole, int32_t world, const char *where,
                              spc_error *err);

/* The first id of a rank's part of the vocabulary; of rank `world`: the number of ids. */
int32_t spc_plan_first_id(int32_t vocab, int32_t rank, int32_t world);
/* Are two models cut at the same ids, as far as both have them? */
bool spc_plan_cut_alike(const spc_plan *a, const spc_plan *b, int32_t world);

/* For architectures: append, and get the index.  Failures are remembered in the plan. */
int32_t spc_plan_buffer(spc_plan *plan, const char *name, int32_t dim);
int32_t spc_plan_weight(spc_plan *plan, const char *name, int32_t rows, int32_t cols);
void spc_plan_op(spc_plan *plan, spc_op op);

/* An op of this kind over these buffers: no weights, all positions, scale 1, no cap. */
spc_op spc_op_of(spc_op_kind kind, int32_t out, int32_t a, int32_t b);

/* Matrices behind each of an op's weights: those of all experts, or one. */
static inline int32_t spc_op_matrices(const spc_plan *plan, const spc_op *op)
{
    return op->kind == SPC_OP_EXPERTS || op->kind == SPC_OP_MIX ? plan->config.experts : 1;
}

/* An architecture: its name in config.json, and who writes its plan. */
typedef struct {
    const char *name;
    void (*build)(spc_plan *plan); /* its config is there, all else empty */
} spc_architecture;

extern const spc_architecture spc_arch_llama, spc_arch_mistral, spc_arch_qwen2, spc_arch_qwen3;
extern const spc_architecture spc_arch_smollm3, spc_arch_phi3, spc_arch_gemma2, spc_arch_gemma3;
extern const spc_architecture spc_arch_mixtral, spc_arch_qwen3_moe;
extern const spc_architecture spc_arch_ministral3, spc_arch_granite, spc_arch_t5;

const char *spc_op_name(spc_op_kind kind);

/* Bucket of a key `offset` tokens behind the query (before it: negative), by T5's formula. */
int32_t spc_plan_bucket(const spc_config *config, spc_relative relative, int32_t offset);

/* A matrix of this type is cut at multiples of so many inputs; 1: anywhere. */
int32_t spc_plan_block(spc_dtype type);

/* The tensor that a weight is read from.  SPC_ESHAPE names one that is missing, or of another shape
 * than the plan's; SPC_EINTERNAL one that the plan cuts inside a block, not knowing of them. */
spc_status spc_plan_tensor(const spc_weight *weight, const spc_bundle *bundle,
                           const spc_tensor **out, spc_error *err);

/* The tensor of scales beside a matrix of 8-bit floats or integers, NAME_scale_inv or NAME_scale;
 * NULL: there is none. */
const spc_tensor *spc_plan_scale(const spc_bundle *bundle, const char *weight);

/* Bytes of weights that a decoded row reads: every weight of the plan with its scales, of the
 * embedding one row only unless it is the head too, nothing of what only the encoder reads.
 * Weights that the bundle lacks count as nothing. */
uint64_t spc_plan_weight_bytes(const spc_plan *plan, const spc_bundle *bundle);

/* Elements of all weights. */
uint64_t spc_plan_parameters(const spc_plan *plan);

/* Bytes of keys and values of one sequence, of elements of a type; with an encoder, of its memory
 * too. */
uint64_t spc_plan_kv_bytes(const spc_plan *plan, int32_t context, spc_dtype type);

/* One line per op: "linear  normed -> qkv  model.layers.0.self_attn.q_proj.weight [512, 320] ...".
 *
 * line   called for each, terminated text without newline */
void spc_plan_print(const spc_plan *plan, void (*line)(void *user, const char *text), void *user);

#endif
