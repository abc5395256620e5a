/* SPDX-License-Identifier: Apache-2.0 */
/* queue.cpp - cuda/queue.cu for a C++ compiler; see cuda_runtime_api.h. */
#include "cuda/queue.cu"

/* Jobs are copied as a whole, also what their kind leaves alone; and a tile of a pair of rows is
 * read of both stages, also where one of the rows is not there: it counts for nothing. */
static const bool told = (fiber_may_be_left(scratch_of_block, sizeof scratch_of_block), true);
