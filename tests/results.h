/* SPDX-License-Identifier: Apache-2.0 */
/* results.h - three prompts, and a look at what spc run makes of them: lines of JSON. */
#ifndef SPC_TESTS_RESULTS_H
#define SPC_TESTS_RESULTS_H

#include "spawn.h"

#include <criterion/criterion.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FIRST  "The train to the coast leaves at seven."
#define SECOND "Can you tell me where the station is?"
#define THIRD  "My grandmother still writes letters by hand."
#define THREE  FIRST "\n" SECOND "\n" THIRD "\n"

static inline const json_t *field(const json_t *results, size_t i, const char *name)
{
    const json_t *value = json_object_get(json_array_get(results, i), name);

    cr_assert_not_null(value, "result %d has no %s", (int)i, name);
    return value;
}

static inline json_int_t whole(const json_t *results, size_t i, const char *name)
{
    const json_t *value = field(results, i, name);

    cr_assert(json_is_integer(value), "%s", name);
    return json_integer_value(value);
}

static inline const char *string(const json_t *results, size_t i, const char *name)
{
    const json_t *value = field(results, i, name);

    cr_assert(json_is_string(value), "%s", name);
    return json_string_value(value);
}

/* Sum of an array by position, which must have this length. */
static inline json_int_t sum(const json_t *results, size_t i, const char *name, size_t length)
{
    const json_t *array = field(results, i, name), *item;
    json_int_t total = 0;
    size_t k;

    cr_assert(json_is_array(array), "%s", name);
    cr_expect_eq(json_array_size(array), length, "%s", name);
    json_array_foreach(array, k, item)
    {
        cr_expect(json_is_integer(item) && json_integer_value(item) >= 0, "%s", name);
        total += json_integer_value(item);
    }
    return total;
}

/* Take out what a clock wrote. */
static inline json_t *without_times(json_t *results)
{
    static const char *const times[] = {"tokens_per_second", "drafter_ms", "verifier_ms",
                                        "other_ms"};
    json_t *result;
    size_t i;

    json_array_foreach(results, i, result)
    {
        for (int32_t k = 0; k < (int32_t)(sizeof times / sizeof *times); k++) {
            cr_expect_eq(json_object_del(result, times[k]), 0, "%s", times[k]);
        }
    }
    return results;
}

static inline void expect_equal(json_t *a, json_t *b, const char *what)
{
    char *left = json_dumps(a, JSON_COMPACT), *right = json_dumps(b, JSON_COMPACT);

    cr_expect(json_equal(a, b), "%s: %s and %s", what, left, right);
    free(left);
    free(right);
    json_decref(a);
    json_decref(b);
}

static inline void expect_same(char *a, char *b, const char *what)
{
    cr_expect_str_eq(a, b, "%s: '%s' and '%s'", what, a, b);
    free(a);
    free(b);
}

/* Arguments put together from two lists; both end with NULL. */
typedef struct {
    const char *arg[48];
} arguments;

static inline arguments join(const char *const *first, const char *const *second)
{
    arguments a = {{NULL}};
    int32_t count = 0;

    for (; *first; first++) a.arg[count++] = *first;
    for (; second && *second; second++) a.arg[count++] = *second;
    cr_assert_lt(count, (int32_t)(sizeof a.arg / sizeof *a.arg));
    return a;
}

#endif
