#!/usr/bin/env bash
# The layout of everything in dsv4.h as a C compiler sees it: every constant, every struct with the place of each field,
# every function. It must be what tests/data/abi.txt says, which programs were compiled against.
set -euo pipefail
if [[ $# -lt 2 || $# -gt 3 || "$1" == -h || "$1" == --help ]]; then
  echo "usage: $0 CC DSV4_H [TABLE]: compares with TABLE, or prints the table"
  exit 2
fi
cc="$1" header="$2" table="${3:-}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# One statement of C for each line that matters; a line inside a struct that cannot be read is an error.
awk '
  /^#define DSV4_[A-Z_]+ [0-9]+$/ { printf "  printf(\"constant %s %%d\\n\", (int)%s);\n", $2, $2; next }
  { line = $0; gsub(/\/\*.*\*\//, "", line) }
  line ~ /^enum |^  DSV4_|^typedef enum/ {
    while (match(line, /DSV4_[A-Z0-9_]+ = [0-9]+/)) {
      split(substr(line, RSTART, RLENGTH), part, " ")
      printf "  printf(\"constant %s %%d\\n\", (int)%s);\n", part[1], part[1]
      line = substr(line, RSTART + RLENGTH)
    }
    next
  }
  line ~ /^typedef struct dsv4_[a-z0-9_]+ \{/ {
    name = $3
    printf "  printf(\"struct %s size %%zu align %%zu\\n\", sizeof(%s), _Alignof(%s));\n", name, name, name
    inside = 1; next
  }
  inside && /^}/ { inside = 0; next }
  inside && line !~ /^ *$/ {
    if (!match(line, /[a-z0-9_]+(\[[A-Z0-9_]+\])?;/)) { printf "#error %s\n", line; next }
    field = substr(line, RSTART, RLENGTH - 1); type = substr(line, 1, RSTART - 1)
    gsub(/^ +| +$/, "", type)
    sub(/\[.*/, "", field)
    printf "  printf(\"  %s %%zu size %%zu %s\\n\", offsetof(%s, %s), sizeof(((%s*)0)->%s));\n", field, type, name, field, name, field
    next
  }
  /^DSV4_C / {
    text = $0
    while (text !~ /;/) { getline; text = text " " $0 }
    gsub(/ +/, " ", text); sub(/^DSV4_C /, "", text); sub(/;.*/, "", text)
    printf "  puts(\"function %s\");\n", text
  }
' "$header" >"$work/statements"
{
  printf '#include <dsv4/dsv4.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {\n'
  cat "$work/statements"
  printf '  return 0;\n}\n'
} >"$work/abi.c"
"$cc" -std=c11 -Wall -Wextra -pedantic -Werror -I"$(dirname "$header")/.." "$work/abi.c" -o "$work/abi"
"$work/abi" >"$work/abi.txt"

if [[ -z "$table" ]]; then
  cat "$work/abi.txt"
elif ! diff -U 3 "$table" "$work/abi.txt"; then
  cat <<EXPLAIN
abi: $header is not what $table says.
Lines with + at the end of a struct, and new functions, constants and structs, are additions: add them to the table
  $0 $cc $header >$table
Any other line breaks programs that are compiled: take it back, or change DSV4_ABI_VERSION.
EXPLAIN
  exit 1
else
  echo "abi: $(grep -c '^struct' "$table") structs, $(grep -c '^function' "$table") functions and $(grep -c '^constant' "$table") constants as they were"
fi
