/* SPDX-License-Identifier: Apache-2.0 */
/* test_host_cpu_quota.c - limits of control groups, and the threads of cores, read from folders
 * like those of Linux. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif

#include "folder.h"

#include "host/cpu/cpu_cores.h"
#include "host/cpu/cpu_quota.h"
#include "host/cpu/cpu_threads.h"

#include <ftw.h>
#include <sched.h>
#include <sys/stat.h>

/* A file in folders that are made where they are not there. */
static void put(const folder *f, const char *name, const char *text)
{
    char path[FOLDER_PATH];

    folder_path(f, name, path);
    for (char *at = path + strlen(f->path) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        (void)mkdir(path, 0755);
        *at = '/';
    }
    folder_write(f, name, text, strlen(text));
}

static int remove_entry(const char *path, const struct stat *what, int kind, struct FTW *at)
{
    (void)what;
    (void)kind;
    (void)at;
    return remove(path);
}

/* And threads by default are no more than it, where there are as many cores. */
static void expect_quota(const char *const (*file)[2], int32_t cores)
{
    folder f = folder_open();
    int32_t all = spc_team_cores_at("/no/such/root");

    for (; (*file)[0]; file++) put(&f, (*file)[0], (*file)[1]);
    cr_expect_eq(spc_cpu_quota(f.path), cores, "expected %d, found %d", (int)cores,
                 (int)spc_cpu_quota(f.path));
    cr_expect_eq(spc_team_cores_at(f.path), cores > 0 && cores < all ? cores : all);
    cr_expect_eq(nftw(f.path, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

#define EXPECT_QUOTA(cores, ...) expect_quota((const char *const[][2]){__VA_ARGS__, {NULL}}, cores)

#define GROUP  "proc/self/cgroup"
#define SECOND "sys/fs/cgroup/"
#define FIRST  "sys/fs/cgroup/cpu/"

Test(host_cpu_quota, the_tightest_group_counts_rounded_up)
{
    EXPECT_QUOTA(2, {GROUP, "0::/\n"}, {SECOND "cpu.max", "200000 100000\n"});
    EXPECT_QUOTA(2, {GROUP, "0::/\n"}, {SECOND "cpu.max", "150000 100000\n"});
    EXPECT_QUOTA(1, {GROUP, "0::/\n"}, {SECOND "cpu.max", "1000 100000\n"});
    EXPECT_QUOTA(3, {GROUP, "0::/a/b\n"}, {SECOND "a/b/cpu.max", "max 100000\n"},
                 {SECOND "a/cpu.max", "300000 100000\n"});
    EXPECT_QUOTA(1, {GROUP, "0::/a/b\n"}, {SECOND "a/b/cpu.max", "500000 100000\n"},
                 {SECOND "a/cpu.max", "50000 50000\n"});
}

Test(host_cpu_quota, groups_of_the_first_version_have_limits_too)
{
    EXPECT_QUOTA(4, {GROUP, "5:cpu,cpuacct:/\n0::/\n"}, {FIRST "cpu.cfs_quota_us", "350000\n"},
                 {FIRST "cpu.cfs_period_us", "100000\n"});
    /* a container that is told a path of the machine's, and shown its own group as the root */
    EXPECT_QUOTA(2, {GROUP, "3:cpuset:/x\n2:cpuacct,cpu:/docker/1\n"},
                 {FIRST "cpu.cfs_quota_us", "200000\n"}, {FIRST "cpu.cfs_period_us", "100000\n"});
    EXPECT_QUOTA(0, {GROUP, "1:cpu:/\n"}, {FIRST "cpu.cfs_quota_us", "-1\n"},
                 {FIRST "cpu.cfs_period_us", "100000\n"});
    EXPECT_QUOTA(0, {GROUP, "1:cpuset:/\n"}, {FIRST "cpu.cfs_quota_us", "100000\n"},
                 {FIRST "cpu.cfs_period_us", "100000\n"});
}

Test(host_cpu_quota, what_is_missing_or_strange_is_no_limit)
{
    EXPECT_QUOTA(0, {"other", ""});
    EXPECT_QUOTA(0, {GROUP, "0::/\n"});
    EXPECT_QUOTA(0, {GROUP, ""}, {SECOND "cpu.max", "100000 100000\n"});
    EXPECT_QUOTA(0, {GROUP, "nothing\n:\n"}, {SECOND "cpu.max", "100000 100000\n"});
    EXPECT_QUOTA(0, {GROUP, "0::/\n"}, {SECOND "cpu.max", "max 100000\n"});
    EXPECT_QUOTA(0, {GROUP, "0::/\n"}, {SECOND "cpu.max", "100000\n"});
    EXPECT_QUOTA(0, {GROUP, "0::/\n"}, {SECOND "cpu.max", "100000 0\n"});
    EXPECT_QUOTA(0, {GROUP, "0::/\n"}, {SECOND "cpu.max", "-100000 100000\n"});
    EXPECT_QUOTA(0, {GROUP, "0::/\n"}, {SECOND "cpu.max", "9000000000000000000 1\n"});
}

/* ---- hardware threads -------------------------------------------------------------------------
 */

#if defined(__linux__)
/* The processors that this test may run on, each with this list of its core's threads: of the first
 * `together` of them "%1$d,%2$d" or the like, of the others their own number. */
static int32_t cores_with(const char *format, int32_t together, int32_t *processors)
{
    folder f = folder_open();
    cpu_set_t allowed;
    int32_t found, first = -1, last = -1, count = 0;
    char list[256], name[128];

    cr_assert_eq(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    for (int32_t i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET((size_t)i, &allowed)) continue;
        if (first < 0) first = i;
        if (count++ < together) last = i;
    }
    *processors = count;
    count = 0;
    for (int32_t i = 0; i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET((size_t)i, &allowed)) continue;
        (void)snprintf(name, sizeof name,
                       "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", (int)i);
        if (count++ < together) {
            (void)snprintf(list, sizeof list, format, (int)first, (int)last);
        } else {
            (void)snprintf(list, sizeof list, "%d\n", (int)i);
        }
        put(&f, name, list);
    }
    found = spc_cpu_cores(f.path);
    cr_expect_eq(spc_team_cores_at(f.path), found < SPC_TEAM_MAX ? found : SPC_TEAM_MAX);
    cr_expect_eq(nftw(f.path, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
    return found;
}

Test(host_cpu_quota, threads_of_a_core_count_once)
{
    int32_t all, apart = cores_with("%d-%d\n", 0, &all);
    int32_t pair = all < 2 ? all : 2;

    cr_expect_eq(apart, all, "each has a core of its own");
    cr_expect_eq(cores_with("%1$d,%2$d\n", pair, &all), all - pair + 1);
    cr_expect_eq(cores_with("%1$d-%2$d,9999\n", all, &all), 1, "one core for all");
    cr_expect_eq(cores_with("9998,9999\n", all, &all), all, "threads that are not ours");
    cr_expect_eq(cores_with("\n", all, &all), all, "nobody knows");
    cr_expect_eq(cores_with("x-%d\n", all, &all), all);
    cr_expect_eq(spc_cpu_cores("/no/such/root"), all);
}
#endif
