/* SPDX-License-Identifier: Apache-2.0 */
/* verify_cuda.c - verification as a serving stack would call it: device pointers, a stream, a graph
 * that is captured once and replayed every step.
 *
 * Two sequences, one draft each, a vocabulary of four. */
#include <spc/verify.h>

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

enum { SEQUENCES = 2, VOCAB = 4 };

static void cuda(cudaError_t code)
{
    if (code == cudaSuccess) return;
    (void)fprintf(stderr, "verify_cuda: %s\n", cudaGetErrorString(code));
    exit(code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver ? 77 : 1);
}

static void *device(size_t bytes, const void *from)
{
    void *memory;

    cuda(cudaMalloc(&memory, bytes));
    if (from) cuda(cudaMemcpy(memory, from, bytes, cudaMemcpyHostToDevice));
    return memory;
}

int main(void)
{
    /* rows of both models, two for each sequence: the draft's, and the one behind it */
    static const float drafter[SEQUENCES * 2][VOCAB] = {
        {9, 0, 0, 0}, {0, 9, 0, 0}, {9, 0, 0, 0}, {0, 9, 0, 0}};
    static const float verifier[SEQUENCES * 2][VOCAB] = {
        {9, 0, 0, 0}, {0, 0, 0, 40}, {-40, 0, 40, 0}, {0, 9, 0, 0}};
    const int64_t row[SEQUENCES] = {0, 2}, position[SEQUENCES] = {7, 7};
    const int32_t drafts[SEQUENCES] = {1, 1}, draft[SEQUENCES] = {0, 0};
    spc_row_params params[SEQUENCES] = {{.sampling = {.temperature = 1, .top_p = 1}, .nucleus = 1}};
    int32_t token[SEQUENCES][2], count[SEQUENCES];
    size_t bytes = spc_workspace_bytes(SEQUENCES, 1, VOCAB);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t step;
    spc_error err;
    spc_verify_batch batch = {.sequences = SEQUENCES, .vocab = VOCAB, .max_drafts = 1};

    if (!spc_rule_parse("strict", &params[0].rule, NULL)) return 1;
    params[1] = params[0];
    params[1].seed = 1;

    batch.params = device(sizeof params, params);
    batch.drafter = (spc_logit_rows){.logits = {device(sizeof drafter, drafter), SPC_LOGITS_F32},
                                     .stride = VOCAB,
                                     .width = VOCAB};
    batch.verifier = (spc_logit_rows){.logits = {device(sizeof verifier, verifier), SPC_LOGITS_F32},
                                      .stride = VOCAB,
                                      .width = VOCAB};
    batch.drafter_row = batch.verifier_row = device(sizeof row, row);
    batch.drafts = device(sizeof drafts, drafts);
    batch.draft = device(sizeof draft, draft);
    batch.position = device(sizeof position, position);
    batch.token = device(sizeof token, NULL);
    batch.count = device(sizeof count, NULL);
    batch.status = device(SEQUENCES * sizeof *batch.status, NULL);
    batch.workspace = device(bytes, NULL);
    batch.workspace_bytes = bytes;

    cuda(cudaDeviceSynchronize()); /* copies are there: such a stream does not wait for them */
    cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    if (spc_cuda_kernels_load(NULL, &err)) { /* now, not while a graph is captured */
        (void)fprintf(stderr, "verify_cuda: %s\n", err.message);
        return 1;
    }
    if (spc_cuda_workspace_init(batch.workspace, bytes, stream, &err)) {
        (void)fprintf(stderr, "verify_cuda: %s\n", err.message);
        return 1;
    }
    cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    if (spc_cuda_verify_batch(&batch, stream, &err)) {
        (void)fprintf(stderr, "verify_cuda: %s\n", err.message);
        return 1;
    }
    cuda(cudaStreamEndCapture(stream, &graph));
    cuda(cudaGraphInstantiate(&step, graph, 0));
    for (int i = 0; i < 3; i++) cuda(cudaGraphLaunch(step, stream));
    cuda(cudaStreamSynchronize(stream));
    cuda(cudaMemcpy(token, batch.token, sizeof token, cudaMemcpyDeviceToHost));
    cuda(cudaMemcpy(count, batch.count, sizeof count, cudaMemcpyDeviceToHost));
    for (int s = 0; s < SEQUENCES; s++) {
        printf("sequence %d: %d tokens: %d %d\n", s, count[s], token[s][0], token[s][1]);
    }
    /* the first draft is kept and token 3 follows; the second cannot be kept, token 2 replaces it
     */
    return count[0] == 2 && token[0][0] == 0 && token[0][1] == 3 && count[1] == 1 &&
                   token[1][0] == 2 && token[1][1] == -1
               ? 0
               : 1;
}
