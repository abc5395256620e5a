/* SPDX-License-Identifier: Apache-2.0 */
/* cli_io.c - what the program says: results on stdout, progress and errors on stderr, and whole
 * inputs read. */
#include "cli.h"

#include "weights/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/* Results that wait to be written.  Not in stdio: of a write that Ctrl-C interrupts it does not say
 * how much was written, and a line would be torn. */
static char output[1 << 16];
static size_t output_bytes;
static bool output_failed;    /* a write to stdout failed, now or before */
static bool output_no_memory; /* a result could not even be built */
static bool progress_shown;   /* a line on stderr waits to be erased */
static bool stream_open;      /* a text that is not yet whole has been written */
static char held[1024];       /* what is to be said on stderr where that ends */

/* ---- errors ---------------------------------------------------------------------------------- */

/* Does the engine blame one of its options, "kv: expected ..." or "device cuda: ..."?  The program
 * has it by the same name. */
static bool blames_option(const spc_error *err)
{
    static const char *const options[] = {"device",
                                          "drafter-device",
                                          "drafter-vocab",
                                          "context",
                                          "drafter-tp",
                                          "fast-prefill",
                                          "gamma",
                                          "isa",
                                          "kernels",
                                          "kv",
                                          "kv-tokens",
                                          "max-tokens",
                                          "overlap",
                                          "threads",
                                          "plain-launches",
                                          "tp",
                                          "prefill-rows",
                                          "weights",
                                          "min-tokens",
                                          "logit-bias",
                                          "repetition-penalty",
                                          "details",
                                          "logprobs"};
    size_t count = sizeof options / sizeof *options, bytes = strcspn(err->message, ": ");
    bool used = err->status == SPC_EUSAGE || err->status == SPC_EUNSUPPORTED;

    if (err->status == SPC_EDEVICE) count = 2; /* that are there, and cannot be used */
    if (!used && err->status != SPC_EDEVICE) return false;
    if (err->message[bytes] == ' ' && strncmp(err->message, "device ", 7) != 0) return false;
    for (size_t i = 0; i < count; i++) {
        if (strlen(options[i]) == bytes && memcmp(options[i], err->message, bytes) == 0)
            return true;
    }
    return false;
}

/* The command for a function of the library that a message sends its reader to. */
static const char *names_command(const spc_error *err)
{
    if (!strstr(err->message, "spc_tune_kernels")) return "";
    return strstr(err->message, "spc_tune_kernels and fast-prefill")
               ? " (spc tune-kernels --fast-prefill)"
               : " (spc tune-kernels)";
}

int spc_cli_fail(const spc_error *err)
{
    if (stream_open) spc_cli_put("\n", 1);
    spc_cli_stream_ends();
    (void)spc_cli_flush();
    spc_cli_progress(NULL);
    (void)fprintf(stderr, "spc: %s%s%s\n", blames_option(err) ? "--" : "", err->message,
                  names_command(err));
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

/* Nothing of it is lost to a signal.  (The second Ctrl-C kills.) */
static void write_all(const char *text, size_t bytes)
{
    if (bytes > 0) spc_cli_progress(NULL);
    while (bytes > 0 && !output_failed) {
        ssize_t n = write(STDOUT_FILENO, text, bytes);

        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            output_failed = true;
        } else {
            text += n;
            bytes -= (size_t)n;
        }
    }
}

/* Write what waits. */
static void empty_output(void)
{
    write_all(output, output_bytes);
    output_bytes = 0;
}

void spc_cli_put(const char *text, size_t bytes)
{
    if (bytes > sizeof output - output_bytes) empty_output();
    if (bytes > sizeof output) {
        write_all(text, bytes);
        return;
    }
    memcpy(output + output_bytes, text, bytes);
    output_bytes += bytes;
    if (bytes > 0 && text[bytes - 1] == '\n' && isatty(STDOUT_FILENO)) empty_output();
}

