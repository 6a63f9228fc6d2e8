# The CUDA parts. Sets DSV4_CUDA_ENABLED, and if it is true enables the language and finds the toolkit.
# dsv4_cuda_settings(target): how every CUDA source of dsv4 is compiled.
include_guard(GLOBAL)

set(DSV4_CUDA "AUTO" CACHE STRING "Build the CUDA parts: ON, OFF, or AUTO = in a build of dsv4 itself where nvcc is found")
set_property(CACHE DSV4_CUDA PROPERTY STRINGS AUTO ON OFF)
# Each real architecture that the kernels are tuned for or known to run on; PTX of the newest, from which the driver
# compiles for later chips.
set(dsv4_default_cuda_architectures "80-real;90a-real;100a-real;120")
set(DSV4_CUDA_ARCHITECTURES "${dsv4_default_cuda_architectures}"
    CACHE STRING "Architectures of the CUDA parts, as CMAKE_CUDA_ARCHITECTURES spells them")
option(DSV4_KERNELS_F32 "Compile the kernels' fp32 instances for CUDA too (exact mode; not tuned)" OFF)
option(DSV4_KERNELS_SHARED "Make dsv4::kernels a shared library" ${BUILD_SHARED_LIBS})

set(DSV4_CUDA_ENABLED OFF)
if(DSV4_CUDA STREQUAL "AUTO")
  if(PROJECT_IS_TOP_LEVEL AND NOT DSV4_SANITIZE AND NOT CMAKE_CROSSCOMPILING)
    find_program(DSV4_NVCC nvcc HINTS ENV CUDA_PATH PATHS /usr/local/cuda/bin DOC "The CUDA compiler")
    if(DSV4_NVCC)
      set(DSV4_CUDA_ENABLED ON)
    endif()
  endif()
elseif(DSV4_CUDA)
  if(DSV4_SANITIZE)
    message(FATAL_ERROR "dsv4: DSV4_SANITIZE is for host code; use DSV4_CUDA=OFF with it")
  endif()
  find_program(DSV4_NVCC nvcc HINTS ENV CUDA_PATH PATHS /usr/local/cuda/bin DOC "The CUDA compiler")
  set(DSV4_CUDA_ENABLED ON)
endif()

if(DSV4_CUDA_ENABLED)
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND DSV4_NVCC)
    set(CMAKE_CUDA_COMPILER "${DSV4_NVCC}" CACHE FILEPATH "CUDA compiler")
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES ${DSV4_CUDA_ARCHITECTURES})
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  message(STATUS "dsv4: CUDA parts on (nvcc ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${DSV4_CUDA_ARCHITECTURES})")
else()
  message(STATUS "dsv4: CUDA parts off")
endif()

function(dsv4_cuda_settings target)
  set_target_properties(
    ${target}
    PROPERTIES CUDA_ARCHITECTURES "${DSV4_CUDA_ARCHITECTURES}"
               CUDA_EXTENSIONS OFF
               CUDA_RUNTIME_LIBRARY None # linked by name: consumers need not know the language
               CUDA_SEPARABLE_COMPILATION OFF
               CUDA_VISIBILITY_PRESET hidden
               CXX_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON
               POSITION_INDEPENDENT_CODE ON)
  # CMake 3.25 knows no C++20 for nvcc 13. Every fused multiply-add is written out, as on the host.
  target_compile_options(
    ${target}
    PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;-fmad=false;-Xcompiler=-ffp-contract=off;-Xptxas=-v>
            "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:--threads 2>")
  if(DSV4_WERROR)
    target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>"
                                             $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Werror>)
  endif()
  # ptxas reports each kernel's registers, shared memory and spills; the launcher keeps the report beside the object.
  # (By this file's folder: examples are a project of their own.)
  cmake_path(SET dsv4_ptxas_log NORMALIZE "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../tools/ptxas_log.sh")
  set_property(TARGET ${target} PROPERTY CUDA_COMPILER_LAUNCHER ${dsv4_ptxas_log} ${CMAKE_CUDA_COMPILER_LAUNCHER})
  target_link_libraries(${target} PRIVATE CUDA::cudart_static)
endfunction()
