/* SPDX-License-Identifier: Apache-2.0 */
/* ngram.c - drafts that are looked up: what the name of the drafter asks for, which rules take such
 * drafts, and the places of n-grams in a text. */
#include "ngram.h"

#include "rules/round.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

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
                             "bonus verifier and a fixed gamma also lossy, token-v2, token-v3, "
                             "bild, lossy-greedy, head or typical",
                             text);
    }
    if (!spc_rule_uses_drafter(rule) || bonus == SPC_BONUS_VERIFIER) return SPC_OK;
    return spc_error_set(
        err, SPC_EUNSUPPORTED,
        "rule %.90s with an n-gram drafter: for a token without a draft there are "
        "no probabilities of the drafter: use bonus verifier and a fixed gamma, or "
        "rule strict or truncate",
        text);
}

/* ---- one text ---------------------------------------------------------------------------------
 */

/* A place is the position of an n-gram's last token, which another token follows.  For each length
 * there is a table of open addressing with an entry for every n-gram that has a place: the latest,
 * as its position + 1, so that zeros are an empty one.  Lengths are counted from span.least. */

/* A place that a draft put into a table, and what was there. */
typedef struct {
    int32_t *at;
    int32_t was;
} replaced;

struct spc_ngram {
    spc_ngram_span span;
    int64_t length, most; /* tokens; most of them */
    uint64_t slots;       /* of each table: half as many again as there can be places */
    uint64_t seed;        /* of hashes: where entries are, and so time, but nothing that is found */
    int32_t *token;       /* [most] */
    int32_t *latest;      /* [lengths, slots] */
    replaced undo[(SPC_GAMMA_MAX + 1) * SPC_NGRAM_LONGEST]; /* [undo_count] by drafts */
    int32_t undo_count;
};

static int32_t lengths_of(spc_ngram_span span)
{
    return span.most - span.least + 1;
}

/* Another one for each text.  Where entries of a table go must not be known beforehand: a prompt of
 * n-grams that all go to one place would have every look-up walk over all of them. */
static uint64_t seed_of(const spc_ngram *n)
{
    uint64_t seed = (uint64_t)(uintptr_t)n;
    struct timespec now = {0, 0};

    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) == (ssize_t)sizeof seed) return seed;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return seed ^ (uint64_t)now.tv_nsec << 32 ^ (uint64_t)now.tv_sec;
}

spc_ngram *spc_ngram_open(spc_ngram_span span, int64_t tokens)
{
    int64_t most = tokens + SPC_GAMMA_MAX + 1;
    spc_ngram *n = most < INT32_MAX ? calloc(1, sizeof *n) : NULL;

    assert(span.least >= 1 && span.most >= span.least && span.most <= SPC_NGRAM_LONGEST);
    assert(tokens > 0);
    if (!n) return NULL;
    n->span = span;
    n->most = most;
    n->seed = seed_of(n);
    n->slots = (uint64_t)most + (uint64_t)most / 2;
    n->token = malloc((size_t)most * sizeof *n->token);
    n->latest = calloc((size_t)lengths_of(span) * n->slots, sizeof *n->latest);
    if (n->token && n->latest) return n;
    spc_ngram_close(n);
    return NULL;
}

void spc_ngram_close(spc_ngram *n)
{
    if (!n) return;
    free(n->token);
    free(n->latest);
    free(n);
}

/* Lengths of which an n-gram ends at a position: those that begin at or behind the text's start. */
static int32_t lengths_at(const spc_ngram *n, int64_t end)
{
    int64_t most = end + 1 < n->span.most ? end + 1 : n->span.most;

    return most < n->span.least ? 0 : (int32_t)most - n->span.least + 1;
}

/* Where a hash goes depends on all bits of it and of the seed (the finaliser of MurmurHash3):
 * tokens that are a multiple apart would lie together whatever the seed. */
