/* SPDX-License-Identifier: Apache-2.0 */
/* cli_launch.c - spc launch: one command as several processes of this machine, which together are
 * the ranks of one engine.
 *
 * Rank 0 has the terminal: stdin, stdout and stderr are its own.  What the others say on stderr is
 * shown with their number.  Their errors are held back: a rank that fails ends all of them for one
 * reason, which rank 0 tells; only where it cannot, what launch saw, or another one's, is shown. */
#include "cli.h"

#include "host/ranks/awake.h"
#include "host/ranks/comm.h"
#include "host/ranks/link.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

/* How long the others may take to end by themselves after the first, and to heed SIGTERM; and how
 * long rank 0 may take to end its step and to write out what it has, when launch is to end. */
enum { GRACE_MS = 2000, TERM_MS = 1000, ORDER_MS = 5000, LINE = 1024, PLACE = 1024 };

typedef struct {
    int32_t ranks;
} launch_args;

static const spc_cli_option options[] = {
    {"n", "N", "how many processes", SPC_CLI_INT, offsetof(launch_args, ranks), 1, SPC_RANKS_MAX}};

static void init(void *args)
{
    ((launch_args *)args)->ranks = 1;
}

/* A process that was started. */
typedef struct {
    pid_t pid;       /* 0: none, or it has ended */
    int code;        /* exit code; -N: signal N killed it */
    int err;         /* its stderr; -1: rank 0, or at its end */
    char line[LINE]; /* [bytes] of it, not whole yet */
    size_t bytes;
    char held[LINE]; /* the last line that was an error */
} child;

typedef struct {
    int32_t ranks, running;
    child child[SPC_RANKS_MAX];
    char folder[PLACE], meet[PLACE + 8];
    int signals;
    sigset_t before;  /* what was blocked */
    int64_t deadline; /* of the present patience; 0: nobody has ended yet */
    int32_t pushes;   /* SIGTERM, then SIGKILL */
    int code;         /* of the first that failed by itself; 0: none */
    int32_t killed;   /* rank that died of a signal nobody here sent; -1: none */
    int stopped_by;   /* signal that launch was ended with; 0: none */
} launch;

/* ---- start ------------------------------------------------------------------------------------
 */

/* Only returns where the program cannot be started: errno says why. */
static void become(const launch *l, int32_t rank, int err, char **argv, pid_t parent)
{
    char number[16], world[16];
    int nothing;

    (void)snprintf(number, sizeof number, "%d", (int)rank);
    (void)snprintf(world, sizeof world, "%d", (int)l->ranks);
    if (setenv(SPC_CLI_ENV_RANK, number, 1) != 0 || setenv(SPC_CLI_ENV_WORLD, world, 1) != 0 ||
        setenv(SPC_CLI_ENV_MEET, l->meet, 1) != 0) {
        return;
    }
    if (rank > 0) { /* Ctrl-C reaches all of a terminal: rank 0 decides what it means */
        (void)signal(SIGINT, SIG_IGN);
        if (dup2(err, 2) < 0) return; /* first: what fails from here on is held back, too */
        nothing = open("/dev/null", O_RDWR);
        if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(nothing, 1) < 0) return;
        (void)close(nothing);
    }
    (void)sigprocmask(SIG_SETMASK, &l->before, NULL);
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM); /* nobody stays behind where launch is killed */
    if (getppid() != parent) _exit(spc_status_exit_code(SPC_EINTERNAL)); /* nobody to tell */
    (void)execv("/proc/self/exe", argv);
}

