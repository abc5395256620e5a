/* SPDX-License-Identifier: Apache-2.0 */
/* sweep_model.c - which model lies under a name: a sweep goes on with the one it began with. */
#include "bench/sweep.h"

#include "host/engine.h"
#include "host/ngram.h"
#include "host/ranks/hash.h"

#include <string.h>

/* Looked at of every tensor: a file of gigabytes is not read twice, and one that was trained or
 * quantised otherwise differs almost everywhere. */
enum { PIECES = 16, PIECE = 64 };

static uint64_t hash_tensor(uint64_t hash, const spc_tensor *t)
{
    hash = spc_hash_bytes(hash, t->name, strlen(t->name));
    hash = spc_hash_int(spc_hash_int(hash, (int64_t)t->bytes), (int64_t)t->dtype);
    for (uint64_t k = 0; k < PIECES && t->bytes > 0; k++) {
        uint64_t bytes = t->bytes < PIECE ? t->bytes : PIECE;
        uint64_t at = (t->bytes - bytes) * k / (PIECES - 1); /* the last one ends it */

        hash = spc_hash_bytes(hash, (const char *)t->data + at, (size_t)bytes);
    }
    return hash;
}

spc_status sweep_model_hash(const char *name, uint64_t *out, spc_error *err)
{
    spc_model model = {0};
    const char *text;
    size_t bytes;
    spc_status status;

    *out = SPC_HASH_BEGIN;
    if (!name || spc_ngram_is(name)) return SPC_OK;
    status = spc_open_model(name, &model, err);
    if (status == SPC_OK) {
        status = spc_bundle_file(model.bundle, "config.json", &text, &bytes, err);
    }
    if (status == SPC_OK) *out = spc_hash_bytes(*out, text, bytes);
    for (int32_t i = 0; status == SPC_OK && i < spc_bundle_count(model.bundle); i++) {
        *out = hash_tensor(*out, spc_bundle_tensor(model.bundle, i));
    }
    spc_close_model(&model);
    return status;
}
