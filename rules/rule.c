/* SPDX-License-Identifier: Apache-2.0 */
/* rule.c - rule texts: parse, format, and the constants a rule is evaluated with.
 *
 * Numbers are read and written in the C locale whatever the program's locale is: strtod and printf
 * follow it, so the decimal point is swapped for the locale's own on the way. */
#include "rule.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPC_NO_ALPHA  ((double)NAN)
#define SPC_ANY_LOW   (-DBL_MAX)
#define SPC_ANY_HIGH  DBL_MAX
#define SPC_BELOW_ONE 0x1.fffffffffffffp-1 /* the largest double below 1 */

typedef struct {
    const char *name;
    spc_rule_shape shape;
    double low, high; /* range of alpha; NAN: the rule has none */
    int32_t facts;
} rule_info;

#define SPC_RULE_INFO(id, name, shape, low, high, facts) \
    {name, SPC_SHAPE_##shape, low, high, facts},
static const rule_info infos[] = {SPC_RULE_MAP(SPC_RULE_INFO)};
#undef SPC_RULE_INFO

enum { KEY_ALPHA, KEY_BETA, KEY_GATE, KEY_COUNT };
static const char *const keys[] = {"alpha", "beta", "gate"};

const char *spc_rule_name(spc_rule_kind kind)
{
    return (unsigned)kind < SPC_RULE_COUNT ? infos[kind].name : "unknown";
}

spc_rule_shape spc_rule_shape_of(spc_rule_kind kind)
{
    return infos[kind].shape;
}

static bool has_alpha(spc_rule_kind kind)
{
    return !isnan(infos[kind].low);
}

/* A row rule has a gate, and so has a token rule; lossy and strict compare nothing but p and q. */
static bool has_key(spc_rule_kind kind, int key)
{
    if (key == KEY_ALPHA) return has_alpha(kind);
    if (key == KEY_BETA) return kind == SPC_RULE_LOSSY;
    return has_alpha(kind) && kind != SPC_RULE_LOSSY && kind != SPC_RULE_LOSSY_GREEDY;
}

/* Instances that choose the verifier on every row (rules.md 3.4.12). */
static bool is_strict(spc_rule_kind kind, double alpha)
{
    switch (kind) {
    case SPC_RULE_STRICT: return true;
    case SPC_RULE_LOSSY: return alpha == 0;
    case SPC_RULE_DIFF: return alpha == -1;
    case SPC_RULE_TOKEN_V2:
    case SPC_RULE_TOKEN_V3: return alpha < 0;
    default: return false;
    }
}

bool spc_rule_make(spc_rule_kind kind, double alpha, spc_gate gate, bool solve, spc_rule *rule)
{
    if ((unsigned)kind >= SPC_RULE_COUNT) return false;
    if (!has_alpha(kind)) {
        alpha = 0;
    } else if (!(alpha >= infos[kind].low && alpha <= infos[kind].high)) {
        return false;
    }
    alpha += 0.0; /* -0 becomes 0, so that it formats as it parses */
    rule->kind = (int32_t)kind;
    rule->path = (int32_t)(is_strict(kind, alpha) ? SPC_RULE_STRICT : kind);
    rule->gate = (int32_t)(has_key(kind, KEY_GATE) ? gate : SPC_GATE_UNSCALED);
    rule->solve = has_key(kind, KEY_BETA) && solve;
    rule->alpha = alpha;
    rule->keep = 1 - alpha;
    rule->log_keep = alpha < 1 ? log1p(-alpha) : -HUGE_VAL;
    rule->inverse = alpha < 1 ? 1 / (1 - alpha) : 1;
    return true;
}

/* ---- parse ------------------------------------------------------------------------------------
 */

typedef struct {
    const char *at;
    size_t length;
} piece;

static bool piece_is(piece p, const char *text)
{
    return strlen(text) == p.length && memcmp(p.at, text, p.length) == 0;
}

/* Up to the first of the given characters or the end; leaves *text there. */
static piece take(const char **text, const char *until)
{
    piece p = {*text, strcspn(*text, until)};

    *text += p.length;
    return p;
}

/* How much of a foreign text is quoted in a message. */
static int shown(piece p)
{
    return p.length < 40 ? (int)p.length : 40;
}

static void say(char *message, const char *format, piece p, const char *rest)
{
    if (!message) return;
    (void)snprintf(message, SPC_RULE_MESSAGE_BYTES, format, shown(p), p.at, rest);
    for (char *c = message; *c; c++) { /* a quoted line break would make it two lines */
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    }
}

static void say_unknown(char *message, piece name)
{
    char known[SPC_RULE_MESSAGE_BYTES] = "";
    size_t used = 0;

    for (int i = 0; i < SPC_RULE_COUNT; i++) {
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                                 infos[i].name);
    }
    say(message, "unknown rule '%.*s'; known: %s", name, known);
}

