/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_launch.c - spc launch and the places of ranks, as their users see them: the output
 * of one process, and one message and one exit code when a rank dies, hangs, fails, or is started
 * wrongly. */
#include "launched.h"
#include "spawn.h"

#include <criterion/criterion.h>

#include <fcntl.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PROMPTS = 200, ENOUGH = 60 };

/* ---- all is well ------------------------------------------------------------------------------
 */

Test(host_cli_launch, processes_print_what_one_prints)
{
    static const char in[] = "The house is small.\nWhere is the station?\nI do not know.\n";
    char *one = OUTPUT(in, "run", "--to", "de", "--batch", "2", "--rule", "token-v3:alpha=0.5");
    static const char *const drafter_tp[] = {"1", "2"};

    for (int i = 0; i < 2; i++) {
        char *two = OUTPUT(in, "launch", "-n", "2", "--", "run", "--to", "de", "--batch", "2",
                           "--rule", "token-v3:alpha=0.5", "--drafter-tp", drafter_tp[i]);

        cr_expect_str_eq(two, one);
        free(two);
    }
    for (int i = 0; i < 2; i++) { /* by itself, and ahead; in batches */
        char *two = OUTPUT(in, "launch", "-n2", "--", "run", "--to", "de", "--batch",
                           i == 0 ? "1" : "2", "--rule", "token-v3:alpha=0.5", "--drafter-device",
                           "cpu", "--bonus", "step", "--overlap", "on");

        cr_expect_str_eq(two, one);
        free(two);
    }
    free(one);
    one = OUTPUT("Hello.\n", "chat", "--verifier", "embedded:verifier", "--drafter",
                 "embedded:drafter", "--help");
    free(one);
}

/* A drafter that drafts some tokens, on every rank, sharded and beside the first. */
#define CUT "run", "--to", "de", "--rule", "token-v3:alpha=0.5", "--drafter-vocab", "3000"

Test(host_cli_launch, processes_cut_the_drafter_as_one_does)
{
    static const char in[] = "The house is small.\nWhere is the station?\n";
    char *one = OUTPUT(in, CUT), *two = OUTPUT(in, "launch", "-n", "2", "--", CUT);
    char *sharded = OUTPUT(in, "launch", "-n", "2", "--", CUT, "--drafter-tp", "2");
    char *beside = OUTPUT(in, "launch", "-n", "2", "--", CUT, "--drafter-device", "cpu");

    cr_expect_str_eq(two, one);
    cr_expect_str_eq(sharded, one);
    cr_expect_str_eq(beside, one);
    free(one);
    free(two);
    free(sharded);
    free(beside);
}

/* The edits of rank 0's sessions go to all, and to the drafter's device. */
#define EDITED                                                                                  \
    "run", "--to", "de", "--temperature", "0", "--batch", "2", "--logit-bias", "17:4",          \
        "--logit-bias", "20:-inf", "--repetition-penalty", "1.4", "--frequency-penalty", "0.7", \
        "--min-tokens", "9"

Test(host_cli_launch, processes_edit_logits_as_one_does)
{
    static const char in[] = "The house is small.\nWhere is the station?\nI do not know.\n";
    char *plain = OUTPUT(in, "run", "--to", "de", "--temperature", "0"), *one = OUTPUT(in, EDITED);
    char *two = OUTPUT(in, "launch", "-n", "2", "--", EDITED);
    char *sharded = OUTPUT(in, "launch", "-n", "2", "--", EDITED, "--drafter-tp", "2");
    char *beside = OUTPUT(in, "launch", "-n", "2", "--", EDITED, "--drafter-device", "cpu");

    cr_expect_str_neq(one, plain);
    cr_expect_str_eq(two, one);
    cr_expect_str_eq(sharded, one);
    cr_expect_str_eq(beside, one);
    free(plain);
    free(one);
    free(two);
    free(sharded);
    free(beside);
}

