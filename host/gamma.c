/* SPDX-License-Identifier: Apache-2.0 */
/* gamma.c - draft lengths that are chosen: measuring both models, and feeding rules/gamma.h. */
#include "session.h"
#include "slots.h"

#include "rules/finish.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* Sessions of an engine, all together, fade more slowly than one. */
#define ENGINE_FADE 0.996f
/* Passes over a curve; of one that takes longer, two or one. */
enum { MEASURE_RUNS = 4, MEASURE_TWICE_ABOVE_NS = 10000000, MEASURE_ONCE_ABOVE_NS = 100000000 };
/* Rounds with drafts after which one without is due: its time must not grow stale, and at worst it
 * costs less than a hundredth. */
enum { PLAIN_AFTER = 128 };
/* Points of a curve, and rows of the last; rows of a catch-up. */
enum { MEASURE_POINTS = 7, MEASURE_ROWS = 64, CATCH_UP_ROWS = 8 };
/* A model whose row takes longer has every other point: what is measured is thrown away, and a text
 * may be short. */
enum { MEASURE_FEW_ABOVE_NS = 10000000 };

/* ---- acceptance -------------------------------------------------------------------------------
 */

static int32_t seed_group(uint64_t seed)
{
    return (int32_t)((seed * 0x9e3779b97f4a7c15u) >> 61);
}

/* The group that shares the noise of a session; -1: there is none, or NULL. */
static int32_t left_out_by(const spc_session *s)
{
    return s && s->params.sampling.temperature > 0.0f ? seed_group(s->params.seed) : -1;
}

/* What all sessions saw, but for those that share the noise of this one; NULL: all. */
static void all_seen(const spc_gamma *g, const spc_session *but, float *accept)
{
    int32_t left_out = left_out_by(but);
    float prior[SPC_GAMMA_MAX];
    spc_verdicts sum;

    memset(&sum, 0, sizeof sum);
    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) {
        prior[i] = SPC_ACCEPT_PRIOR;
        for (int32_t k = 0; k < SPC_SEED_GROUPS; k++) {
            if (k == left_out) continue;
            sum.kept[i] += g->seen[k].kept[i];
            sum.judged[i] += g->seen[k].judged[i];
        }
    }
    spc_verdicts_accept(&sum, prior, accept);
}

static int32_t last_of(const spc_session *s)
{
    if (s->params.rule.path == SPC_RULE_VERIFIER_ONLY) return SPC_LAST_NEVER;
    if (s->params.bonus == SPC_BONUS_STEP) return SPC_LAST_STEP;
    if (!spc_rule_uses_drafter(&s->params.rule)) return SPC_LAST_NEVER;
    return s->params.bonus == SPC_BONUS_TARGET ? SPC_LAST_LATE : SPC_LAST_NEVER;
}

void spc_gamma_begin(spc_session *s)
{
    spc_gamma_session *g = &s->choice;
    int32_t left_out = left_out_by(s);

    memset(g, 0, sizeof *g);
    g->before = last_of(s) == SPC_LAST_NEVER && s->engine->drafter.runner ? 0 : -1;
    g->probe.every = SPC_PROBE_FIRST;
    all_seen(&s->engine->gamma, s, g->prior);
    for (int32_t k = 0; k < SPC_SEED_GROUPS; k++) {
        if (k == left_out) continue;
        g->judged += s->engine->gamma.seen[k].judged[0];
        g->replies.tokens += s->engine->gamma.replies[k].tokens;
        g->replies.ended += s->engine->gamma.replies[k].ended;
    }
}

void spc_gamma_ended(spc_session *s)
{
    if (s->gamma != SPC_GAMMA_AUTO) return;
    spc_replies_add(&s->engine->gamma.replies[seed_group(s->params.seed)], s->length - s->prompt);
}

void spc_gamma_judged(spc_session *s, int32_t judged, int32_t kept)
{
    spc_verdicts *seen = &s->engine->gamma.seen[seed_group(s->params.seed)];

    if (s->gamma != SPC_GAMMA_AUTO) return;
    s->choice.judged += judged > 0 ? 1.0f : 0.0f;
    spc_verdicts_add(&s->choice.seen, judged, kept, SPC_VERDICTS_FADE);
    spc_verdicts_add(seen, judged, kept, ENGINE_FADE);
}

/* ---- times ------------------------------------------------------------------------------------
 */

