/* SPDX-License-Identifier: Apache-2.0 */
/* thread.h - threads of the library, which take no signal that is the application's. */
#ifndef SPC_HOST_THREAD_H
#define SPC_HOST_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* pthread_create for a thread that no signal reaches but its own faults, and a profiler's: an
 * application may block a signal after it has opened an engine, to wait for it elsewhere, and here
 * it would still find a thread to end the process in.  false: there is no thread */
bool spc_thread_start(pthread_t *thread, void *(*run)(void *user), void *user);

#endif
