#!/usr/bin/env bash
# All tests, leg by leg.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'USAGE'
usage: tools/test.sh [--quick] [--leg NAME]... [--fuzz-seconds N]

Builds and runs the tests, each leg in a folder of its own below build/:
  release  g++, optimized: all tests; kernels with lazy asynchrony and the newest ready thread first
  random   the release build: tests of kernels under three seeds of random asynchrony and scheduling
  race     g++, kernels instrumented for the race detector: tests of kernels
  asan     g++, address and undefined-behaviour sanitizers (float to integer overflow too): all tests, kernels on reduced shapes
  nvcc     kernels for every architecture with warnings as errors; registers and spills; GPU tests where there is a GPU.
           Without a CUDA toolkit one is fetched with pip; where that fails, the leg is skipped
  aarch64  the SIMT machine cross-compiled, under qemu-user
  clang    clang, optimized, with the benchmarks built: all tests, kernels on reduced shapes
  fuzz     clang, each fuzz target over its corpus and for N seconds more (default 10)
  --quick  the release leg only
  --leg    the named legs only

As root, missing packages are installed with apt-get; otherwise they are named.
The last line is "N passed, N failed". Exit: 0 all passed, 1 some failed, 2 could not run.
USAGE
}

all_legs=(release random race asan nvcc aarch64 clang fuzz)
legs=()
fuzz_seconds=10
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --quick) legs=(release) && shift ;;
    --leg) [[ " ${all_legs[*]} " == *" ${2:-} "* ]] || die "--leg needs one of: ${all_legs[*]}"
      legs+=("$2") && shift 2 ;;
    --fuzz-seconds) [[ "${2:-}" =~ ^[0-9]+$ ]] || die "--fuzz-seconds needs a number"
      fuzz_seconds="$2" && shift 2 ;;
    *) usage >&2 && exit 2 ;;
  esac
done
[[ ${#legs[@]} -gt 0 ]] || legs=("${all_legs[@]}")

passed=0 failed=0 skipped=0 bad=() times=()
note_failure() { failed=$((failed + 1)); bad+=("$1"); }

# build_leg PRESET CONFIGURE_ARGUMENTS...: configures and builds; a failure counts as one failed test.
build_leg() {
  local preset="$1"
  shift
  step "$preset: configure and build"
  if ! configure "$preset" "$@" || ! cmake --build --preset "$preset"; then
    note_failure "$preset: build"
    return 1
  fi
}

# test_leg PRESET [BUILD_FOLDER]: runs ctest and adds its counts.
test_leg() {
  local preset="$1" log="build/${2:-$1}/ctest-$1.log" summary status=0 none
  step "$preset: test"
  ctest --preset "$preset" 2>&1 | tee "$log" || status=$?
  summary="$(grep -E '^[0-9]+% tests passed, [0-9]+ tests? failed out of [0-9]+' "$log" | tail -n 1 || true)"
  none="$(grep -cE '\*\*\*Skipped' "$log" || true)"
  skipped=$((skipped + none))
  if [[ "$summary" =~ passed,\ ([0-9]+)\ tests?\ failed\ out\ of\ ([0-9]+) ]]; then
    failed=$((failed + BASH_REMATCH[1]))
    passed=$((passed + BASH_REMATCH[2] - BASH_REMATCH[1] - none))
    [[ "${BASH_REMATCH[1]}" -eq 0 ]] || bad+=("$preset: ${BASH_REMATCH[1]} of ${BASH_REMATCH[2]} tests")
  fi
  if [[ $status -ne 0 && ! "$summary" =~ passed,\ [1-9] ]]; then
    note_failure "$preset: ctest (exit $status)"
  fi
}

leg_release() { build_leg release && test_leg release; }

leg_random() { build_leg release && test_leg random release; }

leg_race() { build_leg race && test_leg race; }

leg_asan() { build_leg asan && test_leg asan; }

leg_nvcc() {
  if ! find_cuda; then
    echo "nvcc: SKIPPED, there is no CUDA toolkit, and none could be fetched"
    skipped=$((skipped + 1))
    return
  fi
  # With the forward pass on the ops, where its packages are at hand.
  local reference=()
  [[ -n "$(missing_packages build)" ]] || reference=(-DDSV4_BUILD_REFERENCE=ON)
  build_leg cuda "${reference[@]}" && test_leg cuda && tools/ptxas_table.sh --allowed tools/ptxas_allowed.txt \
    --architectures "$(cuda_architectures build/cuda)" build/cuda/kernels/cuda
}

leg_aarch64() { build_leg aarch64 && test_leg aarch64; }

leg_clang() { build_leg clang "-DCMAKE_CXX_COMPILER=$(find_clang)" && test_leg clang; }

leg_fuzz() {
  build_leg fuzz "-DCMAKE_CXX_COMPILER=$(find_clang)" || return
  local target name seeds limit
  shopt -s nullglob
  for target in build/fuzz/fuzz/*_fuzz; do
    name="$(basename "$target" _fuzz)"
    step "fuzz: $name"
    mkdir -p "build/fuzz/corpus/$name"
    seeds=()
    [[ ! -d "fuzz/corpus/$name" ]] || seeds=("fuzz/corpus/$name")
    limit=(-max_total_time="$fuzz_seconds")
    [[ "$fuzz_seconds" -gt 0 ]] || limit=(-runs=0) # 0 seconds mean no limit to libFuzzer
    if "$target" "${limit[@]}" -timeout=20 -artifact_prefix="build/fuzz/" -print_final_stats=1 \
      "build/fuzz/corpus/$name" "${seeds[@]}" >"build/fuzz/$name.log" 2>&1; then
      grep -E 'number_of_executed_units|^Done' "build/fuzz/$name.log" || true
      passed=$((passed + 1))
    else
      tail -n 40 "build/fuzz/$name.log"
      note_failure "fuzz: $name"
    fi
  done
}

needs=(build tests)
[[ "$(id -u)" -ne 0 ]] || needs+=(cache python) # helps, not needs
for leg in "${legs[@]}"; do
  case "$leg" in
    clang) needs+=(bench clang) ;;
    fuzz) needs+=(clang) ;;
    aarch64) needs+=(aarch64) ;;
  esac
done
require "${needs[@]}"
cd "$DSV4_ROOT"

for leg in "${legs[@]}"; do
  began=$SECONDS failed_before=$failed
  "leg_$leg" || true # its failures are counted
  [[ $failed -eq $failed_before ]] && verdict=ok || verdict=FAILED
  times+=("$(printf '%-8s %2d:%02d  %s' "$leg" $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)) "$verdict")")
done

echo
printf '%s\n' "${times[@]}"
printf '%-8s %2d:%02d\n' total $((SECONDS / 60)) $((SECONDS % 60))
[[ $skipped -eq 0 ]] || echo "$skipped skipped"
if [[ $failed -gt 0 ]]; then
  printf 'failed: %s\n' "${bad[@]}"
  echo "FAIL: not every test passed"
else
  echo "PASS: every test passed"
fi
echo "$passed passed, $failed failed"
[[ $failed -eq 0 && $passed -gt 0 ]]
