/* SPDX-License-Identifier: Apache-2.0 */
/* test_weights_bundle.c - a model's files: a folder, shards, memory; and what is wrong with them.
 */
#include "weights/bundle.h"

#include "folder.h"

#include <criterion/criterion.h>

#include <sys/stat.h>

static const char index_name[] = "model.safetensors.index.json";

/* A safetensors file of one U8 tensor [bytes], all of them `value`. */
static void write_shard(const folder *f, const char *name, const char *tensor, int32_t bytes,
                        int value)
{
    char file[512];
    int length = snprintf(file + 8, sizeof file - 8,
                          "{\"%s\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[0,%d]}}",
                          tensor, (int)bytes, (int)bytes);

    for (int i = 0; i < 8; i++) file[i] = (char)((uint64_t)length >> (8 * i));
    memset(file + 8 + length, value, (size_t)bytes);
    folder_write(f, name, file, 8 + (size_t)length + (size_t)bytes);
}

static void write_text(const folder *f, const char *name, const char *text)
{
    folder_write(f, name, text, strlen(text));
}

static void expect_refused(const folder *f, spc_status want, const char *word)
{
    spc_bundle *bundle = (spc_bundle *)1;
    spc_error err = {SPC_OK, ""};
    spc_status status = spc_bundle_open(f->path, &bundle, &err);

    cr_assert_eq(status, want, "%s: status %d: %s", word, (int)status, err.message);
    cr_assert_null(bundle);
    cr_assert_not_null(strstr(err.message, word), "expected '%s' in: %s", word, err.message);
    cr_assert_not_null(strstr(err.message, f->path), "the folder is not named: %s", err.message);
}

Test(weights_bundle, one_file)
{
    folder f = folder_open();
    spc_bundle *bundle;
    spc_error err;
    const char *text;
    size_t bytes;

    write_shard(&f, "model.safetensors", "a", 5, 7);
    write_text(&f, "config.json", "{}");
    write_text(&f, "empty.txt", "");
    cr_assert_eq(spc_bundle_open(f.path, &bundle, &err), SPC_OK, "%s", err.message);
    cr_assert_str_eq(spc_bundle_where(bundle), f.path);
    cr_assert_eq(spc_bundle_count(bundle), 1);
    cr_assert_eq(spc_bundle_bytes(bundle), 5);
    cr_assert_eq(((const char *)spc_bundle_find(bundle, "a")->data)[4], 7);
    cr_assert_null(spc_bundle_find(bundle, "b"));
    cr_assert_null(spc_bundle_tensor(bundle, 1));
    cr_assert_null(spc_bundle_tensor(bundle, -1));
    cr_assert(spc_bundle_has_file(bundle, "config.json"));
    cr_assert(!spc_bundle_has_file(bundle, "tokenizer.json"));
    cr_assert_eq(spc_bundle_file(bundle, "config.json", &text, &bytes, &err), SPC_OK);
    cr_assert(bytes == 2 && memcmp(text, "{}", 2) == 0);
    spc_bundle_forget(bundle, "config.json"); /* read anew: it may have changed meanwhile */
    write_text(&f, "config.json", "[1]");
    cr_assert_eq(spc_bundle_file(bundle, "config.json", &text, &bytes, &err), SPC_OK);
    cr_assert(bytes == 3 && memcmp(text, "[1]", 3) == 0);
    spc_bundle_forget(bundle, "never.txt");
    cr_assert_eq(spc_bundle_file(bundle, "empty.txt", &text, &bytes, &err), SPC_OK);
    cr_assert_eq(bytes, 0);
    cr_assert_eq(spc_bundle_file(bundle, "tokenizer.json", &text, &bytes, &err), SPC_EIO);
    cr_assert_not_null(strstr(err.message, "tokenizer.json"));
    spc_bundle_close(bundle);
    folder_close(&f);
}

Test(weights_bundle, shards_in_the_order_of_names)
{
    folder f = folder_open();
    spc_bundle *bundle;
    spc_error err;

    write_shard(&f, "one.safetensors", "z", 1, 1);
    write_shard(&f, "two.safetensors", "a", 2, 2);
    write_text(
        &f, index_name,
        "{\"metadata\":{},\"weight_map\":{\"z\":\"one.safetensors\",\"a\":\"two.safetensors\"}}");
    cr_assert_eq(spc_bundle_open(f.path, &bundle, &err), SPC_OK, "%s", err.message);
    cr_assert_eq(spc_bundle_count(bundle), 2);
    cr_assert_str_eq(spc_bundle_tensor(bundle, 0)->name, "a");
    cr_assert_str_eq(spc_bundle_tensor(bundle, 1)->name, "z");
    cr_assert_eq(((const char *)spc_bundle_find(bundle, "a")->data)[1], 2);
    cr_assert_eq(spc_bundle_bytes(bundle), 3);
    spc_bundle_close(bundle);
    folder_close(&f);
}

