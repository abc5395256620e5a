/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cli_launch_gpu.c - processes that are GPU ranks, as their users see them: the program
 * over tests/fibers, with a stand-in for NCCL that serves processes.  The tokens of one GPU, and
 * one message and one exit code where ranks cannot begin, die, hang, or stay away on the device. */
#include "launched.h"
#include "spawn.h"

#include <criterion/criterion.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROMPTS = 300, ENOUGH = 15 };

#define MODEL(name) "--verifier", SPC_TEST_VECTORS "/" name, "--drafter", SPC_TEST_VECTORS "/" name
#define SHORT       "--ignore-stop", "--max-tokens", "5", "--gamma", "2"

/* GPUs of this machine, and the stand-in in NCCL's place. */
static void set_up(const char *devices)
{
    (void)setenv("FIBERS_DEVICES", devices, 1);
    (void)setenv("LD_LIBRARY_PATH", SPC_STAND_IN_FOLDER, 1);
}

/* A file of prompts for models without a tokenizer. */
static const char *write_prompts(int count)
{
    static char path[64];
    FILE *file;

    (void)snprintf(path, sizeof path, "/tmp/spc-test-prompts-%ld", (long)getpid());
    cr_assert_not_null(file = fopen(path, "w"));
    for (int i = 0; i < count; i++) (void)fprintf(file, "{\"ids\": [1, 5, 9, %d]}\n", 3 + i % 64);
    cr_assert_eq(fclose(file), 0);
    return path;
}

static spawn_result run(const char *const *args)
{
    return spawn(args, &(const spawn_options){.program = SPC_FIBERS});
}

/* stdout of a run that must succeed, for launch, or (ranks 1) without it; malloc'd. */
static char *output_of(int ranks, const char *const *args)
{
    const char *all[40] = {"launch", "-n", ranks == 2 ? "2" : "4", "--"};
    int count = ranks == 1 ? 0 : 4;
    spawn_result r;

    for (int i = 0; args[i]; i++) all[count++] = args[i];
    r = run(all);
    cr_assert_eq(r.code, 0, "%d ranks: code %d: %s", ranks, r.code, r.err);
    free(r.err);
    return r.out;
}

/* Of 2048 threads, each as tests/fibers says. */
Test(host_cli_launch_gpu, info_tells_what_stacks_take_of_a_gpu)
{
    const char *const args[] = {"info", "--device", "cuda", SPC_TEST_VECTORS "/llama", NULL};
    char *text = output_of(1, args);

    cr_expect(strstr(text, "stacks, once      1.7 MiB (1785856 bytes)"), "%s", text);
    free(text);
}

/* The library names its function, and the program the command that calls it. */
Test(host_cli_launch_gpu, a_table_that_is_none_is_written_anew_by_a_command)
{
    const char *prompts = write_prompts(1);
    const char *const args[] = {"run",   "--device",     "cuda", "--kernels",
                                prompts, MODEL("llama"), "text", NULL};

    spawn_failure(args, &(const spawn_options){.program = SPC_FIBERS}, 6,
                  "write it anew with spc_tune_kernels (spc tune-kernels)\n");
    (void)unlink(prompts);
}

/* ---- all is well ------------------------------------------------------------------------------
 */

