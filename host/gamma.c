/* SPDX-License-Identifier: Apache-2.0 */
/* gamma.c - draft lengths that are chosen: what rules/gamma.h is fed with, and what is made of its
 * choice.  Times come from gamma_times.c. */
#include "session.h"
#include "slots.h"

#include "rules/finish.h"

#include <string.h>

/* Sessions of an engine, all together, fade more slowly than one. */
#define ENGINE_FADE 0.996f
/* Rounds with drafts after which one without is due: its time must not grow stale, and at worst it
 * costs less than a hundredth. */
enum { PLAIN_AFTER = 128 };

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

void spc_gamma_accept(const spc_gamma *g, const spc_session *but, float *accept)
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
    spc_gamma_accept(&s->engine->gamma, s, g->prior);
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
static void weigh_lag(spc_session *s, spc_gamma_lane *lane)
{
    int32_t lag = lag_of(s->engine, s), held = spc_slots_holds(s, true);

    lane->lag = lag > 1 && lane->last == SPC_LAST_NEVER ? lag : 0;
    if (lane->lag == 0) return;
    if (held > s->length - 1 - lag) lane->lag = s->length - 1 - held;
    s->choice.lags_from = s->length - 1 - lane->lag;
    if (lag == s->length - 1) lane->lag += s->source_count; /* which an encoder reads */
    lane->left = spc_replies_left(&s->choice.replies, s->length - s->prompt, most_left(s));
}

/* Would the drafter read for both of them at first? */
static bool lag_together(const spc_gamma_lane *a, const spc_session *s, const spc_gamma_lane *b,
                         const spc_session *other)
{
    int32_t page = s->choice.lags_from / SPC_PAGE_TOKENS;

    if (a->lag == 0 || b->lag == 0 || s->source || other->source) return false;
    if (other->choice.lags_from / SPC_PAGE_TOKENS != page) return false;
    return s->page[page] == other->page[page];
}

/* Rows of its lag that another lacks too: whole pages that both have, in a row. */
static int32_t lag_in_common(const spc_session *s, const spc_session *other)
{
    int32_t at = s->choice.lags_from / SPC_PAGE_TOKENS, end = at;
    int32_t least = s->length < other->length ? s->length : other->length;

    while ((end + 1) * SPC_PAGE_TOKENS < least && s->page[end] == other->page[end]) end++;
    return end > at ? end * SPC_PAGE_TOKENS - s->choice.lags_from : 0;
}

/* What several lack one reads for all of them (share.c): each is charged its part.  Who else lacks
 * how much is told by the first of them. */
static void split_lag(spc_gamma *g, int32_t k, int32_t count)
{
    const spc_session *other = NULL;
    int32_t many = 1, common;

    for (int32_t i = 0; i < count; i++) {
        if (i == k || !lag_together(&g->lane[k], g->whose[k], &g->lane[i], g->whose[i])) continue;
        if (!other) other = g->whose[i];
        many++;
    }
    if (!other) return;
    common = lag_in_common(g->whose[k], other);
    g->lane[k].lag -= common - (common + many - 1) / many;
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

static void lanes_of(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    spc_gamma *g = &engine->gamma;

    for (int32_t k = 0; k < count; k++) {
        g->whose[k] = sessions[k];
        lane_of(sessions[k], &g->lane[k]);
    }
}

/* Those that the step under way feeds, behind the lanes of those that it runs: with them before
 * long.  Returns how many all are. */
static int32_t add_fed(spc_engine *engine, int32_t count)
{
    spc_gamma *g = &engine->gamma;

    for (int32_t i = 0; i < g->step_count; i++) {
        spc_session *s = g->step[i];

        if (!s->filling || s->finish != SPC_FINISH_RUNNING) continue;
        if (s->strategy != &spc_strategy_round) continue;
        g->whose[count] = s;
        lane_of(s, &g->lane[count]);
        count++;
    }
    return count;
}

/* Lengths of the lanes.  One that lags begins where that pays beside those, too, that are still
 * fed: the first of many to have read its prompt is not alone for long. */
static void choose_lengths(spc_engine *engine, int32_t count)
{
    spc_gamma *g = &engine->gamma;
    bool lags = false;
    int32_t all;

    for (int32_t k = 0; k < count; k++) lags = lags || g->lane[k].lag > 0;
    all = lags ? add_fed(engine, count) : count;
    for (int32_t k = 0; k < all && lags; k++) split_lag(g, k, all);
    if (all > count) (void)spc_gamma_lengths(&g->times, g->lane, all);
    for (int32_t k = 0; k < count && all > count; k++) {
        spc_gamma_lane *lane = &g->lane[k];

        if (lane->lag > 0 && lane->chosen == lane->least) lane->most = lane->least;
    }
    (void)spc_gamma_lengths(&g->times, g->lane, count);
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

/* Does a round tell how drafts fare?  Under bonus=step also one without any: it has that of its
 * last row. */
static bool hears_of_drafts(const spc_gamma_lane *lane)
{
    return lane->chosen > 0 || lane->last == SPC_LAST_STEP;
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
    if (hears_of_drafts(lane)) {
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
        g->lane[k].chosen = s->round_gamma;
        s->choice.probe.idle += !hears_of_drafts(&g->lane[k]);
    }
    if (g->learns) g->drafting = drafts ? g->drafting + 1 : 0;
}

bool spc_gamma_stays(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    spc_gamma *g = &engine->gamma;

    if (!g->learns) return true;
    if (g->probing || g->drafting >= PLAIN_AFTER) return false;
    lanes_of(engine, sessions, count);
    choose_lengths(engine, count);
    for (int32_t k = 0; k < count; k++) {
        if (g->lane[k].chosen != sessions[k]->round_gamma) return false;
    }
    for (int32_t k = 0; k < count; k++) {
        const spc_session *s = sessions[k];

        if (s->gamma == SPC_GAMMA_AUTO && !hears_of_drafts(&g->lane[k]) &&
            may_probe(engine, s, k, count))
            return false;
    }
    return true;
}

spc_status spc_gamma_choose(spc_engine *engine, spc_session *const *sessions, int32_t count,
                            spc_error *err)
{
    spc_gamma *g = &engine->gamma;
    const spc_session *first = NULL;
    bool plain = false;

    if (sessions[0]->in_flight) {
        keep_choices(engine, sessions, count);
        return SPC_OK;
    }
    lanes_of(engine, sessions, count);
    for (int32_t k = 0; k < count; k++) {
        if (!first && g->lane[k].least < g->lane[k].most) first = sessions[k];
    }
    g->learns = first != NULL;
    g->probing = false;
    if (first && !g->measured) {
        spc_status status = spc_gamma_measure(engine, first, err);

        if (status != SPC_OK) return status;
        g->measured = true;
        spc_gamma_tell(engine);
    }
    if (first) {
        choose_lengths(engine, count);
        plain = plain_is_due(g, count);
    }
    for (int32_t k = 0; k < count; k++) {
        if (sessions[k]->gamma == SPC_GAMMA_AUTO) take_choice(engine, sessions[k], k, count, plain);
        sessions[k]->round_gamma = g->lane[k].chosen;
    }
    return SPC_OK;
}
