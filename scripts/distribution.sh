#!/usr/bin/env bash
# Prints where the registry of the distribution project is: built from its Go module, once; with "debian", Debian's
# docker-registry, which is an older one, unpacked and not installed.
# By hand:  scripts/distribution.sh [debian]
set -euo pipefail
version=v3.1.2
cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}
if [ "${1:-}" = debian ]; then
  dir=$(realpath -m -- "$cache")/docker-registry
  if [ ! -x "$dir/usr/bin/docker-registry" ]; then
    mkdir -p "$dir"
    [ -n "$(ls /var/lib/apt/lists/*_Packages* 2>/dev/null)" ] || apt-get update -qq >&2
    (cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download docker-registry >&2 && dpkg -x docker-registry_*.deb .)
  fi
  echo "$dir/usr/bin/docker-registry"
  exit
fi
dir=$(realpath -m -- "$cache")/distribution-$version
if [ ! -x "$dir/registry" ]; then
  mkdir -p "$dir"
  CGO_ENABLED=0 GOFLAGS='' GOBIN="$dir" go install "github.com/distribution/distribution/v3/cmd/registry@$version" >&2
fi
echo "$dir/registry"
