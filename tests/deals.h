/* SPDX-License-Identifier: Apache-2.0 */
/* deals.h - cases as dice deal them.  SPC_DEALS=100 deals so many instead of a few, SPC_DEALT=7 the
 * seventh alone, as a message of a failure says. */
#ifndef SPC_TESTS_DEALS_H
#define SPC_TESTS_DEALS_H

#include <stdint.h>
#include <stdlib.h>

/* Forms of a device's test that take their time: where every access is looked at, and where PTX is
 * interpreted.  They leave out what repeats a path of the code over other numbers. */
#if defined SPC_LOOKED_AT || defined SPC_TESTS_PTX
#define SPC_TAKES_TIME 1
#else
#define SPC_TAKES_TIME 0
#endif

static inline uint64_t deals_number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 10) : otherwise;
}

static inline uint64_t deals_first(void)
{
    return deals_number("SPC_DEALT", 1);
}

static inline uint64_t deals_last(uint64_t otherwise)
{
    return deals_number("SPC_DEALT", deals_number("SPC_DEALS", otherwise));
}

#endif
