/* SPDX-License-Identifier: Apache-2.0 */
/* tensor.c - names and sizes of element types. */
#include "tensor.h"

typedef struct {
    const char *name;
    uint32_t bytes, elements;
} dtype_info;

#define SPC_DTYPE_INFO(id, name, bytes, elements) {name, bytes, elements},
static const dtype_info infos[] = {SPC_DTYPE_MAP(SPC_DTYPE_INFO)};
#undef SPC_DTYPE_INFO

const char *spc_dtype_name(spc_dtype dtype)
{
    return (unsigned)dtype < SPC_DTYPE_COUNT ? infos[dtype].name : "unknown";
}

uint32_t spc_dtype_bytes(spc_dtype dtype)
{
    return (unsigned)dtype < SPC_DTYPE_COUNT ? infos[dtype].bytes : 0;
}

uint32_t spc_dtype_elements(spc_dtype dtype)
{
    return (unsigned)dtype < SPC_DTYPE_COUNT ? infos[dtype].elements : 1;
}