Test(host_cli_launch_gpu, processes_print_what_one_gpu_prints)
{
    static const struct {
        int ranks;
        const char *args[20];
    } cases[] = {
        {2, {MODEL("llama"), "--rule", "token-v3:alpha=0.5", "--temperature", "0.8", NULL}},
        {4, {MODEL("llama"), "--drafter-tp", "4", "--batch", "2", NULL}},
        {2, {MODEL("t5-gated"), "--rule", "seq-chow:alpha=0.02", "--drafter-tp", "2", NULL}},
        {2, {MODEL("qwen3"), "--rule", "bild-dynamic:fallback=0.02", "--temperature", "0", NULL}},
        {2, /* a GPU of its own; or rank 0's, in whose process it is */
         {MODEL("llama"), "--rule", "opt:alpha=0.2", "--temperature", "0.8", "--drafter-device",
          "cuda:3", "--bonus", "step", "--overlap", "on", NULL}},
        {4,
         {MODEL("llama"), "--rule", "opt:alpha=0.2", "--temperature", "0.8", "--drafter-device",
          "cuda:0", "--verify", "block", NULL}},
        {2, /* GPUs of its own */
         {MODEL("llama"), "--rule", "opt:alpha=0.2", "--temperature", "0.8", "--drafter-device",
          "cuda:2,cuda:3", "--drafter-tp", "2", "--drafter-vocab", "30", "--bonus", "step", NULL}},
    };
    const char *prompts = write_prompts(2);

    set_up("4");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *args[40] = {"run", "--device", "cuda", "--input", prompts, SHORT};
        int count = 10;
        char *one, *all;

        for (int k = 0; cases[i].args[k]; k++) args[count++] = cases[i].args[k];
        all = output_of(cases[i].ranks, args);
        for (int k = 10; k < count; k++) { /* of one rank */
            if (strcmp(args[k], "--drafter-tp") == 0) args[k + 1] = "1";
            if (strcmp(args[k], "--drafter-device") == 0) args[k + 1] = "cuda:1";
        }
        one = output_of(1, args);
        cr_expect_eq(count_lines(one), 2);
        cr_expect_str_eq(all, one, "case %zu", i);
        free(one);
        free(all);
    }
    (void)unlink(prompts);
}

/* Rows of two tiles, one for each process, from a drafter in the first: on a GPU of its own, on a
 * rank's, on the CPU.  Rows of the two kinds of devices differ in their last bits: no token of
 * these hangs on them. */
Test(host_cli_launch_gpu, a_drafter_beside_processes_gives_the_tokens_of_one_on_each)
{
    static const char *const drafters[] = {"cuda:3", "cuda:0", "cpu"};
    const char *args[20] = {"run",  "--device", "cuda",          "--max-tokens", "4",
                            "--to", "de",       "--bonus",       "step",         "--gamma",
                            "2",    "--rule",   "opt:alpha=0.2", "I know."};
    char *expected;

    set_up("4");
    expected = output_of(2, args);
    for (int i = 0; i < 3; i++) {
        char *text;

        args[14] = "--drafter-device";
        args[15] = drafters[i];
        args[16] = "--overlap";
        args[17] = "on";
        text = output_of(2, args);
        cr_expect_str_eq(text, expected, "%s", drafters[i]);
        free(text);
    }
    free(expected);
}

/* ---- KV caches that fit ------------------------------------------------------------------------
 */

/* Many sessions; SHORT's prompts need few of them. */
#define MANY "--batch", "256", "--context", "128"

/* The number behind these words; -1: they are not there. */
static long long number_behind(const char *text, const char *words)
{
    const char *at = strstr(text, words);

    return at ? atoll(at + strlen(words)) : -1;
}

static void free_on(long long first, long long second)
{
    char text[64];

    (void)snprintf(text, sizeof text, "%lld,%lld", first, second);
    (void)setenv("FIBERS_FREE", text, 1);
}

/* Bytes that caches of more than one session fit in, of which these arguments said how many MiB one
 * takes where there was too little. */
static long long some_memory(const char *const *args, const char *error)
{
    spawn_result r = run(args);
    long long mib = number_behind(r.err, error);

    cr_assert_eq(r.code, 5, "%d: %s", r.code, r.err);
    cr_assert_gt(mib, 0, "%s", r.err);
    spawn_free(&r);
    return ((mib + 1) << 20) / 15 * 16 + (2 << 20);
}

/* Tokens of the caches as a run says on stderr, which must end well and say as much as with all the
 * memory there is. */
static long long tokens_of_run(const char *const *args, const char *expected)
{
    spawn_result r = run(args);
    long long tokens = number_behind(r.err, "spc: kv cache: ");

    cr_assert_eq(r.code, 0, "%d: %s", r.code, r.err);
    cr_expect_str_eq(r.out, expected);
    cr_expect(tokens > 128 && tokens < 256 * 128, "%s", r.err);
    spawn_free(&r);
    return tokens;
}

