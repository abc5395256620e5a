/* SPDX-License-Identifier: Apache-2.0 */
/* meter.h - how far the loading of models is (spc_engine_options.progress).
 *
 * Loading is done in parts, each of which stands for some bytes of the whole: a model whose weights
 * are converted and then go to a device has two.  What a part reads may be counted in bytes of its
 * own. */
#ifndef SPC_HOST_METER_H
#define SPC_HOST_METER_H

#include <spc/spc.h>

typedef struct {
    spc_progress_fn tell; /* NULL: nobody asks */
    void *user;
    uint64_t total, done; /* done: by the parts before */
    uint64_t span;        /* of the total, that the present part stands for */
    uint64_t size, taken; /* its own bytes, and how many it has taken */
    uint64_t told, told_ns;
} spc_meter;

/* Nothing has been taken; says so. */
void spc_meter_open(spc_meter *meter, spc_progress_fn tell, void *user, uint64_t total);
/* The next part begins. */
void spc_meter_part(spc_meter *meter, uint64_t span, uint64_t size);
/* So many more of its bytes have been taken.  Says so, but not for every one: for each hundredth,
 * or when a tenth of a second has gone by.  More than its size are not counted.  NULL is allowed.
 */
void spc_meter_took(spc_meter *meter, uint64_t bytes);
/* All has been taken; says so. */
void spc_meter_close(spc_meter *meter);

#endif
