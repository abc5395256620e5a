/* SPDX-License-Identifier: Apache-2.0 */
/* json.h - a text that jansson could not read. */
#ifndef SPC_WEIGHTS_JSON_H
#define SPC_WEIGHTS_JSON_H

#include <spc/status.h>

#include <jansson.h>
#include <stdbool.h>
#include <string.h>

static inline bool spc_json_begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* Was it memory that was missing?  jansson mostly leaves no word of that; of a string for which
 * there is none, it says that it is an invalid token or, where a key has to be, no string.  A
 * string that is read to its closing '"' is neither: what is wrong inside one has other messages.
 *
 * text   what was read; NULL: a file, whose long strings are not told from unknown words */
static inline bool spc_json_no_memory(const json_error_t *problem, const char *text)
{
    const bool string = spc_json_begins(problem->text, "invalid token") ||
                        spc_json_begins(problem->text, "string or '}' expected");

    if (json_error_code(problem) == json_error_out_of_memory || !problem->text[0]) return true;
    if (!string) return false;
    if (text && problem->position > 0) return text[problem->position - 1] == '"';
    return strstr(problem->text, " near '\"") != NULL;
}

/* SPC_ENOMEM, or SPC_EFORMAT with the line.
 *
 * where   the file
 * text    what it holds */
static inline spc_status spc_json_refused(const char *where, const json_error_t *problem,
                                          const char *text, spc_error *err)
{
    if (spc_json_no_memory(problem, text)) {
        return spc_error_set(err, SPC_ENOMEM, "%s: no memory to read it", where);
    }
    return spc_error_set(err, SPC_EFORMAT, "%s: line %d: %s", where, problem->line, problem->text);
}

#endif
