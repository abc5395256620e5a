/* SPDX-License-Identifier: Apache-2.0 */
/* processor.c - bias, penalties and masks of one session, as edits of its rows (rules/edit.h).
 *
 * Both models' rows are edited alike, drafts counting as written in the rows behind them: rules see
 * edited rows, and the law of a session is the target distribution of these. */
#include "processor.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Beyond these a penalty is a mistake: logits are some tens apart, and divided by less they may be
 * infinite. */
#define LEAST_REPETITION 1e-4f
#define MOST_REPETITION  100.0f
#define MOST_PENALTY     100.0f

/* A token with a bias, or one that ends the sequence. */
typedef struct {
    int32_t token;
    float bias;
    bool ends;
} special;

struct spc_processor {
    int32_t vocab;
    special *special; /* [specials] by token, each once */
    int32_t specials;
    int32_t least; /* tokens before one that ends may come */
    float repetition, presence, frequency;
    spc_mask_fn on_mask;
    void *user;
    uint32_t *mask; /* [words] with on_mask */
    int32_t prompt, length;

    /* with penalties; else NULL */
    int32_t *seen;     /* [vocab] times in prompt and output */
    int32_t *written;  /* [vocab] times in the output */
    int32_t *distinct; /* [distincts] those seen, by when they were first */
    int32_t distincts;
};

/* ---- options ----------------------------------------------------------------------------------
 */

static bool penalises(const spc_session_options *o)
{
    return o->repetition_penalty != 1 || o->presence_penalty != 0 || o->frequency_penalty != 0;
}

static spc_status check_penalty(const char *name, float value, spc_error *err)
{
    if (value >= -MOST_PENALTY && value <= MOST_PENALTY) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE, "%s: expected %g to %g, 0 for none, found %g", name,
                         (double)-MOST_PENALTY, (double)MOST_PENALTY, (double)value);
}

static spc_status check_bias(const spc_session_options *o, spc_error *err)
{
    if (o->logit_bias_count < 0 || o->logit_bias_count > SPC_LOGIT_BIAS_MAX) {
        return spc_error_set(err, SPC_EUSAGE, "logit-bias: expected 0 to %d tokens, found %d",
                             SPC_LOGIT_BIAS_MAX, (int)o->logit_bias_count);
    }
    if (o->logit_bias_count > 0 && !o->logit_bias) {
        return spc_error_set(err, SPC_EUSAGE, "logit_bias: expected %d entries, found NULL",
                             (int)o->logit_bias_count);
    }
    for (int32_t i = 0; i < o->logit_bias_count; i++) {
        const spc_logit_bias *b = &o->logit_bias[i];

        if (!(b->bias < INFINITY)) { /* NaN is not */
            return spc_error_set(
                err, SPC_EUSAGE,
                "logit-bias of token %d: expected a finite number or -inf, found %g", (int)b->token,
                (double)b->bias);
        }
        for (int32_t before = 0; before < i; before++) {
            if (o->logit_bias[before].token != b->token) continue;
            return spc_error_set(err, SPC_EUSAGE, "logit-bias: token %d is there twice",
                                 (int)b->token);
        }
    }
    return SPC_OK;
}

spc_status spc_processor_check(const spc_session_options *o, spc_error *err)
{
    spc_status status = check_bias(o, err);

    if (status == SPC_OK &&
        !(o->repetition_penalty >= LEAST_REPETITION && o->repetition_penalty <= MOST_REPETITION)) {
        status = spc_error_set(
            err, SPC_EUSAGE, "repetition-penalty: expected %.4g to %g, 1 for none, found %g",
            (double)LEAST_REPETITION, (double)MOST_REPETITION, (double)o->repetition_penalty);
    }
    if (status == SPC_OK) status = check_penalty("presence-penalty", o->presence_penalty, err);
    if (status == SPC_OK) status = check_penalty("frequency-penalty", o->frequency_penalty, err);
    if (status != SPC_OK) return status;
    if (o->min_tokens < 0 || (o->max_tokens > 0 && o->min_tokens > o->max_tokens)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "min-tokens: expected 0 or more, and no more than max-tokens, found "
                             "%d (max-tokens %d)",
                             (int)o->min_tokens, (int)o->max_tokens);
    }
    return SPC_OK;
}

spc_status spc_processor_check_ids(const spc_session_options *o, int32_t vocab, spc_error *err)
{
    for (int32_t i = 0; i < o->logit_bias_count; i++) {
        int32_t token = o->logit_bias[i].token;

        if (token >= 0 && token < vocab) continue;
        return spc_error_set(err, SPC_EUSAGE, "logit-bias: expected ids of 0 to %d, found %d",
                             (int)vocab - 1, (int)token);
    }
    return SPC_OK;
}

/* ---- open -------------------------------------------------------------------------------------
 */

static int by_token(const void *a, const void *b)
{
    const special *x = a, *y = b;

    return (x->token > y->token) - (x->token < y->token);
}

