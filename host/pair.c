/* SPDX-License-Identifier: Apache-2.0 */
/* pair.c - a drafter held against a verifier. */
#include "pair.h"

#include "weights/chat.h"
#include "weights/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { SHOWN_BYTES = 24 };

/* The beginning of a piece as it may stand in one line of a message, or what is there instead. */
typedef struct {
    char text[4 * SHOWN_BYTES + 4];
} shown;

static shown show(const spc_tokenizer *tokenizer, int32_t id)
{
    shown s = {"none"};
    size_t bytes, used = 0;
    const char *piece = spc_tokenizer_piece(tokenizer, id, &bytes);

    if (!piece) return s;

    bool whole = bytes <= SHOWN_BYTES && spc_utf8_invalid(piece, bytes) == bytes;

    s.text[used++] = '\'';
    for (size_t i = 0; i < bytes && i < SHOWN_BYTES; i++) {
        unsigned char c = (unsigned char)piece[i];
        bool plain = c >= 0x20 && c != 0x7f && (c < 0x80 || whole);

        used += (size_t)snprintf(s.text + used, sizeof s.text - used, plain ? "%c" : "\\x%02x", c);
    }
    s.text[used++] = '\'';
    s.text[used] = '\0';
    return s;
}

static const char *where_of(const spc_pair_side *side)
{
    return spc_bundle_where(side->model->bundle);
}

/* What is different at an id whose pieces may look alike. */
static const char *difference_at(const spc_pair_side *d, const spc_pair_side *v, int32_t id)
{
    if (strcmp(show(d->tokenizer, id).text, show(v->tokenizer, id).text) != 0) return "";
    if (spc_tokenizer_is_special(d->tokenizer, id) != spc_tokenizer_is_special(v->tokenizer, id)) {
        return ", special in one of them";
    }
    return ", made by other merges or of another score";
}

static spc_status differ_at(const spc_pair_side *d, const spc_pair_side *v, int32_t id,
                            spc_error *err)
{
    return spc_error_set(err, SPC_EMODEL,
                         "drafter %.100s and verifier %.100s do not pair: their tokenizers first "
                         "differ at id %d (%s against %s%s)",
                         where_of(d), where_of(v), (int)id, show(d->tokenizer, id).text,
                         show(v->tokenizer, id).text, difference_at(d, v, id));
}

static spc_status differ_in_kind(const spc_pair_side *d, const spc_pair_side *v, spc_error *err)
{
    return spc_error_set(err, SPC_EMODEL,
                         "drafter %.100s and verifier %.100s do not pair: their tokenizers are %s "
                         "and %s",
                         where_of(d), where_of(v), spc_tokenizer_kind(d->tokenizer),
                         spc_tokenizer_kind(v->tokenizer));
}

static bool has_piece(const spc_tokenizer *tokenizer, int32_t id)
{
    size_t bytes;

    return spc_tokenizer_piece(tokenizer, id, &bytes) != NULL;
}

/* Ids that one tokenizer has and the other does not, below `ids`; -1: none. */
static int32_t first_unshared(const spc_pair_side *d, const spc_pair_side *v, int32_t ids)
{
    int32_t a = spc_tokenizer_size(d->tokenizer), b = spc_tokenizer_size(v->tokenizer);

    for (int32_t id = a < b ? a : b; id < ids && id < (a > b ? a : b); id++) {
        if (has_piece(d->tokenizer, id) != has_piece(v->tokenizer, id)) return id;
    }
    return -1;
}

static bool ends_a_sequence(const spc_config *config, int32_t id)
{
    for (int32_t i = 0; i < config->stop_count; i++) {
        if (config->stop[i] == id) return true;
    }
    return false;
}

/* The verifier's first token beyond the ids that both models have rows for which it cannot do
 * without: a word, or one that ends a sequence; -1: none.  Other special tokens there are of no use
 * to one of the models, and are left out. */
static int32_t first_beyond(const spc_pair_side *v, int32_t ids)
{
    for (int32_t id = ids; id < spc_tokenizer_size(v->tokenizer); id++) {
        if (!has_piece(v->tokenizer, id)) continue;
        if (!spc_tokenizer_is_special(v->tokenizer, id)) return id;
        if (ends_a_sequence(&v->model->config, id)) return id;
    }
    return -1;
}

static spc_status check_sizes(const spc_pair_side *d, const spc_pair_side *v, int32_t ids,
                              spc_error *err)
{
    int32_t a = d->model->config.vocab, b = v->model->config.vocab, needed = -1;
    char of_needed[160] = "";

    if (a == b) return SPC_OK;
    if (v->tokenizer) {
        needed = first_beyond(v, ids);
        if (needed < 0) return SPC_OK;
        (void)snprintf(of_needed, sizeof of_needed, ", and id %d %s, %s", (int)needed,
                       spc_tokenizer_is_special(v->tokenizer, needed) ? "ends a sequence"
                                                                      : "is a word",
                       show(v->tokenizer, needed).text);
    }
    return spc_error_set(err, SPC_EMODEL,
                         "drafter %.100s and verifier %.100s do not pair: vocab_size %d against "
                         "%d%s; both must come from one tokenizer",
                         where_of(d), where_of(v), (int)a, (int)b, of_needed);
}

