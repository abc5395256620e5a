/* SPDX-License-Identifier: Apache-2.0 */
/* config_read.c - values of a config file by key, each checked where it is read. */
#include "config_read.h"

#include <stdio.h>

spc_status spc_config_wrong(const spc_config_reader *r, const char *key, const char *expected)
{
    const json_t *value = json_object_get(r->root, key);
    char found[64] = "none";

    if (json_is_integer(value)) {
        (void)snprintf(found, sizeof found, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    } else if (json_is_real(value)) {
        (void)snprintf(found, sizeof found, "%g", json_real_value(value));
    } else if (json_is_string(value)) {
        (void)snprintf(found, sizeof found, "'%.40s'", json_string_value(value));
    } else if (value) {
        (void)snprintf(found, sizeof found, "%s",
                       json_is_boolean(value) ? (json_is_true(value) ? "true" : "false")
                                              : "another type");
    }
    return spc_error_set(r->err, SPC_EMODEL, "%s: %s: expected %s, found %s", r->where, key,
                         expected, found);
}

spc_status spc_config_size(const spc_config_reader *r, const char *key, int32_t least, int32_t most,
                           int32_t missing, int32_t *out)
{
    const json_t *value = json_object_get(r->root, key);
    char expected[64];

    if ((!value || json_is_null(value)) && missing >= 0) {
        *out = missing;
        return SPC_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < least ||
        json_integer_value(value) > most) {
        (void)snprintf(expected, sizeof expected, "a whole number of %d to %d", (int)least,
                       (int)most);
        return spc_config_wrong(r, key, expected);
    }
    *out = (int32_t)json_integer_value(value);
    return SPC_OK;
}

spc_status spc_config_number(const spc_config_reader *r, const char *key, double least, double most,
                             double missing, double *out)
{
    const json_t *value = json_object_get(r->root, key);
    char expected[64];

    if ((!value || json_is_null(value)) && missing >= 0) {
        *out = missing;
        return SPC_OK;
    }
    if (!json_is_number(value) || !(json_number_value(value) >= least) ||
        !(json_number_value(value) <= most)) {
        (void)snprintf(expected, sizeof expected, "a number of %g to %g", least, most);
        return spc_config_wrong(r, key, expected);
    }
    *out = json_number_value(value);
    return SPC_OK;
}

spc_status spc_config_bool(const spc_config_reader *r, const char *key, bool missing, bool *out)
{
    const json_t *value = json_object_get(r->root, key);

    *out = value && !json_is_null(value) ? json_is_true(value) : missing;
    if (value && !json_is_null(value) && !json_is_boolean(value)) {
        return spc_config_wrong(r, key, "true or false");
    }
    return SPC_OK;
}

spc_status spc_config_object(const spc_config_reader *r, const char *key, const json_t **out)
{
    *out = json_object_get(r->root, key);
    if (json_is_null(*out)) *out = NULL;
    return *out && !json_is_object(*out) ? spc_config_wrong(r, key, "an object") : SPC_OK;
}
