/* SPDX-License-Identifier: Apache-2.0 */
/* tensor.c - names of element types. */
#include "tensor.h"

#define SPC_DTYPE_NAME(id, name, bytes, elements) name,
static const char *const names[] = {SPC_DTYPE_MAP(SPC_DTYPE_NAME)};
#undef SPC_DTYPE_NAME

const char *spc_dtype_name(spc_dtype dtype)
{
    return (unsigned)dtype < SPC_DTYPE_COUNT ? names[dtype] : "unknown";
}
