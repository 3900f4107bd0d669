#!/usr/bin/env bash
# Measures a first install, a one-layer update and a rollback, by hand and with valise-installer by turns, on Docker 20.10 and
# 29, and the start of the programs, and prints tables.
# By hand, as root, after scripts/setup.sh:
#   scripts/bench-device.sh [-doc docs/benchmarks.md] [-rounds N] [ENGINE ...]    (installed 29-overlay2 29-containerd)
# -doc writes the tables into that page, appends the rows to docs/benchmarks/device.jsonl, draws docs/images/benchmarks.svg, prints
# the comparison with the commit before, and fails when a ratio is worse by more than 10 %.
# VALISE_BENCH_APP=large takes, for the sample app, one like it with more services, 0.9 GB of images.
# VALISE_BENCH_MEMORY=268435456 gives each command a control group with so many bytes of memory, page cache included.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

read -r load </proc/loadavg
doc='' rounds=5
while [ $# -gt 0 ]; do
  case $1 in
  -doc) doc=${2:?} ;;
  -rounds) rounds=${2:?} ;;
  -*) echo "usage: $0 [-doc PAGE] [-rounds N] [ENGINE ...]" >&2; exit 64 ;;
  *) break ;;
  esac
  shift 2
done
[ -z "$doc" ] || [ -z "${VALISE_BENCH_MEMORY:-}" ] ||
  { echo "bench-device: rows with a limit of memory are not kept: leave out -doc or VALISE_BENCH_MEMORY" >&2; exit 64; }
[ $# -gt 0 ] || set -- installed 29-overlay2 29-containerd
dir=$(mktemp -d /tmp/valise-bench.XXXXXX)
trap 'scripts/engine.sh down "$dir/engine" >&2 || true; rm -rf "$dir"' EXIT
go build -o "$dir" ./scripts/devicebench
# program FILE PACKAGE: as scripts/installers.sh builds it.
program() { CGO_ENABLED=0 go build -tags grpcnotrace -trimpath -buildvcs=false -ldflags "-s -w -buildid=" -o "$dir/$1" "$2"; }
program valise ./cmd/valise
program valise-installer ./cmd/valise-installer
GOOS=linux GOARCH=arm64 program installer-arm64 ./cmd/valise-installer
echo 'package main; func main() {}' >"$dir/empty.go"
program empty "$dir/empty.go"
export COSIGN_PASSWORD=benchmark SHOP_ARCH
SHOP_ARCH=$(go env GOARCH)
(cd "$dir" && ./valise keygen >&2)

# make_large: the sample app on the images of scripts/bench.sh, two services more, and one that has a model of 350 MB.
make_large() {
  local images name
  images=$(scripts/bench.sh -images)
  mkdir -p "$dir/large/images"
  for name in api front worker proxy; do
    mkdir "$dir/large/images/$name"
    ln -s "$images/blobs" "$images/oci-layout" "$dir/large/images/$name/"
    jq --arg n $name '.manifests |= map(select(.annotations["org.opencontainers.image.ref.name"] == $n))' \
      "$images/index.json" >"$dir/large/images/$name/index.json"
  done
  head -c 350000000 /dev/urandom >"$dir/large/model"
  ln -s "$PWD/examples/shop/build" "$PWD/examples/shop/frontend" "$dir/large/"
  sed -e 's|base: oci:build/images/base|base: oci:images/BASE|' -e '/shop\/backend:/,/base:/s|BASE|api|' \
    -e '/shop\/frontend:/,/base:/s|BASE|front|' \
    -e '/^health:/i\  shop/worker: {base: "oci:images/worker", files: [{from: model, to: /srv/model}, {from: "build/{{.OS}}-{{.Arch}}/frontend", to: /usr/local/bin/frontend}], entrypoint: [/usr/local/bin/frontend]}' \
    -e '/^health:/i\  shop/proxy: {base: "oci:images/proxy", files: [{from: "build/{{.OS}}-{{.Arch}}/frontend", to: /usr/local/bin/frontend}], entrypoint: [/usr/local/bin/frontend]}' \
    examples/shop/valise.yaml >"$dir/large/valise.yaml"
  # shellcheck disable=SC2016 # compose expands it
  sed '/^  frontend:/i\  worker: {image: "shop/worker:${SHOP_VERSION:?}", restart: unless-stopped}\n\n  proxy: {image: "shop/proxy:${SHOP_VERSION:?}", restart: unless-stopped}\n' \
    examples/shop/compose.yaml >"$dir/large/compose.yaml"
}

project=examples/shop
app=${VALISE_BENCH_APP:-shop}
case $app in
shop) ;;
large)
  examples/shop/build.sh 1.0.0 >&2
  make_large
  project=$dir/large
  ;;
*) echo "bench-device: VALISE_BENCH_APP is shop or large" >&2; exit 64 ;;
esac
for version in 1.0.0 1.1.0; do
  examples/shop/build.sh $version >&2
  "$dir/valise" build $version --project "$project/valise.yaml" --platform "linux/$(go env GOARCH)" -o "$dir/shop-$version.tar.gz" --progress none >&2
  "$dir/valise" sign "$dir/shop-$version.tar.gz" --key "$dir/cosign.key" --progress none >&2
done
measure() { "$@" -releases "$dir" -app "$app" -load "$load" -rounds "$rounds" -rows "$dir/rows"; }
[ "$app" = large ] || measure "$dir/devicebench"
for engine in "$@"; do
  (
    if [ "$engine" != installed ]; then
      bin=$(scripts/engine-29.sh)
      export PATH=$bin:$PATH VALISE_DOCKERD=$bin/dockerd VALISE_ENGINE_STORE=${engine#29-}
    fi
    VALISE_ENGINE_NET=private scripts/engine.sh up "$dir/engine" >"$dir/env"
    # shellcheck source=/dev/null
    . "$dir/env"
    pid=$(cat "$dir/engine/docker.pid")
    measure nsenter -t "$pid" -n "$dir/devicebench" -engine "$pid" -memory "${VALISE_BENCH_MEMORY:-0}" \
      -name "$(docker info --format '{{.ServerVersion}}, {{.Driver}}' | sed 's/^\([0-9]*\.[0-9]*\)[^,]*/\1/')"
    scripts/engine.sh down "$dir/engine" >&2
  )
done
"$dir/devicebench" -print -app "$app" -rounds "$rounds" -rows "$dir/rows" -doc "$doc"
