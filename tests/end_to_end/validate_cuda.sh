#!/usr/bin/env bash
# dsv4_validate --backend cuda: on a GPU every deploy recording holds, staged and free, fused or not; where there is
# no GPU the program says so in one line and exits with 2.
# usage: validate_cuda.sh DSV4_VALIDATE FOLDER_OF_RECORDINGS
set -euo pipefail
validate="$1" data="$2"

run() {
  "$validate" --backend cuda --weights "$data/tiny-deploy.weights.safetensors" \
    --recording "$data/tiny-deploy.recording.safetensors" "$@" 2>&1
}

status=0
out="$(run)" || status=$?
if [[ ! -e /dev/nvidiactl ]]; then
  echo "$out"
  [[ $status -eq 2 && "$(wc -l <<<"$out")" -eq 1 && "$out" == "dsv4_validate: --backend cuda: "* ]] && exit 0
  echo "no GPU here: expected one line and exit code 2, got $status"
  exit 1
fi
for mode in staged free; do
  for fused in "" --fused; do
    echo "== --mode $mode $fused"
    # shellcheck disable=SC2086
    run --mode "$mode" $fused | tail -n 1
  done
done
