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
