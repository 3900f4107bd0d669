#!/usr/bin/env bash
# Measures a first install and a one-layer update, by hand and with valise-installer, on Docker 20.10 and 29, and prints
# table rows for docs/benchmarks.md.
# By hand, as root, after scripts/setup.sh:  scripts/bench-device.sh [ENGINE ...]    (installed 29-overlay2 29-containerd)
# VALISE_BENCH_APP=large takes, for the sample app, one like it with more services, 0.9 GB of images.
# VALISE_BENCH_MEMORY=268435456 gives each command a control group with so many bytes of memory, page cache included.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ $# -gt 0 ] || set -- installed 29-overlay2 29-containerd
dir=$(mktemp -d /tmp/valise-bench.XXXXXX)
trap 'scripts/engine.sh down "$dir/engine" >&2 || true; rm -rf "$dir"' EXIT
go build -tags grpcnotrace -o "$dir" ./cmd/valise ./cmd/valise-installer ./scripts/devicebench
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
case ${VALISE_BENCH_APP:-shop} in
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
echo "| engine | what | wall time | bytes written | peak RSS | downtime |"
echo "|---|---|---:|---:|---:|---:|"
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
    nsenter -t "$pid" -n "$dir/devicebench" -releases "$dir" -installer "$dir/valise-installer" -engine "$pid" -memory "${VALISE_BENCH_MEMORY:-0}" \
      -name "$(docker info --format '{{.ServerVersion}}, {{.Driver}}')"
    scripts/engine.sh down "$dir/engine" >&2
  )
done
