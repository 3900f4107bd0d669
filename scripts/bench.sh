#!/usr/bin/env bash
# Measures valise beside crane, skopeo, openssl and docker save, and prints tables.
# By hand, as root:  scripts/bench.sh [-doc docs/benchmarks.md] [-only REGEXP] [-rounds N] [-json FILE]
# -doc writes the tables into that page, appends rows to docs/benchmarks/bench.jsonl, draws docs/images/benchmarks.svg, prints the
# comparison with the commit before, and fails when a ratio is worse by more than 10 %.
# What it needs is installed, built or made once, into ${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}: crane
# from its Go module, and images of 1.2 GB from Debian packages (as for scripts/sample-images.sh, see there for
# VALISE_DEBIAN_SOURCES). Scratch files are below ${TMPDIR:-/tmp}, at most 8 GB: that disk is measured.
# VALISE_BENCH_VALISE names another valise to measure than the one of this tree. VALISE_BENCH_ENGINE=none leaves
# docker save out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

read -r load </proc/loadavg
crane_version=v0.22.1 # the version of its library in go.mod
cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}
crane=$cache/crane/$crane_version/crane

fail() { echo "bench: $*" >&2; exit 1; }

[ "$(id -u)" -eq 0 ] || fail "run it as root: it installs packages and starts a Docker engine"

# install PACKAGE...: those that are missing.
install() {
  local package missing=()
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update >&2 || echo "bench: apt-get update reported errors, going on" >&2
  apt-get -q install -y --no-install-recommends "${missing[@]}" >&2 ||
    fail "apt-get could not install: ${missing[*]}; check the machine's apt sources and its network, then run this script again"
}

# make_images: prints the directory of the images, which are made once.
make_images() {
  local key images work
  key=$(
    {
      cat scripts/bench/images.txt scripts/debimage/*.go
      [ -z "${VALISE_DEBIAN_SOURCES:-}" ] || cat "$VALISE_DEBIAN_SOURCES"
    } | sha256sum | cut -c1-16
  )
  images=$cache/bench/$key
  if [ ! -d "$images" ]; then
    echo "bench: making the images from Debian packages, this takes some minutes once" >&2
    work=$(mktemp -d "$cache/bench/.tmp.XXXXXX")
    GOOS='' GOARCH='' go run ./scripts/debimage -out "$work" -images scripts/bench/images.txt \
      -sources "${VALISE_DEBIAN_SOURCES:-}" >&2 9>&- || { rm -rf "$work"; fail "cannot make the images (see above)"; }
    chmod 0755 "$work"
    mv "$work" "$images"
  fi
  echo "$images"
}

scripts/setup.sh
install skopeo openssl time util-linux

mkdir -p "$cache/bench" "$(dirname "$crane")"
exec 9>"$cache/bench/lock"
flock -n 9 || fail "another run measures: two at a time measure each other"

if [ ! -x "$crane" ]; then
  echo "bench: building crane $crane_version" >&2
  (
    cd /
    CGO_ENABLED=0 GOBIN=$(dirname "$crane") GOFLAGS=-buildvcs=false GOWORK=off GOOS='' GOARCH='' \
      go install -trimpath -ldflags "-s -w" "github.com/google/go-containerregistry/cmd/crane@$crane_version" >&2 9>&-
  ) || fail "cannot build crane (see above); check that Go reaches its module proxy"
fi
images=$(make_images)
[ "${1:-}" != -images ] || { echo "$images"; exit 0; } # for scripts/bench-device.sh

dir=$(mktemp -d "${TMPDIR:-/tmp}/valise-bench.XXXXXX")
trap 'scripts/engine.sh down "$dir/engine" >&2 || true; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM

if [ -n "${VALISE_BENCH_VALISE:-}" ]; then
  valise=$(realpath "$VALISE_BENCH_VALISE") source=$VALISE_BENCH_VALISE
else
  valise=$dir/valise source="commit $(git rev-parse --short HEAD)"
  git diff --quiet HEAD -- bundle cmd verify go.mod || source+=" with changes"
  CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -buildid=" -o "$valise" ./cmd/valise
fi
go build -trimpath -o "$dir/bench" ./scripts/bench

engine=()
if [ "${VALISE_BENCH_ENGINE:-}" != none ]; then
  VALISE_ENGINE_NET=private scripts/engine.sh up "$dir/engine" >"$dir/env"
  # shellcheck source=/dev/null
  . "$dir/env"
  engine=(-engine "$DOCKER_HOST" -engine-pid "$(cat "$dir/engine/docker.pid")")
fi

mkdir "$dir/work"
"$dir/bench" -work "$dir/work" -images "$images" -valise "$valise" -source "$source" -load "$load" -crane "$crane" "${engine[@]}" "$@" 9>&-
