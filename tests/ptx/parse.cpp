/* SPDX-License-Identifier: Apache-2.0 */
/* parse.cpp - the text of a function to instructions that can be executed.
 *
 * It knows the PTX that nvcc writes, no more: what it does not know ends the process. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "parse.h"

namespace ptx
{
namespace
{

struct scope {
    std::map<std::string, operand> registers;
    std::map<std::string, unsigned> bytes;
    std::map<std::string, std::pair<size_t, size_t>> memory; /* of a lane: offset, bytes */
};

struct parser : source {
    module *m;
    function *f;
    const char *at, *end;
    bool is_kernel;
    std::vector<scope> scopes;
    std::map<std::string, std::pair<size_t, unsigned>> ranges; /* of registers: offset, bytes */
    std::map<std::string, size_t> arguments;                   /* of a kernel */
    std::map<std::string, size_t> shared;
    std::vector<declared> together;
    std::map<std::pair<unsigned, uint64_t>, size_t> numbers;
    std::map<std::string, uint32_t> labels;
    std::vector<std::pair<size_t, std::string>> branches;
    std::string statement;

    const std::string &line() override
    {
        return statement;
    }

    /* ---- operands
     * -------------------------------------------------------------------------------- */

    bool find_register(const std::string &name, operand *o, unsigned *bytes)
    {
        size_t digits = name.size();

        for (size_t s = scopes.size(); s-- > 0;) {
            auto found = scopes[s].registers.find(name);

            if (found == scopes[s].registers.end()) continue;
            *o = found->second;
            *bytes = scopes[s].bytes[name];
            return true;
        }
        while (digits > 0 && isdigit((unsigned char)name[digits - 1])) digits--;

        auto range = ranges.find(name.substr(0, digits));

        if (range == ranges.end() || digits == name.size()) return false;
        *bytes = range->second.second;
        *o = {REGISTERS, (uint32_t)(range->second.first +
                                    strtoul(name.c_str() + digits, NULL, 10) * *bytes * LANES)};
        return true;
    }

    operand number(uint64_t bits, unsigned bytes)
    {
        auto known = numbers.find({bytes, bits});
        size_t offset;

        if (known != numbers.end()) return {CONSTANTS, (uint32_t)known->second};
        offset = f->constants.size();
        for (unsigned l = 0; l < LANES; l++) {
            for (unsigned b = 0; b < bytes; b++) {
                f->constants.push_back((char)(bits >> (8 * b)));
            }
        }
        numbers[{bytes, bits}] = offset;
        return {CONSTANTS, (uint32_t)offset};
    }

    operand value(const std::string &text, unsigned bytes) override
    {
        static const std::map<std::string, special> hardware = {
            {"%tid.x", TID}, {"%ntid.x", NTID}, {"%ctaid.x", CTAID}, {"%nctaid.x", NCTAID}};
        operand o;
        unsigned has;

        if (text.empty()) refuse(statement, "an operand is missing");
        if (find_register(text, &o, &has)) {
            if (bytes != 0 && bytes != has)
                refuse(statement, "a register of another size: " + text);
            return o;
        }
        auto known = hardware.find(text);

        if (known != hardware.end()) {
            if (bytes != 4) refuse(statement, "a register of another size: " + text);
            return {SPECIALS, (uint32_t)known->second * LANES * 4};
        }
        if (text == "%nctaid.y") return number(1, bytes); /* launch.cpp takes no other grids */
        if (text[0] == '0' && text.size() > 1 && (text[1] == 'f' || text[1] == 'd')) {
            if ((bytes == 4 && text.size() != 10) || (bytes == 8 && text.size() != 18)) {
                refuse(statement, "a number of another size");
            }
            return number(strtoull(text.c_str() + 2, NULL, 16), bytes);
        }
        if (!isdigit((unsigned char)text[0]) && text[0] != '-')
            refuse(statement, "what is " + text);

        uint64_t bits = text[0] == '-' ? (uint64_t)strtoll(text.c_str(), NULL, 0)
                                       : strtoull(text.c_str(), NULL, 0);

        if (bytes < 8) bits &= ((uint64_t)1 << (8 * bytes)) - 1;
        return number(bits, bytes);
    }

    unsigned bytes_of(const std::string &text) override
    {
        operand o;
        unsigned bytes;

        if (text.compare(0, 4, "%tid") == 0 || text.compare(0, 5, "%ntid") == 0) return 4;
        return find_register(text, &o, &bytes) ? bytes : 0;
    }

    bool variable(const std::string &name, instr *i) override
    {
        for (size_t s = scopes.size(); s-- > 0;) {
            auto found = scopes[s].memory.find(name);

            if (found == scopes[s].memory.end()) continue;
            i->at = OF_LANE;
            i->value += (int64_t)found->second.first;
            return true;
        }
        if (arguments.count(name)) {
            i->at = OF_KERNEL;
            i->value += (int64_t)arguments[name];
            return true;
        }
        if (shared.count(name) || m->variables.count(name)) {
            i->at = OF_BLOCK;
            i->value += (int64_t)(shared.count(name) ? shared[name] : m->variables[name].first);
            return true;
        }
        return false;
    }

