#!/usr/bin/env bash
# Does the SIMT machine notice? Breaks a kernel at a time, compiles it, and looks at what the machine says.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../.." && pwd)"

usage() {
  cat <<'USAGE'
usage: run.sh --mode plain|race --library FILE --work FOLDER [--compiler CXX] [--jobs N] [--program NAME]
              [--only NAME] | --list

Applies the mutants of mutants.txt to copies of tests/simt/kernels, one at a time. A mutant is noticed if its
program ends with an error of the machine, a wrong result, bank conflicts, or not at all.
  --mode      plain: lazy asynchrony, lifo schedule. race: instrumented, one run, lazy and fifo
  --library   libdsv4_simt of that mode: built without, or with, DSV4_SIMT_RACE
  --program   mutants of that program alone; --only: those whose name matches the shell pattern
  --list      names and mistakes; checks that every mutant applies
Exit: 0 the unmutated kernels pass and every mutant is noticed as declared, 1 not so, 2 could not run.
USAGE
}
die() { echo "run.sh: $*" >&2 && exit 2; }

mode='' library='' work='' compiler=g++ jobs="$(nproc)" program='*' only='*' list=0
while [[ $# -gt 0 ]]; do
  case "$1" in
    --list) list=1 && shift && continue ;;
    -h | --help) usage && exit 0 ;;
  esac
  [[ $# -ge 2 ]] || { usage >&2 && exit 2; }
  case "$1" in
    --mode) mode="$2" ;;
    --library) library="$2" ;;
    --work) work="$2" ;;
    --compiler) compiler="$2" ;;
    --jobs) jobs="$2" ;;
    --program) program="$2" ;;
    --only) only="$2" ;;
    *) usage >&2 && exit 2 ;;
  esac
  shift 2
done

# ---- the list --------------------------------------------------------------------------------------------
names=()
declare -A about program_of kernel_of edits from to misses
read_list() {
  local line key value name='' number=0
  while IFS= read -r line || [[ -n "$line" ]]; do
    number=$((number + 1))
    [[ "$line" =~ ^[[:space:]]*(#.*)?$ ]] && continue
    if [[ "$line" =~ ^\[([a-z0-9-]+)\]$ ]]; then
      name="${BASH_REMATCH[1]}"
      [[ -z "${edits[$name]:-}" ]] || die "mutants.txt:$number: '$name' stands there twice"
      names+=("$name") edits[$name]=0
      continue
    fi
    key="${line%% *}" value=''
    [[ "$line" == *' '* ]] && value="${line#* }"
    case "$key" in
      about) about[$name]="$value" ;;
      program) program_of[$name]="$value" ;;
      kernel) kernel_of[$name]="$value" ;;
      from) from[$name.${edits[$name]}]="$(printf '%b.' "$value")" ;;
      to) to[$name.${edits[$name]}]="$(printf '%b.' "$value")" edits[$name]=$((edits[$name] + 1)) ;;
      plain-misses | race-misses) misses[$name.${key%-misses}]="$value" ;;
      *) die "mutants.txt:$number: unknown key '$key'" ;;
    esac
  done <"$here/mutants.txt"
}

# mutated NAME: the kernel's text with the mutant's edits.
mutated() {
  local name="$1" text i a b rest
  text="$(<"$root/tests/simt/kernels/${kernel_of[$name]}")"
  for ((i = 0; i < edits[$name]; i++)); do
    a="${from[$name.$i]%.}" b="${to[$name.$i]%.}" # the dot kept a line break at the end
    rest="${text#*"$a"}"
    [[ "$rest" != "$text" ]] || die "$name: '$a' is not in ${kernel_of[$name]}"
    [[ "$rest" == "${rest#*"$a"}" ]] || die "$name: '$a' stands in ${kernel_of[$name]} more than once"
    text="${text%%"$a"*}$b$rest"
  done
  printf '%s\n' "$text"
}

# ---- one program -----------------------------------------------------------------------------------------
flags=(-std=c++20 -O1 -ffp-contract=off -fno-strict-aliasing -w -DDSV4_SIMT_EMULATION)
environment=(DSV4_SIMT_ASYNC=lazy DSV4_SIMT_WORKERS=1 DSV4_SIMT_SCHEDULE=lifo)
if [[ "$mode" == race ]]; then
  flags+=(-g1 -fsanitize=thread -DDSV4_SIMT_RACE)
  environment[2]=DSV4_SIMT_SCHEDULE=fifo