Test(weights_bundle, bad_indexes)
{
    static const struct {
        const char *index;
        spc_status status;
        const char *word;
    } cases[] = {
        {"{", SPC_EFORMAT, "line 1"},
        {"{}", SPC_EFORMAT, "weight_map"},
        {"{\"weight_map\":{\"a\":1}}", SPC_EFORMAT, "'a'"},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", SPC_EFORMAT, "beside it"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", SPC_EFORMAT, "beside it"},
        {"{\"weight_map\":{\"a\":\"\"}}", SPC_EFORMAT, "beside it"},
        {"{\"weight_map\":{\"a\":\"..\"}}", SPC_EFORMAT, "beside it"},
        {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", SPC_EFORMAT, "beside it"},
        {"{\"weight_map\":{\"a\":\"model.safetensors.index.json\"}}", SPC_EFORMAT, "beside it"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}", SPC_EFORMAT,
         "duplicate"},
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", SPC_EIO, "gone.safetensors"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"same.safetensors\"}}", SPC_EFORMAT,
         "twice"},
        {"{\"weight_map\":{\"a\":\"short.safetensors\"}}", SPC_EFORMAT, "short.safetensors"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"one.safetensors\"}}", SPC_EFORMAT,
         "tensor 'c' is not in one.safetensors"},
    };
    folder f = folder_open();

    write_shard(&f, "one.safetensors", "a", 1, 1);
    write_shard(&f, "same.safetensors", "a", 1, 1);
    write_text(&f, "short.safetensors", "1234567");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(&f, index_name, cases[i].index);
        expect_refused(&f, cases[i].status, cases[i].word);
    }
    folder_close(&f);
}

Test(weights_bundle, folders_that_are_none)
{
    folder f = folder_open(), none = f;
    spc_bundle *bundle;
    spc_error err;

    expect_refused(&f, SPC_EIO, "expected config.json and model.safetensors (or its shards");
    write_text(&f, "config.json", "{}");
    expect_refused(&f, SPC_EIO, "or one GGUF file; found no weights");
    write_text(&f, "pytorch_model.bin", "PK");
    expect_refused(&f, SPC_EIO, "found no weights but 'pytorch_model.bin'");
    folder_path(&f, "gone", none.path);
    expect_refused(&none, SPC_EIO, "expected a model folder");
    write_text(&f, "file", "x");
    folder_path(&f, "file", none.path);
    expect_refused(&none, SPC_EIO, "found a file that is not GGUF");
    write_text(&f, "file.gguf", "x");
    folder_path(&f, "file.gguf", none.path);
    expect_refused(&none, SPC_EFORMAT, "expected a GGUF file, found another kind");
    cr_assert_eq(spc_bundle_open("", &bundle, &err), SPC_EIO);
    folder_close(&f);
}

/* A clone of a model's repository on a machine without Git LFS has a few lines of text in place of
 * each large file. */
Test(weights_bundle, a_pointer_of_git_lfs_is_called_that)
{
    static const char *const names[] = {"model.safetensors", "m.gguf"};
    static const char pointer[] =
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e"
        "adbb8f32b1258daaa5e2ca24d17e2393\nsize 988097824\n";

    for (size_t i = 0; i < 2; i++) {
        folder f = folder_open();

        write_text(&f, names[i], pointer);
        expect_refused(&f, SPC_EFORMAT, "fetch it with git lfs pull");
        folder_close(&f);
    }
}

/* Links to files that are gone: of a model, of a file that a model may lack, of a whole model. */
Test(weights_bundle, a_link_that_leads_nowhere_is_no_file_that_is_missing)
{
    static const char says[] = ": a link to 'blobs/gone', and nothing is there";
    folder f = folder_open(), link = f;
    spc_bundle *bundle;
    spc_error err;
    const char *text;
    size_t bytes;

    folder_path(&f, "model.gguf", link.path);
    cr_assert_eq(symlink("blobs/gone", link.path), 0);
    expect_refused(&f, SPC_EIO, says);
    expect_refused(&link, SPC_EIO, says);
    folder_path(&f, "model.safetensors", link.path);
    cr_assert_eq(symlink("blobs/gone", link.path), 0);
    expect_refused(&f, SPC_EIO, says);
    cr_assert_eq(unlink(link.path), 0);
    write_shard(&f, "model.safetensors", "a", 5, 7);
    folder_path(&f, "tokenizer.json", link.path);
    cr_assert_eq(symlink("blobs/gone", link.path), 0);
    cr_assert_eq(spc_bundle_open(f.path, &bundle, &err), SPC_OK, "%s", err.message);
    cr_assert(spc_bundle_has_file(bundle, "tokenizer.json"));
    cr_assert_eq(spc_bundle_file(bundle, "tokenizer.json", &text, &bytes, &err), SPC_EIO);
    cr_assert(strstr(err.message, link.path) && strstr(err.message, says), "%s", err.message);
    write_text(&f, "real", "{}"); /* one that leads somewhere is the file */
    cr_assert_eq(unlink(link.path), 0);
    cr_assert_eq(symlink("real", link.path), 0);
    cr_assert_eq(spc_bundle_file(bundle, "tokenizer.json", &text, &bytes, &err), SPC_OK);
    cr_assert_eq(bytes, 2);
    spc_bundle_close(bundle);
    folder_close(&f);
}