    void address(const std::string &text, bool in_shared, instr *i) override
    {
        size_t from = text.find('['), to = text.find(']'), stop;
        std::string inside, name;

        if (from == std::string::npos || to == std::string::npos) refuse(statement, "no address");
        for (size_t c = from + 1; c < to; c++) {
            if (!isspace((unsigned char)text[c])) inside += text[c];
        }
        stop = inside.find('+');
        name = inside.substr(0, stop);
        i->value = stop == std::string::npos ? 0 : strtoll(inside.c_str() + stop + 1, NULL, 0);
        i->shared = in_shared;
        if (variable(name, i)) {
            if ((i->at == OF_BLOCK) != in_shared) refuse(statement, "memory of another kind");
            return;
        }
        i->at = bytes_of(name) == 8 ? BY_REGISTER64 : BY_REGISTER32;
        if (i->at == BY_REGISTER32 && !in_shared) refuse(statement, "an address of 32 bits");
        i->o.push_back(value(name, i->at == BY_REGISTER64 ? 8 : 4));
    }

    /* ---- declarations
     * ---------------------------------------------------------------------------- */

    void take_registers(const std::vector<std::string> &t)
    {
        const unsigned bytes = bytes_of_type(t[1]);

        for (size_t i = 2; i < t.size(); i++) {
            size_t more = bytes * LANES;

            if (t[i] == ",") continue;
            if (i + 1 < t.size() && t[i + 1] == "<") {
                const size_t count = (size_t)atoll(t[i + 2].c_str());

                ranges[t[i]] = {f->registers, bytes};
                more = count * bytes * LANES;
                i += 3;
            } else {
                scopes.back().registers[t[i]] = {REGISTERS, (uint32_t)f->registers};
                scopes.back().bytes[t[i]] = bytes;
            }
            together.push_back({(uint32_t)f->registers, (uint32_t)(f->registers + more), bytes});
            f->registers += more;
        }
    }

    /* Memory of a lane's; returns where it lies. */
    size_t take_memory(const ptx::variable &v)
    {
        const size_t where = place_behind(&f->lane_bytes, v.align, v.bytes);

        scopes.back().memory[v.name] = {where, v.bytes};
        return where;
    }

    void declare()
    {
        const std::vector<std::string> t = tokens(statement);
        size_t next = 1;

        if (t[0] == ".reg") {
            take_registers(t);
        } else if (t[0] == ".param" || t[0] == ".local") {
            take_memory(read_variable(t, &next));
        } else if (t[0] == ".shared") {
            const ptx::variable v = read_variable(t, &next);

            if (!is_kernel) refuse(statement, "shared memory of a function");
            shared[v.name] = place_behind(&f->shared, v.align, v.bytes);
        } else if (t[0] != ".pragma") {
            refuse(statement, "an unknown directive");
        }
    }

    /* ".func (.param .b32 out) name(.param .b64 in, ...)" */
    void read_header(const std::string &header)
    {
        const std::vector<std::string> t = tokens(header);
        bool results = false, named = false;

        for (size_t i = 0; i < t.size();) {
            if (t[i] == f->name) named = true;
            if (t[i] == "(") results = !named;
            if (t[i] == ".maxntid") f->max_threads = (unsigned)atoi(t[i + 1].c_str());
            if (t[i] != ".param") {
                i++;
                continue;
            }
            i++;
            const ptx::variable v = read_variable(t, &i);

            if (is_kernel) {
                arguments[v.name] = place_behind(&f->argument_bytes, v.align, v.bytes);
                f->in.push_back((uint32_t)arguments[v.name]);
                f->in.push_back((uint32_t)v.bytes);
            } else {
                std::vector<uint32_t> &list = results ? f->out : f->in;

                list.push_back((uint32_t)take_memory(v));
                list.push_back((uint32_t)v.bytes);
            }
        }
    }

    /* ---- statements
     * ------------------------------------------------------------------------------ */

    void skip_space()
    {
        for (; at < end; at++) {
            if (isspace((unsigned char)*at)) continue;
            if (at + 1 < end && at[0] == '/' && at[1] == '/') {
                while (at < end && *at != '\n') at++;
                continue;
            }
            return;
        }
    }

    static std::vector<std::string> split(const std::string &text)
    {
        std::vector<std::string> out;
        int depth = 0;
        std::string one;

        for (char c : text) {
            if (c == '{' || c == '[' || c == '(') depth++;
            if (c == '}' || c == ']' || c == ')') depth--;
            if (c == ',' && depth == 0) {
                out.push_back(one);
                one.clear();
            } else if (!isspace((unsigned char)c)) {
                one += c;
            }
        }
        if (!one.empty()) out.push_back(one);
        return out;
    }

