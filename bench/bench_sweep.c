/* SPDX-License-Identifier: Apache-2.0 */
/* bench_sweep.c - quality against cost: a data set decoded under a grid of rules, one JSON line per
 * point.  bench_sweep --help.
 *
 * The output file is the state: points it holds are not run again, so an interrupted sweep goes on
 * where it was. */
#include "bench/measure.h"
#include "bench/quality_python.h"
#include "bench/sweep.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const char *data, *metric, *output, *verifier, *drafter, *drafter_vocab, *python;
    int32_t every, rows, max_tokens, context, threads, test_seconds, test_mib;
    sweep_asking asking;
    sweep_axes axes;
} options;

static const char help[] =
    "bench_sweep --data FILE --output FILE.jsonl [options]\n"
    "\n"
    "Decodes a data set under a grid of deferral rules and writes quality and cost, a JSON line\n"
    "per point.  Points that FILE.jsonl holds already are not run again: after an interruption\n"
    "the same command goes on.  A point that cannot be run is recorded as failed.\n"
    "\n"
    "  --data FILE          lines of language <tab> English <tab> translation, or a .jsonl of\n"
    "                       {\"prompt\": ..., \"reference\": ...}; for pass@1 with \"test\" and\n"
    "                       \"entry_point\" (HumanEval) or \"test_list\" (MBPP)\n"
    "  --output FILE        where results are appended\n"
    "  --metric NAME        bleu (default), chrf, rouge2, exact, f1, gsm8k, pass@1\n"
    "  --chat               prompts of a .jsonl are what a user says to a chat model, in the\n"
    "                       verifier's chat template; default: texts to go on with\n"
    "  --chat-template NAME the same in another template (spc chat --help)\n"
    "  --ask TEXT           stands ahead of every prompt of a .jsonl\n"
    "\n"
    "the grid: all combinations of\n"
    "  --rules LIST         rule texts separated by ';' (default: ten methods, five alphas each)\n"
    "  --gamma LIST         draft lengths, separated by ',' (default 5)\n"
    "  --temperature LIST   (default 1)\n"
    "  --top-p LIST         (default 1: off)\n"
    "  --top-k LIST         (default 0: off)\n"
    "  --min-p LIST         (default 0: off)\n"
    "  --batch LIST         sequences decoded together (default 1)\n"
    "  --verify MODE        token (default) or block\n"
    "  --bonus MODE         what the token behind fully kept drafts is drawn from: target\n"
    "                       (default), verifier, or step: there is none; see spc run --help\n"
    "  --no-nucleus         token rules as in the paper: they may leave the verifier's nucleus\n"
    "\n"
    "  --seed LIST          each point is decoded with all of them (default 0)\n"
    "  --seeds N            the same as --seed 0,1,...,N-1\n"
    "  --every N            every N-th line of the data (default 1)\n"
    "  --rows N             at most so many lines (default 0: all)\n"
    "  --max-tokens N       per line (default 48; 0: what the context holds)\n"
    "  --context N          prompt and answer together; what is reserved for each of the batch\n"
    "                       (default 0: what the models allow)\n"
    "  --verifier MODEL     (default: the embedded pair)\n"
    "  --drafter MODEL      or ngram: drafts are looked up (see spc run --help)\n"
    "  --drafter-vocab N|FILE  tokens that the drafter drafts (see spc run --help)\n"
    "  --threads N          CPU threads; 0: one per core (default)\n"
    "\n"
    "pass@1 runs what the models write, within limits, but not in a sandbox:\n"
    "  --python PROGRAM     (default python3)\n"
    "  --test-seconds N     of a row's tests (default 5)\n"
    "  --test-mib N         of memory (default 1024)\n"
    "\n"
    "  --help               this text\n"
    "\n"
    "Exit codes: 0; 1 points have failed; 130 interrupted; 2 usage, 3 model, 5 memory, 6 input.\n";

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

/* ---- options ----------------------------------------------------------------------------------
 */

