#!/usr/bin/env bash
# A whole device, from a stick: a Debian without Docker and network gets the sample app, is updated from sticks that are
# pulled out, and loses power in the middle of updates. Then the installers for ARM, under QEMU's user mode.
# By hand, as root:  scripts/e2e-device.sh [GO TEST ARGUMENTS]
#   VALISE_POWER_CUTS=20                        how often power is lost (3)
#   VALISE_POWER_CUTS_DOC=docs/reliability.md   write the table there
# The machine is emulated: about ten minutes, and a minute and a half more per cut, where nothing else runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ "$(id -u)" -eq 0 ] || { echo "e2e-device: run as root" >&2; exit 1; }
VALISE_VM_IMAGE=$(scripts/vm-image.sh)
images=$(scripts/sample-images.sh)
plugin=$(VALISE_COMPOSE=build scripts/compose-plugin.sh)
if ! command -v mcopy >/dev/null || ! command -v qemu-aarch64-static >/dev/null; then
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mtools dosfstools qemu-user-static >&2
fi

work=$(mktemp -d /tmp/valise-device.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir "$work/releases"
cp -r examples/shop "$work/shop"
rm -rf "$work/shop/build"
bin=$work/shop/build/linux-amd64
installer=$work/shop/build/installer/linux-amd64
engine=$work/shop/engine/linux-amd64
mkdir -p "$bin" "$installer" "$engine"
ln -s "$images" "$work/shop/build/images"
cp "$VALISE_VM_IMAGE"/debs/*.deb "$engine"
cp "$plugin" "$engine/docker-compose"
# The engine starts a process for each of its checks: every second is too much on an emulated machine.
sed -i -e 's/interval: 1s/interval: 5s/' -e 's/timeout: 30s/timeout: 60s/' -e 's/retries: [0-9]*/retries: 30/' "$work/shop/compose.yaml"
echo 'engine: engine' >>"$work/shop/valise.yaml"

export CGO_ENABLED=0 GOARCH=amd64 COSIGN_PASSWORD=device SOURCE_DATE_EPOCH=1700000000
go build -trimpath -o "$work/valise" ./cmd/valise
go build -trimpath -ldflags '-s -w -buildid=' -o "$installer" ./cmd/valise-installer
go build -trimpath -o "$work/releases/client" ./scripts/device/client
"$work/valise" keygen "$work/releases/cosign"
for version in 1.0.0 1.1.0 1.2.0; do
  (
    cd examples/shop
    go build -trimpath -buildvcs=false -o "$bin/" -ldflags "-s -w -buildid= -X main.version=$version" ./backend ./frontend
  )
  "$work/valise" build "$version" --project "$work/shop/valise.yaml" --platform linux/amd64 -o "$work/releases/" --progress none
  "$work/valise" sign "$work/releases/shop-$version.tar.gz" --key "$work/releases/cosign.key" --progress none
done
export VALISE_VM_IMAGE VALISE_DEVICE_RELEASES=$work/releases VALISE_DEVICE_TOOL=$work/valise
[ -z "${VALISE_POWER_CUTS_DOC:-}" ] || VALISE_POWER_CUTS_DOC=$(realpath "$VALISE_POWER_CUTS_DOC")
go test -tags device -count=1 -timeout 3h -v "$@" ./scripts/device
[ $# -gt 0 ] || VALISE_TEST_SYSTEMD=1 go test -tags device -count=1 -timeout 40m -v -run TestARM ./cmd/valise-installer
