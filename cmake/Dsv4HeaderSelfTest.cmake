# Every public header compiles alone and included twice, without a warning:
#   include/dsv4/**/*.hpp and *.h   as a user of dsv4::headers sees them (include/ alone on the path, no -march)
#   include/dsv4/**/*.cuh           in the SIMT flavour (so are the headers of simt/); in the CUDA flavour, by nvcc
#   reference/**/*.hpp              as a user of dsv4::reference sees them
# One ctest entry for the host compiler and one for nvcc; as many headers at a time as there are processors.
#
# This file is both the module (dsv4_add_header_self_test(), dsv4_add_cuda_header_self_test()) and, run as `cmake -P`,
# the test itself.
if(CMAKE_SCRIPT_MODE_FILE)
  cmake_minimum_required(VERSION 3.25)
  include("${SETTINGS}")
  foreach(dir IN LISTS DSV4_DEPENDENCY_DIRS)
    # The compiler's own folders must not be repeated: #include_next would miss them.
    if(dir AND NOT dir IN_LIST DSV4_IMPLICIT_DIRS)
      list(APPEND DSV4_REFERENCE_FLAGS "-isystem${dir}")
    endif()
  endforeach()

  set(failures 0)
  set(checked 0)
  # Compiles the probes in the list `batch` side by side: execute_process runs its COMMANDs as one pipeline.
  function(check_batch)
    set(commands "")
    foreach(item IN LISTS batch)
      list(APPEND commands COMMAND ${DSV4_COMPILER} ${flags} "${item}" -o "${item}.out")
    endforeach()
    execute_process(${commands} RESULTS_VARIABLE results OUTPUT_QUIET ERROR_VARIABLE errors)
    foreach(item result IN ZIP_LISTS batch results)
      if(NOT result EQUAL 0)
        cmake_path(RELATIVE_PATH item BASE_DIRECTORY "${WORK_DIR}")
        string(REGEX REPLACE "[.]cpp$" "" item "${item}")
        message("header_self_test: ${item} does not compile alone")
        math(EXPR failures "${failures} + 1")
      endif()
    endforeach()
    if(errors)
      message("${errors}")
    endif()
    set(failures ${failures} PARENT_SCOPE)
  endfunction()

  # Probes each header of ARGN: a file that includes it twice by its path below `root`, compiled with `flags`.
  function(check_headers root flags)
    set(batch "")
    foreach(header IN LISTS ARGN)
      cmake_path(RELATIVE_PATH header BASE_DIRECTORY "${root}" OUTPUT_VARIABLE spelling)
      set(probe "${WORK_DIR}/${spelling}.cpp")
      file(WRITE "${probe}" "#include \"${spelling}\"\n#include \"${spelling}\"\n")
      list(APPEND batch "${probe}")
      math(EXPR checked "${checked} + 1")
      list(LENGTH batch size)
      if(size EQUAL JOBS)
        check_batch()
        set(batch "")
      endif()
    endforeach()
    if(batch)
      check_batch()
    endif()
    set(failures ${failures} PARENT_SCOPE)
    set(checked ${checked} PARENT_SCOPE)
  endfunction()

  cmake_host_system_information(RESULT JOBS QUERY NUMBER_OF_LOGICAL_CORES)
  file(REMOVE_RECURSE "${WORK_DIR}")
  set(include "${DSV4_SOURCE_DIR}/include")
  if(DSV4_HEADERS_FLAGS)
    file(GLOB_RECURSE headers "${include}/dsv4/*.hpp" "${include}/dsv4/*.h")
    list(FILTER headers EXCLUDE REGEX "/dsv4/simt/")
    check_headers("${include}" "${DSV4_HEADERS_FLAGS}" ${headers})
  endif()
  if(DSV4_REFERENCE_FLAGS)
    file(GLOB_RECURSE headers "${DSV4_SOURCE_DIR}/reference/*.hpp")
    check_headers("${DSV4_SOURCE_DIR}" "${DSV4_REFERENCE_FLAGS}" ${headers})
  endif()
  if(DSV4_DEVICE_FLAGS)
    file(GLOB_RECURSE headers "${include}/dsv4/*.cuh")
    if(DSV4_HEADERS_FLAGS) # the SIMT machine's headers belong to its flavour
      file(GLOB_RECURSE simt_headers "${include}/dsv4/simt/*.hpp")
      list(APPEND headers ${simt_headers})
    endif()
    check_headers("${include}" "${DSV4_DEVICE_FLAGS}" ${headers})
  endif()

  if(checked EQUAL 0)
    message(FATAL_ERROR "header_self_test: no headers below ${DSV4_SOURCE_DIR}")
  endif()
  if(failures GREATER 0)
    message(FATAL_ERROR "header_self_test: ${failures} of ${checked} headers failed")
  endif()
  message("header_self_test: ${checked} headers compile alone and twice included")
  return()
