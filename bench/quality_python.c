/* SPDX-License-Identifier: Apache-2.0 */
/* quality_python.c - cutting code out of texts, running it with its tests, cleaning up behind it.
 */
#include "bench/quality_python.h"

#include "bench/measure.h"
#include "bench/quality_text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- code of a text ---------------------------------------------------------------------------*/

static bool begins_with(const char *s, const char *const *words)
{
    for (; *words; words++) {
        if (strncmp(s, *words, strlen(*words)) == 0) return true;
    }
    return false;
}

/* The first line of [s, end) that begins with one of the words; NULL: none does. */
static const char *line_with(const char *s, const char *end, const char *const *words)
{
    while (s && s < end) {
        if (begins_with(s, words)) return s;
        s = strchr(s, '\n');
        if (s) s++;
    }
    return NULL;
}

char *quality_python_cut(const char *text, bool completes)
{
    static const char *const fence[] = {"```", NULL};
    static const char *const code[] = {" ", "\t", "def ", "import ", "from ", "class ", "@", NULL};
    static const char *const behind_function[] = {"class", "def", "#",   "@",
                                                  "print", "if",  "```", NULL};
    static const char *const behind_program[] = {"assert", "\"\"\"", "print", "if",
                                                 "<|",     "```",    NULL};
    const char *end = text + strlen(text), *block = line_with(text, end, fence), *stop;

    if (block && !line_with(text, block, code)) {
        text = strchr(block, '\n'); /* behind ```python */
        text = text ? text + 1 : end;
        stop = line_with(text, end, fence);
    } else {
        const char *second = strchr(text, '\n'); /* the first line goes on from the prompt */

        stop = second ? line_with(second + 1, end, completes ? behind_function : behind_program)
                      : NULL;
    }
    return strndup(text, (size_t)((stop ? stop : end) - text));
}

/* ---- processes --------------------------------------------------------------------------------*/

/* Parent and session of a process; false: it is gone. */
static bool kin_of(const char *pid, pid_t *parent, pid_t *session)
{
    char path[64], text[512], state;
    const char *end;
    size_t bytes;
    FILE *file;
    int group;

    (void)snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    file = fopen(path, "re");
    if (!file) return false;
    bytes = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file);
    text[bytes] = '\0';
    end = strrchr(text, ')'); /* the name in front may hold anything */
    return end && sscanf(end + 1, " %c %d %d %d", &state, parent, &group, session) == 4;
}

/* Count the processes of a session and, with kill_children, kill the children of this process. */
static int32_t look_around(pid_t session, bool kill_children)
{
    DIR *dir = opendir("/proc");
    int32_t count = 0;

    if (!dir) return 0;
    for (struct dirent *e; (e = readdir(dir));) {
        pid_t parent, its_session;

        if (e->d_name[0] < '1' || e->d_name[0] > '9') continue;
        if (!kin_of(e->d_name, &parent, &its_session)) continue;
        count += its_session == session;
        if (kill_children && parent == getpid()) (void)kill((pid_t)atoi(e->d_name), SIGKILL);
    }
    (void)closedir(dir);
    return count;
}

static void wait_ms(long ms)
{
    (void)nanosleep(&(struct timespec){0, ms * 1000000}, NULL);
}

/* Everything that descends from a program whose first process has been waited for: its session at
 * once; what left the session has become a child of this process (a subreaper) and is looked up. */
static void kill_descendants(pid_t session)
{
    (void)kill(-session, SIGKILL);
    for (int32_t round = 0; round < 1000; round++) {
        pid_t ended = waitpid(-1, NULL, WNOHANG);

        if (ended < 0 && errno == ECHILD) return;
        if (ended > 0) continue;
        if (round % 2) (void)look_around(session, true);
        wait_ms(1);
    }
}

/* A warning at the limit, the end behind it: a process that has used up its time gets SIGXCPU. */
static void limit(int what, rlim_t most)
{
    (void)setrlimit(what, &(struct rlimit){most, most + 1});
}

