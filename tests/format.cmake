# format.cmake - fail when clang-format would change a source file.
#
#   cmake -DROOT=<source tree> -DCLANG_FORMAT=<clang-format> -P format.cmake
#
# Versions of clang-format differ in details; .clang-format is written for 14, which Debian 12 has.
execute_process(COMMAND ${CLANG_FORMAT} --version OUTPUT_VARIABLE version RESULT_VARIABLE code)
if(NOT code EQUAL 0)
  message(FATAL_ERROR "clang-format does not run (${CLANG_FORMAT}): install it, make test does")
endif()
if(NOT version MATCHES "version 14\\.")
  message("clang-format is not 14, formats are not compared: ${version}")
  return()
endif()
file(GLOB_RECURSE files ${ROOT}/rules/*.[ch] ${ROOT}/weights/*.[ch] ${ROOT}/host/*.[ch]
  ${ROOT}/cuda/*.h ${ROOT}/cuda/*.cu ${ROOT}/cuda/*.cuh ${ROOT}/bench/*.[ch] ${ROOT}/tests/*.[ch])
execute_process(COMMAND ${CLANG_FORMAT} --dry-run --Werror ${files} RESULT_VARIABLE code
  ERROR_VARIABLE said)
if(NOT code EQUAL 0)
  message(FATAL_ERROR "make format would change files:\n${said}")
endif()
