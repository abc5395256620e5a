/* SPDX-License-Identifier: Apache-2.0 */
/* prefix.c - noting what pages hold, and finding it again. */
#include "prefix.h"

#include "session.h"

/* Whole pages that a model holds of what was kept; behind it may be drafts. */
static int32_t whole_pages(const spc_session *s, const spc_model *model)
{
    int32_t held = model->runner ? s->engine->ops->length(model->runner, s->slot) : 0;

    return (held < s->length - 1 ? held : s->length - 1) / SPC_PAGE_TOKENS;
}

static uint64_t name_before(const spc_session *s, int32_t page)
{
    return page > 0 ? s->engine->pages.page[s->page[page - 1]].name : 0;
}

void spc_prefix_note(spc_session *s)
{
    const spc_model *models[] = {&s->engine->verifier, &s->engine->drafter};
    spc_pages *pages = &s->engine->pages;

    if (s->engine->prefix_off || s->slot < 0 || s->finish == SPC_FINISH_FAILED) return;
    for (int32_t m = 0; m < 2; m++) {
        int32_t held = whole_pages(s, models[m]);

        for (; s->named < held; s->named++) {
            (void)spc_pages_name(pages, s->page[s->named], name_before(s, s->named),
                                 s->token + s->named * SPC_PAGE_TOKENS);
        }
        for (; s->noted[m] < held; s->noted[m]++) {
            pages->page[s->page[s->noted[m]]].held |= (uint32_t)SPC_HELD_VERIFIER << m;
        }
    }
}

int32_t spc_prefix_find(const spc_engine *engine, const int32_t *prompt, int32_t count,
                        int32_t *page)
{
    int32_t most = engine->prefix_off ? 0 : (count - 1) / SPC_PAGE_TOKENS, found = 0;
    uint64_t name = 0;

    for (; found < most; found++) {
        page[found] = spc_pages_find(&engine->pages, name, prompt + found * SPC_PAGE_TOKENS);
        if (page[found] < 0) break;
        name = engine->pages.page[page[found]].name;
    }
    return found;
}

void spc_prefix_begin(spc_session *s, int32_t pages)
{
    s->named = pages;
    for (int32_t m = 0; m < 2; m++) {
        s->noted[m] = 0;
        while (s->noted[m] < pages && (s->engine->pages.page[s->page[s->noted[m]]].held &
                                       (uint32_t)SPC_HELD_VERIFIER << m) != 0) {
            s->noted[m]++;
        }
    }
}

void spc_prefix_cut(spc_session *s, int32_t length)
{
    int32_t left = length / SPC_PAGE_TOKENS;

    if (s->named > left) s->named = left;
    for (int32_t m = 0; m < 2; m++) {
        if (s->noted[m] > left) s->noted[m] = left;
    }
}

void spc_prefix_forget(spc_session *s)
{
    spc_pages *pages = &s->engine->pages;

    for (int32_t i = 0; i < s->page_count; i++) {
        if (pages->page[s->page[i]].users == 1) spc_pages_forget(pages, s->page[i]);
    }
    spc_prefix_cut(s, 0);
}
