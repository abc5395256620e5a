/* SPDX-License-Identifier: Apache-2.0 */
/* quality.c - metrics over sequences of symbols: words as numbers, or code points. */
#include "bench/quality.h"

#include "bench/measure.h"
#include "weights/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { BLEU_ORDER = 4, CHRF_ORDER = 6 };

/* ---- texts ----------------------------------------------------------------------------------- */

typedef struct {
    char *data; /* terminated */
    size_t bytes, capacity;
    bool failed;
} text;

static void put(text *t, const char *bytes, size_t count)
{
    if (t->failed) return;
    if (t->bytes + count + 1 > t->capacity) {
        size_t larger = (t->capacity + count + 64) * 2;
        char *grown = realloc(t->data, larger);

        if (!grown) {
            t->failed = true;
            return;
        }
        t->data = grown;
        t->capacity = larger;
    }
    memcpy(t->data + t->bytes, bytes, count);
    t->bytes += count;
    t->data[t->bytes] = '\0';
}

static void put_byte(text *t, char c)
{
    put(t, &c, 1);
}

/* What Python's str.split() splits at. */
static bool is_space(uint32_t c)
{
    return c == ' ' || (c >= 0x9 && c <= 0xd) || (c >= 0x1c && c <= 0x1f) || c == 0x85 ||
           c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

/* The next code point; *at moves behind it.  Bytes that are no UTF-8 are U+FFFD. */
static uint32_t next_code(const char *s, size_t bytes, size_t *at)
{
    bool whole;
    size_t n = spc_utf8_character(s + *at, bytes - *at, &whole, NULL);
    uint32_t code = whole ? spc_utf8_decode(s + *at, n) : 0xfffd;

    *at += n;
    return code;
}

/* ---- sequences of symbols -------------------------------------------------------------------- */

typedef struct {
    int32_t *symbol; /* [count] */
    int32_t count;
} sequence;

/* Hypothesis and reference over one alphabet. */
typedef struct {
    sequence hypothesis, reference;
} both;

static void free_both(both *b)
{
    free(b->hypothesis.symbol);
    free(b->reference.symbol);
}

/* Code points, with or without white space. */
static bool characters(const char *s, bool spaces, sequence *out)
{
    size_t bytes = strlen(s), at = 0;

    out->count = 0;
    out->symbol = malloc((bytes + 1) * sizeof *out->symbol);
    if (!out->symbol) return false;
    while (at < bytes) {
        uint32_t code = next_code(s, bytes, &at);

        if (spaces || !is_space(code)) out->symbol[out->count++] = (int32_t)code;
    }
    return true;
}

/* Is the cased character nearest to [at], in the direction of step, one at all?  Python passes over
 * marks, apostrophes and the like (Unicode: Case_Ignorable). */
static bool cased_beside(const sequence *s, int32_t at, int32_t step)
{
    static const int32_t middle[] = {'\'',   '.',    ':',    '^',    '`',    0xa8,
                                     0xad,   0xaf,   0xb4,   0xb7,   0xb8,   0x387,
                                     0x55f,  0x5f4,  0x2018, 0x2019, 0x2024, 0x2027,
                                     0xfe13, 0xfe52, 0xfe55, 0xff07, 0xff0e, 0xff1a};

    for (int32_t i = at + step; i >= 0 && i < s->count; i += step) {
        utf8proc_category_t category = utf8proc_category(s->symbol[i]);
        bool ignorable = category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME ||
                         category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_LM ||
                         category == UTF8PROC_CATEGORY_SK;

        for (size_t k = 0; !ignorable && k < sizeof middle / sizeof *middle; k++) {
            ignorable = middle[k] == s->symbol[i];
        }
        if (ignorable) continue;
        return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
               category == UTF8PROC_CATEGORY_LT || utf8proc_isupper(s->symbol[i]) ||
               utf8proc_islower(s->symbol[i]);
    }
    return false;
}

/* The code points of Python's str.lower(), which is one to one but for a Greek final sigma and the
 * Turkish dotted I. */
static bool lower(const char *s, sequence *out)
{
    sequence in;
    bool good = characters(s, true, &in);

    out->count = 0;
    out->symbol = good ? malloc(((size_t)in.count * 2 + 1) * sizeof(int32_t)) : NULL;
    good = out->symbol != NULL;
    for (int32_t i = 0; good && i < in.count; i++) {
        int32_t code = in.symbol[i];
        bool last = code == 0x3a3 && cased_beside(&in, i, -1) && !cased_beside(&in, i, 1);

        out->symbol[out->count++] = last ? 0x3c2 : code == 0x130 ? 'i' : utf8proc_tolower(code);
        if (code == 0x130) out->symbol[out->count++] = 0x307;
    }
    free(in.symbol);
    return good;
}

typedef struct {
    const char *at;
    size_t bytes;
} word;

/* Words between white space. */
static bool split(const char *s, word **out, int32_t *count)
{
    size_t bytes = strlen(s), at = 0, begin = 0;

    *count = 0;
    *out = malloc((bytes / 2 + 2) * sizeof **out);
    if (!*out) return false;
    while (at < bytes) {
        size_t here = at;

        if (!is_space(next_code(s, bytes, &at))) continue;
        if (here > begin) (*out)[(*count)++] = (word){s + begin, here - begin};
        begin = at;
    }
    if (bytes > begin) (*out)[(*count)++] = (word){s + begin, bytes - begin};
    return true;
}

/* Equal words, equal numbers: a word is numbered by its first occurrence. */
static int32_t number_of(const word *w, const word *all, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        if (all[i].bytes == w->bytes && memcmp(all[i].at, w->at, w->bytes) == 0) return i;
    }
    return count;
}