/* A bias comes before that the token ends the sequence. */
static int in_order(const void *a, const void *b)
{
    const special *x = a, *y = b;
    int order = by_token(a, b);

    return order != 0 ? order : x->ends - y->ends;
}

/* Bring them in order, and those of one token together. */
static void merge_specials(spc_processor *p)
{
    int32_t kept = 0;

    if (p->specials > 1) qsort(p->special, (size_t)p->specials, sizeof *p->special, in_order);
    for (int32_t i = 0; i < p->specials; i++) {
        special *last = kept > 0 ? &p->special[kept - 1] : NULL;

        if (last && last->token == p->special[i].token) {
            last->ends = true;
        } else {
            p->special[kept++] = p->special[i];
        }
    }
    p->specials = kept;
}

static void take_specials(spc_processor *p, const spc_session_options *o, const int32_t *stop,
                          int32_t stop_count)
{
    for (int32_t i = 0; i < o->logit_bias_count; i++) {
        const spc_logit_bias *b = &o->logit_bias[i];

        p->special[p->specials++] = (special){b->token, b->bias, false};
    }
    for (int32_t i = 0; i < stop_count && o->min_tokens > 0; i++) {
        if (stop[i] < 0 || stop[i] >= p->vocab) continue; /* of the padding: it never comes */
        p->special[p->specials++] = (special){stop[i], 0, true};
    }
    merge_specials(p);
}

/* false: no memory. */
static bool take_arrays(spc_processor *p, const spc_session_options *o, int32_t stop_count)
{
    size_t vocab = (size_t)p->vocab, specials = (size_t)o->logit_bias_count + (size_t)stop_count;

    p->special = malloc((specials + 1) * sizeof *p->special);
    if (o->on_mask) p->mask = malloc((size_t)spc_mask_words(p->vocab) * sizeof *p->mask);
    if (!p->special || (o->on_mask && !p->mask)) return false;
    if (!penalises(o)) return true;
    p->seen = calloc(vocab, sizeof *p->seen);
    p->written = calloc(vocab, sizeof *p->written);
    p->distinct = malloc(vocab * sizeof *p->distinct);
    return p->seen && p->written && p->distinct;
}

spc_status spc_processor_open(const spc_session_options *o, int32_t vocab, const int32_t *stop,
                              int32_t stop_count, spc_processor **out, spc_error *err)
{
    spc_processor *p;

    *out = NULL;
    if (o->logit_bias_count == 0 && o->min_tokens == 0 && !penalises(o) && !o->on_mask) {
        return SPC_OK;
    }
    p = calloc(1, sizeof *p);
    if (p) p->vocab = vocab;
    if (!p || !take_arrays(p, o, stop_count)) {
        spc_processor_close(p);
        return spc_error_set(err, SPC_ENOMEM, "no memory for bias, penalties or masks of %d ids",
                             (int)vocab);
    }
    p->least = o->min_tokens;
    p->repetition = o->repetition_penalty;
    p->presence = o->presence_penalty;
    p->frequency = o->frequency_penalty;
    p->on_mask = o->on_mask;
    p->user = o->user;
    take_specials(p, o, stop, stop_count);
    *out = p;
    return SPC_OK;
}

void spc_processor_close(spc_processor *p)
{
    if (!p) return;
    free(p->special);
    free(p->mask);
    free(p->seen);
    free(p->written);
    free(p->distinct);
    free(p);
}

/* ---- what has been written --------------------------------------------------------------------
 */

static void count_token(spc_processor *p, int32_t token, bool written)
{
    if (!p->seen) return;
    if (p->seen[token]++ == 0) p->distinct[p->distincts++] = token;
    p->written[token] += written;
}

/* The last one that was counted, and was written. */
static void forget_token(spc_processor *p, int32_t token)
{
    if (!p->seen) return;
    p->written[token]--;
    if (--p->seen[token] > 0) return;
    assert(p->distinct[p->distincts - 1] == token);
    p->distincts--;
}

void spc_processor_begin(spc_processor *p, const int32_t *prompt, int32_t count)
{
    for (int32_t i = 0; i < p->distincts; i++) {
        p->seen[p->distinct[i]] = 0;
        p->written[p->distinct[i]] = 0;
    }
    p->distincts = 0;
    for (int32_t i = 0; i < count; i++) count_token(p, prompt[i], false);
    p->prompt = p->length = count;
}

void spc_processor_keep(spc_processor *p, int32_t token)
{
    count_token(p, token, true);
    p->length++;
}

/* ---- edits ------------------------------------------------------------------------------------
 */

bool spc_edit_desk_open(spc_edit_desk *d)
{
    *d = (spc_edit_desk){.edit = malloc(SPC_EDITS_MOST * sizeof *d->edit),
                         .masked = malloc(SPC_MASKS_MOST * sizeof *d->masked),
                         .allowed = malloc(SPC_MASK_WORDS_MOST * sizeof *d->allowed)};
    return d->edit && d->masked && d->allowed;
}

void spc_edit_desk_close(spc_edit_desk *d)
{
    free(d->edit);
    free(d->masked);
    free(d->allowed);
}

