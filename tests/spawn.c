/* SPDX-License-Identifier: Apache-2.0 */
/* spawn.c - a child with its three streams on pipes, all served by one poll so that none of them
 * can block the others. */
#include "spawn.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { LIMIT_MS = 60000, MOST_ARGS = 64, CANNOT_START = 127 };

/* What the child wrote to one pipe so far. */
typedef struct {
    int fd; /* -1: at its end */
    char *text;
    size_t bytes, capacity;
} stream;

typedef struct {
    pid_t pid;
    int in; /* -1: closed */
    size_t written;
    stream out, err;
    int64_t deadline_ms;
} child;

static int64_t now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void wait_ms(long ms)
{
    (void)nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void end_child(child *c, const char *why)
{
    (void)kill(c->pid, SIGKILL);
    (void)waitpid(c->pid, NULL, 0);
    cr_assert_fail("%s; stdout: %s stderr: %s", why, c->out.text, c->err.text);
}

/* ---- start ------------------------------------------------------------------------------------
 */

/* Put a descriptor in the place of a standard one; -1: leave that closed. */
static bool put(int fd, int place)
{
    if (fd < 0) return close(place) == 0;
    return dup2(fd, place) == place;
}

/* In the child, between fork and exec: nothing but calls that are safe there. */
static void become(char *const *argv, const spawn_options *o, int in, int out, int err)
{
    struct rlimit space = {o->address_space, o->address_space};
    struct rlimit file = {o->file_bytes, o->file_bytes};

    (void)signal(SIGXFSZ, SIG_IGN); /* a file too large is a failed write */
    (void)signal(SIGPIPE, SIG_DFL);
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGTERM, SIG_DFL);
    if (o->ignored) (void)signal(o->ignored, SIG_IGN);
    if (!put(in, 0) || !put(out, 1) || !put(err, 2)) _exit(CANNOT_START);
    if (o->address_space > 0 && setrlimit(RLIMIT_AS, &space) != 0) _exit(CANNOT_START);
    if (o->file_bytes > 0 && setrlimit(RLIMIT_FSIZE, &file) != 0) _exit(CANNOT_START);
    (void)execv(argv[0], argv);
    _exit(CANNOT_START);
}

/* All ends close on exec; what the child keeps are copies. */
static void open_pipe(int end[2])
{
    cr_assert_eq(pipe2(end, O_CLOEXEC), 0, "%s", strerror(errno));
    cr_assert_gt(end[0], 2, "the test itself has its standard streams");
}

/* The two sides of a terminal that shows what is written to it, and nothing else. */
static void open_terminal(int end[2])
{
    struct termios mode;

    end[0] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    cr_assert_gt(end[0], 2, "%s", strerror(errno));
    cr_assert_eq(grantpt(end[0]), 0);
    cr_assert_eq(unlockpt(end[0]), 0);
    end[1] = open(ptsname(end[0]), O_RDWR | O_NOCTTY | O_CLOEXEC);
    cr_assert_gt(end[1], 2, "%s", strerror(errno));
    cr_assert_eq(tcgetattr(end[1], &mode), 0);
    mode.c_lflag &= (tcflag_t)~ECHO;
    mode.c_oflag &= (tcflag_t)~OPOST;
    cr_assert_eq(tcsetattr(end[1], TCSANOW, &mode), 0);
}

/* Both ends of the three streams; the child's side of stderr is that of a terminal where there is
 * one, and its pipe stays empty. */
static void open_streams(const spawn_options *o, int in[2], int out[2], int err[2])
{
    int typed[2];

    open_pipe(err);
    if (!o->terminal) {
        if (o->in_terminal) {
            open_terminal(typed);
            in[0] = typed[1];
            in[1] = typed[0];
        } else {
            open_pipe(in);
        }
        open_pipe(out);
        if (o->clogged) cr_assert_gt(fcntl(out[1], F_SETPIPE_SZ, 4096), 0, "%s", strerror(errno));
        return;
    }
    open_terminal(out);
    in[0] = fcntl(out[1], F_DUPFD_CLOEXEC, 3);
    in[1] = fcntl(out[0], F_DUPFD_CLOEXEC, 3);
    cr_assert(in[0] > 2 && in[1] > 2, "%s", strerror(errno));
}

static const char *program_of(const spawn_options *o)
{
    return o->program ? o->program : SPC_BINARY;
}