static uint64_t spread(uint64_t h)
{
    h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return h ^ h >> 33;
}

/* hash: [lengths] of the n-grams that end at a position. */
static void hash_all(const spc_ngram *n, int64_t end, int32_t lengths, uint64_t *hash)
{
    int32_t longest = lengths > 0 ? n->span.least + lengths - 1 : 0;
    uint64_t h = n->seed;

    for (int32_t i = 0; i < longest; i++) {
        h = (h ^ (uint64_t)n->token[end - i]) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
        if (i + 1 >= n->span.least) hash[i + 1 - n->span.least] = spread(h ^ n->seed);
    }
}

/* The entry of the n-gram of some length that ends at a position: its latest place, or 0 where it
 * is to be put. */
static int32_t *entry_of(const spc_ngram *n, int32_t length, uint64_t hash, int64_t end)
{
    int32_t *table = n->latest + (uint64_t)length * n->slots;
    size_t bytes = (size_t)(n->span.least + length) * sizeof *n->token;
    const int32_t *token = n->token + end + 1 - (n->span.least + length);
    uint64_t at = ((hash >> 32) * n->slots) >> 32;

    /* short, on average, as a third of a table stays empty, and nobody knows where things go */
    while (table[at] != 0) {
        if (memcmp(n->token + table[at] - (n->span.least + length), token, bytes) == 0) break;
        at = at + 1 < n->slots ? at + 1 : 0;
    }
    return &table[at];
}

/* One more token: the one before it becomes the end of a place.
 *
 * drafted   it will be taken back */
static void push(spc_ngram *n, int32_t token, bool drafted)
{
    uint64_t hash[SPC_NGRAM_LONGEST];
    int64_t end = n->length - 1;
    int32_t lengths = lengths_at(n, end);

    assert(n->length < n->most);
    n->token[n->length++] = token;
    hash_all(n, end, lengths, hash);
    for (int32_t i = 0; i < lengths; i++) {
        int32_t *entry = entry_of(n, i, hash[i], end);

        if (drafted) n->undo[n->undo_count++] = (replaced){entry, *entry};
        *entry = (int32_t)end + 1;
    }
}

/* The tables as they were before anything was drafted.  The last place goes first: nothing that was
 * put behind an entry is there any more when that is emptied. */
static void take_back(spc_ngram *n, int32_t count)
{
    while (n->undo_count > 0) {
        const replaced *r = &n->undo[--n->undo_count];

        *r->at = r->was;
    }
    n->length -= count;
}

void spc_ngram_begin(spc_ngram *n)
{
    size_t bytes = (size_t)lengths_of(n->span) * n->slots * sizeof *n->latest;

    if (n->length > 0) memset(n->latest, 0, bytes);
    n->length = 0;
}

void spc_ngram_add(spc_ngram *n, const int32_t *token, int32_t count)
{
    for (int32_t i = 0; i < count; i++) push(n, token[i], false);
}

int64_t spc_ngram_length(const spc_ngram *n)
{
    return n->length;
}

/* The place that says what comes next; -1: none does. */
static int64_t find(const spc_ngram *n)
{
    uint64_t hash[SPC_NGRAM_LONGEST];
    int64_t end = n->length - 1;
    int32_t lengths = lengths_at(n, end);

    hash_all(n, end, lengths, hash);
    for (int32_t i = lengths - 1; i >= 0; i--) {
        int32_t place = *entry_of(n, i, hash[i], end);

        if (place != 0) return place - 1;
    }
    return -1;
}

int32_t spc_ngram_draft(spc_ngram *n, int32_t *draft, int32_t most)
{
    int32_t count = 0;

    assert(most >= 0 && most <= SPC_GAMMA_MAX + 1);
    for (; count < most; count++) {
        int64_t place = find(n);

        if (place < 0) break;
        draft[count] = n->token[place + 1];
        push(n, draft[count], true);
    }
    take_back(n, count);
    return count;
}
