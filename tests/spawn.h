/* SPDX-License-Identifier: Apache-2.0 */
/* spawn.h - run the program spc as its users do: arguments and stdin in, stdout, stderr and the
 * exit code out. */
#ifndef SPC_TESTS_SPAWN_H
#define SPC_TESTS_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

/* Is the program under AddressSanitizer?  (Program and tests are built alike.) */
#if defined(__SANITIZE_ADDRESS__)
#define SPAWN_SANITISED true
#elif defined(__has_feature)
#define SPAWN_SANITISED (__has_feature(address_sanitizer))
#else
#define SPAWN_SANITISED false
#endif

/* How a run differs from a plain one; all zero: nothing on stdin, stdout captured. */
typedef struct {
    const char *program;     /* NULL: SPC_BINARY */
    const char *in;          /* stdin; NULL: nothing */
    size_t in_bytes;         /* of it; 0: up to its terminator */
    const char *out_path;    /* a file that stdout goes to instead of the result */
    bool in_closed;          /* there is no stdin */
    bool out_closed;         /* there is no stdout */
    bool in_held;            /* stdin has no end as long as the program runs */
    bool terminal;           /* all three streams are a terminal, without echo; what comes out of it
                                is the result's `out`, and \004 in `in` ends stdin */
    bool clogged;            /* stdout is a pipe of 4 KiB: full when Ctrl-C comes */
    int signal;              /* in place of Ctrl-C, SIGINT; 0: that */
    bool in_terminal;        /* stdin is a terminal; \4 on a line of its own is its end */
    int ignored;             /* a signal that it is started to ignore; 0: none */
    int32_t interrupt_after; /* lines of stdout before Ctrl-C; 0: never */
    size_t interrupt_bytes;  /* bytes of stdout before Ctrl-C, which comes at once; 0: never */
    uint64_t address_space;  /* bytes the program may map; 0: as it likes */
    uint64_t file_bytes;     /* largest file it may write; 0: as it likes */
} spawn_options;

typedef struct {
    int code;  /* exit code; -N: signal N killed it */
    char *out; /* [out_bytes], terminated */
    char *err; /* [err_bytes], terminated */
    size_t out_bytes, err_bytes;
} spawn_result;

/* Run SPC_BINARY.  The test fails when it cannot be started or has not ended after a minute; then
 * it is killed.
 *
 * args   what follows the program's name; ends with NULL */
spawn_result spawn(const char *const *args, const spawn_options *options);
void spawn_free(spawn_result *result);

/* The same for arguments written down: SPAWN("stdin", "run", "--json"). */
#define SPAWN(input, ...) \
    spawn((const char *const[]){__VA_ARGS__, NULL}, &(const spawn_options){.in = (input)})

/* One that must succeed: its stdout, malloc'd.  Anything on stderr but the statistics of a run
 * fails the test. */
char *spawn_output(const char *const *args, const char *input);
#define OUTPUT(input, ...) spawn_output((const char *const[]){__VA_ARGS__, NULL}, (input))

/* The same where every line of stdout is JSON: an array of the lines' values. */
json_t *spawn_json(const char *const *args, const char *input);
#define JSON(input, ...) spawn_json((const char *const[]){__VA_ARGS__, NULL}, (input))

/* The values of lines of JSON; the test fails at one that is none. */
json_t *parse_lines(const char *text);

/* Ends of line in a text. */
int32_t count_lines(const char *text);

/* A run that must fail: with this exit code, one line on stderr that holds a word, and nothing on
 * stdout.  options: NULL for a plain one */
void spawn_failure(const char *const *args, const spawn_options *options, int code,
                   const char *word);

#define FAILURE(code, word, ...) \
    spawn_failure((const char *const[]){__VA_ARGS__, NULL}, NULL, (code), (word))

/* What an error leaves on stderr: one line that names the program. */
void spawn_one_line(const char *err, const char *what);

/* spawn_failure for many. */
typedef struct {
    int code;
    const char *word; /* in the message */
    const char *in;
    const char *args[12];
} spawn_refusal;

void spawn_failures(const spawn_refusal *table, int32_t count);

#endif
