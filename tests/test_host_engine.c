/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_engine.c - opening engines: pairs that do not pair, broken folders, options out of
 * range. */
#include "decode.h"

#include "weights/demo/demo.h"

#include "files.h"

#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

enum { VOCAB = 6144 }; /* of the demo pair */

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
