#!/usr/bin/env bash
# Builds the registry of the distribution project from its Go module, once, and prints where it is.
# By hand:  scripts/distribution.sh
set -euo pipefail
version=v3.1.2
cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}
dir=$(realpath -m -- "$cache")/distribution-$version
if [ ! -x "$dir/registry" ]; then
  mkdir -p "$dir"
  CGO_ENABLED=0 GOFLAGS='' GOBIN="$dir" go install "github.com/distribution/distribution/v3/cmd/registry@$version" >&2
fi
echo "$dir/registry"
