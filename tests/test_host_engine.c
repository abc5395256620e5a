/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_engine.c - opening engines: pairs that do not pair, broken folders, options out of
 * range; and what an open engine tells: facts, text, logits. */
#include "decode.h"

#include "weights/demo/demo.h"

#include "files.h"

#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

enum { VOCAB = 6144, CONTEXT = 512 }; /* of the demo pair */

/* ---- folders ----------------------------------------------------------------------------------
 */

static const char *const names[] = {"config.json", "generation_config.json", "model.safetensors",
                                    "tokenizer.json"};
enum { NAMES = sizeof names / sizeof *names, PATH = 512 };

/* A checkpoint in a folder of its own: files of another that are linked, or edited copies. */
typedef struct {
    char path[PATH];
} folder;

static void join(char *out, const char *path, const char *name)
{
    cr_assert_lt(snprintf(out, PATH, "%s/%s", path, name), PATH);
}

/* Write a copy of `from` in which the first `piece` reads `edited`. */
static void write_edited(const char *from, const char *to, const char *piece, const char *edited)
{
    size_t bytes, length = strlen(piece);
    char *data = read_file(from, &bytes), *at = data;
    FILE *file = fopen(to, "wb");

    cr_assert_not_null(file);
    while ((size_t)(at - data) + length <= bytes && memcmp(at, piece, length) != 0) at++;
    cr_assert_leq((size_t)(at - data) + length, bytes, "%s holds no '%s'", from, piece);
    (void)fwrite(data, 1, (size_t)(at - data), file);
    (void)fwrite(edited, 1, strlen(edited), file);
    (void)fwrite(at + length, 1, bytes - (size_t)(at - data) - length, file);
    cr_assert_eq(fclose(file), 0);
    free(data);
}

/* The folder `source` with one file changed: piece NULL leaves the file out; name NULL changes
 * nothing. */
static folder edited_folder(const char *source, const char *name, const char *piece,
                            const char *edited)
{
    folder f = {"/tmp/spc-test-XXXXXX"};

    cr_assert_not_null(mkdtemp(f.path));
    for (int32_t i = 0; i < NAMES; i++) {
        char from[PATH], to[PATH];

        join(from, source, names[i]);
        join(to, f.path, names[i]);
        if (!name || strcmp(names[i], name) != 0) {
            cr_assert_eq(symlink(from, to), 0);
        } else if (piece) {
            write_edited(from, to, piece, edited);
        }
    }
    return f;
}

static void remove_folder(const folder *f)
{
    for (int32_t i = 0; i < NAMES; i++) {
        char path[PATH];

        join(path, f->path, names[i]);
        (void)unlink(path);
    }
    cr_expect_eq(rmdir(f->path), 0);
}

static spc_engine_options demo_options(void)
{
    spc_engine_options o;

    spc_engine_options_init(&o);
    o.verifier = DEMO_VERIFIER;
    o.drafter = DEMO_DRAFTER;
    o.threads = 1;
    return o;
}

/* Open, expecting an error whose message holds every word. */
static void expect_refused(const spc_engine_options *o, spc_status status, const char *const *words)
{
    spc_engine *engine;
    spc_error error = {SPC_OK, ""};

    cr_expect_eq(spc_engine_open(o, &engine, &error), status, "%s", error.message);
    cr_expect_eq(error.status, status);
    cr_expect_null(engine);
    for (; *words; words++) {
        cr_expect_not_null(strstr(error.message, *words), "'%s' without '%s'", error.message,
                           *words);
    }
    cr_expect_eq(spc_engine_open(o, &engine, NULL), status, "without a place for the message");
}

/* ---- pairs ------------------------------------------------------------------------------------
 */

Test(host_engine, the_embedded_pair_opens_and_is_the_one_of_the_source_tree)
{
    spc_blob files[SPC_DEMO_FILES];
    spc_engine_options o;
    spc_engine *embedded, *folders = open_demo(DEMO_DRAFTER, 1, 2);
    spc_error error;

    if (spc_demo_files(SPC_DEMO_VERIFIER, files) == 0) cr_skip_test("built without the pair");
    spc_engine_options_init(&o);
    cr_assert_eq(spc_engine_open(&o, &embedded, &error), SPC_OK, "%s", error.message);

    prompt p = prompt_of(embedded, "<s><2fr>The sun is shining.<sep>");
    spc_session_options so;

    spc_session_options_init(&so);
    so.max_tokens = 20;
    decoded a = decode(embedded, &so, &p), b = decode(folders, &so, &p);

    cr_expect_eq(a.status, SPC_OK);
    cr_expect_gt(a.count, 3);
    cr_expect(same_tokens(&a, &b));
    spc_engine_close(embedded);
    spc_engine_close(folders);
}