void spc_gamma_drafted(spc_engine *engine, int32_t rows, int32_t wanted, uint64_t ns)
{
    spc_gamma *g = &engine->gamma;

    if (!g->learns || wanted < 1) return;
    if (rows <= 2 * wanted) { /* one row each, and one more behind a fully kept draft */
        spc_pace_learn(&g->times.drafter, rows, (float)ns);
        return;
    }

    float rest = (float)ns - spc_pace_at(&g->times.drafter, wanted);
    float each = rest > 0.0f ? rest / (float)(rows - wanted) : 0.0f;

    g->times.catch_up += (each - g->times.catch_up) / 4.0f;
}

void spc_gamma_scored(spc_engine *engine, int32_t rows, uint64_t ns, uint64_t total_ns)
{
    spc_gamma *g = &engine->gamma;

    if (!g->learns) return;
    if (rows > 0) spc_pace_learn(&g->times.verifier, rows, (float)ns);
    g->round_ns += (double)total_ns;
    if (g->probing && (double)total_ns > g->probe_due) {
        g->probe_ns += (double)total_ns - g->probe_due;
    }
}

/* Rows behind a session's cache, run once, the last `wanted` of them for their logits; the time it
 * takes.  What they leave is forgotten; where others use its pages too, it is what stands there. */
static spc_status time_rows(spc_engine *engine, const spc_model *model, const spc_session *s,
                            int32_t count, int32_t wanted, float *ns, spc_error *err)
{
    spc_scratch *scratch = &engine->scratch;
    int32_t from = engine->ops->length(model->runner, s->slot);
    spc_rows rows = {count, scratch->slot, scratch->token, scratch->position, scratch->output};
    spc_status status;
    uint64_t start;

    for (int32_t i = 0; i < count; i++) {
        scratch->slot[i] = s->slot;
        scratch->token[i] = s->token[from + i < s->length ? from + i : 0];
        scratch->position[i] = from + i;
        scratch->output[i] = i >= count - wanted ? i - (count - wanted) : -1;
    }
    start = spc_engine_now(engine);
    status = engine->ops->forward(model->runner, &rows, err);
    /* Backends run ahead of their caller: a row of logits is there when all is. */
    if (status == SPC_OK) (void)engine->ops->logits(model->runner, wanted - 1);
    *ns = (float)(spc_engine_now(engine) - start);
    engine->ops->rewind(model->runner, s->slot, from);
    return status;
}

/* Times of 1, 2, 4, ... rows, or 1, 4, 16, ..., at most `most`: the least of several passes, so
 * that what disturbs one does not bend the curve. */
static spc_status measure_model(spc_engine *engine, const spc_model *model, const spc_session *s,
                                int32_t most, spc_pace *pace, spc_error *err)
{
    int32_t rows[MEASURE_POINTS] = {1}, count = 1;
    float time[MEASURE_POINTS], pass = 0;
    spc_status status = time_rows(engine, model, s, 1, 1, &pass, err); /* weights come in */

    for (int32_t run = 0; run < MEASURE_RUNS && status == SPC_OK; run++) {
        if (run > 0 && pass > (float)MEASURE_ONCE_ABOVE_NS) break;
        if (run > 1 && pass > (float)MEASURE_TWICE_ABOVE_NS) break;
        pass = 0;
        for (int32_t i = 0; i < count && status == SPC_OK; i++) {
            float ns;

            status = time_rows(engine, model, s, rows[i], rows[i], &ns, err);
            if (ns < 1.0f) ns = 1.0f; /* below what the clock tells apart */
            if (run == 0 || ns < time[i]) time[i] = ns;
            pass += ns;
            if (run > 0 || i > 0) continue;

            int32_t step = ns > (float)MEASURE_FEW_ABOVE_NS ? 4 : 2;

            while (count < MEASURE_POINTS && rows[count - 1] * step <= most) {
                rows[count] = rows[count - 1] * step;
                count++;
            }
        }
    }
    if (status == SPC_OK) spc_pace_lay(pace, rows, time, count);
    return status;
}

/* Rows that can be run behind a session's cache. */
static int32_t room_behind(const spc_engine *engine, const spc_model *model, const spc_session *s,
                           int32_t most)
{
    int32_t room = spc_session_room(s) - engine->ops->length(model->runner, s->slot);
    int32_t outputs = engine->sessions * SPC_LANE_ROWS;

    if (most > outputs) most = outputs;
    if (most > MEASURE_ROWS) most = MEASURE_ROWS;
    return most < room ? most : room;
}

/* Drafts that are looked up take next to no time, and what takes none would be divided by. */
static void lay_look_ups(spc_gamma_times *t)
{
    static const int32_t one = 1;
    static const float least = 1;

    spc_pace_lay(&t->drafter, &one, &least, 1);
    t->catch_up = 0;
}

