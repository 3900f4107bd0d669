#!/usr/bin/env bash
# Builds the cloud for both platforms, so that `valise build VERSION` finds everything that valise.yaml names.
# By hand:  examples/cloud/build.sh
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
export CGO_ENABLED=0 GOOS=linux GOARCH
for platform in amd64:x86_64-linux arm64:aarch64-linux; do
  GOARCH=${platform%:*}
  mkdir -p "build/${platform#*:}" "build/installer/linux-$GOARCH"
  go build -trimpath -buildvcs=false -o "build/${platform#*:}/cloud" -ldflags "-s -w -buildid=" ./cmd
  go build -trimpath -buildvcs=false -tags grpcnotrace -o "build/installer/linux-$GOARCH/" -ldflags "-s -w -buildid=" \
    github.com/valise-ota/valise/cmd/valise-installer
done
echo "cloud is in $PWD/build" >&2
