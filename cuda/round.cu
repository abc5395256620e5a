/* SPDX-License-Identifier: Apache-2.0 */
/* round.cu - between the forwards of a round: a thread per sequence, little to do, no host. */
#include "round.h"

#include "ops.cuh"

static __device__ __forceinline__ uint64_t now_ns(void)
{
#ifdef __CUDACC__
    uint64_t ns;

    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return ns;
#else
    return fiber_now_ns();
#endif
}

static __device__ __forceinline__ bool is_stop(const spc_round_note_args &a, int32_t k,
                                               int32_t token)
{
    for (int32_t i = 0; i < a.stops[k]; i++) {
        if (a.stop[(int64_t)k * a.stop_stride + i] == token) return true;
    }
    return false;
}

static __global__ void __launch_bounds__(OPS_THREADS)
    note_kernel(const __grid_constant__ spc_round_note_args a)
{
    const int32_t k = (int32_t)(blockIdx.x * OPS_THREADS + threadIdx.x);

    if (k == 0 && a.clock) *a.clock = now_ns();
    if (k >= a.drawn) return;
    if (!a.drafts) {
        a.row_token[a.next[k]] = a.token[k] < 0 ? 0 : a.token[k];
        return;
    }

    const bool alive = a.step < a.drafts[k];
    const int32_t token = alive ? a.token[k] : 0;

    if (alive) {
        a.draft[(int64_t)k * a.draft_stride + a.step] = token;
        a.all_stats[(int64_t)k * a.draft_stride + a.step] = a.stats[k];
        if (token < 0) {
            a.drafts[k] = a.step;
            a.failed[k] = 1;
        }
        if (token < 0 || is_stop(a, k, token)) {
            if (token >= 0) a.drafts[k] = a.step + 1;
            a.bonus[k] = 0;
            a.late[k] = 0;
        }
    }
    if (a.next[k] >= 0) a.row_token[a.next[k]] = token < 0 ? 0 : token;
    if (a.score[k] >= 0) a.row_token[a.score[k]] = token < 0 ? 0 : token;
}

static __global__ void __launch_bounds__(OPS_THREADS) stamp_kernel(uint64_t *clock)
{
    if (threadIdx.x == 0) *clock = now_ns();
}

/* One block: the condition is set once. */
static __global__ void __launch_bounds__(OPS_THREADS)
    late_kernel(const __grid_constant__ spc_round_late_args a)
{
    int any = 0;

    for (int32_t k = (int32_t)threadIdx.x; k < a.lanes; k += OPS_THREADS) {
        const spc_verdict *v = &a.verdict[k];

        if (v->accepted < a.drafts[k] ||
            (v->status & (SPC_STATUS_BAD_DRAFTER | SPC_STATUS_BAD_VERIFIER))) {
            a.late[k] = 0;
        }
        any |= a.late[k];
    }
    any = __syncthreads_or(any);
    if (threadIdx.x != 0) return;
    *a.clock = now_ns();
#if !defined(CUDART_VERSION) || CUDART_VERSION >= 13000
    if (a.condition) cudaGraphSetConditional(a.condition, any != 0);
#endif
}

cudaError_t spc_cuda_round_note(const spc_round_note_args *a, cudaStream_t stream)
{
    if (a->drawn < 1 || (a->drafts && (a->step < 0 || a->step >= a->draft_stride))) {
        return cudaErrorInvalidValue;
    }
    return launch_op(note_kernel, (a->drawn + OPS_THREADS - 1) / OPS_THREADS, *a, stream);
}

cudaError_t spc_cuda_round_stamp(uint64_t *clock, cudaStream_t stream)
{
    return launch_op(stamp_kernel, 1, clock, stream);
}

cudaError_t spc_cuda_round_late(const spc_round_late_args *a, cudaStream_t stream)
{
    if (a->lanes < 1) return cudaErrorInvalidValue;
    return launch_op(late_kernel, 1, *a, stream);
}
