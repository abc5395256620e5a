/* SPDX-License-Identifier: Apache-2.0 */
/* device_layers.h - random operands of kernels, and linear layers run in strips. */
#ifndef SPC_TESTS_DEVICE_LAYERS_H
#define SPC_TESTS_DEVICE_LAYERS_H

#include "cuda/ops.h"
#include "host/cpu/cpu_kernels.h"

#include "device_memory.h"
#include "toyrows.h"

static inline float *random_floats(dice *d, size_t count, double spread)
{
    float *x = shared(count * sizeof *x);

    for (size_t i = 0; i < count; i++) x[i] = (float)(spread * dice_gauss(d));
    return x;
}

/* What the CPU calls the first types of the device. */
static const spc_dtype twin_types[] = {SPC_DTYPE_F32, SPC_DTYPE_BF16, SPC_DTYPE_F16};

/* A random matrix of one of them on the device, and the same as the CPU reads it (malloc'd). */
static inline spc_cuda_matrix random_twins(dice *d, spc_weight_type type, int32_t rows,
                                           int32_t cols, spc_matrix *packed)
{
    size_t bytes = type == SPC_WEIGHT_F32 ? 4 : 2;
    int32_t stride = spc_cuda_stride(type, cols);
    size_t row_bytes = (size_t)cols * bytes, pitch = (size_t)stride * bytes;
    char *data = shared((size_t)rows * pitch), *copy = malloc((size_t)rows * row_bytes);

    cr_assert_not_null(copy);
    memset(data, 0, (size_t)rows * pitch);
    for (int32_t i = 0; i < rows * cols; i++) {
        float x = (float)dice_gauss(d);
        uint32_t bits;

        memcpy(&bits, &x, sizeof bits);
        if (type == SPC_WEIGHT_F32) ((float *)(void *)copy)[i] = x;
        if (type == SPC_WEIGHT_BF16) ((uint16_t *)(void *)copy)[i] = (uint16_t)(bits >> 16);
        if (type == SPC_WEIGHT_F16) { /* 2^-7 to 2^1, subnormals now and then */
            uint16_t exponent = (uint16_t)(bits % 31 == 0 ? 0 : 8 + bits / 31 % 9);

            ((uint16_t *)(void *)copy)[i] =
                (uint16_t)((bits >> 31) << 15 | exponent << 10 | (bits >> 7 & 1023));
        }
    }
    for (int32_t r = 0; r < rows; r++) {
        memcpy(data + (size_t)r * pitch, copy + (size_t)r * row_bytes, row_bytes);
    }
    *packed = (spc_matrix){copy, twin_types[type], rows, cols, {0}};
    return (spc_cuda_matrix){
        .data = data, .type = type, .rows = rows, .cols = cols, .stride = stride};
}

static inline void free_twins(spc_cuda_matrix *m, spc_matrix *packed)
{
    unshare((void *)(uintptr_t)m->data);
    free((void *)(uintptr_t)packed->data);
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
    void *scratch = on_device(SPC_LINEAR_SCRATCH);

    ok(cudaMemset(scratch, 0, 4096 * sizeof(uint32_t)), "tickets");
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

/* The bits of `whole` [rows, width] in strips of each of these sizes.
 *
 * what   of the weights, for messages */
static inline void expect_bits_in_strips(cudaError_t (*launch)(const spc_linear_args *,
                                                               cudaStream_t),
                                         const spc_linear_args *all, const float *whole,
                                         const int32_t *strips, size_t count, const char *what)
{
    for (size_t i = 0; i < count; i++) {
        float *parts = in_strips(launch, all, strips[i]);

        cr_assert(memcmp(parts, whole, (size_t)all->rows * (size_t)all->width * sizeof *whole) == 0,
                  "%s, %d columns: other bits in strips of %d", what, (int)all->part[0].cols,
                  (int)strips[i]);
        free(parts);
    }
}

/* What a layer has but its matrices. */
static inline void free_layer(const spc_linear_args *a)
{
    for (int32_t p = 0; p < a->parts; p++) unshare((void *)(uintptr_t)a->bias[p]);
    unshare((void *)(uintptr_t)a->in);
    unshare(a->out);
    unshare(a->scratch);
}

#endif
