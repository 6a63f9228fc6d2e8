# Which folder may include which. The tables below are the rule.
#
# This file is both the module (dsv4_add_layering_tests()) and, run as `cmake -P`, the tests themselves:
#   cmake -D ROOT=<repository> -P cmake/Dsv4Layering.cmake            checks a tree
#   cmake -D SELF_TEST=<scratch folder> -P cmake/Dsv4Layering.cmake   plants violations and expects each found
if(NOT CMAKE_SCRIPT_MODE_FILE)
  include_guard(GLOBAL)
  function(dsv4_add_layering_tests)
    set(script ${PROJECT_SOURCE_DIR}/cmake/Dsv4Layering.cmake)
    add_test(NAME layering COMMAND ${CMAKE_COMMAND} -D ROOT=${PROJECT_SOURCE_DIR} -P ${script})
    add_test(NAME layering_selftest COMMAND ${CMAKE_COMMAND} -D
                                            SELF_TEST=${CMAKE_CURRENT_BINARY_DIR}/layering_selftest -P ${script})
    set_tests_properties(layering layering_selftest PROPERTIES LABELS house TIMEOUT 300)
  endfunction()
  return()
endif()

cmake_minimum_required(VERSION 3.25)

if("${ROOT}${SELF_TEST}" STREQUAL "")
  message(FATAL_ERROR "give -D ROOT=<repository> or -D SELF_TEST=<scratch folder>")
endif()

# ---- table 1: files of this repository -------------------------------------------------------------------
# allow(<files> <may include> [<but never>]): regexes on paths from the root, without a leading "include/".
# The FIRST line whose <files> matches decides. OWN in <may include> stands for the includer's own folder.
set(rules "")
function(allow files may)
  set(never "")
  if(ARGC GREATER 2)
    set(never "${ARGV2}")
  endif()
  list(LENGTH rules n)
  set(files_${n} "^(${files})$" PARENT_SCOPE)
  set(may_${n} "${may}" PARENT_SCOPE)
  set(never_${n} "${never}" PARENT_SCOPE)
  set(rules ${rules} ${n} PARENT_SCOPE)
endfunction()

set(any ".*")
set(stage "dsv4/(embed|mhc|attention|moe|mtp|lm_head)")
# L0
allow("dsv4/(dsv4[.]h|version[.]hpp)" "")
allow("dsv4/core/.*" "dsv4/core/.*")
allow("dsv4/simt/.*" "dsv4/(core|simt)/.*")
allow("dsv4/arch/.*" "dsv4/(core|simt|arch)/.*")
allow("dsv4/model_config[.]hpp" "dsv4/core/.*")
# L1: no stage includes another stage's folder
allow("dsv4/linear/.*[.]hpp" "dsv4/(core|linear)/.*[.]hpp")
allow("dsv4/linear/.*[.]cuh" "dsv4/(core|arch|linear)/.*")
allow("${stage}/.*[.]hpp" "(dsv4/(core|linear)|OWN)/.*[.]hpp")
allow("${stage}/.*[.]cuh" "(dsv4/(core|arch|linear)|OWN)/.*")
# L2
allow("dsv4/ops/.*" "dsv4/(core/(config|status|stream|types)|model_config|ops/.*)[.]hpp")
allow("dsv4/dsv4[.]hpp" "dsv4/.*[.]hpp")
allow("dsv4/.*" "(give this folder a line in cmake/Dsv4Layering.cmake)")
# L3
allow("simt/.*" "(dsv4/(core|simt)/.*|simt/.*)")
allow("kernels/.*" "(dsv4|kernels)/.*")
# L4: the straight line knows no backend
allow("reference/forward[.]hpp" "(dsv4|reference)/.*" "reference/.*backend.*")
allow("reference/.*" "(dsv4|reference)/.*")
allow("tests/install/.*" "(dsv4|reference)/.*")
allow("tests/.*" "(dsv4|simt|reference|kernels|tests|fuzz)/.*")
allow("bench/gpu/.*" "(dsv4|tests/(support|gpu)|bench/gpu)/.*" "reference/.*") # neither has other packages
allow("(bench|fuzz|tools)/.*" "(dsv4|reference|tests/support|bench|fuzz)/.*")
allow("examples/.*" "(dsv4|reference|examples)/.*")