spc_status spc_edit_desk_send(spc_edit_desk *d, const spc_backend_ops *ops, spc_runner *runner,
                              spc_error *err)
{
    const spc_edit_list list = {d->edits, d->edit, d->masks, d->masked, d->allowed};

    if (d->edits == 0 && d->masks == 0) return SPC_OK;
    d->edits = d->masks = 0;
    return ops->edit(runner, &list, err);
}

/* Where the edits of a row go. */
typedef struct {
    spc_edit_desk *desk;
    const spc_backend_ops *ops;
    spc_runner *runner;
    int32_t row;
    spc_error *err;
} target;

static spc_status put(const target *to, int32_t token, float factor, float add)
{
    spc_edit_desk *d = to->desk;
    spc_status status = SPC_OK;

    if (factor == 1.0f && add == 0.0f) return SPC_OK;
    if (d->edits == SPC_EDITS_MOST) status = spc_edit_desk_send(d, to->ops, to->runner, to->err);
    if (status == SPC_OK) d->edit[d->edits++] = (spc_logit_edit){to->row, token, factor, add};
    return status;
}

static float bias_of(const special *s, bool early)
{
    return s->ends && early ? -INFINITY : s->bias;
}

static const special *find_special(const spc_processor *p, int32_t token)
{
    const special key = {token, 0, false};

    if (p->specials == 0) return NULL;
    return bsearch(&key, p->special, (size_t)p->specials, sizeof *p->special, by_token);
}

/* early: a token that ends the sequence may not come yet. */
static spc_status put_edits(const spc_processor *p, const target *to, bool early)
{
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < p->distincts && status == SPC_OK; i++) {
        int32_t token = p->distinct[i], written = p->written[token];
        const special *s = find_special(p, token);
        float add = s ? bias_of(s, early) : 0.0f;

        add -= p->frequency * (float)written + (written > 0 ? p->presence : 0.0f);
        status = put(to, token, p->repetition, add);
    }
    for (int32_t i = 0; i < p->specials && status == SPC_OK; i++) {
        const special *s = &p->special[i];

        if (p->seen && p->seen[s->token] > 0) continue; /* see above */
        status = put(to, s->token, 1.0f, bias_of(s, early));
    }
    return status;
}

/* Have the caller say what is allowed; false: everything is. */
static bool ask_mask(const spc_processor *p, const int32_t *token, int32_t count, uint32_t *allowed)
{
    memset(allowed, 0, (size_t)spc_mask_words(p->vocab) * sizeof *allowed);
    return p->on_mask(p->user, token, count, allowed, p->vocab);
}

static spc_status put_mask(const spc_processor *p, const target *to, const int32_t *token,
                           int32_t count)
{
    int32_t words = spc_mask_words(p->vocab);
    spc_edit_desk *d = to->desk;
    spc_status status = SPC_OK;

    if (!ask_mask(p, token, count, p->mask)) return SPC_OK;
    if (d->masks == SPC_MASKS_MOST || (d->masks + 1) * words > SPC_MASK_WORDS_MOST) {
        status = spc_edit_desk_send(d, to->ops, to->runner, to->err);
    }
    if (status != SPC_OK) return status;
    memcpy(d->allowed + (size_t)d->masks * (size_t)words, p->mask, (size_t)words * sizeof *p->mask);
    d->masked[d->masks++] = to->row;
    return SPC_OK;
}

spc_status spc_processor_add(spc_processor *p, const int32_t *token, int32_t count, int32_t row,
                             spc_edit_desk *desk, const spc_backend_ops *ops, spc_runner *runner,
                             spc_error *err)
{
    const target to = {desk, ops, runner, row, err};
    spc_status status;

    assert(count >= p->length);
    for (int32_t i = p->length; i < count; i++) count_token(p, token[i], true);
    status = put_edits(p, &to, count - p->prompt < p->least);
    for (int32_t i = count; i-- > p->length;) forget_token(p, token[i]);
    if (status == SPC_OK && p->on_mask) status = put_mask(p, &to, token, count);
    return status;
}

/* By bias and min_tokens, whatever a mask says of it. */
static bool may_come(const spc_processor *p, int32_t token, bool early)
{
    const special *s = find_special(p, token);

    return !s || bias_of(s, early) > -INFINITY;
}

const char *spc_processor_leaves_none(spc_processor *p, const int32_t *token, int32_t count)
{
    bool early = count - p->prompt < p->least, masked, allowed = false;

    if (!p->on_mask && p->specials < p->vocab) return NULL;
    masked = p->on_mask && ask_mask(p, token, count, p->mask);
    for (int32_t v = 0; v < p->vocab; v++) {
        if (masked && !(p->mask[v / 32] >> (v % 32) & 1u)) continue;
        if (may_come(p, v, early)) return NULL;
        allowed = true;
    }
    if (!masked) return "logit-bias and min-tokens";
    return allowed ? "on_mask with logit-bias and min-tokens" : "on_mask";
}