/* In the child, between fork and exec: nothing but calls that are safe there. */
static void become(const quality_python *python, const char *folder, int null, int result,
                   char *const *argv, char *const *environment)
{
    static const int defaults[] = {SIGINT, SIGTERM, SIGPIPE, SIGXFSZ};

    (void)setsid();
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++) {
        (void)signal(defaults[i], SIG_DFL);
    }
    if (chdir(folder) != 0 || dup2(result, 3) != 3) _exit(126);
    for (int fd = 0; fd < 3; fd++) {
        if (dup2(null, fd) != fd) _exit(126);
    }
    for (int fd = 4; fd < 1024; fd++) (void)close(fd);
    limit(RLIMIT_CPU, (rlim_t)python->seconds);
    limit(RLIMIT_AS, (rlim_t)python->memory_mib << 20);
    limit(RLIMIT_FSIZE, 16 << 20);
    limit(RLIMIT_NOFILE, 64);
    (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    (void)execve(python->program, argv, environment);
    _exit(126);
}

/* Wait for the first process; its status of waitpid().  false: it was killed, for the time or (not
 * *late) for the number of processes that its session took. */
static bool await(const quality_python *python, pid_t pid, int *status, bool *late)
{
    uint64_t begin = measure_now_ns(), looked = begin;

    *late = false;
    while (waitpid(pid, status, WNOHANG) == 0) {
        uint64_t now = measure_now_ns();
        bool crowded = false;

        *late = now - begin > (uint64_t)python->seconds * 1000000000u;
        if (now - looked > 50000000u) {
            looked = now;
            crowded = look_around(pid, false) > QUALITY_PROCESSES;
        }
        if (*late || crowded) {
            (void)kill(-pid, SIGKILL);
            (void)waitpid(pid, status, 0);
            return false;
        }
        wait_ms(now - begin < 100000000u ? 1 : 10);
    }
    return true;
}

/* ---- a run ------------------------------------------------------------------------------------*/

static int remove_entry(const char *path, const struct stat *facts, int kind, struct FTW *place)
{
    (void)facts, (void)kind, (void)place;
    (void)remove(path);
    return 0;
}

static bool write_program(const char *folder, const char *program)
{
    /* The last line tells the pipe on descriptor 3 that it was reached. */
    static const char last[] = "\n__import__('os').write(3, b'passed')\n";
    char path[QUALITY_PATH_BYTES + 16];
    FILE *file;
    bool good;

    (void)snprintf(path, sizeof path, "%s/main.py", folder);
    file = fopen(path, "we");
    if (!file) return false;
    good = fputs(program, file) >= 0 && fputs(last, file) >= 0;
    return fclose(file) == 0 && good;
}

/* Run main.py of a folder. */
static bool run_in(const quality_python *python, const char *folder, quality_verdict *verdict)
{
    char home[QUALITY_PATH_BYTES + 16], temporary[QUALITY_PATH_BYTES + 16], said[8] = "";
    char *const argv[] = {"python", "-s", "-B", "main.py", NULL};
    char *const environment[] = {home,
                                 temporary,
                                 "PATH=/usr/local/bin:/usr/bin:/bin",
                                 "LANG=C.UTF-8",
                                 "PYTHONHASHSEED=0",
                                 "OMP_NUM_THREADS=1",
                                 "OPENBLAS_NUM_THREADS=1",
                                 NULL};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC), result[2] = {-1, -1}, status, problem = 0;
    bool late, ended;
    pid_t pid = -1;

    (void)snprintf(home, sizeof home, "HOME=%s", folder);
    (void)snprintf(temporary, sizeof temporary, "TMPDIR=%s", folder);
    if (null >= 0 && pipe2(result, O_CLOEXEC | O_NONBLOCK) == 0) pid = fork();
    if (pid == 0) become(python, folder, null, result[1], argv, environment);
    problem = errno;
    if (pid > 0) {
        ended = await(python, pid, &status, &late);
        kill_descendants(pid);
        late = late || (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU);
        *verdict = late ? QUALITY_TIMED_OUT : QUALITY_FAILED;
        if (ended && WIFEXITED(status) && WEXITSTATUS(status) == 0 &&
            read(result[0], said, sizeof said) == 6 && memcmp(said, "passed", 6) == 0) {
            *verdict = QUALITY_PASSED;
        }
    }
    if (null >= 0) (void)close(null);
    if (result[0] >= 0) (void)close(result[0]);
    if (result[1] >= 0) (void)close(result[1]);
    errno = problem;
    return pid > 0;
}

