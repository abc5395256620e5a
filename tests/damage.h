/* SPDX-License-Identifier: Apache-2.0 */
/* damage.h - a file as it comes when something went wrong on the way: cut short anywhere, any byte
 * another.
 *
 * SPC_DAMAGE=all tries every other value of every byte, which the slow tests do; otherwise some. */
#ifndef SPC_TESTS_DAMAGE_H
#define SPC_TESTS_DAMAGE_H

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Read what may be damaged and assert that it ends well.  Was all of it good?
 *
 * bytes   [count], allocated for exactly so many: sanitizers see a byte too many */
typedef bool (*damage_fn)(void *user, const char *bytes, size_t count);

static inline bool damage_try(damage_fn read, void *user, const char *bytes, size_t count)
{
    char *copy = malloc(count > 0 ? count : 1);
    bool good;

    cr_assert_not_null(copy);
    memcpy(copy, bytes, count);
    good = read(user, copy, count);
    free(copy);
    return good;
}

/* Every beginning of it with fewer bytes than `whole` is refused. */
static inline void damage_cut(damage_fn read, void *user, const char *bytes, size_t whole)
{
    for (size_t n = 0; n < whole; n++) {
        cr_expect_not(damage_try(read, user, bytes, n), "%zu bytes of it", n);
    }
}

/* Every byte of [0, to) changed, one at a time.  Returns how often all was good none the less. */
static inline int32_t damage_bytes(damage_fn read, void *user, const char *bytes, size_t count,
                                   size_t to)
{
    static const unsigned char some[] = {0x01, 0x08, 0x20, 0x80, 0xff};
    const char *wanted = getenv("SPC_DAMAGE");
    bool all = wanted && strcmp(wanted, "all") == 0;
    int32_t changes = all ? 255 : (int32_t)sizeof some, good = 0;
    char *changed = malloc(count > 0 ? count : 1);

    cr_assert_not_null(changed);
    memcpy(changed, bytes, count);
    for (size_t i = 0; i < (all ? count : to); i++) {
        for (int32_t k = 0; k < changes; k++) {
            changed[i] = (char)(bytes[i] ^ (all ? k + 1 : some[k]));
            good += damage_try(read, user, changed, count);
        }
        changed[i] = bytes[i];
    }
    free(changed);
    return good;
}

#endif