void spc_cli_print(const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    int bytes;

    va_start(arguments, format);
    bytes = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (bytes < 0) {
        output_no_memory = true;
        return;
    }
    spc_cli_put(text, (size_t)bytes);
    free(text);
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
    empty_output();
    return !output_failed && !output_no_memory;
}

void spc_cli_stream(const char *text, size_t bytes)
{
    spc_cli_put(text, bytes);
    (void)spc_cli_flush();
    if (bytes > 0) stream_open = true;
}

void spc_cli_stream_ends(void)
{
    stream_open = false;
    if (!held[0]) return;
    (void)spc_cli_flush();
    spc_cli_progress(NULL);
    (void)fputs(held, stderr);
    held[0] = '\0';
}

void spc_cli_note(const char *line)
{
    size_t used = strlen(held), bytes = strlen(line) + sizeof "spc: \n";

    if (stream_open && bytes <= sizeof held - used) {
        (void)snprintf(held + used, sizeof held - used, "spc: %s\n", line);
        return;
    }
    spc_cli_progress(NULL);
    (void)fprintf(stderr, "spc: %s\n", line);
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

/* A Ctrl-C may be forgotten, and SIGTERM is not. */
static void on_interrupt(int signal_number)
{
    if (spc_cli_interrupted != SIGTERM) spc_cli_interrupted = signal_number;
}

static void catch_signal(int signal_number, int flags)
{
    struct sigaction action;

    /* who started the program to ignore it, nohup or a script in whose background it runs, knows */
    if (sigaction(signal_number, NULL, &action) == 0 && action.sa_handler == SIG_IGN) return;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    action.sa_flags = flags; /* no SA_RESTART: reading ends too */
    (void)sigaction(signal_number, &action, NULL);
}

void spc_cli_catch_interrupt(void)
{
    catch_signal(SIGINT, (int)SA_RESETHAND); /* the second one kills */
}

void spc_cli_catch_interrupts(void)
{
    catch_signal(SIGINT, 0);
}

void spc_cli_catch_term(void)
{
    catch_signal(SIGTERM, (int)SA_RESETHAND);
}

void spc_cli_forget_interrupt(void)
{
    sigset_t term, before;

    (void)sigemptyset(&term);
    (void)sigaddset(&term, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &term, &before); /* it must not come between look and change */
    if (spc_cli_interrupted != SIGTERM) spc_cli_interrupted = 0;
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
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

spc_status spc_cli_check_output(const char *path, const char *instead, spc_error *err)
{
    if (!path || strcmp(path, "-") != 0) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "--output: expected a file, found '-': %s; a file of that name is ./-",
                         instead);
}

/* ---- inputs ---------------------------------------------------------------------------------- */

/* Of a line in canonical mode, its end not counted, as Linux has it. */
enum { TERMINAL_LINE = 4095 };

bool spc_cli_cut_line(FILE *in, const char *text, size_t bytes)
{
    struct termios mode;
    size_t line = 0;

    if (bytes < TERMINAL_LINE || tcgetattr(fileno(in), &mode) != 0) return false;
    if (!(mode.c_lflag & ICANON)) return false;
    for (size_t i = 0; i < bytes; i++) {
        line = text[i] == '\n' ? 0 : line + 1;
        if (line >= TERMINAL_LINE) return true;
    }
    return false;
}

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
    if (spc_cli_cut_line(in, buffer, used)) {
        free(buffer);
        return spc_error_set(err, SPC_EINPUT, "%s: " SPC_CLI_CUT_LINE, where);
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

json_t *spc_cli_json_text(const char *text)
{
    size_t bytes = text ? strlen(text) : 0;
    char *clean = text ? malloc(3 * bytes + 1) : NULL;
    json_t *value = NULL;

    if (clean) {
        (void)spc_utf8_sanitise(text, bytes, clean);
        value = json_string(clean);
    }
    free(clean);
    return value;
}
