/* SPDX-License-Identifier: Apache-2.0 */
/* bench_verify.c - how long draft sampling and verification take, beside a plain read of the bytes
 * that they cannot do without.
 *
 * Rows are one peaked token with 10 to 99 % of the mass on a Gaussian tail; the drafter's row is
 * the verifier's with noise of 0.35.  Drafts are drawn by spc_*_draw_batch, whose statistics the
 * verification gets.  At least 3 sets of inputs and on a device 400 MB of them take turns, and the
 * caches have read other things between two runs, so that logits come from memory (`cold`); `warm`
 * is one set over and over.  Before anything is timed the two forms of
 * a device are compared with each other. */
#include "verify_floor.h"
#include "verify_inputs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WAKE_NS 300000000u

/* ---- options ----------------------------------------------------------------------------------
 */

static const char help[] =
    "bench_verify: time of draft sampling and verification against a read of their bytes\n"
    "\n"
    "  --device NAME     cuda (default where there is one) or cpu\n"
    "  --shape B,G,V     sequences, drafts (1 to 16), vocabulary (2 or more); may be given again\n"
    "                    (default: four shapes, on a CPU three)\n"
    "  --rules TEXT      rules with ';' between (default: strict, lossy, diff, token-v3, opt, "
    "chow)\n"
    "  --temperature T   default 0.7\n"
    "  --top-p P         default 1: no truncation\n"
    "  --dtype NAME      bf16 (default) or f32\n"
    "  --block           block verification\n"
    "  --known N         the drafter knows N of the tokens, as an EAGLE-3 head; default all\n"
    "  --no-stats        verification gets no statistics of the drafter's rows\n"
    "  --reference       the device's reference form, one block per sequence\n"
    "  --runs N          timed runs per line, 3 or more (default 100)\n"
    "  --json            JSON lines instead of a table\n"
    "  --help            this text\n";

static int usage(const char *problem, const char *value)
{
    (void)fprintf(stderr, "bench_verify: %s%s; see bench_verify --help\n", problem, value);
    return 2;
}

static int refused(const char *option, const char *value)
{
    (void)fprintf(stderr, "bench_verify: %s: does not take '%s'; see bench_verify --help\n", option,
                  value);
    return 2;
}

static bool read_shape(const char *text, shape *out)
{
    char rest;

    return sscanf(text, "%d,%d,%d%c", &out->sequences, &out->drafts, &out->vocab, &rest) == 3 &&
           out->sequences >= 1 && out->sequences <= 65536 && out->drafts >= 1 &&
           out->drafts <= SPC_GAMMA_MAX && out->vocab >= 2 && out->vocab <= SPC_VOCAB_MAX;
}

static bool read_real(const char *text, double least, double most, double *out)
{
    char *end;

    *out = strtod(text, &end);
    return end != text && *end == '\0' && *out >= least && *out <= most;
}

/* One option with a value; false: the value is none of it, *known false: no such option. */
static bool read_option(options *o, const char *name, const char *value, bool *known)
{
    double number = 0;

    *known = true;
    if (strcmp(name, "--device") == 0) {
        o->cpu = strcmp(value, "cpu") == 0;
        return o->cpu || strcmp(value, "cuda") == 0;
    }
    if (strcmp(name, "--shape") == 0) {
        return o->shapes < SHAPES_MAX && read_shape(value, &o->shape[o->shapes++]);
    }
    if (strcmp(name, "--rules") == 0) {
        o->rules = value;
        return true;
    }
    if (strcmp(name, "--temperature") == 0) return read_real(value, 0, 100, &o->temperature);
    if (strcmp(name, "--top-p") == 0) return read_real(value, 1e-6, 1, &o->top_p);
    if (strcmp(name, "--dtype") == 0) {
        o->f32 = strcmp(value, "f32") == 0;
        return o->f32 || strcmp(value, "bf16") == 0;
    }
    if (strcmp(name, "--known") == 0) {
        if (!read_real(value, 1, SPC_VOCAB_MAX, &number) || number != floor(number)) return false;
        o->known = (int32_t)number;
        return true;
    }
    if (strcmp(name, "--runs") == 0) {
        if (!read_real(value, 3, 100000, &number) || number != floor(number)) return false;
        o->runs = (int32_t)number;
        return true;
    }
    *known = false;
    return false;
}

