# install.cmake - install the build, then build and run a project that knows only the installation, and
# one that takes the verification library alone from the source tree.
#
#   cmake -DROOT= -DBUILD= -DOUT= -DCC= -DFLAGS= -P install.cmake
function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE code OUTPUT_VARIABLE said ERROR_VARIABLE said)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "${what}:\n${said}")
  endif()
endfunction()

file(REMOVE_RECURSE ${OUT})
run("install" ${CMAKE_COMMAND} --install ${BUILD} --prefix ${OUT}/prefix)
run("the installed program" ${OUT}/prefix/bin/spc --version)
foreach(how installed embedded)
  run("configure, ${how}" ${CMAKE_COMMAND} -G Ninja -S ${ROOT}/tests/consumer -B ${OUT}/${how}
    -DHOW=${how} -DSPC_ROOT=${ROOT} -DSPC_CUDA=OFF -DCMAKE_PREFIX_PATH=${OUT}/prefix
    -DCMAKE_C_COMPILER=${CC} -DCMAKE_C_FLAGS=${FLAGS})
  run("build, ${how}" ${CMAKE_COMMAND} --build ${OUT}/${how})
  run("run, ${how}" ${OUT}/${how}/verify)
endforeach()
run("run, engine" ${OUT}/installed/engine)
