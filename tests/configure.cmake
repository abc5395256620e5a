# configure.cmake - what is said of options of the build, and done with them.
#
#   cmake -DROOT=<source tree> -DGENERATOR=<of CMake> -DCC=<C> -DNVCC=<nvcc or empty> -DOUT=<folder> -P configure.cmake
function(configure code expected) # CODE EXPECTED OPTION...
  execute_process(COMMAND ${CMAKE_COMMAND} -G ${GENERATOR} -S ${ROOT} -B ${OUT}/build -DCMAKE_C_COMPILER=${CC}
    -DSPC_ENGINE=OFF ${ARGN}    OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE found)
  string(REGEX REPLACE "[ \n]+" " " said "${said}") # messages are wrapped
  if(NOT found EQUAL code OR NOT said MATCHES "${expected}")
    message(FATAL_ERROR "${ARGN}: expected ${code}, '${expected}', found ${found}:\n${said}")
  endif()
endfunction()

function(stand_in does)
  file(WRITE ${OUT}/bin/nvcc "#!/bin/sh\n${does}\n")
  file(CHMOD ${OUT}/bin/nvcc PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
endfunction()

file(REMOVE_RECURSE ${OUT})
unset(ENV{CUDAARCHS})
unset(ENV{CUDACXX})
set(ENV{PATH} "${OUT}/bin:$ENV{PATH}")

# off is off in all spellings that CMake has, and what is none is refused
foreach(off off 0 NO False)
  configure(0 "CUDA kernels OFF" -DSPC_CUDA=${off})
endforeach()
configure(1 "SPC_CUDA: expected AUTO, ON or OFF, found 'perhaps'" -DSPC_CUDA=perhaps)

execute_process(COMMAND ${CC} --version OUTPUT_VARIABLE version)
if(NOT version MATCHES "clang")
  configure(1 "SPC_FUZZ=ON: expected clang, found " -DSPC_CUDA=OFF -DSPC_FUZZ=ON)
  configure(0 "Generating done" -DSPC_FUZZ=OFF)
endif()

# nor is a library built that would take NaN for a number
execute_process(COMMAND ${CC} -ffast-math -fsyntax-only -I${ROOT}/host/include ${ROOT}/rules/rule.c ERROR_VARIABLE said
  RESULT_VARIABLE found)
if(found EQUAL 0 OR NOT said MATCHES "build without -ffast-math")
  message(FATAL_ERROR "-ffast-math: expected to be refused, found ${found}: ${said}")
endif()

# a compiler is looked for again where there was none
file(REMOVE_RECURSE ${OUT}/build)
stand_in("echo asked >>'${OUT}/asked'; exit 1")
foreach(time first second)
  configure(1 "SPC_CUDA=ON, but no CUDA compiler was found that works" -DSPC_CUDA=on)
  if(NOT EXISTS ${OUT}/asked)
    message(FATAL_ERROR "the compiler on PATH was not tried, the ${time} time")
  endif()
  file(REMOVE ${OUT}/asked)
endforeach()
configure(0 "CUDA kernels OFF" -DSPC_CUDA=AUTO)

# files for pkg-config name folders that are absolute as they are, and what an archive alone needs
find_program(PKG_CONFIG pkg-config REQUIRED)
set(ENV{PKG_CONFIG_PATH} ${OUT}/build)
function(asked expected) # EXPECTED OPTION...
  execute_process(COMMAND ${PKG_CONFIG} ${ARGN} spc-verify OUTPUT_VARIABLE said COMMAND_ERROR_IS_FATAL ANY)
  if(NOT said MATCHES "${expected}")
    message(FATAL_ERROR "pkg-config ${ARGN} spc-verify: expected '${expected}', found '${said}'")
  endif()
endfunction()
configure(0 "Generating done" -DSPC_CUDA=OFF -DSPC_SHARED=OFF -DCMAKE_INSTALL_PREFIX=/p -DCMAKE_INSTALL_LIBDIR=/of/lib)
asked("^/p/include\n" --variable=includedir)
asked("^/of/lib\n" --variable=libdir)
asked("-lspc_verify -lm" --libs)
configure(0 "Generating done" -DSPC_CUDA=OFF -DSPC_SHARED=ON -DCMAKE_INSTALL_LIBDIR=lib/here -DCMAKE_INSTALL_INCLUDEDIR=/of/include)
asked("/build/[./]+/lib/here\n" --variable=libdir)
asked("^/of/include\n" --variable=includedir)
asked("-lspc_verify *\n" --libs)

# who lacks a library hears which, and how to do without
file(REMOVE_RECURSE ${OUT}/build)
file(MAKE_DIRECTORY ${OUT}/pc)
set(ENV{PKG_CONFIG_LIBDIR} ${OUT}/pc)
configure(1 "the engine needs jansson, .*-DSPC_ENGINE=OFF" -DSPC_CUDA=OFF -DSPC_ENGINE=ON)
foreach(name jansson libpcre2-8 libutf8proc)
  file(WRITE ${OUT}/pc/${name}.pc "Name: ${name}\nDescription: none\nVersion: 1\n")
endforeach()
configure(1 "the tests need Criterion.*-DSPC_TESTS=OFF" -DSPC_ENGINE=ON)
configure(0 "Generating done" -DSPC_ENGINE=ON -DSPC_TESTS=OFF)
unset(ENV{PKG_CONFIG_LIBDIR})

if(NVCC)
  # kernels are for 8.0 and up
  set(ENV{CUDACXX} ${NVCC})
  foreach(architectures 75 all-major)
    configure(1 "CMAKE_CUDA_ARCHITECTURES: expected numbers from 80 on" -DSPC_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=${architectures})
  endforeach()
  # and the environment may say for which
  file(REMOVE_RECURSE ${OUT}/build)
  set(ENV{CUDAARCHS} 86)
  configure(0 "CUDA kernels ON" -DSPC_CUDA=AUTO)
  file(STRINGS ${OUT}/build/CMakeCache.txt found REGEX "^CMAKE_CUDA_ARCHITECTURES:STRING=86$")
  if(NOT found)
    message(FATAL_ERROR "CUDAARCHS was not heeded")
  endif()
  # a header that lacks what ranks are made of; none is fine
  file(WRITE ${OUT}/nccl/nccl.h "#define NCCL_MAJOR 2\n#define NCCL_MINOR 17\n#define NCCL_PATCH 1\n")
  file(REMOVE_RECURSE ${OUT}/build)
  configure(1 "nccl/nccl.h: expected the header of NCCL 2.18 or later, .* found 2.17: install" -DSPC_CUDA=ON
    -DSPC_ENGINE=ON -DSPC_TESTS=OFF -DNCCL_INCLUDE_DIR=${OUT}/nccl)
  configure(0 "Generating done" -DSPC_CUDA=ON -DSPC_ENGINE=ON -DSPC_TESTS=OFF -DNCCL_INCLUDE_DIR=)
  # those that are older than what the backend calls
  file(REMOVE_RECURSE ${OUT}/build)
  unset(ENV{CUDACXX})
  stand_in("case \"$*\" in --version) echo 'nvcc: NVIDIA (R) Cuda compiler driver, V11.8.89' ;; *) exec '${NVCC}' \"$@\" ;; esac")
  configure(1 "SPC_CUDA=ON: expected the CUDA toolkit 12 or later, found 11.8" -DSPC_CUDA=ON)
  configure(0 "CUDA kernels OFF" -DSPC_CUDA=AUTO)
endif()
