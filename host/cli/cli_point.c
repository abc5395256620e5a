/* SPDX-License-Identifier: Apache-2.0 */
/* cli_point.c - operating points: rules that a sweep has measured, and the one that a user's limits
 * choose.  spc tune writes them. */
#include "cli.h"

#include "rules/kinds.h"
#include "weights/json.h"

#include <string.h>

typedef struct {
    double value, latency;
} measures;

static spc_status bad_point(const char *path, size_t i, const char *what, spc_error *err)
{
    return spc_error_set(err, SPC_EINPUT, "%s: point %zu: expected %s", path, i, what);
}

/* How drafts are judged: "token" where the file does not say. */
static bool read_verify(const json_t *word, int32_t *out)
{
    const char *text = word ? json_string_value(word) : "token";

    if (!text || (strcmp(text, "token") != 0 && strcmp(text, "block") != 0)) return false;
    *out = strcmp(text, "block") == 0 ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN;
    return true;
}

static const char *const bonus_names[] = {"target", "verifier", "step"};

/* As a sweep writes it; where it is missing, the first. */
static bool read_bonus(const json_t *word, int32_t *out)
{
    const char *text = word ? json_string_value(word) : bonus_names[SPC_BONUS_TARGET];

    for (*out = SPC_BONUS_TARGET; text && *out <= SPC_BONUS_STEP; (*out)++) {
        if (strcmp(text, bonus_names[*out]) == 0) return true;
    }
    return false;
}

/* ---- what is told of a point ------------------------------------------------------------------
 */

void spc_cli_point_more(const spc_cli_point *p, char text[SPC_CLI_MORE_BYTES])
{
    char top_k[32] = "", min_p[32] = "", bonus[32] = "";

    if (p->top_k > 0) (void)snprintf(top_k, sizeof top_k, ", top-k %d", (int)p->top_k);
    if (p->min_p > 0) (void)snprintf(min_p, sizeof min_p, ", min-p %g", p->min_p);
    if (p->bonus != SPC_BONUS_TARGET) {
        (void)snprintf(bonus, sizeof bonus, ", bonus %s", bonus_names[p->bonus]);
    }
    (void)snprintf(text, SPC_CLI_MORE_BYTES, "%s%s%s%s%s", top_k, min_p,
                   p->verify == SPC_VERIFY_BLOCK ? ", block verification" : "", bonus,
                   p->nucleus ? "" : ", no nucleus");
}

void spc_cli_line_more(const json_t *line, char text[SPC_CLI_MORE_BYTES])
{
    const json_t *nucleus = json_object_get(line, "nucleus");
    const json_int_t batch = json_integer_value(json_object_get(line, "batch"));
    spc_cli_point p = {.top_k = (int32_t)json_integer_value(json_object_get(line, "top_k")),
                       .min_p = json_number_value(json_object_get(line, "min_p")),
                       .nucleus = !nucleus || json_is_true(nucleus)};
    size_t used;

    if (!read_verify(json_object_get(line, "verify"), &p.verify)) p.verify = SPC_VERIFY_TOKEN;
    if (!read_bonus(json_object_get(line, "bonus_mode"), &p.bonus)) p.bonus = SPC_BONUS_TARGET;
    spc_cli_point_more(&p, text);
    used = strlen(text);
    if (batch > 1) (void)snprintf(text + used, SPC_CLI_MORE_BYTES - used, ", batch %d", (int)batch);
}

/* ---- models -----------------------------------------------------------------------------------
 */

static void name_model(const char *path, spc_cli_model out)
{
    size_t end = strlen(path), begin;

    while (end > 1 && path[end - 1] == '/') end--;
    begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    (void)snprintf(out, SPC_CLI_MODEL_BYTES, "%.*s", (int)(end - begin), path + begin);
}

/* Has this run another?  Nothing is known of points of before models were noted. */
static bool is_other(const spc_cli_model measured, const char *given)
{
    spc_cli_model name;

    name_model(given, name);
    return measured[0] && strcmp(measured, name) != 0;
}

void spc_cli_point_warn(const char *path, const spc_cli_point *p, const char *verifier,
                        const char *drafter, const char *drafter_vocab)
{
    char line[1024];
    spc_rule rule;
    bool alone = spc_rule_parse(p->rule, &rule, NULL) && rule.kind == SPC_RULE_VERIFIER_ONLY;
    bool other = is_other(p->verifier, verifier);

    if (!alone) {
        other = other || is_other(p->drafter, drafter) ||
                is_other(p->drafter_vocab, drafter_vocab ? drafter_vocab : "all");
    }
    if (!other) return;
    (void)snprintf(line, sizeof line,
                   "warning: %.400s: the point was measured with verifier %s, drafter %s "
                   "(drafter-vocab %s): what it promises is not known of other models",
                   path, p->verifier, p->drafter[0] ? p->drafter : "unknown",
                   p->drafter_vocab[0] ? p->drafter_vocab : "all");
    spc_cli_note(line);
}

/* ---- points of a file -------------------------------------------------------------------------
 */

/* With what the point was measured: where models are noted, all tokens of the drafter unless they
 * say others. */
static bool read_models(const json_t *point, spc_cli_point *out)
{
    static const char *const keys[] = {"verifier", "drafter", "drafter_vocab"};
    char *const names[] = {out->verifier, out->drafter, out->drafter_vocab};

    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        const json_t *name = json_object_get(point, keys[k]);

        names[k][0] = '\0';
        if (name && !json_is_string(name)) return false;
        if (name) name_model(json_string_value(name), names[k]);
    }
    if (out->verifier[0] && !out->drafter_vocab[0]) name_model("all", out->drafter_vocab);
    return true;
}

