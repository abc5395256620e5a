/* SPDX-License-Identifier: Apache-2.0 */
/* toycrowd.h - a batch of any number of sequences: rules, modes and draft lengths of their own,
 * rows one behind the other at addresses of single elements; behind toybatch.h and toyshard.h. */
#ifndef SPC_TESTS_TOYCROWD_H
#define SPC_TESTS_TOYCROWD_H

enum { CROWD_DRAFTS = 8, CROWD_ROWS = CROWD_DRAFTS + 1 };

typedef struct {
    int32_t sequences, vocab;
    int64_t rows, stride;
    spc_row_params *params; /* [sequences] */
    float *drafter;         /* [rows, stride], NaN behind each row; behind one element */
    float *verifier;
    int64_t *row, *position;
    uint32_t *salt;
    int32_t *drafts, *bonus;
    int32_t *draft; /* [sequences, CROWD_DRAFTS] */
    spc_row_stats *stats;
    int32_t *token; /* [sequences, CROWD_ROWS] */
    int32_t *count;
    uint32_t *status;
    spc_verdict *verdict;
} crowd;

/* A row pair, the two not far from each other. */
static inline void crowd_rows(crowd *c, dice *d, int64_t row)
{
    float *drafter = c->drafter + row * c->stride, *verifier = c->verifier + row * c->stride;

    for (int32_t v = 0; v < c->vocab; v++) {
        uint64_t word = dice_word(d);

        verifier[v] = (float)(word >> 40) * 6.0f / 0x1p24f;
        drafter[v] = verifier[v] + (float)(word & 0xffff) / 0x1p16f;
    }
    for (int64_t v = c->vocab; v < c->stride; v++) drafter[v] = verifier[v] = NAN;
}

static inline void crowd_draft(crowd *c, int32_t s)
{
    const spc_row_params *p = &c->params[s];

    for (int32_t i = 0; i < c->drafts[s]; i++) {
        c->draft[s * CROWD_DRAFTS + i] =
            spc_draft_sample(c->drafter + (c->row[s] + i) * c->stride, c->vocab, p,
                             c->position[s] + i, c->salt[s], &c->stats[s * CROWD_DRAFTS + i]);
    }
}

/* `most`: drafts of the longest sequence. */
static inline crowd crowd_of(int32_t sequences, int32_t vocab, int32_t most,
                             const char *const *rules, int32_t rule_count)
{
    const size_t n = (size_t)sequences;
    crowd c = {.sequences = sequences, .vocab = vocab, .stride = vocab + 3};
    dice d = {(uint64_t)vocab};

    c.params = shared(n * sizeof *c.params);
    c.row = shared(n * sizeof *c.row);
    c.position = shared(n * sizeof *c.position);
    c.salt = shared(n * sizeof *c.salt);
    c.drafts = shared(n * sizeof *c.drafts);
    c.bonus = shared(n * sizeof *c.bonus);
    c.draft = shared(n * CROWD_DRAFTS * sizeof *c.draft);
    c.stats = shared(n * CROWD_DRAFTS * sizeof *c.stats);
    c.token = shared(n * CROWD_ROWS * sizeof *c.token);
    c.count = shared(n * sizeof *c.count);
    c.status = shared(n * sizeof *c.status);
    c.verdict = shared(n * sizeof *c.verdict);
    for (int32_t s = 0; s < sequences; s++) {
        c.params[s] = params_in_mode(rules[s % rule_count], s / rule_count % MODES);
        c.params[s].seed = 1000 + (uint64_t)s;
        c.position[s] = 5 + s % 7;
        c.salt[s] = c.params[s].verify == SPC_VERIFY_BLOCK ? (uint32_t)c.position[s] + 1 : 0;
        c.drafts[s] = (s * 5 + 1) % (most + 1);
        c.bonus[s] = s % 4 != 3;
        c.row[s] = c.rows;
        c.rows += c.drafts[s] + 1;
    }
    c.drafter = (float *)shared((size_t)(c.rows * c.stride + 1) * sizeof(float)) + 1;
    c.verifier = (float *)shared((size_t)(c.rows * c.stride + 1) * sizeof(float)) + 1;
    for (int64_t row = 0; row < c.rows; row++) crowd_rows(&c, &d, row);
    for (int32_t s = 0; s < sequences; s++) crowd_draft(&c, s);
    return c;
}

static inline void crowd_free(crowd *c)
{
    void *all[] = {c->params, c->row,     c->position,    c->salt,        c->drafts,
                   c->bonus,  c->draft,   c->stats,       c->token,       c->count,
                   c->status, c->verdict, c->drafter - 1, c->verifier - 1};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) unshare(all[i]);
}

/* Of the first sequences. */
static inline spc_verify_batch crowd_batch(const crowd *c, int32_t sequences)
{
    return (spc_verify_batch){.sequences = sequences,
                              .vocab = c->vocab,
                              .max_drafts = CROWD_DRAFTS,
                              .params = c->params,
                              .drafter = {{c->drafter, SPC_LOGITS_F32}, c->stride, c->vocab},
                              .drafter_row = c->row,
                              .verifier = {{c->verifier, SPC_LOGITS_F32}, c->stride, c->vocab},
                              .verifier_row = c->row,
                              .drafts = c->drafts,
                              .draft = c->draft,
                              .stats = c->stats,
                              .position = c->position,
                              .salt = c->salt,
                              .bonus = c->bonus,
                              .token = c->token,
                              .count = c->count,
                              .status = c->status,
                              .verdict = c->verdict};
}

