/* SPDX-License-Identifier: Apache-2.0 */
/* round.cu - between the forwards of a round: a thread per sequence, little to do, no host. */
#include "round.h"

#include "rules/synthetic.h"

#include "clock.cuh"
#include "ops.cuh"

/* stop, count: of one lane */
static __device__ __forceinline__ bool is_stop(const int32_t *stop, int32_t count, int32_t token)
{
    for (int32_t i = 0; i < count; i++) {
        if (stop[i] == token) return true;
    }
    return false;
}

static __device__ __forceinline__ void set_condition(const spc_round_condition &condition,
                                                     bool value)
{
#if !defined(CUDART_VERSION) || CUDART_VERSION >= 13000
    if (condition.exists) cudaGraphSetConditional(condition.handle, value);
#endif
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
    const int32_t *stop = a.stop + (int64_t)k * a.stop_stride;

    if (alive) {
        a.draft[(int64_t)k * a.draft_stride + a.step] = token;
        a.all_stats[(int64_t)k * a.draft_stride + a.step] = a.stats[k];
        if (token < 0) {
            a.drafts[k] = a.step;
            a.failed[k] = 1;
        }
        if (token < 0 || is_stop(stop, a.stops[k], token)) {
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

static __global__ void __launch_bounds__(OPS_THREADS)
    synthetic_kernel(const __grid_constant__ spc_round_synthetic_args a)
{
    const int32_t k = (int32_t)(blockIdx.x * OPS_THREADS + threadIdx.x);

    if (k >= a.lanes) return;
    spc_synthetic_verdict(&a.verdict[k], &a.params[k], a.position[k],
                          a.draft + (int64_t)k * a.draft_stride, a.drafts[k], a.bonus[k] != 0,
                          a.rate);
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
    set_condition(a.condition, any != 0);
}

/* Follow the tokens of a verdict. */
static __device__ __forceinline__ void emit(spc_round_outcome *o, const spc_verdict *v,
                                            const int32_t *stop, int32_t stops)
{
    for (int32_t i = 0; i < v->count; i++) {
        o->before = o->pending;
        o->pending = v->token[i];
        if (is_stop(stop, stops, o->pending)) o->live = 0;
    }
    o->count += v->count;
    if (v->status & (SPC_STATUS_BAD_DRAFTER | SPC_STATUS_BAD_VERIFIER)) o->live = 0;
}

static __global__ void __launch_bounds__(OPS_THREADS)
    end_kernel(const __grid_constant__ spc_round_end_args a)
{
    const int32_t k = (int32_t)(blockIdx.x * OPS_THREADS + threadIdx.x);

    if (k >= a.lanes) return;

    const int32_t *stop = a.stop + (int64_t)k * a.stop_stride;
    spc_round_outcome o = {0, a.pending[k], a.pending[k], 1};

    emit(&o, &a.verdict[k], stop, a.stops[k]);
    if (a.late[k]) emit(&o, &a.again[k], stop, a.stops[k]);
    if (a.failed[k] && a.verdict[k].accepted == a.drafts[k]) o.live = 0; /* it got there */
    if (!o.live && o.count == 0) o.count = 1; /* beside others it stays where rows may be */
    a.outcome[k] = o;
}

/* Numbers of a lane by itself, behind those of all rows. */
static __device__ __forceinline__ void go_on_lane(const spc_round_go_on_args &a, int32_t k)
{
    const spc_round_outcome &o = a.outcome[a.from[k]];
    const int32_t less = a.guess[k] - o.count;

    a.position[k] -= less;
    a.late_position[k] -= less;
    for (int32_t i = 0; i < a.steps; i++) a.draw_position[(int64_t)i * a.lanes + k] -= less;
    if (a.salt[k] != 0) a.salt[k] -= (uint32_t)less;
    a.pending[k] = o.pending;
}

/* All threads of a block ask together. */
static __device__ __forceinline__ bool any_live(const spc_round_outcome *outcome,
                                                const int32_t *from, int32_t lanes)
{
    int live = 0;

    for (int32_t k = (int32_t)threadIdx.x; k < lanes; k += OPS_THREADS) {
        live |= outcome[from[k]].live;
    }
    return __syncthreads_or(live) != 0;
}

/* The first block asks whether any lane is live: the condition is set once. */
static __global__ void __launch_bounds__(OPS_THREADS)
    go_on_kernel(const __grid_constant__ spc_round_go_on_args a)
{
    const int32_t i = (int32_t)(blockIdx.x * OPS_THREADS + threadIdx.x);
    bool live;

    if (i < *a.patches) {
        const spc_round_patch patch = a.patch[i];
        const spc_round_outcome &o = a.outcome[a.from[patch.lane]];
        int32_t *at = a.base + patch.at;

        if (patch.kind == SPC_PATCH_SHIFT) {
            *at -= a.guess[patch.lane] - o.count;
        } else {
            *at = patch.kind == SPC_PATCH_PENDING ? o.pending : o.before;
        }
    }
    if (i < a.lanes) go_on_lane(a, i);
    if (blockIdx.x != 0) return;
    live = any_live(a.outcome, a.from, a.lanes);
    if (threadIdx.x != 0) return;
    *a.clock = now_ns();
    *a.decided = 0;
    set_condition(a.condition, live);
}

static __global__ void __launch_bounds__(OPS_THREADS)
    ask_kernel(const __grid_constant__ spc_round_ask_args a)
{
    const bool live = any_live(a.outcome, a.from, a.lanes);

    if (threadIdx.x == 0) set_condition(a.condition, live);
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

cudaError_t spc_cuda_round_synthetic(const spc_round_synthetic_args *a, cudaStream_t stream)
{
    if (a->lanes < 1) return cudaErrorInvalidValue;
    return launch_op(synthetic_kernel, (a->lanes + OPS_THREADS - 1) / OPS_THREADS, *a, stream);
}

cudaError_t spc_cuda_round_late(const spc_round_late_args *a, cudaStream_t stream)
{
    if (a->lanes < 1) return cudaErrorInvalidValue;
    return launch_op(late_kernel, 1, *a, stream);
}

cudaError_t spc_cuda_round_end(const spc_round_end_args *a, cudaStream_t stream)
{
    if (a->lanes < 1) return cudaErrorInvalidValue;
    return launch_op(end_kernel, (a->lanes + OPS_THREADS - 1) / OPS_THREADS, *a, stream);
}

cudaError_t spc_cuda_round_go_on(const spc_round_go_on_args *a, cudaStream_t stream)
{
    const int32_t most = a->most_patches > a->lanes ? a->most_patches : a->lanes;

    if (a->lanes < 1) return cudaErrorInvalidValue;
    return launch_op(go_on_kernel, (most + OPS_THREADS - 1) / OPS_THREADS, *a, stream);
}

cudaError_t spc_cuda_round_ask(const spc_round_ask_args *a, cudaStream_t stream)
{
    if (a->lanes < 1) return cudaErrorInvalidValue;
    return launch_op(ask_kernel, 1, *a, stream);
}

cudaError_t spc_cuda_round_load(void)
{
    cudaError_t code = load_op(note_kernel);

    if (code == cudaSuccess) code = load_op(stamp_kernel);
    if (code == cudaSuccess) code = load_op(synthetic_kernel);
    if (code == cudaSuccess) code = load_op(late_kernel);
    if (code == cudaSuccess) code = load_op(end_kernel);
    if (code == cudaSuccess) code = load_op(go_on_kernel);
    return code == cudaSuccess ? load_op(ask_kernel) : code;
}