Test(host_cli_launch_gpu, info_plans_caches_that_fit_as_a_run_has_them)
{
    const char *prompts = write_prompts(3);
    const char *const run_args[] = {"run", "--device", "cuda",         "--input", prompts,
                                    SHORT, MANY,       MODEL("llama"), NULL};
    const char *args[] = {"info",
                          "--device",
                          "cuda",
                          MANY,
                          "--drafter",
                          SPC_TEST_VECTORS "/llama",
                          SPC_TEST_VECTORS "/llama",
                          NULL,
                          NULL};
    char *expected, *text;
    long long tokens;
    char words[96];

    set_up("1");
    expected = output_of(1, run_args);
    free_on(1000000, 0);
    free_on(some_memory(run_args, "expected room for "), 0);
    tokens = tokens_of_run(run_args, expected);
    text = output_of(1, args);
    (void)snprintf(words, sizeof words,
                   ", f32, %lld pages of 16 tokens, of 2048 for all sequences at once)",
                   tokens / 16);
    cr_expect(strstr(text, words), "%s: %s", words, text);
    free(text);
    args[10] = "--json";
    text = output_of(1, args);
    (void)snprintf(words, sizeof words, "\"kv_tokens\":%lld,", tokens);
    cr_expect(strstr(text, words), "%s: %s", words, text);
    cr_expect(strstr(text, "\"kv_tokens\":32768,"), "%s", text);
    free(text);
    free(expected);
    (void)unlink(prompts);
}

/* Whichever has less memory: all have the caches that it has room for. */
Test(host_cli_launch_gpu, processes_have_caches_that_fit_on_each_of_their_gpus)
{
    const long long much = 1000000000000;
    const char *prompts = write_prompts(3);
    const char *args[40] = {"launch", "-n",      "2",     "--",  "run", "--device",
                            "cuda",   "--input", prompts, SHORT, MANY,  MODEL("llama")};
    char *expected;
    long long tokens;

    set_up("4");
    expected = output_of(1, &args[4]);
    free_on(much, 1000000);
    free_on(much, some_memory(args, "rank 1: cuda:1: expected room for "));
    tokens = tokens_of_run(args, expected);
    free_on(1000000, much);
    free_on(some_memory(args, "cuda:0: expected room for "), much);
    (void)tokens_of_run(args, expected);
    /* a drafter beside the first rank, on whose GPU there is less */
    for (int k = 0; k < 2; k++) {
        int count = 0;

        while (args[count]) count++;
        args[count] = k == 0 ? "--drafter-device" : "cuda:0";
    }
    (void)unsetenv("FIBERS_FREE");
    free(expected);
    expected = output_of(1, (const char *[]){"run", "--device", "cuda", "--input", prompts, SHORT,
                                             MODEL("llama"), NULL});
    free_on(1000000, much);
    free_on(some_memory(args, "cuda:0: expected room for "), much);
    cr_expect_neq(tokens_of_run(args, expected), tokens);
    free(expected);
    (void)unlink(prompts);
}

/* ---- ranks that others start ------------------------------------------------------------------
 */

/* What differs between two of them. */
typedef struct {
    const char *device, *devices, *first, *version;
} seat;

typedef struct {
    int code;
    char out[512], err[512];
} ending;

static void read_file(const char *path, char text[512])
{
    FILE *file = fopen(path, "r");
    size_t bytes;

    cr_assert_not_null(file);
    bytes = fread(text, 1, 511, file);
    text[bytes] = '\0';
    (void)fclose(file);
    (void)unlink(path);
}

/* no_capture   [2] "1": graphs cannot be recorded */
static void run_two_with(const seat *seats, const char *tokens, const char *const *no_capture,
                         ending *ends)
{
    char meet[64], out[2][80], err[2][80];
    const char *prompts = write_prompts(1);
    pid_t pid[2];

    (void)snprintf(meet, sizeof meet, "/tmp/spc-test-meet-%ld", (long)getpid());
    for (int r = 0; r < 2; r++) {
        const char *number = r == 0 ? "0" : "1";
        const seat *s = &seats[r];
        const char *set[] = {"SLURM_PROCID",
                             number,
                             "SLURM_NTASKS",
                             "2",
                             "FIBERS_DEVICES",
                             s->devices,
                             "FIBERS_FIRST",
                             s->first,
                             "STAND_IN_VERSION",
                             s->version,
                             "FIBERS_NO_CAPTURE",
                             no_capture[r],
                             NULL};
        const char *args[] = {"spc",
                              "run",
                              "--ranks-from",
                              "env",
                              "--meet",
                              meet,
                              "--device",
                              s->device,
                              "--input",
                              prompts,
                              "--ignore-stop",
                              "--max-tokens",
                              tokens,
                              "--gamma",
                              "2",
                              MODEL("llama"),
                              NULL};

        (void)snprintf(out[r], sizeof out[r], "%s-out-%d", meet, r);
        (void)snprintf(err[r], sizeof err[r], "%s-err-%d", meet, r);
        pid[r] = launched_rank(SPC_FIBERS, set, args, out[r], err[r]);
    }
    for (int r = 0; r < 2; r++) {
        int status;

        cr_assert_eq(waitpid(pid[r], &status, 0), pid[r]);
        ends[r].code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        read_file(out[r], ends[r].out);
        read_file(err[r], ends[r].err);
    }
    (void)unlink(prompts);
}

