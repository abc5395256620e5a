/* SPDX-License-Identifier: Apache-2.0 */
/* sweep_grid.c - from lists of rules, draft lengths, batches and ways to sample to points. */
#include "bench/sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ten methods of the paper and their baselines, five numbers each where they have one.  truncate is
 * the verifier alone on token-v3's own set: the fair baseline of token-v3. */
static const char default_rules[] =
    "drafter-only;strict;"
    "lossy:alpha=0.1;lossy:alpha=0.3;lossy:alpha=0.5;lossy:alpha=0.7;lossy:alpha=0.9;"
    "chow:alpha=0.3;chow:alpha=0.5;chow:alpha=0.7;chow:alpha=0.8;chow:alpha=0.9;"
    "diff:alpha=-0.2;diff:alpha=0;diff:alpha=0.1;diff:alpha=0.3;diff:alpha=0.5;"
    "opt:alpha=-0.5;opt:alpha=-0.2;opt:alpha=0;opt:alpha=0.2;opt:alpha=0.5;"
    "token-v1:alpha=0;token-v1:alpha=0.1;token-v1:alpha=0.2;token-v1:alpha=0.4;token-v1:alpha=0.6;"
    "token-v2:alpha=0;token-v2:alpha=0.1;token-v2:alpha=0.2;token-v2:alpha=0.4;token-v2:alpha=0.6;"
    "token-v3:alpha=0;token-v3:alpha=0.3;token-v3:alpha=0.5;token-v3:alpha=0.7;token-v3:alpha=0.9;"
    "truncate:alpha=0;truncate:alpha=0.3;truncate:alpha=0.5;truncate:alpha=0.7;truncate:alpha=0.9;"
    "bild:alpha=0.5;bild:alpha=1;bild:alpha=2;bild:alpha=3;bild:alpha=5;"
    "token-chow:alpha=0.3;token-chow:alpha=0.5;token-chow:alpha=0.7;token-chow:alpha=0.8;"
    "token-chow:alpha=0.9;"
    "seq-chow:alpha=0.2;seq-chow:alpha=0.3;seq-chow:alpha=0.4;seq-chow:alpha=0.5;seq-chow:alpha=0."
    "6";

enum { ITEMS = 256 };

void sweep_grid_free(sweep_grid *grid)
{
    free(grid->point);
    free(grid->seed);
    memset(grid, 0, sizeof *grid);
}

/* Cut a copy of a list at the separators. */
static spc_status cut_list(const char *list, char separator, const char *what, char **copy,
                           const char *items[ITEMS], int32_t *count, spc_error *err)
{
    *count = 0;
    *copy = strdup(list);
    if (!*copy) return spc_error_set(err, SPC_ENOMEM, "no memory for the grid");
    for (char *at = *copy; at; *count += 1) {
        char *end = strchr(at, separator);

        if (*count == ITEMS) {
            return spc_error_set(err, SPC_EUSAGE, "%s: more than %d items", what, ITEMS);
        }
        if (end) *end++ = '\0';
        items[*count] = at;
        at = end;
    }
    return SPC_OK;
}

static spc_status read_numbers(const char *list, const char *what, double low, double high,
                               double out[ITEMS], int32_t *count, spc_error *err)
{
    const char *items[ITEMS];
    char *copy;
    spc_status status = cut_list(list, ',', what, &copy, items, count, err);

    for (int32_t i = 0; i < *count && status == SPC_OK; i++) {
        char *end;

        out[i] = strtod(items[i], &end);
        if (end != items[i] && !*end && out[i] >= low && out[i] <= high) continue;
        status = spc_error_set(err, SPC_EUSAGE, "%s: expected numbers of %g to %g, found '%s'",
                               what, low, high, items[i]);
    }
    free(copy);
    return status;
}

/* Rules in canonical form. */
static spc_status read_rules(const char *list, char out[ITEMS][SPC_RULE_TEXT_BYTES], int32_t *count,
                             spc_error *err)
{
    const char *items[ITEMS];
    char *copy, message[SPC_RULE_MESSAGE_BYTES];
    spc_status status = cut_list(list, ';', "--rules", &copy, items, count, err);

    for (int32_t i = 0; i < *count && status == SPC_OK; i++) {
        spc_rule rule;

        if (spc_rule_parse(items[i], &rule, message)) {
            spc_rule_format(&rule, out[i]);
        } else {
            status = spc_error_set(err, SPC_ERULE, "--rules: %s", message);
        }
    }
    free(copy);
    return status;
}

