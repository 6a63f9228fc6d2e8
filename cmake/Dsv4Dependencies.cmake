# dsv4_find_dependencies(): imported targets fmt::fmt, nlohmann_json::nlohmann_json, CLI11::CLI11, Threads::Threads;
# Catch2::Catch2 for the tests and benchmark::benchmark(_main) for the benchmarks.
# Installed packages first and by default. DSV4_FETCH_DEPENDENCIES=ON downloads the versions of Debian 12 instead.
#
# The hashes below: those of the four archives were recomputed with `git archive` from the repositories' tags; that of
# nlohmann_json is the published release file's, as pinned by several distributions. The download itself needs a
# network and is not part of any test here; what follows it was tried with FETCHCONTENT_SOURCE_DIR_<NAME>.
include_guard(GLOBAL)

set(DSV4_FETCH_fmt_URL https://github.com/fmtlib/fmt/archive/refs/tags/9.1.0.tar.gz)
set(DSV4_FETCH_fmt_SHA256 5dea48d1fcddc3ec571ce2058e13910a0d4a6bab4cc09a809d8b1dd1c88ae6f2)
set(DSV4_FETCH_nlohmann_json_URL https://github.com/nlohmann/json/releases/download/v3.11.2/json.tar.xz)
set(DSV4_FETCH_nlohmann_json_SHA256 8c4b26bf4b422252e13f332bc5e388ec0ab5c3443d24399acb675e68278d341f)
set(DSV4_FETCH_CLI11_URL https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.1.2.tar.gz)
set(DSV4_FETCH_CLI11_SHA256 26291377e892ba0e5b4972cdfd4a2ab3bf53af8dac1f4ea8fe0d1376b625c8cb)
set(DSV4_FETCH_Catch2_URL https://github.com/catchorg/Catch2/archive/refs/tags/v2.13.10.tar.gz)
set(DSV4_FETCH_Catch2_SHA256 d54a712b7b1d7708bc7a819a8e6e47b2fde9536f487b89ccbca295072a7d9943)
set(DSV4_FETCH_benchmark_URL https://github.com/google/benchmark/archive/refs/tags/v1.7.1.tar.gz)
set(DSV4_FETCH_benchmark_SHA256 6430e4092653380d9dc4ccb45a1e2dc9259d581f4866dc0759713126056bc1d7)

# Package name of find_package -> Debian package.
set(DSV4_DEBIAN_fmt libfmt-dev)
set(DSV4_DEBIAN_nlohmann_json nlohmann-json3-dev)
set(DSV4_DEBIAN_CLI11 libcli11-dev)
set(DSV4_DEBIAN_Catch2 catch2)
set(DSV4_DEBIAN_benchmark libbenchmark-dev)

function(dsv4_fetch_dependencies)
  include(FetchContent) # here, because it makes cache variables
  # Settings of the dependencies themselves, for their scope only. fmt and nlohmann_json are installed with dsv4,
  # whose exported target needs them; the others are not.
  set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)
  set(CMAKE_POLICY_VERSION_MINIMUM 3.5) # CMake 4 refuses these releases' own minimum otherwise
  set(CMAKE_POSITION_INDEPENDENT_CODE ON)
  set(BUILD_SHARED_LIBS OFF)
  set(BUILD_TESTING OFF)
  set(FMT_INSTALL ON)
  set(FMT_TEST OFF)
  set(FMT_DOC OFF)
  set(JSON_Install ON)
  set(JSON_BuildTests OFF)
  set(CLI11_BUILD_TESTS OFF)
  set(CLI11_BUILD_EXAMPLES OFF)
  set(CLI11_BUILD_DOCS OFF)
  set(CLI11_INSTALL OFF)
  set(CATCH_BUILD_TESTING OFF)
  set(CATCH_INSTALL_DOCS OFF)
  set(CATCH_INSTALL_HELPERS OFF)
  set(BENCHMARK_ENABLE_TESTING OFF)
  set(BENCHMARK_ENABLE_GTEST_TESTS OFF)
  set(BENCHMARK_ENABLE_INSTALL OFF)
  set(BENCHMARK_ENABLE_WERROR OFF)
  foreach(name IN LISTS ARGN)
    message(STATUS "dsv4: fetching ${name} from ${DSV4_FETCH_${name}_URL}")
    FetchContent_Declare(
      ${name}
      URL ${DSV4_FETCH_${name}_URL}
      URL_HASH SHA256=${DSV4_FETCH_${name}_SHA256}
      DOWNLOAD_EXTRACT_TIMESTAMP OFF
      SYSTEM)
  endforeach()
  FetchContent_MakeAvailable(${ARGN})
endfunction()

# A macro: find_package's imported targets and variables belong to the caller's scope.
macro(dsv4_find_dependencies)
  set(THREADS_PREFER_PTHREAD_FLAG ON)
  find_package(Threads REQUIRED)
  set(dsv4_dependencies "")
  if(DSV4_BUILD_REFERENCE)
    list(APPEND dsv4_dependencies fmt nlohmann_json CLI11)
  endif()
  if(DSV4_BUILD_TESTS)
    list(APPEND dsv4_dependencies Catch2)
  endif()
  if(DSV4_BUILD_BENCH)
    list(APPEND dsv4_dependencies benchmark)
  endif()

  if(DSV4_FETCH_DEPENDENCIES AND dsv4_dependencies)
    dsv4_fetch_dependencies(${dsv4_dependencies})
  else()
    set(dsv4_missing "")
    set(dsv4_missing_packages "")
    foreach(name IN LISTS dsv4_dependencies)
      find_package(${name} QUIET)
      if(NOT ${name}_FOUND)
        list(APPEND dsv4_missing ${name})
        list(APPEND dsv4_missing_packages ${DSV4_DEBIAN_${name}})
      endif()
    endforeach()
    if(dsv4_missing)
      list(JOIN dsv4_missing ", " dsv4_missing)
      list(JOIN dsv4_missing_packages " " dsv4_missing_packages)
      message(FATAL_ERROR "dsv4: not found: ${dsv4_missing}. On Debian or Ubuntu: apt-get install ${dsv4_missing_packages}\n"
                          "Or let CMake download pinned versions: -DDSV4_FETCH_DEPENDENCIES=ON")
    endif()
  endif()
endmacro()
