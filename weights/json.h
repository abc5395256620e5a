/* SPDX-License-Identifier: Apache-2.0 */
/* json.h - a text that jansson could not read. */
#ifndef SPC_WEIGHTS_JSON_H
#define SPC_WEIGHTS_JSON_H

#include <spc/status.h>

#include <jansson.h>

/* Where memory is what was missing, jansson mostly leaves no word of it. */
static inline bool spc_json_no_memory(const json_error_t *problem)
{
    return json_error_code(problem) == json_error_out_of_memory || !problem->text[0];
}

/* SPC_ENOMEM, or SPC_EFORMAT with the line.
 *
 * where   the file */
static inline spc_status spc_json_refused(const char *where, const json_error_t *problem,
                                          spc_error *err)
{
    if (spc_json_no_memory(problem)) {
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory to read it", where);
    }
    return spc_error_set(err, SPC_EFORMAT, "%s: line %d: %s", where, problem->line, problem->text);
}

#endif
