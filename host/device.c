/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - from what a user calls a device to an open backend. */
#include "device.h"

#include "host/ranks/backend_ranks.h"

#ifdef SPC_HAS_CUDA
#include "host/gpu/backend_cuda_place.h"
#include "host/gpu/backend_cuda_rank.h"
#include "host/gpu/backend_cuda_ranks.h"
#endif

#include <stdio.h>
#include <string.h>

bool spc_device_is_cuda(const char *device)
{
    return device && strncmp(device, "cuda", 4) == 0 && (!device[4] || device[4] == ':');
}

static spc_status refuse_cuda(spc_error *err)
{
    return spc_error_set(err, SPC_EUNSUPPORTED,
                         "device cuda: this build has no CUDA: build with -DSPC_CUDA=ON, or "
                         "use device cpu");
}

/* which: the number behind "cuda:", or NULL. */
static spc_status open_cuda(const char *which, spc_backend **out, spc_error *err)
{
#ifdef SPC_HAS_CUDA
    return spc_backend_cuda.open(out, 0, which, err);
#else
    (void)which;
    *out = NULL;
    return refuse_cuda(err);
#endif
}

static const spc_backend_ops *cuda_ops(void)
{
#ifdef SPC_HAS_CUDA
    return &spc_backend_cuda;
#else
    return NULL;
#endif
}

bool spc_device_knows_cuda(void)
{
    return cuda_ops() != NULL;
}

int32_t spc_device_ranks(const char *device)
{
    int32_t count = 1;

    if (!spc_device_is_cuda(device)) return 1;
    for (; *device; device++) count += *device == ',';
    return count;
}

/* Threads and vector units are the CPU's. */
static spc_status refuse_cpu_options(const char *device, spc_error *err)
{
    return spc_error_set(err, SPC_EUSAGE,
                         "device %.20s: threads and isa are the CPU's: leave them out, or "
                         "use device cpu",
                         device);
}

static spc_status unknown_device(const char *device, spc_error *err)
{
    return spc_error_set(err, SPC_EUSAGE,
                         "device: expected auto, cpu, cuda or cuda:N, found '%.40s'", device);
}

static bool is_cpu(const char *device)
{
    return !device || strcmp(device, "cpu") == 0 || strcmp(device, "auto") == 0;
}

spc_status spc_device_check(const char *device, int32_t threads, const char *isa, spc_error *err)
{
    if (is_cpu(device)) return SPC_OK;
    if (!spc_device_is_cuda(device)) return unknown_device(device, err);
    if (threads != 0 || isa) return refuse_cpu_options(device, err);
    return cuda_ops() ? SPC_OK : refuse_cuda(err);
}

spc_status spc_device_check_place(const char *device, int32_t threads, const char *isa,
                                  spc_error *err)
{
    if (spc_device_ranks(device) == 1) return spc_device_check(device, threads, isa, err);
    return spc_error_set(err, SPC_EUSAGE,
                         "device %.60s: a process has one GPU: expected cuda (the one of its "
                         "place on its machine) or cuda:N",
                         device);
}

spc_status spc_device_open_ranks(const char *device, int32_t world, int32_t threads,
                                 const char *isa, const spc_backend_ops **ops, spc_backend **out,
                                 spc_error *err)
{
    spc_status status = spc_device_check(device, threads, isa, err);

    *out = NULL;
    *ops = &spc_backend_ranks;
    if (status != SPC_OK) return status;
    if (is_cpu(device)) return spc_ranks_open(world, threads, isa, out, err);
#ifdef SPC_HAS_CUDA
    spc_cuda_ranks_options options = {.world = world, .devices = device};

    *ops = &spc_backend_cuda_ranks;
    return spc_cuda_ranks_open(&options, out, err);
#else
    return open_cuda(NULL, out, err);
#endif
}

spc_status spc_device_open_adopted(const char *device, void *comm, int32_t world,
                                   const spc_backend_ops **ops, spc_backend **out, spc_error *err)
{
    *out = NULL;
#ifdef SPC_HAS_CUDA
    *ops = &spc_backend_cuda_rank;
#else
    *ops = NULL;
#endif
    if (!spc_device_is_cuda(device) || spc_device_ranks(device) > 1) {
        return spc_error_set(err, SPC_EUSAGE,
                             "nccl_comm: expected device cuda or cuda:N, the communicator's, found "
                             "%.40s",
                             device ? device : "none");
    }
#ifdef SPC_HAS_CUDA
    return spc_cuda_open_adopted(device[4] ? device + 5 : NULL, comm, world, out, err);
#else
    (void)comm;
    (void)world;
    return open_cuda(NULL, out, err);
#endif
}

spc_status spc_device_open_place(const spc_device_place *p, const spc_backend_ops **ops,
                                 spc_backend **out, spc_error *err)
{
    spc_status status = spc_device_check_place(p->device, p->threads, p->isa, err);

    *out = NULL;
    *ops = &spc_backend_cpu;
    if (status != SPC_OK) return status;
    if (is_cpu(p->device)) return spc_backend_cpu.open(out, p->threads, p->isa, err);
#ifdef SPC_HAS_CUDA
    *ops = &spc_backend_cuda_rank;
    return spc_cuda_open_place(p->device[4] ? p->device + 5 : NULL, p->local, p->comm,
                               p->timeout_ms, out, err);
#else
    return open_cuda(NULL, out, err);
#endif
}

/* The first GPU, or why there is none: a machine without one is not worth a word. */
static bool open_first(spc_log_fn log, void *user, spc_backend **out)
{
    char line[SPC_ERROR_BYTES + 32];
    spc_error error;
    spc_status status = open_cuda(NULL, out, &error);

    if (status == SPC_OK) return true;
    if (log && status != SPC_EUNSUPPORTED && !strstr(error.message, "no device: ")) {
        (void)snprintf(line, sizeof line, "warning: %s; the CPU is used", error.message);
        log(user, line);
    }
    return false;
}

spc_status spc_device_open(const char *device, int32_t threads, const char *isa, spc_log_fn log,
                           void *user, const spc_backend_ops **ops, spc_backend **out,
                           spc_error *err)
{
    bool automatic = device && strcmp(device, "auto") == 0;
    spc_status status = spc_device_check(device, threads, isa, err);

    *out = NULL;
    *ops = &spc_backend_cpu;
    if (status != SPC_OK) return status;
    if (spc_device_is_cuda(device)) {
        *ops = cuda_ops();
        return open_cuda(device[4] ? device + 5 : NULL, out, err);
    }
    if (automatic && threads == 0 && !isa && cuda_ops() && open_first(log, user, out)) {
        *ops = cuda_ops();
        return SPC_OK;
    }
    return spc_backend_cpu.open(out, threads, isa, err);
}
