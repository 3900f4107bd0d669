#!/usr/bin/env bash
# Builds the installers of all device platforms, and prints what is linked into valise, which takes them and no others
# into bundles:  PLATFORM=SHA256,...
# By hand:  scripts/installers.sh DIR [VERSION]     DIR/PLATFORM/valise-installer; VERSION as in a release, without v
# A release has them of goreleaser, with the same flags: make release-check compares.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

[ $# -ge 1 ] || { echo "usage: installers.sh DIR [VERSION]" >&2; exit 64; }
mkdir -p "$1"
dir=$(cd "$1" && pwd -P) flags=()
# Without the tag, gRPC brings templates, and with them every exported method: docs/size.md.
# The build ID says which version it is: valise inspect reads it.
ldflags="-s -w -buildid=${2:-}"
if [ -n "${2:-}" ]; then
  flags=(-buildvcs=false)
  ldflags+=" -X github.com/valise-ota/valise/cmd/internal/cli.version=$2"
fi
list=
for platform in linux-amd64 linux-arm64 linux-arm-v7; do
  file=$dir/$platform/valise-installer
  arch=${platform#linux-}
  (cd "$root" && CGO_ENABLED=0 GOOS=linux GOARCH=${arch%-v7} GOARM=7 GOFLAGS='' GOWORK=off \
    go build -tags grpcnotrace -trimpath "${flags[@]}" -ldflags "$ldflags" -o "$file" ./cmd/valise-installer)
  list+=,$platform=$(sha256sum "$file" | cut -d' ' -f1)
done
echo "${list#,}"
