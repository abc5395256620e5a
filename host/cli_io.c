/* SPDX-License-Identifier: Apache-2.0 */
/* cli_io.c - what the program says: results on stdout, progress and errors on stderr, and whole
 * inputs read. */
#include "cli.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool output_failed;    /* a write to stdout failed, now or before */
static bool output_no_memory; /* a result could not even be built */
static bool progress_shown;   /* a line on stderr waits to be erased */

/* ---- errors ---------------------------------------------------------------------------------- */

int spc_cli_fail(const spc_error *err)
{
    spc_cli_progress(NULL);
    (void)fflush(stdout);
    (void)fprintf(stderr, "spc: %s\n", err->message);
    return spc_status_exit_code(err->status);
}

int spc_cli_fail_with(spc_status status, const char *format, ...)
{
    spc_error error;
    char message[sizeof error.message];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    (void)spc_error_set(&error, status, "%s", message);
    return spc_cli_fail(&error);
}

/* ---- results --------------------------------------------------------------------------------- */

void spc_cli_put(const char *text, size_t bytes)
{
    if (bytes > 0 && fwrite(text, 1, bytes, stdout) != bytes) output_failed = true;
}

void spc_cli_print(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    if (vprintf(format, arguments) < 0) output_failed = true;
    va_end(arguments);
}

void spc_cli_put_json(json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;

    if (text) {
        spc_cli_put(text, strlen(text));
        spc_cli_put("\n", 1);
    } else {
        output_no_memory = true;
    }
    free(text);
    json_decref(value);
}

bool spc_cli_flush(void)
{
    if (fflush(stdout) != 0) output_failed = true;
    return !output_failed && !output_no_memory;
}

int spc_cli_finish(int code)
{
    spc_cli_progress(NULL);
    if (spc_cli_flush() || code != 0) return code;
    if (output_no_memory) return spc_cli_fail_with(SPC_ENOMEM, "no memory to write a result");
    return spc_cli_fail_with(SPC_EINPUT, "stdout: a result could not be written");
}

/* ---- Ctrl-C ---------------------------------------------------------------------------------- */

volatile sig_atomic_t spc_cli_interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    spc_cli_interrupted = 1;
}

static void catch_interrupt(int flags)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    action.sa_flags = flags; /* no SA_RESTART: reading ends too */
    (void)sigaction(SIGINT, &action, NULL);
}

void spc_cli_catch_interrupt(void)
{
    catch_interrupt((int)SA_RESETHAND);
}

void spc_cli_catch_interrupts(void)
{
    catch_interrupt(0);
}

/* ---- progress -------------------------------------------------------------------------------- */

void spc_cli_progress(const char *text)
{
    if (!text && !progress_shown) return;
    if (!isatty(STDERR_FILENO)) return;
    (void)fprintf(stderr, "\r\033[K%s", text ? text : "");
    (void)fflush(stderr);
    progress_shown = text != NULL;
}

void spc_cli_loading(void *user, uint64_t done, uint64_t total)
{
    char text[96], size[SPC_CLI_SIZE_BYTES];

    (void)user;
    (void)snprintf(text, sizeof text, "loading %s of weights: %d%%", spc_cli_size(total, size),
                   (int)(total > 0 ? 100 * done / total : 100));
    spc_cli_progress(done < total ? text : NULL);
}

const char *spc_cli_size(uint64_t bytes, char text[SPC_CLI_SIZE_BYTES])
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double size = (double)bytes;
    int u = 0;

    while (size >= 1024.0 && u < 4) {
        size /= 1024.0;
        u++;
    }
    (void)snprintf(text, SPC_CLI_SIZE_BYTES, u == 0 || size >= 100.0 ? "%.0f %s" : "%.1f %s", size,
                   unit[u]);
    return text;
}

/* ---- inputs ---------------------------------------------------------------------------------- */

spc_status spc_cli_read_all(FILE *in, const char *where, char **text, size_t *bytes, spc_error *err)
{
    size_t capacity = 1 << 16, used = 0;
    char *buffer = malloc(capacity);

    *text = NULL;
    *bytes = 0;
    while (buffer) {
        used += fread(buffer + used, 1, capacity - 1 - used, in);
        if (used < capacity - 1) break;

        char *larger = capacity < SIZE_MAX / 2 ? realloc(buffer, capacity * 2) : NULL;

        if (!larger) free(buffer);
        buffer = larger;
        capacity *= 2;
    }
    if (!buffer) return spc_error_set(err, SPC_ENOMEM, "%s: no memory to read it", where);
    if (ferror(in)) {
        free(buffer);
        return spc_error_set(err, SPC_EINPUT, "%s: cannot be read", where);
    }
    buffer[used] = '\0';
    *text = buffer;
    *bytes = used;
    return SPC_OK;
}

spc_status spc_cli_read_ids(const json_t *array, const char *where, int32_t **ids, int32_t *count,
                            spc_error *err)
{
    size_t size = json_array_size(array);
    int32_t *out;

    *ids = NULL;
    *count = 0;
    if (!json_is_array(array)) {
        return spc_error_set(err, SPC_EINPUT,
                             "%s: expected a JSON array of ids, found another type", where);
    }
    if (size > INT32_MAX) {
        return spc_error_set(err, SPC_EINPUT, "%s: expected fewer than 2^31 ids, found %zu", where,
                             size);
    }
    out = malloc((size + 1) * sizeof *out);
    if (!out) return spc_error_set(err, SPC_ENOMEM, "%s: no memory for %zu ids", where, size);
    for (size_t i = 0; i < size; i++) {
        const json_t *value = json_array_get(array, i);
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;

        if (id < 0 || id > INT32_MAX) {
            free(out);
            return spc_error_set(err, SPC_EINPUT,
                                 "%s: id %zu: expected a whole number of 0 to 2^31 - 1", where, i);
        }
        out[i] = (int32_t)id;
    }
    *ids = out;
    *count = (int32_t)size;
    return SPC_OK;
}

json_t *spc_cli_json_ids(const int32_t *ids, int32_t count)
{
    json_t *array = json_array();

    for (int32_t i = 0; i < count; i++) {
        if (json_array_append_new(array, json_integer(ids[i])) == 0) continue;
        json_decref(array);
        return NULL;
    }
    return array;
}
