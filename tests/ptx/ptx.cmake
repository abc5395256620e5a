# Kernels as nvcc makes them, their PTX interpreted (ptx.h): the tests of devices again, where there is a
# toolkit that makes PTX.  The objects are those of the libraries.
add_library(ptx_launch OBJECT ptx/launch.cpp) # what nvcc's objects call is as the toolkit has it
target_include_directories(ptx_launch SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
target_compile_options(ptx_launch PRIVATE -Wall -Wextra)
target_compile_features(ptx_launch PRIVATE cxx_std_17)
add_library(ptx STATIC ptx/convert.cpp ptx/fatbin.cpp ptx/flow.cpp ptx/gemm.cpp ptx/lanes.cpp ptx/memory.cpp
  ptx/module.cpp ptx/moves.cpp ptx/parse.cpp ptx/registers.cpp ptx/run.cpp ptx/runtime.cpp ptx/values.cpp
  fibers/fiber_device.cpp $<TARGET_OBJECTS:ptx_launch>
  "$<FILTER:$<TARGET_OBJECTS:fibers>,INCLUDE,\\.c\\.o$|fiber_(capture|graph|streams)\\.cpp\\.o$>")
target_include_directories(ptx BEFORE PUBLIC fibers)
target_include_directories(ptx PUBLIC ${PROJECT_SOURCE_DIR})
target_link_libraries(ptx PUBLIC spc_rules)
target_link_options(ptx INTERFACE -Wl,--undefined=spc_device_open)
target_compile_options(ptx PRIVATE -O3 -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas)
target_compile_features(ptx PRIVATE cxx_std_17)
string(REGEX MATCH "[0-9]+" ptx_code "${CMAKE_CUDA_ARCHITECTURES}")
target_compile_definitions(ptx PRIVATE SPC_HAS_CUDA FIBER_CODE=${ptx_code})
foreach(library spc spc_verify)
  list(APPEND ptx_kernels "$<FILTER:$<TARGET_OBJECTS:${library}>,INCLUDE,\\.cu\\.o$>")
endforeach()
set(ptx_kernels "$<FILTER:${ptx_kernels},EXCLUDE,/gemm\\.cu\\.o$>") # over the library that fibers have
# one program, for it holds all kernels
set(ptx_suites ${device_tests} cuda_ranks cuda_ranks_nccl host_comm_virtual)
list(TRANSFORM ptx_suites REPLACE "(.+)" "test_\\1.c" OUTPUT_VARIABLE ptx_tests)
add_executable(test_ptx ${ptx_tests})
target_compile_definitions(test_ptx PRIVATE $<$<BOOL:${SPC_CUDA_EXACT}>:SPC_EXACT_EXP2> SPC_TESTS_PTX
  SPC_STAND_IN="$<TARGET_FILE:stand_in_nccl>")
set_target_properties(test_ptx PROPERTIES ENABLE_EXPORTS ON)
target_link_libraries(test_ptx PRIVATE ${ptx_kernels} ptx spc_tests stand_in_nccl)
foreach(name ${ptx_suites})
  add_test(NAME ${name}_ptx COMMAND test_ptx --verbose=0 --filter "${name}/*")
  set_tests_properties(${name}_ptx PROPERTIES LABELS cpu TIMEOUT 1800)
endforeach()
foreach(name cuda_apart cuda_backend cuda_backend_engines cuda_backend_wide cuda_chain cuda_dealt_models cuda_kv
    cuda_ranks_nccl cuda_turns cuda_fused)
  set_tests_properties(${name}_ptx PROPERTIES LABELS slow)
endforeach()
# the program
add_executable(spc_ptx ${cli_sources})
set_target_properties(spc_ptx PROPERTIES ENABLE_EXPORTS ON)
target_link_libraries(spc_ptx PRIVATE ${ptx_kernels} ptx spc spc_flags PkgConfig::spc_libs Threads::Threads m)
if(SPC_EMBED)
  add_test(NAME program_ptx COMMAND spc_ptx run --device cuda --temperature 0 --gamma 3 --to de "We forgot to close the window last night.")
  set_tests_properties(program_ptx PROPERTIES LABELS cpu TIMEOUT 300 PASS_REGULAR_EXPRESSION
    "Wir haben gestern Abend vergessen, das Fenster zu schlie")
endif()
if(TARGET spc_bench) # a benchmark has kernels of its own
  add_executable(bench_verify_ptx ../bench/bench_verify.c ../bench/verify_inputs.c ../bench/verify_place_cpu.c)
  target_link_libraries(bench_verify_ptx PRIVATE "$<FILTER:$<TARGET_OBJECTS:bench_verify>,INCLUDE,\\.cu\\.o$>"
    ${ptx_kernels} ptx spc_bench)
  add_test(NAME bench_verify_ptx COMMAND bench_verify_ptx --device cuda --shape 2,2,301 --runs 3 --rules strict --json)
  set_tests_properties(bench_verify_ptx PROPERTIES LABELS cpu TIMEOUT 300 PASS_REGULAR_EXPRESSION
    "\"what\": \"draw\".*\"floor_bytes\": 1200, .*\"form\": \"queue\".*\"floor_bytes\": 3600, \"us\": [1-9].*\"read_us\": [1-9]")
endif()