Test(host_cli_launch, a_failure_has_one_message_and_one_code)
{
    static const struct {
        const char *args[12];
        int code;
        const char *text;
    } cases[] = {
        {{"launch", "-n", "2", "--", "run", "--verifier", "/no/model", "--drafter", "none", "x"},
         3,
         "spc: /no/model: "},
        {{"launch", "-n", "3", "--", "run", "x"}, 2, "cannot be sharded over 3 ranks"},
        {{"launch", "-n", "3", "--", "logits", "--model", SPC_TEST_VECTORS "/llama", "--ids", "1",
          "--output", "/dev/null"},
         2,
         "cannot be sharded over 3 ranks"},
        {{"launch", "-n", "2", "--", "run", "--gamma", "99", "x"}, 2, "--gamma: expected"},
        {{"launch", "-n", "2", "--", "run", "--rank", "1", "x"}, 2, "spc launch has given"},
        {{"launch", "-n", "2", "--", "run", "--tp", "4", "x"}, 2, "tp: expected 1 or 2"},
        {{"launch", "-n", "2", "--", "run", "--drafter-device", "cpu", "--drafter-tp", "2", "x"},
         2,
         "expected one of them, found cpu and 2 (to shard it over GPUs of its own"},
        {{"launch", "-n", "2", "--", "run", "--drafter-device", "tpu", "x"},
         2,
         "expected cpu, cuda or cuda:N, found 'tpu'"},
        {{"launch", "-n", "2", "--", "run", "--device", "cuda:0,cuda:1", "x"},
         2,
         "a process has one GPU: expected cuda (the one of its place"},
        {{"launch", "-n", "2", "--", "info", "x"}, 2, "launch: expected run, chat or logits"},
        {{"launch", "-n", "0", "--", "run", "x"}, 2, "-n: expected a whole number of 1 to 64"},
        {{"launch", "-n", "2"}, 2, "expected -- run|chat|logits"},
        {{"launch", "-m", "2", "--", "run"}, 2, "unknown option -m;"},
        {{"launch", "-n", "2", "run", "--frob"}, 2, "unknown option --frob; see spc run"},
        {{"launch", "run", "-n", "2"}, 2, "unknown option -n; see spc run"},
        {{"launch", "--n", "2", "--", "run"}, 2, "unknown option --n;"},
        {{"run", "--rank", "1", "x"}, 2, "--rank needs --world"},
        {{"run", "--world", "2", "x"}, 2, "--world needs --rank"},
        {{"run", "--rank", "2", "--world", "2", "x"}, 2, "--rank: expected 0 to 1, found 2"},
        {{"run", "--rank", "0", "--world", "2", "x"}, 2, "2 ranks need --meet"},
        {{"run", "--meet", "a/b", "x"}, 2, "--meet needs --rank and --world"},
        {{"run", "--ranks-from", "env", "x"}, 2, "neither Open MPI (OMPI_COMM_WORLD_RANK)"},
        {{"run", "--ranks-from", "env", "--rank", "0", "x"}, 2, "leave --rank out"},
        {{"run", "--rank", "0", "--world", "2", "--meet", "nowhere", "x"}, 2, "found 'nowhere'"},
        {{"chat", "--rank", "0", "--world", "2", "x"}, 2, ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spawn_failure(cases[i].args, NULL, cases[i].code, cases[i].text);
    }
}

/* Where jobs have their own TMPDIR its name is long, and /tmp may be another machine's or full. */
Test(host_cli_launch, the_meeting_is_in_tmpdir_however_long_its_name)
{
    const char *args[] = {"launch", "-n", "2", "--", "run", "--to", "fr", "Good morning.", NULL};
    char folder[160], *expected = OUTPUT(NULL, "run", "--to", "fr", "Good morning.");

    (void)snprintf(folder, sizeof folder, "/tmp/spc-test-%ld-%0100d", (long)getpid(), 0);
    cr_assert_eq(setenv("TMPDIR", folder, 1), 0);
    spawn_failure(args, NULL, 6, folder); /* it is not there */
    cr_assert_eq(mkdir(folder, 0700), 0);

    char *text = OUTPUT(NULL, "launch", "-n", "2", "--", "run", "--to", "fr", "Good morning.");

    cr_expect_str_eq(text, expected);
    cr_expect_eq(rmdir(folder), 0, "nothing is left in it");
    free(text);
    free(expected);
}

/* Rank 0 is kept from its fault until the others have missed it. */
Test(host_cli_launch, the_code_is_of_the_rank_that_failed_by_itself_though_it_ends_last)
{
    char points[64];
    const char *args[] = {"launch", "-n",
                          "2",      "--",
                          "run",    "--operating-point",
                          points,   "--min-quality",
                          "1",      "--rank-timeout",
                          "0.3",    "x",
                          NULL};
    launched l;
    int fd;

    (void)snprintf(points, sizeof points, "/tmp/spc-test-points-%ld", (long)getpid());
    cr_assert_eq(mkfifo(points, 0600), 0);
    cr_assert_geq(fd = open(points, O_RDWR | O_CLOEXEC), 0);
    launched_start(&l, SPC_BINARY, args);
    (void)nanosleep(&(struct timespec){0, 700000000}, NULL);
    cr_assert_eq(write(fd, "[", 1), 1);
    (void)close(fd);
    cr_expect_eq(launched_end(&l), 6, "%s", l.said);
    cr_expect(strstr(l.said, points), "%s", l.said);
    cr_expect_eq(launched_errors(&l), 1, "%s", l.said);
    (void)unlink(points);
}

/* With one or two more each time, one process or the other cannot open what it needs. */
Test(host_cli_launch, with_too_few_files_a_failure_is_never_silent)
{
    static const char script[] = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; ulimit -n $1; "
                                 "exec \"$0\" launch -n 2 -- run --to fr x";
    int code = -1;

    for (int files = 4; files < 16 && code != 0; files++) {
        char number[16];
        const char *args[] = {"-c", script, SPC_BINARY, number, NULL};
        launched l;

        (void)snprintf(number, sizeof number, "%d", files);
        launched_start(&l, "/bin/sh", args);
        code = launched_end(&l);
        cr_expect(code == 0 || launched_errors(&l) > 0, "%d files: %d, and nothing said", files,
                  code);
    }
}

/* Rank 0 reads a file that does not end, as it may read a large model; then one is harmed.  What is
 * said must hold `text`, in so many lines; how long it took, in ms. */
static int64_t harm_loading(int victim, int signal_number, int code, int lines, const char *text)
{
    char points[64];
    const char *args[] = {"launch", "-n",
                          "2",      "--",
                          "run",    "--operating-point",
                          points,   "--min-quality",
                          "1",      "--rank-timeout",
                          "1.5",    "x",
                          NULL};
    launched l;
    int64_t ms;
    int fd;

    (void)snprintf(points, sizeof points, "/tmp/spc-test-loading-%ld", (long)getpid());
    cr_assert_eq(mkfifo(points, 0600), 0);
    cr_assert_geq(fd = open(points, O_RDWR | O_CLOEXEC), 0);
    launched_start(&l, SPC_BINARY, args);
    (void)nanosleep(&(struct timespec){0, 700000000}, NULL);
    ms = launched_harm(&l, 2, victim, signal_number, code);
    cr_expect_eq(launched_errors(&l), lines, "%s", l.said);
    cr_expect(strstr(l.said, text), "'%s' in: %s", text, l.said);
    (void)close(fd);
    (void)unlink(points);
    return ms;
}

Test(host_cli_launch, ctrl_c_while_rank_0_loads_is_no_fault_of_its)
{
    (void)harm_loading(-1, SIGINT, 130, 0, "");
}

Test(host_cli_launch, sigterm_while_rank_0_loads_ends_all_at_once)
{
    cr_expect_lt(harm_loading(-1, SIGTERM, 128 + SIGTERM, 0, ""), 1500);
}

/* The other one does not find rank 0 where they meet, and knows no more of it. */
Test(host_cli_launch, a_rank_0_that_is_killed_while_it_loads_is_said_to_be)
{
    (void)harm_loading(0, SIGKILL, 4, 1, "spc: rank 0 was killed by signal 9 (Killed)");
}

/* ---- places from the environment --------------------------------------------------------------
 */

Test(host_cli_launch, ranks_come_from_options_and_from_what_started_them)
{
    static const char *const variables[][2] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"},
                                               {"PMI_RANK", "PMI_SIZE"},
                                               {"SLURM_PROCID", "SLURM_NTASKS"},
                                               {NULL, NULL}};
    char *expected = OUTPUT(NULL, "run", "--to", "fr", "Good morning.");
    char meet[64], out[64];

    (void)snprintf(meet, sizeof meet, "/tmp/spc-test-env-%ld", (long)getpid());
    (void)snprintf(out, sizeof out, "/tmp/spc-test-out-%ld", (long)getpid());
    for (int way = 0; way < 4; way++) {
        pid_t pid[2];
        char text[256] = "";
        FILE *file;

        for (int r = 0; r < 2; r++) {
            const char *number = r == 0 ? "0" : "1";
            const char *set[] = {variables[way][0], number, variables[way][1], "2", NULL};
            const char *env[] = {"spc", "run",  "--ranks-from", "env",           "--meet",
                                 meet,  "--to", "fr",           "Good morning.", NULL};
            const char *given[] = {"spc",    "run", "--rank", number, "--world",       "2",
                                   "--meet", meet,  "--to",   "fr",   "Good morning.", NULL};

            pid[r] = launched_rank(SPC_BINARY, set, way < 3 ? env : given,
                                   r == 0 ? out : "/dev/null", "/dev/null");
        }
        for (int r = 0; r < 2; r++) {
            int status;

            cr_assert_eq(waitpid(pid[r], &status, 0), pid[r]);
            cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "way %d, rank %d: %d", way, r,
                      status);
        }
        cr_assert_not_null(file = fopen(out, "r"));
        cr_expect_gt(fread(text, 1, sizeof text - 1, file), 0);
        (void)fclose(file);
        cr_expect_str_eq(text, expected);
        (void)unlink(out);
    }
    free(expected);
}

