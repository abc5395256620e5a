/* SPDX-License-Identifier: Apache-2.0 */
/* json.h - JSON text to jansson's values.
 *
 * jansson's own reader (2.14) survives no failing allocation: where the buffer of a token cannot
 * grow it drops characters and reads on, past the end of a block at worst, and what it reports is a
 * syntax error.  Its values can be made without it, and each of these calls says when memory is
 * short.  Its allocator could be replaced instead, but only for the whole process. */
#ifndef SPC_WEIGHTS_JSON_H
#define SPC_WEIGHTS_JSON_H

#include <spc/status.h>

#include <jansson.h>

enum { SPC_JSON_NUMBER_MAX = 500, SPC_JSON_DEPTH_MAX = 2048 };

/* Read an array or an object that is all of the text, as RFC 8259 has it: UTF-8, no key twice in an
 * object; besides, no \u0000, no integer beyond 64 bits, no real beyond double, no number of more
 * than SPC_JSON_NUMBER_MAX characters, no nesting beyond SPC_JSON_DEPTH_MAX.
 *
 * where   the name of the text, for messages
 * out     json_decref() it; NULL on failure
 *
 * SPC_EFORMAT, with line and byte; SPC_ENOMEM */
spc_status spc_json_read(const char *where, const char *text, size_t bytes, json_t **out,
                         spc_error *err);

#endif
