/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda.h - inside the CUDA backend: what its files share.
 *
 *   backend_cuda.c        the device, errors, the interpreter of plans
 *   backend_cuda_graph.c  forwards that come again, recorded
 *   backend_cuda_linear.c linear ops and what goes along with them
 *   backend_cuda_load.c   memory: what a runner takes
 *   backend_cuda_ops.c    launches of one op, or of neighbours that go together
 *   backend_cuda_pack.c   quantised rows into the layout of the device
 *   backend_cuda_round.c  drawing and verification
 *   backend_cuda_shard.c  the same by a rank that holds a slice of the vocabulary
 *   backend_cuda_fused.c  a round as one graph (a fused round): what it will be, what became of it
 *   backend_cuda_fused_run.c  ... and how it runs
 *   backend_cuda_record.c ... as graphs
 *   backend_cuda_chain.c  ... and the one behind it, before the host has seen it
 *   backend_cuda_ways.c   which way linear ops go: by default, by a table, timed
 *   backend_cuda_weights.c  weights on their way to the device
 *   backend_cuda_wide.c   which way more than 16 rows go where the library may take them
 *
 * Work goes to one stream in the order of the verbs; only draw, verify, round, gather and logits
 * wait for it.
 *
 * A backend may be one rank of several (backend_cuda_rank.h): it loads its part of a plan, unless
 * that is to run alone, which every rank then does for itself. */
#ifndef SPC_HOST_BACKEND_CUDA_H
#define SPC_HOST_BACKEND_CUDA_H

#include "backend_cuda_parts.h"
#include "host/carve.h"
#include "host/kv.h"
#include "host/ranks/comm_device.h"

/* What is on its way to the device from pinned memory (spc_cuda_copy): so many, so long at most. */
enum { CUDA_STAGED = 4, CUDA_STAGED_BYTES = 64 << 10 };

/* What a device may turn out not to do. */
typedef enum {
    CUDA_NO_EARLY,
    CUDA_NO_EARLY_INSIDE,
    CUDA_NO_GRAPH,
    CUDA_NO_CHAIN,
    CUDA_OLD_CODE, /* nor this build's code */
    CUDA_LACKS
} cuda_lack;

struct spc_backend {
    int device;
    cudaStream_t stream;
    cudaStream_t side;         /* drafting ahead; recording the body of a conditional node */
    cudaEvent_t fork, join;    /* where the side stream leaves the other one, and comes back */
    cudaStream_t inner;        /* recording a conditional node inside another's body */
    cudaEvent_t fetched[2][2]; /* what a round left is in the host's memory: by half and area */
    bool reads_host; /* the device reads memory of the host that is not pinned: it may do so late */
    char *staged;    /* then: [CUDA_STAGED, CUDA_STAGED_BYTES], pinned; NULL: there is none */
    cudaEvent_t taken[CUDA_STAGED]; /* behind the last copy out of each */
    int32_t stage;                  /* the next */
    bool mixed; /* the stream has had more than rounds in turns since the side stream followed it */
    cudaError_t failed;         /* cudaSuccess, or what made the device unusable */
    spc_device_comm *comm;      /* owned; NULL: no rank */
    const spc_kernels *kernels; /* of the runners to come; NULL: defaults */
    bool early;                 /* kernels may begin before those in front of them have ended ... */
    bool early_inside;          /* ... in bodies of conditional nodes too */
    bool no_bodies;             /* graphs with conditional nodes were refused */
    bool knows_bodies;          /* ... or found to take what is launched */
    unsigned lacks, told; /* bits: what the device cannot do (cuda_lack), what was told of it */
    char notice[160];
    size_t stack_bytes; /* of the device's threads, taken when it was opened */
    char device_name[32];
    char text[128]; /* "cuda:0, NVIDIA H100 80GB HBM3" */
};

_Static_assert((int)SPC_PAGE_TOKENS == (int)SPC_CUDA_PAGE_TOKENS, "one size of pages");

struct spc_runner {
    spc_backend *backend;
    const spc_plan *plan; /* of the rank */
    const spc_plan *whole;
    spc_plan *part; /* owned; NULL: plan is the whole one */
    spc_limits limits;
    int32_t first, width; /* of ids: those that rows of logits hold */
    cuda_slices slices;