/* What is changed, in which model, and what the message names. */
static const struct {
    bool drafter;
    const char *file, *piece, *edited;
    spc_status status;
    const char *words[4];
} broken[] = {
    {true,
     "config.json",
     "\"vocab_size\": 6144",
     "\"vocab_size\": 6143",
     SPC_EMODEL,
     {"do not pair", "6143", "6144"}},
    {true,
     "tokenizer.json",
     "\"content\": \"<2fr>\"",
     "\"content\": \"<2it>\"",
     SPC_EMODEL,
     {"do not pair", "id 6", "'<2it>' against '<2fr>'"}},
    {true,
     "tokenizer.json",
     "\"special\": true",
     "\"special\": false",
     SPC_EMODEL,
     {"do not pair", "id 0", "<pad>"}},
    {false,
     "config.json",
     "LlamaForCausalLM",
     "MambaForCausalLM",
     SPC_EMODEL,
     {"MambaForCausalLM", "known: LlamaForCausalLM"}},
    {true,
     "config.json",
     "\"intermediate_size\": 384",
     "\"intermediate_size\": 385",
     SPC_ESHAPE,
     {"model.layers.0.mlp", "385", "384"}},
    {false,
     "config.json",
     "\"num_hidden_layers\": 6",
     "\"num_hidden_layers\": 7",
     SPC_ESHAPE,
     {"model.layers.6.", "missing"}},
    {true,
     "model.safetensors",
     "model.norm.weight",
     "model.morn.weight",
     SPC_ESHAPE,
     {"'model.norm.weight'", "missing"}},
    {true,
     "model.safetensors",
     "\"shape\":[384,128]",
     "\"shape\":[128,384]",
     SPC_ESHAPE,
     {"model.layers.0.mlp.gate_proj.weight", "[384, 128]", "[128, 384]"}},
    {true, "config.json", NULL, NULL, SPC_EIO, {"config.json"}},
    {true, "model.safetensors", NULL, NULL, SPC_EIO, {"model.safetensors"}},
    {false, "config.json", "{", "[", SPC_EFORMAT, {"config.json", "line"}},
    {false, "tokenizer.json", "{", "[", SPC_EFORMAT, {"line"}},
};

Test(host_engine, a_broken_folder_is_named_with_what_is_wrong)
{
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        spc_engine_options o = demo_options();
        folder f = edited_folder(broken[i].drafter ? DEMO_DRAFTER : DEMO_VERIFIER, broken[i].file,
                                 broken[i].piece, broken[i].edited);
        const char *const where[] = {f.path, NULL};

        *(broken[i].drafter ? &o.drafter : &o.verifier) = f.path;
        expect_refused(&o, broken[i].status, where);
        expect_refused(&o, broken[i].status, broken[i].words);
        remove_folder(&f);
    }
}

Test(host_engine, an_unchanged_copy_opens)
{
    spc_engine_options o = demo_options();
    folder f = edited_folder(DEMO_DRAFTER, NULL, NULL, NULL);
    spc_engine *engine;
    spc_error error;

    o.drafter = f.path;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_close(engine);
    remove_folder(&f);
}