/* One entry of the file. */
static spc_status read_point(const char *path, const json_t *list, size_t i, spc_cli_point *out,
                             measures *m, spc_error *err)
{
    const json_t *point = json_array_get(list, i);
    const char *rule = json_string_value(json_object_get(point, "rule"));
    const json_t *gamma = json_object_get(point, "gamma");
    const json_t *temperature = json_object_get(point, "temperature");
    const json_t *top_p = json_object_get(point, "top_p");
    const json_t *verify = json_object_get(point, "verify");
    const json_t *nucleus = json_object_get(point, "nucleus");
    const json_t *top_k = json_object_get(point, "top_k");
    const json_t *min_p = json_object_get(point, "min_p");
    const json_t *value = json_object_get(point, "value");
    const json_t *latency = json_object_get(point, "relative_latency");
    spc_error inner;
    spc_rule parsed;
    bool sequential;

    if (!rule) return bad_point(path, i, "a string \"rule\"", err);
    if (spc_cli_rule(rule, out->rule, &sequential, &inner) != SPC_OK) {
        return bad_point(path, i, inner.message, err);
    }
    if (!json_is_integer(gamma) || json_integer_value(gamma) < 0 ||
        json_integer_value(gamma) > SPC_GAMMA_MAX) {
        return bad_point(path, i, "a \"gamma\" of 0 to 16", err);
    }
    if (!json_is_number(temperature) || !json_is_number(top_p) || !json_is_number(value) ||
        !json_is_number(latency)) {
        return bad_point(path, i, "numbers temperature, top_p, value, relative_latency", err);
    }
    if (!spc_cli_is_temperature(json_number_value(temperature))) {
        return bad_point(path, i, "a \"temperature\" of 0, or of 0.0001 to 100", err);
    }
    if (top_k && (!json_is_integer(top_k) || json_integer_value(top_k) < 0 ||
                  json_integer_value(top_k) > SPC_VOCAB_MAX)) {
        return bad_point(path, i, "a \"top_k\" of 0 to 1048576", err);
    }
    if (min_p && !json_is_number(min_p)) return bad_point(path, i, "a number \"min_p\"", err);
    if (!read_verify(verify, &out->verify)) {
        return bad_point(path, i, "\"verify\": \"token\" or \"block\"", err);
    }
    if (nucleus && !json_is_boolean(nucleus)) {
        return bad_point(path, i, "\"nucleus\": true or false", err);
    }
    out->nucleus = !nucleus || json_is_true(nucleus);
    if (!read_bonus(json_object_get(point, "bonus_mode"), &out->bonus)) {
        return bad_point(path, i, "\"bonus_mode\": \"target\", \"verifier\" or \"step\"", err);
    }
    if (!read_models(point, out)) {
        return bad_point(path, i, "strings verifier, drafter, drafter_vocab", err);
    }
    if (spc_rule_parse(rule, &parsed, NULL) && spc_rule_needs_draft((spc_rule_kind)parsed.kind)) {
        out->bonus = SPC_BONUS_STEP; /* it takes no other */
    }
    out->top_k = (int32_t)json_integer_value(top_k);
    out->min_p = json_number_value(min_p);
    out->gamma = (int32_t)json_integer_value(gamma);
    out->temperature = json_number_value(temperature);
    out->top_p = json_number_value(top_p);
    *m = (measures){json_number_value(value), json_number_value(latency)};
    return SPC_OK;
}

/* Within the limits, is a better than b?  A limit on quality asks for the least latency; otherwise
 * the best quality is wanted. */
static bool is_better(const measures *a, const measures *b, const spc_cli_limits *limits)
{
    return limits->has_quality ? a->latency < b->latency : a->value > b->value;
}

static spc_status choose(const char *path, const json_t *list, const spc_cli_limits *limits,
                         spc_cli_point *out, spc_error *err)
{
    measures best = {0, 0}, m = {0, 0};
    bool found = false;

    for (size_t i = 0; i < json_array_size(list); i++) {
        spc_cli_point point;
        spc_status status = read_point(path, list, i, &point, &m, err);

        if (status != SPC_OK) return status;
        if (limits->has_latency && m.latency > limits->most_latency) continue;
        if (limits->has_quality && m.value < limits->least_quality) continue;
        if (found && !is_better(&m, &best, limits)) continue;
        found = true;
        best = m;
        *out = point;
        out->quality = m.value;
        out->latency = m.latency;
    }
    if (found) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT, "%s: none of its %zu points is within the limits", path,
                         json_array_size(list));
}

spc_status spc_cli_choose_point(const char *path, const spc_cli_limits *limits, spc_cli_point *out,
                                spc_error *err)
{
    json_error_t why;
    json_t *list;
    spc_status status;

    if (!limits->has_latency && !limits->has_quality) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--operating-point needs --max-relative-latency or --min-quality");
    }
    list = json_load_file(path, 0, &why);
    if (!list && spc_json_no_memory(&why, NULL)) {
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory to read it", path);
    }
    if (!list) return spc_error_set(err, SPC_EINPUT, "%s: %s", path, why.text);
    status = json_is_array(list)
                 ? choose(path, list, limits, out, err)
                 : spc_error_set(err, SPC_EINPUT, "%s: expected a JSON array", path);
    json_decref(list);
    return status;
}
