/* SPDX-License-Identifier: Apache-2.0 */
/* comm_nccl_none.c - ranks over NCCL in a build without its header, which says so. */
#include "comm_nccl.h"

static spc_status unsupported(spc_error *err)
{
    return spc_error_set(err, SPC_EUNSUPPORTED,
                         "nccl: this build of spc was made without NCCL's header: install NCCL "
                         "(nccl.h) beside the CUDA toolkit and build again, or run one rank");
}

spc_status spc_nccl_version(const char *library, int32_t *version, spc_error *err)
{
    (void)library;
    (void)version;
    return unsupported(err);
}

spc_status spc_nccl_id(const char *library, char id[SPC_NCCL_ID_BYTES], spc_error *err)
{
    (void)library;
    (void)id;
    return unsupported(err);
}

spc_status spc_nccl_open(const char *library, const char id[SPC_NCCL_ID_BYTES], int32_t rank,
                         int32_t world, int32_t timeout_ms, spc_comm *beside, spc_device_comm **out,
                         spc_error *err)
{
    (void)library;
    (void)id;
    (void)rank;
    (void)world;
    (void)timeout_ms;
    (void)beside;
    *out = NULL;
    return unsupported(err);
}

spc_status spc_nccl_adopt(const char *library, void *handle, int32_t timeout_ms,
                          spc_device_comm **out, spc_error *err)
{
    (void)library;
    (void)handle;
    (void)timeout_ms;
    *out = NULL;
    return unsupported(err);
}