static spc_status start_rank(launch *l, int32_t rank, char **argv, spc_error *err)
{
    child *c = &l->child[rank];
    pid_t parent = getpid();
    int ends[2] = {-1, -1};

    c->err = -1;
    if (rank > 0 && pipe2(ends, O_CLOEXEC) != 0) goto fail;
    c->pid = fork();
    if (c->pid == 0) {
        become(l, rank, ends[1], argv, parent);
        _exit(spc_cli_fail_with(SPC_ENOMEM, "launch: rank %d cannot be started: %s", (int)rank,
                                strerror(errno)));
    }
    spc_link_close(ends[1]);
    c->err = ends[0];
    if (c->pid > 0) {
        if (c->err >= 0) (void)fcntl(c->err, F_SETFL, O_NONBLOCK);
        l->running++;
        return SPC_OK;
    }
    c->pid = 0;
fail:
    return spc_error_set(err, SPC_ENOMEM, "launch: rank %d cannot be started: %s", (int)rank,
                         strerror(errno));
}

/* Not what it was started to ignore, as under nohup: a signalfd would receive that, too. */
static bool heeds(int signal_number)
{
    struct sigaction now;

    return sigaction(signal_number, NULL, &now) == 0 && now.sa_handler != SIG_IGN;
}

static spc_status prepare(launch *l, spc_error *err)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
    const char *base = getenv("TMPDIR");
    sigset_t heeded;

    if (!base || !base[0]) base = "/tmp";
    if (snprintf(l->folder, sizeof l->folder, "%s/spc-launch-XXXXXX", base) >= PLACE) {
        errno = ENAMETOOLONG;
        l->folder[0] = '\0';
    }
    if (!l->folder[0] || !mkdtemp(l->folder)) {
        l->folder[0] = '\0';
        return spc_error_set(err, SPC_EINPUT, "launch: no folder to meet in under %.200s: %s", base,
                             strerror(errno));
    }
    (void)snprintf(l->meet, sizeof l->meet, "%s/meet", l->folder);
    (void)signal(SIGCHLD, SIG_DFL); /* where it was ignored nobody would hear of their ends */
    (void)sigemptyset(&heeded);
    (void)sigaddset(&heeded, SIGCHLD);
    for (int i = 0; i < 3; i++) {
        if (heeds(ends[i])) (void)sigaddset(&heeded, ends[i]);
    }
    (void)sigprocmask(SIG_BLOCK, &heeded, &l->before);
    l->signals = signalfd(-1, &heeded, SFD_CLOEXEC | SFD_NONBLOCK);
    if (l->signals >= 0) return SPC_OK;
    return spc_error_set(err, SPC_ENOMEM, "launch: no signalfd: %s", strerror(errno));
}

/* ---- what the others say ----------------------------------------------------------------------
 */

/* A whole line of a rank's stderr. */
static void say(child *c, int32_t rank)
{
    if (strncmp(c->line, "spc: ", 5) == 0) {
        memcpy(c->held, c->line, sizeof c->held);
    } else {
        (void)fprintf(stderr, "rank %d: %s\n", (int)rank, c->line);
    }
}

static void listen_to(child *c, int32_t rank)
{
    char text[LINE];
    ssize_t n = read(c->err, text, sizeof text);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    for (ssize_t i = 0; i < n; i++) {
        bool end = text[i] == '\n' || c->bytes == sizeof c->line - 1;

        if (text[i] != '\n' && c->bytes < sizeof c->line - 1) c->line[c->bytes++] = text[i];
        if (!end) continue;
        c->line[c->bytes] = '\0';
        say(c, rank);
        c->bytes = 0;
    }
    if (n > 0) return;
    c->line[c->bytes] = '\0';
    if (c->bytes > 0) say(c, rank);
    c->bytes = 0;
    spc_link_close(c->err);
    c->err = -1;
}

/* ---- their ends -------------------------------------------------------------------------------
 */

static void push(launch *l, int signal_number)
{
    for (int32_t r = 0; r < l->ranks; r++) {
        if (l->child[r].pid > 0) (void)kill(l->child[r].pid, signal_number);
    }
}

/* Patience with those that still run is over: ask them, then make them. */
static void lose_patience(launch *l)
{
    push(l, l->pushes == 0 ? SIGTERM : SIGKILL);
    push(l, SIGCONT); /* one that was stopped heeds nothing else */
    l->pushes++;
    l->deadline = spc_awake_ms() + TERM_MS;
}

