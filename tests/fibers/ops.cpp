/* SPDX-License-Identifier: Apache-2.0 */
/* ops.cpp - the kernels of the ops for a C++ compiler; see cuda_runtime_api.h. */
#include "cuda/attention.cu"
#include "cuda/embed.cu"
#include "cuda/glu.cu"
#include "cuda/linear.cu"
#include "cuda/linear_gemm.cu"
#include "cuda/linear_quant.cu"
#include "cuda/linear_row.cu"
#include "cuda/linear_tile.cu"
#include "cuda/linear_wide.cu"
#include "cuda/norm.cu"
#include "cuda/rope.cu"
#include "cuda/round.cu"
