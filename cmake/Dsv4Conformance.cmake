# dsv4_add_conformance_cases(target): the conformance cases (tests/arch/conformance/<family>.cu) and what compares them,
# as an object library of the flavour that the caller links and compiles them for.
include_guard(GLOBAL)

function(dsv4_add_conformance_cases target)
  set(dir ${PROJECT_SOURCE_DIR}/tests/arch/conformance)
  file(GLOB families CONFIGURE_DEPENDS ${dir}/*.cu)
  set(lines "")
  foreach(family IN LISTS families)
    cmake_path(GET family STEM family)
    string(APPEND lines "FAMILY(${family})\n")
  endforeach()
  set(include ${CMAKE_CURRENT_BINARY_DIR}/${target}/conformance_families.inc)
  file(CONFIGURE OUTPUT ${include} CONTENT "${lines}" @ONLY)

  add_library(${target} OBJECT ${families} ${dir}/families.cpp ${dir}/harness.cpp)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/${target})
endfunction()