Test(host_engine, models_without_a_tokenizer_decode_ids)
{
    spc_engine_options o = demo_options();
    folder f = edited_folder(DEMO_VERIFIER, "tokenizer.json", NULL, NULL);
    folder g = edited_folder(DEMO_DRAFTER, "tokenizer.json", NULL, NULL);
    spc_engine *engine, *whole = open_demo(DEMO_DRAFTER, 1, 1);
    prompt p = prompt_made(6, VOCAB, 3);
    spc_session_options so;
    spc_session *session;
    spc_engine_facts facts;
    spc_error error;
    int32_t *ids, count;
    char *text;
    static const char *const stop[] = {"x"};

    o.verifier = f.path;
    o.drafter = g.path;
    cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
    spc_engine_describe(engine, &facts);
    cr_expect_not(facts.tokenizer);
    cr_expect_eq(spc_engine_encode(engine, "a", 1, false, &ids, &count, &error), SPC_EMODEL);
    cr_expect(strstr(error.message, "tokenizer"), "%s", error.message);
    cr_expect_eq(spc_engine_decode(engine, p.id, 1, false, &text, NULL, &error), SPC_EMODEL);
    cr_expect_null(text);

    spc_session_options_init(&so);
    so.max_tokens = 9;
    decoded a = decode(engine, &so, &p), b = decode(whole, &so, &p);

    cr_expect(same_tokens(&a, &b));
    so.stop = stop;
    so.stop_count = 1;
    cr_expect_eq(spc_session_open(engine, &so, p.id, p.count, &session, &error), SPC_EUSAGE);
    cr_expect(strstr(error.message, "tokenizer"), "%s", error.message);
    spc_engine_close(engine);
    spc_engine_close(whole);
    remove_folder(&g);
    remove_folder(&f);
}

Test(host_engine, without_a_drafter_the_verifier_decodes_alone)
{
    static const char *const rules[] = {"strict", "token-v3:alpha=0.5", "drafter-only"};
    spc_engine *engine = open_demo(NULL, 1, 1), *pair = open_demo(DEMO_DRAFTER, 1, 1);
    prompt p = prompt_of(engine, "<s><2de>The dog runs.<sep>");
    spc_session_options o;
    spc_session *session;
    spc_engine_facts facts;
    spc_error error;

    spc_engine_describe(engine, &facts);
    cr_expect_not(facts.drafter);
    cr_expect_eq(facts.drafter_weight_bytes, 0);
    cr_expect_eq(facts.drafter_memory_bytes, 0);
    spc_session_options_init(&o);
    for (int32_t r = 0; r < 3; r++) {
        o.rule = rules[r];
        cr_expect_eq(spc_session_open(engine, &o, p.id, p.count, &session, &error), SPC_EUSAGE);
        cr_expect(strstr(error.message, rules[r]) && strstr(error.message, "drafter") &&
                      strstr(error.message, "verifier-only"),
                  "%s", error.message);
        cr_expect_null(session);
    }
    o.rule = "verifier-only";
    o.max_tokens = 15;
    decoded a = decode(engine, &o, &p), b = decode(pair, &o, &p);

    cr_expect_eq(a.status, SPC_OK);
    cr_expect_gt(a.count, 2);
    cr_expect(same_tokens(&a, &b));
    cr_expect_eq(a.stats.drafter_calls, 0);
    spc_engine_close(engine);
    spc_engine_close(pair);
}

/* ---- options ----------------------------------------------------------------------------------
 */

#define OPTION(name) offsetof(spc_engine_options, name)

static const struct {
    size_t option;
    bool text;
    int32_t value;
    const char *string;
    spc_status status;
    const char *words[4];
} refused[] = {
    {OPTION(verifier), true, 0, NULL, SPC_EUSAGE, {"verifier"}},
    {OPTION(verifier), true, 0, "/nonexistent/model", SPC_EIO, {"/nonexistent/model"}},
    {OPTION(drafter), true, 0, "/nonexistent/model", SPC_EIO, {"/nonexistent/model"}},
    {OPTION(verifier), true, 0, DEMO_VERIFIER "/config.json", SPC_EIO, {"folder", "found a file"}},
    {OPTION(drafter),
     true,
     0,
     "embedded:tiny",
     SPC_EMODEL,
     {"embedded:tiny", SPC_EMBEDDED_DRAFTER, SPC_EMBEDDED_VERIFIER}},
    {OPTION(sessions), false, 0, NULL, SPC_EUSAGE, {"sessions", "1 to 4096", "found 0"}},
    {OPTION(sessions), false, -5, NULL, SPC_EUSAGE, {"sessions", "found -5"}},
    {OPTION(sessions), false, 4097, NULL, SPC_EUSAGE, {"sessions", "found 4097"}},
    {OPTION(context), false, -1, NULL, SPC_EUSAGE, {"context", "2 and more", "found -1"}},
    {OPTION(context), false, 1, NULL, SPC_EUSAGE, {"context", "2 and more", "found 1"}},
    {OPTION(context), false, 513, NULL, SPC_EUSAGE, {"context", "2 to 512", "found 513"}},
    {OPTION(threads), false, -1, NULL, SPC_EUSAGE, {"threads", "found -1"}},
    {OPTION(overlap), false, -1, NULL, SPC_EUSAGE, {"overlap", "found -1"}},
    {OPTION(overlap), false, 9, NULL, SPC_EUSAGE, {"overlap", "found 9"}},
    {OPTION(threads), false, 1 << 20, NULL, SPC_EUSAGE, {"threads", "found 1048576"}},
    {OPTION(isa), true, 0, "sse9", SPC_EUSAGE, {"isa", "sse9", "portable"}},
    {OPTION(isa), true, 0, "", SPC_EUSAGE, {"isa", "portable"}},
};

