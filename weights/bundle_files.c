/* SPDX-License-Identifier: Apache-2.0 */
/* bundle_files.c - the files of a bundle: mapped, of memory, or made of a GGUF model's metadata. */
#include "bundle_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* "folder/name"; false when it is longer than any path can be. */
static bool path_of(const spc_bundle *b, const char *name, char path[PATH_MAX])
{
    int length = snprintf(path, PATH_MAX, "%s/%s", b->folder, name);

    return length >= 0 && length < PATH_MAX;
}

/* What a link says that leads nowhere; false: the path is none. */
static bool leads_nowhere(const char *path, char target[PATH_MAX])
{
    struct stat facts;
    ssize_t length = -1;

    if (stat(path, &facts) != 0 && errno == ENOENT) length = readlink(path, target, PATH_MAX - 1);
    if (length < 0) return false;
    target[length] = '\0';
    return true;
}

spc_status spc_bundle_cannot_open(const char *path, const char *expected, spc_error *err)
{
    const char *problem = strerror(errno);
    char target[PATH_MAX];

    if (!leads_nowhere(path, target)) {
        return spc_error_set(err, SPC_EIO, "%s: cannot be opened: %s%s", path, problem, expected);
    }
    return spc_error_set(err, SPC_EIO,
                         "%.220s: a link to '%.160s', and nothing is there: fetch the model again "
                         "(a part of a model cache may have been removed)",
                         path, target);
}

/* Is it what a clone without Git LFS has in place of a large file? */
static bool is_lfs_pointer(const spc_bundle_open_file *f)
{
    static const char begin[] = "version https://git-lfs.github.com/spec/";

    return f->bytes >= sizeof begin - 1 && memcmp(f->data, begin, sizeof begin - 1) == 0;
}

/* Map a regular file read-only; no pipe is waited for. */
static spc_status map_file(const char *path, spc_bundle_open_file *out, spc_error *err)
{
    struct stat facts;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    spc_status status = SPC_OK;

    if (fd < 0) return spc_bundle_cannot_open(path, "", err);
    if (fstat(fd, &facts) != 0 || !S_ISREG(facts.st_mode)) {
        status = spc_error_set(err, SPC_EIO, "%s: expected a regular file", path);
    } else if (facts.st_size > 0) {
        out->mapped = out->bytes = (size_t)facts.st_size;
        out->map = mmap(NULL, out->mapped, PROT_READ, MAP_PRIVATE, fd, 0);
        if (out->map == MAP_FAILED) {
            out->map = NULL;
            status = spc_error_set(err, errno == ENOMEM ? SPC_ENOMEM : SPC_EIO,
                                   "%s: %" PRIu64 " MiB cannot be mapped: %s", path,
                                   (uint64_t)out->mapped >> 20, strerror(errno));
        }
    }
    (void)close(fd);
    out->data = out->map ? out->map : "";
    if (status == SPC_OK && is_lfs_pointer(out)) {
        status =
            spc_error_set(err, SPC_EFORMAT,
                          "%s: expected the file, found the pointer of Git LFS that stands for "
                          "it: fetch it with git lfs pull",
                          path);
        (void)munmap(out->map, out->mapped);
    }
    return status;
}

void spc_bundle_close_file(spc_bundle_open_file *f)
{
    free(f->name);
    free(f->made);
    if (f->map) (void)munmap(f->map, f->mapped);
}

bool spc_bundle_is_gguf(const char *name)
{
    size_t length = strlen(name);

    return length > 5 && strcmp(name + length - 5, ".gguf") == 0;
}

bool spc_bundle_begins_gguf(const char *folder, const char *name)
{
    const spc_bundle b = {.folder = (char *)(uintptr_t)folder};
    char path[PATH_MAX], magic[4];
    struct stat facts;
    bool is = false;
    int fd;

    if (spc_bundle_is_gguf(name)) return true;
    if (!path_of(&b, name, path)) return false;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* waits for nobody where it is a pipe */
    if (fd < 0) return false;
    if (fstat(fd, &facts) == 0 && S_ISREG(facts.st_mode)) {
        is = read(fd, magic, sizeof magic) == sizeof magic && memcmp(magic, "GGUF", 4) == 0;
    }
    (void)close(fd);
    return is;
}

