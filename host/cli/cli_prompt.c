/* SPDX-License-Identifier: Apache-2.0 */
/* cli_prompt.c - where prompts come from, how text becomes one, and counters added up for display.
 */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_BUFFER = 1 << 14 };

_Static_assert((int)SPC_CLI_LINE_MOST >= (int)FIRST_BUFFER,
               "a first buffer is no line that is too long");

/* ---- prompts --------------------------------------------------------------------------------- */

void spc_cli_prompt_free(spc_cli_prompt *prompt)
{
    free(prompt->text);
    free(prompt->ids);
    spc_cli_own_free(&prompt->own);
    json_decref(prompt->id);
    json_decref(prompt->line);
    memset(prompt, 0, sizeof *prompt);
}

spc_status spc_cli_source_open(spc_cli_source *source, const spc_cli_list *words, const char *input,
                               spc_cli_reader read, spc_error *err)
{
    memset(source, 0, sizeof *source);
    if (words->count > 0 && input) {
        return spc_error_set(err, SPC_EUSAGE,
                             "prompts come from the command line or from --input, not from both");
    }
    if (words->count > 0) {
        source->words = words;
        return SPC_OK;
    }
    source->read = input ? read : NULL;
    source->in = stdin;
    source->name = "stdin";
    if (!input || strcmp(input, "-") == 0) return SPC_OK;
    source->name = input;
    source->in = fopen(input, "r");
    if (source->in) return SPC_OK;
    return spc_error_set(err, SPC_EINPUT, "%s: cannot be opened: %s", input, strerror(errno));
}

void spc_cli_source_close(spc_cli_source *source)
{
    if (source->in && source->in != stdin) (void)fclose(source->in);
    free(source->buffer);
    memset(source, 0, sizeof *source);
}

spc_status spc_cli_take_text(spc_cli_prompt *prompt, const char *text, size_t bytes, spc_error *err)
{
    prompt->text = malloc(bytes + 1);
    if (!prompt->text) {
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory for a prompt of %zu bytes",
                             prompt->where, bytes);
    }
    memcpy(prompt->text, text, bytes);
    prompt->text[bytes] = '\0';
    prompt->bytes = bytes;
    return SPC_OK;
}

/* Room for more behind what has been read; false: no memory. */
static bool make_room(spc_cli_source *s)
{
    size_t capacity = s->capacity > 0 ? 2 * s->capacity : FIRST_BUFFER;
    char *larger;

    if (s->begin > 0) { /* what has been handed out is not needed any more */
        memmove(s->buffer, s->buffer + s->begin, s->end - s->begin);
        s->end -= s->begin;
        s->seen -= s->begin;
        s->begin = 0;
    }
    if (s->end < s->capacity) return true;
    larger = capacity > s->capacity ? realloc(s->buffer, capacity) : NULL;
    if (!larger) return false;
    s->buffer = larger;
    s->capacity = capacity;
    return true;
}

/* Read what there is, or wait for it. */
static void read_more(spc_cli_source *s)
{
    ssize_t count = -1;

    if (!make_room(s)) {
        errno = ENOMEM;
    } else {
        do {
            count = read(fileno(s->in), s->buffer + s->end, s->capacity - s->end);
        } while (count < 0 && errno == EINTR && !spc_cli_interrupted);
    }
    if (count > 0) s->end += (size_t)count;
    if (count >= 0) s->ended = count == 0;
    if (count >= 0 || spc_cli_interrupted) return;
    s->failure = errno;
    s->ended = true;
}

/* What has been read of a line is more than one may be: the rest of it is not kept. */
static bool is_too_long(const spc_cli_source *s)
{
    return s->seen - s->begin > SPC_CLI_LINE_MOST;
}

/* Drop what there is of a line that was too long, up to its end. */
static void drop_line(spc_cli_source *s)
{
    const char *end =
        s->end > s->begin ? memchr(s->buffer + s->begin, '\n', s->end - s->begin) : NULL;

    s->dropping = !end && !s->ended;
    s->begin = s->seen = end ? (size_t)(end + 1 - s->buffer) : s->end;
}

/* Is there a whole line, or one that is too long?  Then its end, that of the input, or that of what
 * has been read is at `seen`. */
