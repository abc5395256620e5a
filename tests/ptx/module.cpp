/* SPDX-License-Identifier: Apache-2.0 */
/* module.cpp - finds functions and variables in the text of a file. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "parse.h"

namespace ptx
{

[[noreturn]] void refuse(const std::string &where, const std::string &what)
{
    fprintf(stderr, "ptx: %s: %s\n", what.c_str(), where.c_str());
    abort();
}

bool in_name(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.';
}

unsigned bytes_of_type(const std::string &type)
{
    if (type == ".pred") return 4;
    return (unsigned)atoi(type.c_str() + 2) / 8;
}

std::vector<std::string> tokens(const std::string &text)
{
    std::vector<std::string> out;

    for (size_t i = 0; i < text.size();) {
        size_t to = i;

        while (to < text.size() && in_name(text[to])) to++;
        if (to == i) to++;
        if (!isspace((unsigned char)text[i])) out.push_back(text.substr(i, to - i));
        i = to;
    }
    return out;
}

variable read_variable(const std::vector<std::string> &t, size_t *at)
{
    variable v = {};
    size_t element;

    if (t[*at] == ".align") {
        v.align = (size_t)atoi(t[*at + 1].c_str());
        *at += 2;
    }
    element = bytes_of_type(t[(*at)++]);
    v.name = t[(*at)++];
    v.bytes = element;
    if (*at < t.size() && t[*at] == "[") {
        v.bytes = element * (size_t)atoll(t[*at + 1].c_str());
        *at += 3;
    }
    if (v.align == 0) v.align = element;
    return v;
}

size_t place_behind(size_t *end, size_t align, size_t bytes)
{
    const size_t at = (*end + align - 1) / align * align;

    *end = at + bytes;
    return at;
}

namespace
{

/* Where the definition of a function begins: its header; ~0: nowhere. */
size_t header_of(const module &m, const std::string &name, size_t *body)
{
    for (size_t at = m.text.find(name); at != std::string::npos; at = m.text.find(name, at + 1)) {
        size_t from = m.text.rfind('\n', at), stop = m.text.find_first_of("{;", at);
        std::string header;

        if (stop == std::string::npos || m.text[stop] != '{') continue;
        if (in_name(m.text[at + name.size()]) || in_name(m.text[at - 1])) continue;
        from = from == std::string::npos ? 0 : from + 1;
        header = m.text.substr(from, at - from);
        if (m.text[from] != '.') continue;
        if (header.find(".entry") == std::string::npos &&
            header.find(".func") == std::string::npos) {
            continue;
        }
        *body = stop + 1;
        return from;
    }
    return std::string::npos;
}

/* Where the brace is that closes what is open at `at`. */
size_t end_of(const std::string &text, size_t at)
{
    for (int depth = 0;; at++) {
        at = text.find_first_of("{}", at);
        if (at == std::string::npos) return at;
        depth += text[at] == '{' ? 1 : -1;
        if (depth < 0) return at;
    }
}

/* Shared memory outside functions. */
void read_variables(module *m)
{
    static const char word[] = "\n.shared ";

    if (!m->variables.empty()) return;
    m->variables["ptx: none"] = {0, 0};
    for (size_t at = m->text.find(word); at != std::string::npos; at = m->text.find(word, at + 1)) {
        const std::string line = m->text.substr(at + 1, m->text.find(';', at) - at - 1);
        size_t next = 1;
        const variable v = read_variable(tokens(line), &next);
        const size_t where = place_behind(&m->shared, v.align, v.bytes);

        m->variables[v.name] = {where, v.bytes};
    }
}

} // namespace

const function *find(module *m, const std::string &name)
{
    std::unique_ptr<function> &known = m->functions[name];
    size_t body = 0, from, end;
    std::string header;

    if (known) return known.get();
    if (m->text.empty()) m->text = text_of(m->fat_binary);
    read_variables(m);
    from = header_of(*m, name, &body);
    if (from == std::string::npos) return nullptr;
    end = end_of(m->text, body);
    if (end == std::string::npos) refuse(name, "no end");
    known.reset(new function());
    known->name = name;
    known->shared = m->shared;

    header = m->text.substr(from, body - 1 - from);
    read_function(m, known.get(), header, m->text.c_str() + body, m->text.c_str() + end);
    return known.get();
}

} // namespace ptx