/* Words of two texts as numbers. */
static bool words(const char *hypothesis, const char *reference, both *out)
{
    word *h = NULL, *r = NULL, *all = NULL;
    int32_t hs = 0, rs = 0;
    bool good = split(hypothesis, &h, &hs) && split(reference, &r, &rs);

    memset(out, 0, sizeof *out);
    if (good) {
        all = malloc(((size_t)hs + (size_t)rs + 1) * sizeof *all);
        out->hypothesis.symbol = malloc(((size_t)hs + 1) * sizeof(int32_t));
        out->reference.symbol = malloc(((size_t)rs + 1) * sizeof(int32_t));
        good = all && out->hypothesis.symbol && out->reference.symbol;
    }
    for (int32_t i = 0; good && i < hs + rs; i++) {
        all[i] = i < hs ? h[i] : r[i - hs];
        *(i < hs ? &out->hypothesis.symbol[i] : &out->reference.symbol[i - hs]) =
            number_of(&all[i], all, i);
    }
    out->hypothesis.count = hs;
    out->reference.count = rs;
    free(h);
    free(r);
    free(all);
    if (!good) free_both(out);
    return good;
}

/* ---- n-grams --------------------------------------------------------------------------------- */

static int compare_grams(const int32_t *a, const int32_t *b, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        if (a[i] != b[i]) return a[i] < b[i] ? -1 : 1;
    }
    return 0;
}

/* Sort the starts of n-grams by what they begin: shell sort, for texts are short. */
static void sort_grams(const int32_t *symbol, int32_t *start, int32_t count, int32_t n)
{
    for (int32_t gap = count / 2; gap > 0; gap /= 2) {
        for (int32_t i = gap; i < count; i++) {
            int32_t moved = start[i], k = i;

            while (k >= gap && compare_grams(symbol + start[k - gap], symbol + moved, n) > 0) {
                start[k] = start[k - gap];
                k -= gap;
            }
            start[k] = moved;
        }
    }
}

typedef struct {
    double hypothesis, reference, match; /* n-grams of each, and of both at once */
} gram_counts;

