# rooms.cmake - fail when a file includes something its room may not see.
#
#   cmake -DROOT=<source tree> -P rooms.cmake
#
# An include names its origin: "row.h" the same room, "rules/row.h" another room, <spc/spc.h> the public
# interface, <jansson.h> the system.  A border crossing therefore always shows, and the two tables below
# say which ones are meant.  bench and tests see everything and are not listed.

# What each room may include from other rooms (a regular expression over the text after #include).
set(SEES_rules   "^$")
set(SEES_weights "^(<spc/status\\.h>|\"weights/[a-z0-9_/]+\\.h\")$")
set(SEES_cuda    "^(\"rules/[a-z0-9_]+\\.h\"|<spc/verify\\.h>)$")
set(SEES_host    "^(\"(rules|weights)/[a-z0-9_/]+\\.h\"|<spc/[a-z]+\\.h>)$")

# What only some files may include: header, then the files, as regular expressions.
set(ONLY
  "\"cuda/(launch|ops|round)\\.h\""       "^host/(backend_cuda[a-z_]*\\.[ch]|comm_virtual\\.c)$"
  "<jansson\\.h>"                         "^(weights/|host/(cli|kernels\\.c$))"
  "<(pcre2|utf8proc)\\.h>"                "^weights/pretoken\\.c$"
  "<cuda[a-z0-9_]*\\.h>"                  "^(cuda/|host/(backend_cuda[a-z_]*\\.[ch]|comm_(device\\.c|nccl_?[a-z]*\\.[ch]|virtual\\.c))$)"
  "<cublas[A-Za-z0-9_]*\\.h>"             "^cuda/gemm\\.cu$"
  "<nvtx3/[A-Za-z]+\\.h>"                 "^host/trace\\.c$"
  "<nccl\\.h>"                            "^host/comm_nccl_?[a-z]*\\.[ch]$"
  "<immintrin\\.h>"                       "^host/cpu_avx"
  "<math\\.h>"                            "^(weights/|cuda/|host/|rules/portable\\.h$|rules/rule\\.c$)"
  "<(stdio|stdlib|string|locale|float)\\.h>" "^(weights/|cuda/|host/|rules/rule\\.c$)")

foreach(room rules weights cuda host)
  file(GLOB_RECURSE files RELATIVE ${ROOT}
       ${ROOT}/${room}/*.c ${ROOT}/${room}/*.h ${ROOT}/${room}/*.cu ${ROOT}/${room}/*.cuh)
  if(NOT files)
    message(FATAL_ERROR "no source files in '${ROOT}/${room}': is ROOT the source tree?")
  endif()
  foreach(file ${files})
    file(STRINGS ${ROOT}/${file} lines REGEX "^[ \t]*#[ \t]*include")
    foreach(line ${lines})
      string(REGEX REPLACE "^[ \t]*#[ \t]*include[ \t]*([\"<][^\">]*[\">]).*" "\\1" include "${line}")
      set(special OFF)
      set(rest ${ONLY})
      while(rest)
        list(POP_FRONT rest header owners)
        if(include MATCHES "^(${header})$")
          set(special ON)
          if(NOT file MATCHES "${owners}")
            message(SEND_ERROR "${file} may not include ${include}")
          endif()
        endif()
      endwhile()
      # A public header finds the rules beside itself, in the tree and installed.
      if(file MATCHES "^host/include/" AND include MATCHES "^\"rules/")
        set(special ON)
      endif()
      if(NOT special AND include MATCHES "^(\".*/|<spc/)" AND NOT include MATCHES "${SEES_${room}}")
        message(SEND_ERROR "${file} may not include ${include}")
      endif()
    endforeach()
  endforeach()
endforeach()