static inline void crowd_clear(crowd *c)
{
    const size_t n = (size_t)c->sequences;

    memset(c->token, 0xa5, n * CROWD_ROWS * sizeof *c->token);
    memset(c->count, 0xa5, n * sizeof *c->count);
    memset(c->status, 0xa5, n * sizeof *c->status);
    memset(c->verdict, 0xa5, n * sizeof *c->verdict);
}

/* Rows as spc_verify likes them: aligned, without anything between. */
static inline float *crowd_tight(const crowd *c, const float *rows, int32_t s)
{
    float *tight = malloc((size_t)CROWD_ROWS * (size_t)c->vocab * sizeof *tight);

    cr_assert_not_null(tight);
    for (int32_t i = 0; i <= c->drafts[s]; i++) {
        memcpy(tight + (size_t)i * (size_t)c->vocab, rows + (c->row[s] + i) * c->stride,
               (size_t)c->vocab * sizeof *tight);
    }
    return tight;
}

/* The first sequences were decided as spc_verify decides each; the others were not touched. */
static inline void crowd_expect(const crowd *c, int32_t sequences, const char *what)
{
    for (int32_t s = 0; s < sequences; s++) {
        float *drafter = crowd_tight(c, c->drafter, s), *verifier = crowd_tight(c, c->verifier, s);
        spc_verify_args a = {.params = &c->params[s],
                             .drafter = drafter,
                             .verifier = verifier,
                             .drafter_stride = c->vocab,
                             .verifier_stride = c->vocab,
                             .vocab = c->vocab,
                             .drafts = c->drafts[s],
                             .draft = c->draft + s * CROWD_DRAFTS,
                             .stats = c->stats + s * CROWD_DRAFTS,
                             .position = c->position[s],
                             .salt = c->salt[s],
                             .bonus = c->bonus[s] != 0};
        spc_verdict want;

        spc_verify(&a, &want);
        cr_assert(memcmp(&c->verdict[s], &want, sizeof want) == 0,
                  "%s, sequence %d: count %d status %x token %d, want %d %x %d", what, (int)s,
                  (int)c->verdict[s].count, c->verdict[s].status, (int)c->verdict[s].token[0],
                  (int)want.count, want.status, (int)want.token[0]);
        cr_assert(c->count[s] == want.count && c->status[s] == want.status, "%s, %d", what, (int)s);
        for (int32_t i = 0; i < CROWD_ROWS; i++) {
            cr_assert_eq(c->token[s * CROWD_ROWS + i], want.token[i], "%s, %d", what, (int)s);
        }
        free(drafter);
        free(verifier);
    }
    for (int32_t s = sequences; s < c->sequences; s++) {
        cr_assert_eq((uint32_t)c->count[s], 0xa5a5a5a5u, "%s, %d was not there", what, (int)s);
        cr_assert_eq((uint32_t)c->token[s * CROWD_ROWS], 0xa5a5a5a5u);
    }
}

/* All of them, by ranks that see their slices of the same rows. */
static inline void crowd_slices(const toy_shard_calls *calls, const crowd *c, int32_t world,
                                const char *what)
{
    const size_t n = (size_t)c->sequences;
    spc_shard_bytes most = spc_shard_sizes(c->params, c->sequences, CROWD_DRAFTS, c->vocab, world);
    size_t answer = most.first > most.later ? most.first : most.later;
    toy_ranks ranks = {.world = world};
    spc_verify_batch part[WORLD_MOST];
    void *answers = on_device((size_t)world * n * answer);
    int32_t step = 0;
    spc_error err;

    for (int32_t k = 0; k < world; k++) {
        ranks.rank[k] = (spc_shards){.rank = k,
                                     .world = world,
                                     .drafter_whole = 1,
                                     .state = on_device(n * most.state),
                                     .state_bytes = most.state,
                                     .answers = answers,
                                     .left = shared(16)};
        part[k] = crowd_batch(c, c->sequences);
        part[k].verifier.logits.data = c->verifier + spc_shard_first(c->vocab, k, world);
    }
    send(&ranks, spc_verify_first_bytes(&part[0], &ranks.rank[0]));
    do {
        for (int32_t k = 0; k < world; k++) {
            cr_assert_eq(calls->verify_partial(&part[k], &ranks.rank[k], step, NULL, &err), SPC_OK,
                         "%s: %s", what, err.message);
        }
        for (int32_t k = 0; k < world; k++) {
            cr_assert_eq(calls->verify_combine(&part[k], &ranks.rank[k], step, NULL, &err), SPC_OK,
                         "%s: %s", what, err.message);
        }
        step++;
    } while (is_left(&ranks, what));
    ranks_free(&ranks);
}

/* Vocabularies of published models, their neighbours and edges of tiles. */
static const int32_t crowd_vocabs[] = {1,      2,      7,      111,   4095,   4096,
                                       4097,   32000,  32001,  50257, 128256, 151936,
                                       152064, 200019, 256128, 262144};

#endif
