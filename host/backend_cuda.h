/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda.h - inside the CUDA backend: what its files share.
 *
 *   backend_cuda.c        the device, errors, the interpreter of plans
 *   backend_cuda_graph.c  forwards that come again, recorded
 *   backend_cuda_linear.c linear ops and what goes along with them
 *   backend_cuda_load.c   memory: what a runner takes, weights on their way to the device
 *   backend_cuda_round.c  drawing and verification
 *
 * Work goes to one stream in the order of the verbs; only draw, verify and logits wait for it. */
#ifndef SPC_HOST_BACKEND_CUDA_H
#define SPC_HOST_BACKEND_CUDA_H

#include "cuda/ops.h"

#include "backend.h"

/* Drafts of a lane, at most. */
enum { CUDA_LANE_DRAFTS = SPC_GAMMA_MAX + 1 };

struct spc_backend {
    int device;
    cudaStream_t stream;
    cudaError_t failed; /* cudaSuccess, or what made the device unusable */
    char device_name[32];
    char text[128]; /* "cuda:0, NVIDIA H100 80GB HBM3" */
};

/* What a forward is told of its rows: one array on the host, the same on the device, copied as a
 * whole.  Rows are most_rows long. */
typedef struct {
    int32_t *slot, *token, *position;
    int32_t *seen;         /* keys a row attends to: position + 1 */
    int32_t *remembered;   /* the same in the memory of an encoder */
    int32_t *wanted;       /* rows whose logits are wanted ... */
    int32_t *target;       /* ... and the rows of logits they go to */
    spc_attend_tile *tile; /* see cuda/ops.h */
} cuda_rows;

/* The same for the lanes of a round, one per slot; [slots] each unless said otherwise. */
typedef struct {
    spc_row_params *params;
    int64_t *row; /* of logits, the lane's first */
    int64_t *position;
    uint32_t *salt;
    int32_t *drafts, *bonus;
    int32_t *draft;       /* [slots, CUDA_LANE_DRAFTS] */
    spc_row_stats *stats; /* the same */
    /* written by the device */
    int32_t *token; /* of a draw */
    spc_row_stats *drawn;
    spc_verdict *verdict; /* of a verification, and once more in pieces: */
    int32_t *emitted;     /* [slots, CUDA_LANE_DRAFTS + 1] */
    int32_t *count;
    uint32_t *status;
} cuda_lanes;

/* What the launches of a forward depend on, beside what lies on the device. */
typedef struct {
    int32_t encoder; /* 1: the ops of an encoder */
    int32_t count;
    int32_t wanted;          /* rows whose logits are wanted */
    int32_t tiles;           /* of attention */
    int32_t most_seen;       /* longest cache, or what spc_cuda_attend_reach makes of it */
    int32_t most_remembered; /* the same of memories; 0: none */
} cuda_shape;

enum { CUDA_GRAPHS = 48 };

typedef struct {
    cuda_shape shape;
    cudaGraphExec_t exec; /* NULL: seen once, not recorded yet */
    uint64_t used;        /* when, by the clock; 0: never */
} cuda_graph;

typedef struct {
    cuda_graph item[CUDA_GRAPHS];
    uint64_t clock;
    bool off; /* the device would not record */
} cuda_graphs;

struct spc_runner {
    spc_backend *backend;
    const spc_plan *plan;
    spc_limits limits;

    /* on the host */
    void *host;              /* everything of this part lies in it */
    spc_cuda_matrix *matrix; /* [weights] */
    float **vector;          /* [weights] on the device, as the CPU backend has them */
    float **buffer;          /* [buffers] on the device, each [most_rows, dim] */
    int32_t *length;         /* [slots] tokens in the cache */
    int32_t *source;         /* [slots] tokens in the memory of an encoder */
    int32_t *encoder_slot, *encoder_position; /* [context] rows of an encoder */
    float *mirror;                            /* [outputs, plan->ids] logits that were asked for */
    cuda_rows rows;
    cuda_lanes lanes;
    cuda_shape shape; /* of the forward under way */
    cuda_graphs graphs;

    /* on the device */
    void *weights;                    /* matrices */
    void *arena;                      /* everything below lies in it, vectors and buffers too */
    float *wanted;                    /* [outputs, dim] */
    float *logits;                    /* [outputs, plan->ids] */
    float *key, *value;               /* [slots, layers, kv_heads, context, head_dim] */
    float *memory_key, *memory_value; /* the same, of plans with an encoder */
    float *cosine[2], *sine[2];       /* [context, head_dim / 2] of rope, and of local_rope */
    float *workspace;                 /* of attention */
    void *verify_workspace;           /* of drawing and verification, verify_bytes long */
    size_t verify_bytes;
    void *gemm_memory; /* of gemm; NULL: limits.library is not set */
    spc_cuda_gemm gemm;
    cuda_rows device_rows;
    cuda_lanes device_lanes;
    size_t rows_bytes, lanes_bytes, lanes_in_bytes; /* of them; what the host writes comes first */
};

/* Make the backend's device the calling thread's; the error that made it unusable, again. */
spc_status spc_cuda_enter(spc_backend *backend, spc_error *err);
/* SPC_OK, or SPC_EDEVICE: the first failure is kept, and all verbs return it from then on. */
spc_status spc_cuda_check(spc_backend *backend, cudaError_t code, const char *what, spc_error *err);

/* The verbs room, memory, load, unload. */
size_t spc_cuda_room(const spc_backend *backend);
size_t spc_cuda_memory(const spc_backend *backend, const spc_plan *plan, const spc_limits *limits);
spc_status spc_cuda_load(spc_backend *backend, const spc_plan *plan, const spc_bundle *weights,
                         const spc_limits *limits, spc_runner **out, spc_error *err);
void spc_cuda_unload(spc_runner *runner);

/* Most rows that an op runs over: an encoder takes a whole prompt. */
int32_t spc_cuda_most_rows(const spc_plan *plan, const spc_limits *limits);

/* Run the launches of `run`, which depend on the shape alone: recorded where it is worth it. */
spc_status spc_cuda_run_shape(spc_runner *runner, const cuda_shape *shape,
                              spc_status (*run)(spc_runner *runner, spc_error *err),
                              spc_error *err);
void spc_cuda_free_graphs(spc_runner *runner);

/* The matrices of a LINEAR or HEAD op over rows of `in`, results to rows of `out` (`target` as in
 * spc_linear_args), which are `width` long. */
cudaError_t spc_cuda_run_matrices(spc_runner *runner, const spc_op *op, const float *in,
                                  int32_t rows, const int32_t *target, float *out, int32_t width);
/* Run a NORM and the LINEAR op behind it, or a LINEAR op, with a gate or a residual sum behind it,
 * in one launch, as far as that can be.  Returns how many ops that was; 0: none.
 *
 * first, end   the NORM or LINEAR op; where its part of the plan ends
 * code         receives what became of the launch, where there was one */
int32_t spc_cuda_run_tile(spc_runner *runner, int32_t first, int32_t end, int32_t rows,
                          cudaError_t *code);

/* The verbs draw and verify. */
spc_status spc_cuda_draw_lanes(spc_runner *drafter, const spc_lane *lanes, int32_t count, int32_t i,
                               spc_error *err);
spc_status spc_cuda_verify_lanes(spc_runner *drafter, spc_runner *verifier, const spc_lane *lanes,
                                 int32_t count, spc_verdict *out, spc_error *err);

#endif
