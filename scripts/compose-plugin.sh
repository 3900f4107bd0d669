#!/usr/bin/env bash
# Prints the path of a docker compose plugin that works, and builds one first when there is none.
# By hand:  plugin=$(scripts/compose-plugin.sh)
# A plugin of the machine (2.24 or newer, the first that knows start_interval) is used as it is.
# Otherwise compose is built from its Go module, once, into
# ${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/compose/VERSION/docker-compose.
# Progress goes to stderr. VALISE_COMPOSE=build ignores the machine's plugin.
set -euo pipefail

version=v5.5.1 # newer ones need a newer Go than go.mod asks for
cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/compose/$version
binary=$cache/docker-compose

fail() { echo "compose-plugin: $*" >&2; exit 1; }

# recent_enough FILE: is it a compose plugin, version 2.24 or newer?
recent_enough() {
  local found major minor
  found=$("$1" version --short 2>/dev/null) || return 1
  IFS=.- read -r major minor _ <<<"${found#v}"
  [[ $major =~ ^[0-9]+$ && $minor =~ ^[0-9]+$ ]] || return 1
  ((major > 2 || (major == 2 && minor >= 24)))
}

if [ "${VALISE_COMPOSE:-}" != build ]; then
  for directory in "${DOCKER_CONFIG:-$HOME/.docker}" \
    /usr/local/lib/docker /usr/local/libexec/docker /usr/lib/docker /usr/libexec/docker; do
    candidate=$directory/cli-plugins/docker-compose
    if [ -x "$candidate" ] && recent_enough "$candidate"; then
      readlink -f "$candidate"
      exit 0
    fi
  done
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # two callers: one builds, the other waits for the result

if [ ! -x "$binary" ]; then
  command -v go >/dev/null || fail "cannot build docker compose $version: Go is missing; install it or the docker-compose-plugin package"
  work=$(mktemp -d)
  trap 'rm -rf "$work" "$binary.tmp"' EXIT
  echo "compose-plugin: building docker compose $version, this takes some minutes once" >&2
  (
    cd "$work"
    export CGO_ENABLED=0 GOWORK=off
    # It is compiled in two thirds of the time without inlining and debug information.
    export GOFLAGS="-buildvcs=false -mod=mod -trimpath '-gcflags=all=-dwarf=false -l'"
    unset GOOS GOARCH
    go mod init local/compose
    go get "github.com/docker/compose/v5/cmd@$version"
    go build -ldflags "-s -w -X github.com/docker/compose/v5/internal.Version=$version" \
      -o "$binary.tmp" github.com/docker/compose/v5/cmd
  ) >"$work/log" 2>&1 9>&- || {
    tail -n 15 "$work/log" >&2
    fail "cannot build docker compose $version (output above); check that Go reaches its module proxy, or install the docker-compose-plugin package"
  }
  mv "$binary.tmp" "$binary"
fi

recent_enough "$binary" || fail "$binary does not run; delete it and run this script again"
echo "$binary"