/* A plain decimal number in the C locale, all of the piece. */
static bool parse_number(piece p, double *value)
{
    char text[64];
    char *end;
    size_t digits = 0;
    const char *point = localeconv()->decimal_point;

    if (p.length == 0 || p.length >= sizeof text - 8 || strlen(point) > 7) return false;
    for (size_t i = 0; i < p.length; i++) {
        if (!strchr("+-.eE0123456789", p.at[i])) return false; /* no blanks, hex, inf, nan */
        digits += p.at[i] >= '0' && p.at[i] <= '9';
    }
    if (digits == 0) return false;

    const char *dot = memchr(p.at, '.', p.length);
    size_t head = dot ? (size_t)(dot - p.at) : p.length;

    memcpy(text, p.at, head);
    text[head] = '\0';
    if (dot) {
        strcat(text, point);
        strncat(text, dot + 1, p.length - head - 1);
    }
    *value = strtod(text, &end);
    return *end == '\0' && isfinite(*value);
}

typedef struct {
    bool seen[KEY_COUNT];
    double alpha;
    bool solve;
    spc_gate gate;
} settings;

static bool parse_value(int key, piece value, settings *s, char *message)
{
    switch (key) {
    case KEY_ALPHA:
        if (parse_number(value, &s->alpha)) return true;
        say(message, "alpha: expected a decimal number, found '%.*s'%s", value, "");
        return false;
    case KEY_BETA:
        s->solve = piece_is(value, "solve");
        if (s->solve || piece_is(value, "1")) return true;
        say(message, "beta: expected 1 or solve, found '%.*s'%s", value, "");
        return false;
    default:
        s->gate = piece_is(value, "processed") ? SPC_GATE_PROCESSED : SPC_GATE_UNSCALED;
        if (s->gate == SPC_GATE_PROCESSED || piece_is(value, "unscaled")) return true;
        say(message, "gate: expected unscaled or processed, found '%.*s'%s", value, "");
        return false;
    }
}

static bool parse_setting(const char **text, spc_rule_kind kind, settings *s, char *message)
{
    piece name = take(text, "=,");
    int key = 0;

    while (key < KEY_COUNT && !(piece_is(name, keys[key]) && has_key(kind, key))) key++;
    if (key == KEY_COUNT) {
        say(message, "unknown key '%.*s' for rule %s", name, infos[kind].name);
        return false;
    }
    if (s->seen[key]) {
        say(message, "key '%.*s' is given twice%s", name, "");
        return false;
    }
    if (**text != '=') {
        say(message, "key '%.*s' has no value: write it as %s", name, "key=value");
        return false;
    }
    (*text)++;
    s->seen[key] = true;
    return parse_value(key, take(text, ","), s, message);
}

static void say_range(char *message, spc_rule_kind kind, double alpha)
{
    const rule_info *r = &infos[kind];

    if (!message) return;
    if (kind == SPC_RULE_LOSSY) {
        (void)snprintf(message, SPC_RULE_MESSAGE_BYTES,
                       "%s: alpha must be at least 0 and below 1, found %g", r->name, alpha);
    } else if (r->high < SPC_ANY_HIGH) {
        (void)snprintf(message, SPC_RULE_MESSAGE_BYTES,
                       "%s: alpha must be between %g and %g, found %g", r->name, r->low, r->high,
                       alpha);
    } else {
        (void)snprintf(message, SPC_RULE_MESSAGE_BYTES, "%s: alpha must be at least %g, found %g",
                       r->name, r->low, alpha);
    }
}

bool spc_rule_parse(const char *text, spc_rule *rule, char *message)
{
    settings s = {{false, false, false}, 0, false, SPC_GATE_UNSCALED};
    piece name = take(&text, ":");
    int kind = 0;

    while (kind < SPC_RULE_COUNT && !piece_is(name, infos[kind].name)) kind++;
    if (kind == SPC_RULE_COUNT) {
        say_unknown(message, name);
        return false;
    }
    while (*text) {
        text++; /* the ':' or ',' before a setting */
        if (!parse_setting(&text, (spc_rule_kind)kind, &s, message)) return false;
    }
    if (has_alpha((spc_rule_kind)kind) && !s.seen[KEY_ALPHA]) {
        say(message, "rule '%.*s' needs alpha: write %s", name, "NAME:alpha=NUMBER");
        return false;
    }
    if (!spc_rule_make((spc_rule_kind)kind, s.alpha, s.gate, s.solve, rule)) {
        say_range(message, (spc_rule_kind)kind, s.alpha);
        return false;
    }
    return true;
}

/* ---- format -----------------------------------------------------------------------------------
 */

/* Shortest decimal that reads back to the same double, with '.' in every locale. */
static void format_number(double value, char *text, size_t bytes)
{
    const char *point = localeconv()->decimal_point;

    for (int digits = 1; digits <= 17; digits++) {
        (void)snprintf(text, bytes, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }

    char *at = strcmp(point, ".") != 0 ? strstr(text, point) : NULL;

    if (at) {
        *at = '.';
        memmove(at + 1, at + strlen(point), strlen(at + strlen(point)) + 1);
    }
}

void spc_rule_format(const spc_rule *rule, char *text)
{
    spc_rule_kind kind = (spc_rule_kind)rule->kind;
    char number[32] = "";

    if (has_alpha(kind)) format_number(rule->alpha, number, sizeof number);
    (void)snprintf(text, SPC_RULE_TEXT_BYTES, "%s%s%s%s%s", infos[kind].name,
                   has_alpha(kind) ? ":alpha=" : "", number, rule->solve ? ",beta=solve" : "",
                   rule->gate == SPC_GATE_PROCESSED ? ",gate=processed" : "");
}
