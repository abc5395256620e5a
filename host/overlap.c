/* SPDX-License-Identifier: Apache-2.0 */
/* overlap.c - two ways to run rounds, and which of them is faster. */
#include "overlap.h"

#include <string.h>

/* A way must be better by this to take the other's place. */
static const double margin = 0.02;

int32_t spc_overlap_choose(spc_overlap *o, int32_t gamma)
{
    double fit;

    if (o->mode == SPC_OVERLAP_OFF) return 0;
    if (o->gamma != gamma) {
        spc_overlap_mode mode = o->mode;

        memset(o, 0, sizeof *o);
        o->mode = mode;
        o->gamma = gamma;
    }
    if (o->mode == SPC_OVERLAP_ON) o->on = true;
    if (!o->on) return 0;
    if (!(o->draft_ns > 0)) return gamma + 1;
    fit = o->verify_ns / o->draft_ns;
    if (fit < 1) return 1;
    return fit > gamma + 1 ? gamma + 1 : (int32_t)fit;
}

/* Which way the next block goes. */
static bool next_way(spc_overlap *o)
{
    const spc_overlap_way *off = &o->way[0], *on = &o->way[1];

    for (int32_t blocks = 1; blocks <= 2; blocks++) { /* one to warm up, one that counts, each */
        if (off->blocks < blocks) return false;
        if (on->blocks < blocks) return true;
    }

    const spc_overlap_way *best = &o->way[o->best], *other = &o->way[!o->best];

    if (other->ns / other->tokens < best->ns / best->tokens * (1 - margin)) o->best = !o->best;
    if (o->on == o->best && ++o->since >= SPC_OVERLAP_PROBE) {
        o->since = 0;
        return !o->best;
    }
    return o->best;
}

static void end_block(spc_overlap *o)
{
    spc_overlap_way *way = &o->way[o->on];

    if (way->blocks++ > 0) {
        way->ns = way->ns / 2 + o->block_ns;
        way->tokens = way->tokens / 2 + o->block_tokens;
    }
    o->block_ns = o->block_tokens = 0;
    o->rounds = 0;
    o->on = next_way(o);
}

void spc_overlap_note(spc_overlap *o, uint64_t ns, int32_t tokens, int32_t drafts,
                      uint64_t draft_ns, uint64_t verify_ns)
{
    if (o->mode != SPC_OVERLAP_AUTO) return;
    o->block_ns += (double)ns;
    o->block_tokens += (double)tokens;
    if (!o->on && o->way[0].blocks > 0 && drafts > 0) {
        double draft = (double)draft_ns / drafts, weight = o->draft_ns > 0 ? 0.1 : 1;

        o->draft_ns += weight * (draft - o->draft_ns);
        o->verify_ns += weight * ((double)verify_ns - o->verify_ns);
    }
    if (++o->rounds == SPC_OVERLAP_BLOCK) end_block(o);
}
