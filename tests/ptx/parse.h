/* SPDX-License-Identifier: Apache-2.0 */
/* parse.h - between module.cpp, which finds functions in a text, and parse.cpp, which reads one. */
#ifndef SPC_TESTS_PTX_PARSE_H
#define SPC_TESTS_PTX_PARSE_H

#include "ptx.h"

namespace ptx
{

struct variable {
    std::string name;
    size_t align, bytes;
};

[[noreturn]] void refuse(const std::string &where, const std::string &what);
/* Is it part of a name? */
bool in_name(char c);
/* ".b32" */
unsigned bytes_of_type(const std::string &type);
/* Words, and single characters between them. */
std::vector<std::string> tokens(const std::string &text);
/* ".align 8 .b8 name[16]", ".b32 name": from `at`, a token behind .param, .local or .shared, on. */
variable read_variable(const std::vector<std::string> &t, size_t *at);
/* Where something lies behind all that has a place already. */
size_t place_behind(size_t *end, size_t align, size_t bytes);

/* Read a function whose header and body these are. */
void read_function(module *m, function *f, const std::string &header, const char *body,
                   const char *end);

} // namespace ptx

#endif
