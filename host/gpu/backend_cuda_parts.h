/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_parts.h - what a runner of the CUDA backend is made of: rows of a forward, lanes of
 * a round, the shapes that recorded graphs are kept by, fused rounds, pages, a rank's slices. */
#ifndef SPC_HOST_BACKEND_CUDA_PARTS_H
#define SPC_HOST_BACKEND_CUDA_PARTS_H

#include "cuda/ops.h"
#include "cuda/round.h"

#include "host/ahead.h"
#include "host/backend.h"

/* Drafts of a lane, at most; bytes behind an answer in which ranks exchange a hash. */
enum { CUDA_LANE_DRAFTS = SPC_GAMMA_MAX + 1, SPC_CUDA_CHECK_BYTES = 16 };

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
    uint64_t *check;      /* [1] of a rank: hash of what it verifies */
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
    int32_t torn;            /* 1: the rows of a slot are in several tiles, or a row's page is
                                another slot's too: attention does not write by itself */
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

/* What the launches of a fused round depend on, beside what lies on the device. */
typedef struct {
    const spc_runner *drafter;
    int32_t lanes;
    int32_t steps;                   /* longest draft */
    int32_t ready, ahead;            /* drafts that are there, and to be drawn ahead */
    int32_t bank;                    /* of the drafter's logits: 0 or 1 */
    int32_t synthetic;               /* 1: verdicts are replaced ... */
    float rate;                      /* ... at this rate */
    int32_t half;                    /* of a batch: 0, 1 */
    int32_t in_turns;                /* 1: drafts are a graph by themselves, on the side stream */
    int32_t chained;                 /* 1: it begins with what the round before it left */
    int32_t clocked;                 /* 1: its parts are timed */
    int32_t drawn[CUDA_LANE_DRAFTS]; /* [steps] lanes that draw, the first of all */
    cuda_shape draft[CUDA_LANE_DRAFTS]; /* [steps] forwards of the drafter */
    cuda_shape scored;                  /* of the verifier; count 0: none */
    cuda_shape late;                    /* of the drafter, behind kept drafts; count 0: none */
    cuda_shape next[CUDA_LANE_DRAFTS];  /* [ahead] of the drafter */
} cuda_fused_shape;

/* Drafts that verification looks at for each lane: rows beyond the longest draft would cost it as
 * much as rows that are there. */
static inline int32_t spc_cuda_drafts_apart(const cuda_fused_shape *shape)
{
    return shape->steps > 0 ? shape->steps : 1;
}

/* When the device came to where: behind the last draw, behind verification; of a chained round and
 * of one on the clock also at the beginning, of the former behind late rows too (where there may be
 * any), of the latter behind the verifier's forward. */
enum { CLOCK_DRAWN, CLOCK_DECIDED, CLOCK_BEGUN, CLOCK_SCORED, CLOCK_ENDED, CUDA_CLOCKS };

/* The data of a fused round: one block on the host and one on the device, laid out by the round's
 * shape, of which the host sends the first part and fetches the middle.  Lanes are ordered by
 * falling draft length, so that those that draw in a step are the first. */
typedef struct {
    spc_row_params *params;              /* [lanes] */
    int64_t *row, *position;             /* [lanes] of the first draft */
    int64_t *draw_row, *draw_position;   /* [steps, lanes] */
    int64_t *late_row, *late_position;   /* [lanes] */
    uint32_t *salt;                      /* [lanes] */
    int32_t *stop, *stops;               /* [lanes, SPC_ROUND_STOPS], [lanes] */
    int32_t *next, *score;               /* [steps, lanes] see cuda/round.h; from draft[0].token */
    int32_t *none;                       /* [lanes] 0 */
    int32_t *pending;                    /* [lanes] the token that the round begins with */
    int64_t *drafter_row;                /* [lanes] as row, in the bank of this round */
    int64_t *ahead_row, *ahead_position; /* [ahead] */
    int32_t *ahead_next;                 /* [ahead] as next; the last has none */
    cuda_rows draft[CUDA_LANE_DRAFTS], scored, late, ahead[CUDA_LANE_DRAFTS];
    int32_t *from, *guess;  /* [lanes] of a chained round: see cuda/round.h */
    spc_round_patch *patch; /* [*patches] */
    int32_t *patches;       /* [1] */
    /* both ways */
    int32_t *drafts, *bonus, *wants_late, *failed; /* [lanes] */
    /* written by the device */
    int32_t *token;               /* [lanes, spc_cuda_drafts_apart] the drafts */
    spc_verdict *verdict, *again; /* [lanes] of the round, and of late rows */
    uint64_t *clock;              /* [CUDA_CLOCKS] */
    /* for the device alone */
    spc_row_stats *stats;                     /* [lanes, spc_cuda_drafts_apart] */
    int32_t *drawn;                           /* [lanes] */
    spc_row_stats *measured;                  /* [lanes] */
    int32_t *emitted;                         /* [lanes, spc_cuda_drafts_apart + 1] */
    int32_t *count;                           /* [lanes] */
    uint32_t *status;                         /* [lanes] */
    size_t sent, fetched, fetched_end, bytes; /* offsets */
} cuda_fused_data;

/* Drafts drawn ahead.  Their rows of logits lie in another bank than those of the round that was
 * verified meanwhile. */
typedef struct {
    spc_ahead drafts;
    uint64_t serial; /* of the slot: no forward has touched it since */
    int32_t bank;
} cuda_ahead;

enum { CUDA_FUSED_GRAPHS = 32 };

typedef struct {
    cuda_fused_shape shape;
    cudaGraphExec_t exec;   /* NULL: seen once, not recorded yet */
    cudaGraphExec_t drafts; /* of a round in turns: what goes to the side stream */
    bool inside;            /* it runs late rows by itself */
    uint64_t used;          /* 0: never */
} cuda_fused_graph;

/* The round behind one that the host waits for; see backend_cuda_fused.h. */
typedef struct cuda_chain cuda_chain;

/* The rounds of one half of a batch, or of all of it. */
typedef struct {
    cuda_chain *chain;
    char *host;   /* pinned; two areas, each fused_bytes long: the device may write one while the
                     host writes the other */
    void *device; /* fused_bytes long */
    spc_round_outcome *outcome; /* [slots] of the last round but one */
    int32_t area;               /* of the last round that was sent */
    bool busy[2];               /* the device may still write it */
} cuda_half;

/* A rank's part in drawing and verification; zeros where rows are whole. */
typedef struct {
    spc_shard_bytes most; /* per sequence, of any parameters */
    char *state;          /* [slots, most.state] on the device */
    char *answers;        /* [world] of the most that a step takes and a hash, on the device */
    int64_t *left;        /* [2] on the device */
    float *row;           /* [ids] on the device, a row put together */
    uint64_t *heard;      /* [world] on the host, every rank's hash */
    int64_t *left_heard;  /* [2] on the host */
    uint64_t past;        /* hash of all verdicts so far */
    uint64_t rounds;      /* verified */
} cuda_slices;

/* Which way more than 16 rows go of all launches of one shape, where limits.library is set. */
typedef struct {
    spc_kernels_shape shape;
    bool own[SPC_GEMM_BUCKETS]; /* as fewer rows do, not by the library */
    spc_gemm_plan plan;         /* of the buckets up to that of the most rows */
} cuda_wide;

/* The tables of pages, as the device has them. */
typedef struct {
    void *memory;   /* everything below lies in it; owned */
    int32_t *table; /* [slots, spc_pages_for(context)] */
    int32_t *count; /* [slots] entries that a table has */
    int32_t *users; /* [pages] tables that a page stands in */
} cuda_pages;

#endif