/* The text that a GGUF model's metadata amounts to. */
static spc_status make_file(const spc_bundle *b, const char *name, spc_bundle_open_file *out,
                            spc_error *err)
{
    spc_gguf_string jinja;
    spc_status status;

    if (strcmp(name, "chat_template.jinja") == 0 && spc_gguf_chat_template(b->part[0], &jinja)) {
        out->data = jinja.text; /* of the mapped file */
        out->bytes = (size_t)jinja.bytes;
        return SPC_OK;
    }
    if (strcmp(name, "config.json") == 0) {
        status = spc_gguf_config(b->where, b->part[0], &b->list, &out->made, &out->bytes, err);
    } else if (strcmp(name, "tokenizer.json") == 0) {
        status = spc_gguf_tokenizer(b->where, b->part[0], &out->made, &out->bytes, err);
    } else {
        status = spc_error_set(err, SPC_EIO, "%s: its metadata holds no %s", b->where, name);
    }
    out->data = out->made;
    return status;
}

spc_status spc_bundle_open_named(spc_bundle *b, const char *name, const spc_bundle_open_file **out,
                                 spc_error *err)
{
    spc_bundle_open_file f = {.name = NULL}, *grown;
    spc_status status = SPC_OK;

    for (int32_t i = 0; i < b->file_count; i++) {
        if (strcmp(b->file[i].name, name) != 0) continue;
        *out = &b->file[i];
        return SPC_OK;
    }
    if (b->part_count > 0 && !spc_bundle_is_gguf(name)) {
        status = make_file(b, name, &f, err);
    } else if (b->folder) {
        char path[PATH_MAX];

        if (!path_of(b, name, path)) {
            return spc_error_set(err, SPC_EIO, "%.200s...: the path is too long", b->where);
        }
        status = map_file(path, &f, err);
    } else {
        for (int32_t i = 0; i < b->blob_count; i++) {
            if (strcmp(b->blob[i].name, name) != 0) continue;
            f.data = b->blob[i].data;
            f.bytes = b->blob[i].bytes;
        }
        if (!f.data) status = spc_error_set(err, SPC_EIO, "%s/%s: no such file", b->where, name);
    }
    if (status != SPC_OK) return status;
    f.name = spc_bundle_copy_text(name);
    grown = f.name ? realloc(b->file, (size_t)(b->file_count + 1) * sizeof *grown) : NULL;
    if (!grown) {
        spc_bundle_close_file(&f);
        return spc_bundle_no_memory(b->where, err);
    }
    b->file = grown;
    b->file[b->file_count] = f;
    *out = &b->file[b->file_count++];
    return SPC_OK;
}

bool spc_bundle_has_file(const spc_bundle *b, const char *name)
{
    bool found = false;

    if (b->part_count > 0) {
        spc_gguf_string jinja;

        return strcmp(name, "config.json") == 0 ||
               (strcmp(name, "chat_template.jinja") == 0 &&
                spc_gguf_chat_template(b->part[0], &jinja)) ||
               (strcmp(name, "tokenizer.json") == 0 && spc_gguf_has_tokenizer(b->part[0]));
    }
    if (b->folder) {
        char path[PATH_MAX];
        struct stat facts;

        found = path_of(b, name, path) && lstat(path, &facts) == 0;
    }
    for (int32_t i = 0; i < b->blob_count && !found; i++) {
        found = strcmp(b->blob[i].name, name) == 0;
    }
    return found;
}

spc_status spc_bundle_file(spc_bundle *b, const char *name, const char **data, size_t *bytes,
                           spc_error *err)
{
    const spc_bundle_open_file *f;
    spc_status status = spc_bundle_open_named(b, name, &f, err);

    *data = NULL;
    *bytes = 0;
    if (status != SPC_OK) return status;
    *data = f->data;
    *bytes = f->bytes;
    return SPC_OK;
}

void spc_bundle_forget(spc_bundle *b, const char *name)
{
    for (int32_t i = 0; i < b->file_count; i++) {
        if (strcmp(b->file[i].name, name) != 0) continue;
        spc_bundle_close_file(&b->file[i]);
        b->file[i] = b->file[--b->file_count];
        return;
    }
}

void spc_bundle_let_go(const spc_bundle *b, const spc_tensor *t)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)t->data;
    uintptr_t from = (at + page - 1) / page * page, to = (at + (uintptr_t)t->bytes) / page * page;

    for (int32_t i = 0; i < b->file_count; i++) {
        uintptr_t map = (uintptr_t)b->file[i].map;

        if (map == 0 || at < map || at - map >= b->file[i].mapped || from >= to) continue;
        (void)madvise((void *)from, to - from, MADV_DONTNEED);
    }
}
