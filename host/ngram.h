/* SPDX-License-Identifier: Apache-2.0 */
/* ngram.h - drafts that are looked up instead of computed ("prompt lookup"): what followed the last
 * few tokens where they stood before in the same text.
 *
 * A token is drafted from the text before it alone, drafts in front of it included as if they had
 * been kept: the most recent earlier place that ends in the same n tokens, for the longest n of
 * `most` down to `least`, says what comes next.  So a draft holds no randomness, the draft of a
 * position does not depend on where its round began, and a repetition is followed as long as it
 * goes on.
 *
 * A table for each length holds the latest place of every n-gram: a look-up, and a token that is
 * added, take a few accesses for each length, however long the text is, however often it repeats
 * and whoever wrote it. */
#ifndef SPC_HOST_NGRAM_H
#define SPC_HOST_NGRAM_H

#include "rules/rule.h"

#include <spc/status.h>

enum { SPC_NGRAM_LEAST = 2, SPC_NGRAM_MOST = 4, SPC_NGRAM_LONGEST = 16 };

/* Lengths of n-grams that are looked up; most 0: none are. */
typedef struct {
    int32_t least, most;
} spc_ngram_span;

/* Does the name of a drafter ask for n-grams?  "ngram", "ngram:..."; NULL does not. */
bool spc_ngram_is(const char *drafter);

/* "ngram": SPC_NGRAM_LEAST to SPC_NGRAM_MOST.  "ngram:MAX": least is the smaller of MAX and
 * SPC_NGRAM_LEAST.  "ngram:MIN-MAX".  1 <= MIN <= MAX <= SPC_NGRAM_LONGEST, else SPC_EUSAGE. */
spc_status spc_ngram_parse(const char *drafter, spc_ngram_span *out, spc_error *err);

/* Can drafts without a distribution be verified under a rule?  Not where it reads how sure the
 * drafter is, or runs the drafter alone.  Where it reads the drafter's row of a token without a
 * draft, that token has to be the verifier's.  SPC_EUNSUPPORTED, naming what can be done.
 *
 * text   of the rule */
spc_status spc_ngram_check_rule(const spc_rule *rule, int32_t bonus, const char *text,
                                spc_error *err);

/* ---- one text ---------------------------------------------------------------------------------
 */

typedef struct spc_ngram spc_ngram;

/* For a text of at most so many tokens, and what is drafted behind it.  NULL: no memory. */
spc_ngram *spc_ngram_open(spc_ngram_span span, int64_t tokens);
void spc_ngram_close(spc_ngram *ngram); /* NULL allowed */

/* The text begins anew, with nothing. */
void spc_ngram_begin(spc_ngram *ngram);
/* It goes on: token [count], >= 0. */
void spc_ngram_add(spc_ngram *ngram, const int32_t *token, int32_t count);
/* Tokens added since it began. */
int64_t spc_ngram_length(const spc_ngram *ngram);

/* Draft what may follow: at most `most` tokens, 0 to SPC_GAMMA_MAX + 1 of them, up to the first
 * that no place suggests.  The text stays as it is.
 *
 * draft   [most]
 *
 * Returns how many there are. */
int32_t spc_ngram_draft(spc_ngram *ngram, int32_t *draft, int32_t most);

#endif
