#!/bin/sh
# Dumps what two engines computed, one right and one with a mistake, and has dsv4_validate judge both.
#     run.sh ENGINE DSV4_VALIDATE WEIGHTS.safetensors
set -eu
engine=$1 validate=$2 weights=$3
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$engine" "$weights" "$folder/right.safetensors"
"$engine" "$weights" "$folder/wrong.safetensors" --mistake

echo "== the engine as it should be"
"$validate" --weights "$weights" --recording "$folder/right.safetensors" | tail -n 2

# From the tokens on, everything behind a mistake is wrong. Staged, each stage computes from the inputs that
# the engine recorded, so that only the one at fault fails: the streams after the attention half.
echo "== with a mistake, stage by stage"
status=0
"$validate" --weights "$weights" --recording "$folder/wrong.safetensors" --mode staged >"$folder/table" || status=$?
grep -E '^tap |FAIL|hc_attn|attn.out' "$folder/table"
[ "$status" -eq 1 ]
