# Only include/dsv4/arch talks to the hardware: everywhere else there is no inline assembly, no __shared__, no CUB, no
# cooperative groups and no intrinsic, so that every kernel runs on the SIMT machine as it is.
#
# This file is both the module (dsv4_add_device_rules_tests()) and, run as `cmake -P`, the tests themselves:
#   cmake -D ROOT=<repository> -P cmake/Dsv4DeviceRules.cmake            checks a tree
#   cmake -D SELF_TEST=<scratch folder> -P cmake/Dsv4DeviceRules.cmake   plants violations and expects each found
if(NOT CMAKE_SCRIPT_MODE_FILE)
  include_guard(GLOBAL)
  function(dsv4_add_device_rules_tests)
    set(script ${PROJECT_SOURCE_DIR}/cmake/Dsv4DeviceRules.cmake)
    add_test(NAME device_rules COMMAND ${CMAKE_COMMAND} -D ROOT=${PROJECT_SOURCE_DIR} -P ${script})
    add_test(NAME device_rules_selftest COMMAND ${CMAKE_COMMAND} -D
                                                SELF_TEST=${CMAKE_CURRENT_BINARY_DIR}/device_rules_selftest -P ${script})
    set_tests_properties(device_rules device_rules_selftest PROPERTIES LABELS house TIMEOUT 300)
  endfunction()
  return()
endif()

cmake_minimum_required(VERSION 3.25)

if("${ROOT}${SELF_TEST}" STREQUAL "")
  message(FATAL_ERROR "give -D ROOT=<repository> or -D SELF_TEST=<scratch folder>")
endif()

# ---- the rules -------------------------------------------------------------------------------------------
# Files they do not concern: arch itself; the machine, which is host code; host vectors; the macros' own header.
set(exempt "^(include/dsv4/(arch|simt)/.*|simt/.*|include/dsv4/core/(simd|config)[.]hpp)$")

# Every name that begins with two underscores and a small letter belongs to a compiler: all of nvcc's qualifiers and
# intrinsics (__shared__, __shfl_sync, __ldg, __expf, ...) are among them. These are none of nvcc's:
set(host_names "^__(builtin_[a-z0-9_]+|attribute__|has_[a-z_]+|x86_64__|i386__|aarch64__|linux__|clang__|cplusplus)$")
# What else is not for others, and what to use instead.
set(banned_asm "asm|__asm__")
set(instead_asm "a wrapper of dsv4/arch")
set(banned_index "threadIdx|blockIdx|blockDim|gridDim|warpSize")
set(instead_index "dsv4/arch/index.cuh")
set(banned_atomic "atomic(Add|Sub|Exch|Min|Max|Inc|Dec|CAS|And|Or|Xor)(_block|_system)?")
set(instead_atomic "dsv4/arch/atomic.cuh")
set(banned_library "cub|cooperative_groups|nvcuda|wmma")
set(instead_library "dsv4/arch/block.cuh or another wrapper of dsv4/arch")
set(banned_architecture "__CUDA_ARCH__|__CUDA_ARCH_FEAT_[A-Z0-9_]+")
set(instead_architecture "a template argument, or a wrapper of dsv4/arch")
# Where a rule does not hold.
foreach(rule asm index atomic library)
  set(but_${rule} "^$")
endforeach()
set(but_architecture "^include/dsv4/core/") # is this nvcc's device pass?

# ---- the check -------------------------------------------------------------------------------------------
macro(report line message)
  list(APPEND violations "${file}:${line}: ${message}")
endmacro()

# Sets `violations` (a list of lines) and `files_checked` in the caller.
function(check_tree root)
  set(violations "")
  set(files_checked 0)
  foreach(folder include/dsv4 simt kernels reference tests bench fuzz tools examples)
    file(GLOB_RECURSE files RELATIVE "${root}" "${root}/${folder}/*.hpp" "${root}/${folder}/*.h" "${root}/${folder}/*.cuh"
         "${root}/${folder}/*.cu" "${root}/${folder}/*.cpp")
    foreach(file IN LISTS files)
      math(EXPR files_checked "${files_checked} + 1")
      if(file MATCHES "${exempt}")
        continue()
      endif()
      file(READ "${root}/${file}" text)
      # Comments and strings may name anything. Line comments first: a quotation mark in one begins no string.
      string(REPLACE "\\\"" " " text "${text}")
      string(REGEX REPLACE "[][;\\]" " " text "${text}")
      string(REGEX REPLACE "//[^\n]*" "" text "${text}")
      string(REGEX REPLACE "\"[^\"\n]*\"" "\"\"" text "${text}")
      if(NOT text MATCHES
         "__[a-z]|asm|threadIdx|blockIdx|blockDim|gridDim|warpSize|atomic[A-Z]|cub|cooperative_groups|nvcuda|wmma|__CUDA_|<<<")
        continue()
      endif()
      string(REGEX REPLACE "\n$" "" text "${text}")
      string(REPLACE "\n" ";" text "${text}")
      set(line 0)
      foreach(content IN LISTS text)
        math(EXPR line "${line} + 1")
        string(REGEX MATCHALL "[A-Za-z_][A-Za-z0-9_]*" names "${content}")
        foreach(name IN LISTS names)
          set(rule "")
          foreach(candidate asm index atomic library architecture)
            if(name MATCHES "^(${banned_${candidate}})$" AND NOT file MATCHES "${but_${candidate}}")
              set(rule ${candidate})
            endif()
          endforeach()
          if(rule)
            report(${line} "${name}: use ${instead_${rule}}")
          elseif(name MATCHES "^__[a-z]" AND NOT name MATCHES "${host_names}")
            report(${line} "${name}: use a wrapper of dsv4/arch")
          endif()
        endforeach()
        if(content MATCHES "<<<")
          report(${line} "<<< >>>: use arch::launch")
        endif()
      endforeach()
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
    message(FATAL_ERROR "device_rules: ${count} violations in ${files_checked} files")
  endif()
  if(files_checked EQUAL 0)
    message(FATAL_ERROR "device_rules: no files below ${root}")
  endif()
  message("device_rules: ${files_checked} files obey the rules")
  return()