static bool has_line(spc_cli_source *s)
{
    if (s->dropping) drop_line(s);
    if (s->dropping) return false;

    const char *end = s->end > s->seen ? memchr(s->buffer + s->seen, '\n', s->end - s->seen) : NULL;

    s->seen = end ? (size_t)(end - s->buffer) : s->end;
    return end || is_too_long(s) || (s->ended && s->failure == 0 && s->end > s->begin);
}

bool spc_cli_source_waits(spc_cli_source *source)
{
    struct pollfd input = {.events = POLLIN};

    if (source->words) return false;
    input.fd = fileno(source->in);
    while (!has_line(source) && !source->ended && !spc_cli_interrupted) {
        if (poll(&input, 1, 0) <= 0) return true;
        read_more(source);
    }
    return false;
}

static spc_status reading_failed(const spc_cli_source *s, spc_error *err)
{
    if (s->failure == ENOMEM) {
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory for line %" PRId64, s->name,
                             s->line + 1);
    }
    return spc_error_set(err, SPC_EINPUT, "%s: line %" PRId64 " cannot be read: %s", s->name,
                         s->line + 1, strerror(s->failure));
}

/* The next line, without its end; false behind the last one. */
static bool next_line(spc_cli_source *source, const char **line, size_t *bytes, spc_status *status,
                      spc_error *err)
{
    *status = SPC_OK;
    while (!has_line(source) && !source->ended) {
        read_more(source);
        if (!spc_cli_interrupted) continue;
        source->begin = source->seen = source->end; /* what was being typed is dropped */
        return false;
    }
    if (source->failure != 0) *status = reading_failed(source, err);
    if (source->failure != 0 || source->begin == source->end) return false;
    source->line++;
    if (is_too_long(source)) {
        source->dropping = true;
        *status = spc_error_set(err, SPC_EINPUT,
                                "%s: line %" PRId64 ": expected at most %d bytes, found more",
                                source->name, source->line, SPC_CLI_LINE_MOST);
        return false;
    }
    *line = source->buffer + source->begin;
    *bytes = source->seen - source->begin;
    source->begin = source->seen += source->seen < source->end; /* behind its end */
    if (spc_cli_cut_line(source->in, *line, *bytes)) {
        *status = spc_error_set(err, SPC_EINPUT, "%s: line %" PRId64 ": " SPC_CLI_CUT_LINE,
                                source->name, source->line);
        return false;
    }
    if (source->line == 1 && *bytes >= 3 && memcmp(*line, "\xef\xbb\xbf", 3) == 0) {
        *line += 3; /* the mark of UTF-8 is no text */
        *bytes -= 3;
    }
    if (*bytes > 0 && (*line)[*bytes - 1] == '\r') --*bytes;
    return true;
}

static bool is_blank(const char *line, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (line[i] != ' ' && line[i] != '\t') return false;
    }
    return true;
}

spc_status spc_cli_source_next(spc_cli_source *source, spc_cli_prompt *prompt, bool *got,
                               spc_error *err)
{
    const char *text = NULL;
    size_t bytes = 0;
    spc_status status;

    memset(prompt, 0, sizeof *prompt);
    *got = false;
    if (source->words) {
        if (source->line == source->words->count) return SPC_OK;

        const char *word = source->words->item[source->line++];

        (void)snprintf(prompt->where, sizeof prompt->where, "prompt %" PRId64, source->line);
        *got = true;
        return spc_cli_take_text(prompt, word, strlen(word), err);
    }
    do {
        *got = next_line(source, &text, &bytes, &status, err);
        if (status != SPC_OK) *got = source->dropping; /* behind that line there may be others */
    } while (*got && status == SPC_OK && source->read && is_blank(text, bytes));
    (void)snprintf(prompt->where, sizeof prompt->where, "%.200s: line %" PRId64, source->name,
                   source->line);
    if (!*got || status != SPC_OK) return status;
    if (source->read) return source->read(prompt, text, bytes, err);
    return spc_cli_take_text(prompt, text, bytes, err);
}

/* ---- text to ids ----------------------------------------------------------------------------- */

