/* SPDX-License-Identifier: Apache-2.0 */
/* rule.c - rule texts: parse, format, and the constants a rule is evaluated with.
 *
 * Numbers are read and written in the C locale whatever the program's locale is: strtod and printf
 * follow it, so the decimal point is swapped for the locale's own on the way. */
#include "kinds.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "rules tell NaN and infinity: build without -ffast-math, -Ofast and -ffinite-math-only"
#endif
#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2)
#error "rules have the same bits everywhere: build with float arithmetic (x86: -msse2 -mfpmath=sse)"
#endif

#define SPC_ANY_LOW   (-DBL_MAX)
#define SPC_ANY_HIGH  DBL_MAX
#define SPC_BELOW_ONE 0x1.fffffffffffffp-1 /* the largest double below 1 */

/* Stands for "above 0": the least float that is a mass worth comparing (a top-p is compared as a
 * float). */
#define SPC_ABOVE_ZERO 0x1p-126

/* Of bild-dynamic. */
#define DEFAULT_FALLBACK 0.6
#define DEFAULT_ROLLBACK 5
#define DEFAULT_WINDOW   10

#define TEXT(number)    #number
#define TEXT_OF(number) TEXT(number) /* of a macro's value */

/* Keys in the order of the canonical text; the first ones name the rule's number. */
enum {
    KEY_ALPHA,
    KEY_EPS,
    KEY_W,
    KEY_FALLBACK,
    KEY_TOP_P,
    KEY_KL,
    KEY_DELTA,
    KEY_NONE,
    KEY_BETA = KEY_NONE,
    KEY_DIV,
    KEY_ROLLBACK,
    KEY_WINDOW,
    KEY_GATE,
    KEY_COUNT
};
static const struct {
    const char *name;
    int32_t bit;          /* SPC_HAS_*, 0: a rule's number */
    const char *values;   /* of a further key; those of a number are the rule's range */
    const char *standard; /* unless given; NULL: it must be given */
} keys[KEY_COUNT] = {{"alpha", 0, NULL, NULL},
                     {"eps", 0, NULL, NULL},
                     {"w", 0, NULL, NULL},
                     {"fallback", 0, NULL, TEXT_OF(DEFAULT_FALLBACK)},
                     {"top-p", 0, NULL, NULL},
                     {"kl", 0, NULL, NULL},
                     {"delta", 0, NULL, NULL},
                     {"beta", SPC_HAS_BETA, "1 or solve", "1"},
                     {"div", SPC_HAS_DIV, "js or kl", "js"},
                     {"rollback", SPC_HAS_ROLLBACK, "at least 0", TEXT_OF(DEFAULT_ROLLBACK)},
                     {"window", SPC_HAS_WINDOW, "a whole number of 1 to " TEXT_OF(SPC_WINDOW_MAX),
                      TEXT_OF(DEFAULT_WINDOW)},
                     {"gate", SPC_HAS_GATE, "unscaled or processed", "unscaled"}};

typedef struct {
    const char *name;
    spc_rule_shape shape;
    int number;       /* KEY_* of its number; KEY_NONE: the rule has none */
    double low, high; /* range of the number */
    int32_t has;      /* SPC_HAS_* */
} rule_info;

