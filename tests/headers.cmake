# headers.cmake - every public header alone in a file, as C99, as C++17, as C++20 and, where there is one, for nvcc.
#
#   cmake -DROOT=<source tree> -DCC=<C> -DCXX=<C++ or empty> -DNVCC=<nvcc or empty> -DOUT=<folder> -P headers.cmake
file(GLOB headers ${ROOT}/rules/*.h ${ROOT}/host/include/spc/*.h)
set(flags -pedantic-errors -Wall -Wextra -Werror -Wno-unused-function -I${ROOT}/host/include -fsyntax-only)
file(MAKE_DIRECTORY ${OUT})

function(compile what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code ERROR_VARIABLE said OUTPUT_VARIABLE said)
  if(NOT code EQUAL 0)
    message(SEND_ERROR "${what}:\n${said}")
  endif()
endfunction()

# who includes the verification library sees its interface, and nothing of the mathematics
file(WRITE ${OUT}/embedder.c "#include <spc/verify.h>\n")
execute_process(COMMAND ${CC} -E -I${ROOT}/host/include ${OUT}/embedder.c OUTPUT_VARIABLE seen COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "/spc/[a-z_/]+\\.h" seen "${seen}")
list(REMOVE_DUPLICATES seen)
list(SORT seen)
if(NOT seen STREQUAL "/spc/rules/rule.h;/spc/rules/types.h;/spc/status.h;/spc/verify.h")
  message(SEND_ERROR "<spc/verify.h>: expected to include status.h, rules/rule.h and rules/types.h, found ${seen}")
endif()
foreach(header ${seen})
  file(STRINGS ${ROOT}/host/include${header} body REGEX "^{|SPC_FN|inline")
  if(body)
    message(SEND_ERROR "${header}: expected declarations alone, found ${body}")
  endif()
endforeach()

list(FILTER headers EXCLUDE REGEX "_body\\.h$") # they need what their includer defines

foreach(header ${headers})
  get_filename_component(name ${header} NAME_WE)
  file(WRITE ${OUT}/${name}.c "#include \"${header}\"\n")
  file(WRITE ${OUT}/${name}.cpp "#include \"${header}\"\n")
  file(WRITE ${OUT}/${name}.cu "#include \"${header}\"\n")
  compile("${header} as C99" ${CC} -std=c99 ${flags} ${OUT}/${name}.c)
  if(CXX)
    foreach(standard 17 20)
      compile("${header} as C++${standard}" ${CXX} -std=c++${standard} ${flags} ${OUT}/${name}.cpp)
    endforeach()
  endif()
  if(NVCC)
    compile("${header} as CUDA" ${NVCC} -std=c++17 -arch=sm_80 --fmad=false -I${ROOT}/host/include -cubin -o ${OUT}/${name}.cubin ${OUT}/${name}.cu)
  endif()
endforeach()