enum {
    DATA = 1,
    OUTPUT,
    METRIC,
    CHAT,
    CHAT_TEMPLATE,
    ASK,
    RULES,
    GAMMA,
    TEMPERATURE,
    TOP_P,
    TOP_K,
    MIN_P,
    BATCH,
    VERIFY,
    BONUS,
    NO_NUCLEUS,
    SEED,
    SEEDS,
    EVERY,
    ROWS,
    MAX_TOKENS,
    CONTEXT,
    VERIFIER,
    DRAFTER,
    DRAFTER_VOCAB,
    THREADS,
    PYTHON,
    TEST_SECONDS,
    TEST_MIB,
    HELP
};

static const struct option names[] = {{"data", 1, NULL, DATA},
                                      {"output", 1, NULL, OUTPUT},
                                      {"metric", 1, NULL, METRIC},
                                      {"chat", 0, NULL, CHAT},
                                      {"chat-template", 1, NULL, CHAT_TEMPLATE},
                                      {"ask", 1, NULL, ASK},
                                      {"rules", 1, NULL, RULES},
                                      {"gamma", 1, NULL, GAMMA},
                                      {"temperature", 1, NULL, TEMPERATURE},
                                      {"top-p", 1, NULL, TOP_P},
                                      {"top-k", 1, NULL, TOP_K},
                                      {"min-p", 1, NULL, MIN_P},
                                      {"batch", 1, NULL, BATCH},
                                      {"verify", 1, NULL, VERIFY},
                                      {"bonus", 1, NULL, BONUS},
                                      {"no-nucleus", 0, NULL, NO_NUCLEUS},
                                      {"seed", 1, NULL, SEED},
                                      {"seeds", 1, NULL, SEEDS},
                                      {"every", 1, NULL, EVERY},
                                      {"rows", 1, NULL, ROWS},
                                      {"max-tokens", 1, NULL, MAX_TOKENS},
                                      {"context", 1, NULL, CONTEXT},
                                      {"verifier", 1, NULL, VERIFIER},
                                      {"drafter", 1, NULL, DRAFTER},
                                      {"drafter-vocab", 1, NULL, DRAFTER_VOCAB},
                                      {"threads", 1, NULL, THREADS},
                                      {"python", 1, NULL, PYTHON},
                                      {"test-seconds", 1, NULL, TEST_SECONDS},
                                      {"test-mib", 1, NULL, TEST_MIB},
                                      {"help", 0, NULL, HELP},
                                      {NULL, 0, NULL, 0}};

static spc_status read_count(int option, const char *text, int32_t least, int32_t *out,
                             spc_error *err)
{
    char *end;
    long value = strtol(text, &end, 10);

    if (end == text || *end || value < least || value > INT32_MAX) {
        return spc_error_set(err, SPC_EUSAGE,
                             "--%s: expected a whole number of at least %d, found '%s'",
                             names[option - 1].name, (int)least, text);
    }
    *out = (int32_t)value;
    return SPC_OK;
}

static spc_status read_verify(const char *text, spc_verify_mode *out, spc_error *err)
{
    bool block = strcmp(text, "block") == 0;

    *out = block ? SPC_VERIFY_BLOCK : SPC_VERIFY_TOKEN;
    if (block || strcmp(text, "token") == 0) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE, "--verify: expected token or block, found '%s'", text);
}

static spc_status read_bonus(const char *text, spc_bonus_mode *out, spc_error *err)
{
    for (int32_t i = 0; i < SWEEP_BONUSES; i++) {
        *out = (spc_bonus_mode)i;
        if (strcmp(text, sweep_bonuses[i]) == 0) return SPC_OK;
    }
    return spc_error_set(err, SPC_EUSAGE, "--bonus: expected target, verifier or step, found '%s'",
                         text);
}

