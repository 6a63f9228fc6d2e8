# dsv4_compile_quickly(target...): for sources whose own speed does not matter, -O1 in release builds. -O3 spends most of
# its time on what tests and programs consist of: long functions of assertions and of options, executed once.
include_guard(GLOBAL)

function(dsv4_compile_quickly)
  foreach(target IN LISTS ARGN)
    target_compile_options(
      ${target} PRIVATE $<$<AND:$<CONFIG:Release>,$<COMPILE_LANG_AND_ID:CXX,GNU,Clang,AppleClang>>:-O1>)
  endforeach()
endfunction()
