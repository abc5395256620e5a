/* SPDX-License-Identifier: Apache-2.0 */
/* verify.cpp - cuda/verify.cu for a C++ compiler; see cuda_runtime_api.h. */
#include "cuda/verify.cu"
