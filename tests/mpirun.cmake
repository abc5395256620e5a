# mpirun.cmake - spc run under mpirun prints what it prints alone; "skipped" where there is no mpirun.
#
#   cmake -DSPC=<program> -DMPIRUN=<mpirun or empty> -DOUT=<folder> -P mpirun.cmake
if(NOT MPIRUN)
  message("skipped: no mpirun on this machine (Debian: openmpi-bin)")
  return()
endif()
# Open MPI 4 and 5 as root, and with more ranks than cores, by variables that others ignore.
set(ENV{OMPI_ALLOW_RUN_AS_ROOT} 1)
set(ENV{OMPI_ALLOW_RUN_AS_ROOT_CONFIRM} 1)
set(ENV{OMPI_MCA_rmaps_base_oversubscribe} 1)
set(ENV{PRTE_MCA_rmaps_default_mapping_policy} ":oversubscribe")
file(MAKE_DIRECTORY ${OUT})
set(arguments --to de --rule token-v3:alpha=0.5 --seed 3 "The house is small." "I do not know.")
execute_process(COMMAND ${SPC} run ${arguments} OUTPUT_VARIABLE alone RESULT_VARIABLE code)
if(NOT code EQUAL 0)
  message(FATAL_ERROR "alone: exit code ${code}")
endif()
foreach(world 2 4)
  execute_process(COMMAND ${MPIRUN} -n ${world} ${SPC} run --ranks-from env --meet ${OUT}/meet
    --rank-timeout 30 ${arguments} OUTPUT_VARIABLE together RESULT_VARIABLE code ERROR_VARIABLE said)
  if(NOT code EQUAL 0 OR NOT together STREQUAL alone)
    message(FATAL_ERROR "${world} ranks: exit code ${code}\n${together}\ninstead of\n${alone}\n${said}")
  endif()
endforeach()