static int read_options(int count, char **argument, options *o)
{
    *o = (options){.rules = "strict;lossy:alpha=0.3;diff:alpha=0.05;token-v3:alpha=0.5;"
                            "opt:alpha=0.1;chow:alpha=0.5",
                   .temperature = 0.7,
                   .top_p = 1,
                   .runs = 100};
    for (int i = 1; i < count; i++) {
        const char *name = argument[i];
        bool known;

        if (strcmp(name, "--help") == 0) {
            (void)fputs(help, stdout);
            exit(0);
        }
        if (strcmp(name, "--block") == 0 || strcmp(name, "--no-stats") == 0 ||
            strcmp(name, "--reference") == 0 || strcmp(name, "--json") == 0) {
            *(name[2] == 'b'   ? &o->block
              : name[2] == 'n' ? &o->no_stats
              : name[2] == 'r' ? &o->reference
                               : &o->json) = true;
            continue;
        }
        if (i + 1 == count) return usage("unknown option, or one without its value: ", name);
        if (read_option(o, name, argument[i + 1], &known)) {
            i++;
            continue;
        }
        return known ? refused(name, argument[i + 1]) : usage("unknown option: ", name);
    }
    return 0;
}

/* A device that had nothing to do while its inputs were made has low clocks, which rise first. */
static bool wake(bench *b)
{
    const uint64_t begin = measure_now_ns();
    bool ok = true;

    while (ok && b->at->device && measure_now_ns() - begin < WAKE_NS) {
        ok = b->at->read(b->at, b->logits[0], 2 * inputs_rows_bytes(b), b->at->stream) &&
             b->at->wait(b->at);
    }
    return ok;
}

/* ---- work -------------------------------------------------------------------------------------
 */

static spc_logit_rows rows_of(const bench *b, int32_t set, bool drafter)
{
    spc_logits_type type = b->element == 4 ? SPC_LOGITS_F32 : SPC_LOGITS_BF16;

    return (spc_logit_rows){.logits = {b->logits[set] + (drafter ? inputs_rows_bytes(b) : 0), type},
                            .stride = b->stride,
                            .width = drafter ? b->known : b->shape.vocab,
                            .subset = drafter ? b->subset : NULL};
}

static spc_draw_batch draw_of(const bench *b, int32_t set, int32_t i)
{
    size_t at = (size_t)i * (size_t)b->shape.sequences;

    return (spc_draw_batch){.sequences = b->shape.sequences,
                            .vocab = b->shape.vocab,
                            .params = b->params,
                            .logits = rows_of(b, set, true),
                            .row = b->row + at,
                            .position = b->position + at,
                            .salt = b->salt,
                            .token = b->drawn,
                            .stats = b->drawn_stats,
                            .workspace = b->o->reference ? NULL : b->workspace,
                            .workspace_bytes = b->workspace_bytes};
}

static spc_verify_batch verify_of(const bench *b, int32_t set)
{
    return (spc_verify_batch){.sequences = b->shape.sequences,
                              .vocab = b->shape.vocab,
                              .max_drafts = b->shape.drafts,
                              .params = b->params,
                              .drafter = rows_of(b, set, true),
                              .drafter_row = b->row,
                              .verifier = rows_of(b, set, false),
                              .verifier_row = b->row,
                              .drafts = b->drafts,
                              .draft = b->draft[set],
                              .stats = b->o->no_stats ? NULL : b->stats[set],
                              .position = b->position,
                              .salt = b->salt,
                              .token = b->token,
                              .count = b->count,
                              .status = b->status,
                              .accepted = b->accepted,
                              .verdict = b->verdict,
                              .workspace = b->o->reference ? NULL : b->workspace,
                              .workspace_bytes = b->workspace_bytes};
}

static bool draw_work(void *user, int32_t set, spc_stream stream)
{
    bench *b = user;
    spc_draw_batch batch = draw_of(b, set, 0);

    return b->at->draw(&batch, stream, &b->at->error) == SPC_OK;
}

static bool verify_work(void *user, int32_t set, spc_stream stream)
{
    bench *b = user;
    spc_verify_batch batch = verify_of(b, set);

    return b->at->verify(&batch, stream, &b->at->error) == SPC_OK;
}