fi

# try FOLDER PROGRAM: compiles PROGRAM with the kernels of FOLDER before the tree's, and runs it.
# Prints a verdict: "passes", or how it was noticed.
try() {
  local folder="$1" said status=0
  "$compiler" "${flags[@]}" -I"$folder" -I"$root/include" -I"$root" -c "$here/$2.cpp" -o "$folder/$2.o" \
    2>"$folder/compile.log" || { echo "DOES NOT COMPILE: $(grep -m1 error "$folder/compile.log")" && return; }
  "$compiler" "$folder/$2.o" "$library" -pthread -o "$folder/$2" 2>"$folder/link.log" ||
    { echo "DOES NOT LINK: $(tail -1 "$folder/link.log")" && return; }
  said="$(env "${environment[@]}" timeout 60 "$folder/$2" 2>&1)" || status=$?
  said="${said//$'\n'/ }"
  case "$status" in
    0) echo passes ;;
    10 | 11 | 12) echo "noticed: ${said:0:160}" ;;
    124) echo "noticed: does not end" ;;
    *) echo "noticed: exit status $status: ${said:0:120}" ;;
  esac
}

# one NAME: writes WORK/NAME/verdict.
one() {
  local name="$1" folder="$work/$1"
  mkdir -p "$folder/tests/simt/kernels"
  mutated "$name" >"$folder/tests/simt/kernels/${kernel_of[$name]}"
  try "$folder" "${program_of[$name]}" >"$folder/verdict"
}

read_list
for name in "${names[@]}"; do
  [[ -n "${about[$name]:-}" && -n "${program_of[$name]:-}" && -n "${kernel_of[$name]:-}" &&
    "${edits[$name]}" -gt 0 ]] || die "'$name' needs about, program, kernel, from and to"
  mutated "$name" >/dev/null
done
if [[ $list == 1 ]]; then
  for name in "${names[@]}"; do printf '%-40s %s\n' "$name" "${about[$name]}"; done
  echo "${#names[@]} mutants"
  exit 0
fi
[[ "$mode" == plain || "$mode" == race ]] || die "--mode is plain or race"
[[ -f "$library" && -n "$work" ]] || die "--library and --work are needed"
mkdir -p "$work"

failures=0
declare -A clean=()
chosen=()
for name in "${names[@]}"; do
  # shellcheck disable=SC2053  # patterns
  [[ "$name" == $only && "${program_of[$name]}" == $program ]] && chosen+=("$name") clean[${program_of[$name]}]=1
done
[[ ${#chosen[@]} -gt 0 ]] || die "no such mutant"
for p in "${!clean[@]}"; do
  mkdir -p "$work/clean-$p"
  verdict="$(try "$work/clean-$p" "$p")"
  printf '%-40s %s\n' "$p, unmutated" "$verdict"
  [[ "$verdict" == passes ]] || failures=$((failures + 1))
done
running=0
for name in "${chosen[@]}"; do
  [[ $running -lt $jobs ]] || { wait -n && running=$((running - 1)); }
  one "$name" &
  running=$((running + 1))
done
wait

noticed=0 declared=0
for name in "${chosen[@]}"; do
  verdict="$(<"$work/$name/verdict")" why="${misses[$name.$mode]:-}" note=''
  if [[ "$verdict" == noticed:* ]]; then
    noticed=$((noticed + 1))
    [[ -z "$why" ]] || note=" [DECLARED A MISS]" failures=$((failures + 1))
  elif [[ "$verdict" == passes && -n "$why" ]]; then
    declared=$((declared + 1)) note=" [declared: $why]"
  else
    note=" [NOT NOTICED]" failures=$((failures + 1))
  fi
  printf '%-40s %s%s\n' "$name" "$verdict" "$note"
done
echo "$mode: ${#chosen[@]} mutants, $noticed noticed, $declared missed as declared, $failures failures"
[[ $failures == 0 ]]
