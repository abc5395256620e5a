/* SPDX-License-Identifier: Apache-2.0 */
/* linear.cu - ways that linear ops can go: which there are, and which is the default.
 *
 * Defaults come from counting what an H100's 132 multiprocessors need; no GPU has run them.  They
 * do not ask the device: a row's bits depend on them. */
#include "ops.h"

#include "linear_tile_quant.cuh"
#include "quant_planes.cuh"
#include "split.cuh"

enum {
    WARPS_WANTED = 2112, /* ROW, QUANT: 16 on each multiprocessor */
    BLOCKS_WANTED = 128, /* TILE: about one on each */
    TILES_FOR_2 = 256,   /* fewer blocks than twice the multiprocessors are not made larger */
    TILES_FOR_4 = 1024
};

static_assert((SPLIT_TICKETS + SPLIT_FLOATS) * sizeof(float) == SPC_LINEAR_SCRATCH, "in ops.h");

/* How often a lane loads weights of an output, were there one lane; TILE: how often a warp does. */
static int32_t units_of(const spc_linear_args *a, spc_linear_kernel kernel)
{
    const spc_cuda_matrix *m = &a->part[0];

    if (kernel == SPC_KERNEL_QUANT) return quant_units(m->stride);
    if (kernel == SPC_KERNEL_TILE && is_quantised(m->type)) {
        return quant_units(m->stride) / QUANT_LANES;
    }
    if (kernel == SPC_KERNEL_TILE) return m->stride / (TILE_VECTORS * 8);
    return m->stride / (m->type == SPC_WEIGHT_F32 ? 4 : 8);
}

static bool is_pair(const spc_linear_args *a)
{
    return a->parts == 2 && a->part[0].rows == a->part[1].rows;
}

static int32_t least_tiles(const spc_linear_args *a)
{
    return is_pair(a) || is_quantised(a->part[0].type) ? 2 : 1;
}

static int32_t most_tiles(const spc_linear_args *a)
{
    if (is_quantised(a->part[0].type)) return tile_quant_most(a->part[0].type);
    return a->part[0].type == SPC_WEIGHT_BF16 ? 4 : 2;
}

spc_linear_way spc_cuda_linear_default(const spc_linear_args *a, spc_linear_kernel kernel)
{
    const bool tile = kernel == SPC_KERNEL_TILE, quantised = is_quantised(a->part[0].type);
    const int32_t units = units_of(a, kernel), count = tiles_of(*a);
    const int32_t most = most_tiles(a);
    /* quantised weights take less time as blocks have more tiles */
    const int32_t wanted = tile ? BLOCKS_WANTED * OPS_WARPS * (quantised ? most : 1) : WARPS_WANTED;
    const int32_t together = tile ? count : count * 4; /* groups of 4 outputs have a warp */
    const int32_t least = tile ? 2 : 2 * OPS_LANES;    /* units for each of twice the slices */
    spc_linear_way way = {kernel, tile ? OPS_WARPS : 1, {0, 0}};

    while (way.slices < SPC_LINEAR_SLICES && together * way.slices < wanted &&
           units >= least * way.slices) {
        way.slices *= 2;
    }
    if (tile) {
        int32_t tiles = count >= TILES_FOR_4 ? 4 : count >= TILES_FOR_2 ? 2 : least_tiles(a);

        if (quantised && together * way.slices >= wanted) tiles = most;
        if (tiles > most) tiles = most;
        way.tiles[0] = way.tiles[1] = tiles;
    }
    return way;
}

static bool is_power(int32_t x, int32_t most)
{
    return x >= 1 && x <= most && (x & (x - 1)) == 0;
}

static bool takes(spc_linear_kernel kernel, const spc_linear_args *a)
{
    if (kernel == SPC_KERNEL_TILE) return spc_cuda_tile_takes(a);
    return kernel == (is_quantised(a->part[0].type) ? SPC_KERNEL_QUANT : SPC_KERNEL_ROW);
}

static bool has_slices(const spc_linear_args *a, spc_linear_kernel kernel, int32_t slices)
{
    if (!takes(kernel, a) || !is_power(slices, SPC_LINEAR_SLICES)) return false;
    if (slices <= OPS_WARPS) return kernel != SPC_KERNEL_TILE || slices == OPS_WARPS;
    return tiles_of(*a) <= SPLIT_BLOCKS / (slices / OPS_WARPS);
}

bool spc_cuda_linear_feeds(const spc_linear_args *a, spc_linear_kernel kernel, int32_t slices)
{
    const bool tile = kernel == SPC_KERNEL_TILE;

    if (!has_slices(a, kernel, slices)) return false;
    return slices == (tile ? OPS_WARPS : 1) ||
           units_of(a, kernel) >= slices * (tile ? 1 : OPS_LANES);
}

bool spc_cuda_linear_can(const spc_linear_args *a, const spc_linear_way *way)
{
    if (!has_slices(a, way->kernel, way->slices)) return false;
    if (way->kernel != SPC_KERNEL_TILE) return way->tiles[0] == 0 && way->tiles[1] == 0;
    for (int i = 0; i < 2; i++) {
        if (!is_power(way->tiles[i], most_tiles(a)) || way->tiles[i] < least_tiles(a)) {
            return false;
        }
    }
    return true;
}
