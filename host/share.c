/* SPDX-License-Identifier: Apache-2.0 */
/* share.c - prompts that begin alike and come together: a system prompt before every question, one
 * prompt for many samples.
 *
 * Of sessions that are stepped together the first runs what others have in common with it; these
 * wait meanwhile, and take its pages over (prefix.h), as those do that come later.  Who leads is
 * found anew in every step: it may have ended, and then another does.  The first of a step's
 * sessions follows nobody, so that some prompt always goes on.
 *
 * A model may begin to read behind a text that has begun: the drafter where it comes to be worth it
 * (gamma.c), the verifier where it is asked (token-chow).  Of sessions that have the pages of their
 * prompt in common one reads it then, too. */
#include "session.h"

/* Tokens that are worth waiting for, as who follows begins a step later; who waits already does so
 * to the end. */
enum { WORTH = 64 };

static int32_t worth(const spc_session *s)
{
    return s->follows ? SPC_PAGE_TOKENS : WORTH;
}

static bool has_begun(const spc_session *s)
{
    return s->length > s->prompt;
}

/* Does it lack that much? */
static bool may_share(const spc_session *s, int32_t least)
{
    if (s->slot < 0 || s->waits || s->finish != SPC_FINISH_RUNNING || s->source) return false;
    return spc_fill_lacks(s, &s->engine->verifier) >= least ||
           spc_fill_lacks(s, &s->engine->drafter) >= least;
}

/* Whole pages of tokens that two prompts begin with, each but for its last token, as a number of
 * tokens; pages that both have in their tables are not compared.  One that has begun keeps its
 * table: of others' pages it has no use. */
static int32_t common_tokens(const spc_session *lead, const spc_session *s)
{
    int32_t most = (lead->length < s->length ? lead->length : s->length) - 1, at = 0;

    while (at + SPC_PAGE_TOKENS <= most &&
           lead->page[at / SPC_PAGE_TOKENS] == s->page[at / SPC_PAGE_TOKENS]) {
        at += SPC_PAGE_TOKENS;
    }
    if (has_begun(s)) return at;
    while (at < most && lead->token[at] == s->token[at]) at++;
    return at / SPC_PAGE_TOKENS * SPC_PAGE_TOKENS;
}

/* Where the last token lies that two prompts must at least have in common for `s` to wait for the
 * other.  Of most pairs this one differs, and no more of them is looked at: a burst of n prompts
 * has n * n / 2 pairs in every step. */
static int32_t last_needed(const spc_session *s, int32_t least)
{
    const spc_engine *engine = s->engine;
    const spc_model *models[] = {&engine->verifier, &engine->drafter};
    int32_t held = s->length;

    for (int m = 0; m < 2; m++) {
        if (spc_fill_lacks(s, models[m]) == 0) continue;
        int32_t has = engine->ops->length(models[m]->runner, s->slot);

        if (has < held) held = has;
    }
    return held + least - 1;
}

static bool agree_at(const spc_session *lead, const spc_session *s, int32_t at)
{
    return at < lead->length && at < s->length && lead->token[at] == s->token[at];
}

/* Is `lead` about to run enough of what `s` lacks? */
static bool leads(const spc_session *lead, const spc_session *s, int32_t least)
{
    const spc_engine *engine = s->engine;
    const spc_model *models[] = {&engine->verifier, &engine->drafter};
    int32_t common = common_tokens(lead, s);

    for (int m = 0; m < 2; m++) {
        if (spc_fill_lacks(s, models[m]) == 0 || spc_fill_lacks(lead, models[m]) == 0) continue;
        if (common - engine->ops->length(models[m]->runner, s->slot) < least) continue;
        if (engine->ops->length(models[m]->runner, lead->slot) < common) return true;
    }
    return false;
}

void spc_share_begin(spc_engine *engine, spc_session *const *sessions, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        spc_session *s = sessions[i];
        int32_t least = worth(s), last;

        s->follows = false;
        if (engine->prefix_off || !may_share(s, least)) continue;
        if (has_begun(s)) {
            spc_slots_catch_up(s);
        } else {
            spc_slots_share(s);
        }
        last = last_needed(s, least);
        for (int32_t k = 0; k < i && !s->follows; k++) {
            const spc_session *lead = sessions[k];

            s->follows = !lead->follows && agree_at(lead, s, last) && may_share(lead, 1) &&
                         leads(lead, s, least);
        }
    }
}
