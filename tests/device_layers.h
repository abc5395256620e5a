/* SPDX-License-Identifier: Apache-2.0 */
/* device_layers.h - random operands of kernels, and linear layers run in strips. */
#ifndef SPC_TESTS_DEVICE_LAYERS_H
#define SPC_TESTS_DEVICE_LAYERS_H

#include "cuda/ops.h"

#include "device_memory.h"
#include "toyrows.h"

static inline float *random_floats(dice *d, size_t count, double spread)
{
    float *x = shared(count * sizeof *x);

    for (size_t i = 0; i < count; i++) x[i] = (float)(spread * dice_gauss(d));
    return x;
}

/* Weights of 16 bits. */
static inline spc_cuda_matrix random_halves(dice *d, spc_weight_type type, int32_t rows,
                                            int32_t cols)
{
    int32_t stride = spc_cuda_stride(type, cols);
    uint16_t *data = shared((size_t)rows * (size_t)stride * sizeof *data);

    for (int32_t i = 0; i < rows * stride; i++) {
        float x = (float)dice_gauss(d);
        uint32_t bits;

        memcpy(&bits, &x, sizeof bits);
        data[i] = (uint16_t)(bits >> 16);
        if (type == SPC_WEIGHT_F16) { /* 2^-7 to 2^1, subnormals now and then */
            uint32_t exponent = bits % 31 == 0 ? 0 : 8 + bits / 31 % 9;

            data[i] = (uint16_t)((bits >> 31) << 15 | exponent << 10 | (bits >> 7 & 1023));
        }
        if (i % stride >= cols) data[i] = 0;
    }
    return (spc_cuda_matrix){
        .data = data, .type = type, .rows = rows, .cols = cols, .stride = stride};
}

/* Scratch memory: tickets are zeros, what blocks leave is garbage. */
static inline void *scratch_memory(void)
{
    void *scratch = shared(SPC_LINEAR_SCRATCH);

    memset(scratch, 0, 4096 * sizeof(uint32_t));
    return scratch;
}

/* All rows by launches of so many; malloc'd [rows, width]. */
static inline float *in_strips(cudaError_t (*launch)(const spc_linear_args *, cudaStream_t),
                               const spc_linear_args *all, int32_t strip)
{
    size_t row = (size_t)all->width * sizeof(float), bytes = (size_t)all->rows * row;
    float *out = malloc(bytes);
    spc_linear_args a = *all;

    cr_assert_not_null(out);
    memset(all->out, 0xff, bytes);
    for (int32_t at = 0; at < all->rows; at += strip) {
        a.rows = all->rows - at < strip ? all->rows - at : strip;
        a.in = all->in + (int64_t)at * all->part[0].cols;
        a.out = all->out + (int64_t)at * all->width;
        wait_for(launch(&a, NULL), "linear");
    }
    memcpy(out, all->out, bytes);
    return out;
}

#endif
