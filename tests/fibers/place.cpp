/* SPDX-License-Identifier: Apache-2.0 */
/* place.cpp - bench/verify_place_cuda.cu for a C++ compiler; see cuda_runtime_api.h. */
#include "bench/verify_place_cuda.cu"
