/* SPDX-License-Identifier: Apache-2.0 */
/* bench_tokenizer.c - how fast text becomes ids and ids become text.
 *
 *     bench_tokenizer [--text FILE] [--bytes N] [--seconds S] [--json] TOKENIZER.json...
 *
 * Texts: `prose` (words in an order drawn at random, or --text), and `one word`, letters without a
 * space, which is where a merge that is not O(n log n) shows.  The limit beside them is looking at
 * every byte once, to see that it is UTF-8: no tokenizer does less. */
#include "bench/measure.h"
#include "weights/tokenizer.h"
#include "weights/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { RUNS = 5, BYTES_MAX = 1 << 28 };

typedef struct {
    const char *text_file; /* NULL: words at random */
    size_t bytes;          /* of each text; of a file at most */
    double seconds;        /* per line of the table */
    bool json, help;
    char **tokenizer; /* [tokenizers] files */
    int tokenizers;
} options;

typedef struct {
    char *bytes; /* [count] UTF-8 */
    size_t count;
} text;

typedef struct {
    const spc_tokenizer *tokenizer;
    const text *text;
    int32_t *id; /* [ids] of the last encoding, owned */
    int32_t ids;
    spc_error error;
} job;

static const char help[] =
    "bench_tokenizer: text to ids and back, MB (10^6 bytes) of text a second, one thread\n"
    "\n"
    "  bench_tokenizer [OPTION...] TOKENIZER.json...\n"
    "\n"
    "  --text FILE     UTF-8 text in place of words at random\n"
    "  --bytes N       of each text, of FILE at most (default 1000000)\n"
    "  --seconds S     measured per line of the table, at least 5 runs (default 1)\n"
    "  --json          JSON lines instead of a table\n"
    "  --help          this text\n";

static int usage(const char *problem, const char *value)
{
    (void)fprintf(stderr, "bench_tokenizer: %s%s; see bench_tokenizer --help\n", problem,
                  value ? value : "");
    return 2;
}

/* A number above 0, at most `most`, and nothing behind it; otherwise 0. */
static double read_number(const char *value, double most)
{
    char *end;
    double number = strtod(value, &end);

    return end != value && *end == '\0' && number > 0 && number <= most ? number : 0;
}

static int read_options(int count, char **arguments, options *o)
{
    *o = (options){NULL, 1000000, 1.0, false, false, NULL, 0};
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i];

        if (strncmp(name, "--", 2) != 0) {
            o->tokenizer = arguments + i;
            o->tokenizers = count - i;
            return 0;
        }
        if (strcmp(name, "--help") == 0) {
            o->help = true;
            return 0;
        }
        if (strcmp(name, "--json") == 0) {
            o->json = true;
            continue;
        }
        if (i + 1 == count) return usage("unknown option, or no value: ", name);

        const char *value = arguments[++i];

        if (strcmp(name, "--text") == 0) {
            o->text_file = value;
        } else if (strcmp(name, "--bytes") == 0) {
            o->bytes = (size_t)read_number(value, BYTES_MAX);
            if (o->bytes == 0) return usage("--bytes: 1 to 268435456", NULL);
        } else if (strcmp(name, "--seconds") == 0) {
            o->seconds = read_number(value, 60);
            if (o->seconds == 0) return usage("--seconds: above 0, to 60", NULL);
        } else {
            return usage("unknown option: ", name);
        }
    }
    return usage("which tokenizer.json?", NULL);
}

/* ---- texts ------------------------------------------------------------------------------------
 */

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static bool words_at_random(text *t, size_t bytes)
{
    static const char *const word[] = {
        "the",     "of",       "and",     "a",     "to",     "in",     "that",       "it",
        "was",     "he",       "for",     "on",    "with",   "as",     "his",        "be",
        "at",      "they",     "from",    "or",    "had",    "by",     "not",        "but",
        "what",    "all",      "were",    "when",  "house",  "people", "water",      "between",
        "nothing", "thought",  "country", "night", "der",    "und",    "Straße",     "für",
        "nicht",   "Häuser",   "le",      "été",   "garçon", "niño",   "1984",       "3.14",
        "don't",   "I'll",     "\n\n",    "\n",    "  ",     "Привет", "東京",       "한국어",
        "(x + 1)", "return 0", "https",   "://",   "🙂",   "мир",    "naïve café", "__init__"};
    static const char *const behind[] = {" ", " ", " ", " ", " ", ", ", ". "};
    uint64_t state = 1;

    t->count = 0;
    t->bytes = malloc(bytes);
    if (!t->bytes) return false;
    while (t->count < bytes) {
        const char *part[2] = {word[next_random(&state) % (sizeof word / sizeof *word)],
                               behind[next_random(&state) % (sizeof behind / sizeof *behind)]};

        for (int i = 0; i < 2; i++) {
            size_t n = strlen(part[i]);

            if (n > bytes - t->count) { /* the rest in spaces: no character is cut */
                n = bytes - t->count;
                memset(t->bytes + t->count, ' ', n);
            } else {
                memcpy(t->bytes + t->count, part[i], n);
            }
            t->count += n;
        }
    }
    return true;
}

static bool one_word(text *t, size_t bytes)
{
    static const char letters[] = "eeeetttaaaooinnsshrdlu";
    uint64_t state = 1;

    t->count = bytes;
    t->bytes = malloc(bytes);
    for (size_t i = 0; t->bytes && i < bytes; i++) {
        t->bytes[i] = letters[next_random(&state) % (sizeof letters - 1)];
    }
    return t->bytes != NULL;
}

