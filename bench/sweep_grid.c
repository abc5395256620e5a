/* SPDX-License-Identifier: Apache-2.0 */
/* sweep_grid.c - from lists of rules, draft lengths, temperatures, top-p and seeds to points. */
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

typedef struct {
    char rule[ITEMS][SPC_RULE_TEXT_BYTES];
    double gamma[ITEMS], temperature[ITEMS], top_p[ITEMS], seed[ITEMS];
    int32_t rules, gammas, temperatures, top_ps, seeds;
} lists;

static bool has_gamma(const char *rule)
{
    spc_rule r;

    return spc_rule_parse(rule, &r, NULL) &&
           spc_rule_shape_of((spc_rule_kind)r.kind) != SPC_SHAPE_SEQUENTIAL;
}

/* The points of one temperature, top-p and seed. */
static void add_points(const lists *l, sweep_point common, sweep_grid *out)
{
    sweep_point base = common;

    (void)strcpy(base.rule, "verifier-only");
    out->point[out->count++] = base;
    for (int32_t r = 0; r < l->rules; r++) {
        if (strcmp(l->rule[r], "verifier-only") == 0) continue;
        for (int32_t g = 0; g < l->gammas; g++) {
            sweep_point p = common;

            if (g > 0 && !has_gamma(l->rule[r])) continue;
            (void)strcpy(p.rule, l->rule[r]);
            if (has_gamma(p.rule)) p.gamma = (int32_t)l->gamma[g];
            out->point[out->count++] = p;
        }
    }
}

spc_status sweep_grid_make(const sweep_axes *axes, sweep_grid *out, spc_error *err)
{
    lists *l = calloc(1, sizeof *l);
    spc_status status = SPC_ENOMEM;

    memset(out, 0, sizeof *out);
    if (!l) return spc_error_set(err, SPC_ENOMEM, "no memory for the grid");
    status = read_rules(axes->rules ? axes->rules : default_rules, l->rule, &l->rules, err);
    if (status == SPC_OK) {
        status = read_numbers(axes->gammas, "--gamma", 0, SPC_GAMMA_MAX, l->gamma, &l->gammas, err);
    }
    if (status == SPC_OK) {
        status = read_numbers(axes->temperatures, "--temperature", 0, 100, l->temperature,
                              &l->temperatures, err);
    }
    if (status == SPC_OK) {
        status = read_numbers(axes->top_ps, "--top-p", 0, 1, l->top_p, &l->top_ps, err);
    }
    if (status == SPC_OK) {
        status = read_numbers(axes->seeds, "--seed", 0, 1e15, l->seed, &l->seeds, err);
    }
    if (status == SPC_OK) {
        size_t most = (size_t)(l->rules + 1) * (size_t)l->gammas * (size_t)l->temperatures *
                      (size_t)l->top_ps * (size_t)l->seeds;

        out->point = calloc(most + 1, sizeof *out->point);
        if (!out->point) status = spc_error_set(err, SPC_ENOMEM, "no memory for the grid");
    }
    for (int32_t t = 0; t < l->temperatures && status == SPC_OK; t++) {
        for (int32_t p = 0; p < l->top_ps; p++) {
            for (int32_t s = 0; s < l->seeds; s++) {
                sweep_point common = {"",
                                      0,
                                      l->temperature[t],
                                      l->top_p[p],
                                      (int64_t)l->seed[s],
                                      axes->verify,
                                      axes->nucleus};

                add_points(l, common, out);
            }
        }
    }
    free(l);
    return status;
}

void sweep_point_key(const sweep_point *p, const char *data, const char *metric,
                     char key[SWEEP_KEY_BYTES])
{
    (void)snprintf(key, SWEEP_KEY_BYTES, "%s|%d|%.9g|%.9g|%lld|%d|%d|%s|%.100s", p->rule,
                   (int)p->gamma, p->temperature, p->top_p, (long long)p->seed, (int)p->verify,
                   (int)p->nucleus, metric, data);
}