bool quality_python_run(const quality_python *python, const char *program, quality_verdict *verdict)
{
    const char *parent = getenv("TMPDIR");
    char folder[QUALITY_PATH_BYTES];
    bool good;
    int problem;

    if (snprintf(folder, sizeof folder, "%s/spc-python-XXXXXX", parent ? parent : "/tmp") >=
        (int)sizeof folder) {
        errno = ENAMETOOLONG;
        return false;
    }
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0 || !mkdtemp(folder)) return false;
    good = write_program(folder, program) && run_in(python, folder, verdict);
    problem = errno;
    (void)nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    errno = problem;
    return good;
}

/* The path of a program: the name itself when it has a slash, else the first on PATH. */
static bool find_program(const char *name, char path[QUALITY_PATH_BYTES])
{
    const char *at = strchr(name, '/') ? NULL : getenv("PATH");

    if (strchr(name, '/')) {
        return snprintf(path, QUALITY_PATH_BYTES, "%s", name) < QUALITY_PATH_BYTES &&
               access(path, X_OK) == 0;
    }
    while (at && *at) {
        int bytes = (int)strcspn(at, ":");
        int used = snprintf(path, QUALITY_PATH_BYTES, "%.*s/%s", bytes, at, name);

        if (used < QUALITY_PATH_BYTES && access(path, X_OK) == 0) return true;
        at += bytes + (at[bytes] == ':');
    }
    return false;
}

spc_status quality_python_open(const char *name, int32_t seconds, int32_t memory_mib,
                               quality_python *out, spc_error *err)
{
    quality_verdict verdict = QUALITY_FAILED;

    *out = (quality_python){"", seconds, memory_mib};
    if (!find_program(name, out->program)) {
        return spc_error_set(err, SPC_EUSAGE,
                             "pass@1 needs Python: found no '%s'; install it or name it with "
                             "--python",
                             name);
    }
    if (!quality_python_run(out, "import sys\nassert sys.version_info[0] == 3\n", &verdict)) {
        return spc_error_set(err, SPC_EUSAGE, "%s cannot be run: %s", out->program,
                             strerror(errno));
    }
    if (verdict == QUALITY_PASSED) return SPC_OK;
    return spc_error_set(err, SPC_EUSAGE,
                         "%s does not run an empty program within %d s and %d MiB, or is no "
                         "Python 3",
                         out->program, (int)seconds, (int)memory_mib);
}

/* ---- the metric -------------------------------------------------------------------------------*/

static bool pass1_count(const char *text, const quality_expected *expected, double *out)
{
    char *code = quality_python_cut(text, expected->before != NULL), *program = NULL;
    quality_verdict verdict;
    bool good = code && asprintf(&program, "%s%s\n%s", expected->before ? expected->before : "",
                                 code, expected->tests) >= 0;

    good = good && quality_python_run(expected->python, program, &verdict);
    if (good) {
        out[0] = verdict == QUALITY_PASSED;
        out[1] = verdict == QUALITY_TIMED_OUT;
    }
    free(code);
    free(program);
    return good;
}

const quality_metric quality_pass1 = {"pass@1", 2, true, pass1_count, quality_mean};
