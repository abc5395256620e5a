/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_ranks_round.c - drawing and verification by ranks that hold slices of the logits: the
 * verdicts and statistics of whole rows, wherever the drafter lies and however it is cut. */
#include "tiny.h"

#include "host/cpu/cpu_round.h"
#include "host/ranks/backend_ranks.h"

#include "narrowed.h"
#include "toyround.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LANES = 2, DRAFTS = 3, ROWS = LANES * (DRAFTS + 1), IDS = 10000 };

static const char form[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": %d, \"hidden_size\": 48,"
    " \"num_hidden_layers\": 1, \"num_attention_heads\": 12, \"num_key_value_heads\": 12,"
    " \"intermediate_size\": 96, \"max_position_embeddings\": 16}";

typedef struct {
    tiny_model model;
    spc_runner *runner;
    float *rows; /* [ROWS, IDS] as the backend shows them */
} side;

/* Which drafter: over so many ids, run by the first rank alone, cut to some tokens (narrow.h). */
typedef struct {
    int32_t vocab;
    bool alone;
    const char *some;
} kind;

static void cut_to(tiny_model *m, const char *some)
{
    spc_model model = {.plan = m->plan, .bundle = m->bundle, .config = m->config};
    spc_error err;

    cr_assert_eq(spc_narrow_head(&model, some, IDS, NULL, NULL, &err), SPC_OK, "%s", err.message);
}

/* A model, its rows run. */
static side side_of(spc_backend *backend, const kind *k, uint64_t seed)
{
    static const int32_t slot[ROWS] = {0, 0, 0, 0, 1, 1, 1, 1};
    static const int32_t token[ROWS] = {1, 5000, 9999, 4095, 4096, 8191, 17, 3};
    static const int32_t position[ROWS] = {0, 1, 2, 3, 0, 1, 2, 3};
    static const int32_t output[ROWS] = {0, 1, 2, 3, 4, 5, 6, 7};
    spc_rows rows = {ROWS, slot, token, position, output};
    spc_limits limits = {.slots = LANES, .context = 16, .rows = ROWS, .outputs = ROWS};
    side s = {.rows = malloc(sizeof(float) * ROWS * IDS)};
    char config[512];
    spc_error err;

    (void)snprintf(config, sizeof config, form, (int)k->vocab);
    s.model = tiny_open(config, seed, 6);
    s.model.plan->ids = IDS;
    s.model.plan->alone = k->alone;
    cut_to(&s.model, k->some);
    cr_assert_not_null(s.rows);
    cr_assert_eq(
        spc_backend_ranks.load(backend, s.model.plan, s.model.bundle, &limits, &s.runner, &err),
        SPC_OK, "%s", err.message);
    cr_assert_eq(spc_backend_ranks.forward(s.runner, &rows, &err), SPC_OK, "%s", err.message);
    return s;
}

/* Only once everything is decided: looking puts the slices together on the first rank. */
static void show(side *s)
{
    for (int32_t i = 0; i < ROWS; i++) {
        memcpy(s->rows + (size_t)i * IDS, spc_backend_ranks.logits(s->runner, i),
               IDS * sizeof(float));
    }
}

static void side_close(side *s)
{
    spc_backend_ranks.unload(s->runner);
    tiny_close(&s->model);
    free(s->rows);
}

typedef struct {
    spc_lane lane[LANES];
    int32_t draft[LANES][DRAFTS];
    spc_row_stats stats[LANES][DRAFTS];
    spc_verdict verdict[LANES];
} lanes;

static void lanes_of(lanes *l, const spc_row_params *params)
{
    memset(l, 0, sizeof *l);
    for (int32_t k = 0; k < LANES; k++) {
        l->lane[k] =
            (spc_lane){.params = params,
                       .position = 4 + 10 * k,
                       .output = k * (DRAFTS + 1),
                       .drafts = DRAFTS - k,
                       .salt = params->verify == SPC_VERIFY_BLOCK ? 5u + 10u * (uint32_t)k : 0u,
                       .bonus = true,
                       .draft = l->draft[k],
                       .stats = l->stats[k]};
    }
}

/* One round by ranks, and the same over the whole rows. */
static void expect_same_round(side *drafter, side *verifier, const spc_row_params *params,
                              const char *what)
{
    static lanes got, want;
    spc_error err;

    lanes_of(&got, params);
    lanes_of(&want, params);
    for (int32_t i = 0; i < DRAFTS; i++) {
        cr_assert_eq(spc_backend_ranks.draw(drafter->runner, got.lane, LANES, i, &err), SPC_OK);
    }
    cr_assert_eq(spc_backend_ranks.verify(drafter->runner, verifier->runner, got.lane, LANES,
                                          got.verdict, &err),
                 SPC_OK, "%s: %s", what, err.message);
    show(drafter);
    show(verifier);
    for (int32_t i = 0; i < DRAFTS; i++) {
        (void)spc_cpu_draw(drafter->rows, IDS, want.lane, LANES, i, NULL, &err);
    }
    (void)spc_cpu_verify(drafter->rows, verifier->rows, IDS, want.lane, LANES, NULL, want.verdict,
                         &err);
    cr_assert(memcmp(got.draft, want.draft, sizeof got.draft) == 0, "%s: drafts", what);
    cr_assert(memcmp(got.stats, want.stats, sizeof got.stats) == 0, "%s: statistics", what);
    cr_assert(memcmp(got.verdict, want.verdict, sizeof got.verdict) == 0,
              "%s: %d tokens, %d first, want %d, %d", what, got.verdict[0].count,
              got.verdict[0].token[0], want.verdict[0].count, want.verdict[0].token[0]);
}

static void expect_same_rounds(int32_t world, kind of_drafter)
{
    static const kind of_verifier = {.vocab = IDS};
    spc_backend *backend;
    side drafter, verifier;
    spc_error err;

    cr_assert_eq(spc_ranks_open(world, world, NULL, &backend, &err), SPC_OK, "%s", err.message);
    verifier = side_of(backend, &of_verifier, 3);
    for (int r = 0; r < TOY_RULES; r++) {
        spc_row_params p = params_of(toy_rules[r], r % 4 == 0 ? 0 : 0.8f);

        if (p.rule.path == SPC_RULE_MENTORED && world > 2) continue; /* hundreds of steps */
        p.sampling.top_p = r % 3 == 0 ? 0.9f : 1;
        p.verify = r % 5 == 0 ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN;
        if (spc_rule_needs_draft((spc_rule_kind)p.rule.kind)) {
            p.verify = SPC_VERIFY_TOKEN;
            p.bonus = SPC_BONUS_STEP;
        }
        if (spc_params_check(&p, NULL) != SPC_OK) p.sampling.temperature = 0;
        if (spc_params_check(&p, NULL) != SPC_OK) continue;
        /* anew: looking has put the drafter's slices together */
        drafter = side_of(backend, &of_drafter, 4);
        expect_same_round(&drafter, &verifier, &p, toy_rules[r]);
        side_close(&drafter);
        side_close(&verifier);
        verifier = side_of(backend, &of_verifier, 3);
    }
    side_close(&verifier);
    spc_backend_ranks.close(backend);
}

Test(host_ranks_round, the_drafter_on_the_first_rank)
{
    expect_same_rounds(2, (kind){IDS, true, NULL});
}

Test(host_ranks_round, the_drafter_cut_alike)
{
    expect_same_rounds(2, (kind){IDS, false, NULL});
    expect_same_rounds(4, (kind){IDS, false, NULL});
}

Test(host_ranks_round, the_drafter_cut_elsewhere)
{
    expect_same_rounds(2, (kind){13500, false, NULL});
}

/* ---- a drafter that drafts some tokens ------------------------------------------------------- */

/* Some in every slice, at its ends, and none in others. */
static const char *const ends = "9999 8192 8191 4096 4095 4094 0 17 5000 9000";

Test(host_ranks_round, some_tokens_cut_alike)
{
    const char *path = narrowed_file(ends);

    expect_same_rounds(2, (kind){IDS, false, "5000"});
    expect_same_rounds(3, (kind){IDS, false, path});
    expect_same_rounds(4, (kind){IDS, false, "300"}); /* of one tile: three ranks have none */
    (void)unlink(path);
}

Test(host_ranks_round, some_tokens_cut_elsewhere)
{
    const char *path = narrowed_file(ends);

    expect_same_rounds(2, (kind){13500, false, path});
    (void)unlink(path);
}

/* What ranks have of a head of some tokens is the whole one, each row once. */
Test(host_ranks_round, parts_of_some_tokens_are_all_of_them)
{
    const char *path = narrowed_file(ends);
    char config[512];

    (void)snprintf(config, sizeof config, form, IDS);
    for (int32_t world = 2; world <= 4; world++) {
        tiny_model m = tiny_open(config, 4, 6);
        int32_t next = 0;

        cut_to(&m, path);
        for (int32_t rank = 0; rank < world; rank++) {
            const int32_t last = spc_plan_first_id(IDS, rank + 1, world);
            spc_plan *part;
            spc_error err;

            cr_assert_eq(spc_plan_part(m.plan, rank, world, "tiny", &part, &err), SPC_OK);
            for (int32_t i = 0; i < part->op_count; i++) {
                const spc_weight *w = &part->weight[part->op[i].weight[0]];

                if (part->op[i].kind != SPC_OP_HEAD) continue;
                cr_expect_eq(w->row, next);
                cr_expect_eq(w->rows, part->drafted);
            }
            for (int32_t v = spc_plan_first_id(IDS, rank, world); v < last; v++) {
                const spc_subset own = part->subset[v / 32], all = m.plan->subset[v / 32];

                cr_assert_eq(own.tokens, all.tokens);
                cr_assert_eq(own.before + next, all.before);
            }
            next += part->drafted;
            spc_plan_close(part);
        }
        cr_expect_eq(next, m.plan->drafted);
        tiny_close(&m);
    }
    (void)unlink(path);
}