/* An axis of numbers. */
typedef struct {
    double at[ITEMS];
    int32_t count;
} axis;

typedef struct {
    char rule[ITEMS][SPC_RULE_TEXT_BYTES];
    int32_t rules;
    axis gamma, batch, temperature, top_p, top_k, min_p, seed;
} lists;

static spc_status read_axis(const char *list, const char *what, double low, double high, bool whole,
                            axis *out, spc_error *err)
{
    spc_status status = read_numbers(list, what, low, high, out->at, &out->count, err);

    for (int32_t i = 0; i < out->count && whole && status == SPC_OK; i++) {
        if (out->at[i] == (double)(int64_t)out->at[i]) continue;
        status = spc_error_set(err, SPC_EUSAGE, "%s: expected whole numbers, found %g", what,
                               out->at[i]);
    }
    return status;
}

/* The same texts twice would pass for a second seed's, and for a spread that is too small. */
static spc_status check_seeds(const axis *seeds, spc_error *err)
{
    for (int32_t i = 0; i < seeds->count; i++) {
        for (int32_t k = 0; k < i; k++) {
            if (seeds->at[i] != seeds->at[k]) continue;
            return spc_error_set(err, SPC_EUSAGE, "--seed: %.0f stands there twice", seeds->at[i]);
        }
    }
    return SPC_OK;
}

static spc_status read_seeds(const sweep_axes *a, axis *out, spc_error *err)
{
    spc_status status;

    if (a->seed_list && a->seed_count) {
        return spc_error_set(err, SPC_EUSAGE, "--seed is a list and --seeds a count: give one");
    }
    if (!a->seed_count) {
        status = read_axis(a->seed_list ? a->seed_list : "0", "--seed", 0, 1e15, true, out, err);
        return status == SPC_OK ? check_seeds(out, err) : status;
    }
    status = read_axis(a->seed_count, "--seeds", 1, ITEMS, true, out, err);
    if (status != SPC_OK) return status;
    if (out->count > 1) {
        return spc_error_set(err, SPC_EUSAGE, "--seeds: expected one count; a list is --seed %s",
                             a->seed_count);
    }
    out->count = (int32_t)out->at[0];
    for (int32_t i = 0; i < out->count; i++) out->at[i] = i;
    return SPC_OK;
}

static spc_status read_axes(const sweep_axes *a, lists *l, spc_error *err)
{
    const struct {
        const char *list, *what;
        double low, high;
        bool whole;
        axis *out;
    } axes[] = {
        {a->gammas, "--gamma", 0, SPC_GAMMA_MAX, true, &l->gamma},
        {a->batches, "--batch", 1, SWEEP_BATCH_MAX, true, &l->batch},
        {a->temperatures, "--temperature", 0, 100, false, &l->temperature},
        {a->top_ps, "--top-p", 1e-6, 1, false, &l->top_p},
        {a->top_ks, "--top-k", 0, INT32_MAX, true, &l->top_k},
        {a->min_ps, "--min-p", 0, 1, false, &l->min_p},
    };
    spc_status status = read_rules(a->rules ? a->rules : default_rules, l->rule, &l->rules, err);

    for (size_t i = 0; i < sizeof axes / sizeof *axes && status == SPC_OK; i++) {
        status = read_axis(axes[i].list, axes[i].what, axes[i].low, axes[i].high, axes[i].whole,
                           axes[i].out, err);
    }
    return status == SPC_OK ? read_seeds(a, &l->seed, err) : status;
}

static bool has_gamma(const char *rule)
{
    spc_rule r;

    return spc_rule_parse(rule, &r, NULL) &&
           spc_rule_shape_of((spc_rule_kind)r.kind) != SPC_SHAPE_SEQUENTIAL;
}