# ---- table 2: what comes from elsewhere ------------------------------------------------------------------
# allow_outside(<files> <headers>): likewise, for the standard library and other projects.
set(outside_rules "")
function(allow_outside files headers)
  list(LENGTH outside_rules n)
  set(outside_files_${n} "^(${files})$" PARENT_SCOPE)
  set(outside_headers_${n} "^(${headers})$" PARENT_SCOPE)
  set(outside_rules ${outside_rules} ${n} PARENT_SCOPE)
endfunction()

set(std "[a-z_0-9]+") # <vector>, <cmath>; neither <stdio.h> nor <fmt/core.h>
allow_outside("dsv4/dsv4[.]h" "(stdbool|stddef|stdint)[.]h")
allow_outside("dsv4/core/simd[.]hpp" "${std}|immintrin[.]h|arm_neon[.]h") # host lanes; device ones are arch/'s
allow_outside("dsv4/(arch|simt)/.*" "${any}")
allow_outside("dsv4/.*" "${std}")
allow_outside("${any}" "${any}")

# ---- table 3: lengths ------------------------------------------------------------------------------------
set(limited_files reference/forward.hpp)
set(limit_of_reference/forward.hpp 199)

# ---- the check -------------------------------------------------------------------------------------------
# Appends "file:line: message" to `violations` of the caller.
macro(report line message)
  list(APPEND violations "${file}:${line}: ${message}")
endmacro()

# One include of `name` (the file's path without "include/") at `line`: <header> or "header".
function(check_include line delimiter header)
  if(header MATCHES "^(dsv4|simt|reference|tests|bench|fuzz|kernels|tools|examples)/")
    if(name MATCHES "^dsv4/" AND delimiter STREQUAL "\"")
      report(${line} "public headers include <dsv4/...> with angle brackets, not \"${header}\"")
    endif()
    cmake_path(GET name PARENT_PATH own)
    foreach(n IN LISTS rules)
      if(name MATCHES "${files_${n}}")
        string(REPLACE "OWN" "${own}" may "${may_${n}}")
        if(NOT header MATCHES "^(${may})$")
          report(${line} "must not include ${header} (rule: it may include ${may})")
        elseif(never_${n} AND header MATCHES "^(${never_${n}})$")
          report(${line} "must not include ${header} (rule: never ${never_${n}})")
        endif()
        break()
      endif()
    endforeach()
  elseif(delimiter STREQUAL "\"")
    report(${line} "\"${header}\": spell the path from the repository's root, or use angle brackets")
  else()
    foreach(n IN LISTS outside_rules)
      if(name MATCHES "${outside_files_${n}}")
        if(NOT header MATCHES "${outside_headers_${n}}")
          report(${line} "must not include <${header}> (rule: outside dsv4 only ${outside_headers_${n}})")
        endif()
        break()
      endif()
    endforeach()
  endif()
  set(violations "${violations}" PARENT_SCOPE)
endfunction()

