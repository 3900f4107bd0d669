#!/usr/bin/env bash
# Prints the path of a docker compose plugin that works.
# By hand:  plugin=$(scripts/compose-plugin.sh)
# A plugin of the machine (2.24 or newer) is used as it is. Else, on Debian, the
# plugin of Debian 13 is fetched, checked by apt as every package is. Else the newest is built from its Go module. Both
# once, into ${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/compose/VERSION/docker-compose.
# Progress goes to stderr. VALISE_COMPOSE=build takes the newest at once, VALISE_COMPOSE=/FILE that one.
#   scripts/compose-plugin.sh v2.10.2 ...    prints the paths of those versions, each built from its module once
set -euo pipefail

version=v5.5.1 # newer ones need a newer Go than go.mod asks for
cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/compose

fail() { echo "compose-plugin: $*" >&2; exit 1; }

# older VERSION: builds a version before 5 from the source in its module, whose go.mod replaces what it needs replaced.
older() {
  local version=$1 cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/compose/$1 source work
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  if [ ! -x "$cache/docker-compose" ]; then
    work=$(mktemp -d)
    echo "compose-plugin: building docker compose $version, this takes some minutes once" >&2
    if ! {
      source=$(cd "$work" && go mod download -json "github.com/docker/compose/v2@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') &&
        cp -r --no-preserve=mode "$source" "$work/source" && cd "$work/source" &&
        env -u GOOS -u GOARCH CGO_ENABLED=0 GOWORK=off GOFLAGS="-buildvcs=false -mod=mod -trimpath '-gcflags=all=-dwarf=false -l'" \
          go build -ldflags "-s -w -X github.com/docker/compose/v2/internal.Version=$version" -o "$work/docker-compose" ./cmd
    } >"$work/log" 2>&1 9>&-; then
      tail -n 15 "$work/log" >&2
      rm -rf "$work"
      fail "cannot build docker compose $version (output above); check that Go reaches its module proxy"
    fi
    mv "$work/docker-compose" "$cache/docker-compose"
    rm -rf "$work"
  fi
  flock -u 9
  echo "$cache/docker-compose"
}

if [ $# -gt 0 ]; then
  for wanted; do (older "$wanted"); done
  exit
fi

# recent_enough FILE: is it a compose plugin, version 2.24 or newer?
recent_enough() {
  local found major minor
  found=$("$1" version --short 2>/dev/null) || return 1
  IFS=.- read -r major minor _ <<<"${found#v}"
  [[ $major =~ ^[0-9]+$ && $minor =~ ^[0-9]+$ ]] || return 1
  ((major > 2 || (major == 2 && minor >= 24)))
}

if [[ ${VALISE_COMPOSE:-} == /* ]]; then
  echo "$VALISE_COMPOSE"
  exit 0
fi

work=''
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

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
    mv "$work/usr/libexec/docker/cli-plugins/docker-compose" "$1"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # two callers: one makes it, the other waits for the result

if [ "${VALISE_COMPOSE:-}" != build ]; then
  for directory in "${DOCKER_CONFIG:-$HOME/.docker}" \
    /usr/local/lib/docker /usr/local/libexec/docker /usr/lib/docker /usr/libexec/docker; do
    candidate=$directory/cli-plugins/docker-compose
    if [ -x "$candidate" ] && recent_enough "$candidate"; then
      readlink -f "$candidate"
      exit 0
    fi
  done
  binary=$cache/debian-13/docker-compose
  # shellcheck source=/dev/null
  if [ "$(. /etc/os-release && echo "$ID")" = debian ] && [ ! -x "$binary" ]; then
    mkdir -p "${binary%/*}"
    debian "$binary" || echo "compose-plugin: no plugin from Debian's mirror (above)" >&2
  fi
  if [ -x "$binary" ] && recent_enough "$binary"; then
    echo "$binary"
    exit 0
  fi
fi

binary=$cache/$version/docker-compose
if [ ! -x "$binary" ]; then
  command -v go >/dev/null || fail "cannot build docker compose $version: Go is missing; install it or the docker-compose-plugin package"
  mkdir -p "${binary%/*}"
  work=$(mktemp -d "$cache/work.XXXXXX")
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
      -o docker-compose github.com/docker/compose/v5/cmd
  ) >"$work/log" 2>&1 9>&- || {
    tail -n 15 "$work/log" >&2
    fail "cannot build docker compose $version (output above); check that Go reaches its module proxy, or install the docker-compose-plugin package"
  }
  mv "$work/docker-compose" "$binary"
fi

recent_enough "$binary" || fail "$binary does not run; delete it and run this script again"
echo "$binary"