static spc_status take_option(int option, const char *text, options *o, spc_error *err)
{
    switch (option) {
    case DATA: o->data = text; break;
    case OUTPUT: o->output = text; break;
    case METRIC: o->metric = text; break;
    case CHAT: o->asking.chat = true; break;
    case CHAT_TEMPLATE:
        o->asking.chat_template = text;
        o->asking.chat = true;
        break;
    case ASK: o->asking.ask = text; break;
    case RULES: o->axes.rules = text; break;
    case GAMMA: o->axes.gammas = text; break;
    case TEMPERATURE: o->axes.temperatures = text; break;
    case TOP_P: o->axes.top_ps = text; break;
    case TOP_K: o->axes.top_ks = text; break;
    case MIN_P: o->axes.min_ps = text; break;
    case BATCH: o->axes.batches = text; break;
    case VERIFY: return read_verify(text, &o->axes.verify, err);
    case BONUS: return read_bonus(text, &o->axes.bonus, err);
    case NO_NUCLEUS: o->axes.nucleus = false; break;
    case SEED: o->axes.seed_list = text; break;
    case SEEDS: o->axes.seed_count = text; break;
    case VERIFIER: o->verifier = text; break;
    case DRAFTER: o->drafter = text; break;
    case DRAFTER_VOCAB: o->drafter_vocab = text; break;
    case PYTHON: o->python = text; break;
    case EVERY: return read_count(option, text, 1, &o->every, err);
    case ROWS: return read_count(option, text, 0, &o->rows, err);
    case MAX_TOKENS: return read_count(option, text, 0, &o->max_tokens, err);
    case CONTEXT: return read_count(option, text, 0, &o->context, err);
    case THREADS: return read_count(option, text, 0, &o->threads, err);
    case TEST_SECONDS: return read_count(option, text, 1, &o->test_seconds, err);
    case TEST_MIB: return read_count(option, text, 1, &o->test_mib, err);
    default: break;
    }
    return SPC_OK;
}

static spc_status read_options(int argc, char **argv, options *o, bool *asked, spc_error *err)
{
    spc_status status = SPC_OK;
    int c;

    *o =
        (options){.metric = "bleu",
                  .verifier = SPC_EMBEDDED_VERIFIER,
                  .drafter = SPC_EMBEDDED_DRAFTER,
                  .python = "python3",
                  .every = 1,
                  .max_tokens = 48,
                  .test_seconds = 5,
                  .test_mib = 1024,
                  .axes = {NULL, "5", "1", "1", "1", "0", "0", NULL, NULL, SPC_VERIFY_TOKEN, true}};
    opterr = 0;
    while (status == SPC_OK && (c = getopt_long(argc, argv, ":", names, NULL)) != -1) {
        if (c == HELP) {
            *asked = true;
            return SPC_OK;
        }
        if (c == ':') {
            return spc_error_set(err, SPC_EUSAGE, "%s: expected a value", argv[optind - 1]);
        }
        if (c == '?') {
            return spc_error_set(err, SPC_EUSAGE, "unknown option %s; see bench_sweep --help",
                                 argv[optind - 1]);
        }
        status = take_option(c, optarg, o, err);
    }
    if (status != SPC_OK) return status;
    if (optind < argc) {
        return spc_error_set(err, SPC_EUSAGE, "unexpected argument '%s'", argv[optind]);
    }
    if (!o->data || !o->output) {
        return spc_error_set(err, SPC_EUSAGE, "--data and --output are needed; see --help");
    }
    if (strcmp(o->output, "-") == 0) {
        return spc_error_set(
            err, SPC_EUSAGE,
            "--output: expected a file, found '-': it is what the same command "
            "goes on from; for a pipe give /dev/stdout; a file of that name is ./-");
    }
    if ((o->asking.chat || o->asking.ask) && !sweep_data_is_json(o->data)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "%s: --chat, --chat-template and --ask are for a .jsonl of prompts, "
                             "not for sentences to translate",
                             o->data);
    }
    return SPC_OK;
}

/* ---- the sweep --------------------------------------------------------------------------------
 */

typedef struct {
    const options *o;
    sweep_job job;
    sweep_data data;
    sweep_grid grid;
    quality_python python;
    spc_chat_facts chat;
    uint64_t model_hash[2]; /* verifier, drafter */
    json_t *setup;          /* what all lines of the output have in common */
    sweep_file file;
    double *counts;
    sweep_progress progress;
} sweep;

/* Would another point fail of it just the same, for want of something that may be there tomorrow?
 * Then it is no property of the point, and the sweep ends. */
static bool ends_sweep(spc_status status)
{
    return status == SPC_ENOMEM || status == SPC_EIO || status == SPC_EDEVICE ||
           status == SPC_EINTERNAL;
}