/* Two ranks started by hand: their exit codes, and what the first has on stdout and both on stderr.
 * They share `all`; `first` and `second` are theirs alone.  Each ends with NULL. */
typedef struct {
    int code[2];
    char out[512], err[2][512];
    int64_t ms;
} by_hand;

static void read_text(const char *path, char text[512])
{
    FILE *file = fopen(path, "r");

    cr_assert_not_null(file);
    text[fread(text, 1, 511, file)] = '\0';
    (void)fclose(file);
    (void)unlink(path);
}

static int64_t now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* from_env: Open MPI says the places. */
static by_hand run_ranks(bool from_env, const char *const *all, const char *const *first,
                         const char *const *second)
{
    char meet[64], out[96], err[2][96];
    int64_t start = now_ms();
    pid_t pid[2];
    by_hand h;

    (void)snprintf(meet, sizeof meet, "/tmp/spc-test-hand-%ld", (long)getpid());
    (void)snprintf(out, sizeof out, "%s-out", meet);
    for (int r = 0; r < 2; r++) {
        const char *const *own = r == 0 ? first : second;
        const char *args[32] = {"spc"};
        int count = 1;

        (void)snprintf(err[r], sizeof err[r], "%s-err-%d", meet, r);
        for (int i = 0; all[i]; i++) args[count++] = all[i];
        args[count++] = from_env ? "--ranks-from=env" : "--world=2";
        args[count++] = "--meet";
        args[count++] = meet;
        for (int i = 0; own[i]; i++) args[count++] = own[i];
        if (!from_env) args[count++] = r == 0 ? "--rank=0" : "--rank=1";

        const char *set[] = {"OMPI_COMM_WORLD_SIZE", "2", "OMPI_COMM_WORLD_RANK",
                             r == 0 ? "0" : "1", NULL};

        pid[r] = launched_rank(SPC_BINARY, from_env ? set : set + 4, args,
                               r == 0 ? out : "/dev/null", err[r]);
    }
    for (int r = 0; r < 2; r++) {
        int status;

        cr_assert_eq(waitpid(pid[r], &status, 0), pid[r]);
        h.code[r] = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    }
    h.ms = now_ms() - start;
    read_text(out, h.out);
    for (int r = 0; r < 2; r++) read_text(err[r], h.err[r]);
    return h;
}

