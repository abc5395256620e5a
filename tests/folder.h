/* SPDX-License-Identifier: Apache-2.0 */
/* folder.h - a folder of its own for one test, for the files that it writes. */
#ifndef SPC_TESTS_FOLDER_H
#define SPC_TESTS_FOLDER_H

#include "files.h"

#include <dirent.h>
#include <string.h>
#include <unistd.h>

enum { FOLDER_PATH = 512 };

typedef struct {
    char path[FOLDER_PATH];
} folder;

static inline folder folder_open(void)
{
    const char *parent = getenv("TMPDIR");
    folder f;

    (void)snprintf(f.path, sizeof f.path, "%s/spc-test-XXXXXX", parent ? parent : "/tmp");
    cr_assert_not_null(mkdtemp(f.path), "%s", f.path);
    return f;
}

/* The path of a file in it. */
static inline void folder_path(const folder *f, const char *name, char path[FOLDER_PATH])
{
    cr_assert_lt(snprintf(path, FOLDER_PATH, "%s/%s", f->path, name), FOLDER_PATH);
}

static inline void folder_write(const folder *f, const char *name, const void *data, size_t bytes)
{
    char path[FOLDER_PATH];
    FILE *file;

    folder_path(f, name, path);
    file = fopen(path, "wb");
    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fwrite(data, 1, bytes, file), bytes);
    cr_assert_eq(fclose(file), 0);
}

/* Copy a file into it; of the file at most `most` bytes. */
static inline void folder_copy(const folder *f, const char *from, const char *name, size_t most)
{
    size_t bytes;
    char *data = read_file(from, &bytes);

    folder_write(f, name, data, bytes < most ? bytes : most);
    free(data);
}

/* A text with every `from` replaced, malloc'd. */
static inline char *replaced(const char *text, const char *from, const char *to)
{
    size_t used = 0, room = strlen(text) + 1;
    char *out;

    for (const char *at = text; (at = strstr(at, from)); at++) room += strlen(to);
    out = malloc(room);
    cr_assert_not_null(out);
    while (*text) {
        bool hit = strncmp(text, from, strlen(from)) == 0;

        if (hit) {
            memcpy(out + used, to, strlen(to));
            used += strlen(to);
            text += strlen(from);
        } else {
            out[used++] = *text++;
        }
    }
    out[used] = '\0';
    return out;
}

/* Copy a text file into it with replacements: pairs of from and to, ended by NULL. */
static inline void folder_copy_changed(const folder *f, const char *from, const char *name,
                                       const char *const *change)
{
    size_t bytes;
    char *text = read_file(from, &bytes);

    for (int i = 0; change[i]; i += 2) {
        char *next = replaced(text, change[i], change[i + 1]);

        free(text);
        text = next;
    }
    folder_write(f, name, text, strlen(text));
    free(text);
}

/* How many files are in it. */
static inline int32_t folder_count(const folder *f)
{
    DIR *dir = opendir(f->path);
    int32_t count = 0;

    cr_assert_not_null(dir);
    for (struct dirent *e; (e = readdir(dir));) count += e->d_name[0] != '.';
    (void)closedir(dir);
    return count;
}

/* Remove it with its files. */
static inline void folder_close(const folder *f)
{
    DIR *dir = opendir(f->path);

    cr_assert_not_null(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] != '.') (void)unlinkat(dirfd(dir), e->d_name, 0);
    }
    (void)closedir(dir);
    cr_expect_eq(rmdir(f->path), 0, "%s", f->path);
}

#endif
