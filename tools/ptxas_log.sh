#!/usr/bin/env bash
# Runs a compiler command (the arguments) and keeps what ptxas reports in OBJECT.ptxas; everything else that the
# compiler says passes through. tools/ptxas_table.sh reads these files.
set -uo pipefail
object=''
for ((i = 1; i < $#; ++i)); do
  [[ "${!i}" != -o ]] || { next=$((i + 1)) && object="${!next}"; }
done
[[ -n "$object" ]] || exec "$@"
# Some nvcc releases report on one stream, some on the other, and ccache replays either.
"$@" >"$object.log" 2>&1
status=$?
is_report='^ptxas info|^ *[0-9]+ bytes stack frame|^Compiling entry function'
grep -E "$is_report" "$object.log" >"$object.ptxas"
grep -vE "$is_report" "$object.log" >&2
rm -f "$object.log"
exit $status