static by_hand run_by_hand(const char *const *all, const char *const *first,
                           const char *const *second)
{
    return run_ranks(false, all, first, second);
}

/* What it alone reads it alone can find wrong: the others do not wait for it until the timeout. */
Test(host_cli_launch, what_rank_0_refuses_ends_all_at_once)
{
    static const char *const run[] = {"run", "--rank-timeout", "60", NULL};
    static const char *const chat[] = {"chat",
                                       "--verifier",
                                       "embedded:verifier",
                                       "--drafter",
                                       "embedded:drafter",
                                       "--rank-timeout",
                                       "60",
                                       NULL};
    static const char *const logits[] = {
        "logits", "--model", "embedded:verifier", "--ids", "1", "--rank-timeout", "60", NULL};
    static const char *const ids[] = {"logits",         "--model", "embedded:verifier",
                                      "--rank-timeout", "60",      NULL};
    static const char *const right[] = {"--output", "/dev/null", "--ids", "1", NULL};
    static const char *const fine[] = {"--output", "/dev/null", NULL}, *const none[] = {NULL};
    static const struct {
        const char *const *all, *const *second;
        const char *first[6], *word;
        int code;
    } table[] = {
        {run, none, {"--top-p", "2", "x"}, "--top-p: expected above 0", 2},
        {run, none, {"--rule", "strict:alpha=1", "x"}, "strict", 2},
        {run, none, {"--stream", "--json", "x"}, "--stream and --json", 2},
        {run, none, {"--input", "/no/file"}, "/no/file: cannot be opened", 6},
        {chat, none, {"--verify", "block", "--bonus", "step"}, "block verification", 2},
        {chat, none, {"--keep-going"}, "--keep-going is for", 2},
        {ids, right, {"--output", "/dev/null", "--ids", "1,x"}, "--ids: id 1: expected", 6},
        {logits, fine, {"--output", "/no/folder/file"}, "--output /no/folder/file: cannot", 6},
    };
    static const char *const worse[] = {
        "run", "--rank-timeout", "60", "--kv", "q8", "--top-p", "2", "x", NULL};
    by_hand both;

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        by_hand h = run_by_hand(table[i].all, table[i].first, table[i].second);

        cr_expect_eq(h.code[0], table[i].code, "%s", h.err[0]);
        cr_expect_eq(h.code[1], table[i].code, "%s", h.err[1]);
        cr_expect(strncmp(h.err[0], "spc: ", 5) == 0 && strstr(h.err[0], table[i].word), "%s",
                  h.err[0]);
        cr_expect(strncmp(h.err[1], "spc: rank 0: ", 13) == 0 && strstr(h.err[1], table[i].word),
                  "%s", h.err[1]);
        cr_expect_lt(h.ms, 30000);
    }

    /* nor does rank 0 wait for those who have found something by themselves */
    both = run_by_hand(worse, none, none);
    cr_expect_eq(both.code[0], 2);
    cr_expect_eq(both.code[1], 2);
    cr_expect(strstr(both.err[0], "--top-p: expected"), "%s", both.err[0]);
    cr_expect(strstr(both.err[1], "spc: --kv: expected"), "%s", both.err[1]);
    cr_expect_lt(both.ms, 30000);
}

