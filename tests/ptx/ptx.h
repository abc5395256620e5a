/* SPDX-License-Identifier: Apache-2.0 */
/* ptx.h - an interpreter of PTX: what nvcc makes of the kernels, run on the CPU.
 *
 * tests/fibers compiles kernels by a C++ compiler and so sees their logic, but not inline assembly,
 * intrinsics, how arguments lie and what the compiler itself makes of sources.  Here the objects of
 * the library itself are linked, their host code launches their kernels, and the text of these is
 * executed.  The rest of the CUDA runtime is that of tests/fibers.
 *
 * A register is 32 values behind each other, one for each lane, and an instruction is executed for
 * all lanes of a warp that stand at it.  Where a warp's lanes part, those that are behind go first.
 * Addresses are those of the host; shared memory has a window of its own, from 0 on. */
#ifndef SPC_TESTS_PTX_H
#define SPC_TESTS_PTX_H

#include <map>
#include <memory>
#include <stddef.h>
#include <stdint.h>
#include <string>
#include <vector>

namespace ptx
{

enum { LANES = 32 };
static const uint32_t ALL = ~0u, NOWHERE = ~0u;

struct warp;
struct instr;
struct function;
typedef void handler(warp &w, const instr &i);

/* Where 32 values lie: the array at this offset of one of a warp's bases. */
enum base { REGISTERS, CONSTANTS, SPECIALS, BASES };

struct operand {
    uint32_t base, offset;
};

/* Registers that hold what the hardware says. */
enum special { TID, NTID, CTAID, NCTAID, SPECIAL_COUNT };

/* How an instruction names memory: by a register or by the name of a variable. */
enum place { BY_REGISTER64, BY_REGISTER32, OF_LANE, OF_KERNEL, OF_BLOCK };

struct instr {
    handler *run;
    handler *guarded;       /* what run does, for lanes whose guard holds */
    std::vector<operand> o; /* results first ... */
    uint8_t results;        /* ... of which these at least are */
    operand guard;
    bool unless;             /* the guard must not hold */
    bool shared;             /* address: in the window of shared memory */
    bool global;             /* address: that of memory of the device */
    bool writes;             /* to memory */
    uint8_t at;              /* address: a place */
    uint8_t count;           /* elements of a vector; what else a handler counts */
    uint8_t bytes, bytes_of; /* of a register of the result, of the source, where these vary */
    uint32_t target;         /* of a branch */
    int64_t value;           /* what is added to an address */
    const function *callee;
    std::vector<uint32_t> moved; /* calls: of arguments and results, here, there, bytes */
    const char *text;            /* the instruction as it is written */
    size_t length;
    mutable uint64_t known_from, known_to; /* memory of the device, as of known_at */
    mutable uint64_t known_at;
};

struct function {
    std::string name;
    std::vector<instr> code;
    std::vector<char> constants;
    size_t registers;  /* bytes of all registers */
    size_t lane_bytes; /* of memory that every lane has for itself: locals, arguments of calls */
    size_t argument_bytes; /* of a kernel */
    size_t shared;         /* bytes of a block */
    unsigned max_threads;  /* 0: it does not say */
    bool waits;            /* its blocks wait for each other */
    /* where arguments and results lie, bytes: of a function in a lane's memory */
    std::vector<uint32_t> in, out;
};

/* The text of one file, and what has been asked for of it. */
struct module {
    const char *fat_binary;
    std::string text; /* of it, once something was asked for */
    std::map<std::string, std::pair<size_t, size_t>> variables; /* shared: offset, bytes */
    size_t shared;
    std::map<std::string, std::unique_ptr<function>> functions;
};

/* ---- module.cpp, parse.cpp, convert.cpp ------------------------------------------------------ */

/* Of the module, NULL: it has none.  Ends the process where it is not understood. */
const function *find(module *m, const std::string &name);
/* fatbin.cpp */
std::string text_of(const char *fat_binary);

/* An operand as it is written, and how to get at it. */
struct source {
    virtual operand value(const std::string &text, unsigned bytes) = 0; /* a register, a number */
    virtual unsigned bytes_of(const std::string &text) = 0; /* of a register; 0: it is none */
    /* of what stands between brackets */
    virtual void address(const std::string &text, bool shared, instr *i) = 0;
    virtual bool variable(const std::string &text, instr *i) = 0; /* is it one's name? */
    virtual const std::string &line() = 0;
    virtual ~source()
    {
    }
};

/* Fill in what executes `name` with these operands; not branches and calls. */
void decode(const std::string &name, const std::vector<std::string> &operands, source *from,
            instr *i);

/* Those that answer whether they know the instruction. */
typedef std::vector<std::string> words;
bool decode_values(const words &name, const words &operands, source *from, instr *i);
bool decode_converts(const words &name, const words &operands, source *from, instr *i);
bool decode_memory(const words &name, const words &operands, source *from, instr *i);
bool decode_moves(const words &name, const words &operands, source *from, instr *i);
bool decode_warp(const words &name, const words &operands, source *from, instr *i);

/* Registers that are declared together: offsets from, to. */
struct declared {
    uint32_t from, to, bytes;
};

/* registers.cpp: let them share places. */
void share_registers(function *f, const std::vector<declared> &registers);

/* ---- flow.cpp -------------------------------------------------------------------------------- */

/* Which lanes of a function's go where. */
struct flow {
    const function *f;
    const instr *code;
    uint32_t pc;      /* of the active lanes, the next */
    uint32_t limit;   /* where other lanes stand */
    uint32_t active;  /* lanes that execute */
    uint32_t alive;   /* that have not returned */
    uint32_t waiting; /* for others, at a place */
    uint32_t lane_pc[LANES];
    char *registers, *memory;
};

struct copy {
    unsigned lane, group;
    uint64_t to, from;
    unsigned bytes;
};

struct block;

enum state { WARP_RUNS, WARP_AT_BARRIER, WARP_AT_PREVIOUS, WARP_ENDED };

struct warp {
    char *base[BASES];
    flow now;
    std::vector<flow> callers;
    std::vector<std::vector<char>> registers, memory; /* of each depth of calls */
    std::vector<uint32_t> specials;
    block *in;
    uint32_t all; /* lanes that it began with */
    state is;
    const instr *at; /* the barrier it waits at */
    bool stop;       /* let others run */
    bool forced;     /* who waits now waits in vain */
    bool ballot;     /* given to a barrier */
    std::vector<copy> copies;
    unsigned groups[LANES];
};

struct block {
    std::vector<warp> warps;
    std::vector<char> memory;
    char *shared;
    const function *kernel;
    const char *arguments;
    unsigned number;
    bool before_previous; /* the kernel in front still runs */
};

/* Lanes begin a function, at this depth of calls. */
void enter(warp &w, const function *f, uint32_t lanes);
/* Its turn: up to a barrier, its end, or so many instructions. */
void run_warp(warp &w);

/* End the process, and say where it was. */
[[noreturn]] void fail(const warp &w, const instr &i, const char *what);

/* Lanes in `together` execute this instruction at once, and all must be there.  false: they are
 * not yet. */
bool meet(warp &w, const instr &i, uint32_t together);

/* Where the memory of a lane's begins that is its own. */
inline char *memory_of(const warp &w, unsigned lane)
{
    return w.now.memory + (size_t)lane * w.now.f->lane_bytes;
}

template <typename T> inline T *array(const warp &w, const operand &o)
{
    return (T *)(w.base[o.base] + o.offset);
}

/* Where a predicate holds. */
inline uint32_t mask_of(const uint32_t *p)
{
    uint32_t mask = 0;

    for (unsigned l = 0; l < LANES; l++) mask |= (p[l] & 1u) << l;
    return mask;
}

/* f(lane) for every one of a mask. */
template <typename F> inline void for_lanes(uint32_t mask, F f)
{
    if (mask == ALL) {
#pragma GCC ivdep
        for (unsigned l = 0; l < LANES; l++) f(l);
        return;
    }
    for (; mask; mask &= mask - 1) f((unsigned)__builtin_ctz(mask));
}

/* memory.cpp: the address must be aligned, and something be there. */
void look_at(const warp &w, const instr &i, uint64_t at, unsigned bytes);
/* "{a,b}", or one. */
words elements(const std::string &text);

/* Handlers of flow.cpp. */
handler branch, branch_if, branch_unless, call, give_back, guard, barrier, barrier_or, meet_warp,
    sleep, await_previous;

} // namespace ptx

#endif
