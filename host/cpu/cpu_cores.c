/* SPDX-License-Identifier: Apache-2.0 */
/* cpu_cores.c - a core's hardware threads share its arithmetic and its way to memory: of a second
 * thread there little is expected (as llama.cpp's default has it; not measured here), and it is one
 * more to wait for behind every matrix. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif

#include "cpu_cores.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__linux__)

enum { LIST_BYTES = 1024 };

/* Is a processor that is allowed in "0,64" or "4-7,12" in front of this one? */
static bool has_earlier(const char *list, int32_t processor, const cpu_set_t *allowed)
{
    while (*list >= '0' && *list <= '9') {
        char *end;
        long first = strtol(list, &end, 10), last = first;

        if (*end == '-') last = strtol(end + 1, &end, 10);
        for (long i = first; i <= last && i < processor; i++) {
            if (i < CPU_SETSIZE && CPU_ISSET((size_t)i, allowed)) return true;
        }
        if (*end != ',') return false;
        list = end + 1;
    }
    return false;
}

/* The first of its core's threads that are allowed: the core is counted by it. */
static bool stands_for_its_core(const char *root, int32_t processor, const cpu_set_t *allowed)
{
    char path[LIST_BYTES], list[LIST_BYTES];
    int used =
        snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
                 root, (int)processor);
    FILE *file = used > 0 && used < LIST_BYTES ? fopen(path, "r") : NULL;
    bool earlier = false;

    if (!file) return true;
    if (fgets(list, sizeof list, file)) earlier = has_earlier(list, processor, allowed);
    (void)fclose(file);
    return !earlier;
}

int32_t spc_cpu_cores(const char *root)
{
    cpu_set_t allowed;
    int32_t cores = 0;

    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) { /* of more than 1024 processors */
        long all = sysconf(_SC_NPROCESSORS_ONLN);

        return all < 1 ? 1 : all < CPU_SETSIZE ? (int32_t)all : CPU_SETSIZE;
    }
    for (int32_t i = 0; i < CPU_SETSIZE; i++) {
        cores += CPU_ISSET((size_t)i, &allowed) && stands_for_its_core(root, i, &allowed);
    }
    return cores < 1 ? 1 : cores;
}

#else

int32_t spc_cpu_cores(const char *root)
{
    long all = sysconf(_SC_NPROCESSORS_ONLN);

    (void)root;
    return all < 1 ? 1 : all < INT16_MAX ? (int32_t)all : INT16_MAX;
}

#endif