/* A rank whose command line cannot be read tells the others, if the rest of it says where they
 * meet.
 */
Test(host_cli_launch, a_line_that_cannot_be_read_ends_all_at_once)
{
    static const char *const run[] = {"run", "--rank-timeout", "60", NULL};
    static const char *const chat[] = {"chat",
                                       "--verifier",
                                       "embedded:verifier",
                                       "--drafter",
                                       "embedded:drafter",
                                       "--rank-timeout",
                                       "60",
                                       NULL};
    static const char *const logits[] = {
        "logits", "--model", "embedded:verifier", "--ids", "1", "--rank-timeout", "60", NULL};
    static const char *const ids[] = {"logits", "--model",  "embedded:verifier", "--rank-timeout",
                                      "60",     "--output", "/dev/null",         NULL};
    static const struct {
        const char *const *all;
        const char *wrong[4], *right[4], *word;
        int code;
    } table[] = {
        {run, {"--gamma", "99", "x"}, {"x"}, "--gamma: expected a whole number of", 2},
        {run, {"--gama=3", "x"}, {"x"}, "unknown option --gama (did you mean --gamma?)", 2},
        {run, {"--quiet", "--quiet", "x"}, {"x"}, "--quiet is given twice", 2},
        {chat, {"--verify", "both"}, {NULL}, "--verify: expected token|block, found 'both'", 2},
        {chat, {"word"}, {NULL}, "unexpected argument 'word'", 2},
        {logits, {"--threads", "x"}, {"--output", "/dev/null"}, "--threads: expected", 2},
        {ids, {"--ids", "1,x"}, {"--ids", "1"}, "--ids: id 1: expected", 6}, /* it can be read */
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        /* whose line it is; of this pair rank 0 cannot hold a conversation */
        for (int rank = 0; rank < (table[i].all == chat ? 1 : 2); rank++) {
            const char *const *first = rank == 0 ? table[i].wrong : table[i].right;
            const char *const *second = rank == 0 ? table[i].right : table[i].wrong;
            by_hand h = run_ranks(i % 2 == 0, table[i].all, first, second);
            char told[32];

            (void)snprintf(told, sizeof told, "spc: rank %d: ", rank);
            cr_expect_eq(h.code[rank], table[i].code, "%s", h.err[rank]);
            cr_expect_eq(h.code[1 - rank], rank == 0 ? table[i].code : 4, "%s", h.err[1 - rank]);
            cr_expect(strncmp(h.err[rank], "spc: ", 5) == 0 && strstr(h.err[rank], table[i].word),
                      "%s", h.err[rank]);
            cr_expect(strncmp(h.err[1 - rank], told, strlen(told)) == 0 &&
                          strstr(h.err[1 - rank], table[i].word),
                      "%s", h.err[1 - rank]);
            cr_expect_lt(h.ms, 30000);
        }
    }

    /* the same line for all, as from mpirun: each tells its user, and none waits */
    by_hand both = run_by_hand(table[0].all, table[0].wrong, table[0].wrong);

    for (int rank = 0; rank < 2; rank++) {
        cr_expect_eq(both.code[rank], 2);
        cr_expect(strncmp(both.err[rank], "spc: --gamma: ", 14) == 0, "%s", both.err[rank]);
        cr_expect_eq(strchr(both.err[rank], '\n') - both.err[rank] + 1,
                     (ptrdiff_t)strlen(both.err[rank]), "one line: %s", both.err[rank]);
    }
    cr_expect_lt(both.ms, 30000);
}