Test(host_engine, an_option_out_of_range_is_named)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        spc_engine_options o = demo_options();
        void *at = (char *)&o + refused[i].option;

        if (refused[i].text) *(const char **)at = refused[i].string;
        if (!refused[i].text) *(int32_t *)at = refused[i].value;
        expect_refused(&o, refused[i].status, refused[i].words);
    }
}

/* ---- what an engine tells ---------------------------------------------------------------------
 */

typedef struct {
    int32_t lines, calls;
    uint64_t done, total;
    char line[128];
} report;

static void log_line(void *user, const char *line)
{
    report *r = user;

    r->lines++;
    (void)snprintf(r->line, sizeof r->line, "%s", line);
}

static void progress(void *user, uint64_t done, uint64_t total)
{
    report *r = user;

    cr_expect_geq(done, r->done, "progress does not go back");
    cr_expect_leq(done, total);
    if (r->calls++ > 0) {
        cr_expect_eq(total, r->total);
    } else {
        cr_expect_eq(done, 0);
    }
    r->done = done;
    r->total = total;
}

static uint64_t file_bytes(const char *path)
{
    size_t bytes;

    free(read_file(path, &bytes));
    return bytes;
}

Test(host_engine, loading_reports_progress_and_the_device)
{
    spc_engine_options o = demo_options();
    report r = {0};
    spc_engine *engine;
    uint64_t on_disk = file_bytes(DEMO_VERIFIER "/model.safetensors") +
                       file_bytes(DEMO_DRAFTER "/model.safetensors");

    o.log = log_line;
    o.progress = progress;
    o.user = &r;
    o.threads = 2;
    o.isa = "portable";
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    cr_expect_eq(r.lines, 1);
    cr_expect_str_eq(r.line, "cpu, 2 threads, portable");
    cr_expect(r.calls > 10 && r.calls <= 102, "%d", (int)r.calls);
    cr_expect_eq(r.done, r.total);
    cr_expect(r.total < on_disk && r.total > on_disk - 32768, "all but the headers of the files");
    spc_engine_close(engine);
    spc_engine_close(NULL);
}

/* However models are loaded: converted, by ranks, by two devices, one of them alone. */
Test(host_engine, progress_ends_at_the_total_every_time)
{
    static const struct {
        const char *weights, *drafter_device;
        int32_t tp, drafter_tp;
        bool alone;
    } ways[] = {{"int8", NULL, 0, 0, false},  {NULL, NULL, 2, 0, false},
                {NULL, NULL, 2, 2, false},    {NULL, "cpu", 0, 0, false},
                {"int8", "cpu", 2, 0, false}, {NULL, NULL, 0, 0, true}};
    uint64_t total = 0;

    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        spc_engine_options o = demo_options();
        report r = {0};
        spc_engine *engine;
        spc_error error;

        o.progress = progress;
        o.user = &r;
        o.threads = 2;
        o.weights = ways[i].weights;
        o.drafter_device = ways[i].drafter_device;
        o.tp = ways[i].tp;
        o.drafter_tp = ways[i].drafter_tp;
        if (ways[i].alone) o.drafter = NULL;
        cr_assert_eq(spc_engine_open(&o, &engine, &error), SPC_OK, "%s", error.message);
        cr_expect_gt(r.calls, 8, "way %d: %d", (int)i, (int)r.calls);
        cr_expect_eq(r.done, r.total, "way %d", (int)i);
        if (i == 0) total = r.total;
        cr_expect(ways[i].alone ? r.total < total : r.total == total, "way %d", (int)i);
        spc_engine_close(engine);
    }
}