/* The id of one special token by its text. */
static spc_status find_mark(const spc_engine *engine, const char *mark, int32_t *id, spc_error *err)
{
    int32_t *ids, count;
    spc_status status = spc_engine_encode(engine, mark, strlen(mark), false, &ids, &count, err);

    if (status != SPC_OK) return status;
    if (count == 1) *id = ids[0];
    free(ids);
    if (count == 1) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "--to: the verifier's tokenizer has no token %s: --to is for the embedded "
                         "pair and models with its prompt format",
                         mark);
}

/* The special tokens of a prompt for translation. */
typedef struct {
    int32_t begin, target, separator;
} marks;

static spc_status find_marks(const spc_engine *engine, int32_t language, marks *out, spc_error *err)
{
    static const char *const targets[SPC_CLI_LANGUAGE_COUNT] = {"<2de>", "<2es>", "<2fr>"};
    spc_status status = find_mark(engine, "<s>", &out->begin, err);

    if (status == SPC_OK) status = find_mark(engine, targets[language], &out->target, err);
    return status == SPC_OK ? find_mark(engine, "<sep>", &out->separator, err) : status;
}

spc_status spc_cli_check_language(const spc_engine *engine, int32_t language, spc_error *err)
{
    marks m = {0};

    return find_marks(engine, language, &m, err);
}

spc_status spc_cli_translation(const spc_engine *engine, int32_t language, const char *text,
                               size_t bytes, int32_t **ids, int32_t *count, spc_error *err)
{
    marks m = {0};
    int32_t *sentence, length, *prompt;
    spc_status status = find_marks(engine, language, &m, err);

    *ids = NULL;
    *count = 0;
    if (status == SPC_OK) {
        status = spc_engine_encode_plain(engine, text, bytes, false, &sentence, &length, err);
    }
    if (status != SPC_OK) return status;
    prompt = malloc(((size_t)length + 3) * sizeof *prompt);
    if (prompt) {
        prompt[0] = m.begin;
        prompt[1] = m.target;
        if (length > 0) memcpy(prompt + 2, sentence, (size_t)length * sizeof *prompt);
        prompt[length + 2] = m.separator;
        *ids = prompt;
        *count = length + 3;
    }
    free(sentence);
    return prompt ? SPC_OK : spc_error_set(err, SPC_ENOMEM, "no memory for a prompt");
}

spc_status spc_cli_rule(const char *rule, char canonical[SPC_RULE_TEXT_BYTES], bool *sequential,
                        spc_error *err)
{
    spc_rule parsed;
    char message[SPC_RULE_MESSAGE_BYTES];

    if (!spc_rule_parse(rule, &parsed, message)) {
        return spc_error_set(err, SPC_ERULE, "%s", message);
    }
    spc_rule_format(&parsed, canonical);
    *sequential = parsed.kind == SPC_RULE_VERIFIER_ONLY || parsed.kind == SPC_RULE_DRAFTER_ONLY;
    return SPC_OK;
}

/* ---- counters -------------------------------------------------------------------------------- */

void spc_cli_stats_add(spc_stats *total, const spc_stats *one)
{
    total->prompt_tokens += one->prompt_tokens;
    total->reused_tokens += one->reused_tokens;
    total->tokens += one->tokens;
    total->discarded += one->discarded;
    total->rounds += one->rounds;
    total->verifier_calls += one->verifier_calls;
    total->drafter_calls += one->drafter_calls;
    total->drafted_ahead += one->drafted_ahead;
    total->ahead_used += one->ahead_used;
    total->in_turns += one->in_turns;
    total->chained += one->chained;
    total->prefill_calls += one->prefill_calls;
    for (int32_t i = 0; i <= SPC_GAMMA_MAX; i++) total->chosen[i] += one->chosen[i];
    total->probes += one->probes;
    total->catch_up += one->catch_up;
    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) {
        total->drafted[i] += one->drafted[i];
        total->verified[i] += one->verified[i];
        total->accepted[i] += one->accepted[i];
        total->rejected[i] += one->rejected[i];
        total->deferred[i] += one->deferred[i];
    }
    total->bonus += one->bonus;
    total->bonus_deferred += one->bonus_deferred;
    total->zero_residuals += one->zero_residuals;
    total->draft_ns += one->draft_ns;
    total->verify_ns += one->verify_ns;
    total->other_ns += one->other_ns;
}

