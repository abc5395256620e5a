/* SPDX-License-Identifier: Apache-2.0 */
/* awake.h - the clock of every wait for other ranks: it stands still while this process is stopped.
 *
 * Ctrl-Z in a shell or a machine that is paused stops all ranks of that machine, and then nobody
 * has kept anybody waiting.  Such a time shows as a gap between two looks at the clock, which only
 * those who look often can tell from a long wait: so no wait sleeps for longer than
 * spc_awake_nap_ms.  For deadlines alone; a duration measured by it may lack what nobody looked at.
 */
#ifndef SPC_HOST_AWAKE_H
#define SPC_HOST_AWAKE_H

#include <stdint.h>

/* Milliseconds; any thread. */
int64_t spc_awake_ms(void);
/* What is left until that moment is over, at least 0. */
int32_t spc_awake_left_ms(int64_t deadline_ms);
/* The same, as poll wants it, and no more than may be slept until the next look. */
int spc_awake_nap_ms(int64_t deadline_ms);
/* Since the last look this process was in a call that waits by itself, such as for the address of a
 * name: no gap. */
void spc_awake_waited(void);

/* For tests: the clock of someone who looks at these moments. */
typedef struct {
    int64_t seen_ms; /* the last one; 0: none yet */
    int64_t lost_ms; /* in gaps */
} spc_awake_clock;

int64_t spc_awake_look(spc_awake_clock *clock, int64_t now_ms);

#endif