Test(host_engine, progress_is_told_now_and_then)
{
    enum { BYTES = 100000 };
    report r = {0};
    spc_meter meter;

    spc_meter_open(&meter, progress, &r, 2 * BYTES);
    cr_expect_eq(r.calls, 1);
    spc_meter_part(&meter, BYTES / 2, 7 * BYTES); /* bytes of its own */
    for (int32_t i = 0; i < 7 * BYTES; i++) spc_meter_took(&meter, 1);
    cr_expect(r.done > BYTES / 2 - BYTES / 40 && r.done <= BYTES / 2, "%d", (int)r.done);
    spc_meter_part(&meter, BYTES / 2, 0); /* nothing to be told of */
    spc_meter_took(&meter, 5);
    spc_meter_part(&meter, BYTES, BYTES);
    for (int32_t i = 0; i < BYTES; i++) spc_meter_took(&meter, 3); /* more than there is */
    cr_expect(r.done > 2 * BYTES - BYTES / 20 && r.done < 2 * BYTES, "%d", (int)r.done);
    spc_meter_close(&meter);
    cr_expect_eq(r.done, 2 * BYTES);
    cr_expect(r.calls > 60 && r.calls < 200, "%d", (int)r.calls);
    spc_meter_took(NULL, 1);
    spc_meter_open(&meter, NULL, NULL, 1);
    spc_meter_part(&meter, 1, 1);
    spc_meter_took(&meter, 1);
    spc_meter_close(&meter);
}

/* Twice the vocabulary's rows but one: the demo models use one matrix as embedding and as head. */
Test(host_engine, facts_are_right)
{
    spc_engine_options o = demo_options();
    spc_engine *engine;
    spc_engine_facts one, five;

    o.isa = "portable";
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    spc_engine_describe(engine, &one);
    cr_expect_str_eq(one.device, "cpu, 1 thread, portable");
    cr_expect_eq(one.vocab, VOCAB);
    cr_expect_eq(one.context, CONTEXT);
    cr_expect_eq(one.sessions, 1);
    cr_expect(one.drafter && one.tokenizer);
    spc_engine_close(engine);

    /* every weight is read once by a row; bf16, layers as in config.json */
    uint64_t drafter =
        VOCAB * 128 + 128 + 2 * (128 * (128 + 2 * 64 + 128) + 3 * 128 * 384 + 2 * 128);
    uint64_t verifier =
        VOCAB * 320 + 320 + 6 * (320 * (512 + 2 * 256 + 512) + 3 * 320 * 896 + 2 * 320);

    cr_expect_eq(one.drafter_weight_bytes, 2 * drafter);
    cr_expect_eq(one.verifier_weight_bytes, 2 * verifier);

    o.sessions = 5;
    o.context = 100;
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    spc_engine_describe(engine, &five);
    cr_expect_eq(five.sessions, 5);
    cr_expect_eq(five.context, 100);
    cr_expect_eq(five.verifier_weight_bytes, one.verifier_weight_bytes);
    /* keys and values of every layer, float32, and a logits row for every row of a round */
    cr_expect_geq(five.verifier_memory_bytes,
                  5u * 100 * 6 * 2 * 256 * 4 + 5u * SPC_LANE_ROWS * VOCAB * 4);
    cr_expect_geq(one.verifier_memory_bytes, 512u * 6 * 2 * 256 * 4);
    cr_expect_geq(five.drafter_memory_bytes, 5u * 100 * 2 * 2 * 64 * 4);
    spc_engine_close(engine);
}

