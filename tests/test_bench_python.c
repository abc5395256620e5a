/* SPDX-License-Identifier: Apache-2.0 */
/* test_bench_python.c - pass@1: code cut out of texts, programs that pass, fail and misbehave. */
#include "bench/measure.h"
#include "bench/quality_python.h"
#include "folder.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

static quality_python open_python(int32_t seconds)
{
    quality_python python;
    spc_error error = {SPC_OK, ""};

    cr_assert_eq(quality_python_open("python3", seconds, 512, &python, &error), SPC_OK, "%s",
                 error.message);
    return python;
}

/* The counts of one text. */
static void expect(const quality_python *python, const char *text, const char *before,
                   const char *tests, bool passed, bool late)
{
    double counts[2] = {-1, -1};
    quality_expected expected = {NULL, before, tests, python};

    cr_assert(quality_find("pass@1")->count(text, &expected, counts), "%s", strerror(errno));
    cr_expect_eq(counts[0], passed, "%s", text);
    cr_expect_eq(counts[1], late, "%s", text);
    cr_expect(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "left behind by %s", text);
}

/* ---- cutting ---- */

Test(bench_python, code_is_cut_where_something_else_begins)
{
    static const struct {
        const char *text, *code;
        bool completes;
    } cases[] = {
        {"    return 1\n", "    return 1\n", true},
        {"    return 1\ndef g():\n    pass\n", "    return 1\n", true},
        {"    return 1\n\nprint(f())\n", "    return 1\n\n", true},
        {"    return 1\n# next\n", "    return 1\n", true},
        {"    # inside\n    return 1\n@x\n", "    # inside\n    return 1\n", true},
        {"    return 1\nif __name__ == 1:\n", "    return 1\n", true},
        {"    return 1\nclass A:\n", "    return 1\n", true},
        {"    return 1\n```\nThat was it.", "    return 1\n", true},
        {"def f():\n    return 1\ndef g():\n    pass\n",
         "def f():\n    return 1\ndef g():\n    pass\n", false},
        {"class A:\n    x = 1\nclass B:\n    x = 2\n", "class A:\n    x = 1\nclass B:\n    x = 2\n",
         false},
        {"def f():\n    return 1\nassert f() == 1\n", "def f():\n    return 1\n", false},
        {"def f():\n    return 1\n\"\"\"\nmore\n", "def f():\n    return 1\n", false},
        {"def f():\n    return 1\n<|end|>", "def f():\n    return 1\n", false},
        {"Here it is:\n```python\ndef f():\n    return 1\nprint(f())\n```\nDone.",
         "def f():\n    return 1\nprint(f())\n", false},
        {"```\nx = 1\n", "x = 1\n", false},
        {"```", "", false},
        {"", "", true},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *code = quality_python_cut(cases[i].text, cases[i].completes);

        cr_expect_str_eq(code, cases[i].code, "case %d", (int)i);
        free(code);
    }
}

/* ---- verdicts ---- */

Test(bench_python, tests_decide)
{
    quality_python python = open_python(20);
    const char *head = "def add(a, b):\n    \"\"\"Add.\"\"\"\n";
    const char *check = "def check(f):\n    assert f(1, 2) == 3\ncheck(add)\n";
    const char *list = "\nassert add(1, 2) == 3\nassert add(0, 0) == 0";

    expect(&python, "    return a + b\n", head, check, true, false);
    expect(&python, "    return a - b\n", head, check, false, false);
    expect(&python, "    return a +\n", head, check, false, false);
    expect(&python, "", head, check, false, false);
    expect(&python, "```python\ndef add(a, b):\n    return a + b\n```", head, check, true, false);
    expect(&python, "def add(a, b):\n    return a + b\n", NULL, list, true, false);
    expect(&python, "def add(a, b):\n    return 3\n", NULL, list, false, false);
    expect(&python, "import sys\nx = {'': 1}[sys.stdin.read()]\ndef add(a, b):\n    return a + b\n",
           NULL, list, true, false);
}

Test(bench_python, to_leave_early_is_not_to_pass)
{
    quality_python python = open_python(20);

    expect(&python, "import sys\nsys.exit(0)\n", NULL, "assert False", false, false);
    expect(&python, "import os\nos._exit(0)\n", NULL, "assert False", false, false);
    expect(&python, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", NULL, "", false,
           false);
    expect(&python, "import os\nos.abort()\n", NULL, "", false, false);
}

Test(bench_python, time_is_limited)
{
    quality_python python = open_python(20);
    uint64_t begin;

    python.seconds = 1;
    begin = measure_now_ns();
    expect(&python, "while True:\n    pass\n", NULL, "", false, true);
    expect(&python, "import time\ntime.sleep(600)\n", NULL, "", false, true);
    /* Deaf to what can be ignored. */
    expect(&python,
           "import signal, time\nfor s in range(1, 32):\n    try:\n        signal.signal(s, "
           "signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\ntime.sleep(600)\n",
           NULL, "", false, true);
    cr_expect_lt((double)(measure_now_ns() - begin) * 1e-9, 20.0);
}

Test(bench_python, memory_and_output_are_limited)
{
    quality_python python = open_python(30);

    expect(&python, "x = bytearray(4 << 30)\n", NULL, "", false, false);
    expect(&python, "x = []\nwhile True:\n    x.append('y' * 1000000)\n", NULL, "", false, false);
    expect(&python, "with open('big', 'wb') as f:\n    f.write(b'x' * (64 << 20))\n", NULL, "",
           false, false);
    expect(&python, "for _ in range(300):\n    print('x' * 100000)\n", NULL, "", true, false);
}

/* Processes that a program starts do not outlive it, in its session or out of it. */
Test(bench_python, processes_end_with_their_program)
{
    quality_python python = open_python(20);

    expect(&python, "import os, time\nif os.fork() == 0:\n    time.sleep(600)\n", NULL, "", true,
           false);
    expect(&python,
           "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        "
           "time.sleep(600)\n    os._exit(0)\n",
           NULL, "", true, false);
    /* A fork bomb; it ends at the limit on processes, before the one on time. */
    expect(&python, "import os\nwhile True:\n    os.fork()\n", NULL, "", false, false);
}

Test(bench_python, nothing_stays_in_the_temporary_folder)
{
    folder f = folder_open();

    cr_assert_eq(setenv("TMPDIR", f.path, 1), 0);

    quality_python python = open_python(20);

    expect(&python, "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').close()\n", NULL, "", true,
           false);
    cr_expect_eq(folder_count(&f), 0);
    cr_assert_eq(unsetenv("TMPDIR"), 0);
    folder_close(&f);
}

Test(bench_python, an_interpreter_that_is_none_is_told)
{
    static const char *const names[] = {"/no/such/python", "no-such-python", "/bin/false", "/"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        quality_python python;
        spc_error error = {SPC_OK, ""};

        cr_expect_eq(quality_python_open(names[i], 5, 512, &python, &error), SPC_EUSAGE);
        cr_expect_not_null(strstr(error.message, names[i]), "%s", error.message);
    }
}
