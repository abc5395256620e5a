/* SPDX-License-Identifier: Apache-2.0 */
/* gamma.h - how many tokens to draft: the lengths with the most tokens per time.
 *
 * A round of g drafts gives E(g) = 1 + a0 + a0 a1 + ... tokens, a_i being the chance that draft i
 * is kept given the ones before it, and takes the time of its forwards: one of the drafter for each
 * step, one of the verifier for all rows.  Both are measured; the rule of a sequence enters through
 * a_i alone.
 *
 * What a choice may look at: verdicts of finished rounds, what was kept, and time.  The random
 * numbers of a position are used again after a rejection in front of it, so a length that depends
 * on a draft which was discarded would lean on the coin that is still to fall, and bias the token.
 * Nothing here takes anything but counts of verdicts, lengths of texts and times. */
#ifndef SPC_RULES_GAMMA_H
#define SPC_RULES_GAMMA_H

#include "round.h"

/* ---- time of a forward by its rows ------------------------------------------------------------
 */

/* Points at 1, 2, 3, 4, 6, 8, 12, 16, 24, ... rows; straight lines between them. */
enum { SPC_PACE_POINTS = 34 };

typedef struct {
    float time[SPC_PACE_POINTS];   /* of a forward, any unit */
    int32_t idle[SPC_PACE_POINTS]; /* times learnt since the last near this point, at most
                                      SPC_PACE_IDLE */
    int32_t seen;                  /* times learnt, at most SPC_PACE_IDLE */
} spc_pace;

enum { SPC_PACE_IDLE = 64 };

SPC_FN int32_t spc_pace_rows(int32_t point)
{
    if (point < 2) return point + 1;
    return (point & 1 ? 4 : 3) << ((point - 2) / 2);
}

/* The last point at or below so many rows. */
SPC_FN int32_t spc_pace_below(int32_t rows)
{
    int32_t point = 0;

    while (point + 1 < SPC_PACE_POINTS && spc_pace_rows(point + 1) <= rows) point++;
    return point;
}

/* Time of a forward of so many rows; 0: of none. */
SPC_FN float spc_pace_at(const spc_pace *pace, int32_t rows)
{
    int32_t low = spc_pace_below(rows), high = low + 1;

    if (rows < 1) return 0.0f;
    if (high == SPC_PACE_POINTS) return pace->time[low];

    float part =
        (float)(rows - spc_pace_rows(low)) / (float)(spc_pace_rows(high) - spc_pace_rows(low));

    return pace->time[low] + part * (pace->time[high] - pace->time[low]);
}

/* Lay the curve through measured times, rising number of rows, and go on behind the last as between
 * the last two: time [count], rows [count], count >= 1, rows[0] = 1. */
SPC_FN void spc_pace_lay(spc_pace *pace, const int32_t *rows, const float *time, int32_t count)
{
    int32_t k = 0;

    for (int32_t point = 0; point < SPC_PACE_POINTS; point++) {
        int32_t at = spc_pace_rows(point);

        while (k + 2 < count && rows[k + 1] <= at) k++;

        float slope = 0.0f;

        if (count > 1) slope = (time[k + 1] - time[k]) / (float)(rows[k + 1] - rows[k]);
        if (slope < 0.0f) slope = 0.0f;
        pace->time[point] = time[k] + slope * (float)(at - rows[k]);
        pace->idle[point] = 0;
    }
    pace->seen = 0;
}

/* One more time of a forward of so many rows.  Its neighbours follow it by an eighth of the
 * difference and the whole curve by a sixteenth (longer caches, a busier machine slow all of them),
 * by more as long as little has been seen, and near points by up to a half that were not seen for
 * long.  Longer times count a quarter: other programs that run in between make some rounds long and
 * none short, and a hiccup counts as twice the time at most.  More rows never take less time. */
