#!/usr/bin/env bash
# The dynamic symbols of a C library are the functions that dsv4.h declares, all of them and nothing else; and it needs no
# other library than those named.
set -euo pipefail
export LC_ALL=C
if [[ $# -lt 2 || "$1" == -h || "$1" == --help ]]; then
  echo "usage: $0 LIBRARY DSV4_H [NEEDED...]: NEEDED are the names of shared libraries that it may need, without lib and .so"
  exit 2
fi
library="$1" header="$2"
shift 2
failed=0

exported="$(nm -D --defined-only "$library" | awk '{ print $NF }' | sort)"
declared="$(sed -n 's/^DSV4_C [^(]*\(dsv4_[a-z0-9_]*\)(.*/\1/p' "$header" | sort)"
[[ "$(wc -l <<<"$declared")" -ge 60 ]] || { echo "exports: found only $(wc -l <<<"$declared") functions in $header" && exit 1; }
[[ "$(grep -c '^DSV4_C ' "$header")" -eq "$(wc -l <<<"$declared")" ]] || { echo "exports: a line of $header could not be read" && exit 1; }
if ! difference="$(diff <(echo "$declared") <(echo "$exported"))"; then
  sed -n "s/^< /exports: declared, but not exported: /p; s/^> /exports: exported, but not declared: /p" <<<"$difference"
  failed=1
fi

while read -r needed; do
  known=0
  for name in ld-linux-x86-64 ld-linux-aarch64 c "$@"; do
    [[ "$needed" == "lib$name".so* || "$needed" == "$name".so* ]] && known=1
  done
  [[ $known -eq 1 ]] || { echo "exports: $(basename "$library") needs $needed" && failed=1; }
done < <(readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')

[[ $failed -eq 0 ]] || exit 1
echo "exports: the $(wc -l <<<"$declared") functions of $(basename "$header") and nothing else"