/* A rank that hears of another's failure, or misses it, ends with the code of a device; any other
 * code says why a rank failed by itself, even where it comes later. */
static bool is_of_missing(int code)
{
    return code == 0 || code == spc_status_exit_code(SPC_EDEVICE);
}

static void note_code(launch *l, int code)
{
    if (is_of_missing(l->code)) l->code = code;
}

static void reap(launch *l)
{
    for (int32_t r = 0; r < l->ranks; r++) {
        child *c = &l->child[r];
        int status;

        if (c->pid <= 0 || waitpid(c->pid, &status, WNOHANG) != c->pid) continue;
        c->pid = 0;
        c->code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        l->running--;
        /* rank 0 writes out what it has when it is made to end; why it was, it does not know */
        if (c->code == SPC_CLI_SIGNALLED + SIGTERM && l->pushes > 0) c->code = -SIGTERM;
        if (c->code > 0) note_code(l, c->code);
        if (c->code < 0 && l->pushes == 0 && l->stopped_by == 0 && l->killed < 0) l->killed = r;
        /* the others end with rank 0, or with one that failed; at once where rank 0 did not heed
         * SIGTERM, for it has not even begun */
        if (l->stopped_by && r == 0 && c->code < 0) {
            l->deadline = spc_awake_ms();
        } else if (l->deadline == 0 && (r == 0 || c->code != 0)) {
            l->deadline = spc_awake_ms() + GRACE_MS;
        }
    }
}

/* SIGTERM is rank 0's at first: it has results that are complete and wait for their turn, and the
 * others end with it.  The second one, and a terminal that is gone, end all. */
static void end_by(launch *l, int signal_number)
{
    bool first = l->stopped_by == 0 && l->deadline == 0;

    l->stopped_by = signal_number;
    if (signal_number != SIGTERM || !first || l->child[0].pid <= 0) {
        lose_patience(l);
        return;
    }
    (void)kill(l->child[0].pid, SIGTERM);
    push(l, SIGCONT); /* one that was stopped heeds nothing else */
    l->deadline = spc_awake_ms() + ORDER_MS;
}

/* Ctrl-C in a terminal has reached rank 0 by itself; a signal from elsewhere is handed on. */
static void take_signals(launch *l)
{
    struct signalfd_siginfo info;

    while (read(l->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo == SIGINT && info.ssi_code <= 0 && l->child[0].pid > 0) {
            (void)kill(l->child[0].pid, SIGINT);
        } else if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGHUP) {
            end_by(l, (int)info.ssi_signo);
        }
    }
    reap(l);
}

static bool listening(const launch *l)
{
    for (int32_t r = 0; r < l->ranks; r++) {
        if (l->child[r].err >= 0) return true;
    }
    return false;
}

static void watch(launch *l)
{
    while (l->running > 0 || listening(l)) {
        struct pollfd wanted[SPC_RANKS_MAX + 1];
        int nap = l->deadline > 0 ? spc_awake_nap_ms(l->deadline) : -1;

        if (l->running == 0) nap = TERM_MS; /* a child of theirs may hold stderr open: let go */
        for (int32_t r = 0; r < l->ranks; r++) {
            wanted[r] = (struct pollfd){l->child[r].err, POLLIN, 0};
        }
        wanted[l->ranks] = (struct pollfd){l->signals, POLLIN, 0};

        int moved = poll(wanted, (nfds_t)l->ranks + 1, nap);

        if (moved == 0 && l->running == 0) return;
        for (int32_t r = 0; r < l->ranks && moved > 0; r++) {
            if (wanted[r].revents) listen_to(&l->child[r], r);
        }
        take_signals(l);
        if (l->deadline > 0 && spc_awake_left_ms(l->deadline) == 0) lose_patience(l);
    }
}

/* ---- the command ------------------------------------------------------------------------------
 */

static int say_killed(const launch *l)
{
    int number = -l->child[l->killed].code;

    return spc_cli_fail_with(SPC_EDEVICE, "rank %d was killed by signal %d (%s)", (int)l->killed,
                             number, strsignal(number));
}

