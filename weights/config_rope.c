/* SPDX-License-Identifier: Apache-2.0 */
/* config_rope.c - rotary positions: which frequencies, and how they are stretched.
 *
 * Old files keep rope_theta and rope_scaling apart; new ones hold both in rope_parameters, once or
 * once for each type of layer, and where these have no rope_theta the old place counts, as in
 * transformers. */
#include "config_read.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool is_phi3(const spc_config *c)
{
    return strncmp(c->architecture, "Phi3", 4) == 0;
}

static bool is_ministral3(const spc_config *c)
{
    return strncmp(c->architecture, "Ministral3", 10) == 0;
}

/* Its name, or NULL where there is none: not stretched. */
static spc_status read_type(const spc_config_reader *r, const char **out)
{
    const char *key = "rope_type";
    const json_t *value = json_object_get(r->root, key);

    if (!value || json_is_null(value)) value = json_object_get(r->root, key = "type");
    *out = json_string_value(value);
    return value && !json_is_null(value) && !*out ? spc_config_wrong(r, key, "a name") : SPC_OK;
}

static spc_status read_linear(const spc_config_reader *r, spc_rope *rope)
{
    rope->kind = SPC_ROPE_LINEAR;
    return spc_config_number(r, "factor", 1, 1e6, -1, &rope->factor);
}

static spc_status read_llama3(const spc_config_reader *r, spc_rope *rope)
{
    spc_status s = spc_config_number(r, "factor", 1, 1e6, -1, &rope->factor);

    rope->kind = SPC_ROPE_LLAMA3;
    if (s == SPC_OK) {
        s = spc_config_number(r, "low_freq_factor", 1e-6, 1e6, -1, &rope->low_freq_factor);
    }
    if (s == SPC_OK) {
        s = spc_config_number(r, "high_freq_factor", 1e-6, 1e6, -1, &rope->high_freq_factor);
    }
    if (s == SPC_OK) {
        s = spc_config_size(r, "original_max_position_embeddings", 1, SPC_CONFIG_CONTEXT, -1,
                            &rope->original_context);
    }
    if (s == SPC_OK && !(rope->high_freq_factor > rope->low_freq_factor)) {
        return spc_config_wrong(r, "high_freq_factor", "more than low_freq_factor");
    }
    return s;
}

/* Factor on attention that yarn learns with: 0.1 m ln(factor) + 1. */
static double yarn_scale(double factor, double m)
{
    return factor > 1 ? 0.1 * m * log(factor) + 1 : 1;
}

/* A factor of 0 or none is the one computed from mscale and mscale_all_dim, or from neither. */
static spc_status read_yarn_attention(const spc_config_reader *r, spc_rope *rope)
{
    double m, all;
    spc_status s = spc_config_number(r, "attention_factor", 1e-6, 1e6, 0, &rope->attention);

    if (s == SPC_OK) s = spc_config_number(r, "mscale", 0, 1e6, 0, &m);
    if (s == SPC_OK) s = spc_config_number(r, "mscale_all_dim", 0, 1e6, 0, &all);
    if (s != SPC_OK || rope->attention > 0) return s;
    rope->attention = m > 0 && all > 0 ? yarn_scale(rope->factor, m) / yarn_scale(rope->factor, all)
                                       : yarn_scale(rope->factor, 1);
    return SPC_OK;
}

static spc_status read_yarn(const spc_config_reader *r, int32_t context, spc_rope *rope)
{
    spc_status s = spc_config_number(r, "factor", 1, 1e6, -1, &rope->factor);

    rope->kind = SPC_ROPE_YARN;
    if (s == SPC_OK) {
        s = spc_config_size(r, "original_max_position_embeddings", 1, SPC_CONFIG_CONTEXT, context,
                            &rope->original_context);
    }
    if (s == SPC_OK) s = spc_config_number(r, "beta_fast", 1e-6, 1e6, 32, &rope->beta_fast);
    if (s == SPC_OK) s = spc_config_number(r, "beta_slow", 1e-6, 1e6, 1, &rope->beta_slow);
    if (s == SPC_OK) s = spc_config_bool(r, "truncate", true, &rope->truncate);
    if (s == SPC_OK) s = read_yarn_attention(r, rope);
    if (s == SPC_OK && !(rope->beta_fast > rope->beta_slow)) {
        return spc_config_wrong(r, "beta_fast", "more than beta_slow");
    }
    return s;
}

