# dsv4_enable_warnings(target): the warnings that dsv4's own sources are free of, with g++ 12 and clang 14.
# Left out on purpose: -Wconversion and -Wdouble-promotion (numeric code says its roundings where they matter)
# and -Wold-style-cast (vector types are reinterpreted by C casts).
include_guard(GLOBAL)

set(DSV4_WARNING_FLAGS
    -Wall
    -Wextra
    -Wpedantic
    -Wshadow
    -Wundef
    -Wvla
    -Wpointer-arith
    -Wformat=2
    -Wextra-semi
    -Wredundant-decls
    -Wnon-virtual-dtor
    -Woverloaded-virtual
    -Wimplicit-fallthrough)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # -Wpsabi remarks on 32-byte vectors without AVX; every function with one is inlined.
  # The other four misfire in g++ 12 on std::string and std::vector (GCC bug 105651 and its kin); clang's own
  # -Warray-bounds and the sanitizers look after these errors.
  list(APPEND DSV4_WARNING_FLAGS -Wsuggest-override -Wlogical-op -Wduplicated-cond -Wno-psabi -Wno-restrict
       -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread)
  if(DSV4_SANITIZE)
    # After the sanitizers' instrumentation this one reports what the plain build does not.
    list(APPEND DSV4_WARNING_FLAGS -Wno-maybe-uninitialized)
  endif()
elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  # -Wpass-failed is about the optimizer's luck with a loop, not about the code.
  list(APPEND DSV4_WARNING_FLAGS -Wsuggest-override -Wno-psabi -Wno-pass-failed)
endif()

function(dsv4_enable_warnings target)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
    return()
  endif()
  set(flags ${DSV4_WARNING_FLAGS})
  if(DSV4_WERROR)
    list(APPEND flags -Werror)
  endif()
  # Of C++ alone: what is asked of nvcc stands in dsv4_cuda_settings.
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${flags}>")
endfunction()