static bool read_work(void *user, int32_t set, spc_stream stream)
{
    bench *b = user;

    return b->at->read(b->at, b->logits[set], b->read_bytes, stream);
}

/* The parameters of a rule into the place, and drafts of every set drawn under them. */
static bool draw_drafts(bench *b)
{
    size_t n = (size_t)b->shape.sequences, g = (size_t)b->shape.drafts;
    spc_row_params *params = malloc(n * sizeof *params);
    int32_t *draft = malloc(n * g * sizeof *draft), *token = malloc(n * sizeof *token);
    spc_row_stats *stats = malloc(n * g * sizeof *stats), *drawn = malloc(n * sizeof *drawn);
    bool ok = params && draft && token && stats && drawn;

    for (size_t s = 0; ok && s < n; s++) {
        params[s] = b->host_params;
        params[s].seed = s + 1;
    }
    ok = ok && b->at->copy_in(b->at, b->params, params, n * sizeof *params);
    for (int32_t set = 0; ok && set < b->sets; set++) {
        for (int32_t i = 0; ok && i < b->shape.drafts; i++) {
            spc_draw_batch batch = draw_of(b, set, i);

            ok = b->at->draw(&batch, b->at->stream, &b->at->error) == SPC_OK &&
                 b->at->wait(b->at) && b->at->copy_out(b->at, token, b->drawn, n * sizeof *token) &&
                 b->at->copy_out(b->at, drawn, b->drawn_stats, n * sizeof *drawn);
            for (size_t s = 0; ok && s < n; s++) {
                draft[s * g + (size_t)i] = token[s];
                stats[s * g + (size_t)i] = drawn[s];
            }
        }
        ok = ok && b->at->copy_in(b->at, b->draft[set], draft, n * g * sizeof *draft) &&
             b->at->copy_in(b->at, b->stats[set], stats, n * g * sizeof *stats);
    }
    free(params);
    free(draft);
    free(token);
    free(stats);
    free(drawn);
    return ok;
}

/* ---- is it right? -----------------------------------------------------------------------------
 */

typedef struct {
    double accepted; /* drafts of a sequence */
    floor_facts facts;
} outcome;

/* Is this how a verdict looks? */
static bool is_verdict(const spc_verdict *v, int32_t drafts, int32_t vocab)
{
    bool good = v->status == 0 && v->count >= 1 && v->count <= drafts + 1 &&
                v->count == v->accepted + 1 && v->drawn == 1;

    for (int32_t i = 0; i < SPC_GAMMA_MAX + 2; i++) {
        good = good && (i < v->count ? v->token[i] >= 0 && v->token[i] < vocab : v->token[i] == -1);
    }
    return good;
}

/* Every set once; on a device, its reference form too. */
static bool check(bench *b, outcome *out)
{
    size_t n = (size_t)b->shape.sequences;
    spc_verdict *got = malloc(2 * n * sizeof *got), *want = got ? got + n : NULL;
    double accepted = 0, all = 0, deferred = 0, judged = 0, sequences = 0;
    bool ok = got != NULL;

    if (!got) (void)spc_error_set(&b->at->error, SPC_ENOMEM, "no memory for verdicts");
    for (int32_t set = 0; ok && set < b->sets && set < 8; set++) {
        spc_verify_batch batch = verify_of(b, set);

        ok = verify_work(b, set, b->at->stream) && b->at->wait(b->at) &&
             b->at->copy_out(b->at, got, b->verdict, n * sizeof *got);
        batch.workspace = NULL;
        ok = ok && b->at->verify(&batch, b->at->stream, &b->at->error) == SPC_OK &&
             b->at->wait(b->at) && b->at->copy_out(b->at, want, b->verdict, n * sizeof *want);
        if (ok && memcmp(got, want, n * sizeof *got) != 0) {
            (void)spc_error_set(&b->at->error, SPC_EINTERNAL,
                                "the two forms of the device decide differently");
            ok = false;
        }
        for (size_t s = 0; ok && s < n; s++) {
            const spc_verdict *v = &got[s];

            if (!is_verdict(v, b->shape.drafts, b->shape.vocab)) {
                (void)spc_error_set(&b->at->error, SPC_EINTERNAL,
                                    "sequence %d is no verdict: count %d, status %x", (int)s,
                                    (int)v->count, (unsigned)v->status);
                ok = false;
            }
            accepted += v->accepted;
            all += v->accepted == b->shape.drafts;
            judged += v->verified;
            for (int32_t i = 0; i < v->verified; i++) deferred += v->deferred >> i & 1u;
            sequences++;
        }
    }
    if (ok) {
        *out =
            (outcome){accepted / sequences, {all / sequences, judged > 0 ? deferred / judged : 0}};
    }
    free(got);
    return ok;
}

