/* SPDX-License-Identifier: Apache-2.0 */
/* shard.cpp - cuda/shard.cu for a C++ compiler; see cuda_runtime_api.h. */
#include "cuda/shard.cu"
