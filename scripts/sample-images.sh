#!/usr/bin/env bash
# Makes the sample images base/ and postgres/ (multi-arch OCI layouts, see scripts/debimage) once, in
# ${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/sample-images/KEY, and prints that directory.
# By hand:  images=$(scripts/sample-images.sh [amd64|arm64])     for that platform at least; without it, for both
# KEY changes with the program. Delete the directory to get newer Debian packages.
# The packages are those of Debian 12, which a newer Debian finds by itself. On another system, VALISE_DEBIAN_SOURCES
# names an apt sources file (.list or .sources, with its keyring) of a Debian 12 mirror.
set -euo pipefail

fail() { echo "sample-images: $*" >&2; exit 1; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
key=$(
  {
    cat scripts/debimage/*.go scripts/debimage/*.sh
    [ -z "${VALISE_DEBIAN_SOURCES:-}" ] || cat "$VALISE_DEBIAN_SOURCES"
  } | sha256sum | cut -c1-16
)
cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/sample-images
images=$cache/$key
if [ -n "${1:-}" ] && [ ! -d "$images" ]; then images=$images-$1; fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # two callers: one builds, the other waits for the result

if [ ! -d "$images" ]; then
  command -v apt-get >/dev/null || fail "apt-get is missing: run this on Debian or Ubuntu"
  command -v go >/dev/null || fail "Go is missing; install it and put it in PATH"
  echo "sample-images: making them from Debian packages, this takes a minute once" >&2
  work=$(mktemp -d "$cache/.tmp.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  GOOS='' GOARCH='' go run ./scripts/debimage -out "$work" -arch "${1:-}" -sources "${VALISE_DEBIAN_SOURCES:-}" >&2 9>&- ||
    fail "cannot make the images (see above)"
  chmod 0755 "$work"
  mv "$work" "$images"
fi
echo "$images"
