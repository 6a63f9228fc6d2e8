#!/usr/bin/env bash
# The main job: the reference forward pass against every recording in tests/data.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'USAGE'
usage: tools/validate.sh [--backend cpu|simt|cuda [--fused]] [--threads N] [--mode staged|free]

Builds dsv4_validate (build/release; see --backend cuda) and compares the forward pass with every
tests/data/NAME.recording.safetensors, using NAME.weights.safetensors:
  staged  every stage is fed the recorded inputs
  free    everything follows from the tokens
  --backend simt  the ops, their kernels on the SIMT machine, in place of the primitives
  --backend cuda  the same ops on a GPU (built with nvcc in build/validate-cuda, the fp32 kernels of
                  the exact recordings among them)
  --fused         fused ops in place of their chains
Prints one table a recording and mode, then a verdict.

As root, missing packages are installed with apt-get; otherwise they are named.
Exit: 0 all agree, 1 some do not, 2 could not run.
USAGE
}

modes=(staged free)
threads=()
backend=()
build=build/release
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --mode) [[ "${2:-}" =~ ^(staged|free)$ ]] || die "--mode needs staged or free"
      modes=("$2") && shift 2 ;;
    --backend) [[ "${2:-}" =~ ^(cpu|simt|cuda)$ ]] || die "--backend needs cpu, simt or cuda"
      [[ "$2" != cuda ]] || build=build/validate-cuda
      backend+=(--backend "$2") && shift 2 ;;
    --fused) backend+=(--fused) && shift ;;
    --threads) [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || die "--threads needs a number"
      threads=(--threads "$2") && shift 2 ;;
    *) usage >&2 && exit 2 ;;
  esac
done

require build
cd "$DSV4_ROOT"

step "Building dsv4_validate"
# Where the test framework is missing, the tests are left out of the build folder: this job does not need them.
arguments=()
[[ -z "$(missing_packages tests)" ]] || arguments=(-DDSV4_BUILD_TESTS=OFF)
if [[ $build != build/release ]]; then
  find_cuda || die "--backend cuda: no CUDA toolkit"
  arguments+=(-B "$build" -DDSV4_CUDA=ON -DDSV4_KERNELS_F32=ON)
fi
configure release "${arguments[@]}" || die "configuration failed"
cmake --build "$build" --target dsv4_validate || die "build failed"

shopt -s nullglob
recordings=(tests/data/*.recording.safetensors)
[[ ${#recordings[@]} -gt 0 ]] || die "no tests/data/*.recording.safetensors"
passed=() failed=()
for recording in "${recordings[@]}"; do
  name="$(basename "$recording" .recording.safetensors)"
  weights="tests/data/$name.weights.safetensors"
  for mode in "${modes[@]}"; do
    step "$name, $mode"
    if [[ ! -e "$weights" ]]; then
      echo "no $weights beside $recording"
      failed+=("$name/$mode")
      continue
    fi
    status=0
    "$build/dsv4_validate" --weights "$weights" --recording "$recording" --mode "$mode" "${backend[@]}" \
      "${threads[@]}" || status=$?
    if [[ $status -eq 0 ]]; then
      passed+=("$name/$mode")
    else
      failed+=("$name/$mode (exit $status)")
    fi
  done
done

echo
total=$((${#passed[@]} + ${#failed[@]}))
join() { local IFS=,; local s="$*"; echo "${s//,/, }"; }
if [[ ${#failed[@]} -gt 0 ]]; then
  echo "FAIL: ${#failed[@]} of $total comparisons: $(join "${failed[@]}")"
  exit 1
fi
echo "PASS: all $total comparisons hold: $(join "${passed[@]}")"