static void run_two(const seat *seats, ending *ends)
{
    static const char *const no[] = {"0", "0"};

    run_two_with(seats, "5", no, ends);
}

Test(host_cli_launch_gpu, ranks_take_the_gpu_they_are_shown_or_told)
{
    static const seat ways[][2] = {
        {{"cuda", "1", "0", "22809"}, {"cuda", "1", "1", "22809"}}, /* one each, by the starter */
        {{"cuda", "2", "0", "22809"}, {"cuda", "2", "0", "22809"}}, /* by their place */
        {{"cuda:1", "2", "0", "22809"}, {"cuda:0", "2", "0", "22809"}},
    };
    char *expected;
    ending ends[2];

    set_up("1");
    expected = output_of(1, (const char *[]){"run", "--device", "cuda", "--input", write_prompts(1),
                                             SHORT, MODEL("llama"), NULL});
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        run_two(ways[i], ends);
        for (int r = 0; r < 2; r++) cr_expect_eq(ends[r].code, 0, "%d: %s", r, ends[r].err);
        cr_expect_str_eq(ends[0].out, expected);
        cr_expect_str_eq(ends[1].out, "");
    }
    free(expected);
}

/* What a device turned out not to do is told by rank 0, once: its own, and that of others which is
 * not the same. */
Test(host_cli_launch_gpu, what_any_gpu_does_not_record_is_told_once)
{
    static const seat seats[] = {{"cuda", "2", "0", "22809"}, {"cuda", "2", "0", "22809"}};
    static const struct {
        const char *no_capture[2], *text;
    } cases[] = {
        {{"0", "0"}, ""},
        {{"0", "1"}, "spc: warning: rank 1: cuda:1: graphs cannot be recorded: "},
        {{"1", "1"}, "spc: warning: cuda:0: graphs cannot be recorded: "},
    };
    ending ends[2];

    set_up("1");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *warning;

        run_two_with(seats, "60", cases[i].no_capture, ends);
        for (int r = 0; r < 2; r++) cr_expect_eq(ends[r].code, 0, "%d: %s", r, ends[r].err);
        warning = strstr(ends[0].err, "warning: ");
        cr_expect(strstr(ends[0].err, cases[i].text), "%zu: %s", i, ends[0].err);
        cr_expect_eq(warning != NULL, i > 0, "%zu: %s", i, ends[0].err);
        cr_expect(!warning || !strstr(warning + 1, "warning: "), "%zu: %s", i, ends[0].err);
        cr_expect_str_eq(ends[1].err, "");
    }
}