/* Where nobody knows who was to be told of what, a rank ends by itself, at once. */
Test(host_cli_launch, a_line_that_does_not_say_the_place_ends_one_alone)
{
#define ALONE "run", "--world", "2", "--meet", "/tmp/spc-test-nobody"
    static const char *const table[][12] = {
        {ALONE, "--rank", "1", "--gamma", "99", "--top-k", "x"}, /* two are wrong */
        {ALONE, "--rank", "x"},
        {ALONE, "--rank", "1", "--rank-timeout", "x"},
        {ALONE, "--rank", "7", "--gamma", "99"},
        {ALONE, "--gamma", "99"},
        {ALONE, "--rank", "1", "--kv", "q8", "--gamma", "99"}, /* the others find this themselves */
    };

    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const int64_t start = now_ms();

        spawn_failure(table[i], NULL, 2, "expected");
        cr_expect_lt(now_ms() - start, 30000);
    }
#undef ALONE
}

/* As --help says of --world. */
Test(host_cli_launch, rank_0_alone_reads_how_to_decode)
{
    static const char *const all[] = {"run", "--to", "fr", "Good morning.", NULL};
    static const char *const first[] = {"--rule", "token-v3:alpha=0.5", NULL};
    static const char *const second[] = {"--rule", "opt:alpha=0.2", "--gamma", "2", "--stream",
                                         "--json", "--top-p",       "2",       NULL};
    static const char *const more[] = {"--batch", "2", NULL};
    static const char *const tokens[] = {"--kv-tokens", "512", NULL};
    char *expected =
        OUTPUT(NULL, "run", "--to", "fr", "--rule", "token-v3:alpha=0.5", "Good morning.");
    by_hand h = run_by_hand(all, first, second);

    cr_expect_eq(h.code[0], 0, "%s", h.err[0]);
    cr_expect_eq(h.code[1], 0, "%s", h.err[1]);
    cr_expect_str_eq(h.out, expected);
    h = run_by_hand(all, first, more); /* what is reserved must be the same */
    cr_expect_eq(h.code[0], 4, "%s", h.err[0]);
    cr_expect(strstr(h.err[0], "ranks differ: rank 0 was started with 1 "), "%s", h.err[0]);
    h = run_by_hand(all, first, tokens);
    cr_expect_eq(h.code[0], 4, "%s", h.err[0]);
    cr_expect(strstr(h.err[0], "1 sessions, context 0, kv-tokens 512, unchanged"), "%s", h.err[0]);
    free(expected);
}

