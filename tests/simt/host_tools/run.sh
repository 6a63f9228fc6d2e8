#!/usr/bin/env bash
# A kernel on the SIMT machine is an ordinary program: gcov counts its lines, gdb stops in one of its threads.
# usage: run.sh gcov|gdb LIBRARY WORK_FOLDER COMPILER. Exit: 0 it works, 1 it does not, 77 the tool is missing.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
tool="$1" library="$2" work="$3" compiler="$4"
source="$here/reverse.cpp"
fail() { echo "$tool: $*" >&2 && exit 1; }
command -v "$tool" >/dev/null || { echo "there is no $tool" && exit 77; }

rm -rf "$work" && mkdir -p "$work" && cd "$work"
flags=(-std=c++20 -O0 -g -fno-strict-aliasing -DDSV4_SIMT_EMULATION "-I$here/../../../include")
[[ "$tool" != gcov ]] || flags+=(--coverage)
"$compiler" "${flags[@]}" -c "$source" -o reverse.o
"$compiler" "${flags[@]}" reverse.o "$library" -pthread -o reverse
line_of() { awk -v text="$1" 'index($0, text) { print NR }' "$source"; }
stored="$(line_of '// breakpoint')" skipped="$(line_of 'x[0] = never')"

case "$tool" in
  gcov)
    ./reverse >/dev/null
    gcov -t reverse.o >reverse.gcov 2>/dev/null
    # count LINE: how often it ran, as gcov writes it: 64, or 64* where a part of the line never did.
    count() { awk -F : -v line="$1" '/Source:.*reverse\.cpp/ { here = 1 } /Source:/ && !/reverse\.cpp/ { here = 0 }
      here && $2 + 0 == line && !done { gsub(/ /, "", $1); print $1; done = 1 }' reverse.gcov; }
    [[ "$(count "$stored")" == 64 ]] || fail "line $stored ran $(count "$stored") times, not once a thread"
    [[ "$(count "$skipped")" == '64*' ]] || fail "line $skipped, partly executed, counts $(count "$skipped")"
    ;;
  gdb)
    gdb -nx -batch -ex 'set debuginfod enabled off' -ex "break reverse.cpp:$stored if i == 37" -ex run \
      -ex 'print mirrored' -ex backtrace ./reverse >gdb.log 2>&1 </dev/null || true
    if grep -qE 'ptrace|Operation not permitted|Could not trace' gdb.log; then
      echo "gdb may not trace a process here" && exit 77
    fi
    grep -q '= 126$' gdb.log || { cat gdb.log && fail "thread 37 does not hold 126"; }
    grep -q 'reverse_kernel' gdb.log || { cat gdb.log && fail "no kernel in the backtrace"; }
    ;;
esac
echo "$tool: passed"
