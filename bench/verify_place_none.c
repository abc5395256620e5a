/* SPDX-License-Identifier: Apache-2.0 */
/* verify_place_none.c - a build without CUDA has no device. */
#include "verify_place.h"

#include <string.h>

bool place_open_cuda(bench_place *place)
{
    memset(place, 0, sizeof *place);
    (void)spc_error_set(&place->error, SPC_EUNSUPPORTED,
                        "this build has no CUDA kernels (-DSPC_CUDA=ON)");
    return false;
}
