/* SPDX-License-Identifier: Apache-2.0 */
/* embed.S - the files of the embedded pair, as bytes between two symbols.
 *
 * Safetensors headers are padded so that tensors are aligned relative to the file; the file itself is
 * aligned here. */

#ifdef __CET__
#include <cet.h> /* one object without its note, and the whole library goes without -fcf-protection */
#endif

#if defined(__APPLE__)
#define SYMBOL(name) _##name
#define SECTION .const_data
#define HIDDEN  .private_extern
#else
#define SYMBOL(name) name
#define SECTION .section .rodata.spc_demo, "a"
#define HIDDEN  .hidden
#endif

#define EMBED(name, path)            \
    .balign 64;                      \
    .globl SYMBOL(name##_begin);     \
    HIDDEN SYMBOL(name##_begin);     \
    SYMBOL(name##_begin):;           \
    .incbin path;                    \
    .globl SYMBOL(name##_end);       \
    HIDDEN SYMBOL(name##_end);       \
    SYMBOL(name##_end):;             \
    .byte 0

    SECTION
    EMBED(spc_demo_drafter_config, "drafter/config.json")
    EMBED(spc_demo_drafter_generation, "drafter/generation_config.json")
    EMBED(spc_demo_drafter_weights, "drafter/model.safetensors")
    EMBED(spc_demo_verifier_config, "verifier/config.json")
    EMBED(spc_demo_verifier_generation, "verifier/generation_config.json")
    EMBED(spc_demo_verifier_weights, "verifier/model.safetensors")
    EMBED(spc_demo_tokenizer, "verifier/tokenizer.json")

#if defined(__linux__) && defined(__ELF__)
    .section .note.GNU-stack, "", %progbits
#endif
