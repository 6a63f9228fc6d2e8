#!/bin/sh
# run.sh LIBRARY WORK: compiles main.rs against LIBRARY (.../libNAME.so*) in the folder WORK, and runs it. 77: no rustc.
set -eu
if ! command -v rustc >/dev/null; then
  echo "skipped: there is no rustc"
  exit 77
fi
folder="$(dirname "$1")"
name="$(basename "$1")"
name="${name%%.so*}"
mkdir -p "$2"
rustc --edition 2021 -O -D warnings "$(dirname "$0")/main.rs" -o "$2/main" \
  -L "native=$folder" -l "dylib=${name#lib}" -C "link-arg=-Wl,-rpath,$folder"
"$2/main"
