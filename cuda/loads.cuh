/* SPDX-License-Identifier: Apache-2.0 */
/* loads.cuh - values of a row on their way to the threads of a block. */
#ifndef SPC_CUDA_LOADS_CUH
#define SPC_CUDA_LOADS_CUH

#include "ops.cuh"

/* COUNT values of a row of so many columns, OPS_THREADS apart, from column c on; 0 behind its end.
 * All are on their way together: where a value is stored before the next is loaded, compilers leave
 * the load behind the store, which might be to its address, and each waits for the one before. */
template <int COUNT>
static __device__ __forceinline__ void load_apart(const float *in, int32_t c, int32_t cols,
                                                  float *out)
{
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        out[i] = c + i * OPS_THREADS < cols ? in[c + i * OPS_THREADS] : 0.0f;
    }
}

#endif
