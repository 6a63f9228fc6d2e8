#!/usr/bin/env bash
# From a clean Debian to every example in minutes: the .deb, installed where nothing else is.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'USAGE'
usage: tools/package_check.sh [--deb FILE] [--fresh] [--limit MINUTES]

Builds the Debian package (preset package), makes a clean Debian of this machine's release in
build/package_check (debootstrap; kept, and copied for each run), and in it
  installs the package, a compiler, CMake and what the examples' languages need, with apt,
  configures, builds and runs every example, as shipped in the package.
Prints how long each step took. What follows the clean Debian may take 10 minutes (--limit).
  --deb    a package that is built already
  --fresh  make the clean Debian anew

Needs root, a Debian, and its mirror. Not part of the tests.
Exit: 0 all examples ran in time, 1 they did not, 2 could not run.
USAGE
}

deb='' fresh=0 limit=10
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --deb) [[ -r "${2:-}" ]] || die "--deb needs a file"
      deb="$(realpath "$2")" && shift 2 ;;
    --fresh) fresh=1 && shift ;;
    --limit) [[ "${2:-}" =~ ^[1-9][0-9]*$ ]] || die "--limit needs a number of minutes"
      limit="$2" && shift 2 ;;
    *) usage >&2 && exit 2 ;;
  esac
done
[[ "$(id -u)" -eq 0 ]] || die "package_check: a clean Debian is made and entered as root"
# shellcheck disable=SC1091
suite="$(. /etc/os-release && [[ "${ID:-}" == debian ]] && echo "${VERSION_CODENAME:-}")" || true
[[ -n "$suite" ]] && command -v apt-get >/dev/null || die "package_check: this is not a Debian"
cd "$DSV4_ROOT"
work="$DSV4_ROOT/build/package_check"
base="$work/$suite" root="$work/root" log="$work/log.txt"
mkdir -p "$work"
: >"$log"

times=() failure=2 # exit code of a step that fails: first that of what could not be tried, later that of the examples
# timed NAME COMMAND...: runs it, its output in the log, and notes how long it took.
timed() {
  local name="$1" began=$SECONDS
  shift
  step "$name"
  if ! "$@" >>"$log" 2>&1; then
    tail -n 30 "$log"
    echo "FAIL: $name (all that was printed: $log)"
    exit "$failure"
  fi
  times+=("$(printf '%-34s %2d:%02d' "$name" $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)))")
}

# mirror: prints the archive that this machine's apt uses for its release.
mirror() {
  local uri
  uri="$(apt-get indextargets --format '$(RELEASE) $(CREATED_BY) $(REPO_URI)' 2>/dev/null |
    awk -v suite="$suite" '$1 == suite && $2 == "Packages" { print $3; exit }')"
  echo "${uri:-http://deb.debian.org/debian}"
}

build_package() {
  rm -f build/package/*.deb
  cmake --preset package && cmake --build --preset package && cpack --preset package -G DEB
}

make_base() {
  rm -rf "$base" "$base.new"
  debootstrap --variant=minbase "$suite" "$base.new" "$(mirror)" && mv "$base.new" "$base"
}

leave() { mountpoint -q "$root/proc" && umount "$root/proc" || true; }
trap leave EXIT

copy_base() {
  leave
  rm -rf "$root" && cp -a --reflink=auto "$base" "$root"
  cp /etc/resolv.conf "$root/etc/resolv.conf"
  cp "$deb" "$root/root/dsv4.deb"
  mount -t proc proc "$root/proc"
}

inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive \
  ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} "$@"; }

# What a user types, and no more.
install_package() {
  inside apt-get update && inside apt-get install -y --no-install-recommends \
    /root/dsv4.deb g++ cmake make pkg-config python3-numpy rustc
}
configure_examples() { inside cmake -S /usr/share/dsv4/examples -B /root/examples; }
build_examples() { inside cmake --build /root/examples -j "$DSV4_JOBS"; }
run_examples() { inside ctest --test-dir /root/examples --output-on-failure --no-tests=error; }

if ! command -v debootstrap >/dev/null; then
  timed "Installing debootstrap" apt-get install -y -qq --no-install-recommends debootstrap
fi
if [[ -z "$deb" ]]; then
  require build
  command -v dpkg-shlibdeps >/dev/null || timed "Installing dpkg-dev" apt-get install -y -qq --no-install-recommends dpkg-dev
  timed "Building the package" build_package
  deb="$(echo "$DSV4_ROOT"/build/package/*.deb)"
fi
[[ $fresh -eq 0 && -d "$base" ]] || timed "Making a clean Debian ($suite)" make_base
timed "Copying the clean Debian" copy_base
began=$SECONDS failure=1
timed "Installing the package" install_package
timed "Configuring the examples" configure_examples
timed "Building the examples" build_examples
timed "Running the examples" run_examples
took=$((SECONDS - began))

echo
grep -E '^ *[0-9]+/[0-9]+ Test|tests passed' "$log"
echo
printf '%s\n' "${times[@]}"
printf '%-34s %2d:%02d of %d:00\n' 'from the clean Debian' $((took / 60)) $((took % 60)) "$limit"
echo "package: $(basename "$deb"), $(($(stat -c %s "$deb") / 1024)) KiB"
if ((took > limit * 60)); then
  echo "FAIL: the examples ran, but it took more than $limit minutes"
  exit 1
fi
echo "PASS: every example was built and run from the installed package, or skipped for the reason above"