static void open_stream(stream *s, int fd)
{
    s->fd = fd;
    s->capacity = 4096;
    s->bytes = 0;
    s->text = calloc(1, s->capacity);
    cr_assert_not_null(s->text);
}

/* Tests of the program are on the CPU unless they say otherwise: which results a GPU must share
 * with it is test_cuda_backend.c's business. */
static bool chooses_device(const char *const *args)
{
    static const char *const commands[] = {"run", "chat", "demo", "info", "logits"};
    bool chooses = false;

    for (size_t i = 0; args[0] && i < sizeof commands / sizeof *commands; i++) {
        chooses |= strcmp(args[0], commands[i]) == 0;
    }
    for (int32_t i = 0; chooses && args[i]; i++) {
        if (strncmp(args[i], "--device", 8) == 0) return false;
    }
    return chooses;
}

static void start(child *c, const char *const *args, const spawn_options *o)
{
    char *argv[MOST_ARGS + 4] = {(char *)(uintptr_t)program_of(o)};
    int in[2], out[2], err[2], file = -1;
    int32_t count = 1;

    for (int32_t i = 0; args[i]; i++) {
        cr_assert_lt(i, MOST_ARGS);
        argv[count++] = (char *)(uintptr_t)args[i];
        if (i > 0 || o->program || !chooses_device(args)) continue;
        argv[count++] = (char *)(uintptr_t) "--device";
        argv[count++] = (char *)(uintptr_t) "cpu";
    }
    open_streams(o, in, out, err);
    if (o->out_path) {
        file = open(o->out_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        cr_assert_geq(file, 0, "%s: %s", o->out_path, strerror(errno));
    }
    c->pid = fork();
    cr_assert_geq(c->pid, 0, "%s", strerror(errno));
    if (c->pid == 0) {
        become(argv, o, o->in_closed ? -1 : in[0],
               o->out_closed ? -1
               : o->out_path ? file
                             : out[1],
               o->terminal ? out[1] : err[1]);
    }
    (void)close(in[0]);
    (void)close(out[1]);
    (void)close(err[1]);
    if (file >= 0) (void)close(file);
    cr_assert_eq(fcntl(in[1], F_SETFL, O_NONBLOCK), 0);
    c->in = in[1];
    c->written = 0;
    c->deadline_ms = now_ms() + LIMIT_MS;
    open_stream(&c->out, out[0]);
    open_stream(&c->err, err[0]);
}

/* ---- serve ------------------------------------------------------------------------------------
 */

static void close_input(child *c)
{
    if (c->in >= 0) (void)close(c->in);
    c->in = -1;
}

static void feed(child *c, const char *text, size_t bytes)
{
    ssize_t n = write(c->in, text + c->written, bytes - c->written);

    if (n >= 0) {
        c->written += (size_t)n;
    } else if (errno != EAGAIN && errno != EINTR) {
        close_input(c); /* the child stopped reading */
    }
}

/* Wait until the child has no more room to write. */
static void wait_full(int fd)
{
    int before = -1, bytes = 0;

    for (int32_t i = 0; i < 100 && !(bytes > 2048 && bytes == before); i++) {
        before = bytes;
        wait_ms(200);
        cr_assert_eq(ioctl(fd, FIONREAD, &bytes), 0);
    }
}

static void drain(stream *s)
{
    if (s->capacity - s->bytes < 2048) {
        s->capacity *= 2;
        s->text = realloc(s->text, s->capacity);
        cr_assert_not_null(s->text);
    }

    ssize_t n = read(s->fd, s->text + s->bytes, s->capacity - s->bytes - 1);

    if (n < 0 && errno == EINTR) return;
    if (n <= 0) {
        (void)close(s->fd);
        s->fd = -1;
        n = 0;
    }
    s->bytes += (size_t)n;
    s->text[s->bytes] = '\0';
}

/* Serve the pipes until the child has closed both of its own. */
static void serve(child *c, const spawn_options *o)
{
    const char *text = o->in ? o->in : "";
    size_t bytes = o->in_bytes > 0 ? o->in_bytes : strlen(text);
    bool interrupted = o->interrupt_after == 0, begun = o->interrupt_bytes == 0;
    int signal_number = o->signal ? o->signal : SIGINT;

    while (c->out.fd >= 0 || c->err.fd >= 0) {
        bool fed = c->written == bytes;
        struct pollfd wanted[] = {
            {fed ? -1 : c->in, POLLOUT, 0}, {c->out.fd, POLLIN, 0}, {c->err.fd, POLLIN, 0}};
        int64_t left = c->deadline_ms - now_ms();

        if (fed && !o->in_held && !o->in_terminal) close_input(c);
        if (left <= 0) end_child(c, "the program did not end");
        if (poll(wanted, 3, (int)left) <= 0) continue;
        if (wanted[0].revents) feed(c, text, bytes);
        if (wanted[1].revents) drain(&c->out);
        if (wanted[2].revents) drain(&c->err);
        if (!interrupted && count_lines(c->out.text) >= o->interrupt_after) {
            wait_ms(200); /* let it get on with, or wait for, the next prompt */
            if (o->clogged) wait_full(c->out.fd);
            (void)kill(c->pid, signal_number);
            interrupted = true;
        }
        if (!begun && c->out.bytes >= o->interrupt_bytes) {
            (void)kill(c->pid, signal_number);
            begun = true;
        }
    }
    close_input(c);
}

static int reap(child *c)
{
    int status;
    pid_t ended;

    while ((ended = waitpid(c->pid, &status, WNOHANG)) == 0) {
        if (now_ms() > c->deadline_ms) end_child(c, "the program closed its streams and hangs");
        wait_ms(1);
    }
    cr_assert_eq(ended, c->pid, "%s", strerror(errno));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* ---- run --------------------------------------------------------------------------------------
 */

spawn_result spawn(const char *const *args, const spawn_options *options)
{
    child c;

    (void)signal(SIGPIPE, SIG_IGN); /* a child that stops reading is no reason to die */
    start(&c, args, options);
    serve(&c, options);

    int code = reap(&c);

    cr_assert_neq(code, CANNOT_START, "%s cannot be started", program_of(options));
    return (spawn_result){code, c.out.text, c.err.text, c.out.bytes, c.err.bytes};
}

void spawn_free(spawn_result *result)
{
    free(result->out);
    free(result->err);
    memset(result, 0, sizeof *result);
}

char *spawn_output(const char *const *args, const char *input)
{
    spawn_result r = spawn(args, &(const spawn_options){.in = input});

    cr_assert_eq(r.code, 0, "exit code %d: %s", r.code, r.err);
    cr_assert(r.err_bytes == 0 || strstr(r.err, " tokens per verifier call"), "%s", r.err);
    free(r.err);
    return r.out;
}

json_t *parse_lines(const char *text)
{
    json_t *values = json_array();

    while (*text) {
        size_t bytes = strcspn(text, "\n");
        json_error_t why;
        json_t *value = json_loadb(text, bytes, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &why);

        cr_assert_not_null(value, "%s in %.*s", why.text, (int)bytes, text);
        cr_assert_eq(text[bytes], '\n', "a line without its end");
        cr_assert_eq(json_array_append_new(values, value), 0);
        text += bytes + 1;
    }
    return values;
}

json_t *spawn_json(const char *const *args, const char *input)
{
    char *text = spawn_output(args, input);
    json_t *values = parse_lines(text);

    free(text);
    return values;
}

int32_t count_lines(const char *text)
{
    int32_t lines = 0;

    while ((text = strchr(text, '\n'))) {
        lines++;
        text++;
    }
    return lines;
}

void spawn_one_line(const char *err, const char *what)
{
    cr_expect(strncmp(err, "spc: ", 5) == 0 && count_lines(err) == 1 &&
                  err[strlen(err) - 1] == '\n',
              "%s: %s", what, err);
}

void spawn_failure(const char *const *args, const spawn_options *options, int code,
                   const char *word)
{
    static const spawn_options plain;
    spawn_result r = spawn(args, options ? options : &plain);
    char what[512] = "";
    size_t used = 0;

    for (int32_t i = 0; args[i] && used < sizeof what; i++) {
        used += (size_t)snprintf(what + used, sizeof what - used, "%s ", args[i]);
    }
    cr_expect_eq(r.code, code, "%s: exit code %d: %s", what, r.code, r.err);
    spawn_one_line(r.err, what);
    cr_expect(strncmp(r.err, "spc: spc", 8) != 0, "the program is named once: %s", r.err);
    cr_expect(strstr(r.err, word), "%s: no '%s' in %s", what, word, r.err);
    cr_expect_eq(r.out_bytes, 0, "%s: %s", what, r.out);
    spawn_free(&r);
}

void spawn_failures(const spawn_refusal *table, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        const spawn_options in = {.in = table[i].in};

        spawn_failure(table[i].args, &in, table[i].code, table[i].word);
    }
}