    /* on the host */
    void *host;              /* everything of this part lies in it */
    spc_cuda_matrix *matrix; /* [weights] */
    spc_linear_way *way;     /* [weights] of the launch that begins with this matrix */
    cuda_wide **wide;        /* [weights] the same for more than 16 rows; NULL: as fewer.  The array
                                is NULL where limits.library is not set */
    cuda_wide *wides;        /* [wide_count] what they point to */
    int32_t wide_count;
    float **vector;  /* [weights] on the device, as the CPU backend has them */
    float **buffer;  /* [buffers] on the device, each [most_rows, dim] */
    int32_t *length; /* [slots] tokens in the cache */
    int32_t *room;   /* [slots] tokens that a slot's pages take */
    cuda_pages pages;
    int32_t *source;                          /* [slots] tokens in the memory of an encoder */
    int32_t *encoder_slot, *encoder_position; /* [context] rows of an encoder */
    float *mirror;                            /* [outputs, plan->ids] logits that were asked for */
    cuda_rows rows;
    cuda_lanes lanes;
    cuda_shape shape; /* of the forward under way */
    bool early;       /* its next launch may begin early: a kernel of an op is in front of it */
    bool rehearses;   /* what is recorded is thrown away: what ranks do together is left out */
    cuda_graphs graphs;
    cuda_fused_graph fused_graphs[CUDA_FUSED_GRAPHS]; /* of rounds that this runner verifies */
    bool clocked;                                     /* they are timed: */
    spc_round_clock clock;
    uint64_t decided; /* when the latest round was, by the device's clock; 0: there was none */
    cuda_ahead ahead; /* what this runner drafted */
    uint64_t *serial; /* [slots] counts forwards */
    int32_t *order;   /* [slots] lanes of a round, by falling draft length */
    int32_t *lane;    /* [slots] which lane is that of the k-th sequence of a call */
    cuda_half half[2];
    void *fused_host; /* of both */

    /* on the device */
    void *weights;              /* matrices */
    void *arena;                /* everything below lies in it, vectors and buffers too */
    float *wanted;              /* [outputs, dim] */
    float *logits;              /* [outputs + CUDA_LANE_DRAFTS, width]; those behind the
                                   outputs are bank 1 of a lane */
    float *some;                /* [outputs, drafted] of a drafter that drafts some ... */
    spc_subset *subset;         /* ... tokens: plan->subset; NULL: of others */
    float *drafter_rows;        /* [outputs, width] of another backend's drafter; NULL: none */
    int32_t *ahead_token;       /* [CUDA_LANE_DRAFTS] */
    spc_row_stats *ahead_stats; /* [CUDA_LANE_DRAFTS] */
    spc_kv cache;
    spc_kv memory;              /* of plans with an encoder: a slot's pages are its own */
    float *cosine[2], *sine[2]; /* [context, pairs that turn] of rope, and of local_rope */
    float *query_scale;         /* [context] what queries are multiplied with; NULL: nothing */
    float *workspace;           /* of attention */
    void *linear_scratch;       /* of linear ops whose columns several blocks share */
    void *linear_wide;          /* of those over more than SPC_LINEAR_STRIP rows on tensor cores, or
                                   NULL */
    void *verify_workspace;     /* of drawing and verification, verify_bytes long */
    size_t verify_bytes;
    void *gemm_memory; /* of gemm; NULL: limits.library is not set */
    spc_cuda_gemm gemm;
    spc_logit_edit *edit; /* [SPC_EDITS_MOST] */
    int32_t *masked;      /* [SPC_MASKS_MOST] */
    uint32_t *allowed;    /* [SPC_MASK_WORDS_MOST] */
    cuda_rows device_rows;
    cuda_lanes device_lanes;
    size_t rows_bytes, lanes_bytes, lanes_in_bytes; /* of them; what the host writes comes first */
    size_t fused_bytes;
};

/* Make the backend's device the calling thread's; the error that made it unusable, again. */
spc_status spc_cuda_enter(spc_backend *backend, spc_error *err);
/* SPC_OK, or SPC_EDEVICE: the first failure is kept, and all verbs return it from then on. */
spc_status spc_cuda_check(spc_backend *backend, cudaError_t code, const char *what, spc_error *err);