/* Both have an encoder or neither, and both decoders begin with the same token. */
static spc_status check_encoders(const spc_pair_side *d, const spc_pair_side *v, spc_error *err)
{
    const spc_config *a = &d->model->config, *b = &v->model->config;

    if ((a->encoder_layers > 0) != (b->encoder_layers > 0)) {
        return spc_error_set(err, SPC_EMODEL,
                             "drafter %.100s and verifier %.100s do not pair: one of them is an "
                             "encoder-decoder (%s, %s)",
                             where_of(d), where_of(v), a->architecture, b->architecture);
    }
    if (a->start != b->start) {
        return spc_error_set(err, SPC_EMODEL,
                             "drafter %.100s and verifier %.100s do not pair: "
                             "decoder_start_token_id %d against %d",
                             where_of(d), where_of(v), (int)a->start, (int)b->start);
    }
    return SPC_OK;
}

spc_status spc_pair_check(const spc_pair_side *d, const spc_pair_side *v, int32_t *ids,
                          spc_error *err)
{
    int32_t a = d->model->config.vocab, b = v->model->config.vocab, id = -1;
    spc_status status = check_encoders(d, v, err);

    if (status != SPC_OK) return status;
    *ids = a < b ? a : b;
    if (d->tokenizer && v->tokenizer) {
        if (strcmp(spc_tokenizer_kind(d->tokenizer), spc_tokenizer_kind(v->tokenizer)) != 0) {
            return differ_in_kind(d, v, err);
        }
        id = spc_tokenizer_difference(d->tokenizer, v->tokenizer);
    }
    if (id >= 0 && id < *ids) return differ_at(d, v, id, err);

    status = check_sizes(d, v, *ids, err);
    if (status != SPC_OK) return status;
    if (!d->tokenizer != !v->tokenizer) {
        return spc_error_set(
            err, SPC_EMODEL,
            "%s %.100s has no tokenizer.json, and %s %.100s has one: they "
            "cannot be checked as a pair; give the model the tokenizer it was trained "
            "with",
            d->tokenizer ? "verifier" : "drafter", where_of(d->tokenizer ? v : d),
            d->tokenizer ? "drafter" : "verifier", where_of(d->tokenizer ? d : v));
    }
    if (d->tokenizer) id = first_unshared(d, v, *ids);
    return id >= 0 ? differ_at(d, v, id, err) : SPC_OK;
}

void spc_pair_warn_words(const spc_pair_side *v, spc_log_fn log, void *user)
{
    int32_t rows = v->model->config.vocab;
    int32_t id = v->tokenizer && log ? first_beyond(v, rows) : -1;
    char line[512];

    if (id < 0) return;
    (void)snprintf(line, sizeof line,
                   "warning: %.100s: its tokenizer has %d ids, the model %d rows: a prompt with id "
                   "%d, %s, or another beyond them is refused, and none is ever written; is it "
                   "another model's tokenizer?",
                   where_of(v), (int)spc_tokenizer_size(v->tokenizer), (int)rows, (int)id,
                   show(v->tokenizer, id).text);
    log(user, line);
}

void spc_pair_warn(const spc_pair_side *d, const spc_pair_side *v, spc_log_fn log, void *user)
{
    uint64_t small = spc_plan_parameters(d->model->plan);
    uint64_t large = spc_plan_parameters(v->model->plan);
    spc_chat_template a, b;
    char line[512];

    if (!log) return;
    if (small > large) {
        (void)snprintf(line, sizeof line,
                       "warning: the drafter %.100s has %" PRIu64
                       " parameters, more than the %" PRIu64
                       " of the verifier %.100s: are they swapped?",
                       where_of(d), small, large, where_of(v));
        log(user, line);
    }
    /* a model without one, or of none that is known, may still draft */
    if (spc_chat_detect(d->model->bundle, &a, NULL) != SPC_OK) return;
    if (spc_chat_detect(v->model->bundle, &b, NULL) != SPC_OK) return;
    if (a.family == b.family && strcmp(a.system, b.system) == 0) return;
    (void)snprintf(line, sizeof line,
                   "warning: the drafter's chat template is %s, the verifier's %s%s: conversations "
                   "follow the verifier's",
                   spc_chat_name(&a), spc_chat_name(&b),
                   a.family == b.family ? " with another system message" : "");
    log(user, line);
}
