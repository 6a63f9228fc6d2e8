#!/usr/bin/env bash
# Registers, shared memory and spills of every kernel in a build folder, from the reports that ptxas_log.sh kept.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: tools/ptxas_table.sh [--allowed FILE] --architectures "80 90a ..." FOLDER
       tools/ptxas_table.sh --self-test

Reads every *.ptxas below FOLDER and prints one line a kernel: registers a thread and bytes of static shared memory for
each architecture, and bytes spilled (stores + loads) where there are any.
FILE lists spills that are accepted: KERNEL ARCHITECTURE MAX_BYTES REASON, a line each; KERNEL is a name of the table
without blanks. Exit: 0; 1 for a spill or a ptxas remark (wgmma serialized, ...) that is not listed, a kernel that an
architecture lacks, a listed spill that is gone, or nothing to read; 2 wrong usage.
USAGE
}

# table ALLOWED ARCHITECTURES FOLDER: see usage.
table() {
  local allowed="$1" architectures="$2" folder="$3"
  [[ -d "$folder" ]] || { echo "ptxas_table: no folder $folder" >&2 && return 2; }
  find "$folder" -name '*.ptxas' -print0 | sort -z | xargs -0 -r cat | c++filt |
    awk -v architectures="$architectures" -v allowed="$allowed" '
    # dsv4::ops::cuda_v0::(anonymous namespace)::f_kernel<int>(long) -> f_kernel<int>
    function short_name(s) {
      gsub(/\(anonymous namespace\)::/, "", s)
      sub(/^void /, "", s)
      while (match(s, /\([A-Za-z_][A-Za-z0-9_:]*\)[0-9]/)) # (QuantFormat)1 -> 1
        s = substr(s, 1, RSTART - 1) substr(s, RSTART + RLENGTH - 1)
      sub(/\(.*$/, "", s)
      gsub(/cuda_v0::/, "", s)
      gsub(/dsv4::(ops::|kernels::|conformance::)?/, "", s)
      gsub(/ /, "", s)
      return s
    }
    function complain(s) { complaints[++n_complaints] = s }
    /Compiling entry function/ {
      arch = $0; sub(/^.* for .sm_/, "", arch); sub(/.$/, "", arch)
      kernel = $0; sub(/^.*Compiling entry function ./, "", kernel); sub(/. for .sm_.*$/, "", kernel)
      kernel = short_name(kernel)
      if (!(kernel in seen)) { seen[kernel] = 1; order[++n] = kernel }
      next
    }
    /Function properties for/ {
      of = $0; sub(/^.*Function properties for /, "", of); of = short_name(of)
      next
    }
    /bytes stack frame/ {
      stores = $0; sub(/^.*frame, /, "", stores); sub(/ bytes spill stores.*$/, "", stores)
      loads = $0; sub(/^.*stores, /, "", loads); sub(/ bytes spill loads.*$/, "", loads)
      spill[kernel, arch] += stores + loads
      next
    }
    /: Used [0-9]+ registers/ {
      # Reports of two architectures must not be mixed up: the last function named is the one being compiled.
      if (of != kernel) complain("report out of order: " kernel " and " of)
      r = $0; sub(/^.*Used /, "", r); sub(/ registers.*$/, "", r)
      s = 0
      if ($0 ~ /bytes smem/) { s = $0; sub(/ bytes smem.*$/, "", s); sub(/^.* /, "", s) }
      if (r + 0 > registers[kernel, arch] + 0) registers[kernel, arch] = r
      if (s + 0 > shared[kernel, arch] + 0) shared[kernel, arch] = s
      next
    }
    /\(C[0-9]+\)|erformance [Ll]oss|serialized/ { complain($0) }
    END {
      count = split(architectures, archs, " ")
      while (allowed != "" && (getline line < allowed) > 0) {
        if (line ~ /^[ \t]*(#|$)/) continue
        if (split(line, field, /[ \t]+/) < 4) { complain("needs KERNEL ARCHITECTURE MAX_BYTES REASON: " line); continue }
        limit[field[1], field[2]] = field[3]
        if (!((field[1], field[2]) in spill) || spill[field[1], field[2]] == 0)
          complain("listed, but nothing is spilled: " line)
      }
      if (n == 0) complain("no kernel found")
      width = length("kernel")
      for (i = 1; i <= n; ++i) if (length(order[i]) > width) width = length(order[i])
      printf "%-" width "s", "kernel"
      for (a = 1; a <= count; ++a) printf "  %12s", "sm_" archs[a]
      printf "  spilled bytes\n"
      for (i = 1; i <= n; ++i) {
        kernel = order[i]
        printf "%-" width "s", kernel
        remark = ""
        for (a = 1; a <= count; ++a) {
          if (!((kernel, archs[a]) in registers)) {
            complain(kernel " was not compiled for sm_" archs[a])
            printf "  %12s", "-"
            continue
          }
          printf "  %4d r %5d", registers[kernel, archs[a]], shared[kernel, archs[a]]
          bytes = spill[kernel, archs[a]]
          if (bytes > 0) {
            remark = remark " sm_" archs[a] ": " bytes
            ++spilled
            if (!((kernel, archs[a]) in limit)) complain(kernel " spills " bytes " bytes on sm_" archs[a])
            else if (bytes > limit[kernel, archs[a]])
              complain(kernel " spills " bytes " bytes on sm_" archs[a] ", more than the listed " limit[kernel, archs[a]])
          }
        }
        print "  " remark
      }
      printf "%d kernels, %d architectures, %d with spills (registers a thread, bytes of static shared memory)\n", \
        n, count, spilled
      for (i = 1; i <= n_complaints; ++i) print "ptxas_table: " complaints[i]
      exit n_complaints > 0
    }'
}

self_test() {
  local dir failures=0
  dir="$(mktemp -d)"
  trap 'rm -rf "$dir"' RETURN
  # report ARCHITECTURE KERNEL REGISTERS SPILL
  report() {
    printf "ptxas info    : Compiling entry function '%s' for 'sm_%s'\n" "$2" "$1"
    printf 'ptxas info    : Function properties for %s\n' "$2"
    printf '    0 bytes stack frame, %d bytes spill stores, %d bytes spill loads\n' "$4" "$4"
    printf 'ptxas info    : Used %d registers, used 1 barriers, 4096 bytes smem, 448 bytes cmem[0]\n' "$3"
  }
  # expect STATUS TEXT ALLOWED: runs the table over $dir/in.
  expect() {
    local status=0 output
    printf '%s\n' "$3" >"$dir/allowed"
    output="$(table "$dir/allowed" "80 90a" "$dir/in")" || status=$?
    if [[ $status -ne $1 || "$output" != *"$2"* ]]; then
      printf 'ptxas_table self-test: expected %d and "%s", got %d and\n%s\n' "$1" "$2" "$status" "$output"
      failures=$((failures + 1))
    fi
  }
  mkdir "$dir/in"
  expect 1 'no kernel found' ''
  { report 80 _Z8a_kernelIiEvT_ 32 0 && report 90a _Z8a_kernelIiEvT_ 40 0; } >"$dir/in/a.ptxas"
  expect 0 'a_kernel<int>    32 r  4096    40 r  4096' ''
  { report 80 _Z8e_kernelIiL6Format1EEvT_ 16 0 && report 90a _Z8e_kernelIiL6Format1EEvT_ 18 0; } >"$dir/in/e.ptxas"
  expect 0 'e_kernel<int,1>    16 r  4096    18 r  4096' ''
  rm "$dir/in/e.ptxas"
  expect 1 'listed, but nothing is spilled' 'a_kernel<int> 80 8 once upon a time'
  report 80 _Z8b_kernelv 32 0 >"$dir/in/b.ptxas"
  expect 1 'b_kernel was not compiled for sm_90a' ''
  report 90a _Z8b_kernelv 255 8 >>"$dir/in/b.ptxas"
  expect 1 'b_kernel spills 16 bytes on sm_90a' ''
  expect 1 'more than the listed 8' 'b_kernel 90a 8 a reason'
  expect 1 'needs KERNEL' 'b_kernel 90a 16'
  expect 0 'sm_90a: 16' 'b_kernel 90a 16 a reason'
  echo "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized" >>"$dir/in/b.ptxas"
  expect 1 'serialized' 'b_kernel 90a 16 a reason'
  [[ $failures -eq 0 ]] && echo "ptxas_table self-test: passed"
}

allowed='' architectures='' folder=''
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --self-test) self_test && exit 0 || exit 1 ;;
    --allowed) allowed="${2:?}" && shift 2 ;;
    --architectures) architectures="${2:?}" && shift 2 ;;
    -*) usage >&2 && exit 2 ;;
    *) folder="$1" && shift ;;
  esac
done
[[ -n "$architectures" && -n "$folder" ]] || { usage >&2 && exit 2; }
[[ -z "$allowed" || -r "$allowed" ]] || { echo "ptxas_table: cannot read $allowed" >&2 && exit 2; }
table "$allowed" "$architectures" "$folder"