/* Wait until the stream has done everything so far; a rank's wait ends in time. */
spc_status spc_cuda_wait(spc_backend *backend, const char *what, spc_error *err);

/* Copy between the host's memory, which is not pinned, and the device's.  Such a copy waits for the
 * stream without end: a rank, whose stream may wait for another, waits in time first.  What is sent
 * may be written again: the runtime has staged it, or, where the device reads such memory by itself
 * and nothing need be staged, it is staged here, so that forwards can be sent ahead of the device;
 * of what is too long for that it is waited for. */
spc_status spc_cuda_copy(spc_backend *backend, void *to, const void *from, size_t bytes,
                         bool to_host, const char *what, spc_error *err);

/* The verbs claim, memory, load, unload. */
spc_status spc_cuda_claim(const spc_backend *backend, const spc_plan *plan,
                          const spc_bundle *weights, const spc_limits *limits, spc_claims *claims,
                          spc_error *err);
size_t spc_cuda_memory(const spc_backend *backend, const spc_plan *plan, const spc_limits *limits);
spc_status spc_cuda_load(spc_backend *backend, const spc_plan *plan, const spc_bundle *weights,
                         const spc_limits *limits, spc_runner **out, spc_error *err);
void spc_cuda_unload(spc_runner *runner);

/* Check every weight of the plan and cut the matrices out of `base`; NULL only counts.
 *
 * bytes   receives what they take */
spc_status spc_cuda_lay_out_weights(spc_runner *runner, const spc_bundle *bundle, char *base,
                                    size_t *bytes, spc_error *err);
/* Weights to where lay_out_weights and lay_out_device have put them. */
spc_status spc_cuda_send_weights(spc_runner *runner, const spc_bundle *bundle, spc_error *err);
/* Floats of a weight that is kept as float32 (a vector, or a table by relative position); 0: it is
 * a matrix. */
size_t spc_cuda_vector_floats(const spc_weight *w, int32_t context);
/* Copy, and wait for it. */
cudaError_t spc_cuda_send_floats(const spc_runner *runner, float *to, const float *from,
                                 size_t count);
/* The head scores the ids that are wanted; rows of the padding behind them are left alone. */
void spc_cuda_cut_head(spc_runner *runner);

/* Most rows that an op runs over: an encoder takes a whole prompt. */
int32_t spc_cuda_most_rows(const spc_plan *plan, const spc_limits *limits);

/* Write down one more row behind those of `shape`, which begins as zeros.  output -1: no logits.
 * Behind the last one comes spc_cuda_end_rows. */
void spc_cuda_add_row(const spc_runner *runner, const cuda_rows *to, cuda_shape *shape,
                      int32_t slot, int32_t token, int32_t position, int32_t output);
void spc_cuda_end_rows(const spc_runner *runner, const cuda_rows *rows, cuda_shape *shape);

/* The verb map, and what it needs on the host. */
spc_status spc_cuda_map(spc_runner *runner, int32_t slot, const int32_t *page, int32_t count,
                        int32_t length, spc_error *err);
spc_status spc_cuda_open_pages(spc_runner *runner, const char *where, spc_error *err);
void spc_cuda_close_pages(spc_runner *runner);
/* Does one of these rows, which lie on the host, write into a page that another row reads, too? */
bool spc_cuda_rows_meet(const spc_runner *runner, const cuda_rows *rows, int32_t count);

/* Launch a forward whose rows lie at `rows` on the device. */
spc_status spc_cuda_run_rows(spc_runner *runner, const cuda_rows *rows, const cuda_shape *shape,
                             spc_error *err);

/* Pieces for so many rows; returns their bytes. */
size_t spc_cuda_lay_out_rows(cuda_rows *rows, carver *to, int32_t count);

/* Load every kernel that a forward may launch.  The first launch would do it, which waits until the
 * device is idle, and may keep other threads from theirs meanwhile: a device that waits for another
 * rank's would never be. */
spc_status spc_cuda_load_kernels(spc_runner *runner, spc_error *err);

