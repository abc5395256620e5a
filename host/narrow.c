/* SPDX-License-Identifier: Apache-2.0 */
/* narrow.c - a drafter that drafts some tokens only. */
#include "narrow.h"

#include "rules/round.h"
#include "weights/quant.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORD_BYTES = 32 };

/* ---- which tokens -----------------------------------------------------------------------------
 */

static bool is_number(const char *text)
{
    return text[0] != '\0' && text[strspn(text, "0123456789")] == '\0';
}

/* A decimal number of 0 to most; -1: none. */
static int64_t number_of(const char *text, int64_t most)
{
    int64_t value = 0;

    if (!is_number(text)) return -1;
    for (; *text; text++) {
        value = 10 * value + (*text - '0');
        if (value > most) return -1;
    }
    return value;
}

spc_status spc_narrow_check(const char *drafter_vocab, spc_error *err)
{
    if (!drafter_vocab) return SPC_OK;
    if (is_number(drafter_vocab) && number_of(drafter_vocab, SPC_VOCAB_MAX) < 1) {
        return spc_error_set(
            err, SPC_EUSAGE,
            "drafter-vocab: expected 1 to %d tokens, or a file of ids, found %.40s", SPC_VOCAB_MAX,
            drafter_vocab);
    }
    if (drafter_vocab[0] != '\0') return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE, "drafter-vocab: expected a number or a file, found ''");
}

static spc_status first_tokens(const char *number, int32_t ids, spc_subset *subset, spc_error *err)
{
    const int64_t count = number_of(number, ids);

    if (count < 0) {
        return spc_error_set(err, SPC_EUSAGE,
                             "drafter-vocab: expected at most the models' %d tokens, found %.40s",
                             (int)ids, number);
    }
    for (int32_t v = 0; v < count; v++) subset[v / 32].tokens |= 1u << v % 32;
    return SPC_OK;
}

/* The next word of a file; false: there is none.  What is too long for an id, or holds a byte of 0,
 * is shown with a '.' and is no number. */
static bool next_word(FILE *in, char word[WORD_BYTES])
{
    size_t used = 0;
    int c = getc(in);

    while (c == ' ' || c == '\t' || c == '\r' || c == '\n') c = getc(in);
    for (; c != EOF && c != ' ' && c != '\t' && c != '\r' && c != '\n'; c = getc(in)) {
        if (used == WORD_BYTES - 1) {
            word[used - 1] = '.';
        } else {
            word[used++] = c == '\0' ? '.' : (char)c;
        }
    }
    word[used] = '\0';
    return used > 0;
}

static spc_status read_tokens(FILE *in, const char *path, int32_t ids, spc_subset *subset,
                              spc_error *err)
{
    char word[WORD_BYTES];
    int64_t found = 0;

    for (; next_word(in, word); found++) {
        const int64_t token = number_of(word, ids - 1);

        if (token < 0) {
            return spc_error_set(err, SPC_EINPUT,
                                 "drafter-vocab: %.200s: id %lld: expected 0 to %d, found '%s'",
                                 path, (long long)found + 1, (int)ids - 1, word);
        }
        subset[token / 32].tokens |= 1u << token % 32;
    }
    if (ferror(in)) {
        return spc_error_set(err, SPC_EINPUT, "drafter-vocab: %.200s: %s", path, strerror(errno));
    }
    if (found > 0) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT,
                         "drafter-vocab: %.200s: expected ids with blanks between, found none",
                         path);
}

static spc_status tokens_of_file(const char *path, int32_t ids, spc_subset *subset, spc_error *err)
{
    FILE *in = fopen(path, "r");
    spc_status status;

    if (!in) {
        return spc_error_set(err, SPC_EINPUT,
                             "drafter-vocab: %.200s: %s (expected a number, or a file of ids)",
                             path, strerror(errno));
    }
    status = read_tokens(in, path, ids, subset, err);
    (void)fclose(in);
    return status;
}

/* What ends a sequence can always be drafted: rules that let the drafter write alone need it. */
static void add_ends(const spc_config *config, int32_t ids, spc_subset *subset)
{
    for (int32_t i = 0; i < config->stop_count; i++) {
        const int32_t v = config->stop[i];

        if (v >= 0 && v < ids) subset[v / 32].tokens |= 1u << v % 32;
    }
}

static int32_t count_before(spc_subset *subset, int32_t ids)
{
    int32_t known = 0;

    for (int32_t w = 0; w < (ids + 31) / 32; w++) {
        subset[w].before = known;
        known += spc_bits_set(subset[w].tokens);
    }
    return known;
}

/* ---- the layer --------------------------------------------------------------------------------
 */

static spc_op *head_of(const spc_plan *plan)
{
    for (int32_t i = plan->op_count - 1; i >= 0; i--) {
        if (plan->op[i].kind == SPC_OP_HEAD) return &plan->op[i];
    }
    return NULL;
}

/* Does another op read it?  An embedding, where both are one matrix. */
static bool is_shared(const spc_plan *plan, int32_t weight)
{
    for (int32_t i = 0; i < plan->op_count; i++) {
        if (plan->op[i].kind != SPC_OP_HEAD && plan->op[i].weight[0] == weight) return true;
    }
    return false;
}