/* Its other end may never be opened. */
Test(weights_bundle, a_pipe_is_no_file_and_is_not_waited_for, .timeout = 10)
{
    folder f = folder_open(), pipe = f;

    write_text(&f, "config.json", "{}");
    folder_path(&f, "model.safetensors", pipe.path);
    cr_assert_eq(mkfifo(pipe.path, 0600), 0);
    expect_refused(&f, SPC_EIO, "model.safetensors: expected a regular file");
    folder_close(&f);
}

Test(weights_bundle, files_in_memory)
{
    static const char empty[] = "\x02\0\0\0\0\0\0\0{}";
    spc_blob files[] = {{"model.safetensors", empty, sizeof empty - 1}, {"config.json", "[]", 2}};
    spc_bundle *bundle;
    spc_error err;
    const char *text;
    size_t bytes;

    cr_assert_eq(spc_bundle_open_memory("embedded:x", files, 2, &bundle, &err), SPC_OK);
    cr_assert_eq(spc_bundle_count(bundle), 0);
    cr_assert_null(spc_bundle_find(bundle, "a"));
    cr_assert(spc_bundle_has_file(bundle, "config.json"));
    cr_assert_eq(spc_bundle_file(bundle, "config.json", &text, &bytes, &err), SPC_OK);
    cr_assert(bytes == 2 && memcmp(text, "[]", 2) == 0);
    cr_assert_eq(spc_bundle_file(bundle, "none", &text, &bytes, &err), SPC_EIO);
    cr_assert_not_null(strstr(err.message, "embedded:x/none"), "%s", err.message);
    spc_bundle_close(bundle);
    cr_assert_eq(spc_bundle_open_memory("embedded:x", files + 1, 1, &bundle, &err), SPC_EIO);
    spc_bundle_close(NULL);
}

/* Where a shard is named for the wrong tensor, the tensors are found all the same. */
Test(weights_bundle, tensors_are_found_by_name_and_not_by_shard)
{
    folder f = folder_open();
    spc_bundle *bundle;
    spc_error err = {SPC_OK, "untouched"};

    write_shard(&f, "one.safetensors", "z", 1, 1);
    write_shard(&f, "two.safetensors", "a", 2, 2);
    write_text(&f, index_name,
               "{\"weight_map\":{\"a\":\"one.safetensors\",\"z\":\"two.safetensors\"}}");
    cr_assert_eq(spc_bundle_open(f.path, &bundle, &err), SPC_OK, "%s", err.message);
    cr_assert_str_eq(err.message, "untouched");
    cr_assert_eq(spc_bundle_count(bundle), 2);
    cr_assert_eq(((const char *)spc_bundle_find(bundle, "z")->data)[0], 1);
    spc_bundle_close(bundle);
    folder_close(&f);
}

/* Of text and images: parts of the text model lose what leads to them, others are not there. */
Test(weights_bundle, the_text_model_of_a_model_of_images)
{
    static const char *const shards[] = {"a.safetensors", "b.safetensors", "c.safetensors",
                                         "d.safetensors", "e.safetensors"};
    static const char *const tensors[] = {
        "vision_tower.model.norm.weight", "language_model.model.norm.weight",
        "model.language_model.layers.3.x", "lm_head.weight", "multi_modal_projector.y"};
    folder f = folder_open();
    spc_bundle *bundle;
    spc_error err;
    char index[512] = "{\"weight_map\":{";

    for (int i = 0; i < 5; i++) {
        size_t used = strlen(index);

        write_shard(&f, shards[i], tensors[i], i + 1, i);
        (void)snprintf(index + used, sizeof index - used, "%s\"%s\":\"%s\"%s", i ? "," : "",
                       tensors[i], shards[i], i == 4 ? "}}" : "");
    }
    write_text(&f, index_name, index);
    cr_assert_eq(spc_bundle_open(f.path, &bundle, &err), SPC_OK, "%s", err.message);
    cr_assert_eq(spc_bundle_count(bundle), 3);
    cr_assert_eq(spc_bundle_bytes(bundle), 2 + 3 + 4);
    cr_assert_eq(((const char *)spc_bundle_find(bundle, "model.norm.weight")->data)[1], 1);
    cr_assert_eq(((const char *)spc_bundle_find(bundle, "model.layers.3.x")->data)[2], 2);
    cr_assert_eq(((const char *)spc_bundle_find(bundle, "lm_head.weight")->data)[3], 3);
    spc_bundle_close(bundle);
    folder_close(&f);
}