/* Run the launches of `run`, which depend on the shape alone: recorded where it is worth it. */
spc_status spc_cuda_run_shape(spc_runner *runner, const cuda_shape *shape,
                              spc_status (*run)(spc_runner *runner, spc_error *err),
                              spc_error *err);
void spc_cuda_free_graphs(spc_runner *runner);

/* Call fn for every launch of a linear op: what it takes, and where its way stands; until it fails.
 */
typedef spc_status (*spc_cuda_linear_fn)(spc_runner *runner, const spc_linear_args *args,
                                         spc_linear_way *way, void *user, spc_error *err);
spc_status spc_cuda_each_linear(spc_runner *runner, spc_cuda_linear_fn fn, void *user,
                                spc_error *err);
/* Which way each goes, which a row's bits depend on: the default, or what the backend's table says.
 * SPC_EINPUT: it says nothing of one, or what cannot be. */
spc_status spc_cuda_choose_ways(spc_runner *runner, spc_error *err);
/* What a table knows a launch by. */
spc_kernels_shape spc_cuda_shape_of(const spc_linear_args *args);
/* cuBLASLt, where limits.library is set: bytes it is given on the device, and its handle.
 *
 * where   the model, for messages
 *
 * SPC_EDEVICE: it cannot be loaded */
size_t spc_cuda_library_bytes(const spc_runner *runner);
spc_status spc_cuda_open_library(spc_runner *runner, const char *where, spc_error *err);
/* Which way more than 16 rows of each go, where limits.library is set.  SPC_EUNSUPPORTED: cuBLASLt
 * has none; SPC_EINPUT as above, or the table has algorithms of another version of it. */
spc_status spc_cuda_choose_wide(spc_runner *runner, spc_error *err);
/* SPC_EINPUT: the table's algorithms are of another version of cuBLASLt than the runner's. */
spc_status spc_cuda_check_version(const spc_runner *runner, const spc_kernels *table,
                                  spc_error *err);
/* What a table calls this GPU: "NVIDIA H100 80GB HBM3, compute capability 9.0". */
spc_status spc_cuda_name_gpu(spc_backend *backend, char text[SPC_KERNELS_TEXT], spc_error *err);
/* The verbs use_kernels and tune. */
spc_status spc_cuda_use_kernels(spc_backend *backend, const spc_kernels *table, spc_error *err);
spc_status spc_cuda_tune(spc_runner *runner, const spc_tuning *how, spc_kernels *table,
                         spc_error *err);
/* What makes a table. */
typedef struct {
    const spc_tuning *how;
    spc_kernels *table;
    double *sample; /* [how->runs] */
    int32_t rows;   /* of a forward, at most */
} cuda_tuner;

/* Median of a forward of so many rows, or of as many as there can be, in microseconds. */
spc_status spc_cuda_time_rows(spc_runner *runner, const cuda_tuner *tuner, int32_t rows, double *us,
                              spc_error *err);
/* What an entry says of more than 16 rows where the runner has the library, of the launch whose way
 * this is: each number of rows with every way, timed. */
spc_status spc_cuda_tune_wide(spc_runner *runner, const cuda_tuner *tuner,
                              const spc_linear_args *args, const spc_linear_way *way,
                              spc_kernels_entry *entry, spc_error *err);
/* The matrices of a LINEAR or HEAD op over rows of `in`, results to rows of `out` (`target` as in
 * spc_linear_args), which are `width` long. */
cudaError_t spc_cuda_run_matrices(spc_runner *runner, const spc_op *op, const float *in,
                                  int32_t rows, const int32_t *target, float *out, int32_t width);
/* Run op i of a plan that ends at `end`, and those behind it that go with it; returns how many.
 *
 * code   receives what became of the launches */
int32_t spc_cuda_run_op(spc_runner *runner, int32_t i, int32_t end, const cuda_shape *shape,
                        cudaError_t *code);
/* Does any op from i on read what lies in the buffer now? */
bool spc_cuda_is_read(const spc_plan *plan, int32_t i, int32_t end, int32_t buffer);
/* Run a NORM and the LINEAR op behind it, or a LINEAR op, with a gate or a residual sum behind it,
 * in one launch, as far as that can be.  Returns how many ops that was; 0: none.
 *
 * first, end   the NORM or LINEAR op; where its part of the plan ends
 * code         receives what became of the launch, where there was one */