SPC_FN void spc_pace_learn(spc_pace *pace, int32_t rows, float time)
{
    float known = spc_pace_at(pace, rows), ratio = known > 0.0f ? time / known : 1.0f;
    float share = 1.0f / (float)(pace->seen + 2);
    float near = share > 1.0f / 8.0f ? share : 1.0f / 8.0f;
    int32_t low = spc_pace_below(rows);

    if (rows < 1 || !(time > 0.0f)) return;
    if (ratio > 2.0f) ratio = 2.0f;
    if (ratio > 1.0f) ratio = 1.0f + (ratio - 1.0f) / 4.0f;
    for (int32_t point = 0; point < SPC_PACE_POINTS; point++) {
        bool is_near = point == low || (point == low + 1 && spc_pace_rows(low) < rows);
        float stale = (float)pace->idle[point] / (2.0f * (float)SPC_PACE_IDLE);
        float part = !is_near ? near / 2.0f : stale > near ? stale : near;

        pace->time[point] *= 1.0f + part * (ratio - 1.0f);
        pace->idle[point] += pace->idle[point] < SPC_PACE_IDLE ? 1 : 0;
        if (is_near) pace->idle[point] = 0;
    }
    for (int32_t point = low; point > 0; point--) {
        if (pace->time[point - 1] > pace->time[point]) pace->time[point - 1] = pace->time[point];
    }
    for (int32_t point = low + 1; point < SPC_PACE_POINTS; point++) {
        if (pace->time[point] < pace->time[point - 1]) pace->time[point] = pace->time[point - 1];
    }
    if (pace->seen < SPC_PACE_IDLE) pace->seen++;
}

/* ---- acceptance by draft position -------------------------------------------------------------
 */

/* Verdicts on draft i, the latest counting most. */
typedef struct {
    float kept[SPC_GAMMA_MAX];
    float judged[SPC_GAMMA_MAX];
} spc_verdicts;

/* What every verdict leaves of those before it: about 32 of them count. */
#define SPC_VERDICTS_FADE 0.96875f
/* Verdicts that a prior is worth. */
#define SPC_PRIOR_VERDICTS 4.0f

/* A finished round: drafts 0 .. judged - 1 reached a verdict, the first `kept` were kept. */
SPC_FN void spc_verdicts_add(spc_verdicts *v, int32_t judged, int32_t kept, float fade)
{
    for (int32_t i = 0; i < judged && i < SPC_GAMMA_MAX; i++) {
        v->kept[i] = v->kept[i] * fade + (i < kept ? 1.0f : 0.0f);
        v->judged[i] = v->judged[i] * fade + 1.0f;
    }
}

/* Chance that draft i is kept given the ones before it, for every i: what was seen, next to a prior
 * [SPC_GAMMA_MAX].  Where little was seen, a position differs from the prior as the one before it
 * does. */
SPC_FN void spc_verdicts_accept(const spc_verdicts *v, const float *prior, float *accept)
{
    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) {
        float base = prior[i];

        if (i > 0 && prior[i - 1] > 0.0f) base *= accept[i - 1] / prior[i - 1];
        if (base > 1.0f) base = 1.0f;
        accept[i] = (v->kept[i] + SPC_PRIOR_VERDICTS * base) / (v->judged[i] + SPC_PRIOR_VERDICTS);
    }
}

/* By how much more often first drafts may be kept than is known, where nothing is: only trying
 * tells. */
#define SPC_ACCEPT_HOPE 0.25f
/* Verdicts that leave half of the hope. */
#define SPC_HOPE_VERDICTS 8.0f

/* The chance of first drafts by which is chosen, `judged` verdicts on them being known: else one
 * that happens to be rejected would be the last. */
SPC_FN float spc_accept_hope(float accept, float judged)
{
    accept += SPC_ACCEPT_HOPE * SPC_HOPE_VERDICTS / (SPC_HOPE_VERDICTS + judged);
    return accept < 1.0f ? accept : 1.0f;
}

/* E(g): tokens that a round of g drafts is expected to give. */
SPC_FN float spc_gamma_tokens(const float *accept, int32_t g)
{
    float tokens = 1.0f, all = 1.0f;

    for (int32_t i = 0; i < g; i++) {
        all *= accept[i];
        tokens += all;
    }
    return tokens;
}

/* ---- the choice -------------------------------------------------------------------------------
 */

/* When the drafter's row behind the last draft runs. */
typedef enum {
    SPC_LAST_NEVER, /* strict */
    SPC_LAST_LATE,  /* when all drafts were kept; always without drafts */
    SPC_LAST_STEP   /* always: it is a draft too */
} spc_last;

