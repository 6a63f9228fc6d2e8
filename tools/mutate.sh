#!/usr/bin/env bash
# Do the tests notice? Breaks one line at a time, and looks at who objects.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'USAGE'
usage: tools/mutate.sh [--only NAME[,NAME...]] [--jobs N] [--unit-only] [--keep] | --list

Applies the mutants of tools/mutants.txt, each a mistake of one line, to a copy of the tree, one at a time.
Each has to make
  - the unit test that mirrors the mutated file fail, and
  - where it touches the forward pass, dsv4_validate exit with 1 on the recordings named for it.
Before that, everything has to pass with no mutant applied.

  --list         names, files and what each must be noticed by; checks that every mutant still applies
  --only NAMES   these mutants only; a name may be a shell pattern
  --jobs N       mutants at a time (default: one a core)
  --unit-only    leave dsv4_validate out
  --keep         keep the working folder and print where it is

Prints a line a mutant, a table, and "N mutants, N killed by unit tests, M/M by validation".
Exit: 0 every mutant is killed as declared, 1 some are not, 2 could not run.
USAGE
}

list_only=0 unit_only=0 keep=0 only=()
jobs="$DSV4_JOBS"
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --list) list_only=1 && shift ;;
    --unit-only) unit_only=1 && shift ;;
    --keep) keep=1 && shift ;;
    --only) [[ -n "${2:-}" ]] || die "--only needs names"
      IFS=, read -r -a only <<<"$2" && shift 2 ;;
    --jobs) [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || die "--jobs needs a number"
      jobs="$2" && shift 2 ;;
    *) usage >&2 && exit 2 ;;
  esac
done
unit_seconds=600 validate_seconds=600 # limits of one run

# ---- the list --------------------------------------------------------------------------------------------
names=()
declare -A about file_of test_of from to edits runs reason

# from_of NAME I, to_of NAME I: the I-th edit.
read_list() {
  local path="$DSV4_ROOT/tools/mutants.txt" line key value name='' number=0
  while IFS= read -r line || [[ -n "$line" ]]; do
    number=$((number + 1))
    [[ "$line" =~ ^[[:space:]]*(#.*)?$ ]] && continue
    if [[ "$line" =~ ^\[([a-z0-9-]+)\]$ ]]; then
      name="${BASH_REMATCH[1]}"
      [[ -z "${edits[$name]:-}" ]] || die "$path:$number: '$name' stands there twice"
      names+=("$name") edits[$name]=0 about[$name]='' file_of[$name]='' test_of[$name]='' runs[$name]='' reason[$name]=''
      continue
    fi
    [[ -n "$name" && "$line" =~ ^([a-z-]+)([[:space:]]+(.*))?$ ]] || die "$path:$number: cannot read this line"
    key="${BASH_REMATCH[1]}" value="${BASH_REMATCH[3]:-}"
    case "$key" in
      about) about[$name]="$value" ;;
      file) file_of[$name]="$value" ;;
      test) test_of[$name]="$value" ;;
      from) from[$name.${edits[$name]}]="$value" ;;
      to) to[$name.${edits[$name]}]="$value" edits[$name]=$((edits[$name] + 1)) ;;
      validate) runs[$name]="$value" ;;
      unit-only) reason[$name]="$value" ;;
      *) die "$path:$number: unknown key '$key'" ;;
    esac
  done <"$path"
  local run
  for name in "${names[@]}"; do
    [[ -n "${about[$name]}" && -n "${file_of[$name]}" && "${edits[$name]}" -gt 0 ]] ||
      die "$path: '$name' needs about, file, from and to"
    [[ -n "${runs[$name]}" || -n "${reason[$name]}" ]] || die "$path: '$name' needs validate, or unit-only with a reason"
    [[ -z "${runs[$name]}" || -z "${reason[$name]}" ]] || die "$path: '$name' has both validate and unit-only"
    for run in ${runs[$name]}; do
      [[ "$run" =~ ^(exact|deploy)-(staged|free)(@[0-9.]+(@[0-9.]+)?)?$ ]] || die "$path: '$name': no such validation: $run"
    done
    if [[ -z "${test_of[$name]}" ]]; then # the mirrored path
      test_of[$name]="${file_of[$name]%.?pp}_test.cpp"
      test_of[$name]="tests/${test_of[$name]#include/dsv4/}"
    fi
    [[ -e "$DSV4_ROOT/${file_of[$name]}" ]] || die "'$name': no file ${file_of[$name]}"
    [[ -e "$DSV4_ROOT/${test_of[$name]}" ]] || die "'$name': no test ${test_of[$name]}"
  done
}