/* false: no memory. */
static bool count_grams(const both *b, int32_t n, gram_counts *out)
{
    const int32_t *x = b->hypothesis.symbol, *y = b->reference.symbol;
    int32_t xs = b->hypothesis.count >= n ? b->hypothesis.count - n + 1 : 0;
    int32_t ys = b->reference.count >= n ? b->reference.count - n + 1 : 0, i = 0, k = 0;
    int32_t *start = malloc(((size_t)xs + (size_t)ys + 1) * sizeof *start);

    *out = (gram_counts){xs, ys, 0};
    if (!start) return false;
    for (int32_t s = 0; s < xs; s++) start[s] = s;
    for (int32_t s = 0; s < ys; s++) start[xs + s] = s;
    sort_grams(x, start, xs, n);
    sort_grams(y, start + xs, ys, n);
    while (i < xs && k < ys) {
        int order = compare_grams(x + start[i], y + start[xs + k], n);

        out->match += order == 0;
        i += order <= 0;
        k += order >= 0;
    }
    free(start);
    return true;
}

/* ---- bleu ------------------------------------------------------------------------------------ */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* What mteval-v13a sets apart: ASCII signs but . , - and '. */
static bool is_sign(char c)
{
    return (c >= '{' && c <= '~') || (c >= '[' && c <= '`') || (c >= ' ' && c <= '&') ||
           (c >= '(' && c <= '+') || (c >= ':' && c <= '@') || c == '/';
}

static bool is_stop(char c)
{
    return c == '.' || c == ',';
}

/* Line ends and entities, one after the other; a blank around everything. */
static text unescape(const char *s)
{
    static const struct {
        const char *from, *to;
    } changes[] = {{"<skipped>", ""}, {"-\n", ""},   {"\n", " "},  {"&quot;", "\""},
                   {"&amp;", "&"},    {"&lt;", "<"}, {"&gt;", ">"}};
    text t = {NULL, 0, 0, false};
    size_t bytes = strlen(s), at = 0, end = 0;

    while (at < bytes) { /* white space at the end goes first */
        if (!is_space(next_code(s, bytes, &at))) end = at;
    }
    put_byte(&t, ' ');
    put(&t, s, end);
    put_byte(&t, ' ');
    for (size_t c = 0; c < sizeof changes / sizeof *changes && !t.failed; c++) {
        size_t from = strlen(changes[c].from), to = strlen(changes[c].to);
        char *write = t.data;

        for (const char *read = t.data; *read;) {
            bool here = strncmp(read, changes[c].from, from) == 0;

            if (here) memcpy(write, changes[c].to, to);
            if (!here) *write = *read;
            write += here ? to : 1;
            read += here ? from : 1;
        }
        *write = '\0';
        t.bytes = (size_t)(write - t.data);
    }
    return t;
}

/* One of the substitutions: `first` and `second` side by side get blanks put around `apart`. */
static text pass(text in, bool (*first)(char), bool (*second)(char), bool blank_first)
{
    text out = {NULL, 0, 0, in.failed};

    for (size_t i = 0; i < in.bytes; i++) {
        if (i + 1 < in.bytes && first(in.data[i]) && second(in.data[i + 1])) {
            if (blank_first) put_byte(&out, ' ');
            put_byte(&out, in.data[i]);
            put_byte(&out, ' ');
            put_byte(&out, in.data[++i]);
            if (!blank_first) put_byte(&out, ' ');
        } else {
            put_byte(&out, in.data[i]);
        }
    }
    free(in.data);
    return out;
}

static bool no_digit(char c)
{
    return !is_digit(c);
}

static bool is_dash(char c)
{
    return c == '-';
}