/* The rows of these tokens: where they are, if they lie together, or copied. */
static const void *take_rows(const spc_tensor *t, size_t row, const spc_subset *subset, int32_t ids,
                             int32_t known, void **owned)
{
    const char *from = t->data;
    int32_t first = 0, next = 0;
    char *to;

    *owned = NULL;
    while (!(subset[first / 32].tokens >> first % 32 & 1u)) first++;
    while (next < known && first + next < ids &&
           (subset[(first + next) / 32].tokens >> (first + next) % 32 & 1u)) {
        next++;
    }
    if (next == known) return from + (size_t)first * row;
    *owned = to = malloc((size_t)known * row);
    for (int32_t v = first; to && v < ids; v++) {
        if (!(subset[v / 32].tokens >> v % 32 & 1u)) continue;
        memcpy(to, from + (size_t)v * row, row);
        to += row;
    }
    return *owned;
}

/* Show them as a tensor, and have the head read that. */
static spc_status put_head(spc_model *model, const spc_tensor *t, const spc_subset *subset,
                           int32_t ids, int32_t known, spc_error *err)
{
    spc_plan *plan = model->plan;
    spc_op *head = head_of(plan);
    const int32_t old = head->weight[0], cols = plan->weight[old].cols;
    const size_t row = (size_t)cols / spc_dtype_elements(t->dtype) * spc_dtype_bytes(t->dtype);
    const char *where = spc_bundle_where(model->bundle);
    spc_tensor some = *t;
    char name[SPC_PLAN_NAME];
    void *owned;
    int32_t weight = old;
    spc_status status;

    (void)snprintf(name, sizeof name, "%.60s (drafted)", t->name);
    if (spc_bundle_find(model->bundle, name)) {
        return spc_error_set(err, SPC_EFORMAT, "%.200s: a tensor has the name %s, which is taken",
                             where, name);
    }
    some.name = name;
    some.shape[0] = known;
    some.bytes = (uint64_t)known * row;
    some.data = take_rows(t, row, subset, ids, known, &owned);
    if (!some.data) {
        return spc_error_set(err, SPC_ENOMEM,
                             "%.200s: no memory for the output layer of %d tokens: give a smaller "
                             "drafter-vocab",
                             where, (int)known);
    }
    status = spc_bundle_put(model->bundle, &some, owned, err);
    if (status != SPC_OK) return status;
    if (is_shared(plan, old)) weight = spc_plan_weight(plan, name, known, cols);
    if (plan->no_memory) {
        return spc_error_set(err, SPC_ENOMEM, "%.200s: no memory for its plan", where);
    }
    if (weight == old) {
        spc_weight *w = &plan->weight[old];

        (void)snprintf(w->name, sizeof w->name, "%s", name);
        w->rows = w->of_rows = known;
    }
    head->weight[0] = weight;
    return SPC_OK;
}

static spc_status cut(spc_model *model, spc_subset *subset, int32_t ids, spc_error *err)
{
    spc_plan *plan = model->plan;
    const spc_weight *w = &plan->weight[head_of(plan)->weight[0]];
    const int32_t known = count_before(subset, ids);
    const spc_tensor *t;
    spc_status status = spc_plan_tensor(w, model->bundle, &t, err);

    if (status != SPC_OK) return status;
    if (spc_dtype_is_scaled(t->dtype) && spc_plan_scale(model->bundle, w->name)) {
        return spc_error_set(err, SPC_EUNSUPPORTED,
                             "drafter-vocab: %.150s: %s is %s with scales beside it, and cannot be "
                             "cut: leave drafter-vocab out",
                             spc_bundle_where(model->bundle), w->name, spc_dtype_name(t->dtype));
    }
    status = put_head(model, t, subset, ids, known, err);
    if (status == SPC_OK) plan->drafted = known;
    return status;
}

static void tell(const spc_model *model, spc_log_fn log, void *user)
{
    const spc_plan *plan = model->plan;
    const spc_weight *w = &plan->weight[head_of(plan)->weight[0]];
    const double bytes = (double)spc_bundle_find(model->bundle, w->name)->bytes / 1e6;
    char line[160];

    (void)snprintf(line, sizeof line,
                   "drafter: drafts %d of %d tokens; its output layer reads %.1f MB of %.1f",
                   (int)plan->drafted, (int)plan->ids, bytes, bytes / plan->drafted * plan->ids);
    log(user, line);
}

spc_status spc_narrow_head(spc_model *model, const char *drafter_vocab, int32_t ids, spc_log_fn log,
                           void *user, spc_error *err)
{
    spc_subset *subset;
    spc_status status;

    if (!drafter_vocab) return SPC_OK;
    subset = calloc((size_t)(ids + 31) / 32, sizeof *subset);
    if (!subset) return spc_error_set(err, SPC_ENOMEM, "no memory for a set of %d ids", (int)ids);
    status = is_number(drafter_vocab) ? first_tokens(drafter_vocab, ids, subset, err)
                                      : tokens_of_file(drafter_vocab, ids, subset, err);
    add_ends(&model->config, ids, subset);
    if (status == SPC_OK) status = cut(model, subset, ids, err);
    if (status != SPC_OK) {
        free(subset);
        return status;
    }
    model->plan->subset = subset;
    if (log) tell(model, log, user);
    return SPC_OK;
}