/* ---- one line ---------------------------------------------------------------------------------
 */

typedef struct {
    const char *what, *rule;
    double rows; /* of the floor, per sequence */
    double accepted;
    measure_times cold, warm, read, read_warm, eager;
} line;

static void print_line(const bench *b, const line *l)
{
    const options *o = b->o;
    measure_line json = {0};

    if (!o->json) {
        printf("%-22s %5d %2d %7d %8.2f %9.1f %7.1f %7.1f %9.1f %6.2f %9.1f\n", l->rule,
               (int)b->shape.sequences, (int)b->shape.drafts, (int)b->shape.vocab, l->accepted,
               l->cold.median, l->cold.p10, l->cold.p90, l->read.median,
               l->cold.median / l->read.median, l->warm.median);
        return;
    }
    json = measure_line_begin(stdout);
    measure_line_text(&json, "bench", "verify");
    measure_line_text(&json, "what", l->what);
    measure_line_text(&json, "device", b->at->name);
    measure_line_text(&json, "driver", b->at->driver);
    measure_line_text(&json, "form", !b->at->device ? "cpu" : o->reference ? "reference" : "queue");
    measure_line_text(&json, "rule", l->rule);
    measure_line_integer(&json, "sequences", b->shape.sequences);
    measure_line_integer(&json, "drafts", b->shape.drafts);
    measure_line_integer(&json, "vocab", b->shape.vocab);
    if (b->subset) measure_line_integer(&json, "known", b->known);
    measure_line_text(&json, "dtype", o->f32 ? "f32" : "bf16");
    measure_line_number(&json, "temperature", o->temperature);
    measure_line_number(&json, "top_p", o->top_p);
    measure_line_text(&json, "verify", o->block ? "block" : "token");
    measure_line_text(&json, "statistics", o->no_stats ? "no" : "yes");
    measure_line_number(&json, "accepted", l->accepted);
    measure_line_number(&json, "floor_rows", l->rows);
    measure_line_number(&json, "floor_bytes", (double)b->read_bytes);
    measure_line_number(&json, "us", l->cold.median);
    measure_line_number(&json, "us_p10", l->cold.p10);
    measure_line_number(&json, "us_p90", l->cold.p90);
    measure_line_number(&json, "read_us", l->read.median);
    measure_line_number(&json, "read_gb_s", (double)b->read_bytes / l->read.median / 1e3);
    measure_line_number(&json, "of_read", l->cold.median / l->read.median);
    measure_line_number(&json, "warm_us", l->warm.median);
    measure_line_number(&json, "warm_read_us", l->read_warm.median);
    measure_line_number(&json, "eager_us", l->eager.median);
    measure_line_integer(&json, "runs", l->cold.runs);
    measure_line_end(&json);
}

/* Time work and the read of its floor, by turns of the same sets. */
static bool time_line(bench *b, place_work work, line *l)
{
    bench_place *at = b->at;
    int32_t runs = b->o->runs;
    double bytes = l->rows * b->shape.sequences * (double)b->shape.vocab * (double)b->element;

    b->read_bytes = (size_t)bytes / 16 * 16;
    if (b->read_bytes > 2 * inputs_rows_bytes(b)) b->read_bytes = 2 * inputs_rows_bytes(b);
    if (!at->time(at, work, b, b->sets, runs, PLACE_COLD, &l->cold) ||
        !at->time(at, read_work, b, b->sets, runs, PLACE_COLD, &l->read) ||
        !at->time(at, work, b, 1, runs, PLACE_WARM, &l->warm) ||
        !at->time(at, read_work, b, 1, runs, PLACE_WARM, &l->read_warm) ||
        !at->time(at, work, b, b->sets, runs, PLACE_EAGER, &l->eager)) {
        return false;
    }
    print_line(b, l);
    return true;
}

