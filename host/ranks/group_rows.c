/* SPDX-License-Identifier: Apache-2.0 */
/* group_rows.c - rows of a drafter that runs beside rank 0, handed to the ranks that decide by
 * them: to each the ids of its slice, no others. */
#include "group.h"
#include "host/carve.h"

#include <stdlib.h>
#include <string.h>

struct spc_group_rows {
    int32_t vocab, ids, world; /* vocab: by which the head is cut */
    float *packed;             /* [outputs, widest slice] on their way */
    float *row; /* [outputs, ids] of which the own slice means something; rank 0: NULL */
};

/* The ids of a rank's slice, [first, last). */
static void slice_of(const spc_group_rows *g, int32_t rank, int32_t *first, int32_t *last)
{
    *first = spc_plan_first_id(g->vocab, rank, g->world);
    *last = spc_plan_first_id(g->vocab, rank + 1, g->world);
    if (*last > g->ids) *last = g->ids;
    if (*first > *last) *first = *last;
}

static size_t lay_out(spc_group_rows *g, int32_t outputs, bool receives, char *base)
{
    carver to = {base, 0};
    int32_t widest = 0;

    for (int32_t r = 0; r < g->world; r++) {
        int32_t first, last;

        slice_of(g, r, &first, &last);
        if (last - first > widest) widest = last - first;
    }
    (void)carve(&to, sizeof *g);
    g->packed = carve(&to, times(times(sizeof *g->packed, outputs), widest));
    if (receives) g->row = carve(&to, times(times(sizeof *g->row, outputs), g->ids));
    return to.used;
}

size_t spc_group_rows_bytes(const spc_comm *comm, const spc_plan *plan, const spc_limits *limits)
{
    spc_group_rows counted = {plan->config.vocab, plan->ids, comm->world, NULL, NULL};

    return lay_out(&counted, limits->outputs, comm->rank > 0, NULL);
}

spc_group_rows *spc_group_rows_open(const spc_comm *comm, const spc_plan *plan,
                                    const spc_limits *limits)
{
    size_t bytes = spc_group_rows_bytes(comm, plan, limits);
    spc_group_rows *g = bytes < CARVE_MOST ? aligned_alloc(CARVE_ALIGNMENT, bytes) : NULL;

    if (!g) return NULL;
    *g = (spc_group_rows){plan->config.vocab, plan->ids, comm->world, NULL, NULL};
    (void)lay_out(g, limits->outputs, comm->rank > 0, (char *)g);
    return g;
}

void spc_group_rows_close(spc_group_rows *rows)
{
    free(rows);
}

/* Floats of a rank's slice of all rows that verification may read; where rows are given, packed for
 * it from there, or unpacked to there.
 *
 * rows   [outputs, ids]; NULL: to count them */
static size_t move(const spc_group_rows *g, int32_t rank, float *rows, const spc_lane *lanes,
                   int32_t count, bool pack)
{
    float *at = g->packed;
    int32_t first, last;

    slice_of(g, rank, &first, &last);
    for (int32_t k = 0; k < count; k++) {
        for (int32_t i = 0; i < spc_lane_drafter_rows(&lanes[k]); i++) {
            size_t place = (size_t)(lanes[k].output + i) * (size_t)g->ids + (size_t)first;
            size_t width = (size_t)(last - first);

            if (rows && pack) memcpy(at, rows + place, width * sizeof *at);
            if (rows && !pack) memcpy(rows + place, at, width * sizeof *at);
            at += width;
        }
    }
    return (size_t)(at - g->packed);
}

static spc_status receive(const spc_group_rows *g, spc_comm *comm, const spc_lane *lanes,
                          int32_t count, spc_error *err)
{
    size_t floats = move(g, comm->rank, NULL, lanes, count, false);
    spc_status status;

    if (floats == 0) return SPC_OK;
    status = comm->ops->recv(comm, g->packed, floats * sizeof *g->packed, 0, err);
    if (status == SPC_OK) (void)move(g, comm->rank, g->row, lanes, count, false);
    return status;
}

spc_status spc_group_rows_share(const spc_group_rows *g, spc_comm *comm, const float **rows,
                                const spc_lane *lanes, int32_t count, spc_error *err)
{
    spc_status status = SPC_OK;

    if (comm->rank > 0) {
        *rows = g->row;
        return receive(g, comm, lanes, count, err);
    }
    for (int32_t r = 1; r < comm->world && status == SPC_OK; r++) {
        size_t floats = move(g, r, (float *)(uintptr_t)*rows, lanes, count, true);

        if (floats == 0) continue;
        status = comm->ops->send(comm, g->packed, floats * sizeof *g->packed, r, err);
    }
    return status;
}
