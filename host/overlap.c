/* SPDX-License-Identifier: Apache-2.0 */
/* overlap.c - two ways to run rounds, and which of them is faster. */
#include "overlap.h"

/* A way must be better by this to take the other's place. */
static const double margin = 0.02;
/* What every round leaves of the uses before it: about 50 of them count. */
static const double fade = 0.98;
/* Rounds that count at least for a mean, and about so many that it is of. */
enum { MEAN_LEAST = 4, MEAN_OF = 16 };

int32_t spc_overlap_choose(spc_overlap *o, int32_t gamma)
{
    double fit;

    o->gamma = gamma;
    if (o->mode != SPC_OVERLAP_AUTO) o->on = o->mode == SPC_OVERLAP_ON;
    if (!o->on) return 0;
    if (!(o->draft_ns > 0) || !(o->verify_ns[gamma] > 0)) return gamma + 1;
    fit = o->verify_ns[gamma] / o->draft_ns;
    if (fit < 1) return 1;
    return fit > gamma + 1 ? gamma + 1 : (int32_t)fit;
}

static int32_t block_of(const spc_overlap *o)
{
    return o->block > 0 ? o->block : SPC_OVERLAP_BLOCK;
}

bool spc_overlap_stays(const spc_overlap *o)
{
    return o->mode != SPC_OVERLAP_AUTO || o->rounds + 1 < block_of(o);
}

bool spc_overlap_stays_off(const spc_overlap *o)
{
    return spc_overlap_stays(o) &&
           (o->mode == SPC_OVERLAP_AUTO ? !o->on : o->mode == SPC_OVERLAP_OFF);
}

/* How many rounds a mean is of. */
static int32_t counted(const spc_overlap_time *t)
{
    return t->rounds - SPC_OVERLAP_BLOCK;
}

/* One more round; a hiccup counts as two at most. */
static void learn(spc_overlap_time *t, double ns)
{
    int32_t n;

    if (t->rounds < SPC_OVERLAP_BLOCK + MEAN_OF) t->rounds++;
    n = counted(t);
    if (n < 1) return;
    if (n > MEAN_LEAST && ns > 2 * t->ns) ns = 2 * t->ns;
    t->ns += (ns - t->ns) / n;
}

/* Time of a round of g drafts, gone one way; that of the nearest length seen, and so many drafts
 * more or less, where this one was not.  0: none was. */
static double time_at(const spc_overlap *o, bool on, int32_t g)
{
    const spc_overlap_time *time = o->time[on];

    for (int32_t apart = 0; apart < SPC_OVERLAP_LENGTHS; apart++) {
        int32_t less = g - apart, more = g + apart;

        if (less >= 0 && counted(&time[less]) >= MEAN_LEAST) {
            return time[less].ns + apart * o->draft_ns;
        }
        if (more < SPC_OVERLAP_LENGTHS && counted(&time[more]) >= MEAN_LEAST) {
            double ns = time[more].ns - apart * o->draft_ns;

            return ns > 0 ? ns : time[more].ns;
        }
    }
    return 0;
}

/* Times of the lengths in use, gone either way. */
static void times_in_use(const spc_overlap *o, double ns[2])
{
    ns[0] = ns[1] = 0;
    for (int32_t g = 0; g < SPC_OVERLAP_LENGTHS; g++) {
        ns[0] += o->use[g] * time_at(o, false, g);
        ns[1] += o->use[g] * time_at(o, true, g);
    }
}

/* Which way the next block goes: in turns until both have been seen. */
static bool next_way(spc_overlap *o)
{
    double ns[2];

    times_in_use(o, ns);
    if (!(ns[0] > 0) || !(ns[1] > 0)) return !o->on;
    if (ns[!o->best] < ns[o->best] * (1 - margin)) o->best = !o->best;
    if (o->on == o->best && ++o->since >= SPC_OVERLAP_PROBE) {
        o->since = 0;
        return !o->best;
    }
    return o->best;
}

void spc_overlap_note(spc_overlap *o, uint64_t ns, int32_t drafts, uint64_t draft_ns,
                      uint64_t verify_ns)
{
    spc_overlap_time *time = &o->time[o->on][o->gamma];
    double *verify = &o->verify_ns[o->gamma];

    if (o->mode != SPC_OVERLAP_AUTO) return;
    for (int32_t g = 0; g < SPC_OVERLAP_LENGTHS; g++) o->use[g] *= fade;
    o->use[o->gamma]++;
    learn(time, (double)ns);
    if (!o->on && counted(time) > 0 && drafts > 0) {
        double draft = (double)draft_ns / drafts;

        o->draft_ns += (o->draft_ns > 0 ? 0.1 : 1) * (draft - o->draft_ns);
        *verify += (*verify > 0 ? 0.1 : 1) * ((double)verify_ns - *verify);
    }
    if (++o->rounds < block_of(o)) return;
    o->rounds = 0;
    o->on = next_way(o);
}