#define SPC_RULE_INFO(id, name, shape, key, low, high, keys, facts) \
    {name, SPC_SHAPE_##shape, KEY_##key, low, high, keys},
static const rule_info infos[] = {SPC_RULE_MAP(SPC_RULE_INFO)};
#undef SPC_RULE_INFO

const char *spc_rule_name(spc_rule_kind kind)
{
    return (unsigned)kind < SPC_RULE_COUNT ? infos[kind].name : "unknown";
}

spc_rule_shape spc_rule_shape_of(spc_rule_kind kind)
{
    return infos[kind].shape;
}

static bool has_number(spc_rule_kind kind)
{
    return infos[kind].number != KEY_NONE;
}

/* Of all numbers one has a default. */
static bool has_default(spc_rule_kind kind)
{
    return infos[kind].number == KEY_FALLBACK;
}

static bool has_key(spc_rule_kind kind, int key)
{
    if (keys[key].bit == 0) return infos[kind].number == key;
    return (infos[kind].has & keys[key].bit) != 0;
}

/* Which numbers a rule takes. */
static void range_text(const rule_info *r, char text[SPC_RULE_VALUES_BYTES])
{
    if (r->low == SPC_ABOVE_ZERO) {
        (void)snprintf(text, SPC_RULE_VALUES_BYTES, "above 0 and at most %g", r->high);
    } else if (r->high < 1 && r->high > 0) { /* SPC_BELOW_ONE */
        (void)snprintf(text, SPC_RULE_VALUES_BYTES, "at least %g and below 1", r->low);
    } else if (r->high < SPC_ANY_HIGH) {
        (void)snprintf(text, SPC_RULE_VALUES_BYTES, "between %g and %g", r->low, r->high);
    } else if (r->low > SPC_ANY_LOW) {
        (void)snprintf(text, SPC_RULE_VALUES_BYTES, "at least %g", r->low);
    } else {
        (void)snprintf(text, SPC_RULE_VALUES_BYTES, "any number");
    }
}

int32_t spc_rule_list_keys(spc_rule_kind kind, spc_rule_key list[SPC_RULE_KEYS_MAX])
{
    int32_t count = 0;

    for (int key = 0; key < KEY_COUNT; key++) {
        if (!has_key(kind, key)) continue;
        list[count].name = keys[key].name;
        list[count].standard = keys[key].standard;
        range_text(&infos[kind], list[count].values);
        if (keys[key].values) {
            (void)snprintf(list[count].values, SPC_RULE_VALUES_BYTES, "%s", keys[key].values);
        }
        count++;
    }
    return count;
}

/* Instances that choose the verifier on every row (rules/README.md, "Worth knowing"). */
static bool is_strict(spc_rule_kind kind, double alpha)
{
    switch (kind) {
    case SPC_RULE_STRICT: return true;
    case SPC_RULE_LOSSY: return alpha == 0;
    case SPC_RULE_DIFF: return alpha == -1;
    case SPC_RULE_TOKEN_V2:
    case SPC_RULE_TOKEN_V3:
    case SPC_RULE_HEAD: return alpha < 0;
    case SPC_RULE_ENSEMBLE:
    case SPC_RULE_TRUNCATE:
    case SPC_RULE_TRUNCATE_P: return alpha == 1;
    case SPC_RULE_MENTORED:
    case SPC_RULE_CACTUS: return alpha == 0;
    default: return false;
    }
}

bool spc_rule_make(spc_rule_kind kind, double alpha, spc_gate gate, bool solve, spc_rule *rule)
{
    if ((unsigned)kind >= SPC_RULE_COUNT) return false;
    if (!has_number(kind)) {
        alpha = 0;
    } else if (!(alpha >= infos[kind].low && alpha <= infos[kind].high)) {
        return false;
    }
    alpha += 0.0; /* -0 becomes 0, so that it formats as it parses */
    rule->kind = (int32_t)kind;
    rule->path = (int32_t)(is_strict(kind, alpha) ? SPC_RULE_STRICT : kind);
    rule->gate = (int32_t)(has_key(kind, KEY_GATE) ? gate : SPC_GATE_UNSCALED);
    if (kind == SPC_RULE_TYPICAL || kind == SPC_RULE_TRUNCATE_P) {
        rule->gate = SPC_GATE_PROCESSED; /* H(p), p(v) of its set; its nucleus */
    }
    rule->solve = has_key(kind, KEY_BETA) && solve;
    rule->kl = kind == SPC_RULE_MENTORED;
    rule->window = has_key(kind, KEY_WINDOW) ? DEFAULT_WINDOW : 0;
    rule->rollback = has_key(kind, KEY_ROLLBACK) ? DEFAULT_ROLLBACK : 0;
    rule->alpha = alpha;
    rule->keep = 1 - alpha;
    rule->log_keep = alpha < 1 ? log1p(-alpha) : -HUGE_VAL;
    if (kind == SPC_RULE_TYPICAL) rule->log_keep = alpha > 0 ? log(alpha) : -HUGE_VAL;
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
    for (char *c = message; *c; c++) { /* line breaks, and letters that were cut or are none */
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e) *c = '?';
    }
}

#define SPC_RULE_LISTED(id, name, shape, key, low, high, keys, facts) ", " name
_Static_assert(sizeof("" SPC_RULE_MAP(SPC_RULE_LISTED)) <= SPC_RULE_MESSAGE_BYTES,
               "a message has room for the names of all rules");
#undef SPC_RULE_LISTED