/* One sequence of a step. */
typedef struct {
    float accept[SPC_GAMMA_MAX];
    int32_t least, most; /* draft lengths allowed; equal: nothing is chosen */
    int32_t before;      /* the length chosen last; -1: none yet */
    int32_t last;        /* spc_last */
    int32_t lag;     /* rows the drafter must run before it can draft; 0: those of every round */
    float left;      /* tokens that are expected to come; read where it lags */
    int32_t chosen;  /* out */
    int32_t planned; /* chosen, were it not for the lag */
} spc_gamma_lane;

typedef struct {
    spc_pace drafter;  /* one step: a forward, and drawing from its rows */
    spc_pace verifier; /* scoring, verification, and what else a round takes */
    float catch_up;    /* time of one row of the drafter among many whose logits nobody wants */
} spc_gamma_times;

/* A change of lengths must promise so much more. */
#define SPC_GAMMA_HYSTERESIS 1.03f

/* Time of a round with the lengths in `chosen`. */
SPC_FN float spc_gamma_time(const spc_gamma_times *times, const spc_gamma_lane *lane, int32_t count)
{
    float time = 0.0f, late = 0.0f;
    int32_t rows = 0;

    for (int32_t i = 0; i <= SPC_GAMMA_MAX; i++) {
        int32_t drafting = 0;

        for (int32_t k = 0; k < count; k++) {
            drafting += i < lane[k].chosen + (lane[k].last == SPC_LAST_STEP ? 1 : 0);
        }
        if (drafting == 0) break;
        time += spc_pace_at(&times->drafter, drafting);
    }
    for (int32_t k = 0; k < count; k++) {
        int32_t g = lane[k].chosen;

        rows += g + 1;
        if (lane[k].last == SPC_LAST_LATE) {
            late += spc_gamma_tokens(lane[k].accept, g) -
                    (g > 0 ? spc_gamma_tokens(lane[k].accept, g - 1) : 0.0f);
        }
    }
    time += spc_pace_at(&times->verifier, rows);
    if (late < 1.0f) return time + late * spc_pace_at(&times->drafter, 1);
    return time + spc_pace_at(&times->drafter, (int32_t)(late + 0.5f));
}

/* Expected tokens per time with the lengths in `chosen`. */
SPC_FN float spc_gamma_rate(const spc_gamma_times *times, const spc_gamma_lane *lane, int32_t count)
{
    float tokens = 0.0f;

    for (int32_t k = 0; k < count; k++) tokens += spc_gamma_tokens(lane[k].accept, lane[k].chosen);
    return tokens / spc_gamma_time(times, lane, count);
}

/* Lengths of at most `depth`, each no longer than the last draft that is expected to be worth its
 * rows: `worth` tokens. */
SPC_FN void spc_gamma_assign(spc_gamma_lane *lane, int32_t count, int32_t depth, float worth)
{
    for (int32_t k = 0; k < count; k++) {
        float all = 1.0f;
        int32_t g = 0;

        for (; g < depth && g < lane[k].most; g++) {
            all *= lane[k].accept[g];
            if (all < worth && g >= lane[k].least) break;
        }
        lane[k].chosen = g > lane[k].least ? g : lane[k].least;
    }
}

/* Tokens that a draft must promise to be worth its two rows, in a round that gives `rate` tokens
 * per time whoever drafts: what the rows add to forwards that run anyway. */
SPC_FN float spc_gamma_worth(const spc_gamma_times *times, int32_t count, int32_t depth, float rate)
{
    int32_t rows = count * (depth + 1);
    float scored = spc_pace_at(&times->verifier, rows) - spc_pace_at(&times->verifier, count);
    float drawn = spc_pace_at(&times->drafter, count) - spc_pace_at(&times->drafter, 1);

    if (count < 2 || depth < 1) return 0.0f;
    return rate * (scored / (float)(rows - count) + drawn / (float)(count - 1));
}

/* Lengths for the most tokens per time in the rounds to come, whatever it takes to begin: every
 * depth is tried, and within it each sequence drafts while that is worth its rows. */
