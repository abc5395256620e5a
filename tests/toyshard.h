/* SPDX-License-Identifier: Apache-2.0 */
/* toyshard.h - ranks that hold slices of a batch, one after the other in one thread; behind
 * toybatch.h. */
#ifndef SPC_TESTS_TOYSHARD_H
#define SPC_TESTS_TOYSHARD_H

enum { WORLD_MOST = 8 };

typedef spc_status toy_verify_call(const spc_verify_batch *, const spc_shards *, int32_t,
                                   spc_stream, spc_error *);
typedef spc_status toy_draw_call(const spc_draw_batch *, const spc_shards *, int32_t, spc_stream,
                                 spc_error *);

typedef struct {
    toy_verify_call *verify_partial, *verify_combine;
    toy_draw_call *draw_partial, *draw_combine;
} toy_shard_calls;

/* Ranks over one buffer of answers: the gathering is done by writing to one place. */
typedef struct {
    int32_t world;
    spc_shards rank[WORLD_MOST];
    void *slice[WORLD_MOST][2]; /* verifier's, drafter's */
} toy_ranks;

/* A rank's slice of `rows` rows, with two elements between the slices that nobody may read. */
static inline void *slice_of(spc_logit_rows whole, int32_t rows, int32_t vocab,
                             const spc_shards *shards, int64_t *stride)
{
    spc_cuts cuts = spc_cuts_of(shards, vocab);
    size_t size = whole.logits.type == SPC_LOGITS_F32 ? 4 : 2;
    int32_t first = spc_cut_first(&cuts, shards->rank);
    int32_t last = spc_cut_first(&cuts, shards->rank + 1);
    size_t count = (size_t)(last - first), row = (count + 2) * size;
    char *slice = shared((size_t)rows * row);

    memset(slice, 0xff, (size_t)rows * row); /* NaN */
    for (int32_t r = 0; r < rows; r++) {
        const char *from = whole.logits.data;

        memcpy(slice + (size_t)r * row, from + ((size_t)(r * whole.stride) + (size_t)first) * size,
               count * size);
    }
    *stride = (int64_t)count + 2;
    return slice;
}

static inline toy_ranks ranks_of(const spc_row_params *params, int32_t max_drafts, int32_t vocab,
                                 int32_t world, bool drafter_whole)
{
    toy_ranks ranks = {.world = world};
    int32_t padded = world % 2 ? vocab : vocab + 3 * SPC_TILE; /* cuts elsewhere, idle ranks */
    spc_shard_bytes most = spc_shard_sizes(params, SEQUENCES, max_drafts, padded, world);
    size_t answer = most.first > most.later ? most.first : most.later;
    void *answers = on_device((size_t)world * SEQUENCES * answer);

    for (int32_t k = 0; k < world; k++) {
        ranks.rank[k] = (spc_shards){.rank = k,
                                     .world = world,
                                     .cut = world % 2 ? 0 : padded,
                                     .drafter_whole = drafter_whole,
                                     .state = on_device(SEQUENCES * most.state),
                                     .state_bytes = most.state,
                                     .answers = answers,
                                     .left = shared(16)};
    }
    return ranks;
}

static inline void ranks_free(toy_ranks *ranks)
{
    unshare(ranks->rank[0].answers);
    for (int32_t k = 0; k < ranks->world; k++) {
        unshare(ranks->rank[k].state);
        unshare(ranks->rank[k].left);
        if (ranks->slice[k][0]) unshare(ranks->slice[k][0]);
        if (ranks->slice[k][1]) unshare(ranks->slice[k][1]);
    }
}

/* The same batch with results of its own. */
static inline spc_verify_batch verify_to(const spc_verify_batch *v, results *out)
{
    spc_verify_batch own = *v;

    own.token = out->token;
    own.count = out->count;
    own.status = out->status;
    own.accepted = out->accepted;
    own.verdict = out->verdict;
    if (own.detail) own.detail = out->detail;
    return own;
}

/* What every rank sends next, which is all there is room for. */
static inline void send(toy_ranks *ranks, size_t bytes)
{
    for (int32_t k = 0; k < ranks->world; k++) ranks->rank[k].send_bytes = bytes;
}

/* Is anything left?  All ranks agree on what, and on how much they send. */
static inline bool is_left(toy_ranks *ranks, const char *what)
{
    const int64_t *left = ranks->rank[0].left;

    for (int32_t k = 1; k < ranks->world; k++) {
        cr_assert_eq(ranks->rank[k].left[0], left[0], "%s: ranks differ", what);
        cr_assert_eq(ranks->rank[k].left[1], left[1], "%s: ranks differ", what);
    }
    send(ranks, (size_t)left[1]);
    return left[0] > 0;
}

/* Decide a batch by `world` ranks and expect of each what is wanted.  Returns the number of steps.
 */
