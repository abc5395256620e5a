# rooms.cmake - fail when a file includes something its room may not see.
#
#   cmake -DROOT=<source tree> -P rooms.cmake
#
# An include names its origin: "row.h" the same folder, "rules/row.h" another one, <spc/spc.h> the public
# interface, <jansson.h> the system.  A border crossing therefore always shows, and the two tables below
# say which ones are meant.  bench and tests see everything and are not listed.

# What each room may include from other rooms (a regular expression over the text after #include).
set(SEES_rules   "^$")
set(SEES_weights "^(<spc/status\\.h>|\"weights/[a-z0-9_/]+\\.h\")$")
set(SEES_cuda    "^(\"rules/[a-z0-9_]+\\.h\"|<spc/verify\\.h>)$")
set(SEES_host    "^(\"(rules|weights|host)/[a-z0-9_/]+\\.h\"|<spc/[a-z]+\\.h>)$")

# What a folder of host/ may include of the rest of host/; the program (cli) sees everything, and nobody sees it.
set(INNER_verify "^\"host/refuse\\.h\"$")
set(INNER_plan   "^\"host/ranks/comm\\.h\"$")
set(INNER_cpu    "^\"host/((backend|carve|kv|pages|thread)\\.h|plan/[a-z_]+\\.h|verify/chance\\.h)\"$")
set(INNER_gpu    "^\"host/([a-z_]+\\.h|(cpu|plan|ranks)/[a-z_]+\\.h)\"$")
set(INNER_ranks  "^\"host/([a-z_]+\\.h|cpu/[a-z_]+\\.h)\"$")
set(INNER_apart  "^\"host/([a-z_]+\\.h|(cpu|ranks)/[a-z_]+\\.h)\"$")
set(INNER_cli    ".")
set(INNER_       "^\"host/([a-z_]+\\.h|(apart|cpu|gpu|plan|ranks|verify)/[a-z_]+\\.h)\"$")

# What only some files may include: header, then the files, as regular expressions.
set(ONLY
  "\"cuda/(launch|ops|round)\\.h\""       "^host/(gpu/[a-z_]*\\.[ch]|ranks/comm_virtual\\.c)$"
  "<jansson\\.h>"                         "^(weights/|host/(cli/|kernels\\.c$))"
  "<(pcre2|utf8proc)\\.h>"                "^weights/pretoken\\.c$"
  "<cuda[a-z0-9_]*\\.h>"                  "^(cuda/|host/(gpu/[a-z_]*\\.[ch]|ranks/comm_(device\\.c|nccl_?[a-z]*\\.[ch]|virtual\\.c))$)"
  "<cublas[A-Za-z0-9_]*\\.h>"             "^cuda/gemm\\.cu$"
  "<nvtx3/[A-Za-z]+\\.h>"                 "^host/trace\\.c$"
  "<nccl\\.h>"                            "^host/ranks/comm_nccl_?[a-z]*\\.[ch]$"
  "<immintrin\\.h>"                       "^host/cpu/cpu_avx"
  "<math\\.h>"                            "^(weights/|cuda/|host/|rules/portable\\.h$|rules/rule\\.c$)"
  "<(stdio|stdlib|string|locale|float)\\.h>" "^(weights/|cuda/|host/|rules/rule\\.c$)")

foreach(room rules weights cuda host)
  file(GLOB_RECURSE files RELATIVE ${ROOT}
       ${ROOT}/${room}/*.c ${ROOT}/${room}/*.h ${ROOT}/${room}/*.cu ${ROOT}/${room}/*.cuh)
  if(NOT files)
    message(FATAL_ERROR "no source files in '${ROOT}/${room}': is ROOT the source tree?")
  endif()
  foreach(file ${files})
    set(inner "")
    if(file MATCHES "^host/([a-z]+)/")
      set(inner ${CMAKE_MATCH_1})
    endif()
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
      if(include MATCHES "^\"host/" AND NOT include MATCHES "${INNER_${inner}}")
        message(SEND_ERROR "${file} may not include ${include}")
      endif()
      if(NOT special AND include MATCHES "^(\".*/|<spc/)" AND NOT include MATCHES "${SEES_${room}}")
        message(SEND_ERROR "${file} may not include ${include}")
      endif()
    endforeach()
  endforeach()
endforeach()
