# Sourced by the scripts of this folder: progress lines, and the packages a build needs.
# shellcheck shell=bash

# shellcheck disable=SC2034  # for the scripts that source this
DSV4_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
DSV4_JOBS="${DSV4_JOBS:-$(nproc)}"
export CTEST_PARALLEL_LEVEL="${CTEST_PARALLEL_LEVEL:-$DSV4_JOBS}" CMAKE_BUILD_PARALLEL_LEVEL="$DSV4_JOBS"

# use_compiler_cache: has builds from now on use ccache, where there is one. Legs share what they compile alike.
use_compiler_cache() {
  command -v ccache >/dev/null || return 0
  export CMAKE_CXX_COMPILER_LAUNCHER="${CMAKE_CXX_COMPILER_LAUNCHER:-ccache}"
  export CMAKE_CUDA_COMPILER_LAUNCHER="${CMAKE_CUDA_COMPILER_LAUNCHER:-ccache}"
  # Paths count from the root, so that another clone finds what this one compiled.
  export CCACHE_BASEDIR="${CCACHE_BASEDIR:-$DSV4_ROOT}" CCACHE_NOHASHDIR="${CCACHE_NOHASHDIR:-1}"
}
use_compiler_cache
SECONDS=0

# step TEXT: a progress line with the time since the script began.
step() { printf '\n== %s   [%d:%02d]\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

die() {
  printf '%s\n' "$*" >&2
  exit 2
}

# has_header HEADER: can the compiler find it? (With CMAKE_PREFIX_PATH set, leave the answer to CMake.)
has_header() {
  [[ -n "${CMAKE_PREFIX_PATH:-}" || -e "/usr/include/$1" || -e "/usr/local/include/$1" ]] && return 0
  command -v g++ >/dev/null && echo "#include <$1>" | g++ -E -x c++ - >/dev/null 2>&1
}

# find_clang: prints the clang++ to use, the newest of those of a name; fails if there is none.
find_clang() {
  local name
  for name in clang++ clang++-{20,19,18,17,16,15,14}; do
    if command -v "$name" >/dev/null; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

# clang_links FLAGS...: does clang have the run-time library that these flags need?
clang_links() {
  local clang dir ok=0
  clang="$(find_clang)" || return 1
  dir="$(mktemp -d)"
  echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' >"$dir/a.cpp"
  "$clang" "$@" "$dir/a.cpp" -o "$dir/a" >/dev/null 2>&1 || ok=1
  rm -rf "$dir"
  return $ok
}

# find_cuda: sets CUDACXX to an nvcc: that of the environment, the path, /usr/local/cuda, or one that pip fetches into
# build/cuda-toolkit; fails if there is none.
find_cuda() {
  local nvcc dir="$DSV4_ROOT/build/cuda-toolkit" version='13.0.*'
  for nvcc in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_PATH:-/usr/local/cuda}/bin/nvcc" \
    /usr/local/cuda/bin/nvcc "$dir/nvidia/cu13/bin/nvcc"; do
    if [[ -n "$nvcc" && -x "$nvcc" ]] && "$nvcc" --version >/dev/null 2>&1; then
      export CUDACXX="$nvcc"
      return 0
    fi
  done
  step "Fetching a CUDA toolkit with pip"
  if ! python3 -m pip --version >/dev/null 2>&1; then
    [[ "$(id -u)" -eq 0 ]] && command -v apt-get >/dev/null || return 1
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-pip || return 1
  fi
  python3 -m pip install --quiet --target "$dir" "nvidia-cuda-nvcc==$version" "nvidia-cuda-crt==$version" \
    "nvidia-nvvm==$version" "nvidia-cuda-runtime==$version" "nvidia-cuda-cccl==$version" || return 1
  export CUDACXX="$dir/nvidia/cu13/bin/nvcc"
  "$CUDACXX" --version >/dev/null
}

# cuda_architectures BUILD_FOLDER: the real architectures that it compiles for: "80 90a ...".
cuda_architectures() {
  sed -n 's/^DSV4_CUDA_ARCHITECTURES:[^=]*=//p' "$1/CMakeCache.txt" | sed -E 's/-(real|virtual)//g; s/;/ /g'
}

# missing_packages NEED...: prints the Debian packages to install for: build, tests, bench, clang, aarch64,
# cache, python.
missing_packages() {
  local need
  for need in "$@"; do
    case "$need" in
      build)
        command -v g++ >/dev/null || echo g++
        command -v cmake >/dev/null || echo cmake
        command -v ninja >/dev/null || echo ninja-build
        has_header fmt/core.h || echo libfmt-dev
        has_header CLI/CLI.hpp || echo libcli11-dev
        has_header nlohmann/json.hpp || echo nlohmann-json3-dev
        ;;
      tests) has_header catch2/catch.hpp || has_header catch2/catch_all.hpp || echo catch2 ;;
      bench) has_header benchmark/benchmark.h || echo libbenchmark-dev ;;
      clang)
        if ! find_clang >/dev/null; then
          echo clang-14 libclang-rt-14-dev
        elif ! clang_links -fsanitize=fuzzer,address,undefined; then
          local major
          major="$("$(find_clang)" -dumpversion)"
          echo "libclang-rt-${major%%.*}-dev"
        fi
        ;;
      aarch64)
        command -v aarch64-linux-gnu-g++ >/dev/null || echo g++-aarch64-linux-gnu
        command -v qemu-aarch64 >/dev/null || echo qemu-user
        ;;
      cache) command -v ccache >/dev/null || echo ccache ;;
      # Beside another python3 on the path, /usr/bin/python3 does: see examples/common/python_with_numpy.sh.
      python) python3 -c 'import numpy' 2>/dev/null || /usr/bin/python3 -c 'import numpy' 2>/dev/null || echo python3-numpy ;;
    esac
  done
}

# require NEED...: installs what is missing if it may, else names it and leaves with 2.
require() {
  local packages
  packages="$(missing_packages "$@" | tr '\n' ' ')"
  packages="${packages% }"
  [[ -z "$packages" ]] && return 0
  if [[ "$(id -u)" -ne 0 ]] || ! command -v apt-get >/dev/null; then
    die "missing packages; as root run: apt-get update && apt-get install -y $packages"
  fi
  step "Installing $packages"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq || die "apt-get update failed; needed packages: $packages"
  # shellcheck disable=SC2086  # a list of words
  apt-get install -y -qq --no-install-recommends $packages || die "apt-get install failed for: $packages"
  packages="$(missing_packages "$@" | tr '\n' ' ')"
  [[ -z "$packages" ]] || die "installed, but still missing: $packages"
  use_compiler_cache
}

# configure PRESET ARGUMENTS...: cmake, with only dsv4's own remarks and the errors shown.
configure() {
  local preset="$1"
  shift
  cmake --preset "$preset" "$@" | { grep -E '^-- dsv4' || true; }
}