/* The 13a tokenizer, as text with blanks. */
static text tokens_13a(const char *s)
{
    text in = unescape(s), out = {NULL, 0, 0, false};

    out.failed = in.failed;
    for (size_t i = 0; i < in.bytes; i++) {
        if (is_sign(in.data[i])) put_byte(&out, ' ');
        put_byte(&out, in.data[i]);
        if (is_sign(in.data[i])) put_byte(&out, ' ');
    }
    free(in.data);
    out = pass(out, no_digit, is_stop, false); /* unless behind a digit */
    out = pass(out, is_stop, no_digit, true);  /* unless before a digit */
    return pass(out, is_digit, is_dash, false);
}

/* matches, n-grams of the hypothesis per order; then the lengths. */
static bool bleu_count(const char *hypothesis, const char *reference, double *out)
{
    text h = tokens_13a(hypothesis), r = tokens_13a(reference);
    both b;
    bool split_up = !h.failed && !r.failed && words(h.data, r.data, &b), good = split_up;

    for (int32_t n = 1; good && n <= BLEU_ORDER; n++) {
        gram_counts g;

        good = count_grams(&b, n, &g);
        out[2 * (n - 1)] = g.match;
        out[2 * (n - 1) + 1] = g.hypothesis;
        if (n > 1) continue;
        out[2 * BLEU_ORDER] = g.hypothesis;
        out[2 * BLEU_ORDER + 1] = g.reference;
    }
    if (split_up) free_both(&b);
    free(h.data);
    free(r.data);
    return good;
}

static double bleu_score(const double *sum, int32_t examples)
{
    double logs = 0.0, smooth = 1.0, length = sum[2 * BLEU_ORDER], wanted = sum[2 * BLEU_ORDER + 1];
    double any = 0.0;

    (void)examples;
    for (int32_t n = 0; n < BLEU_ORDER; n++) any += sum[2 * n];
    if (!(any > 0.0)) return 0.0;
    for (int32_t n = 0; n < BLEU_ORDER; n++) {
        double match = sum[2 * n], total = sum[2 * n + 1];

        if (!(total > 0.0)) return 0.0; /* a precision of 0 among the factors */
        if (!(match > 0.0)) smooth *= 2.0;
        logs += log(match > 0.0 ? 100.0 * match / total : 100.0 / (smooth * total));
    }
    return (length < wanted ? exp(1.0 - wanted / length) : 1.0) * exp(logs / BLEU_ORDER);
}

/* ---- chrf ------------------------------------------------------------------------------------ */

static bool chrf_count(const char *hypothesis, const char *reference, double *out)
{
    both b = {{NULL, 0}, {NULL, 0}};
    bool good =
        characters(hypothesis, false, &b.hypothesis) && characters(reference, false, &b.reference);

    for (int32_t n = 1; good && n <= CHRF_ORDER; n++) {
        gram_counts g;

        good = count_grams(&b, n, &g);
        out[3 * (n - 1)] = g.reference > 0.0 ? g.hypothesis : 0.0; /* as sacrebleu counts */
        out[3 * (n - 1) + 1] = g.reference;
        out[3 * (n - 1) + 2] = g.match;
    }
    free_both(&b);
    return good;
}

static double chrf_score(const double *sum, int32_t examples)
{
    const double weight = 4.0; /* beta 2, squared */
    double precision = 0.0, recall = 0.0;
    int32_t orders = 0;

    (void)examples;
    for (int32_t n = 0; n < CHRF_ORDER; n++) {
        if (!(sum[3 * n] > 0.0 && sum[3 * n + 1] > 0.0)) continue;
        precision += sum[3 * n + 2] / sum[3 * n];
        recall += sum[3 * n + 2] / sum[3 * n + 1];
        orders++;
    }
    if (orders == 0 || !(precision + recall > 0.0)) return 0.0;
    precision /= orders;
    recall /= orders;
    return 100.0 * (1.0 + weight) * precision * recall / (weight * precision + recall);
}

/* ---- means over examples --------------------------------------------------------------------- */

static double mean_score(const double *sum, int32_t examples)
{
    return examples > 0 ? 100.0 * sum[0] / examples : 0.0;
}

