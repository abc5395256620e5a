/* SPDX-License-Identifier: Apache-2.0 */
/* tensor.h - element types of weights, and a named view of one tensor. */
#ifndef SPC_WEIGHTS_TENSOR_H
#define SPC_WEIGHTS_TENSOR_H

#include <stdint.h>

/* id, name, bytes of a block, elements of a block.  Types with blocks of one element are named as
 * in safetensors; the others are ggml's quantised ones, whose rows are whole blocks (quant.h says
 * what a block holds).  Which of them a backend can multiply is the backend's own business; all of
 * them can be read and listed. */
#define SPC_DTYPE_MAP(X)        \
    X(F32, "F32", 4, 1)         \
    X(F16, "F16", 2, 1)         \
    X(BF16, "BF16", 2, 1)       \
    X(F64, "F64", 8, 1)         \
    X(F8_E4M3, "F8_E4M3", 1, 1) \
    X(F8_E5M2, "F8_E5M2", 1, 1) \
    X(I64, "I64", 8, 1)         \
    X(I32, "I32", 4, 1)         \
    X(I16, "I16", 2, 1)         \
    X(I8, "I8", 1, 1)           \
    X(U64, "U64", 8, 1)         \
    X(U32, "U32", 4, 1)         \
    X(U16, "U16", 2, 1)         \
    X(U8, "U8", 1, 1)           \
    X(BOOL, "BOOL", 1, 1)       \
    X(Q8_0, "Q8_0", 34, 32)     \
    X(Q4_0, "Q4_0", 18, 32)     \
    X(Q4_1, "Q4_1", 20, 32)     \
    X(Q5_0, "Q5_0", 22, 32)     \
    X(Q5_1, "Q5_1", 24, 32)     \
    X(IQ4_NL, "IQ4_NL", 18, 32) \
    X(Q2_K, "Q2_K", 84, 256)    \
    X(Q3_K, "Q3_K", 110, 256)   \
    X(Q4_K, "Q4_K", 144, 256)   \
    X(Q5_K, "Q5_K", 176, 256)   \
    X(Q6_K, "Q6_K", 210, 256)   \
    X(IQ4_XS, "IQ4_XS", 136, 256)

#define SPC_DTYPE_ENUM(id, name, bytes, elements) SPC_DTYPE_##id,
typedef enum { SPC_DTYPE_MAP(SPC_DTYPE_ENUM) SPC_DTYPE_COUNT } spc_dtype;
#undef SPC_DTYPE_ENUM

enum { SPC_TENSOR_MAX_RANK = 8 };

/* A view: name and data are borrowed from the bundle and live as long as it does. */
typedef struct {
    const char *name;                   /* "model.layers.0.mlp.up_proj.weight" */
    spc_dtype dtype;                    /* of every element */
    int32_t rank;                       /* 0 (a scalar) to SPC_TENSOR_MAX_RANK */
    int64_t shape[SPC_TENSOR_MAX_RANK]; /* [rank], outermost first, row-major */
    const void *data; /* shape's product of elements; aligned for dtype, blocks not */
    uint64_t bytes;   /* of data */
} spc_tensor;

const char *spc_dtype_name(spc_dtype dtype);

/* Bytes of a block, elements of a block (1: not quantised).  Inline, so that kernels made for one
 * type have them as constants. */
static inline uint32_t spc_dtype_bytes(spc_dtype dtype)
{
#define SPC_DTYPE_BYTES(id, name, bytes, elements) \
    case SPC_DTYPE_##id: return bytes;
    switch (dtype) {
        SPC_DTYPE_MAP(SPC_DTYPE_BYTES)
    default: return 0;
    }
#undef SPC_DTYPE_BYTES
}

static inline uint32_t spc_dtype_elements(spc_dtype dtype)
{
#define SPC_DTYPE_ELEMENTS(id, name, bytes, elements) \
    case SPC_DTYPE_##id: return elements;
    switch (dtype) {
        SPC_DTYPE_MAP(SPC_DTYPE_ELEMENTS)
    default: return 1;
    }
#undef SPC_DTYPE_ELEMENTS
}

#endif
