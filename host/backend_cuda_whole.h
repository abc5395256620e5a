/* SPDX-License-Identifier: Apache-2.0 */
/* backend_cuda_whole.h - a whole round between the two files it takes: backend_cuda_whole.c writes
 * down what it will be and reads what became of it, backend_cuda_whole_run.c runs it. */
#ifndef SPC_HOST_BACKEND_CUDA_WHOLE_H
#define SPC_HOST_BACKEND_CUDA_WHOLE_H

#include "backend_cuda.h"

/* A round under way. */
typedef struct {
    spc_runner *drafter, *verifier; /* drafter NULL: there is none */
    cuda_whole_shape shape;
    cuda_whole host, device;
    uint64_t condition; /* of the graph under record; 0: none */
} whole_round;

/* Send what the host wrote, run the round, fetch what the device wrote: one graph, or launches
 * where the shape is new or nothing can be recorded.  Waits. */
spc_status spc_cuda_execute_whole(whole_round *round, spc_error *err);

#endif
