/* SPDX-License-Identifier: Apache-2.0 */
/* engine_kernels.c - an engine reads a table of kernels, or makes one. */
#include "engine.h"

#include "device.h"
#include "entry.h"

#include <string.h>

enum { RUNS = 11, TOGETHER = 4 };

spc_status spc_use_kernels(const spc_backend_ops *ops, spc_backend *backend, const char *path,
                           spc_kernels *table, spc_error *err)
{
    spc_status status;

    if (!path) return SPC_OK;
    if (!ops->use_kernels) {
        return spc_error_set(
            err, SPC_EUSAGE,
            "kernels: expected one GPU for both models, found %s: leave it out, or "
            "use device cuda by itself",
            ops->device(backend));
    }
    status = spc_kernels_read(path, table, err);
    return status == SPC_OK ? ops->use_kernels(backend, table, err) : status;
}

static uint64_t machine_ns(void *user)
{
    (void)user;
    return spc_now_ns();
}

static spc_status no_gpu(const char *device, spc_error *err)
{
    return spc_error_set(err, SPC_EUSAGE, "kernels are chosen for one GPU: found %.200s", device);
}

/* Not what an engine would say of such a build, to use the CPU: it has no kernels to choose from.
 * What else is wrong with the options is told first. */
static spc_status no_cuda(const spc_engine_options *options, spc_error *err)
{
    spc_engine_options o = *options;
    spc_status status;

    if (spc_device_is_cuda(o.device) || strcmp(o.device, "auto") == 0) o.device = "cpu";
    status = spc_engine_options_check(&o, err);
    if (status != SPC_OK) return status;
    return spc_error_set(err, SPC_EUNSUPPORTED,
                         "kernels are chosen for one GPU, and this build has no CUDA: build with "
                         "-DSPC_CUDA=ON; on a CPU there is nothing to choose");
}

spc_status spc_tune_engine(spc_engine *engine, const spc_tuning *how, const char *path,
                           spc_error *err)
{
    spc_kernels table = {0};
    spc_status status = SPC_OK;

    if (!engine->ops->tune) return no_gpu(engine->ops->device(engine->backend), err);
    status = engine->ops->tune(engine->verifier.runner, how, &table, err);
    if (status == SPC_OK && engine->drafter.runner) {
        status = engine->ops->tune(engine->drafter.runner, how, &table, err);
    }
    if (status == SPC_OK) status = spc_kernels_write(&table, path, err);
    spc_kernels_clear(&table);
    return status;
}

spc_status spc_tune_kernels(const spc_engine_options *options, const char *path, spc_error *err)
{
    static const spc_tuning how = {machine_ns, NULL, RUNS, TOGETHER};
    spc_engine_options o;
    spc_engine *engine;
    spc_status status = spc_entry_given(options, "options", err);

    if (status == SPC_OK) status = spc_entry_given(path, "path", err);
    if (status != SPC_OK) return status;
    if (!options->device || strcmp(options->device, "cpu") == 0) return no_gpu("cpu", err);
    if (spc_options_ranks(options) > 1) return no_gpu(options->device, err);
    status = spc_kernels_place(path, err);
    o = *options;
    o.kernels = NULL;
    if (status == SPC_OK && !spc_device_knows_cuda()) status = no_cuda(&o, err);
    if (status == SPC_OK) status = spc_engine_open(&o, &engine, err);
    if (status != SPC_OK) return status;
    status = spc_tune_engine(engine, &how, path, err);
    spc_engine_close(engine);
    return status;
}
