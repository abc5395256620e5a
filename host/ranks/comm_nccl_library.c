/* SPDX-License-Identifier: Apache-2.0 */
/* comm_nccl_library.c - NCCL, loaded when somebody asks for it: its calls by name, its version. */
#include "comm_nccl_rank.h"

#include <dlfcn.h>
#include <string.h>

/* The first version with all of NCCL_CALLS. */
enum { OLDEST = 21800 };

static void find(void *library, const char *name, void *out, const char **missing)
{
    void *found = dlsym(library, name);

    if (!found && !*missing) *missing = name;
    memcpy(out, &found, sizeof found); /* ISO C converts no object's address to a function's */
}

spc_status spc_nccl_load(const char *file, bool linked, spc_nccl_calls *api, int32_t *version,
                         spc_error *err)
{
    const char *name = file ? file : "libnccl.so.2", *missing = NULL;
    void *library = linked && !file ? dlopen(NULL, RTLD_NOW | RTLD_LOCAL) : NULL;
    int found = 0;

    if (!library || !dlsym(library, "ncclCommCount")) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    if (!library) {
        return spc_error_set(err, SPC_EDEVICE,
                             "nccl: cannot load %s, which several GPUs need: install NCCL 2.18 or "
                             "later where the loader looks, or run one rank: %s",
                             name, dlerror());
    }
#define NCCL_FIND(call, result, arguments) find(library, "nccl" #call, &api->call, &missing);
    NCCL_CALLS(NCCL_FIND)
#undef NCCL_FIND
    if (api->GetVersion && api->GetVersion(&found) != ncclSuccess) found = 0;
    if (missing || found < OLDEST) {
        return spc_error_set(err, SPC_EDEVICE,
                             "nccl: %s: expected NCCL 2.18 or later, found version %d%s%s", name,
                             found, missing ? " without " : "", missing ? missing : "");
    }
    if (version) *version = found;
    return SPC_OK;
}

spc_status spc_nccl_version(const char *library, int32_t *version, spc_error *err)
{
    spc_nccl_calls api;

    return spc_nccl_load(library, false, &api, version, err);
}

spc_status spc_nccl_id(const char *library, char id[SPC_NCCL_ID_BYTES], spc_error *err)
{
    spc_nccl_calls api;
    ncclUniqueId made;
    ncclResult_t result;
    spc_status status = spc_nccl_load(library, false, &api, NULL, err);

    _Static_assert(sizeof made == SPC_NCCL_ID_BYTES, "an id");
    if (status != SPC_OK) return status;
    result = api.GetUniqueId(&made);
    if (result != ncclSuccess) {
        return spc_error_set(err, SPC_EDEVICE, "nccl: no id for a group: %s: %s",
                             api.GetErrorString(result), api.GetLastError(NULL));
    }
    memcpy(id, &made, sizeof made);
    return SPC_OK;
}