endif()

# ---- the check's own test --------------------------------------------------------------------------------
set(failures 0)
# Writes `file` with `text` into an otherwise empty tree and expects `expected` violations, on line 2 if any.
function(plant expected file text)
  file(REMOVE_RECURSE "${SELF_TEST}")
  file(WRITE "${SELF_TEST}/${file}" "// line 1\n${text}\n")
  check_tree("${SELF_TEST}")
  list(LENGTH violations found)
  set(elsewhere ${violations})
  list(FILTER elsewhere EXCLUDE REGEX "^${file}:2: ")
  if(NOT found EQUAL expected OR elsewhere)
    message("device_rules_selftest: '${text}' in ${file}: expected ${expected} on line 2, found '${violations}'")
    math(EXPR failures "${failures} + 1")
    set(failures ${failures} PARENT_SCOPE)
  endif()
endfunction()

# What is allowed.
plant(0 include/dsv4/arch/barrier.cuh "asm volatile(\"bar.sync 0\"); __syncthreads();")
plant(0 simt/fiber.cpp "__asm__(\"ret\");")
plant(0 kernels/a.cu "// __shared__ and threadIdx.x\nconst char* text = \"asm __ldg <<<\";")
plant(0 kernels/a.cu "int n = __builtin_ctz(8); std::vector<std::vector<std::vector<int>>> v;")
plant(0 kernels/a.cu "int thread_idx_x = arch::thread_idx().x; atomic_add(p, 1); int cubic, casm;")
plant(0 kernels/a.cu "int x = a << 2; char c = '['; // ]\n#if defined(__x86_64__)\n#endif")
plant(0 include/dsv4/core/math.hpp "#if defined(__CUDA_ARCH__)")
plant(0 tests/a.cpp "parse(\"{\\\"__metadata__\\\":{}}\")")
# What is not.
plant(1 kernels/a.cu "asm(\"trap\");")
plant(1 include/dsv4/mhc/pre.cuh "__shared__ float tile[4];")
plant(1 include/dsv4/mhc/pre.cuh "  __syncthreads();  // [")
plant(2 include/dsv4/mhc/pre.hpp "x = __shfl_xor_sync(~0u, x, 1) + __expf(x);")
plant(1 kernels/a.cu "if (__activemask() == 1) return;")
plant(1 kernels/a.cu "y = __ldg(&x);")
plant(3 kernels/a.cu "i = blockIdx.x * blockDim.x + threadIdx.x;")
plant(1 kernels/a.cu "a_kernel<<<1, 32>>>(p);")
plant(1 kernels/a.cu "#include <cub/block/block_scan.cuh>")
plant(1 tests/ops/a_test.cpp "namespace cg = cooperative_groups;")
plant(1 kernels/a.cu "atomicAdd(&count, 1);")
plant(1 kernels/a.cu "__global__ void a_kernel() {}")
plant(1 include/dsv4/linear/a.cuh "#if __CUDA_ARCH__ >= 900\n#endif")
plant(1 bench/gpu/a.cu "/* a comment */ __nanosleep(10);")

file(REMOVE_RECURSE "${SELF_TEST}")
# A tree without files is not a tree that obeys.
execute_process(COMMAND ${CMAKE_COMMAND} -D ROOT=${SELF_TEST}/none -P ${CMAKE_CURRENT_LIST_FILE} RESULT_VARIABLE status
                OUTPUT_QUIET ERROR_QUIET)
if(status EQUAL 0)
  message("device_rules_selftest: an empty tree passes")
  math(EXPR failures "${failures} + 1")
endif()
if(failures GREATER 0)
  message(FATAL_ERROR "device_rules_selftest: ${failures} plants failed")
endif()
message("device_rules_selftest: every planted violation was found, and nothing else")