/* Say why, where rank 0 could not, and give the exit code. */
static int conclude(const launch *l)
{
    bool told = l->child[0].code > 0;

    if (l->stopped_by) return 128 + l->stopped_by;
    /* Ctrl-C before rank 0 could catch it, while it was loading, or the second one */
    if (l->child[0].code == -SIGINT) return SPC_CLI_SIGNALLED + SIGINT;
    if (l->code == 0 && l->killed < 0) return 0;
    /* those that only miss the one that was killed know less of it, or blame what it left */
    if (!told && l->killed >= 0 && is_of_missing(l->code)) return say_killed(l);
    for (int32_t r = 1; r < l->ranks && !told; r++) {
        if (l->child[r].code <= 0 || !l->child[r].held[0]) continue;
        (void)fprintf(stderr, "%s\n", l->child[r].held);
        told = true;
    }
    if (!told && l->killed >= 0) return say_killed(l);
    return l->code ? l->code : spc_status_exit_code(SPC_EDEVICE);
}

/* A rank that was killed while it wrote what the others meet by has left a part of it beside it. */
static void remove_folder(const launch *l)
{
    DIR *folder = opendir(l->folder);
    const struct dirent *file;

    while (folder && (file = readdir(folder))) (void)unlinkat(dirfd(folder), file->d_name, 0);
    if (folder) (void)closedir(folder);
    (void)rmdir(l->folder);
}

static int run(const void *args, const spc_cli_line *line)
{
    launch l = {.ranks = ((const launch_args *)args)->ranks, .signals = -1, .killed = -1};
    const char *command = line->words.item[0];
    char **argv = NULL;
    spc_error error;
    spc_status status = SPC_OK;
    int code;

    if (strcmp(command, "run") != 0 && strcmp(command, "chat") != 0 &&
        strcmp(command, "logits") != 0) {
        return spc_cli_fail_with(SPC_EUSAGE, "launch: expected run, chat or logits, found '%.40s'",
                                 command);
    }
    if (getenv(SPC_CLI_ENV_RANK)) {
        return spc_cli_fail_with(SPC_EUSAGE,
                                 "launch: %s is set: a launched process cannot launch others",
                                 SPC_CLI_ENV_RANK);
    }
    argv = calloc((size_t)line->words.count + 2, sizeof *argv);
    if (!argv) return spc_cli_fail_with(SPC_ENOMEM, "no memory for the arguments");
    argv[0] = (char *)(uintptr_t) "spc";
    for (int32_t i = 0; i < line->words.count; i++) {
        argv[i + 1] = (char *)(uintptr_t)line->words.item[i];
    }
    for (int32_t r = 0; r < l.ranks; r++) l.child[r].err = -1;
    status = prepare(&l, &error);
    for (int32_t r = 0; r < l.ranks && status == SPC_OK; r++) {
        status = start_rank(&l, r, argv, &error);
    }
    if (status != SPC_OK) push(&l, SIGKILL);
    watch(&l);
    code = status == SPC_OK ? conclude(&l) : spc_cli_fail(&error);
    spc_link_close(l.signals);
    if (l.folder[0]) remove_folder(&l);
    free(argv);
    return code;
}

const spc_cli_command spc_cli_launch = {
    "launch",
    "-- run|chat|logits [options] [PROMPT ...]",
    "run a command as several processes on this machine, the ranks of one engine",
    "The verifier is sharded over all of them; rank 0 has stdin and stdout.  What follows the\n"
    "command's name is the command's own, with or without --.  They share the cores, unless\n"
    "--threads (per process) is given.  With --device cuda each takes one GPU, in order\n"
    "(CUDA_VISIBLE_DEVICES chooses them), and they communicate through NCCL.  When one fails\n"
    "all end, with its exit code.  For several machines: spc run --rank, --world, --meet, or\n"
    "--ranks-from env under mpirun or srun.",
    1,
    INT32_MAX,
    options,
    sizeof options / sizeof *options,
    sizeof(launch_args),
    init,
    run,
    NULL,
};
