/* SPDX-License-Identifier: Apache-2.0 */
/* cli_details.c - details of tokens as JSON and as a table, log-probabilities as JSON. */
#include "cli_details.h"

#include "host/engine.h"

#include "weights/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* The text of a token inside a text, as a JSON string; without a tokenizer, or of an id that has no
 * bytes, null.  NULL: no memory. */
static json_t *text_of(const spc_engine *engine, int32_t token)
{
    size_t bytes;
    const char *piece =
        engine->tokenizer ? spc_tokenizer_piece(engine->tokenizer, token, &bytes) : NULL;
    char *text;
    json_t *string;

    if (!piece) return json_null();
    text = malloc(spc_utf8_sanitise(piece, bytes, NULL) + 1); /* it may be part of a character */
    if (!text) return NULL;
    string = json_stringn(text, spc_utf8_sanitise(piece, bytes, text));
    free(text);
    return string;
}

static const char *fate_name(const spc_token_detail *d)
{
    switch ((spc_row_fate)d->row.fate) {
    case SPC_FATE_KEPT: return "kept";
    case SPC_FATE_LUCKY: return "lucky";
    case SPC_FATE_REJECTED: return "rejected";
    case SPC_FATE_BONUS: return "bonus";
    case SPC_FATE_NONE: break;
    }
    return "unknown"; /* kept without a look at the verifier's row, which is bad */
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* A number that may not be there, or may not be finite, which JSON has no number for. */
static json_t *real_or_null(bool there, float value)
{
    return there && isfinite(value) ? json_real((double)value) : json_null();
}

static json_t *token_json(const spc_engine *engine, int32_t token, const spc_token_detail *d)
{
    const spc_row_detail *r = &d->row;
    const bool drafted = d->draft >= 0, set = r->inside >= 0;
    json_t *o = json_object();
    int failed = json_object_set_new(o, "id", json_integer(token));

    failed |= json_object_set_new(o, "text", text_of(engine, token));
    failed |= json_object_set_new(o, "fate", json_string(fate_name(d)));
    failed |= json_object_set_new(o, "deferred", json_boolean(r->deferred != 0));
    failed |= json_object_set_new(o, "log_target", real_or_null(true, r->log_target));
    failed |= json_object_set_new(o, "log_verifier", real_or_null(true, r->log_verifier));
    failed |= json_object_set_new(o, "draft", drafted ? json_integer(d->draft) : json_null());
    failed |= json_object_set_new(o, "drafter", real_or_null(drafted, r->drafter));
    failed |= json_object_set_new(o, "verifier", real_or_null(drafted, r->verifier));
    failed |= json_object_set_new(o, "target", real_or_null(drafted, r->target));
    failed |= json_object_set_new(o, "coin", real_or_null(drafted, r->coin));
    /* no row's largest probability is 0: then nobody looked */
    failed |=
        json_object_set_new(o, "top_drafter", real_or_null(r->top_drafter > 0, r->top_drafter));
    failed |=
        json_object_set_new(o, "top_verifier", real_or_null(r->top_verifier > 0, r->top_verifier));
    failed |= json_object_set_new(o, "tv", real_or_null(true, r->tv));
    failed |= json_object_set_new(o, "outside", real_or_null(set, r->outside));
    failed |= json_object_set_new(o, "inside", set ? json_integer(r->inside) : json_null());
    if (failed == 0) return o;
    json_decref(o);
    return NULL;
}

json_t *spc_cli_details_json(const spc_engine *engine, const int32_t *tokens,
                             const spc_token_detail *detail, int32_t count)
{
    json_t *array = json_array();

    for (int32_t i = 0; i < count; i++) {
        if (json_array_append_new(array, token_json(engine, tokens[i], &detail[i])) == 0) continue;
        json_decref(array);
        return NULL;
    }
    return array;
}

static json_t *logprob_json(const spc_engine *engine, const spc_logprob *p)
{
    json_t *o = json_object();
    int failed = json_object_set_new(o, "id", json_integer(p->token));

    failed |= json_object_set_new(o, "text", text_of(engine, p->token));
    failed |= json_object_set_new(o, "logprob", real_or_null(true, p->value));
    if (failed == 0) return o;
    json_decref(o);
    return NULL;
}

/* The token, with the most probable ones as "top". */
static json_t *with_top_json(const spc_engine *engine, const spc_logprob *p, int32_t top)
{
    json_t *o = logprob_json(engine, p), *others = json_array();
    int failed = 0;

    for (int32_t i = 1; i <= top && p[i].token >= 0; i++) {
        failed |= json_array_append_new(others, logprob_json(engine, &p[i]));
    }
    failed |= json_object_set_new(o, "top", others);
    if (failed == 0) return o;
    json_decref(o);
    return NULL;
}

json_t *spc_cli_logprobs_json(const spc_engine *engine, const spc_logprob *logprobs, int32_t count,
                              int32_t top)
{
    json_t *array = json_array();

    for (int32_t i = 0; i < count; i++) {
        const spc_logprob *p = logprobs + (int64_t)i * (1 + top);

        if (json_array_append_new(array, with_top_json(engine, p, top)) == 0) continue;
        json_decref(array);
        return NULL;
    }
    return array;
}

/* ---- a table --------------------------------------------------------------------------------- */

/* Quoted; an id where there is no text. */
static void print_token(const spc_engine *engine, int32_t token)
{
    json_t *text = text_of(engine, token);
    char *quoted = json_is_string(text) ? json_dumps(text, JSON_ENCODE_ANY) : NULL;

    if (quoted) {
        (void)fputs(quoted, stderr);
    } else {
        (void)fprintf(stderr, "%" PRId32, token);
    }
    free(quoted);
    json_decref(text);
}

static void print_number(bool there, float value)
{
    if (there) {
        (void)fprintf(stderr, "%9.4f", (double)value);
    } else {
        (void)fputs("        -", stderr);
    }
}

void spc_cli_details_print(const spc_engine *engine, const int32_t *tokens,
                           const spc_token_detail *detail, int32_t count)
{
    (void)fputs("  drafter verifier   target     coin   log pi  draft     rule    token\n", stderr);
    for (int32_t i = 0; i < count; i++) {
        const spc_token_detail *d = &detail[i];
        const bool drafted = d->draft >= 0;

        print_number(drafted, d->row.drafter);
        print_number(drafted, d->row.verifier);
        print_number(drafted, d->row.target);
        print_number(drafted, d->row.coin);
        print_number(isfinite(d->row.log_target), d->row.log_target);
        (void)fprintf(stderr, "  %-8s  %-6s  ", fate_name(d), d->row.deferred ? "defers" : "");
        if (drafted && d->draft != tokens[i]) {
            print_token(engine, d->draft);
            (void)fputs(" -> ", stderr);
        }
        print_token(engine, tokens[i]);
        (void)fputc('\n', stderr);
    }
}
