#!/usr/bin/env bash
# Makes a layout with one layer, MariaDB from Debian packages (scripts/mariadb.txt), once, in
# ${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/mariadb/KEY, and prints that directory. A test puts the layer on
# the sample image base.
# By hand:  layout=$(scripts/mariadb-image.sh)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
key=$(cat scripts/mariadb.txt scripts/debimage/*.go ${VALISE_DEBIAN_SOURCES:+"$VALISE_DEBIAN_SOURCES"} | sha256sum | cut -c1-16)
cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/mariadb
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ ! -d "$cache/$key" ]; then
  echo "mariadb-image: making it from Debian packages, this takes a minute once" >&2
  work=$(mktemp -d "$cache/.tmp.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  GOOS='' GOARCH='' go run ./scripts/debimage -out "$work" -images scripts/mariadb.txt -sources "${VALISE_DEBIAN_SOURCES:-}" >&2 9>&-
  chmod 0755 "$work"
  mv "$work" "$cache/$key"
fi
echo "$cache/$key"
