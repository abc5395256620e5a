/* SPDX-License-Identifier: Apache-2.0 */
/* rank_pair.h - backends of GPU ranks, which share a GPU or, over tests/fibers, talk by a stand-in
 * for NCCL; a tiny pair on one of them. */
#ifndef SPC_TESTS_RANK_PAIR_H
#define SPC_TESTS_RANK_PAIR_H

#include "host/gpu/backend_cuda.h"
#include "host/gpu/backend_cuda_ranks.h"
#include "host/narrow.h"

#include "decode.h"
#include "tiny.h"

enum { SHARED, NCCL, WAYS };

#ifdef SPC_STAND_IN
#include "stand_in_nccl.h"

static const int way_count = WAYS;
#else
#define SPC_STAND_IN NULL

static const int way_count = 1; /* one GPU is enough for no other */
#endif

static const char *const shared_devices[] = {"", "cuda:0", "cuda:0,cuda:0", "",
                                             "cuda:0,cuda:0,cuda:0,cuda:0"};
static spc_cuda_ranks_options wanted;

static inline spc_status open_wanted(spc_backend **out, int32_t threads, const char *which,
                                     spc_error *err)
{
    (void)threads;
    (void)which;
    return spc_cuda_ranks_open(&wanted, out, err);
}

/* One rank is the plain backend, which nothing is added to. */
static inline spc_backend_ops ops_of(int32_t world, int way)
{
    spc_backend_ops ops = world > 1 ? spc_backend_cuda_ranks : spc_backend_cuda;

#ifdef SPC_TESTS_FIBER_RUNTIME_H
    fiber_gpu.devices = 4;
#endif
    wanted = (spc_cuda_ranks_options){.world = world,
                                      .devices = way == NCCL ? "cuda" : shared_devices[world],
                                      .library = SPC_STAND_IN};
    if (world > 1) ops.open = open_wanted;
    return ops;
}

/* Two tiles of ids, one of them short: of two ranks each has one, of four two have none. */
static const char wide[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 4110, \"hidden_size\": 32,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    " \"intermediate_size\": 64, \"max_position_embeddings\": 48, \"attention_bias\": true,"
    " \"mlp_bias\": true}";
enum { WIDE_LAYERS = 1, WIDE_DIM = 32, WIDE_CONTEXT = 48, WIDE_SUMS = 1 + 2 * WIDE_LAYERS };

typedef struct {
    tiny_model drafter, verifier;
    spc_backend_ops ops;
    spc_engine *engine;
} pair;

/* drafter_vocab: as narrow.h has it; NULL: all tokens */
static inline void open_pair_of(pair *p, int32_t world, int way, bool drafter_cut,
                                const char *drafter_vocab, int32_t timeout_ms)
{
    spc_limits limits = spc_engine_limits(2, WIDE_CONTEXT);
    spc_runner *drafter, *verifier;
    spc_backend *backend;
    spc_model narrow;
    spc_error error;

    p->drafter = tiny_open(wide, 7, 1);
    p->verifier = tiny_open(wide, 7, 3);
    narrow = (spc_model){
        .plan = p->drafter.plan, .bundle = p->drafter.bundle, .config = p->drafter.config};
    cr_assert_eq(spc_narrow_head(&narrow, drafter_vocab, 4110, NULL, NULL, &error), SPC_OK, "%s",
                 error.message);
    p->drafter.plan->alone = !drafter_cut;
    p->ops = ops_of(world, way);
    wanted.timeout_ms = timeout_ms;
    cr_assert_eq(p->ops.open(&backend, 0, NULL, &error), SPC_OK, "%s", error.message);
    verifier = tiny_load_on(&p->ops, &p->verifier, backend, &limits);
    drafter = tiny_load_on(&p->ops, &p->drafter, backend, &limits);
    cr_assert_eq(spc_engine_assemble(&p->ops, backend, drafter, verifier, 4110, WIDE_CONTEXT, 2,
                                     &p->engine, &error),
                 SPC_OK, "%s", error.message);
}

static inline void open_pair(pair *p, int32_t world, int way, bool drafter_cut, int32_t timeout_ms)
{
    open_pair_of(p, world, way, drafter_cut, NULL, timeout_ms);
}

static inline void close_pair(pair *p)
{
    spc_engine_close(p->engine);
    tiny_close(&p->drafter);
    tiny_close(&p->verifier);
}

static inline decoded decode_rule(pair *p, const char *rule, int32_t tokens)
{
    spc_session_options o = options_of(rule, 2, 0.9f);
    prompt text = prompt_made(3, 4110, 3);

    o.max_tokens = tokens;
    o.seed = 11;
    o.ignore_stop = true;
    if (strncmp(rule, "token-v3", 8) == 0) o.top_p = 0.8f; /* several exchanges for each row */
    return decode(p->engine, &o, &text);
}

#endif