/* At most `most` bytes of a file.  malloc'd; NULL: it cannot be read. */
static char *read_file(const char *path, size_t most, size_t *count)
{
    FILE *file = fopen(path, "rb");
    char *bytes = file ? malloc(most) : NULL;

    *count = bytes ? fread(bytes, 1, most, file) : 0;
    if (bytes && ferror(file)) {
        free(bytes);
        bytes = NULL;
    }
    if (file) (void)fclose(file);
    return bytes;
}

static bool prose(text *t, const options *o)
{
    if (!o->text_file) return words_at_random(t, o->bytes);
    t->bytes = read_file(o->text_file, o->bytes, &t->count);
    if (t->bytes && t->count == o->bytes) { /* a character may have been cut */
        size_t invalid = spc_utf8_invalid(t->bytes, t->count);

        if (t->count - invalid < 4) t->count = invalid;
    }
    return t->bytes && t->count > 0;
}

/* ---- measured ---------------------------------------------------------------------------------
 */

static bool look(void *user)
{
    job *j = user;

    return spc_utf8_invalid(j->text->bytes, j->text->count) == j->text->count;
}

static bool encode(void *user)
{
    job *j = user;

    free(j->id);
    return spc_tokenizer_encode(j->tokenizer, j->text->bytes, j->text->count, false, &j->id,
                                &j->ids, &j->error) == SPC_OK;
}

static bool decode(void *user)
{
    job *j = user;
    char *back;

    if (spc_tokenizer_decode(j->tokenizer, j->id, j->ids, false, &back, NULL, &j->error) !=
        SPC_OK) {
        return false;
    }
    free(back);
    return true;
}

static double rate(const job *j, double milliseconds)
{
    return (double)j->text->count * 1e-3 / milliseconds;
}

static void print_row(const options *o, const job *j, const char *file, const char *what,
                      const char *text_name, const measure_times *t, double look_rate)
{
    if (!o->json) {
        (void)printf("%-7s %-9s %10.2f %10.2f %10.2f %10.2f %12.4f %15.2f\n", what, text_name,
                     t->median, t->p10, t->p90, rate(j, t->median), rate(j, t->median) / look_rate,
                     (double)j->text->count / (double)j->ids);
        return;
    }

    measure_line line = measure_line_begin(stdout);

    measure_line_text(&line, "bench", "tokenizer");
    measure_line_text(&line, "tokenizer", file);
    measure_line_text(&line, "what", what);
    measure_line_text(&line, "text", text_name);
    measure_line_integer(&line, "bytes", (int64_t)j->text->count);
    measure_line_integer(&line, "ids", j->ids);
    measure_line_number(&line, "median_ms", t->median);
    measure_line_number(&line, "p10_ms", t->p10);
    measure_line_number(&line, "p90_ms", t->p90);
    measure_line_integer(&line, "runs", t->runs);
    measure_line_number(&line, "mb_per_s", rate(j, t->median));
    measure_line_number(&line, "look_mb_per_s", look_rate);
    measure_line_end(&line);
}

/* Encoding and decoding of one text. */
static bool bench_text(const options *o, const spc_tokenizer *tokenizer, const char *file,
                       const text *t, const char *text_name)
{
    job j = {tokenizer, t, NULL, 0, {SPC_EINPUT, "the text is not UTF-8"}};
    measure_times looked, encoded, decoded;
    bool ok = measure_run(look, NULL, &j, RUNS, o->seconds, &looked) &&
              measure_run(encode, NULL, &j, RUNS, o->seconds, &encoded) &&
              measure_run(decode, NULL, &j, RUNS, o->seconds, &decoded);

    if (ok) {
        print_row(o, &j, file, "encode", text_name, &encoded, rate(&j, looked.median));
        print_row(o, &j, file, "decode", text_name, &decoded, rate(&j, looked.median));
    } else {
        (void)fprintf(stderr, "bench_tokenizer: %s: %s\n", file, j.error.message);
    }
    free(j.id);
    return ok;
}

static bool bench_tokenizer(const options *o, const char *file, const text *words,
                            const text *letters)
{
    spc_error error;
    spc_tokenizer *tokenizer;
    size_t bytes;
    char *json = read_file(file, BYTES_MAX, &bytes);

    if (!json) {
        (void)fprintf(stderr, "bench_tokenizer: %s cannot be read\n", file);
        return false;
    }

    spc_status status = spc_tokenizer_open(file, json, bytes, &tokenizer, &error);

    free(json);
    if (status != SPC_OK) {
        (void)fprintf(stderr, "bench_tokenizer: %s\n", error.message);
        return false;
    }
    if (!o->json) {
        (void)printf("\n%s, %d tokens\n", file, (int)spc_tokenizer_size(tokenizer));
        (void)printf("what    text       median ms        p10        p90       MB/s of a look at "
                     "it bytes per token\n");
    }

    bool ok = bench_text(o, tokenizer, file, words, "prose") &&
              bench_text(o, tokenizer, file, letters, "one word");

    spc_tokenizer_close(tokenizer);
    return ok;
}

int main(int count, char **arguments)
{
    options o;
    text words = {NULL, 0}, letters = {NULL, 0};
    int wrong = read_options(count, arguments, &o);
    bool ok;

    if (wrong) return wrong;
    if (o.help) return fputs(help, stdout) < 0;
    ok = prose(&words, &o) && one_word(&letters, o.bytes);
    if (!ok) (void)fprintf(stderr, "bench_tokenizer: %s\n", o.text_file ? "no text" : "no memory");
    for (int i = 0; ok && i < o.tokenizers; i++) {
        ok = bench_tokenizer(&o, o.tokenizer[i], &words, &letters);
    }
    free(words.bytes);
    free(letters.bytes);
    return measure_exit("bench_tokenizer", !ok);
}
