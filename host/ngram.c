/* SPDX-License-Identifier: Apache-2.0 */
/* ngram.c - drafts that are looked up: what the name of the drafter asks for, which rules take such
 * drafts, and the places of n-grams in a text. */
#include "ngram.h"

#include "rules/round.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is asked for ------------------------------------------------------------------------
 */

bool spc_ngram_is(const char *drafter)
{
    return drafter && strncmp(drafter, "ngram", 5) == 0 &&
           (drafter[5] == '\0' || drafter[5] == ':');
}

/* A length of one or two digits; 0: none is there. */
static int32_t read_length(const char **at)
{
    int32_t length = 0, digits = 0;

    for (; **at >= '0' && **at <= '9' && digits < 2; digits++)
        length = length * 10 + *(*at)++ - '0';
    return length;
}

spc_status spc_ngram_parse(const char *drafter, spc_ngram_span *out, spc_error *err)
{
    const char *at = drafter + 5;
    spc_ngram_span span = {SPC_NGRAM_LEAST, SPC_NGRAM_MOST};

    assert(spc_ngram_is(drafter));
    if (*at == ':') {
        at++;
        span.most = read_length(&at);
        if (span.most < span.least) span.least = span.most;
        if (*at == '-') {
            at++;
            span.least = span.most;
            span.most = read_length(&at);
        }
    }
    if (*at != '\0' || span.least < 1 || span.most < span.least || span.most > SPC_NGRAM_LONGEST) {
        return spc_error_set(err, SPC_EUSAGE,
                             "drafter: expected ngram, ngram:MAX or ngram:MIN-MAX with lengths of "
                             "1 to %d, found '%.40s' (a folder of that name: ./ngram)",
                             SPC_NGRAM_LONGEST, drafter);
    }
    *out = span;
    return SPC_OK;
}

spc_status spc_ngram_check_rule(const spc_rule *rule, int32_t bonus, const char *text,
                                spc_error *err)
{
    if (rule->kind == SPC_RULE_VERIFIER_ONLY) return SPC_OK;
    if (!spc_rule_is_one_round(rule->kind)) {
        return spc_error_set(err, SPC_EUNSUPPORTED,
                             "rule %.90s with an n-gram drafter: it runs one model at a time, and "
                             "there is but one: use strict or verifier-only, or give a model as "
                             "drafter",
                             text);
    }
    if (!spc_rule_takes_names(rule->path)) {
        return spc_error_set(err, SPC_EUNSUPPORTED,
                             "rule %.90s with an n-gram drafter: it reads the drafter's "
                             "probabilities, and n-grams have none: use strict or truncate; with "
                             "bonus verifier also lossy, token-v2, token-v3, bild, lossy-greedy, "
                             "head or typical",
                             text);
    }
    if (!spc_rule_uses_drafter(rule) || bonus == SPC_BONUS_VERIFIER) return SPC_OK;
    return spc_error_set(err, SPC_EUNSUPPORTED,
                         "rule %.90s with an n-gram drafter: for a token without a draft there are "
                         "no probabilities of the drafter: use bonus verifier, or rule strict or "
                         "truncate",
                         text);
}

/* ---- one text ---------------------------------------------------------------------------------
 */

/* A place is the position of an n-gram's last token, which another token follows: p is in the table
 * as p + 1, so that zeros are an empty one. */
struct spc_ngram {
    spc_ngram_span span;
    int64_t length, most; /* tokens; most of them */
    uint64_t mask;
    int32_t *token; /* [most] */
    int32_t *last;  /* [mask + 1] the last place of the n-grams that are looked up there */
    int32_t *older; /* [most] the one before it */
};

spc_ngram *spc_ngram_open(spc_ngram_span span, int64_t tokens)
{
    int64_t most = tokens + SPC_GAMMA_MAX + 1;
    spc_ngram *n = most < INT32_MAX ? calloc(1, sizeof *n) : NULL;

    assert(span.least >= 1 && span.most >= span.least && tokens > 0);
    if (!n) return NULL;
    n->span = span;
    n->most = most;
    while ((int64_t)n->mask < most) n->mask = n->mask * 2 + 1;
    n->token = malloc((size_t)most * sizeof *n->token);
    n->older = malloc((size_t)most * sizeof *n->older);
    n->last =
        calloc((size_t)n->mask + 1, sizeof *n->last); /* touched where places are, no sooner */
    if (n->token && n->older && n->last) return n;
    spc_ngram_close(n);
    return NULL;
}

void spc_ngram_close(spc_ngram *n)
{
    if (!n) return;
    free(n->token);
    free(n->older);
    free(n->last);
    free(n);
}

/* Where the n-gram of `least` tokens that ends at a position is looked up. */
static int32_t *last_of(const spc_ngram *n, int64_t end)
{
    uint64_t hash = 0;

    for (int64_t i = end - n->span.least + 1; i <= end; i++) {
        hash = (hash ^ (uint64_t)n->token[i]) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return &n->last[hash & n->mask];
}

/* One more token: the one before it becomes the end of a place. */
static void push(spc_ngram *n, int32_t token)
{
    int64_t end = n->length - 1;

    assert(n->length < n->most);
    n->token[n->length++] = token;
    if (end + 1 < n->span.least) return;

    int32_t *last = last_of(n, end);

    n->older[end] = *last;
    *last = (int32_t)end + 1;
}

/* Take the last token back: nothing was added to the table since its place. */
static void pop(spc_ngram *n)
{
    int64_t end = --n->length - 1;

    if (end + 1 >= n->span.least) *last_of(n, end) = n->older[end];
}

void spc_ngram_begin(spc_ngram *n)
{
    if (n->length > 0) memset(n->last, 0, ((size_t)n->mask + 1) * sizeof *n->last);
    n->length = 0;
}

void spc_ngram_add(spc_ngram *n, const int32_t *token, int32_t count)
{
    for (int32_t i = 0; i < count; i++) push(n, token[i]);
}

int64_t spc_ngram_length(const spc_ngram *n)
{
    return n->length;
}

/* Tokens, up to span.most, in which the text agrees that ends at a place with the whole one. */
static int32_t agreement(const spc_ngram *n, int64_t place)
{
    int32_t most = place + 1 < n->span.most ? (int32_t)(place + 1) : n->span.most, same = 0;

    while (same < most && n->token[place - same] == n->token[n->length - 1 - same]) same++;
    return same;
}

/* The place that says what comes next; -1: none does. */
static int64_t find(const spc_ngram *n)
{
    int64_t best = -1;
    int32_t longest = n->span.least - 1;

    if (n->length < n->span.least) return -1;
    for (int64_t at = *last_of(n, n->length - 1) - 1; at >= 0 && longest < n->span.most;
         at = n->older[at] - 1) {
        int32_t same = agreement(n, at);

        if (same <= longest) continue;
        longest = same;
        best = at;
    }
    return best;
}

int32_t spc_ngram_draft(spc_ngram *n, int32_t *draft, int32_t most)
{
    int32_t count = 0;

    assert(most >= 0 && most <= SPC_GAMMA_MAX + 1);
    for (; count < most; count++) {
        int64_t place = find(n);

        if (place < 0) break;
        draft[count] = n->token[place + 1];
        push(n, draft[count]);
    }
    for (int32_t i = 0; i < count; i++) pop(n);
    return count;
}
