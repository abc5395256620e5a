/* SPDX-License-Identifier: Apache-2.0 */
/* utf8.h - characters in bytes that may not be UTF-8. */
#ifndef SPC_WEIGHTS_UTF8_H
#define SPC_WEIGHTS_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first character of count >= 1 bytes.
 *
 * whole   receives: these bytes are a character.  Otherwise they are the longest part of one (at
 * least 1 byte), to be replaced by one U+FFFD cut     receives: not whole only because the bytes
 * end; may be NULL
 *
 * Returns how many bytes it takes. */
size_t spc_utf8_character(const char *text, size_t count, bool *whole, bool *cut);

/* Offset of the first byte that is not UTF-8; count when all is. */
size_t spc_utf8_invalid(const char *text, size_t count);

/* Copy, each part that is not UTF-8 as one U+FFFD.
 *
 * out    [3 * count + 1], terminated; NULL only counts
 *
 * Returns the length without the terminator. */
size_t spc_utf8_sanitise(const char *text, size_t count, char *out);

/* Code point of a whole character of n bytes, and back (returns its bytes, 1 to 4). */
uint32_t spc_utf8_decode(const char *text, size_t n);
size_t spc_utf8_encode(uint32_t code, char *out);

#endif
