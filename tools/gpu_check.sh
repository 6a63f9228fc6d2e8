#!/usr/bin/env bash
# Everything that a GPU can tell: conformance, ops against the SIMT machine, sanitizers, benchmarks.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'USAGE'
usage: tools/gpu_check.sh [--prepare FILE.tar.gz] [--build-only ARCHITECTURE] [--no-bench] [--all]

Builds for this machine's GPU alone (build/gpu), then runs
  conformance   every wrapper of dsv4/arch against what the SIMT machine gives
  ops           every op against the same op on the SIMT machine
  sanitizers    both under compute-sanitizer memcheck, and racecheck, where it is installed
  benchmarks    written to bench/results/DEVICE-DATE.json; the table comes last
Without a GPU it says so and exits 0. It needs nvcc, CMake, a C++ compiler, and ninja or make: no network and no other
package. Where CMake is missing or too old, --prepare on another machine packs it along.
  --prepare FILE       writes a bundle for such a machine: the sources, and with pip at hand CMake and ninja for it;
                       unpack it there and run tools/gpu_check.sh
  --build-only ARCH    builds for sm_ARCH and runs nothing: does everything compile?
  --no-bench           without the benchmarks
  --all                benchmarks at every shape, without a limit of time; else the common ones, and 150 seconds,
                       so that the whole takes about 8 minutes

Exit: 0 all passed, or no GPU; 1 something failed; 2 could not run.
USAGE
}

prepare='' build_only='' bench=1 extent=(--seconds 150)
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --prepare) [[ "${2:-}" == *.tar.gz ]] || die "--prepare needs a name that ends in .tar.gz"
      prepare="$(realpath -m "$2")" && shift 2 ;;
    --build-only) [[ "${2:-}" =~ ^[0-9]+[af]?$ ]] || die "--build-only needs an architecture, e.g. 90a"
      build_only="$2" && shift 2 ;;
    --no-bench) bench=0 && shift ;;
    --all) extent=(--all) && shift ;;
    *) usage >&2 && exit 2 ;;
  esac
done
cd "$DSV4_ROOT"

if [[ -n "$prepare" ]]; then
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/dsv4"
  # Everything that is tracked or could be, less the recordings of the reference, which is not built there.
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    [[ ! -e "$file" || "$file" == *.safetensors ]] || printf '%s\0' "$file"
  done | tar --null -T - -cf - | tar -xf - -C "$work/dsv4"
  if python3 -m pip --version >/dev/null 2>&1 &&
    python3 -m pip install --quiet --target "$work/dsv4/.gpu-tools" cmake ninja; then
    echo "packed along: CMake and ninja of this kind of machine ($(uname -m))"
  else
    echo "without CMake and ninja: pip is missing, or has no network"
  fi
  tar -C "$work" -czf "$prepare" dsv4
  echo "$prepare: $(du -h "$prepare" | cut -f 1); unpack it there and run dsv4/tools/gpu_check.sh"
  exit 0
fi

# What --prepare packed along serves where the machine has nothing of the kind.
tools="$DSV4_ROOT/.gpu-tools"
if [[ -d "$tools" ]]; then
  export PATH="$PATH:$tools/cmake/data/bin:$tools/bin" # in bin, cmake is a script that needs its package
fi

architecture="$build_only"
if [[ -z "$architecture" ]]; then
  if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >/dev/null 2>&1; then
    echo "no GPU here: nothing checked, nothing measured"
    exit 0
  fi
  architecture="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 | tr -d '. ')"
  # Hopper and data-centre Blackwell have instructions of their own.
  [[ "$architecture" != 90 && "$architecture" != 100 ]] || architecture+=a
  nvidia-smi --query-gpu=name,driver_version,power.limit --format=csv,noheader -i 0
fi

for nvcc in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_PATH:-/usr/local/cuda}/bin/nvcc" /usr/local/cuda/bin/nvcc; do
  [[ -z "$nvcc" || ! -x "$nvcc" ]] || break
done
[[ -n "$nvcc" && -x "$nvcc" ]] || die "no nvcc: add it to PATH, or set CUDACXX"
export CUDACXX="$nvcc"
command -v cmake >/dev/null || die "no CMake (3.25 or later): on another machine, tools/gpu_check.sh --prepare"
command -v c++ >/dev/null || command -v g++ >/dev/null || die "no C++ compiler"
generator=Ninja
command -v ninja >/dev/null || generator='Unix Makefiles'

step "Build for sm_$architecture"
build=build/gpu
# The preset's settings; spelt out, since presets fix the generator.
cmake -S . -B "$build" -G "$generator" -DCMAKE_BUILD_TYPE=Release -DDSV4_CUDA=ON -DDSV4_KERNELS_F32=ON \
  -DDSV4_BUILD_GPU=ON -DDSV4_BUILD_REFERENCE=OFF -DDSV4_BUILD_TESTS=OFF \
  "-DDSV4_CUDA_ARCHITECTURES=$architecture-real" | { grep -E '^-- dsv4' || true; }
cmake --build "$build" --target dsv4_conformance_cuda dsv4_gpu_test dsv4_gpu_bench || die "the build failed"
if [[ -n "$build_only" ]]; then
  echo "built for sm_$architecture; nothing was run"
  exit 0
fi

failed=()
# run NAME COMMAND...: prints what it says; a failure is noted.
run() {
  local name="$1" status=0
  shift
  step "$name"
  "$@" || status=$?
  [[ $status -eq 0 || $status -eq 77 ]] || failed+=("$name (exit $status)")
}
expected=tests/data/arch_conformance.txt
run conformance "$build/tests/gpu/dsv4_conformance_cuda" "$expected"
run ops "$build/tests/gpu/dsv4_gpu_test"

sanitizer="$(command -v compute-sanitizer || true)"
[[ -n "$sanitizer" ]] || sanitizer="$(dirname "$nvcc")/compute-sanitizer"
if [[ -x "$sanitizer" ]]; then
  for tool in memcheck racecheck; do
    # Bounded: a sanitizer that hangs must not take the time of the rest.
    run "$tool of conformance" timeout 60 "$sanitizer" --tool "$tool" --error-exitcode 9 \
      "$build/tests/gpu/dsv4_conformance_cuda" "$expected"
    run "$tool of ops" timeout 60 "$sanitizer" --tool "$tool" --error-exitcode 9 "$build/tests/gpu/dsv4_gpu_test" --small
  done
else
  echo "compute-sanitizer is not installed: left out"
fi

if [[ $bench -eq 1 ]]; then
  device="$(nvidia-smi --query-gpu=name --format=csv,noheader -i 0 | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')"
  result="bench/results/$device-$(date +%F).json"
  mkdir -p bench/results
  benchmarks() { "$build/bench/gpu/dsv4_gpu_bench" "${extent[@]}" --save "$result" >"$build/bench.log"; }
  run benchmarks benchmarks
fi

if [[ ${#failed[@]} -gt 0 ]]; then
  printf -v verdict 'failed: %s\n' "${failed[@]}"
  verdict+=FAIL
else
  verdict=PASS
fi
step "$verdict"
if [[ $bench -eq 1 ]]; then
  sed '1,/^$/d' "$build/bench.log" # what follows the progress lines: the table
  grep FAILED "$build/bench.log" || echo "written to $result"
fi
[[ ${#failed[@]} -eq 0 ]]