static spc_status measure_drafter(spc_engine *engine, const spc_session *s, spc_error *err)
{
    spc_gamma_times *t = &engine->gamma.times;
    int32_t behind = room_behind(engine, &engine->drafter, s, CATCH_UP_ROWS);
    spc_status status =
        measure_model(engine, &engine->drafter, s,
                      room_behind(engine, &engine->drafter, s, engine->sessions), &t->drafter, err);
    float least = INFINITY;

    /* twice: memory that many rows are the first to touch takes its time */
    for (int run = 0; run < 2 && status == SPC_OK; run++) {
        float ns;

        status = time_rows(engine, &engine->drafter, s, behind, 1, &ns, err);
        if (ns < least) least = ns;
    }
    least -= spc_pace_at(&t->drafter, 1);
    t->catch_up = behind > 1 && least > 0.0f ? least / (float)(behind - 1) : 0.0f;
    return status;
}

static spc_status measure(spc_engine *engine, const spc_session *s, spc_error *err)
{
    spc_model *models[] = {&engine->drafter, &engine->verifier};
    spc_gamma_times *t = &engine->gamma.times;
    spc_status status = SPC_OK;

    for (int i = 0; i < 2 && s->source && status == SPC_OK; i++) {
        if (!models[i]->runner) continue;
        if (engine->ops->length(models[i]->runner, s->slot) > 0) continue;
        status = engine->ops->encode(models[i]->runner, s->slot, s->source, s->source_count, err);
    }
    if (!engine->drafter.runner) lay_look_ups(t);
    if (status == SPC_OK && engine->drafter.runner) status = measure_drafter(engine, s, err);
    if (status != SPC_OK) return status;
    return measure_model(engine, &engine->verifier, s,
                         room_behind(engine, &engine->verifier, s, engine->sessions * 8),
                         &t->verifier, err);
}

/* ---- what is told -----------------------------------------------------------------------------
 */

/* Best factor over plain decoding at this acceptance, and the length that has it. */
static double best_factor(const spc_gamma_times *t, const float *accept, int32_t *gamma)
{
    spc_gamma_lane lane = {.last = SPC_LAST_NEVER};
    double best = 0;

    memcpy(lane.accept, accept, sizeof lane.accept);
    for (int32_t g = 0; g <= SPC_GAMMA_MAX; g++) {
        lane.chosen = g;

        double factor = (double)(spc_gamma_rate(t, &lane, 1) * spc_pace_at(&t->verifier, 1));

        if (g > 0 && factor <= best) continue;
        best = factor;
        *gamma = g;
    }
    return best;
}

/* Least acceptance at which drafting pays; 1: none does. */
static double break_even(const spc_gamma_times *t)
{
    double low = 0, high = 1;

    for (int32_t step = 0; step < 20; step++) {
        double middle = (low + high) / 2;
        float accept[SPC_GAMMA_MAX];
        int32_t gamma;

        for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) accept[i] = (float)middle;
        *(best_factor(t, accept, &gamma) > 1.0 ? &high : &low) = middle;
    }
    return high;
}

bool spc_engine_gamma(const spc_engine *engine, spc_gamma_facts *out)
{
    const spc_gamma *g = &engine->gamma;
    float accept[SPC_GAMMA_MAX];

    memset(out, 0, sizeof *out);
    if (!g->measured) return false;
    all_seen(g, NULL, accept);
    out->acceptance = (double)accept[0];
    out->factor = best_factor(&g->times, accept, &out->gamma);
    out->draft_ns = (double)spc_pace_at(&g->times.drafter, 1);
    out->plain_ns = (double)spc_pace_at(&g->times.verifier, 1);
    out->score_ns = (double)spc_pace_at(&g->times.verifier, out->gamma + 1);
    out->break_even = break_even(&g->times);
    return true;
}

static void tell(const spc_engine *engine)
{
    spc_gamma_facts f;
    char line[SPC_GAMMA_LINE_BYTES];

    if (!engine->log || !spc_engine_gamma(engine, &f)) return;
    spc_gamma_line(&f, line);
    engine->log(engine->user, line);
}

