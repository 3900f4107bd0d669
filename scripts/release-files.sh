#!/usr/bin/env bash
# Writes the manual pages and shell completions of both programs into a directory, for packages.
# By hand:  scripts/release-files.sh DIR
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ $# -eq 1 ] || { echo "usage: release-files.sh DIR" >&2; exit 64; }
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH CGO_ENABLED=0
unset GOOS GOARCH GOARM
work=$(mktemp -d /tmp/valise-files.XXXXXX)
trap 'rm -rf "$work"' EXIT
rm -rf "$1"/{man,completion}
mkdir -p "$1/completion"
go build -trimpath -buildvcs=false -o "$work/" ./cmd/valise
go build -trimpath -buildvcs=false -tags man -o "$work/" ./cmd/valise-installer
for program in valise valise-installer; do
  mkdir -p "$1/man/$program"
  "$work/$program" man "$1/man/$program"
  for shell in bash zsh fish; do
    "$work/$program" completion "$shell" >"$1/completion/$program.$shell"
  done
done