/* Run a point and write its line.  *line NULL with SPC_OK: interrupted. */
static spc_status run_point(sweep *s, const sweep_point *point, const json_t *base, json_t **line,
                            spc_error *err)
{
    sweep_outcome out = {.counts = s->counts};
    spc_error why;
    bool finished;
    spc_status status;

    *line = NULL;
    s->progress.rule = point->rule;
    status = sweep_decode(&s->job, point, &out, &finished, &why);
    if (ends_sweep(status)) return spc_error_set(err, status, "%s", why.message);
    if (status == SPC_OK && !finished) return SPC_OK;
    *line = status == SPC_OK ? sweep_line(s->setup, &s->job, point, &out, base)
                             : sweep_line_failed(s->setup, point, why.message);
    status = sweep_file_append(&s->file, *line, err);
    if (status == SPC_OK) sweep_progress_point(&s->progress, *line);
    return status;
}

/* All points that the file does not hold; *failed: of all. */
static spc_status run_points(sweep *s, int32_t *failed, spc_error *err)
{
    const json_t *base = NULL;
    int32_t done = 0;
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < s->grid.count; i++) {
        done += sweep_file_find(&s->file, &s->grid.point[i]) != NULL;
    }
    sweep_progress_begin(&s->progress, s->grid.count, done);
    for (int32_t i = 0; i < s->grid.count && status == SPC_OK && !interrupted; i++) {
        const sweep_point *p = &s->grid.point[i];
        const json_t *line = sweep_file_find(&s->file, p);
        bool alone = strcmp(p->rule, "verifier-only") == 0;

        if (!line) {
            json_t *fresh;

            status = run_point(s, p, alone ? NULL : base, &fresh, err);
            line = status == SPC_OK ? fresh : NULL;
        }
        if (alone) base = line;
        *failed += json_object_get(line, "failed") != NULL;
    }
    sweep_progress_end(&s->progress);
    return status;
}

/* ---- open and close ---------------------------------------------------------------------------
 */

static spc_status open_engine(sweep *s, spc_error *err)
{
    spc_engine_options eo;

    spc_engine_options_init(&eo);
    eo.no_prefix_reuse = true; /* every prompt costs what it costs */
    eo.verifier = s->o->verifier;
    eo.drafter = s->o->drafter;
    eo.drafter_vocab = s->o->drafter_vocab;
    eo.context = s->o->context;
    eo.threads = s->o->threads;
    eo.sessions = s->grid.batch;
    return spc_engine_open(&eo, &s->job.engine, err);
}

static spc_status open_metric(sweep *s, spc_error *err)
{
    const options *o = s->o;

    s->job.metric = quality_find(o->metric);
    if (!s->job.metric) {
        return spc_error_set(err, SPC_EUSAGE, "--metric: unknown '%s'; known: %s", o->metric,
                             quality_names());
    }
    if (!s->job.metric->runs_tests) return SPC_OK;
    s->job.python = &s->python;
    return quality_python_open(o->python, o->test_seconds, o->test_mib, &s->python, err);
}

/* What ends a reply of a chat model.  s->chat.name stays NULL where there are no chats. */
static spc_status open_chat(sweep *s, spc_error *err)
{
    spc_status status = SPC_OK;

    s->job.stop_token = -1;
    if (s->o->asking.chat) {
        status = spc_engine_chat(s->job.engine, s->o->asking.chat_template, &s->chat, err);
    }
    if (status == SPC_OK && s->chat.name) s->job.stop_token = s->chat.stop_token;
    return status;
}

static void set_hash(json_t *setup, const char *key, uint64_t hash)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
    (void)json_object_set_new(setup, key, json_string(text));
}

/* Lines are comparable, and a sweep can go on, when these are the same.  What not every sweep has
 * is in a table of sweep_file.c, too. */
