#!/usr/bin/env bash
# Writes what the packages of a version have besides programs into a directory: manual pages and shell completions of
# both programs, and the installers that bundles carry, with the list of them that is linked into valise.
# By hand:  scripts/release-files.sh DIR VERSION
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ $# -eq 2 ] || { echo "usage: release-files.sh DIR VERSION" >&2; exit 64; }
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH CGO_ENABLED=0
unset GOOS GOARCH GOARM
work=$(mktemp -d /tmp/valise-files.XXXXXX)
trap 'rm -rf "$work"' EXIT
rm -rf "$1"/{man,completion,installer,installers}
mkdir -p "$1/completion"
go build -trimpath -buildvcs=false -o "$work/" ./cmd/valise
go build -trimpath -buildvcs=false -tags man,grpcnotrace -o "$work/" ./cmd/valise-installer
for program in valise valise-installer; do
  mkdir -p "$1/man/$program"
  "$work/$program" man "$1/man/$program"
  for shell in bash zsh fish; do
    "$work/$program" completion "$shell" >"$1/completion/$program.$shell"
  done
done
installers=$(scripts/installers.sh "$1/installer" "$2")
printf %s "$installers" >"$1/installers"