Test(host_cli_launch_gpu, what_differs_between_ranks_is_named)
{
    static const struct {
        seat seats[2];
        int code;
        const char *text;
    } cases[] = {
        {{{"cuda", "2", "0", "22809"}, {"cuda", "2", "0", "22703"}},
         4,
         "rank 0 has NCCL version 22809, rank 1 version 22703"},
        {{{"cuda", "2", "0", "22809"}, {"cuda", "2", "0", "21703"}},
         4,
         "rank 1: nccl: libnccl.so.2: expected NCCL 2.18 or later, found version 21703"},
        {{{"cuda", "1", "0", "22809"}, {"cuda", "1", "0", "22809"}},
         4,
         "ranks 0 and 1 have but one GPU on "},
        {{{"cuda:0", "1", "0", "22809"}, {"cuda", "1", "0", "22809"}},
         4,
         "ranks 0 and 1 have but one GPU on "},
        {{{"cuda", "2", "0", "22809"}, {"cuda", "0", "0", "22809"}}, 4, "rank 1: cuda: no device"},
        {{{"cuda", "2", "0", "22809"}, {"cuda:2", "2", "0", "22809"}},
         4,
         "rank 1: cuda:2: expected a number of 0 to 1"},
        {{{"cuda", "2", "0", "22809"}, {"cpu", "2", "0", "22809"}},
         4,
         "unchanged weights, f32 kv, a GPU, drafter-tp 1 and a drafter, rank 1 with"},
    };
    ending ends[2];

    set_up("1");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run_two(cases[i].seats, ends);
        cr_expect_eq(ends[0].code, cases[i].code, "%zu: %d", i, ends[0].code);
        cr_expect_neq(ends[1].code, 0);
        for (int r = 0; r < 2; r++) {
            cr_expect_eq(count_lines(ends[r].err), 1, "%zu: %s", i, ends[r].err);
            cr_expect_str_eq(ends[r].out, "");
        }
        cr_expect(strstr(ends[0].err, cases[i].text), "%zu: %s", i, ends[0].err);
    }
}

Test(host_cli_launch_gpu, what_cannot_be_is_one_line)
{
    static const struct {
        const char *devices, *failing, *args[20];
        int code;
        const char *text;
    } cases[] = {
        {"2",
         "-1",
         {"-n", "4", "--", "run", "--device", "cuda"},
         4,
         "too few GPUs: this is process"},
        {"0", "-1", {"-n", "2", "--", "run", "--device", "cuda"}, 4, "rank 0: cuda: no device"},
        {"2", "1", {"-n", "2", "--", "run", "--device", "cuda"}, 4, "rank 1 of 2: nccl: joining"},
        {"2",
         "-1",
         {"-n", "2", "--", "run", "--device", "cuda", "--threads", "2"},
         2,
         "threads and isa are the CPU's"},
        {"2",
         "-1",
         {"-n", "2", "--", "run", "--device", "cuda", "--overlap", "on"},
         0, /* of whoever finds it first */
         "overlap: expected one GPU or a drafter-device, found 2 processes, rank "},
    };
    const char *prompts = write_prompts(1);

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *args[40] = {"launch"};
        int count = 1;
        spawn_result r;

        set_up(cases[i].devices);
        (void)setenv("STAND_IN_FAILING_INIT", cases[i].failing, 1);
        for (int k = 0; cases[i].args[k]; k++) args[count++] = cases[i].args[k];
        memcpy(args + count, (const char *[]){"--input", prompts, MODEL("llama")},
               6 * sizeof *args);
        r = run(args);
        if (cases[i].code > 0) {
            cr_expect_eq(r.code, cases[i].code, "%zu: code %d: %s", i, r.code, r.err);
        } else {
            cr_expect(r.code == 2 || r.code == 4, "%zu: code %d: %s", i, r.code, r.err);
        }
        cr_expect(strstr(r.err, cases[i].text), "%zu: %s", i, r.err);
        cr_expect_eq(count_lines(r.err), 1, "%zu: %s", i, r.err);
        cr_expect_eq(r.out_bytes, 0);
        spawn_free(&r);
    }
    (void)unlink(prompts);
}

/* On one GPU, without launch: what --overlap on can do there depends on --bonus and --batch. */
Test(host_cli_launch_gpu, an_overlap_that_has_nothing_to_do_is_refused)
{
    static const struct {
        const char *more[4];
        int code;
    } cases[] = {{{NULL}, 2}, {{"--bonus", "step"}, 0}, {{"--batch", "2"}, 0}};
    const char *prompts = write_prompts(2);

    set_up("1");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *args[32] = {"run",     "--device", "cuda", "--overlap", "on",
                                "--input", prompts,    SHORT,  "--quiet",   MODEL("llama")};
        int count = 0;
        spawn_result r;

        while (args[count]) count++;
        for (int k = 0; cases[i].more[k]; k++) args[count++] = cases[i].more[k];
        r = run(args);
        cr_expect_eq(r.code, cases[i].code, "%zu: %s", i, r.err);
        cr_expect_eq(strstr(r.err, "--overlap on: with one prompt at a time only --bonus step") !=
                         NULL,
                     cases[i].code == 2, "%s", r.err);
        spawn_free(&r);
    }
    (void)unlink(prompts);
}