Test(host_engine, a_smaller_context_cuts_and_does_not_change)
{
    spc_engine_options o = demo_options();
    spc_engine *small, *large = open_demo(DEMO_DRAFTER, 1, 1);
    prompt p = prompt_of(large, "<s><2es>I read a book in the garden every day.<sep>");
    spc_session_options so;

    o.context = p.count + 7;
    cr_assert_eq(spc_engine_open(&o, &small, NULL), SPC_OK);
    spc_session_options_init(&so);
    so.temperature = 0;
    so.ignore_stop = true;
    so.max_tokens = 20;
    decoded a = decode(small, &so, &p), b = decode(large, &so, &p);

    cr_expect_eq(a.finish, SPC_FINISH_CONTEXT);
    cr_expect_eq(a.count, 7);
    cr_expect(begins_with(&a, &b, 7));
    spc_engine_close(small);
    spc_engine_close(large);
}

Test(host_engine, text_goes_to_ids_and_back)
{
    static const char *const texts[] = {"The cat sleeps.", "Stra\303\237e, \302\277qu\303\251?",
                                        " two  spaces\n", "\xf0\x9f\x90\x88 123"};
    spc_engine *engine = open_demo(NULL, 1, 1);
    char *text;
    size_t bytes;
    int32_t *ids, count;
    spc_error error;

    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        prompt p = prompt_of(engine, texts[i]);

        cr_assert_eq(spc_engine_decode(engine, p.id, p.count, true, &text, NULL, &error), SPC_OK);
        cr_expect_str_eq(text, texts[i]);
        free(text);
    }

    prompt p = prompt_of(engine, "<s>a<sep>");

    cr_expect_eq(p.count, 3);
    cr_expect(p.id[0] == 1 && p.id[2] == 3);
    cr_assert_eq(spc_engine_decode(engine, p.id, 3, true, &text, NULL, &error), SPC_OK);
    cr_expect_str_eq(text, "a");
    free(text);
    cr_assert_eq(spc_engine_encode(engine, "a\0b", 3, false, &ids, &count, &error), SPC_OK);
    cr_assert_eq(spc_engine_decode(engine, ids, count, true, &text, &bytes, &error), SPC_OK);
    cr_expect(bytes == 3 && memcmp(text, "a\0b", 4) == 0, "a zero byte is text like any other");
    free(text);
    free(ids);
    cr_assert_eq(spc_engine_encode(engine, "", 0, false, &ids, &count, &error), SPC_OK);
    cr_expect(!ids && count == 0);
    cr_expect_eq(spc_engine_encode(engine, "ab\xff", 3, false, &ids, &count, &error), SPC_EINPUT);
    cr_expect(!ids && count == 0 && strstr(error.message, "2"), "%s", error.message);
    p.id[1] = 1 << 20;
    cr_expect_eq(spc_engine_decode(engine, p.id, 3, true, &text, NULL, &error), SPC_EINPUT);
    cr_expect(!text && strstr(error.message, "1048576"), "%s", error.message);
    spc_engine_close(engine);
}

/* ---- logits -----------------------------------------------------------------------------------
 */

/* Teacher-forced rows, malloc'd [count, VOCAB]. */
static float *logits_of(spc_engine *engine, const prompt *p)
{
    float *out = malloc((size_t)p->count * VOCAB * sizeof *out);
    spc_error error;

    cr_assert_not_null(out);
    cr_assert_eq(spc_engine_logits(engine, NULL, 0, p->id, p->count, out, &error), SPC_OK, "%s",
                 error.message);
    return out;
}

/* What a session draws at each position is what the teacher-forced row gives at that position. */
Test(host_engine, logits_are_those_of_stepping)
{
    static const float temperatures[] = {0, 1};
    spc_engine *engine = open_demo(DEMO_DRAFTER, 1, 2);
    prompt p = prompt_of(engine, "<s><2de>She opened the window.<sep>");

    for (int32_t t = 0; t < 2; t++) {
        spc_session_options o;
        spc_row_params params = {.seed = 12, .sampling = {.top_p = 1}};
        prompt all = p;

        spc_session_options_init(&o);
        cr_assert(spc_rule_parse("verifier-only", &params.rule, NULL));
        o.rule = "verifier-only";
        o.max_tokens = 16;
        o.seed = params.seed;
        o.temperature = params.sampling.temperature = temperatures[t];
        decoded d = decode(engine, &o, &p);

        memcpy(all.id + p.count, d.token, (size_t)d.count * sizeof *d.token);
        all.count += d.count;
        float *logits = logits_of(engine, &all);

        cr_assert_gt(d.count, 3);
        for (int32_t i = 0; i < d.count; i++) {
            int32_t row = p.count - 1 + i;
            spc_row_stats stats;

            cr_expect_eq(
                spc_plain_sample(logits + (size_t)row * VOCAB, VOCAB, &params, row + 1, &stats),
                d.token[i], "T %g: token %d", (double)temperatures[t], (int)i);
        }
        free(logits);
    }
    spc_engine_close(engine);
}