/* Of the vocabulary, that the drafter knows. */
static double known_share(const bench *b)
{
    return (double)b->known / b->shape.vocab;
}

static bool run_rule(bench *b, const char *rule, bool draws)
{
    char message[SPC_RULE_MESSAGE_BYTES];
    line l = {.what = "verify", .rule = rule};
    outcome seen;

    b->host_params =
        (spc_row_params){.sampling = {(float)b->o->temperature, 0, (float)b->o->top_p, 0},
                         .verify = b->o->block ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN,
                         .bonus = SPC_BONUS_VERIFIER,
                         .nucleus = 1};
    if (!spc_rule_parse(rule, &b->host_params.rule, message)) {
        (void)spc_error_set(&b->at->error, SPC_ERULE, "%s", message);
        return false;
    }
    if (spc_params_check(&b->host_params, &b->at->error) || !draw_drafts(b)) return false;
    if (draws) {
        line d = {.what = "draw", .rule = "(draft sampling)", .rows = known_share(b)};

        if (!time_line(b, draw_work, &d)) return false;
    }
    if (!check(b, &seen)) return false;
    l.accepted = seen.accepted;
    l.rows =
        floor_rows(&b->host_params, b->shape.drafts, !b->o->no_stats, known_share(b), seen.facts);
    return time_line(b, verify_work, &l);
}

static bool run_shape(bench *b)
{
    char text[1024];
    char *next = text;
    bool ok = inputs_open(b) && wake(b), first = true;

    (void)snprintf(text, sizeof text, "%s", b->o->rules);
    while (ok && next && *next) {
        char *end = strchr(next, ';');

        if (end) *end = '\0';
        ok = run_rule(b, next, first);
        first = false;
        next = end ? end + 1 : NULL;
    }
    inputs_close(b);
    return ok;
}

int main(int count, char **argument)
{
    static const shape device_shapes[] = {
        {64, 5, 32000}, {64, 5, 128256}, {64, 5, 152064}, {16, 5, 256128}};
    static const shape cpu_shapes[] = {{1, 5, 32000}, {4, 5, 32000}, {1, 5, 128256}};
    options o;
    bench_place at;
    bench b = {.at = &at, .o = &o};
    int code = read_options(count, argument, &o);
    bool wanted = false, ok;

    if (code) return code;
    for (int i = 1; i < count; i++) wanted = wanted || strcmp(argument[i], "--device") == 0;
    ok = o.cpu ? place_open_cpu(&at) : place_open_cuda(&at);
    if (!ok && !wanted) {
        (void)fprintf(stderr, "bench_verify: %s: the CPU it is\n", at.error.message);
        ok = place_open_cpu(&at);
    }
    b.noise = malloc(NOISE * sizeof *b.noise);
    if (ok && b.noise) {
        inputs_noise(b.noise);
        if (o.shapes == 0) {
            o.shapes = at.device ? 4 : 3;
            memcpy(o.shape, at.device ? device_shapes : cpu_shapes,
                   (size_t)o.shapes * sizeof *o.shape);
        }
        if (!o.json) {
            printf("%s %s, T %g, top-p %g, %s, %s%s%s\n%-22s %5s %2s %7s %8s %9s %7s %7s %9s %6s "
                   "%9s\n",
                   at.name, at.driver, o.temperature, o.top_p, o.f32 ? "f32" : "bf16",
                   o.block ? "block verification, " : "", o.no_stats ? "no statistics, " : "",
                   at.device ? (o.reference ? "reference form" : "queue form") : "cpu", "rule", "B",
                   "G", "V", "accepted", "us", "p10", "p90", "read us", "ratio", "warm us");
        }
        for (int32_t i = 0; ok && i < o.shapes; i++) {
            b.shape = o.shape[i];
            ok = run_shape(&b);
        }
    }
    if (!b.noise) ok = false;
    if (!ok) {
        (void)fprintf(stderr, "bench_verify: %s\n", at.error.message);
        code = spc_status_exit_code(at.error.status);
        if (code == 0) code = 5;
    }
    free(b.noise);
    if (at.close) at.close(&at);
    return measure_exit("bench_verify", code);
}
