#!/usr/bin/env bash
# Prints action.pin for a version: what scripts/action.sh downloads. The release build gives the same bytes
# (make release-check), so the commit that is tagged can name the digests of what will be built from it.
# By hand, before tagging:  scripts/pin.sh v1.2.3 >action.pin
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[[ ${1:-} =~ ^v[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?$ ]] || { echo "usage: pin.sh vVERSION" >&2; exit 64; }
dir=$(mktemp -d /tmp/valise-pin.XXXXXX)
trap 'rm -rf "$dir"' EXIT

installers=$(scripts/installers.sh "$dir/installer" "${1#v}")
repository=https://github.com/valise-ota/valise
echo "version $1"
echo "signer $repository/.github/workflows/release.yml@refs/tags/$1"
echo "releases $repository/releases/download"
for arch in amd64 arm64; do
  CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOFLAGS='' go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X github.com/valise-ota/valise/cmd/internal/cli.version=${1#v} -X main.installers=$installers" -o "$dir/valise" ./cmd/valise
  echo "linux-$arch $(sha256sum "$dir/valise" | cut -d' ' -f1)"
done
