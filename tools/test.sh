#!/usr/bin/env bash
# All tests: g++ release, g++ with sanitizers, clang.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'USAGE'
usage: tools/test.sh [--quick] [--fuzz-seconds N]

Builds and runs the tests, each leg in a folder of its own below build/:
  release  g++, optimized
  asan     g++, address and undefined-behaviour sanitizers
  clang    clang, optimized, with the benchmarks built
  fuzz     clang, each fuzz target over its corpus and for N seconds more (default 10)
  --quick  the release leg only

As root, missing packages are installed with apt-get; otherwise they are named.
The last line is "N passed, N failed". Exit: 0 all passed, 1 some failed, 2 could not run.
USAGE
}

quick=0
fuzz_seconds=10
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --quick) quick=1 && shift ;;
    --fuzz-seconds) [[ "${2:-}" =~ ^[0-9]+$ ]] || die "--fuzz-seconds needs a number"
      fuzz_seconds="$2" && shift 2 ;;
    *) usage >&2 && exit 2 ;;
  esac
done

passed=0 failed=0 bad=()
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

# test_leg PRESET: runs ctest and adds its counts.
test_leg() {
  local preset="$1" log="build/$1/ctest.log" summary status=0
  step "$preset: test"
  ctest --preset "$preset" 2>&1 | tee "$log" || status=$?
  summary="$(grep -E '^[0-9]+% tests passed, [0-9]+ tests? failed out of [0-9]+' "$log" | tail -n 1 || true)"
  if [[ "$summary" =~ passed,\ ([0-9]+)\ tests?\ failed\ out\ of\ ([0-9]+) ]]; then
    failed=$((failed + BASH_REMATCH[1]))
    passed=$((passed + BASH_REMATCH[2] - BASH_REMATCH[1]))
    [[ "${BASH_REMATCH[1]}" -eq 0 ]] || bad+=("$preset: ${BASH_REMATCH[1]} of ${BASH_REMATCH[2]} tests")
  fi
  if [[ $status -ne 0 && ! "$summary" =~ passed,\ [1-9] ]]; then
    note_failure "$preset: ctest (exit $status)"
  fi
}

if [[ $quick -eq 1 ]]; then
  require build tests
else
  require build tests bench clang
fi
cd "$DSV4_ROOT"

build_leg release && test_leg release
if [[ $quick -eq 0 ]]; then
  build_leg asan && test_leg asan
  clang="$(find_clang)"
  build_leg clang "-DCMAKE_CXX_COMPILER=$clang" && test_leg clang
  if build_leg fuzz "-DCMAKE_CXX_COMPILER=$clang"; then
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
  fi
fi

echo
if [[ $failed -gt 0 ]]; then
  printf 'failed: %s\n' "${bad[@]}"
  echo "FAIL: not every test passed"
else
  echo "PASS: every test passed"
fi
echo "$passed passed, $failed failed"
[[ $failed -eq 0 && $passed -gt 0 ]]
