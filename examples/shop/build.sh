#!/usr/bin/env bash
# Builds the shop for both platforms, so that `valise build VERSION` finds everything that valise.yaml names.
# SHOP_ARCH=amd64 builds for that one only.
# By hand:  examples/shop/build.sh VERSION [--broken]
# --broken makes a release whose /health never says ok: what the demo rolls back from.
# The same sources and version give the same bytes; only the backend contains the version.
set -euo pipefail

usage() { echo "usage: build.sh VERSION [--broken]" >&2; exit 64; }
[[ ${1:-} =~ ^[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?$ ]] || usage
version=$1
case ${2:-} in
'') broken= ;;
--broken) broken=yes ;;
*) usage ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck disable=SC2086 # one word or none
images=$(../../scripts/sample-images.sh ${SHOP_ARCH:-})
mkdir -p build/images
ln -sfn "$images/base" build/images/base
ln -sfn "$images/postgres" build/images/postgres

export CGO_ENABLED=0 GOOS=linux GOARCH
for GOARCH in ${SHOP_ARCH:-amd64 arm64}; do
  out=build/$GOOS-$GOARCH/
  mkdir -p "$out"
  go build -trimpath -buildvcs=false -o "$out" \
    -ldflags "-s -w -X main.version=$version -X main.broken=$broken" ./backend
  go build -trimpath -buildvcs=false -o "$out" -ldflags "-s -w" ./frontend
  mkdir -p "build/installer/$GOOS-$GOARCH"
  go build -trimpath -buildvcs=false -tags grpcnotrace -o "build/installer/$GOOS-$GOARCH/" -ldflags "-s -w" \
    github.com/valise-ota/valise/cmd/valise-installer
done
echo "shop $version${broken:+ (broken)} is in $PWD/build" >&2
