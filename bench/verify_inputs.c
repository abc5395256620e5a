/* SPDX-License-Identifier: Apache-2.0 */
/* verify_inputs.c - what bench_verify works on. */
#include "verify_inputs.h"

#include "rules/round.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROTATED_BYTES 4e8

static uint64_t random_word(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static double random_unit(uint64_t *state)
{
    return (double)(random_word(state) >> 11) * 0x1p-53;
}

void inputs_noise(float *noise)
{
    uint64_t state = 1;

    for (int32_t i = 0; i < NOISE; i++) {
        double radius = sqrt(-2 * log(1 - random_unit(&state)));

        noise[i] = (float)(radius * cos(6.283185307179586 * random_unit(&state)));
    }
}

static void *get(bench *b, size_t bytes)
{
    void *memory = b->at->allocate(b->at, bytes);

    if (memory) b->owned[b->owned_count++] = memory;
    return memory;
}

static void store(const bench *b, char *row, int32_t v, float x)
{
    if (b->element == 4) {
        ((float *)(void *)row)[v] = x;
    } else {
        ((uint16_t *)(void *)row)[v] = spc_float_bf16(x);
    }
}

/* The element of a token's logit in the drafter's rows; -1: it does not know the token.  Those that
 * it knows lie evenly. */
static int32_t element_of(const bench *b, int32_t v)
{
    const int64_t known = b->known, vocab = b->shape.vocab;
    const int64_t element = v * known / vocab;

    return (v + 1) * known / vocab > element ? (int32_t)element : -1;
}

/* A pair of rows, with a peak that the drafter knows. */
static void fill_rows(const bench *b, uint64_t *state, char *verifier, char *drafter)
{
    int32_t vocab = b->shape.vocab, peak = (int32_t)(random_word(state) % (uint64_t)vocab);
    uint32_t tail = (uint32_t)random_word(state), other = (uint32_t)random_word(state);
    double share = 0.1 + 0.89 * random_unit(state);
    float top = (float)(log(share / (1 - share)) + log((double)vocab) + 0.5);

    while (element_of(b, peak) < 0) peak = (peak + 1) % vocab;
    for (int32_t v = 0; v < vocab; v++) {
        const int32_t element = element_of(b, v);
        float z = v == peak ? top : b->noise[(tail + (uint32_t)v) % NOISE];

        store(b, verifier, v, z);
        if (element < 0) continue;
        store(b, drafter, element, z + 0.35f * b->noise[(other + (uint32_t)v) % NOISE]);
    }
}

size_t inputs_rows_bytes(const bench *b)
{
    return (size_t)b->shape.sequences * (size_t)(b->shape.drafts + 1) * (size_t)b->stride *
           b->element;
}

static bool fill_set(bench *b, int32_t set, char *host)
{
    uint64_t state = (uint64_t)set + 17;
    size_t bytes = inputs_rows_bytes(b), row = (size_t)b->stride * b->element;

    for (size_t at = 0; at < bytes; at += row) fill_rows(b, &state, host + at, host + bytes + at);
    return b->at->copy_in(b->at, b->logits[set], host, 2 * bytes);
}

/* Which tokens those are. */
static bool fill_subset(bench *b)
{
    const int32_t vocab = b->shape.vocab, words = (vocab + 31) / 32;
    int32_t *token = malloc((size_t)b->known * sizeof *token);
    spc_subset *subset = malloc((size_t)words * sizeof *subset);
    bool ok = token && subset;

    if (b->known == vocab) {
        ok = true;
    } else if (ok) {
        for (int32_t v = 0; v < vocab; v++) {
            if (element_of(b, v) >= 0) token[element_of(b, v)] = v;
        }
        ok = spc_subset_fill(token, b->known, vocab, subset, &b->at->error) == SPC_OK &&
             (b->subset = get(b, (size_t)words * sizeof *subset)) &&
             b->at->copy_in(b->at, b->subset, subset, (size_t)words * sizeof *subset);
    }
    free(token);
    free(subset);
    return ok;
}

/* Arrays whose contents the shape decides. */
static bool fill_arrays(bench *b)
{
    size_t n = (size_t)b->shape.sequences, rows = (size_t)b->shape.drafts + 1;
    int64_t *number = malloc(2 * n * rows * sizeof *number);
    int32_t *length = malloc(n * sizeof *length);
    uint32_t *salt = malloc(n * sizeof *salt);
    bool ok = number && length && salt;

    for (size_t i = 0; ok && i < n * rows; i++) {
        number[i] = (int64_t)(i % n * rows + i / n);
        number[n * rows + i] = POSITION + (int64_t)(i / n);
    }
    for (size_t s = 0; ok && s < n; s++) {
        length[s] = b->shape.drafts;
        salt[s] = b->o->block ? POSITION + 1 : 0;
    }
    ok = ok && b->at->copy_in(b->at, b->row, number, n * rows * sizeof *number) &&
         b->at->copy_in(b->at, b->position, number + n * rows, n * rows * sizeof *number) &&
         b->at->copy_in(b->at, b->drafts, length, n * sizeof *length) &&
         b->at->copy_in(b->at, b->salt, salt, n * sizeof *salt);
    free(number);
    free(length);
    free(salt);
    return ok;
}

static bool get_arrays(bench *b)
{
    size_t n = (size_t)b->shape.sequences, g = (size_t)b->shape.drafts, rows = g + 1;

    b->workspace_bytes = spc_workspace_bytes(b->shape.sequences, b->shape.drafts, b->shape.vocab);
    return (b->params = get(b, n * sizeof *b->params)) &&
           (b->row = get(b, n * rows * sizeof *b->row)) &&
           (b->position = get(b, n * rows * sizeof *b->position)) &&
           (b->salt = get(b, n * sizeof *b->salt)) && (b->drafts = get(b, n * sizeof *b->drafts)) &&
           (b->drawn = get(b, n * sizeof *b->drawn)) &&
           (b->drawn_stats = get(b, n * sizeof *b->drawn_stats)) &&
           (b->token = get(b, n * rows * sizeof *b->token)) &&
           (b->count = get(b, n * sizeof *b->count)) &&
           (b->accepted = get(b, n * sizeof *b->accepted)) &&
           (b->status = get(b, n * sizeof *b->status)) &&
           (b->verdict = get(b, n * sizeof *b->verdict)) &&
           (b->workspace = get(b, b->workspace_bytes)) &&
           b->at->prepare(b->workspace, b->workspace_bytes, b->at->stream, &b->at->error) == SPC_OK;
}

bool inputs_open(bench *b)
{
    size_t set_bytes, cells = (size_t)b->shape.sequences * (size_t)b->shape.drafts;
    char *host;
    bool ok;

    b->element = b->o->f32 ? 4 : 2;
    b->stride = (b->shape.vocab + 7) / 8 * 8;
    b->known = b->o->known > 0 && b->o->known < b->shape.vocab ? b->o->known : b->shape.vocab;
    b->subset = NULL;
    set_bytes = 2 * inputs_rows_bytes(b);
    b->sets = (int32_t)fmin(SETS_MAX, fmax(3, ceil(ROTATED_BYTES / ((double)set_bytes / 2))));
    if (!b->at->device) b->sets = 3;
    if (b->sets > b->o->runs) b->sets = b->o->runs; /* no more are met */
    host = calloc(1, set_bytes);
    ok = host && get_arrays(b) && fill_arrays(b) && fill_subset(b);
    for (int32_t s = 0; ok && s < b->sets; s++) {
        ok = (b->logits[s] = get(b, set_bytes)) &&
             (b->draft[s] = get(b, cells * sizeof(int32_t))) &&
             (b->stats[s] = get(b, cells * sizeof(spc_row_stats))) && fill_set(b, s, host);
    }
    if (!host) (void)spc_error_set(&b->at->error, SPC_ENOMEM, "no memory for %zu bytes", set_bytes);
    free(host);
    return ok;
}

void inputs_close(bench *b)
{
    for (int32_t i = 0; i < b->owned_count; i++) b->at->release(b->owned[i]);
    b->owned_count = 0;
}