static void say_unknown(char *message, piece name)
{
    char known[SPC_RULE_MESSAGE_BYTES] = "";
    size_t used = 0;

    for (int i = 0; i < SPC_RULE_COUNT; i++) {
        if (i > 0 && strcmp(infos[i].name, infos[i - 1].name) == 0) continue;
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
    double alpha, rollback, window;
    bool solve, kl;
    spc_gate gate;
} settings;

/* What a key takes was not what it found. */
static bool say_expected(char *message, int key, const char *values, piece value)
{
    char format[64];

    (void)snprintf(format, sizeof format, "%s: expected %s, found '%%.*s'%%s", keys[key].name,
                   values);
    say(message, format, value, "");
    return false;
}

static bool parse_key_number(int key, piece value, double *out, char *message)
{
    return parse_number(value, out) || say_expected(message, key, "a decimal number", value);
}

/* One of two words; *second receives whether it is the second. */
static bool parse_word(piece value, const char *first, const char *second, bool *is_second)
{
    *is_second = piece_is(value, second);
    return *is_second || piece_is(value, first);
}

static bool parse_value(int key, piece value, settings *s, char *message)
{
    bool known, processed = false;

    switch (key) {
    case KEY_BETA: known = parse_word(value, "1", "solve", &s->solve); break;
    case KEY_DIV: known = parse_word(value, "js", "kl", &s->kl); break;
    case KEY_GATE:
        known = parse_word(value, "unscaled", "processed", &processed);
        s->gate = processed ? SPC_GATE_PROCESSED : SPC_GATE_UNSCALED;
        break;
    case KEY_ROLLBACK: return parse_key_number(key, value, &s->rollback, message);
    case KEY_WINDOW: return parse_key_number(key, value, &s->window, message);
    default: return parse_key_number(key, value, &s->alpha, message);
    }
    return known || say_expected(message, key, keys[key].values, value);
}

/* The key of that name; KEY_COUNT: the kind has none. */
static int key_of(spc_rule_kind kind, piece name)
{
    int key = 0;

    while (key < KEY_COUNT && !(piece_is(name, keys[key].name) && has_key(kind, key))) key++;
    return key;
}

/* The keys of all kinds of that name: "alpha, gate", "alpha or top-p". */
static void say_unknown_key(char *message, spc_rule_kind kind, piece name)
{
    char rest[128];
    spc_rule_key list[SPC_RULE_KEYS_MAX];
    size_t used;
    bool first = true;

    if (spc_rule_list_keys(kind, list) == 0) {
        (void)snprintf(rest, sizeof rest, "%s, which takes none", infos[kind].name);
        say(message, "unknown key '%.*s' for rule %s", name, rest);
        return;
    }
    used = (size_t)snprintf(rest, sizeof rest, "%s; known: ", infos[kind].name);
    for (int k = 0; k < SPC_RULE_COUNT; k++) {
        int32_t count = spc_rule_list_keys((spc_rule_kind)k, list);

        if (strcmp(infos[k].name, infos[kind].name) != 0) continue;
        for (int32_t i = 0; i < count; i++) {
            const char *before = first ? "" : i == 0 ? " or " : ", ";

            used += (size_t)snprintf(rest + used, sizeof rest - used, "%s%s", before, list[i].name);
            first = false;
        }
    }
    say(message, "unknown key '%.*s' for rule %s", name, rest);
}

/* Of kinds that share a name, the one that has the first key of the text: ":top-p=0.5". */
static int namesake_of(int first, const char *text)
{
    piece key = {text, 0};

    if (*text) {
        text++;
        key = take(&text, "=,");
    }
    for (int kind = first; kind < SPC_RULE_COUNT; kind++) {
        if (strcmp(infos[kind].name, infos[first].name) != 0) break;
        if (key_of((spc_rule_kind)kind, key) != KEY_COUNT) return kind;
    }
    return first;
}

static bool parse_setting(const char **text, spc_rule_kind kind, settings *s, char *message)
{
    piece name = take(text, "=,");
    int key = key_of(kind, name);

    if (key == KEY_COUNT) {
        say_unknown_key(message, kind, name);
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

static void say_range(char *message, spc_rule_kind kind, int key, double found)
{
    char values[SPC_RULE_VALUES_BYTES];

    if (!message) return;
    range_text(&infos[kind], values);
    (void)snprintf(message, SPC_RULE_MESSAGE_BYTES, "%s: %s must be %s, found %g", infos[kind].name,
                   keys[key].name, keys[key].values ? keys[key].values : values, found);
}

/* The keys of bild-dynamic beside its number. */
static bool take_window(const settings *s, spc_rule *rule, char *message)
{
    if (s->seen[KEY_ROLLBACK]) rule->rollback = s->rollback;
    if (s->seen[KEY_WINDOW]) rule->window = s->window <= SPC_WINDOW_MAX ? (int32_t)s->window : 0;
    if (rule->rollback < 0) {
        say_range(message, (spc_rule_kind)rule->kind, KEY_ROLLBACK, rule->rollback);
        return false;
    }
    if (s->seen[KEY_WINDOW] && (rule->window < 1 || (double)rule->window != s->window)) {
        say_range(message, (spc_rule_kind)rule->kind, KEY_WINDOW, s->window);
        return false;
    }
    return true;
}

bool spc_rule_parse(const char *text, spc_rule *rule, char *message)
{
    settings s = {.gate = SPC_GATE_UNSCALED};
    piece name = take(&text, ":");
    spc_rule made;
    int kind = 0;

    while (kind < SPC_RULE_COUNT && !piece_is(name, infos[kind].name)) kind++;
    if (kind == SPC_RULE_COUNT) {
        say_unknown(message, name);
        return false;
    }
    kind = namesake_of(kind, text);
    while (*text) {
        text++; /* the ':' or ',' before a setting */
        if (!parse_setting(&text, (spc_rule_kind)kind, &s, message)) return false;
    }
    if (has_default((spc_rule_kind)kind) && !s.seen[infos[kind].number]) {
        s.alpha = DEFAULT_FALLBACK;
    } else if (has_number((spc_rule_kind)kind) && !s.seen[infos[kind].number]) {
        char values[SPC_RULE_VALUES_BYTES], wanted[160];
        const char *key = keys[infos[kind].number].name;

        range_text(&infos[kind], values);
        (void)snprintf(wanted, sizeof wanted, "%s, %s: write %s:%s=NUMBER", key, values,
                       infos[kind].name, key);
        say(message, "rule '%.*s' needs %s", name, wanted);
        return false;
    }
    if (!spc_rule_make((spc_rule_kind)kind, s.alpha, s.gate, s.solve, &made)) {
        say_range(message, (spc_rule_kind)kind, infos[kind].number, s.alpha);
        return false;
    }
    if (s.seen[KEY_DIV]) made.kl = s.kl;
    if (!take_window(&s, &made, message)) return false;
    *rule = made;
    return true;
}

/* ---- format -----------------------------------------------------------------------------------
 */

/* Shortest decimal that reads back to the same double, with '.' in every locale. */
static void format_number(double value, char *text, size_t bytes)
{
    const char *point = localeconv()->decimal_point;

    char next[32];

    (void)snprintf(text, bytes, "%.17g", value);
    for (int digits = 16; digits >= 1; digits--) { /* 10 is shorter than 1e+01 */
        (void)snprintf(next, sizeof next, "%.*g", digits, value);
        if (strtod(next, NULL) != value) continue;
        if (strlen(next) <= strlen(text)) (void)snprintf(text, bytes, "%s", next);
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
    const rule_info *r = &infos[kind];
    char number[32];
    size_t used = (size_t)snprintf(text, SPC_RULE_TEXT_BYTES, "%s", r->name);
    char mark = ':';

#define PUT(...)                                                                        \
    do {                                                                                \
        used += (size_t)snprintf(text + used, SPC_RULE_TEXT_BYTES - used, __VA_ARGS__); \
        mark = ',';                                                                     \
    } while (0)
    if (has_number(kind) && !(has_default(kind) && rule->alpha == DEFAULT_FALLBACK)) {
        format_number(rule->alpha, number, sizeof number);
        PUT("%c%s=%s", mark, keys[r->number].name, number);
    }
    if (rule->solve) PUT("%cbeta=solve", mark);
    if (rule->kl && has_key(kind, KEY_DIV)) PUT("%cdiv=kl", mark);
    if (has_key(kind, KEY_ROLLBACK) && rule->rollback != DEFAULT_ROLLBACK) {
        format_number(rule->rollback, number, sizeof number);
        PUT("%crollback=%s", mark, number);
    }
    if (has_key(kind, KEY_WINDOW) && rule->window != DEFAULT_WINDOW) {
        PUT("%cwindow=%d", mark, (int)rule->window);
    }
    if (has_key(kind, KEY_GATE) && rule->gate == SPC_GATE_PROCESSED) PUT("%cgate=processed", mark);
#undef PUT
}