/* A list of what frequencies are divided by: one for each pair of a head that turns. */
static spc_status read_divisors(const spc_config_reader *r, const char *key, int32_t pairs,
                                float *divisor)
{
    const json_t *list = json_object_get(r->root, key);
    char expected[64];

    (void)snprintf(expected, sizeof expected, "an array of %d numbers (one for each pair)",
                   (int)pairs);
    if (json_array_size(list) != (size_t)pairs || pairs > SPC_ROPE_PAIRS) {
        return spc_config_wrong(r, key, expected);
    }
    for (int32_t i = 0; i < pairs; i++) {
        double value = json_number_value(json_array_get(list, (size_t)i));

        if (!(value >= 1e-6 && value <= 1e6)) {
            return spc_config_wrong(r, key, "numbers of 1e-6 to 1e6");
        }
        divisor[i] = (float)value;
    }
    return SPC_OK;
}

/* longrope: divisors for contexts up to the original one, others beyond it; a factor on attention
 * by how much longer the longest context is. */
static spc_status read_long(const spc_config_reader *r, int32_t context, spc_rope *rope)
{
    double factor;
    spc_status s = read_divisors(r, "short_factor", rope->pairs, rope->divisor);

    rope->kind = SPC_ROPE_LONG;
    if (s == SPC_OK) s = read_divisors(r, "long_factor", rope->pairs, rope->long_divisor);
    if (s == SPC_OK) {
        s = spc_config_size(r, "original_max_position_embeddings", 2, SPC_CONFIG_CONTEXT,
                            rope->original_context > 0 ? rope->original_context : context,
                            &rope->original_context);
    }
    if (s == SPC_OK) {
        s = spc_config_number(r, "factor", 1e-6, 1e6, (double)context / rope->original_context,
                              &factor);
    }
    if (s == SPC_OK) s = spc_config_number(r, "attention_factor", 1e-6, 1e6, 0, &rope->attention);
    if (s == SPC_OK && !(rope->attention > 0)) {
        rope->attention =
            factor > 1 ? sqrt(1 + log(factor) / log((double)rope->original_context)) : 1;
    }
    return s;
}

/* How much of a head turns: all of it, or, of Phi-3's, a part; 0: the file does not say. */
static spc_status read_part(const spc_config_reader *r, const spc_config *c, spc_rope *rope)
{
    double part;
    spc_status s = spc_config_number(r, "partial_rotary_factor", 0, 1, 0, &part);
    int32_t turning = (int32_t)(c->head_dim * part);

    if (s != SPC_OK || part == 0) return s;
    if (turning < c->head_dim && !is_phi3(c)) {
        return spc_config_wrong(r, "partial_rotary_factor", "1 (the whole head turns)");
    }
    if (turning < 2 || turning % 2 != 0) {
        return spc_config_wrong(r, "partial_rotary_factor",
                                "so much of a head that an even number of entries turn");
    }
    rope->pairs = turning / 2;
    return SPC_OK;
}

/* Ministral 3: queries grow with the number of original contexts before them. */
static spc_status read_growth(const spc_config_reader *r, const spc_config *c, const char *kind,
                              spc_rope *rope)
{
    static const char key[] = "llama_4_scaling_beta";
    spc_status s = SPC_OK;

    if (is_ministral3(c)) s = spc_config_number(r, key, 0, 1e6, 0, &rope->query_growth);
    if (s == SPC_OK && rope->query_growth > 0 && (!kind || strcmp(kind, "yarn") != 0)) {
        return spc_config_wrong(r, key, "0 (the rope_type is not yarn)");
    }
    return s;
}

/* One set of frequencies from an object with its parameters. */
static spc_status read_rope(const spc_config_reader *r, const spc_config *c, spc_rope *rope)
{
    const char *kind;
    spc_status s = read_type(r, &kind);

    if (s == SPC_OK) s = read_part(r, c, rope);
    if (s == SPC_OK) s = read_growth(r, c, kind, rope);
    if (s != SPC_OK) return s;
    if (kind && (strcmp(kind, "longrope") == 0 ||
                 (is_phi3(c) && (strcmp(kind, "su") == 0 || strcmp(kind, "yarn") == 0)))) {
        return read_long(r, c->context, rope); /* Phi-3's first files call it so */
    }
    if (!kind || strcmp(kind, "default") == 0) return SPC_OK;
    /* dynamic stretches beyond max_position_embeddings only, which is where the context ends */
    if (strcmp(kind, "dynamic") == 0) return SPC_OK;
    if (strcmp(kind, "linear") == 0) return read_linear(r, rope);
    if (strcmp(kind, "llama3") == 0) return read_llama3(r, rope);
    if (strcmp(kind, "yarn") == 0) return read_yarn(r, c->context, rope);
    if (strcmp(kind, "spc_divisors") == 0) { /* weights/gguf_config.c writes them */
        rope->kind = SPC_ROPE_DIVISORS;
        return read_divisors(r, "divisors", rope->pairs, rope->divisor);
    }
    return spc_error_set(r->err, SPC_EMODEL,
                         "%s: rope_type: expected one of default, linear, dynamic, llama3, yarn, "
                         "longrope, found '%.40s'",
                         r->where, kind);
}

