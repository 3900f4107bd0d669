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
if ! command -v mcopy >/dev/null || ! command -v qemu-aarch64-static >/dev/null || ! command -v busybox >/dev/null; then
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mtools dosfstools qemu-user-static busybox-static debian-archive-keyring >&2
fi

work=$(mktemp -d /tmp/valise-device.XXXXXX)
server=''
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
mkdir "$work/releases"
cp -r examples/shop "$work/shop"
rm -rf "$work/shop/build"
bin=$work/shop/build/linux-amd64
installer=$work/shop/build/installer/linux-amd64
mkdir -p "$bin" "$installer"
ln -s "$images" "$work/shop/build/images"
# The engine starts a process for each of its checks: every second is too much on an emulated machine.
sed -i -e 's/interval: 1s/interval: 5s/' -e 's/timeout: 30s/timeout: 60s/' -e 's/retries: [0-9]*/retries: 30/' "$work/shop/compose.yaml"

export CGO_ENABLED=0 GOARCH=amd64 COSIGN_PASSWORD=device SOURCE_DATE_EPOCH=1700000000
go build -trimpath -o "$work/valise" ./cmd/valise
go build -tags grpcnotrace -trimpath -ldflags '-s -w -buildid=' -o "$installer" ./cmd/valise-installer
go build -trimpath -o "$work/releases/client" ./scripts/device/client
"$work/valise" keygen "$work/releases/cosign"

# The engine comes as docs/first-install.md says: Debian's packages from its mirror, docker compose from a server here.
version=$("$plugin" version --short)
mirror=$work/mirror/v${version#v}
mkdir -p "$mirror"
cp "$plugin" "$mirror/docker-compose-linux-x86_64"
(cd "$mirror" && sha256sum docker-compose-linux-x86_64 >docker-compose-linux-x86_64.sha256)
for _ in {1..20}; do # until a port is free
  port=$((20000 + RANDOM % 10000))
  busybox httpd -f -p "127.0.0.1:$port" -h "$work/mirror" 2>/dev/null & server=$!
  sleep 1
  ! kill -0 $server 2>/dev/null || break
done
sed -i 's/^platforms:.*/platforms: [linux\/amd64]/' "$work/shop/valise.yaml"
printf 'engine: {mirrors: {compose: "http://127.0.0.1:%s"}}\n' "$port" >>"$work/shop/valise.yaml"
"$work/valise" engine fetch --project "$work/shop/valise.yaml" --debian bookworm --compose "$version" --progress none
kill $server
server=''
for version in 1.0.0 1.1.0 1.2.0; do
  (
    cd examples/shop
    go build -trimpath -buildvcs=false -o "$bin/" -ldflags "-s -w -buildid= -X main.version=$version" ./backend ./frontend
  )
  "$work/valise" build "$version" --project "$work/shop/valise.yaml" -o "$work/releases/" --progress none
  "$work/valise" sign "$work/releases/shop-$version.tar.gz" --key "$work/releases/cosign.key" --progress none
done
export VALISE_VM_IMAGE VALISE_DEVICE_RELEASES=$work/releases VALISE_DEVICE_TOOL=$work/valise
[ -z "${VALISE_POWER_CUTS_DOC:-}" ] || VALISE_POWER_CUTS_DOC=$(realpath "$VALISE_POWER_CUTS_DOC")
go test -tags device -count=1 -timeout 3h -v "$@" ./scripts/device
[ $# -gt 0 ] || VALISE_TEST_SYSTEMD=1 go test -tags device -count=1 -timeout 40m -v -run TestARM ./cmd/valise-installer