int64_t spc_cli_sum(const int64_t *by_position)
{
    int64_t sum = 0;

    for (int32_t i = 0; i < SPC_GAMMA_MAX; i++) sum += by_position[i];
    return sum;
}

json_t *spc_cli_json_counts(const int64_t *by_position, int32_t count)
{
    json_t *array = json_array();

    for (int32_t i = 0; i < count; i++) {
        if (json_array_append_new(array, json_integer(by_position[i])) == 0) continue;
        json_decref(array);
        return NULL;
    }
    return array;
}

double spc_cli_ratio(double a, double b)
{
    return b > 0.0 || b < 0.0 ? a / b : 0.0;
}

double spc_cli_seconds(const spc_stats *stats)
{
    return (double)(stats->draft_ns + stats->verify_ns + stats->other_ns) * 1e-9;
}

json_t *spc_cli_json_gamma(int32_t gamma)
{
    return gamma == SPC_GAMMA_AUTO ? json_string("auto") : json_integer(gamma);
}

/* What gamma auto chose; nothing where it did not choose. */
static int json_choices(json_t *object, const spc_stats *s)
{
    int64_t rounds = 0;
    int32_t longest = 0;

    for (int32_t g = 0; g <= SPC_GAMMA_MAX; g++) {
        rounds += s->chosen[g];
        if (s->chosen[g] > 0) longest = g;
    }
    if (rounds == 0) return 0;
    return json_object_set_new(object, "rounds_by_gamma",
                               spc_cli_json_counts(s->chosen, longest + 1)) |
           json_object_set_new(object, "probes", json_integer(s->probes)) |
           json_object_set_new(object, "catch_up", json_integer(s->catch_up));
}

bool spc_cli_json_stats(json_t *object, const spc_stats *s, int32_t gamma)
{
    const struct {
        const char *name;
        const int64_t *count;
    } by_position[] = {{"drafted", s->drafted},
                       {"verified", s->verified},
                       {"accepted", s->accepted},
                       {"rejected", s->rejected},
                       {"deferred", s->deferred}};
    const struct {
        const char *name;
        int64_t count;
    } counts[] = {{"prompt_tokens", s->prompt_tokens},
                  {"tokens", s->tokens},
                  {"reused_tokens", s->reused_tokens},
                  {"discarded", s->discarded},
                  {"rounds", s->rounds},
                  {"verifier_calls", s->verifier_calls},
                  {"drafter_calls", s->drafter_calls},
                  {"drafted_ahead", s->drafted_ahead},
                  {"ahead_used", s->ahead_used},
                  {"in_turns", s->in_turns},
                  {"chained", s->chained},
                  {"prefill_calls", s->prefill_calls},
                  {"bonus", s->bonus},
                  {"bonus_deferred", s->bonus_deferred},
                  {"zero_residuals", s->zero_residuals}};
    const struct {
        const char *name;
        double value;
    } reals[] = {
        {"tokens_per_second", spc_cli_ratio((double)s->tokens, spc_cli_seconds(s))},
        {"tokens_per_verifier_call", spc_cli_ratio((double)s->tokens, (double)s->verifier_calls)},
        {"drafter_ms", (double)s->draft_ns * 1e-6},
        {"verifier_ms", (double)s->verify_ns * 1e-6},
        {"other_ms", (double)s->other_ns * 1e-6},
    };
    char hash[17];
    int failed = 0;

    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        failed |= json_object_set_new(object, counts[i].name, json_integer(counts[i].count));
    }
    for (size_t i = 0; i < sizeof by_position / sizeof *by_position; i++) {
        failed |= json_object_set_new(object, by_position[i].name,
                                      spc_cli_json_counts(by_position[i].count, gamma));
    }
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        failed |= json_object_set_new(object, reals[i].name, json_real(reals[i].value));
    }
    failed |= json_choices(object, s);
    (void)snprintf(hash, sizeof hash, "%016" PRIx64, s->output_hash);
    failed |= json_object_set_new(object, "output_hash", json_string(hash));
    return failed == 0;
}