# replace FROM TO PATH: the one place where FROM stands becomes TO; fails unless there is exactly one.
replace() {
  FROM="$1" TO="$2" awk '
    BEGIN { RS = "\001"; ORS = ""; from = ENVIRON["FROM"]; to = ENVIRON["TO"] }
    { at = index($0, from)
      if (at == 0 || index(substr($0, at + 1), from) != 0) exit 1
      print substr($0, 1, at - 1) to substr($0, at + length(from)) }' "$3" >"$3.mutated" || {
    rm -f "$3.mutated"
    return 1
  }
  mv "$3.mutated" "$3"
}

# apply NAME TREE
apply() {
  local i
  for ((i = 0; i < edits[$1]; ++i)); do
    replace "${from[$1.$i]}" "${to[$1.$i]}" "$2/${file_of[$1]}" || return 1
  done
}

# ---- one folder of everything ------------------------------------------------------------------------------
# $work/base    the copy of the tree, and its build in $work/base/build
# $work/source  the same sources without data and build, to start a mutant from
# $work/NAME    a mutant at work: its tree, objects and logs. Nothing of it outlives it.
# Compilers run in the folder that holds include/, reference/ and tests/, and name files from there: so a
# compiler cache knows them again in the next run's folder.

# command_of OBJECT: how the build compiles it, without output and dependency files.
command_of() { cat "$work/commands/$1"; }

# compile OBJECT: compiles it in the current tree to ../objects/.
compile() {
  local out="../objects/$1"
  mkdir -p "$(dirname "$out")"
  eval "$(command_of "$1") -o '$out'"
}

# affected FILE OBJECT...: prints those objects that include or are made from FILE.
affected() {
  local file="$1"
  shift
  printf '%s\n' "$@" | FILE="/$file" awk '
    NR == FNR { wanted[$0] = 1; next }
    /^[^ ].*: #deps/ { object = $1; sub(/:$/, "", object); next }
    /^ / { at = length($1) - length(ENVIRON["FILE"])
           if (object in wanted && at > 0 && substr($1, at + 1) == ENVIRON["FILE"]) { print object; delete wanted[object] } }
  ' - "$work/deps"
}