/* ---- faults -----------------------------------------------------------------------------------
 */

/* Without a drafter, which would run beside NCCL. */
#define LONG                                                                                 \
    "--verifier", SPC_TEST_VECTORS "/llama", "--drafter", "none", "--rule", "verifier-only", \
        "--ignore-stop", "--max-tokens", "5"

/* last: one more option, or NULL */
static void start_long(launched *l, const char *ranks, const char *timeout, const char *last)
{
    launched_start(l, SPC_FIBERS,
                   (const char *[]){"launch", "-n", ranks, "--", "run", "--device", "cuda",
                                    "--rank-timeout", timeout, "--input", write_prompts(PROMPTS),
                                    LONG, last, NULL});
}

/* One line says who and, where rank 0 is left to say it, what rank 0 was doing; what had been
 * printed is what one GPU prints. */
static void expect_end(const launched *l, const char *text, bool step)
{
    char *expected = output_of(
        1, (const char *[]){"run", "--device", "cuda", "--input", write_prompts(2), LONG, NULL});
    size_t bytes = strlen(expected);

    cr_expect(strstr(l->said, text), "'%s' in: %s", text, l->said);
    cr_expect(!step || strstr(l->said, "(step "), "%s", l->said);
    cr_expect_eq(launched_errors(l), 1, "%s", l->said);
    if (l->bytes <= bytes) bytes = l->bytes - 1; /* the last line may end early */
    cr_expect_eq(strncmp(l->text, expected, bytes), 0, "%s", l->text);
    (void)unlink(write_prompts(0));
    free(expected);
}

static void harm(int ranks, int victim, int signal_number, const char *text)
{
    launched l;

    set_up("4");
    start_long(&l, ranks == 2 ? "2" : "4", signal_number == SIGSTOP ? "1" : "20",
               "--plain-launches"); /* graphs are launched without waiting for others */
    launched_read(&l, ENOUGH);
    cr_expect_lt(launched_harm(&l, ranks, victim, signal_number, 4), 12000);
    expect_end(&l, text, victim > 0);
}

Test(host_cli_launch_gpu, a_rank_that_is_killed_ends_all_with_its_name)
{
    harm(2, 1, SIGKILL, "rank 1 is gone");
    harm(4, 2, SIGKILL, "rank 2 is gone");
    harm(2, 0, SIGKILL, "rank 0 was killed by signal 9"); /* launch says it */
}

Test(host_cli_launch_gpu, a_rank_that_hangs_ends_all_with_its_name)
{
    harm(2, 1, SIGSTOP, "these did not come: rank 1");
    harm(2, 0, SIGSTOP, "these did not come: rank 0");
}

static void stay_away(const char *how, const char *victim, const char *text)
{
    launched l;

    set_up("2");
    (void)setenv("STAND_IN_PATIENCE_MS", "500", 1);
    (void)setenv(how, victim, 1);
    (void)setenv("STAND_IN_FROM", "100", 1);
    start_long(&l, "2", "1.5", NULL);
    launched_read(&l, sizeof l.text);
    expect_end(&l, text, true);
    cr_expect_gt(l.bytes, 0, "what was decoded before is kept");
    cr_expect_eq(waitpid(l.pid, NULL, 0), l.pid);
}

/* The process lives, and its device waits for ever: it is the connection's fault, or nobody's. */
Test(host_cli_launch_gpu, a_device_that_is_not_heard_of_ends_all_within_the_timeout)
{
    stay_away("STAND_IN_MUTE", "1",
              "waiting for the device: expected all ranks within 1500 ms, and some did not come");
}

/* The process lives, and its device does nothing more. */
Test(host_cli_launch_gpu, a_device_that_hangs_ends_all_with_its_name)
{
    stay_away("STAND_IN_HANGING", "1",
              "rank 1 of 2: nccl: waiting for the device: expected all ranks within 1500 ms, and "
              "the GPU of rank 1 hangs");
}

Test(host_cli_launch_gpu, the_device_of_rank_0_that_hangs_ends_all_with_its_name)
{
    stay_away("STAND_IN_HANGING", "0", "the GPU of rank 0 hangs");
}