/* One session takes 18 rows at a time, four take 72: the same bits, and those of every prefix. */
Test(host_engine, logits_do_not_depend_on_chunks)
{
    spc_engine *narrow = open_demo(NULL, 1, 2), *wide = open_demo(NULL, 4, 1);
    prompt p = prompt_made(100, VOCAB, 9), prefix = p;
    float *a = logits_of(narrow, &p), *b = logits_of(wide, &p);
    size_t bytes = VOCAB * sizeof *a;

    cr_expect_eq(memcmp(a, b, 100 * bytes), 0);
    for (prefix.count = 1; prefix.count < 100; prefix.count += 14) {
        float *c = logits_of(narrow, &prefix);

        cr_expect_eq(memcmp(a, c, (size_t)prefix.count * bytes), 0, "%d ids", (int)prefix.count);
        free(c);
    }
    cr_expect_neq(memcmp(a, a + VOCAB, bytes), 0);
    free(a);
    free(b);
    spc_engine_close(narrow);
    spc_engine_close(wide);
}

Test(host_engine, logits_leave_open_sessions_alone)
{
    spc_engine *engine = open_demo(DEMO_DRAFTER, 2, 1);
    prompt p = prompt_of(engine, "<s><2de>It is cold today.<sep>"),
           other = prompt_made(9, VOCAB, 2);
    spc_session_options o;
    spc_session *s;

    spc_session_options_init(&o);
    o.max_tokens = 18;
    decoded wanted = decode(engine, &o, &p);
    float *first = logits_of(engine, &other);

    s = open_session(engine, &o, &p);
    while (spc_session_finish(s) == SPC_FINISH_RUNNING) {
        cr_assert_eq(spc_session_step(s, NULL), SPC_OK);
        float *again = logits_of(engine, &other);

        cr_expect_eq(memcmp(first, again, 9 * VOCAB * sizeof *first), 0);
        free(again);
    }
    decoded d = decoded_of(s);

    cr_expect(same_tokens(&d, &wanted));
    free(first);
    spc_session_close(s);
    spc_engine_close(engine);
}

Test(host_engine, logits_of_what_does_not_fit_are_refused)
{
    static const struct {
        int32_t count, at, id;
        const char *word;
    } cases[] = {{0, 0, 3, "found 0"},
                 {-1, 0, 3, "found -1"},
                 {33, 0, 3, "found 33"},
                 {4, 2, VOCAB, "found 6144"},
                 {4, 3, -1, "id 3"}};
    spc_engine_options o = demo_options();
    spc_engine *engine;
    static float logits[32 * VOCAB];
    spc_error error;

    o.context = 32;
    cr_assert_eq(spc_engine_open(&o, &engine, NULL), SPC_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        prompt p = prompt_made(40, VOCAB, 4);

        p.id[cases[i].at] = cases[i].id;
        cr_expect_eq(spc_engine_logits(engine, NULL, 0, p.id, cases[i].count, logits, &error),
                     SPC_EINPUT, "case %d", (int)i);
        cr_expect_not_null(strstr(error.message, cases[i].word), "%s", error.message);
    }

    prompt p = prompt_made(32, VOCAB, 4);
    spc_session_options so;
    spc_session *s;

    cr_expect_eq(spc_engine_logits(engine, NULL, 0, p.id, 32, logits, &error), SPC_OK,
                 "a full context");
    spc_session_options_init(&so);
    p.count = 4;
    s = open_session(engine, &so, &p);
    cr_expect_eq(spc_engine_logits(engine, NULL, 0, p.id, 4, logits, &error), SPC_EFULL);
    cr_expect(strstr(error.message, "session"), "%s", error.message);
    spc_session_close(s);
    spc_engine_close(engine);
}