# needs_library TEST: tests below these folders run the library and its test support, the others headers only.
needs_library() { [[ "$1" == tests/reference/* || "$1" == tests/end_to_end/* ]]; }

# link OUTPUT OBJECT...: from compiled objects where there are any, else from the unchanged ones. The former come
# first: of an inline function that both hold, the linker takes the mutated one.
link() {
  local output="$1" object mutated=() unchanged=()
  shift
  for object in "$@"; do
    if [[ -e "../objects/$object" ]]; then mutated+=("../objects/$object"); else unchanged+=("$work/base/build/$object"); fi
  done
  # shellcheck disable=SC2086  # a list of words
  g++ -o "$output" "${mutated[@]}" "${unchanged[@]}" $system_libraries -pthread
}

# build_unit TEST FILE: the unit test with FILE mutated (FILE empty: as it is). In the tree.
build_unit() {
  local test="$1" file="$2" object objects=("$main_object")
  test_command="$(command_of test) -include '$work/pch/catch.hpp' -c $test"
  mkdir -p ../objects
  eval "$test_command -o ../objects/unit.o" || return 1
  if needs_library "$test"; then
    objects=("${support_objects[@]}" "${library_objects[@]}")
    if [[ -n "$file" ]]; then
      for object in $(affected "$file" "${objects[@]}"); do
        [[ -e "../objects/$object" ]] || compile "$object" || return 1
      done
    fi
  fi
  link ../unit unit.o "${objects[@]}"
}

# build_validate FILE: dsv4_validate with FILE mutated. Of a primitive only the objects that compute with it are
# compiled again: the backend and the state. Those that read files and compare stay as they are.
build_validate() {
  local object objects=("${validate_objects[@]}" "${library_objects[@]}")
  [[ "$1" != include/* ]] || objects=("${backend_objects[@]}")
  for object in $(affected "$1" "${objects[@]}"); do
    [[ -e "../objects/$object" ]] || compile "$object" || return 1
  done
  link ../dsv4_validate "${validate_objects[@]}" "${library_objects[@]}"
}

# run_unit: runs ../unit. Prints the first failing test case; succeeds if none fails.
run_unit() {
  local status=0
  timeout "$unit_seconds" ../unit --abort --reporter xml >../unit.xml 2>../unit.log || status=$?
  [[ $status -ne 0 ]] || return 0
  if [[ $status -eq 124 ]]; then
    printf '(timeout) '
  elif [[ $status -gt 128 ]]; then
    printf '(signal %d) ' $((status - 128))
  fi
  { grep -o '<TestCase name="[^"]*"' ../unit.xml || echo '(no test case ran)'; } | tail -n 1 |
    sed -e 's/^<TestCase name="//' -e 's/"$//' -e 's/&lt;/</g' -e 's/&gt;/>/g' -e 's/&quot;/"/g' -e 's/&amp;/\&/g'
  return 1
}

# run_validate RUN: prints the first failing tap; the exit status is dsv4_validate's (124: timeout).
run_validate() {
  local set mode scale calls status=0 options=()
  IFS='@' read -r mode scale calls <<<"$1"
  set="tiny-${mode%-*}" mode="${mode#*-}"
  [[ -z "$scale" ]] || options+=(--tolerance-scale "$scale")
  [[ -z "$calls" ]] || options+=(--calls "$calls")
  timeout "$validate_seconds" ../dsv4_validate --weights "tests/data/$set.weights.safetensors" --threads 1 \
    --recording "tests/data/$set.recording.safetensors" --mode "$mode" "${options[@]}" >"../$1.log" 2>&1 || status=$?
  if [[ $status -eq 1 ]]; then
    first_failing_tap "../$1.log"
  elif [[ $status -ne 0 ]]; then
    printf '(exit %d)' "$status"
  fi
  return $status
}

first_failing_tap() { sed -n 's/^first failing tap: \([^ ,:]*\).*/\1/p' "$1" | head -n 1; }

# prepare: the baseline build, and what of it the mutants need.
prepare() {
  step "Building without a mutant"
  mkdir -p "$work/base" "$work/commands" "$work/pch" "$work/results" "$work/source/tests"
  cp -r CMakeLists.txt LICENSE cmake include reference tests "$work/base/"
  cp -r include reference "$work/source/"
  find tests -mindepth 1 -maxdepth 1 ! -name data -exec cp -r {} "$work/source/tests/" \;
  ln -s ../../../base/tests/data "$work/source/tests/data"

  local build="$work/base/build" object
  export CCACHE_BASEDIR="$work" CCACHE_NOHASHDIR=1
  cmake -S "$work/base" -B "$build" -G Ninja -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -DNDEBUG" -DDSV4_WERROR=OFF -DDSV4_BUILD_TESTS=ON \
    >"$work/configure.log" 2>&1 || { cat "$work/configure.log" && die "configuration failed"; }
  cmake --build "$build" --target dsv4_test_support "${baseline_targets[@]}" || die "build failed"

  ninja -C "$build" -t targets all | sed -n 's/^\(.*\.o\): CXX_COMPILER.*/\1/p' >"$work/objects.txt"
  ninja -C "$build" -t deps >"$work/deps"
  mapfile -t library_objects < <(grep '^CMakeFiles/dsv4_reference.dir/' "$work/objects.txt")
  mapfile -t backend_objects < <(printf '%s\n' "${library_objects[@]}" | grep -E '/reference/(cpu_|state)[a-z_]*\.cpp\.o$')
  mapfile -t validate_objects < <(grep '^CMakeFiles/dsv4_validate.dir/' "$work/objects.txt")
  mapfile -t support_objects < <(grep '^tests/CMakeFiles/dsv4_test_support.dir/' "$work/objects.txt")
  main_object="$(printf '%s\n' "${support_objects[@]}" | grep '/main\.cpp\.o$')"
  for object in "${library_objects[@]}" "${validate_objects[@]}" "${support_objects[@]}"; do
    mkdir -p "$work/commands/$(dirname "$object")"
    ninja -C "$build" -t commands -s "$object" | here >"$work/commands/$object"
  done
  # The flags of a test, without a launcher: the precompiled header and a compiler cache do not mix.
  object="$(grep '^tests/CMakeFiles/dsv4_test_core.dir/' "$work/objects.txt" | head -n 1)"
  ninja -C "$build" -t commands -s "$object" | here |
    sed -e 's# -c [^ ]*$##' -e 's#^[^ ]*ccache ##' >"$work/commands/test"
  system_libraries="$(ninja -C "$build" -t commands -s tests/dsv4_test_core | tr ' ' '\n' |
    grep -E '^(-l|/).*(\.so[.0-9]*|\.a)$|^-l' | tr '\n' ' ' || true)"
  echo '#include "tests/support/catch.hpp"' >"$work/pch/catch.hpp"
  (cd "$work/base" && eval "$(command_of test) -x c++-header '$work/pch/catch.hpp' -o '$work/pch/catch.hpp.gch'")
}

# here: compile commands of the baseline as commands of the current tree.
here() {
  sed -e 's# -MD -MT [^ ]* -MF [^ ]*##' -e 's# -o [^ ]*##' \
    -e "s#$work/base/tests/data#tests/data#g" -e "s#$work/base/#./#g" -e "s#$work/base\([ \"]\)#.\1#g"
}

# baseline: every unit test and validation that a mutant will be held against, with nothing mutated.
baseline() {
  step "Testing without a mutant"
  local -A tests=() validations=()
  local name test run failures=0
  for name in "${selected[@]}"; do
    tests[${test_of[$name]}]=1
    for run in ${runs[$name]}; do validations[$run]=1; done
  done
  mkdir -p "$work/none"
  cp -r "$work/source" "$work/none/tree"
  cd "$work/none/tree"
  for test in $(printf '%s\n' "${!tests[@]}" | sort); do
    ((running < jobs)) || { wait -n || failures=$((failures + 1)); running=$((running - 1)); }
    (
      dir="$work/none-${test//\//-}"
      mkdir -p "$dir" && cp -r "$work/source" "$dir/tree" && cd "$dir/tree"
      began=$SECONDS
      build_unit "$test" '' >../build.log 2>&1 || { tail -n 20 ../build.log && echo "$test: does not build" && exit 1; }
      first="$(run_unit)" || { echo "$test fails: $first" && exit 1; }
      echo "$test passes ($((SECONDS - began)) s)"
      cd "$work" && rm -rf "$dir"
    ) &
    running=$((running + 1))
  done
  while ((running > 0)); do wait -n || failures=$((failures + 1)); running=$((running - 1)); done
  if [[ $unit_only -eq 0 ]]; then
    cp "$work/base/build/dsv4_validate" ../dsv4_validate
    for run in $(printf '%s\n' "${!validations[@]}" | sort); do
      local began=$SECONDS
      if first="$(run_validate "$run")"; then
        echo "dsv4_validate $run passes ($((SECONDS - began)) s)"
      else
        echo "dsv4_validate $run fails: $first" && failures=$((failures + 1))
      fi
    done
  fi
  cd "$DSV4_ROOT"
  [[ $failures -eq 0 ]] || die "not everything passes without a mutant: nothing to learn from mutants"
}

# mutant NAME: writes $work/results/NAME: verdict|unit|validation|seconds, and prints a progress line.
mutant() {
  local name="$1" began=$SECONDS dir="$work/$1" unit='' validation='' killed=1 noticed tap status
  mkdir -p "$dir"
  cp -r "$work/source" "$dir/tree"
  cd "$dir/tree"
  apply "$name" "$dir/tree" || die "'$name' does not apply"
  if ! build_unit "${test_of[$name]}" "${file_of[$name]}" >../build.log 2>&1; then
    unit='(does not compile)' killed=0 # a mistake that nobody could make
  elif unit="$(run_unit)"; then
    unit=SURVIVED killed=0
  fi
  if [[ $unit_only -eq 1 ]]; then
    validation='not run'
  elif [[ -z "${runs[$name]}" ]]; then
    validation='unit test only'
  elif ! build_validate "${file_of[$name]}" >>../build.log 2>&1; then
    validation='(does not compile)' killed=0
  else
    for run in ${runs[$name]}; do
      status=0
      tap="$(run_validate "$run")" || status=$?
      noticed="$run ${tap:-SURVIVED}"
      [[ $status -eq 1 ]] || killed=0
      validation="${validation:+$validation; }$noticed"
    done
  fi
  [[ $killed -eq 1 ]] && noticed=killed || noticed=SURVIVED
  printf '%s|%s|%s|%d\n' "$noticed" "$unit" "$validation" $((SECONDS - began)) >"$work/results/$name"
  printf '[%d/%d] %-9s %-28s %s | %s   (%d s)\n' "$(find "$work/results" -type f | wc -l)" "${#selected[@]}" \
    "$noticed" "$name" "$unit" "$validation" $((SECONDS - began))
  cd "$work"
  [[ $keep -eq 1 ]] || rm -rf "$dir"
}

# ---- main --------------------------------------------------------------------------------------------------
read_list
selected=()
for name in "${names[@]}"; do
  if [[ ${#only[@]} -eq 0 ]]; then
    selected+=("$name")
  else
    # shellcheck disable=SC2053  # patterns on purpose
    for pattern in "${only[@]}"; do [[ "$name" == $pattern ]] && selected+=("$name") && break; done
  fi
done
[[ ${#selected[@]} -gt 0 ]] || die "no mutant of that name; see --list"

work="$(mktemp -d "${TMPDIR:-/tmp}/dsv4-mutate.XXXXXX")"
cleanup() {
  if [[ $keep -eq 1 && $list_only -eq 0 ]]; then echo "kept: $work"; else rm -rf "$work"; fi
}
trap cleanup EXIT

# The list must not rot: every mutant applies, whichever were asked for.
mkdir "$work/check"
stale=0
for name in "${names[@]}"; do
  mkdir -p "$work/check/$(dirname "${file_of[$name]}")"
  cp "$DSV4_ROOT/${file_of[$name]}" "$work/check/${file_of[$name]}"
  apply "$name" "$work/check" ||
    { echo "'$name': its text does not stand exactly once in ${file_of[$name]}" >&2 && stale=$((stale + 1)); }
done
if [[ $list_only -eq 1 ]]; then
  for name in "${selected[@]}"; do
    printf '%-30s %s\n%30s   %s; %s; %s\n' "$name" "${about[$name]}" '' "${file_of[$name]}" "${test_of[$name]}" \
      "${runs[$name]:-unit test only: ${reason[$name]}}"
  done
  echo
  echo "${#selected[@]} mutants"
fi
[[ $stale -eq 0 ]] || die "$stale mutants do not apply: bring tools/mutants.txt up to date"
[[ $list_only -eq 0 ]] || exit 0

require build tests
cd "$DSV4_ROOT"
baseline_targets=(dsv4_reference)
[[ $unit_only -eq 1 ]] || baseline_targets+=(dsv4_validate)
running=0
prepare
baseline

step "${#selected[@]} mutants, $jobs at a time"
for name in "${selected[@]}"; do
  ((running < jobs)) || { wait -n || true; running=$((running - 1)); }
  (mutant "$name") &
  running=$((running + 1))
done
while ((running > 0)); do wait -n || true; running=$((running - 1)); done

step "Result"
by_unit=0 by_validation=0 to_validate=0 bad=()
printf '%-30s | %-60s | %-60s | %s\n' mutant 'first failing test case' 'first failing tap' seconds
for name in "${selected[@]}"; do
  verdict='not run' unit='' validation='' seconds=0
  [[ ! -e "$work/results/$name" ]] || IFS='|' read -r verdict unit validation seconds <"$work/results/$name"
  printf '%-30s | %-60s | %-60s | %s\n' "$name" "$unit" "$validation" "$seconds"
  [[ "$unit" == SURVIVED || "$unit" == '(does not compile)' || -z "$unit" ]] || by_unit=$((by_unit + 1))
  if [[ -n "${runs[$name]}" && $unit_only -eq 0 ]]; then
    to_validate=$((to_validate + 1))
    [[ "$validation" == *SURVIVED* || "$validation" == *'('* || -z "$validation" ]] || by_validation=$((by_validation + 1))
  fi
  [[ "$verdict" == killed ]] || bad+=("$name")
done
echo
if [[ ${#bad[@]} -gt 0 ]]; then
  printf 'not killed as declared: %s\n' "${bad[@]}"
  echo "FAIL: ${#bad[@]} of ${#selected[@]} mutants went unnoticed"
else
  echo "PASS: every mutant was noticed"
fi
echo "${#selected[@]} mutants, $by_unit killed by unit tests, $by_validation/$to_validate by validation"
[[ ${#bad[@]} -eq 0 ]]
