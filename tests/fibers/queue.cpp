/* SPDX-License-Identifier: Apache-2.0 */
/* queue.cpp - cuda/queue.cu for a C++ compiler; see cuda_runtime_api.h. */
#include "cuda/queue.cu"