/* rope_parameters: {"full_attention": {...}, "sliding_attention": {...}} */
static spc_status read_by_layer(const spc_config_reader *r, spc_config *c)
{
    static const char *const names[] = {"full_attention", "sliding_attention"};
    spc_rope *ropes[] = {&c->rope, &c->local_rope};
    spc_status s = SPC_OK;

    c->local = true;
    for (int i = 0; i < 2 && s == SPC_OK; i++) {
        spc_config_reader inner = *r;

        s = spc_config_object(r, names[i], &inner.root);
        if (s == SPC_OK && !inner.root) s = spc_config_wrong(r, names[i], "an object");
        if (s == SPC_OK) {
            s = spc_config_number(&inner, "rope_theta", 1, 1e12, ropes[i]->theta, &ropes[i]->theta);
        }
        if (s == SPC_OK) s = read_rope(&inner, c, ropes[i]);
    }
    return s;
}

/* Base of the frequencies where a file has none. */
static double usual_theta(const spc_config *c)
{
    if (strncmp(c->architecture, "SmolLM3", 7) == 0) return 2e6;
    return strncmp(c->architecture, "Gemma3", 6) == 0 ? 1e6 : 1e4;
}

static spc_status read_ropes(const spc_config_reader *r, spc_config *c)
{
    const json_t *parameters, *scaling;
    spc_config_reader inner = *r;
    spc_status s = spc_config_object(r, "rope_parameters", &parameters);

    c->rope.attention = c->local_rope.attention = 1;
    c->rope.pairs = c->local_rope.pairs = c->head_dim / 2;
    c->local = strncmp(c->architecture, "Gemma3", 6) == 0;
    if (s == SPC_OK && is_phi3(c)) { /* older files say it here */
        s = read_part(r, c, &c->rope);
        if (s == SPC_OK) {
            s = spc_config_size(r, "original_max_position_embeddings", 2, SPC_CONFIG_CONTEXT, 4096,
                                &c->rope.original_context);
        }
    }
    if (s == SPC_OK) s = spc_config_object(r, "rope_scaling", &scaling);
    if (s == SPC_OK) {
        s = spc_config_number(r, "rope_theta", 1, 1e12, usual_theta(c), &c->rope.theta);
    }
    if (s == SPC_OK) {
        s = spc_config_number(r, "rope_local_base_freq", 1, 1e12, 1e4, &c->local_rope.theta);
    }
    if (s != SPC_OK) return s;
    if (parameters && scaling && !json_equal(parameters, scaling)) {
        return spc_error_set(r->err, SPC_EMODEL,
                             "%s: rope_parameters and rope_scaling: expected one of them, or two "
                             "that are equal: take out the one that does not hold",
                             r->where);
    }
    inner.root = parameters ? parameters : scaling;
    if (!inner.root && is_ministral3(c)) { /* its class stretches where a file does not say */
        return spc_config_wrong(r, "rope_parameters", "an object");
    }
    if (!inner.root) return SPC_OK;
    if (json_object_get(parameters, "full_attention")) return read_by_layer(&inner, c);
    if (parameters) {
        s = spc_config_number(&inner, "rope_theta", 1, 1e12, c->rope.theta, &c->rope.theta);
    }
    return s == SPC_OK ? read_rope(&inner, c, &c->rope) : s;
}

spc_status spc_config_read_ropes(const spc_config_reader *r, spc_config *c)
{
    spc_status s = read_ropes(r, c);

    /* what nobody asked for does not cost the quality of shorter texts */
    if (s == SPC_OK && c->rope.kind == SPC_ROPE_LONG && c->rope.original_context < c->context) {
        c->context = c->rope.original_context;
    }
    return s;
}