static inline int32_t verify_sliced(const toy_shard_calls *calls, const spc_verify_batch *v,
                                    const results *want, int32_t world, bool drafter_whole,
                                    const char *what)
{
    toy_ranks ranks = ranks_of(v->params, v->max_drafts, v->vocab, world, drafter_whole);
    spc_verify_batch cut[WORLD_MOST];
    results *out[WORLD_MOST];
    int32_t step = 0;
    spc_error err;

    for (int32_t k = 0; k < world; k++) {
        out[k] = shared(sizeof *out[k]);
        cut[k] = verify_to(v, out[k]);
        cut[k].verifier.logits.data = ranks.slice[k][0] = slice_of(
            v->verifier, SEQUENCES * ROWS, v->vocab, &ranks.rank[k], &cut[k].verifier.stride);
        if (drafter_whole || !v->drafter.logits.data) continue;
        cut[k].drafter.logits.data = ranks.slice[k][1] = slice_of(
            v->drafter, SEQUENCES * ROWS, v->vocab, &ranks.rank[k], &cut[k].drafter.stride);
    }
    send(&ranks, spc_verify_first_bytes(v, &ranks.rank[0]));
    do {
        for (int32_t k = 0; k < world; k++) {
            cr_assert_eq(calls->verify_partial(&cut[k], &ranks.rank[k], step, NULL, &err), SPC_OK,
                         "%s: %s", what, err.message);
        }
        for (int32_t k = 0; k < world; k++) {
            cr_assert_eq(calls->verify_combine(&cut[k], &ranks.rank[k], step, NULL, &err), SPC_OK,
                         "%s: %s", what, err.message);
        }
        step++;
    } while (is_left(&ranks, what));
    for (int32_t k = 0; k < world; k++) {
        expect_same_results(out[k], want, what);
        unshare(out[k]);
    }
    ranks_free(&ranks);
    return step;
}

/* What a draw leaves. */
typedef struct {
    int32_t token[SEQUENCES];
    spc_row_stats stats[SEQUENCES];
    float log_probability[SEQUENCES];
} draws;

static inline spc_draw_batch draw_to(const spc_draw_batch *d, draws *out)
{
    spc_draw_batch own = *d;

    if (own.token) own.token = out->token;
    own.stats = out->stats;
    if (own.token) own.log_probability = out->log_probability;
    return own;
}

/* Nothing but the mark means anything in the statistics of a bad row. */
static inline void clear_bad(draws *out)
{
    for (int32_t s = 0; s < SEQUENCES; s++) {
        if (out->stats[s].bad) out->stats[s] = (spc_row_stats){.bad = 1};
    }
}

/* want is cleared of what means nothing. */
static inline void draw_sliced(const toy_shard_calls *calls, const spc_draw_batch *d, draws *want,
                               int32_t world, const char *what)
{
    toy_ranks ranks = ranks_of(d->params, 0, d->vocab, world, false);
    spc_draw_batch cut[WORLD_MOST];
    draws *out[WORLD_MOST];
    int32_t step = 0;
    spc_error err;

    for (int32_t k = 0; k < world; k++) {
        out[k] = shared(sizeof *out[k]);
        cut[k] = draw_to(d, out[k]);
        cut[k].logits.logits.data = ranks.slice[k][0] =
            slice_of(d->logits, SEQUENCES * ROWS, d->vocab, &ranks.rank[k], &cut[k].logits.stride);
    }
    send(&ranks, spc_draw_first_bytes(d, &ranks.rank[0]));
    do {
        for (int32_t k = 0; k < world; k++) {
            cr_assert_eq(calls->draw_partial(&cut[k], &ranks.rank[k], step, NULL, &err), SPC_OK,
                         "%s: %s", what, err.message);
        }
        for (int32_t k = 0; k < world; k++) {
            cr_assert_eq(calls->draw_combine(&cut[k], &ranks.rank[k], step, NULL, &err), SPC_OK,
                         "%s: %s", what, err.message);
        }
        step++;
    } while (is_left(&ranks, what));
    clear_bad(want);
    for (int32_t k = 0; k < world; k++) {
        clear_bad(out[k]);
        for (int32_t s = 0; s < SEQUENCES; s++) {
            cr_assert(memcmp(&out[k]->stats[s], &want->stats[s], sizeof want->stats[s]) == 0,
                      "%s: statistics of %d: sum %a cut %a, want %a %a", what, s,
                      (double)out[k]->stats[s].sum, (double)out[k]->stats[s].cut,
                      (double)want->stats[s].sum, (double)want->stats[s].cut);
        }
        cr_assert(memcmp(out[k], want, sizeof *want) == 0, "%s: rank %d of %d", what, k, world);
        unshare(out[k]);
    }
    ranks_free(&ranks);
}

#endif
