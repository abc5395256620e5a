# stacks.cmake - fail when a compiled kernel needs more stack than it is allowed.
#
#   cmake -DCUOBJDUMP=<program, or empty> "-DLIBRARIES=<libraries with kernels>" -P stacks.cmake
#
# Whatever a kernel has of a stack, the CUDA runtime takes for every thread that a device holds at a time
# (2048 for each multiprocessor), and what it keeps there instead of in registers it writes and reads in
# memory.  So kernels have none, but for those below.  None may come near 1024 bytes, the size of stacks
# that a device has from the start (spc/verify.h, spc_cuda_kernels_load).
cmake_minimum_required(VERSION 3.24)
if(NOT CUOBJDUMP)
  message("skipped: no cuobjdump (package cuda-cuobjdump of the CUDA toolkit)")
  return()
endif()

# Part of a kernel's name as the linker sees it, most bytes of stack.
set(MOST
  # A round's pair of rows and its verdict, and what is saved around calls.  Nothing where logits stream.
  "queue_kernelI16spc_verify_batch" 896
  "queue_kernelI14spc_draw_batch"   352
  # The reference forms: nobody waits for them.
  "13verify_kernel"                 816
  "11draw_kernel"                   376
  # Slices.  The view of a row, and the two rows of a fold.
  "combine_kernel"                  112
  "close_kernel"                    144
  "tiles_kernel"                    344
  # Spills of some words, where one block more for each multiprocessor is worth it.
  "attend_kernelI11weights_f32Li256ELb1" 56
  "attend_leaves_kernelI11weights_f32Li256ELb1" 32
  "attend_kernelI1[12]weights_b?f16Li128ELb1E" 16
  "linear_row_kernel.*Li16E"        32
  "linear_tile_kernelI9tile_bf16Li[24]ELi2" 56
  "linear_tile_kernelI8tile_f16Li[12]E" 24
  "linear_tile_quant_kernel"        96
  "linear_tile_quant_kernel.*Li4ELi1E" 216 # 4 tiles
  "linear_quant_kernel"             64
  "linear_quant_kernelI12quant_blocksILi2E.*Li(4|16)ELb1E" 72) # where linear_tile_quant.cu is not wanted

set(kernels 0)
set(wrong "")
foreach(library ${LIBRARIES})
  execute_process(COMMAND ${CUOBJDUMP} --dump-resource-usage ${library} OUTPUT_VARIABLE said
    ERROR_VARIABLE trouble RESULT_VARIABLE code)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${CUOBJDUMP} ${library}: ${trouble}")
  endif()
  string(REGEX MATCHALL "Function [^\n]*:\n[^\n]*STACK:[0-9]+" found "${said}")
  foreach(kernel ${found})
    math(EXPR kernels "${kernels} + 1")
    string(REGEX MATCH "Function ([^\n]*):\n.*STACK:([0-9]+)" all "${kernel}")
    set(name ${CMAKE_MATCH_1})
    set(stack ${CMAKE_MATCH_2})
    set(most 0)
    set(rows ${MOST})
    while(rows)
      list(POP_FRONT rows part allowed)
      if(name MATCHES "${part}")
        set(most ${allowed})
        list(APPEND used ${part})
      endif()
    endwhile()
    if(stack GREATER most)
      string(APPEND wrong "${name}: expected at most ${most} bytes of stack, found ${stack}\n")
    endif()
  endforeach()
endforeach()

set(rows ${MOST})
while(rows)
  list(POP_FRONT rows part allowed)
  if(NOT part IN_LIST used)
    string(APPEND wrong "${part}: no kernel has such a name; take it out of the table\n")
  endif()
endwhile()
if(wrong)
  message(FATAL_ERROR "${wrong}(tests/stacks.cmake says why; nvcc -Xptxas -v where it comes from)")
endif()
message("${kernels} kernels")