static json_t *setup_of(const sweep *s)
{
    const options *o = s->o;
    spc_engine_facts facts;
    json_t *seeds = json_array(), *setup;

    spc_engine_describe(s->job.engine, &facts);
    for (int32_t i = 0; i < s->grid.seeds; i++) {
        (void)json_array_append_new(seeds, json_integer(s->grid.seed[i]));
    }
    setup =
        json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:o}", "metric", o->metric, "verifier",
                  o->verifier, "drafter", o->drafter, "examples", (int)s->data.count, "max_tokens",
                  (int)o->max_tokens, "threads", (int)measure_threads(facts.device), "seed",
                  (json_int_t)s->grid.seed[0], "seeds", seeds);
    if (setup) {
        set_hash(setup, "data_hash", sweep_data_hash(&s->data));
        set_hash(setup, "verifier_hash", s->model_hash[0]);
        set_hash(setup, "drafter_hash", s->model_hash[1]);
    }
    if (setup && o->context > 0) { /* answers may end with it */
        (void)json_object_set_new(setup, "context", json_integer(o->context));
    }
    if (setup && o->drafter_vocab) {
        (void)json_object_set_new(setup, "drafter_vocab", json_string(o->drafter_vocab));
    }
    if (setup && s->chat.name) {
        (void)json_object_set_new(setup, "chat_template", json_string(s->chat.name));
    }
    if (setup && o->asking.ask) {
        (void)json_object_set_new(setup, "ask", json_string(o->asking.ask));
    }
    if (setup && s->job.python) {
        (void)json_object_set_new(setup, "test_seconds", json_integer(o->test_seconds));
    }
    return setup;
}

static spc_status open_sweep(sweep *s, spc_error *err)
{
    const options *o = s->o;
    spc_status status = open_metric(s, err);

    if (status == SPC_OK) status = sweep_grid_make(&o->axes, &s->grid, err);
    if (status == SPC_OK) status = open_engine(s, err);
    if (status == SPC_OK) status = sweep_model_hash(o->verifier, &s->model_hash[0], err);
    if (status == SPC_OK) status = sweep_model_hash(o->drafter, &s->model_hash[1], err);
    if (status == SPC_OK) status = open_chat(s, err);
    if (status == SPC_OK) {
        status = sweep_data_read(s->job.engine, o->data, o->every, o->rows, &o->asking,
                                 s->job.metric, &s->data, err);
    }
    if (status != SPC_OK) return status;
    s->job.data = &s->data;
    s->job.seed = s->grid.seed;
    s->job.seeds = s->grid.seeds;
    s->job.max_tokens = o->max_tokens;
    s->job.stop = &interrupted;
    s->job.progress = sweep_progress_tell;
    s->job.user = &s->progress;
    s->counts = calloc((size_t)s->grid.seeds * (size_t)s->data.count,
                       (size_t)s->job.metric->counts * sizeof *s->counts);
    s->setup = setup_of(s);
    if (!s->counts || !s->setup) return spc_error_set(err, SPC_ENOMEM, "no memory for the results");
    return sweep_file_open(o->output, s->setup, &s->file, err);
}

static void close_sweep(sweep *s)
{
    sweep_file_close(&s->file);
    json_decref(s->setup);
    free(s->counts);
    sweep_data_free(&s->data);
    sweep_grid_free(&s->grid);
    spc_engine_close(s->job.engine);
}

int main(int argc, char **argv)
{
    options o;
    sweep s = {.o = &o, .file = {.fd = -1}};
    spc_error error;
    bool asked = false;
    int32_t failed = 0;
    spc_status status = read_options(argc, argv, &o, &asked, &error);

    if (status == SPC_OK && asked) return fputs(help, stdout) < 0 || fflush(stdout) != 0;
    (void)signal(SIGINT, on_interrupt);
    (void)signal(SIGTERM, on_interrupt);
    (void)signal(SIGXFSZ, SIG_IGN); /* a file too large is a failed write */
    if (status == SPC_OK) status = open_sweep(&s, &error);
    if (status == SPC_OK) status = run_points(&s, &failed, &error);
    if (status != SPC_OK) {
        (void)fprintf(stderr, "bench_sweep: %s\n", error.message);
    } else if (interrupted) {
        (void)fprintf(stderr,
                      "bench_sweep: interrupted; %d of %d points are in %s, and the same command "
                      "goes on with the rest\n",
                      (int)s.progress.done, (int)s.progress.points, o.output);
    } else {
        (void)fprintf(stderr, "bench_sweep: %d points run, %d failed, %d in %s\n",
                      (int)s.progress.ran, (int)failed, (int)json_object_size(s.file.done),
                      o.output);
    }
    close_sweep(&s);
    if (status != SPC_OK) return spc_status_exit_code(status);
    return interrupted ? 130 : failed > 0;
}