# Sets `violations` (a list of lines) and `files_checked` in the caller.
function(check_tree root)
  set(violations "")
  set(files_checked 0)
  foreach(folder include/dsv4 simt kernels reference tests bench fuzz tools examples)
    file(GLOB_RECURSE files RELATIVE "${root}" "${root}/${folder}/*.hpp" "${root}/${folder}/*.h" "${root}/${folder}/*.cuh"
         "${root}/${folder}/*.cu" "${root}/${folder}/*.cpp")
    foreach(file IN LISTS files)
      math(EXPR files_checked "${files_checked} + 1")
      string(REGEX REPLACE "^include/" "" name "${file}")
      file(READ "${root}/${file}" text)
      # Keep what a CMake list can hold: one item a line, empty ones included.
      string(REGEX REPLACE "[][;\\]" " " text "${text}")
      string(REGEX REPLACE "\n$" "" text "${text}")
      string(REPLACE "\n" ";" text "${text}")
      set(line 0)
      foreach(content IN LISTS text)
        math(EXPR line "${line} + 1")
        if(content MATCHES "^[ \t]*#[ \t]*include[ \t]*([<\"])([^>\"]+)[>\"]")
          check_include(${line} "${CMAKE_MATCH_1}" "${CMAKE_MATCH_2}")
        endif()
      endforeach()
      if(file IN_LIST limited_files AND line GREATER limit_of_${file})
        report(${line} "has more than ${limit_of_${file}} lines")
      endif()
    endforeach()
  endforeach()
  set(violations "${violations}" PARENT_SCOPE)
  set(files_checked ${files_checked} PARENT_SCOPE)
endfunction()

if(ROOT)
  file(REAL_PATH "${ROOT}" root)
  check_tree("${root}")
  if(violations)
    list(LENGTH violations count)
    list(JOIN violations "\n" lines)
    message("${lines}")
    message(FATAL_ERROR "layering: ${count} violations in ${files_checked} files")
  endif()
  if(files_checked EQUAL 0)
    message(FATAL_ERROR "layering: no files below ${root}")
  endif()
  message("layering: ${files_checked} files obey the tables")
  return()
endif()

# ---- the check's own test --------------------------------------------------------------------------------
set(failures 0)
# Writes `file` with `text` into an otherwise empty tree and expects the violations whose starts follow.
function(plant file text)
  file(REMOVE_RECURSE "${SELF_TEST}")
  file(WRITE "${SELF_TEST}/${file}" "${text}")
  check_tree("${SELF_TEST}")
  list(LENGTH violations found)
  list(LENGTH ARGN expected)
  set(ok TRUE)
  if(NOT found EQUAL expected)
    set(ok FALSE)
  else()
    foreach(violation start IN ZIP_LISTS violations ARGN)
      string(FIND "${violation}" "${start}" at)
      if(NOT at EQUAL 0)
        set(ok FALSE)
      endif()
    endforeach()
  endif()
  if(NOT ok)
    message("layering_selftest: ${file}: expected '${ARGN}', found '${violations}'")
    math(EXPR failures "${failures} + 1")
    set(failures ${failures} PARENT_SCOPE)
  endif()
endfunction()

# What is allowed.
plant(include/dsv4/core/norm.hpp "#include <dsv4/core/math.hpp>\n#include <cmath>\n")
plant(include/dsv4/core/simd.hpp "#if 1\n#  include <immintrin.h>\n#endif\n")
plant(include/dsv4/mhc/pre.hpp
      "#include <dsv4/mhc/split.hpp>\n#include <dsv4/linear/fp8.hpp>\n#include <dsv4/core/coop.hpp>\n")
plant(include/dsv4/mhc/post.cuh "#include <dsv4/arch/mma.cuh>\n#include <dsv4/linear/fp8.cuh>\n")
plant(reference/forward.hpp "#include <dsv4/model_config.hpp>\n#include \"reference/tap.hpp\"\n")
plant(tests/mhc/post_test.cpp "#include <dsv4/attention/attend.hpp>\n#include \"tests/support/catch.hpp\"\n")
plant(reference/weights.cpp "#include <fmt/core.h>\n// #include \"x\"\nchar c[] = \"];\"; // [\n")
string(REPEAT "// line\n" 199 long)
plant(reference/forward.hpp "${long}")
plant(simt/warp.cpp "#include \"simt/machine.hpp\"\n#include <dsv4/simt/device.hpp>\n#include <sys/mman.h>\n")
plant(kernels/mhc/pre.cu "#include <dsv4/mhc/pre.cuh>\n#include \"kernels/common/dispatch.hpp\"\n")
# What is not.
plant(simt/warp.cpp "#include <dsv4/arch/warp.cuh>\n#include \"kernels/common/dispatch.hpp\"\n" simt/warp.cpp:1:
      simt/warp.cpp:2:)