void spc_gamma_line(const spc_gamma_facts *f, char line[SPC_GAMMA_LINE_BYTES])
{
    if (f->gamma == 0) {
        (void)snprintf(line, SPC_GAMMA_LINE_BYTES,
                       "gamma auto: drafter %.3f ms a token, verifier %.3f ms for 1 row; drafting "
                       "pays from an acceptance of %.2f; at %.2f plain decoding is expected to be "
                       "the fastest",
                       f->draft_ns * 1e-6, f->plain_ns * 1e-6, f->break_even, f->acceptance);
        return;
    }
    (void)snprintf(line, SPC_GAMMA_LINE_BYTES,
                   "gamma auto: drafter %.3f ms a token, verifier %.3f ms for 1 row, %.3f ms for "
                   "%" PRId32 "; drafting pays from an acceptance of %.2f; at %.2f, gamma %" PRId32
                   " is expected to be %.2f times as fast as plain decoding",
                   f->draft_ns * 1e-6, f->plain_ns * 1e-6, f->score_ns * 1e-6, f->gamma + 1,
                   f->break_even, f->acceptance, f->gamma, f->factor);
}

/* ---- the choice -------------------------------------------------------------------------------
 */

static int32_t lag_of(const spc_engine *engine, const spc_session *s)
{
    if (!engine->drafter.runner) return 0; /* nothing lags that does not run */
    return s->length - 1 - engine->ops->length(engine->drafter.runner, s->slot);
}

/* Tokens that a session may still be given. */
static int32_t most_left(const spc_session *s)
{
    int32_t context = s->engine->context - s->length, budget = s->budget - (s->length - s->prompt);

    return budget < context ? budget : context;
}

/* A fully kept draft leaves one row, which runs along with the next; where the drafter's last row
 * is wanted in every round it runs whatever is chosen; and what others have run of the prompt is
 * taken over (share.c). */
static void weigh_lag(const spc_session *s, spc_gamma_lane *lane)
{
    int32_t lag = lag_of(s->engine, s), held = spc_slots_holds(s, true);

    lane->lag = lag > 1 && lane->last == SPC_LAST_NEVER ? lag : 0;
    if (lane->lag == 0) return;
    if (held > s->length - 1 - lag) lane->lag = s->length - 1 - held;
    if (lag == s->length - 1) lane->lag += s->source_count; /* which an encoder reads */
    lane->left = spc_replies_left(&s->choice.replies, s->length - s->prompt, most_left(s));
}

/* Drafts that are looked up are looked up here: there may be fewer than are wanted. */
static void lane_of(spc_session *s, spc_gamma_lane *lane)
{
    bool free = s->gamma == SPC_GAMMA_AUTO;
    int32_t wanted = free ? SPC_GAMMA_MAX : s->gamma;

    if (s->params.rule.path == SPC_RULE_VERIFIER_ONLY) wanted = 0;
    lane->most =
        spc_round_gamma(wanted, s->length - s->prompt, s->budget, s->length, s->engine->context);
    if (s->ngram) lane->most = spc_session_look_up(s, lane->most);
    lane->least = free && s->params.rule.path != SPC_RULE_VERIFIER_ONLY ? 0 : lane->most;
    lane->before = s->choice.before;
    lane->last = last_of(s);
    lane->chosen = lane->most;
    spc_verdicts_accept(&s->choice.seen, s->choice.prior, lane->accept);
    if (lane->last == SPC_LAST_NEVER) {
        lane->accept[0] = spc_accept_hope(lane->accept[0], s->choice.judged);
    }
    weigh_lag(s, lane);
}

/* Is it time for this sequence to draft again, and do all rounds so far pay for it? */
static bool may_probe(spc_engine *engine, const spc_session *s, int32_t k, int32_t count)
{
    spc_gamma *g = &engine->gamma;
    spc_gamma_lane *lane = &g->lane[k];
    double plain, with;

    if (lane->most == 0 || s->choice.probe.idle < s->choice.probe.every) return false;
    plain = (double)spc_gamma_time(&g->times, g->lane, count);
    lane->chosen = lane->most < SPC_PROBE_DRAFTS ? lane->most : SPC_PROBE_DRAFTS;
    with = (double)spc_gamma_time(&g->times, g->lane, count);
    with += (double)lag_of(engine, s) * (double)g->times.catch_up;
    if (g->probe_ns + with - plain <= (double)SPC_PROBE_SHARE * (g->round_ns + with)) {
        g->probe_due = plain;
        return true;
    }
    lane->chosen = 0;
    return false;
}

