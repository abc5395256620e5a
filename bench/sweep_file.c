/* SPDX-License-Identifier: Apache-2.0 */
/* sweep_file.c - the results of a sweep on disk: read again, checked, appended to. */
#include "bench/sweep.h"

#include "weights/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Parts of a setup that only some sweeps have. */
static const char *const optional[] = {"context", "drafter_vocab", "chat_template", "ask",
                                       "test_seconds"};

/* Parts that lines have not always had: what is not written down cannot be compared. */
static const char *const later[] = {"threads", "verifier_hash", "drafter_hash"};

static bool is_later(const char *key)
{
    for (size_t i = 0; i < sizeof later / sizeof *later; i++) {
        if (strcmp(key, later[i]) == 0) return true;
    }
    return false;
}

static spc_status check_key(const sweep_file *f, const json_t *line, const json_t *setup,
                            const char *key, int64_t number, spc_error *err)
{
    const json_t *had = json_object_get(line, key), *wanted = json_object_get(setup, key);
    char *a, *b;

    if (!had && is_later(key)) return SPC_OK;
    if (had == wanted || json_equal(had, wanted)) return SPC_OK;
    a = json_dumps(had, JSON_ENCODE_ANY | JSON_COMPACT);
    b = json_dumps(wanted, JSON_ENCODE_ANY | JSON_COMPACT);
    (void)spc_error_set(err, SPC_EINPUT,
                        "%s: line %" PRId64 " was measured with %s %s, not %s: choose another "
                        "--output, or the options of that sweep",
                        f->path, number, key, a ? a : "unknown", b ? b : "unknown");
    free(a);
    free(b);
    return SPC_EINPUT;
}

/* A line of an earlier run must have been measured as this run measures. */
static spc_status check_setup(const sweep_file *f, const json_t *line, const json_t *setup,
                              int64_t number, spc_error *err)
{
    spc_status status = SPC_OK;
    const char *key;
    json_t *wanted;

    json_object_foreach((json_t *)(uintptr_t)setup, key, wanted)
    {
        if (status == SPC_OK) status = check_key(f, line, setup, key, number, err);
    }
    for (size_t i = 0; i < sizeof optional / sizeof *optional && status == SPC_OK; i++) {
        status = check_key(f, line, setup, optional[i], number, err);
    }
    return status;
}

static spc_status take_line(sweep_file *f, const char *text, const json_t *setup, int64_t number,
                            spc_error *err)
{
    json_error_t why;
    json_t *line = json_loads(text, 0, &why);
    const char *key = json_string_value(json_object_get(line, "key"));
    spc_status status;

    if (!line && spc_json_no_memory(&why, text)) {
        return spc_error_set(err, SPC_ENOMEM, "no memory for the results of %s", f->path);
    }
    if (!key) {
        status = spc_error_set(err, SPC_EINPUT,
                               "%s: line %" PRId64 " is no result of a sweep: choose another "
                               "--output, or take the line out",
                               f->path, number);
    } else {
        status = check_setup(f, line, setup, number, err);
    }
    if (status == SPC_OK && json_object_set(f->done, key, line) != 0) {
        status = spc_error_set(err, SPC_ENOMEM, "no memory for the results of %s", f->path);
    }
    json_decref(line);
    return status;
}

/* Results of earlier runs.  What a run that was killed has written of its last line is taken off.
 */
static spc_status read_lines(sweep_file *f, FILE *in, const json_t *setup, spc_error *err)
{
    char *text = NULL;
    size_t room = 0;
    int64_t number = 0;
    off_t good = 0;
    ssize_t bytes;
    spc_status status = SPC_OK;

    while (status == SPC_OK && (bytes = getline(&text, &room, in)) > 0) {
        number++;
        if (text[bytes - 1] != '\n') {
            (void)fprintf(stderr,
                          "bench_sweep: %s: line %" PRId64 " was cut short and is taken off; its "
                          "point runs again\n",
                          f->path, number);
            if (ftruncate(f->fd, good) == 0) break;
            status = spc_error_set(err, SPC_EINPUT, "%s: cannot be written: %s", f->path,
                                   strerror(errno));
        } else {
            status = take_line(f, text, setup, number, err);
            good += bytes;
        }
    }
    if (status == SPC_OK && ferror(in)) {
        status = spc_error_set(err, SPC_EINPUT, "%s: cannot be read: %s", f->path, strerror(errno));
    }
    free(text);
    return status;
}

static spc_status open_file(sweep_file *f, const json_t *setup, spc_error *err)
{
    struct stat facts;
    FILE *in;
    spc_status status;
    int copy;

    f->done = json_object();
    if (!f->done) return spc_error_set(err, SPC_ENOMEM, "no memory for the results");
    f->fd = open(f->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (f->fd < 0 || fstat(f->fd, &facts) != 0) {
        return spc_error_set(err, SPC_EINPUT, "%s: cannot be opened: %s", f->path, strerror(errno));
    }
    if (!S_ISREG(facts.st_mode)) return SPC_OK; /* a pipe or device holds no earlier results */
    if (flock(f->fd, LOCK_EX | LOCK_NB) != 0) {
        return spc_error_set(err, SPC_EINPUT, "%s: another sweep writes to it", f->path);
    }
    copy = dup(f->fd);
    in = copy >= 0 ? fdopen(copy, "r") : NULL;
    if (!in) {
        if (copy >= 0) (void)close(copy);
        return spc_error_set(err, SPC_EINPUT, "%s: cannot be read: %s", f->path, strerror(errno));
    }
    status = read_lines(f, in, setup, err);
    (void)fclose(in);
    return status;
}

spc_status sweep_file_open(const char *path, const json_t *setup, sweep_file *out, spc_error *err)
{
    spc_status status;

    *out = (sweep_file){path, -1, NULL};
    status = open_file(out, setup, err);
    if (status != SPC_OK) sweep_file_close(out);
    return status;
}

const json_t *sweep_file_find(const sweep_file *file, const sweep_point *point)
{
    char key[SWEEP_KEY_BYTES];

    sweep_point_key(point, key);
    return json_object_get(file->done, key);
}

static bool write_all(int fd, const char *text, size_t bytes)
{
    while (bytes > 0) {
        ssize_t n = write(fd, text, bytes);

        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        text += n;
        bytes -= (size_t)n;
    }
    return true;
}

spc_status sweep_file_append(sweep_file *f, json_t *line, spc_error *err)
{
    char *compact = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    char *text = NULL;
    int bytes = compact ? asprintf(&text, "%s\n", compact) : -1;
    off_t before = lseek(f->fd, 0, SEEK_END);
    bool known = line && json_object_set(f->done, json_string_value(json_object_get(line, "key")),
                                         line) == 0;
    spc_status status = SPC_OK;

    if (bytes < 0 || !known) {
        status = spc_error_set(err, SPC_ENOMEM, "no memory for a result");
    } else if (!write_all(f->fd, text, (size_t)bytes)) {
        status = spc_error_set(err, SPC_EINPUT,
                               "%s: cannot be written: %s; finished points are kept, and the same "
                               "command goes on with the rest",
                               f->path, strerror(errno));
        if (before >= 0 && ftruncate(f->fd, before) != 0) { /* the next run takes it off */
        }
    }
    if (bytes >= 0) free(text);
    free(compact);
    json_decref(line);
    return status;
}

void sweep_file_close(sweep_file *f)
{
    if (f->fd >= 0) (void)close(f->fd);
    json_decref(f->done);
    f->done = NULL;
    f->fd = -1;
}
