#!/usr/bin/env bash
# Benchmarks: builds them, runs them, and checks peak memory.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'USAGE'
usage: tools/bench.sh [--filter REGEX] [--repetitions N] [--save NAME] [--no-memory]

Builds the benchmarks (preset bench), runs them and reports medians, then checks that a forward pass stays within
its weights, its state and 256 MiB (dsv4_memory).
  --filter REGEX    only the benchmarks whose name matches, e.g. 'exact|flash_csa'; without the memory check
  --repetitions N   runs of which the median counts (default 5)
  --save NAME       writes the medians to bench/results/NAME.json
  --no-memory       without the memory check

Times are worth something on a machine that does nothing else. As root, missing packages are installed with apt-get;
otherwise they are named. Exit: 0 done, 1 a benchmark failed its verification or the memory check failed, 2 could not
run. Being above a bar is printed, and is no failure.
USAGE
}

filter='' repetitions=5 save='' memory=1
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --filter) [[ -n "${2:-}" ]] || die "--filter needs a regular expression"
      filter="$2" memory=0 && shift 2 ;;
    --repetitions) [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || die "--repetitions needs a positive number"
      repetitions="$2" && shift 2 ;;
    --save) [[ "${2:-}" =~ ^[A-Za-z0-9._-]+$ ]] || die "--save needs a name of letters, digits, '.', '_' and '-'"
      save="$2" && shift 2 ;;
    --no-memory) memory=0 && shift ;;
    *) usage >&2 && exit 2 ;;
  esac
done

require build bench
cd "$DSV4_ROOT"
step "Build"
configure bench || die "configuring failed"
cmake --build --preset bench || die "the build failed"

status=0
arguments=(--benchmark_repetitions="$repetitions" --benchmark_report_aggregates_only=true --benchmark_min_time=0.1)
[[ -z "$filter" ]] || arguments+=(--benchmark_filter="$filter")
if [[ -n "$save" ]]; then
  mkdir -p bench/results
  arguments+=(--save="bench/results/$save.json")
fi
step "Benchmarks, median of $repetitions"
build/bench/bench/dsv4_bench "${arguments[@]}" | { grep -vE '_(mean|stddev|cv) ' || true; } || status=1
if [[ $memory -eq 1 ]]; then
  step "Peak memory"
  build/bench/bench/dsv4_memory || status=1
fi

[[ -z "$save" ]] || echo "medians are in bench/results/$save.json"
if [[ $status -eq 0 ]]; then echo "done"; else echo "FAIL: see above"; fi
exit $status