static void take_choice(spc_engine *engine, spc_session *s, int32_t k, int32_t count, bool plain)
{
    spc_gamma *g = &engine->gamma;
    spc_gamma_lane *lane = &g->lane[k];
    spc_probe *probe = &s->choice.probe;

    /* A drafter that lags far behind catches up first, beside the others' rounds (fill.c). */
    if (lane->chosen > 0 && lane->last == SPC_LAST_NEVER && s->choice.before == 0 &&
        lag_of(engine, s) > spc_fill_room(engine, count)) {
        s->choice.before = lane->chosen;
        lane->chosen = 0;
        s->counters.chosen[0]++;
        return;
    }
    if (plain && lane->chosen > 0 && lane->last == SPC_LAST_NEVER) {
        s->choice.before = lane->chosen;
        lane->chosen = 0;
        s->counters.probes++;
        s->counters.chosen[0]++;
        return;
    }
    if (lane->most > 0) s->choice.before = lane->chosen; /* 0 for want of room says nothing */
    if (lane->chosen > 0 || lane->last != SPC_LAST_NEVER) {
        *probe = (spc_probe){0, SPC_PROBE_FIRST};
    } else {
        probe->idle++;
        if (!g->probing && may_probe(engine, s, k, count)) {
            g->probing = true;
            *probe = (spc_probe){0, spc_probe_next(probe->every)};
            s->counters.probes++;
        }
    }
    s->counters.chosen[lane->chosen]++;
}

/* Is it time for a round in which no strict sequence drafts? */
static bool plain_is_due(spc_gamma *g, int32_t count)
{
    bool drafts = false;

    for (int32_t k = 0; k < count; k++) {
        const spc_gamma_lane *lane = &g->lane[k];

        drafts = drafts || lane->chosen > 0 || lane->last != SPC_LAST_NEVER;
    }
    g->drafting = drafts ? g->drafting + 1 : 0;
    if (g->drafting <= PLAIN_AFTER) return false;
    g->drafting = 0;
    return true;
}

/* Lengths that were chosen with the round before. */
static void keep_choices(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    spc_gamma *g = &engine->gamma;
    bool drafts = false;

    g->learns = g->probing = false;
    for (int32_t k = 0; k < count; k++) {
        spc_session *s = sessions[k];
        bool plain = s->round_gamma == 0 && last_of(s) == SPC_LAST_NEVER;

        lane_of(s, &g->lane[k]);
        g->learns = g->learns || g->lane[k].least < g->lane[k].most;
        drafts = drafts || !plain;
        if (s->gamma != SPC_GAMMA_AUTO) continue;
        s->counters.chosen[s->round_gamma]++;
        s->choice.probe.idle += plain;
    }
    if (g->learns) g->drafting = drafts ? g->drafting + 1 : 0;
}

bool spc_gamma_stays(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    spc_gamma *g = &engine->gamma;

    if (!g->learns) return true;
    if (g->probing || g->drafting >= PLAIN_AFTER) return false;
    for (int32_t k = 0; k < count; k++) lane_of(sessions[k], &g->lane[k]);
    (void)spc_gamma_lengths(&g->times, g->lane, count);
    for (int32_t k = 0; k < count; k++) {
        if (g->lane[k].chosen != sessions[k]->round_gamma) return false;
    }
    for (int32_t k = 0; k < count; k++) {
        const spc_session *s = sessions[k];
        bool idle = g->lane[k].chosen == 0 && g->lane[k].last == SPC_LAST_NEVER;

        if (s->gamma == SPC_GAMMA_AUTO && idle && may_probe(engine, s, k, count)) return false;
    }
    return true;
}

spc_status spc_gamma_choose(spc_engine *engine, spc_session *const *sessions, int32_t count,
                            spc_error *err)
{
    spc_gamma *g = &engine->gamma;
    const spc_session *first = NULL;
    bool plain = false;

    if (sessions[0]->flies) {
        keep_choices(engine, sessions, count);
        return SPC_OK;
    }
    for (int32_t k = 0; k < count; k++) {
        lane_of(sessions[k], &g->lane[k]);
        if (!first && g->lane[k].least < g->lane[k].most) first = sessions[k];
    }
    g->learns = first != NULL;
    g->probing = false;
    if (first && !g->measured) {
        spc_status status = measure(engine, first, err);

        if (status != SPC_OK) return status;
        g->measured = true;
        tell(engine);
    }
    if (first) {
        (void)spc_gamma_lengths(&g->times, g->lane, count);
        plain = plain_is_due(g, count);
    }
    for (int32_t k = 0; k < count; k++) {
        if (sessions[k]->gamma == SPC_GAMMA_AUTO) take_choice(engine, sessions[k], k, count, plain);
        sessions[k]->round_gamma = g->lane[k].chosen;
    }
    return SPC_OK;
}
