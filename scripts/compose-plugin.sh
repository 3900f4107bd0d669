#!/usr/bin/env bash
# Prints the path of a docker compose plugin that works.
# By hand:  plugin=$(scripts/compose-plugin.sh)
# A plugin of the machine (2.24 or newer) is used as it is. Else, on Debian, the
# plugin of Debian 13 is fetched, checked by apt as every package is. Else the newest is built from its Go module. Both
# once, into ${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/compose/VERSION/docker-compose.
# Progress goes to stderr. VALISE_COMPOSE=build takes the newest at once, VALISE_COMPOSE=/FILE that one.
#   scripts/compose-plugin.sh v2.10.2 ...    prints the paths of those versions, each built from its module once
set -euo pipefail

newest=v5.5.1 # newer ones need a newer Go than go.mod asks for
cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/compose

fail() { echo "compose-plugin: $*" >&2; exit 1; }

# recent_enough FILE: is it a compose plugin, version 2.24 or newer?
recent_enough() {
  local found major minor
  found=$("$1" version --short 2>/dev/null) || return 1
  IFS=.- read -r major minor _ <<<"${found#v}"
  [[ $major =~ ^[0-9]+$ && $minor =~ ^[0-9]+$ ]] || return 1
  ((major > 2 || (major == 2 && minor >= 24)))
}

work=''
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

# alone: of two callers one makes what is missing, the other waits for the result.
alone() {
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
}

# build VERSION: that version, from the source in its module, whose go.mod replaces what it needs replaced.
build() {
  local version=$1 binary=$cache/$1/docker-compose module=github.com/docker/compose/${1%%.*} source
  [ ! -x "$binary" ] || return 0
  command -v go >/dev/null || fail "cannot build docker compose $version: Go is missing; install it or the docker-compose-plugin package"
  work=$(mktemp -d "$cache/work.XXXXXX")
  echo "compose-plugin: building docker compose $version, this takes some minutes once" >&2
  (
    cd "$work"
    export CGO_ENABLED=0 GOWORK=off
    # It is compiled in two thirds of the time without inlining and debug information.
    export GOFLAGS="-buildvcs=false -mod=mod -trimpath '-gcflags=all=-dwarf=false -l'"
    unset GOOS GOARCH
    go mod download -json "$module@$version" >found.json || { cat found.json; exit 1; } # which says why
    source=$(sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' found.json)
    cp -r --no-preserve=mode "$source" source && cd source &&
      go build -ldflags "-s -w -X $module/internal.Version=$version" -o "$work/docker-compose" ./cmd
  ) >"$work/log" 2>&1 9>&- || {
    tail -n 15 "$work/log" >&2
    fail "cannot build docker compose $version (output above); check that Go reaches its module proxy, or install the docker-compose-plugin package"
  }
  mkdir -p "${binary%/*}"
  mv "$work/docker-compose" "$binary"
  rm -rf "$work"
}

# debian FILE: the plugin of Debian 13, whatever release this machine has; apt's own state is left alone.
debian() {
  local uri
  # shellcheck disable=SC2016 # for apt
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 2>/dev/null | head -n 1)
  [ -n "$uri" ] || uri=http://deb.debian.org/debian
  work=$(mktemp -d "$cache/work.XXXXXX")
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri trixie main" >"$work/sources.list"
  (
    cd "$work"
    apt=(apt-get -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$work/lists"
      -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::http::Timeout=20 -o Acquire::Retries=1 -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
    "${apt[@]}" update && "${apt[@]}" download docker-compose && dpkg-deb -x docker-compose_*.deb .
  ) >&2 && recent_enough "$work/usr/libexec/docker/cli-plugins/docker-compose" &&
    mkdir -p "${1%/*}" && mv "$work/usr/libexec/docker/cli-plugins/docker-compose" "$1"
  rm -rf "$work"
  [ -x "$1" ]
}

if [ $# -gt 0 ]; then
  alone
  for version; do
    build "$version"
    echo "$cache/$version/docker-compose"
  done
  exit
fi

if [[ ${VALISE_COMPOSE:-} == /* ]]; then
  echo "$VALISE_COMPOSE"
  exit 0
fi

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

alone
binary=$cache/debian-13/docker-compose
# shellcheck source=/dev/null
if [ "${VALISE_COMPOSE:-}" = build ]; then
  binary=$cache/$newest/docker-compose
elif [ ! -x "$binary" ] && [ "$(. /etc/os-release && echo "$ID")" = debian ]; then
  debian "$binary" || echo "compose-plugin: no plugin from Debian's mirror (above)" >&2
fi
if [ ! -x "$binary" ] || ! recent_enough "$binary"; then
  build "$newest"
  binary=$cache/$newest/docker-compose
fi
recent_enough "$binary" || fail "$binary does not run; delete it and run this script again"
echo "$binary"
