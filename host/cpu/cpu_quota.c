/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_quota.c - control groups nest, and the tightest of those that hold this process counts.
 *
 * A thread per core of a large machine is not what a container with two cores' worth of time wants:
 * they would use it up in a fraction of each period, most of it by waiting for each other, and then
 * all stand still. */
#include "cpu_quota.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { PATH_BYTES = 1024, LINE_BYTES = 1024 };

/* A file of one line, or its first one; false: there is none. */
static bool read_line(const char *folder, const char *name, char line[LINE_BYTES])
{
    char path[PATH_BYTES];
    int used = snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = used > 0 && used < PATH_BYTES ? fopen(path, "r") : NULL;
    bool read;

    if (!file) return false;
    read = fgets(line, LINE_BYTES, file) != NULL;
    (void)fclose(file);
    return read;
}

/* Microseconds in each period of so many; false: no limit. */
static bool read_limit(const char *folder, bool second, int64_t *quota, int64_t *period)
{
    char line[LINE_BYTES];

    if (second) {
        return read_line(folder, "cpu.max", line) &&
               sscanf(line, "%" SCNd64 " %" SCNd64, quota, period) == 2;
    }
    return read_line(folder, "cpu.cfs_quota_us", line) && sscanf(line, "%" SCNd64, quota) == 1 &&
           read_line(folder, "cpu.cfs_period_us", line) && sscanf(line, "%" SCNd64, period) == 1;
}

/* The group and those around it.  What a container is not shown of its path is missing here, but
 * the root that it sees is its own group. */
static void take_limits(const char *root, const char *mount, const char *group, bool second,
                        int32_t *least)
{
    char folder[PATH_BYTES];
    int used = snprintf(folder, sizeof folder, "%s%s", root, mount);
    char *top = folder + used;

    if (used < 0 || used >= PATH_BYTES) return;
    if (snprintf(top, sizeof folder - (size_t)used, "%s", group) >= PATH_BYTES - used) *top = '\0';
    for (;;) {
        int64_t quota = 0, period = 0;
        char *slash;

        if (read_limit(folder, second, &quota, &period) && quota > 0 && period > 0) {
            int64_t cores = quota / period + (quota % period != 0);

            if (*least == 0 || cores < *least) *least = (int32_t)(cores < INT32_MAX ? cores : 0);
        }
        slash = strrchr(top, '/');
        if (!slash) return;
        *slash = '\0';
    }
}

/* Is "cpu" among names with commas between them? */
static bool holds_cpu(const char *names, size_t bytes)
{
    while (bytes > 0) {
        const char *comma = memchr(names, ',', bytes);
        size_t length = comma ? (size_t)(comma - names) : bytes;

        if (length == 3 && memcmp(names, "cpu", 3) == 0) return true;
        if (!comma) return false;
        names += length + 1;
        bytes -= length + 1;
    }
    return false;
}

int32_t spc_cpu_quota(const char *root)
{
    char line[LINE_BYTES];
    int32_t least = 0;
    int used = snprintf(line, sizeof line, "%s/proc/self/cgroup", root);
    FILE *file = used > 0 && used < LINE_BYTES ? fopen(line, "r") : NULL;

    while (file && fgets(line, sizeof line, file)) { /* number:controllers:path */
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;

        if (!group) continue;
        names++;
        group[strcspn(group, "\n")] = '\0';
        if (group == names) {
            take_limits(root, "/sys/fs/cgroup", group + 1, true, &least);
        } else if (holds_cpu(names, (size_t)(group - names))) {
            take_limits(root, "/sys/fs/cgroup/cpu", group + 1, false, &least);
        }
    }
    if (file) (void)fclose(file);
    return least;
}
