# install.cmake - install the build, then build and run a project that knows only the installation, and
# one that takes the verification library alone from the source tree.
#
#   cmake -DROOT= -DGENERATOR= -DBUILD= -DOUT= -DCC= -DFLAGS= -P install.cmake
function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE said ERROR_VARIABLE said)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${what}:\n${said}")
  endif()
endfunction()

file(REMOVE_RECURSE ${OUT})
run("install" ${CMAKE_COMMAND} --install ${BUILD} --prefix ${OUT}/prefix)
file(GLOB_RECURSE attribution ${OUT}/prefix/ATTRIBUTION.md)
if(NOT attribution)
  message(FATAL_ERROR "the attribution of the embedded weights is not installed")
endif()
file(STRINGS ${attribution} said REGEX "CC BY")
if(NOT said)
  message(FATAL_ERROR "${attribution}: says nothing of CC BY")
endif()
run("the installed program" ${OUT}/prefix/bin/spc --version)
foreach(how installed embedded verify_alone)
  if(how STREQUAL verify_alone)
    set(ENV{PKG_CONFIG_LIBDIR} ${OUT}) # no library is there
  endif()
  run("configure, ${how}" ${CMAKE_COMMAND} -G ${GENERATOR} -S ${ROOT}/tests/consumer -B ${OUT}/${how}
    -DHOW=${how} -DSPC_ROOT=${ROOT} -DSPC_CUDA=OFF -DCMAKE_PREFIX_PATH=${OUT}/prefix
    -DCMAKE_C_COMPILER=${CC} -DCMAKE_C_FLAGS=${FLAGS})
  run("build, ${how}" ${CMAKE_COMMAND} --build ${OUT}/${how})
  run("run, ${how}" ${OUT}/${how}/verify)
endforeach()
run("run, engine" ${OUT}/installed/engine)
execute_process(COMMAND ${OUT}/installed/server OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE code)
if(NOT code EQUAL 0 OR NOT said MATCHES "Kinder.*niños.*enfants.*Fenster")
  message(FATAL_ERROR "server: ${code}\n${said}")
endif()
file(GLOB_RECURSE shared ${OUT}/prefix/libspc.so)
if(shared AND NOT FLAGS MATCHES "sanitize")
  find_program(PYTHON3 python3 REQUIRED)
  run("run, engine.py" ${CMAKE_COMMAND} -E env PYTHONDONTWRITEBYTECODE=1 ${PYTHON3}
    ${ROOT}/tests/consumer/engine.py ${shared})
endif()
unset(ENV{PKG_CONFIG_LIBDIR})

# a conversation: the embedded pair has no chat template; with two tokens renamed it has Mistral Nemo's
execute_process(COMMAND ${OUT}/installed/chat embedded:verifier embedded:drafter Hello ERROR_VARIABLE said
  OUTPUT_VARIABLE said RESULT_VARIABLE code)
if(NOT code EQUAL 1 OR NOT said MATCHES "embedded:verifier: no chat template")
  message(FATAL_ERROR "chat without a template: ${code}\n${said}")
endif()
foreach(model verifier drafter)
  set(from ${ROOT}/weights/demo/${model})
  file(COPY ${from}/config.json ${from}/model.safetensors DESTINATION ${OUT}/${model})
  file(COPY_FILE ${ROOT}/tests/vectors/chat/mistral-nemo.jinja ${OUT}/${model}/chat_template.jinja)
  file(READ ${from}/tokenizer.json tokens)
  string(REPLACE "<2de>" "[INST]" tokens "${tokens}")
  string(REPLACE "<sep>" "[/INST]" tokens "${tokens}")
  file(WRITE ${OUT}/${model}/tokenizer.json "${tokens}")
endforeach()
execute_process(COMMAND ${OUT}/installed/chat ${OUT}/verifier ${OUT}/drafter "The cat sleeps on the old chair."
  OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE code)
if(NOT code EQUAL 0 OR NOT said MATCHES "Katze")
  message(FATAL_ERROR "chat: ${code}\n${said}")
endif()

# who asks for the engine without its dependencies is told, and QUIET stays quiet
set(ENV{PKG_CONFIG_LIBDIR} ${OUT})
file(WRITE ${OUT}/asks/CMakeLists.txt "cmake_minimum_required(VERSION 3.24)\nproject(asks C)\n"
  "find_package(spc QUIET)\nmessage(STATUS \"found \${spc_FOUND}\")\n")
execute_process(COMMAND ${CMAKE_COMMAND} -G ${GENERATOR} -S ${OUT}/asks -B ${OUT}/asks/build -DCMAKE_C_COMPILER=${CC}
  -DCMAKE_PREFIX_PATH=${OUT}/prefix OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE code)
if(NOT code EQUAL 0 OR NOT said MATCHES "found (FALSE|0)")
  message(FATAL_ERROR "find_package without the engine's dependencies:\n${said}")
endif()
unset(ENV{PKG_CONFIG_LIBDIR})

# a parent's installation is its own, and its headers are not mistaken for ours
run("install, embedded" ${CMAKE_COMMAND} --install ${OUT}/embedded --prefix ${OUT}/parent)
file(GLOB_RECURSE installed ${OUT}/parent/*)
if(installed)
  message(FATAL_ERROR "a parent installs what is not its own: ${installed}")
endif()
file(WRITE ${OUT}/inc/rules/types.h "#error not this one\n")
run("headers behind others of their names" ${CC} -I${OUT}/inc -I${ROOT}/host/include -fsyntax-only
  ${ROOT}/tests/consumer/verify.c)
run("headers, installed" ${CC} -I${OUT}/inc -I${OUT}/prefix/include -fsyntax-only ${ROOT}/tests/consumer/verify.c)

# without CMake
find_program(PKG_CONFIG pkg-config REQUIRED)
file(GLOB_RECURSE pc ${OUT}/prefix/spc.pc)
get_filename_component(pc ${pc} DIRECTORY)
set(ENV{PKG_CONFIG_PATH} ${pc})
foreach(package spc-verify spc)
  execute_process(COMMAND ${PKG_CONFIG} --cflags --libs ${package} OUTPUT_VARIABLE flags
    OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(flags UNIX_COMMAND "${flags} ${FLAGS}")
  if(package STREQUAL spc)
    set(source engine)
  else()
    set(source verify)
  endif()
  run("build with pkg-config, ${package}" ${CC} ${ROOT}/tests/consumer/${source}.c ${flags} -o ${OUT}/${package}-by-pc)
  get_filename_component(lib ${pc} DIRECTORY)
  run("run, ${package}" ${CMAKE_COMMAND} -E env LD_LIBRARY_PATH=${lib} ${OUT}/${package}-by-pc)
endforeach()
