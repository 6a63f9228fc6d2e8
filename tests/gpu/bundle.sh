#!/usr/bin/env bash
# What tools/gpu_check.sh --prepare packs is enough for a machine with nothing but a toolkit: it unpacks, configures,
# and says so where there is no GPU. usage: bundle.sh SOURCE WORK_FOLDER. Exit: 0 so it is, 1 it is not, 77 not a checkout.
set -euo pipefail
source_dir="$1" work="$2"
fail() { echo "bundle: $*" >&2 && exit 1; }
git -C "$source_dir" rev-parse --git-dir >/dev/null 2>&1 || { echo "not a git checkout" && exit 77; }

rm -rf "$work" && mkdir -p "$work" && cd "$work"
# Without an index pip brings nothing: the bundle must be made all the same.
PIP_NO_INDEX=1 "$source_dir/tools/gpu_check.sh" --prepare "$work/bundle.tar.gz" >prepare.log 2>&1 || fail "$(cat prepare.log)"
tar -xzf bundle.tar.gz || fail "the bundle does not unpack"
[[ -z "$(find dsv4 -name '*.safetensors')" ]] || fail "recordings are packed along"
cmake -S dsv4 -B build -DDSV4_CUDA=OFF -DDSV4_BUILD_REFERENCE=OFF -DDSV4_BUILD_TESTS=OFF >configure.log 2>&1 ||
  fail "$(tail -n 20 configure.log)"
if ! nvidia-smi -L >/dev/null 2>&1; then
  said="$(dsv4/tools/gpu_check.sh)" || fail "exit $? where there is no GPU: $said"
  [[ "$said" == *'no GPU here'* ]] || fail "where there is no GPU it says: $said"
fi
echo "bundle: $(stat -c %s bundle.tar.gz) bytes, configures"