/* 2 m / (a + b) of n-grams; two empty texts have nothing in common. */
static bool f1_of(const char *hypothesis, const char *reference, int32_t n, double *out)
{
    gram_counts g;
    both b;

    if (!words(hypothesis, reference, &b)) return false;

    bool good = count_grams(&b, n, &g);

    free_both(&b);
    *out = g.match > 0.0 ? 2.0 * g.match / (g.hypothesis + g.reference) : 0.0;
    return good;
}

/* Lower case, everything but a-z and 0-9 to blanks. */
static text rouge_text(const char *s)
{
    text t = {NULL, 0, 0, false};
    sequence codes;

    t.failed = !lower(s, &codes);
    put(&t, "", 0);
    for (int32_t i = 0; i < codes.count; i++) {
        int32_t c = codes.symbol[i];

        put_byte(&t, (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? (char)c : ' ');
    }
    free(codes.symbol);
    return t;
}

static bool rouge2_count(const char *hypothesis, const char *reference, double *out)
{
    text h = rouge_text(hypothesis), r = rouge_text(reference);
    bool good = !h.failed && !r.failed && f1_of(h.data, r.data, 2, out);

    free(h.data);
    free(r.data);
    return good;
}

/* Letters, numbers: what Python's \\b sees as a word, marks not among them. */
static bool is_word(int32_t code)
{
    utf8proc_category_t category = utf8proc_category(code);

    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
           (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

static bool is_punctuation(int32_t c)
{
    return (c > ' ' && c < '0') || (c > '9' && c < 'A') || (c > 'Z' && c < 'a') ||
           (c > 'z' && c < 0x7f);
}

static bool is_article(const int32_t *code, int32_t count)
{
    return (count == 1 && code[0] == 'a') || (count == 2 && code[0] == 'a' && code[1] == 'n') ||
           (count == 3 && code[0] == 't' && code[1] == 'h' && code[2] == 'e');
}

/* SQuAD's normalize_answer: lower case, no ASCII punctuation, no articles, single blanks. */
static text squad_text(const char *s)
{
    text t = {NULL, 0, 0, false};
    sequence codes;
    int32_t count = 0, end;
    bool blank = false; /* one is due, should more follow */

    t.failed = !lower(s, &codes);
    put(&t, "", 0);
    for (int32_t i = 0; i < codes.count; i++) {
        if (!is_punctuation(codes.symbol[i])) codes.symbol[count++] = codes.symbol[i];
    }
    for (int32_t i = 0; i < count; i = end) {
        char character[4];

        for (end = i; end < count && is_word(codes.symbol[end]);) end++;
        if (end == i) end++; /* no word: on its own */
        if (is_article(codes.symbol + i, end - i) || is_space((uint32_t)codes.symbol[i])) {
            blank = t.bytes > 0;
            continue;
        }
        if (blank) put_byte(&t, ' ');
        blank = false;
        for (int32_t k = i; k < end; k++) {
            put(&t, character, spc_utf8_encode((uint32_t)codes.symbol[k], character));
        }
    }
    free(codes.symbol);
    return t;
}

static bool exact_count(const char *hypothesis, const char *reference, double *out)
{
    text h = squad_text(hypothesis), r = squad_text(reference);
    bool good = !h.failed && !r.failed;

    if (good) *out = strcmp(h.data, r.data) == 0;
    free(h.data);
    free(r.data);
    return good;
}

static bool squad_f1_count(const char *hypothesis, const char *reference, double *out)
{
    text h = squad_text(hypothesis), r = squad_text(reference);
    bool good = !h.failed && !r.failed && f1_of(h.data, r.data, 1, out);

    free(h.data);
    free(r.data);
    return good;
}

/* Behind the last occurrence of mark; NULL: it does not occur. */
static const char *behind(const char *s, const char *mark)
{
    const char *found = NULL;

    for (const char *at = s; (at = strstr(at, mark));) found = at += strlen(mark);
    return found;
}

/* The number that begins at *at, grouped by commas or not, below zero behind a minus that is not
 * between two words; *at moves behind it. */
static double read_number(const char *s, const char **at)
{
    const char *sign = *at > s && (*at)[-1] == '$' ? *at - 1 : *at; /* -$5 */
    char digits[64];
    size_t used = 0;

    if (sign > s && sign[-1] == '-') {
        char before = sign - 1 > s ? sign[-2] : ' ';
        bool letter = (before >= 'a' && before <= 'z') || (before >= 'A' && before <= 'Z');

        if (!is_digit(before) && !letter) digits[used++] = '-';
    }
    for (; is_digit(**at) || (is_stop(**at) && is_digit((*at)[1])); (*at)++) {
        if (**at != ',' && used < sizeof digits - 1) digits[used++] = **at;
    }
    digits[used] = '\0';
    return strtod(digits, NULL);
}

/* The answer a text comes to: the first number behind its last "####" or, without one, behind its
 * last "The answer is"; its last number where neither stands.  false: there is none. */
static bool answer(const char *s, double *out)
{
    const char *mark = behind(s, "####");
    bool found = false;

    if (!mark) mark = behind(s, "The answer is");
    for (const char *at = mark ? mark : s; *at && !(mark && found);) {
        bool begins = is_digit(*at) || (*at == '.' && is_digit(at[1]));

        if (begins) *out = read_number(s, &at);
        if (!begins) at++;
        found = found || begins;
    }
    return found;
}

static bool gsm8k_count(const char *hypothesis, const char *reference, double *out)
{
    double h, r;

    *out = answer(hypothesis, &h) && answer(reference, &r) && fabs(h - r) < 1e-9;
    return true;
}

/* ---- the table ------------------------------------------------------------------------------- */

static const quality_metric metrics[] = {
    {"bleu", 2 * BLEU_ORDER + 2, bleu_count, bleu_score},
    {"chrf", 3 * CHRF_ORDER, chrf_count, chrf_score},
    {"rouge2", 1, rouge2_count, mean_score},
    {"exact", 1, exact_count, mean_score},
    {"f1", 1, squad_f1_count, mean_score},
    {"gsm8k", 1, gsm8k_count, mean_score},
};

const quality_metric *quality_find(const char *name)
{
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++) {
        if (strcmp(metrics[i].name, name) == 0) return &metrics[i];
    }
    return NULL;
}

const char *quality_names(void)
{
    return "bleu, chrf, rouge2, exact, f1, gsm8k";
}

double quality_score(const quality_metric *metric, const double *counts, int32_t examples)
{
    double sum[QUALITY_COUNTS] = {0};

    for (int32_t i = 0; i < examples; i++) {
        for (int32_t k = 0; k < metric->counts; k++) sum[k] += counts[i * metric->counts + k];
    }
    return metric->score(sum, examples);
}

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

void quality_bootstrap(const quality_metric *metric, const double *counts, int32_t examples,
                       int32_t resamples, uint64_t seed, double *low, double *high)
{
    double *scores = malloc((size_t)resamples * sizeof *scores);

    *low = *high = quality_score(metric, counts, examples);
    if (!scores || examples < 1) {
        free(scores);
        return;
    }
    for (int32_t r = 0; r < resamples; r++) {
        double sum[QUALITY_COUNTS] = {0};

        for (int32_t i = 0; i < examples; i++) {
            int64_t pick = (int64_t)(next_random(&seed) % (uint64_t)examples);

            for (int32_t k = 0; k < metric->counts; k++)
                sum[k] += counts[pick * metric->counts + k];
        }
        scores[r] = metric->score(sum, examples);
    }
    *low = measure_quantile(scores, resamples, 0.025);
    *high = measure_quantile(scores, resamples, 0.975);
    free(scores);
}