plant(include/dsv4/simt/device.hpp "#include \"simt/machine.hpp\"\n" include/dsv4/simt/device.hpp:1:
      include/dsv4/simt/device.hpp:1:)
plant(include/dsv4/arch/warp.cuh "#include <dsv4/mhc/pre.hpp>\n" include/dsv4/arch/warp.cuh:1:)
plant(kernels/mhc/pre.cu "#include \"simt/machine.hpp\"\n#include \"reference/state.hpp\"\n" kernels/mhc/pre.cu:1:
      kernels/mhc/pre.cu:2:)
plant(include/dsv4/core/norm.hpp "// one\n\n#include <dsv4/linear/fp8.hpp>\n" include/dsv4/core/norm.hpp:3:)
plant(include/dsv4/core/norm.hpp "#include <fmt/core.h>\n" include/dsv4/core/norm.hpp:1:)
plant(include/dsv4/core/norm.hpp "#include <immintrin.h>\n" include/dsv4/core/norm.hpp:1:)
plant(include/dsv4/core/norm.hpp "char c = ']'; // [;\n# include  \"dsv4/core/math.hpp\"\n" include/dsv4/core/norm.hpp:2:)
plant(include/dsv4/model_config.hpp "#include <dsv4/moe/gate.hpp>\n" include/dsv4/model_config.hpp:1:)
plant(include/dsv4/linear/fp8.hpp "#include <dsv4/mhc/post.hpp>\n#include <dsv4/linear/fp8.cuh>\n"
      include/dsv4/linear/fp8.hpp:1: include/dsv4/linear/fp8.hpp:2:)
plant(include/dsv4/mhc/pre.hpp "#include <cmath>\n#include <dsv4/attention/attend.hpp>\n" include/dsv4/mhc/pre.hpp:2:)
plant(include/dsv4/mhc/pre.hpp "#include <dsv4/arch/mma.cuh>\n" include/dsv4/mhc/pre.hpp:1:)
plant(include/dsv4/mhc/pre.hpp "#include \"reference/state.hpp\"\n" include/dsv4/mhc/pre.hpp:1:
      include/dsv4/mhc/pre.hpp:1:)
plant(include/dsv4/ops/mhc.hpp "#include <dsv4/mhc/post.hpp>\n" include/dsv4/ops/mhc.hpp:1:)
plant(include/dsv4/sampler/sample.hpp "#include <dsv4/core/math.hpp>\n" include/dsv4/sampler/sample.hpp:1:)
plant(reference/forward.hpp "#include \"reference/cpu_backend.hpp\"\n" reference/forward.hpp:1:)
plant(reference/forward.hpp "#include \"tap.hpp\"\n" reference/forward.hpp:1:)
plant(reference/state.hpp "#include \"tests/support/random.hpp\"\n" reference/state.hpp:1:)
plant(tests/install/cxx/a.cpp "#include \"tests/support/catch.hpp\"\n" tests/install/cxx/a.cpp:1:)
plant(reference/forward.hpp "${long}// the 200th\n" reference/forward.hpp:)

file(REMOVE_RECURSE "${SELF_TEST}")
# A tree without files is not a tree that obeys.
execute_process(COMMAND ${CMAKE_COMMAND} -D ROOT=${SELF_TEST}/none -P ${CMAKE_CURRENT_LIST_FILE} RESULT_VARIABLE status
                OUTPUT_QUIET ERROR_QUIET)
if(status EQUAL 0)
  message("layering_selftest: an empty tree passes")
  math(EXPR failures "${failures} + 1")
endif()
if(failures GREATER 0)
  message(FATAL_ERROR "layering_selftest: ${failures} plants failed")
endif()
message("layering_selftest: every planted violation was found, and nothing else")