SPC_FN void spc_gamma_fastest(const spc_gamma_times *times, spc_gamma_lane *lane, int32_t count)
{
    float best = 0.0f, worth = 0.0f, kept;
    int32_t deepest = 0, depth = 0;
    bool known = true;

    for (int32_t k = 0; k < count; k++) {
        if (lane[k].most > deepest) deepest = lane[k].most;
        known = known && (lane[k].before >= 0 || lane[k].least == lane[k].most);
    }
    for (int32_t d = 0; d <= deepest; d++) {
        float need = spc_gamma_worth(times, count, d, best), rate;

        spc_gamma_assign(lane, count, d, need);
        rate = spc_gamma_rate(times, lane, count);
        if (rate <= best) continue;
        best = rate;
        depth = d;
        worth = need;
    }
    for (int32_t k = 0; known && k < count; k++) {
        int32_t g = lane[k].before < lane[k].most ? lane[k].before : lane[k].most;

        lane[k].chosen = g > lane[k].least ? g : lane[k].least;
    }
    kept = known ? spc_gamma_rate(times, lane, count) : 0.0f;
    if (best > kept * SPC_GAMMA_HYSTERESIS) spc_gamma_assign(lane, count, depth, worth);
}

/* A drafter that lags runs what it lacks first, all of a prompt perhaps: that must be paid for by
 * what its sequence still has to come.  Sequences whose drafts are worth less do not begin.  What
 * they save together is shared equally between them. */
SPC_FN void spc_gamma_weigh_lag(const spc_gamma_times *times, spc_gamma_lane *lane, int32_t count)
{
    float with = spc_gamma_rate(times, lane, count), time = spc_gamma_time(times, lane, count);
    int32_t lagging = 0;

    for (int32_t k = 0; k < count; k++) {
        spc_gamma_lane *l = &lane[k];

        l->planned = l->chosen;
        if (l->lag == 0 || l->chosen == l->least) continue;
        l->chosen = l->least;
        lagging++;
    }
    if (lagging == 0) return;

    float without = spc_gamma_rate(times, lane, count);
    float saved = time * (with / without - 1.0f) / (float)lagging; /* in a round */

    for (int32_t k = 0; k < count; k++) {
        spc_gamma_lane *l = &lane[k];
        float rounds = l->left / spc_gamma_tokens(l->accept, l->planned);

        if (rounds * saved > (float)l->lag * times->catch_up) l->chosen = l->planned;
    }
}

/* Choose the lengths of a round of `count` sequences together.  Returns the expected rate. */
SPC_FN float spc_gamma_lengths(const spc_gamma_times *times, spc_gamma_lane *lane, int32_t count)
{
    spc_gamma_fastest(times, lane, count);
    spc_gamma_weigh_lag(times, lane, count);
    return spc_gamma_rate(times, lane, count);
}

/* ---- length of replies ------------------------------------------------------------------------
 */

/* Tokens of sequences that have ended, the latest counting most. */
typedef struct {
    float tokens, ended;
} spc_replies;

/* Tokens of a reply where none has ended yet; it counts as one. */
#define SPC_REPLY_PRIOR 256.0f
/* What every end leaves of those before it. */
#define SPC_REPLIES_FADE 0.96875f

SPC_FN void spc_replies_add(spc_replies *r, int32_t tokens)
{
    r->tokens = r->tokens * SPC_REPLIES_FADE + (float)tokens;
    r->ended = r->ended * SPC_REPLIES_FADE + 1.0f;
}

/* Tokens that a sequence has still to come, `written` of them being there and `most` allowed: those
 * of a whole reply, as the chance to end is about the same at every token; and as many as are
 * there, since who has written so much is not like the others. */
SPC_FN float spc_replies_left(const spc_replies *r, int32_t written, int32_t most)
{
    float left = (r->tokens + SPC_REPLY_PRIOR) / (r->ended + 1.0f);

    if (left < (float)written) left = (float)written;
    return left < (float)most ? left : (float)most;
}

/* ---- probes -----------------------------------------------------------------------------------
 */

/* A sequence that does not draft tries again after so many rounds, twice as many after every try
 * that changed nothing. */
enum { SPC_PROBE_FIRST = 16, SPC_PROBE_LAST = 256, SPC_PROBE_DRAFTS = 2 };

/* Share of all time that tries may take. */
#define SPC_PROBE_SHARE 0.01f

typedef struct {
    int32_t idle;  /* rounds since the last draft */
    int32_t every; /* rounds between tries */
} spc_probe;

SPC_FN int32_t spc_probe_next(int32_t every)
{
    return every * 2 < SPC_PROBE_LAST ? every * 2 : SPC_PROBE_LAST;
}

#endif