int32_t spc_cuda_run_tile(spc_runner *runner, int32_t first, int32_t end, int32_t rows,
                          cudaError_t *code);
/* A recorded graph, which is the callee's from now on, on its way to the device.  NULL: it does not
 * take it.  (A launch would send it, too; but what fails then cannot be made good.) */
cudaGraphExec_t spc_cuda_upload(cudaGraph_t graph, cudaStream_t stream);

/* What became of an attempt to record. */
typedef struct {
    bool recorded; /* on every rank, where there are several */
    bool refused;  /* by this device */
    bool left;     /* set before: kernels that begin early may be to blame, on any rank: there is
                      another attempt to be made */
} cuda_attempt;

/* Record by `record` with kernels that begin early, as far as graphs take them: not in bodies of
 * conditional nodes, or not at all, from now on, where that is what helps.  false: nothing does. */
bool spc_cuda_record(spc_backend *backend, void (*record)(void *user, cuda_attempt *attempt),
                     void *user);

/* A rank whose rows are slices, and all others at the same time: does this hold of all of them, of
 * any of them?  Waits.
 *
 * all   receives whether `mine` is true on every rank
 * any   this rank's; receives whether any rank's is true */
spc_status spc_cuda_agree(spc_runner *runner, bool mine, bool *all, bool *any, spc_error *err);

static inline void spc_cuda_lacks(spc_backend *b, cuda_lack lack)
{
    b->lacks |= 1u << lack;
}

/* What was sent last is a kernel of an op, or something else: may the next launch begin early? */
static inline void spc_cuda_sent(spc_runner *r, bool kernel)
{
    r->early = kernel && r->backend->early && !r->limits.plain && !r->limits.no_early;
}

/* What became of an op, as spc_cuda_check says it: with the layer and the library's word where that
 * failed. */
spc_status spc_cuda_check_op(spc_runner *runner, const spc_op *op, cudaError_t code,
                             spc_error *err);

/* The verbs edit, draw, verify and verify_rows. */
spc_status spc_cuda_edit_rows(spc_runner *runner, const spc_edit_list *list, spc_error *err);
spc_status spc_cuda_draw_lanes(spc_runner *drafter, const spc_lane *lanes, int32_t count, int32_t i,
                               spc_error *err);
spc_status spc_cuda_verify_lanes(spc_runner *drafter, spc_runner *verifier, const spc_lane *lanes,
                                 int32_t count, spc_verdict *out, spc_error *err);
spc_status spc_cuda_verify_rows(const float *rows, spc_runner *verifier, const spc_lane *lanes,
                                int32_t count, spc_verdict *out, spc_error *err);

/* The verb round, and what it needs: bytes of the block for a runner's limits. */
spc_status spc_cuda_round(spc_runner *drafter, spc_runner *verifier, spc_round_request *request,
                          int32_t count, spc_verdict *out, spc_verdict *late,
                          spc_round_times *times, spc_error *err);
const spc_round_clock *spc_cuda_round_clock(spc_runner *verifier);
size_t spc_cuda_fused_bytes(const spc_limits *limits);
void spc_cuda_free_fused(spc_runner *runner);
/* What the round behind it takes on the host. */
void spc_cuda_lay_out_chain(spc_runner *runner, carver *to);

/* Logits of a runner as rows. */
spc_logit_rows spc_cuda_logit_rows(const spc_runner *runner);
/* The same, and logits, of a rank whose rows are slices; all ranks call together. */
spc_status spc_cuda_draw_slices(spc_runner *drafter, const spc_draw_batch *batch, spc_error *err);
spc_status spc_cuda_verify_slices(const spc_runner *drafter, spc_runner *verifier,
                                  const spc_verify_batch *batch, spc_error *err);
spc_status spc_cuda_gather_row(spc_runner *runner, int32_t output, float *to, spc_error *err);
/* Ranks compare what they verify: a hash of the lanes and of all that was decided so far, which the
 * second call takes in. */
uint64_t spc_cuda_hash_lanes(const spc_runner *verifier, const spc_lane *lanes, int32_t count);
void spc_cuda_note_verdicts(spc_runner *verifier, const spc_verdict *verdict, int32_t count);

#endif