    /* "(a, b)" */
    static std::vector<std::string> list(const std::string &text)
    {
        return text.size() < 2 ? std::vector<std::string>()
                               : split(text.substr(1, text.size() - 2));
    }

    void move(const std::vector<std::string> &here, const std::vector<uint32_t> &there, instr *i)
    {
        if (here.size() * 2 != there.size()) refuse(statement, "arguments of a call");
        for (size_t k = 0; k < here.size(); k++) {
            instr found = {};

            if (!variable(here[k], &found) || found.at != OF_LANE) {
                refuse(statement, "an argument of a call");
            }
            i->moved.push_back((uint32_t)found.value);
            i->moved.push_back(there[2 * k]);
            i->moved.push_back(there[2 * k + 1]);
        }
    }

    void take_call(const std::vector<std::string> &operands, instr *i)
    {
        size_t next = 0;
        std::vector<std::string> results, given;
        std::string name;

        if (operands[next][0] == '(') results = list(operands[next++]);
        name = operands[next++];
        if (next < operands.size()) given = list(operands[next]);
        i->run = call;
        if (name == "cudaGraphSetConditional") { /* the driver's */
            move(given, {0, 8, 8, 4}, i);
            return;
        }
        i->callee = find(m, name);
        if (!i->callee) refuse(statement, "an unknown function");
        move(given, i->callee->in, i);
        i->count = (uint8_t)given.size();
        move(results, i->callee->out, i);
    }

    void take_guard(instr *i, const std::string &guard_name, bool is_branch)
    {
        const bool unless = guard_name[0] == '!';

        if (i->run == call || i->run == give_back || i->run == barrier || i->run == barrier_or ||
            i->run == meet_warp || i->run == await_previous) {
            refuse(statement, "a guard in front of what it may not be in front of");
        }
        i->guard = value(guard_name.substr(unless), 4);
        i->unless = unless;
        if (is_branch) {
            i->run = unless ? branch_unless : branch_if;
        } else {
            i->guarded = i->run;
            i->run = guard;
        }
    }

    /* "opcode operands", of which the statement is behind its guard, if it has one. */
    void take_instruction(const std::string &text, const std::string &guard_name)
    {
        size_t space = text.find_first_of(" \t\n{");
        const std::string name = text.substr(0, space);
        const std::vector<std::string> operands =
            split(space == std::string::npos ? "" : text.substr(space));
        const bool is_branch = name == "bra" || name == "bra.uni";
        instr i = {};

        i.text = at - statement.size() - 1;
        i.length = statement.size();
        if (is_branch) {
            i.run = branch;
            branches.push_back({f->code.size(), operands[0]});
        } else if (name == "call.uni" || name == "call") {
            take_call(operands, &i);
        } else if (name == "ret" || name == "exit") {
            if (name == "exit" && !is_kernel) refuse(statement, "a function that does not return");
            i.run = give_back;
        } else {
            decode(name, operands, this, &i);
        }
        if (name.compare(0, 9, "nanosleep") == 0) f->waits = true;
        if (!guard_name.empty()) take_guard(&i, guard_name, is_branch);
        f->code.push_back(i);
    }

    void take_statement()
    {
        const char *stop = at;

        if (*at == '{' || *at == '}') {
            if (*at == '{') {
                scopes.emplace_back();
            } else {
                scopes.pop_back();
            }
            at++;
            return;
        }
        while (stop < end && in_name(*stop)) stop++;
        if (stop < end && *stop == ':') {
            labels[std::string(at, stop)] = (uint32_t)f->code.size();
            at = stop + 1;
            return;
        }
        stop = (const char *)memchr(at, ';', (size_t)(end - at));
        if (!stop) refuse(std::string(at, end), "no end of a statement");
        statement.assign(at, stop);
        at = stop + 1;
        if (statement[0] == '.') {
            declare();
        } else if (statement[0] == '@') {
            size_t space = statement.find_first_of(" \t"), next;

            next = statement.find_first_not_of(" \t", space);
            take_instruction(statement.substr(next), statement.substr(1, space - 1));
        } else {
            take_instruction(statement, "");
        }
    }

    void take_body()
    {
        for (skip_space(); at < end; skip_space()) take_statement();
        for (auto &b : branches) {
            if (!labels.count(b.second)) refuse(b.second, "an unknown label");
            f->code[b.first].target = labels[b.second];
        }
        share_registers(f, together);
        f->lane_bytes = (f->lane_bytes + 15) / 16 * 16;
    }
};

} // namespace

void read_function(module *m, function *f, const std::string &header, const char *body,
                   const char *end)
{
    parser p;

    p.m = m;
    p.f = f;
    p.at = body;
    p.end = end;
    p.scopes.emplace_back();
    p.is_kernel = header.find(".entry") != std::string::npos;
    p.read_header(header);
    p.take_body();
}

} // namespace ptx