endif()

include_guard(GLOBAL)

# Adds the test `name` with the settings `ARGN` (lines of CMake).
function(dsv4_add_header_test name label)
  set(settings "${CMAKE_CURRENT_BINARY_DIR}/${name}.$<CONFIG>.cmake")
  list(JOIN ARGN "\n" lines)
  file(GENERATE OUTPUT "${settings}" CONTENT "set(DSV4_SOURCE_DIR [==[${PROJECT_SOURCE_DIR}]==])\n${lines}\n")
  add_test(
    NAME ${name} COMMAND ${CMAKE_COMMAND} -D "SETTINGS=${settings}" -D "WORK_DIR=${CMAKE_CURRENT_BINARY_DIR}/${name}"
                         -P ${PROJECT_SOURCE_DIR}/cmake/Dsv4HeaderSelfTest.cmake)
  cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
  set_tests_properties(${name} PROPERTIES LABELS ${label} TIMEOUT 1200 PROCESSORS ${cores})
endfunction()

function(dsv4_add_header_self_test)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
    return()
  endif()
  # Never built: it collects the include folders of the dependencies.
  add_library(dsv4_header_probe OBJECT EXCLUDE_FROM_ALL "${CMAKE_CURRENT_SOURCE_DIR}/support/main.cpp")
  target_link_libraries(dsv4_header_probe PRIVATE fmt::fmt nlohmann_json::nlohmann_json)

  set(arch "")
  if(DSV4_HOST_ARCH)
    set(arch "-march=${DSV4_HOST_ARCH}")
  endif()
  set(flags -x c++ -fsyntax-only -std=c++20 -ffp-contract=off ${DSV4_WARNING_FLAGS} -Werror)
  set(include "-I${PROJECT_SOURCE_DIR}/include")
  dsv4_add_header_test(
    header_self_test
    house
    "set(DSV4_COMPILER [==[${CMAKE_CXX_COMPILER}]==])"
    "set(DSV4_HEADERS_FLAGS [==[${flags}\;${include}]==])"
    "set(DSV4_DEVICE_FLAGS [==[${flags}\;-DDSV4_SIMT_EMULATION\;-fno-strict-aliasing\;${include}]==])"
    "set(DSV4_REFERENCE_FLAGS [==[${flags}\;${arch}\;-I${PROJECT_SOURCE_DIR}\;${include}]==])"
    "set(DSV4_DEPENDENCY_DIRS [==[$<TARGET_PROPERTY:dsv4_header_probe,INCLUDE_DIRECTORIES>]==])"
    "set(DSV4_IMPLICIT_DIRS [==[${CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES}]==])")
endfunction()

function(dsv4_add_cuda_header_self_test)
  # To PTX only: both of nvcc's passes read the header, and nothing is instantiated that ptxas could object to.
  set(flags -x cu -ptx -std=c++20 -arch=compute_90a -fmad=false -Werror all-warnings)
  dsv4_add_header_test(cuda_header_self_test nvcc "set(DSV4_COMPILER [==[${CMAKE_CUDA_COMPILER}]==])"
                       "set(DSV4_DEVICE_FLAGS [==[${flags}\;-I${PROJECT_SOURCE_DIR}/include]==])")
endfunction()