/* ---- faults -----------------------------------------------------------------------------------
 */

static void start_long(launched *l, const char *ranks, const char *timeout, bool apart)
{
    const char *args[PROMPTS + 24] = {
        "launch", "-n", ranks, "--", "run", "--stream", "--to", "de", "--rank-timeout", timeout};
    const char *const drafter[] = {"--drafter-device", "cpu",  "--overlap", "on",
                                   "--bonus",          "step", "--gamma",   "1"};
    int count = 10;

    for (int i = 0; apart && i < 8; i++) args[count++] = drafter[i];
    for (int i = 0; i < PROMPTS; i++) {
        args[count++] = i % 2 ? "The house is small." : "I do not know where the station is.";
    }
    launched_start(l, SPC_BINARY, args);
}

/* What has been printed is what one process prints. */
static void expect_text(const launched *l, const char *expected)
{
    cr_expect_geq(l->bytes, ENOUGH);
    for (size_t i = 0; i < l->bytes && i < strlen(expected); i++) {
        if (l->text[i] == expected[i] || (l->text[i] == '\n' && i + 1 == l->bytes)) continue;
        cr_expect(false, "byte %zu: %.80s", i, l->text);
        return;
    }
}

static char *first_lines(bool apart)
{
    if (apart) {
        return OUTPUT(NULL, "run", "--to", "de", "--bonus", "step", "--gamma", "1",
                      "I do not know where the station is.", "The house is small.");
    }
    return OUTPUT(NULL, "run", "--to", "de", "I do not know where the station is.",
                  "The house is small.");
}

/* apart: the drafter on a device of its own, which is rank 0's. */
static void harm_one(int ranks, int victim, int signal_number, int code, const char *text,
                     bool apart)
{
    char number[4], *expected = first_lines(apart);
    launched l;

    (void)snprintf(number, sizeof number, "%d", ranks);
    start_long(&l, number, signal_number == SIGSTOP ? "0.5" : "20", apart);
    launched_read(&l, ENOUGH);
    cr_expect_lt(launched_harm(&l, ranks, victim, signal_number, code), 12000);
    cr_expect(strstr(l.said, text), "'%s' in: %s", text, l.said);
    if (code == 4) cr_expect_eq(launched_errors(&l), 1, "%s", l.said);
    expect_text(&l, expected);
    free(expected);
}

static void harm(int ranks, int victim, int signal_number, int code, const char *text)
{
    harm_one(ranks, victim, signal_number, code, text, false);
}

Test(host_cli_launch, the_drafters_side_and_the_others_miss_each_other)
{
    harm_one(2, 0, SIGKILL, 4, "rank 0 was killed by signal 9", true);
    harm_one(2, 0, SIGSTOP, 4, "within 500 ms, and these did not come: rank 0", true);
    harm_one(2, 1, SIGKILL, 4, "rank 1 is gone", true);
    harm_one(2, 1, SIGSTOP, 4, "within 500 ms, and these did not come: rank 1", true);
    harm_one(2, -1, SIGINT, 130, ", drafted ahead ", true);
}