/* The points of one batch, temperature and truncation. */
static void add_points(const lists *l, sweep_point common, sweep_grid *out)
{
    sweep_point base = common;

    (void)strcpy(base.rule, "verifier-only");
    out->point[out->count++] = base;
    for (int32_t r = 0; r < l->rules; r++) {
        if (strcmp(l->rule[r], "verifier-only") == 0) continue;
        for (int32_t g = 0; g < l->gamma.count; g++) {
            sweep_point p = common;

            if (g > 0 && !has_gamma(l->rule[r])) continue;
            (void)strcpy(p.rule, l->rule[r]);
            if (has_gamma(p.rule)) p.gamma = (int32_t)l->gamma.at[g];
            out->point[out->count++] = p;
        }
    }
}

/* All conditions: batches outermost, then temperatures, top-p, top-k, min-p. */
static void add_conditions(const lists *l, const sweep_axes *axes, int32_t conditions,
                           sweep_grid *out)
{
    const axis *all[] = {&l->min_p, &l->top_k, &l->top_p, &l->temperature, &l->batch};

    for (int32_t c = 0; c < conditions; c++) {
        double at[5];
        int32_t rest = c;

        for (int32_t i = 0; i < 5; i++) {
            at[i] = all[i]->at[rest % all[i]->count];
            rest /= all[i]->count;
        }
        add_points(l,
                   (sweep_point){"", 0, (int32_t)at[4], at[3], at[2], at[0], (int32_t)at[1],
                                 axes->verify, axes->nucleus, axes->bonus},
                   out);
        if ((int32_t)at[4] > out->batch) out->batch = (int32_t)at[4];
    }
}

static spc_status fill_grid(const lists *l, const sweep_axes *axes, sweep_grid *out, spc_error *err)
{
    double conditions = (double)l->batch.count * l->temperature.count * l->top_p.count *
                        l->top_k.count * l->min_p.count;
    double most = conditions * (l->rules * l->gamma.count + 1.0);

    if (most > SWEEP_POINTS_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "the grid has %.0f points, more than %d", most,
                             (int)SWEEP_POINTS_MAX);
    }
    out->point = calloc((size_t)most, sizeof *out->point);
    out->seed = calloc((size_t)l->seed.count, sizeof *out->seed);
    if (!out->point || !out->seed) {
        return spc_error_set(err, SPC_ENOMEM, "no memory for the grid");
    }
    out->seeds = l->seed.count;
    for (int32_t i = 0; i < l->seed.count; i++) out->seed[i] = (int64_t)l->seed.at[i];
    add_conditions(l, axes, (int32_t)conditions, out);
    return SPC_OK;
}

spc_status sweep_grid_make(const sweep_axes *axes, sweep_grid *out, spc_error *err)
{
    lists *l = calloc(1, sizeof *l);
    spc_status status;

    memset(out, 0, sizeof *out);
    if (!l) return spc_error_set(err, SPC_ENOMEM, "no memory for the grid");
    if (axes->verify == SPC_VERIFY_BLOCK && axes->bonus == SPC_BONUS_STEP) {
        status = spc_error_set(err, SPC_EUSAGE,
                               "--bonus step: block verification has none; choose target or "
                               "verifier");
    } else {
        status = read_axes(axes, l, err);
    }
    if (status == SPC_OK) status = fill_grid(l, axes, out, err);
    free(l);
    if (status != SPC_OK) sweep_grid_free(out);
    return status;
}

const char *const sweep_bonuses[SWEEP_BONUSES] = {"target", "verifier", "step"};

/* Of what most sweeps leave as it is only the deviation is named. */
void sweep_point_key(const sweep_point *p, char key[SWEEP_KEY_BYTES])
{
    const bool target = p->bonus == SPC_BONUS_TARGET;

    (void)snprintf(
        key, SWEEP_KEY_BYTES, "%s gamma=%d batch=%d T=%.9g top-p=%.9g top-k=%d min-p=%.9g %s%s%s%s",
        p->rule, (int)p->gamma, (int)p->batch, p->temperature, p->top_p, (int)p->top_k, p->min_p,
        p->verify == SPC_VERIFY_BLOCK ? "block" : "token", p->nucleus ? "" : " no-nucleus",
        target ? "" : " bonus-", target ? "" : sweep_bonuses[p->bonus]);
}
