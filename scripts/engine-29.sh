#!/usr/bin/env bash
# Prints a directory with Docker engine 29, its containerd and runc, and builds them first, once, from their Go modules:
# some minutes and 3 GB of build cache the first time. For the tests on every engine (make e2e-engines).
# By hand:  VALISE_DOCKERD=$(scripts/engine-29.sh)/dockerd PATH=$(scripts/engine-29.sh):$PATH scripts/engine.sh up DIR
# Kept in ${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/engine/KEY; KEY changes with this file.
set -euo pipefail

moby=v2.0.0-beta.24 containerd=v2.4.2 runc=v1.5.2 # runc: Debian's 1.1 cannot run containers of engine 29

fail() { echo "engine-29: $*" >&2; exit 1; }

cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/engine
out=$cache/$(sha256sum "${BASH_SOURCE[0]}" | cut -c1-16)
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # two callers: one builds, the other waits for the result

# build NAME PACKAGE@VERSION [FLAGS]: each program in a module of its own, so that none decides another's dependencies.
build() {
  local name=$1 package=${2%@*}
  echo "engine-29: building $name ${2##*@}" >&2
  mkdir "$work/$name"
  (
    cd "$work/$name"
    export GOFLAGS="-buildvcs=false -mod=mod" GOWORK=off
    unset GOOS GOARCH
    go mod init local/engine
    go get "$2"
    go build -trimpath -o "$work/bin/$name" "${@:3}" "$package"
  ) >"$work/log" 2>&1 9>&- || {
    tail -n 15 "$work/log" >&2
    fail "cannot build $name (output above); check that Go reaches its module proxy"
  }
}

if [ ! -d "$out" ]; then
  command -v go >/dev/null || fail "Go is missing; install the version that go.mod names and put it in PATH"
  if ! dpkg-query -W libseccomp-dev gcc libc6-dev pkg-config >/dev/null 2>&1; then
    DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends libseccomp-dev gcc libc6-dev pkg-config >&2 ||
      fail "apt-get could not install what runc needs: libseccomp-dev gcc libc6-dev pkg-config; run scripts/setup.sh first"
  fi
  work=$(mktemp -d "$cache/.tmp.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/bin"
  strip="-s -w"
  CGO_ENABLED=0 build dockerd "github.com/moby/moby/v2/cmd/dockerd@$moby" -tags "exclude_graphdriver_btrfs no_systemd" \
    -ldflags "$strip -X github.com/moby/moby/v2/dockerversion.Version=29.0-${moby#*-}"
  CGO_ENABLED=0 build docker-proxy "github.com/moby/moby/v2/cmd/docker-proxy@$moby" -ldflags "$strip"
  CGO_ENABLED=0 build containerd "github.com/containerd/containerd/v2/cmd/containerd@$containerd" \
    -tags "no_btrfs no_zfs no_aufs no_devmapper no_cri" -ldflags "$strip"
  CGO_ENABLED=0 build containerd-shim-runc-v2 "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@$containerd" -ldflags "$strip"
  CGO_ENABLED=1 build runc "github.com/opencontainers/runc@$runc" -tags "seccomp netgo osusergo" -ldflags "$strip -extldflags -static"
  mv "$work/bin" "$out"
fi
echo "$out"