Test(host_cli_launch, a_rank_that_is_killed_ends_all_with_its_name)
{
    harm(2, 1, SIGKILL, 4, "rank 1 is gone");
    harm(4, 2, SIGKILL, 4, "rank 2 is gone");
    harm(2, 0, SIGKILL, 4, "rank 0 was killed by signal 9"); /* launch says it */
}

Test(host_cli_launch, a_rank_that_hangs_ends_all_within_the_timeout)
{
    harm(2, 1, SIGSTOP, 4, "within 500 ms, and these did not come: rank 1");
    harm(2, 0, SIGSTOP, 4, "within 500 ms, and these did not come: rank 0");
}

Test(host_cli_launch, signals_go_to_the_ranks)
{
    harm(2, -1, SIGINT, 130, "tokens per verifier call"); /* rank 0 ends in order */
    harm(2, -1, SIGTERM, 128 + SIGTERM, "");
}

Test(host_cli_launch, a_terminal_that_closes_ends_all_and_leaves_no_folder)
{
    char folder[64];

    (void)snprintf(folder, sizeof folder, "/tmp/spc-test-hangup-%ld", (long)getpid());
    cr_assert_eq(mkdir(folder, 0700), 0);
    cr_assert_eq(setenv("TMPDIR", folder, 1), 0);
    (void)signal(SIGHUP, SIG_DFL);
    harm(2, -1, SIGHUP, 128 + SIGHUP, "");
    cr_expect_eq(rmdir(folder), 0, "nothing is left in it");
}

/* As a rank leaves it that is killed while it writes where to meet. */
Test(host_cli_launch, a_part_of_a_file_to_meet_by_is_removed)
{
    char folder[64], pattern[96], part[512];
    glob_t found;
    launched l;

    (void)snprintf(folder, sizeof folder, "/tmp/spc-test-part-%ld", (long)getpid());
    (void)snprintf(pattern, sizeof pattern, "%s/spc-launch-*", folder);
    cr_assert_eq(mkdir(folder, 0700), 0);
    cr_assert_eq(setenv("TMPDIR", folder, 1), 0);
    start_long(&l, "2", "20", false);
    launched_read(&l, ENOUGH);
    cr_assert_eq(glob(pattern, 0, NULL, &found), 0);
    (void)snprintf(part, sizeof part, "%s/meet.1-0.partial", found.gl_pathv[0]);
    globfree(&found);
    (void)close(open(part, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    (void)launched_harm(&l, 2, -1, SIGTERM, 128 + SIGTERM);
    cr_expect_eq(rmdir(folder), 0, "nothing is left in it");
}

Test(host_cli_launch, what_it_was_started_to_ignore_is_not_heeded)
{
    static const int signals[] = {SIGHUP, SIGTERM};

    for (int i = 0; i < 2; i++) {
        launched l;

        (void)signal(signals[i], SIG_IGN);
        start_long(&l, "2", "20", false);
        (void)signal(signals[i], SIG_DFL);
        launched_read(&l, ENOUGH);
        cr_assert_eq(kill(l.pid, signals[i]), 0);
        launched_read(&l, l.bytes + ENOUGH);
        (void)launched_harm(&l, 2, -1, SIGINT, 130);
    }
}

/* As some supervisors do: the ends of children are then told to nobody who does not say so. */
Test(host_cli_launch, it_hears_of_its_ranks_ends_where_it_was_started_to_ignore_them)
{
    const char *args[] = {"launch", "-n", "2", "--", "run", "--quiet", "--to", "fr", "x", NULL};
    launched l;

    (void)signal(SIGCHLD, SIG_IGN);
    launched_start(&l, SPC_BINARY, args);
    (void)signal(SIGCHLD, SIG_DFL);
    cr_expect_eq(launched_end(&l), 0, "%s", l.said);
}
