/* SPDX-License-Identifier: Apache-2.0 */
/* truncate.h - top-k, top-p and min-p as one value threshold on a row.
 *
 * Each filter keeps an upper level set {z >= cut}: ties at the edge stay, and the set is a function
 * of the values alone.  The cut is found without sorting: logits map to ordered
 * 32-bit keys, and four levels of 256 bins narrow the key down.  A bin holds counts, or masses as
 * integers in units of 2^-40 of the largest weight: integers, so any order of adding gives the same
 * cut. */
#ifndef SPC_RULES_TRUNCATE_H
#define SPC_RULES_TRUNCATE_H

#include "round.h"

enum { SPC_CUT_LEVELS = 4, SPC_CUT_BINS = 256 };

/* Larger logit, larger key; -0 and +0 share one. */
SPC_FN uint32_t spc_key_of_logit(float logit)
{
    uint32_t bits = spc_float_bits(logit + 0.0f);

    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

SPC_FN float spc_logit_of_key(uint32_t key)
{
    return spc_bits_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

/* A weight in (0, 1] as an integer mass. */
SPC_FN uint64_t spc_mass_of(float weight)
{
    return (uint64_t)(weight * 1099511627776.0f);
}

/* The search for a cut: the keys still in question share the first 8 * level bits with prefix. */
typedef struct {
    uint32_t prefix;
    int32_t level;
    uint64_t above;  /* mass of all keys above those in question */
    uint64_t target; /* the set must hold at least this much */
} spc_cut;

SPC_FN spc_cut spc_cut_begin(uint64_t target)
{
    spc_cut c;

    c.prefix = 0;
    c.level = 0;
    c.above = 0;
    c.target = target > 0 ? target : 1;
    return c;
}

/* Bin of a key at the present level, or -1 when the key is out of question. */
SPC_FN int32_t spc_cut_bin(spc_cut c, uint32_t key)
{
    int32_t shift = 24 - 8 * c.level;

    if (c.level > 0 && (key ^ c.prefix) >> (shift + 8) != 0) return -1;
    return (int32_t)(key >> shift & 255u);
}

/* Go one level down into the bin in which the target is reached from above.  bins: [SPC_CUT_BINS].
 */
SPC_FN spc_cut spc_cut_descend(spc_cut c, const uint64_t *bins)
{
    int32_t bin = SPC_CUT_BINS - 1;

    while (bin > 0 && c.above + bins[bin] < c.target) {
        c.above += bins[bin];
        bin--;
    }
    c.prefix |= (uint32_t)bin << (24 - 8 * c.level);
    c.level++;
    return c;
}

/* How many levels tell the keys of a row apart: bf16 logits differ in their high halves only. */
SPC_FN int32_t spc_cut_levels(const spc_view *row)
{
    return row->logits.data && row->logits.type == SPC_LOGITS_BF16 && row->edits <= 0
               ? 2
               : SPC_CUT_LEVELS;
}

/* The key found after so many levels.  What was not searched is what bf16 leaves there: zeros, and
 * their complement in the key of a negative number. */
SPC_FN uint32_t spc_cut_key(spc_cut c)
{
    if (c.level == 2 && !(c.prefix & 0x80000000u)) return c.prefix | 0xffffu;
    return c.prefix;
}

/* The logit found; -inf when all keys together do not reach the target. */
SPC_FN float spc_cut_logit(spc_cut c)
{
    float logit = spc_logit_of_key(spc_cut_key(c));

    return logit == logit ? logit : -SPC_INFINITY; /* the search ended below all logits */
}

/* ---- the same search by other bins -----------------------------------------------------------
 *
 * Masses and counts being integers, the key that reaches the target from above is one and the same
 * whichever keys share a bin.  Who has the whole row begins between two keys that very likely
 * enclose the cut: few entries are in question then, they spread over many bins, and logits of bf16
 * are mostly told apart by the first level. */
typedef struct {
    uint32_t low, high; /* least and greatest key in question */
    int32_t shift;      /* a bin is 2^shift keys wide */
    int32_t half;       /* 1: keys are upper halves, all that tells logits of bf16 apart */
    uint64_t above;     /* mass of all keys above those in question */
    uint64_t target;    /* the set must hold at least this much; 0: not known yet */
} spc_search;

/* The present level of the search above. */
SPC_FN spc_search spc_cut_search(spc_cut c)
{
    spc_search s;

    s.low = c.prefix;
    s.high = c.prefix | 0xffffffffu >> 8 * c.level;
    s.shift = 24 - 8 * c.level;
    s.half = 0;
    s.above = c.above;
    s.target = c.target;
    return s;
}

SPC_FN uint32_t spc_search_key(const spc_search *s, float logit)
{
    return spc_key_of_logit(logit) >> (s->half ? 16 : 0);
}

SPC_FN float spc_search_logit(const spc_search *s, uint32_t key)
{
    if (s->half) key = key << 16 | (key & 0x8000u ? 0u : 0xffffu);
    return spc_logit_of_key(key);
}

/* Go on between two keys.  No logit has the key below that of 0, which -0 shares: as the upper end
 * it would be -0, and who compares logits with it would find those that are 0 once more. */
SPC_FN void spc_search_within(spc_search *s, uint32_t low, uint32_t high)
{
    if (low < high && high == spc_search_key(s, 0.0f) - 1u) high--;
    s->low = low;
    s->high = high;
    s->shift = 0;
    while ((high - low) >> s->shift >= (uint32_t)SPC_CUT_BINS) s->shift++;
}

/* Of a row with this maximum; low: a guess that the cut lies above it. */
SPC_FN spc_search spc_search_begin(const spc_view *row, float low, float max, uint64_t target)
{
    spc_search s;

    s.half = spc_cut_levels(row) == 2;
    s.above = 0;
    s.target = target;
    spc_search_within(&s, spc_search_key(&s, low), spc_search_key(&s, max));
    return s;
}

SPC_FN int32_t spc_search_bin(const spc_search *s, float logit)
{
    return (int32_t)((spc_search_key(s, logit) - s->low) >> s->shift);
}

/* Go into the bin in which the target is reached; above: mass of all keys above its own. */
SPC_FN void spc_search_enter(spc_search *s, int32_t bin, uint64_t above)
{
    uint32_t low = s->low + ((uint32_t)bin << s->shift), wide = (1u << s->shift) - 1u;

    s->above = above; /* of the last bin the end may lie beyond all keys */
    spc_search_within(s, low, wide < s->high - low ? low + wide : s->high);
}

/* The bins reach `above` together and not the target: go on below them.  false: nothing is left. */
SPC_FN bool spc_search_below(spc_search *s, uint64_t above)
{
    uint32_t bottom = spc_search_key(s, -SPC_INFINITY);

    if (s->low <= bottom) return false;
    s->above = above;
    spc_search_within(s, bottom, s->low - 1u);
    return true;
}

SPC_FN bool spc_search_found(const spc_search *s)
{
    return s->low == s->high;
}

/* No top-p cut lies below this: tokens further down weigh less than 1 - top_p together, and the
 * largest weighs 1.  (A little less, for rounding: it is a guess.) */
SPC_FN float spc_nucleus_floor(float max, float temperature, int32_t vocab, float top_p)
{
    return max - temperature * (spc_log((float)vocab) - spc_log(1.0f - top_p) + 1.0f);
}

/* A first guess for the cut of top-k. */
#define SPC_RANKED_FLOOR 10.0f

/* Mass that a nucleus must hold: the least integer that is at least top_p of the total.
 *
 * Of a row that top-k has not cut the total is the sum that its statistics hold already, as an
 * integer: one look at the row less.  Bins that round down may then miss a top_p next to 1 by a
 * hair, and everything is kept. */
SPC_FN uint64_t spc_nucleus_target(float top_p, uint64_t total)
{
    double wanted = (double)top_p * (double)total;
    uint64_t target = (uint64_t)wanted;

    return (double)target < wanted ? target + 1 : target;
}

/* min-p: least logit kept; log_min_p = ln(min_p), rounded once from double. */
SPC_FN float spc_min_p_cut(float max, float temperature, float log_min_p)
{
    return max + temperature * log_min_p;
}

#endif
