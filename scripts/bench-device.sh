#!/usr/bin/env bash
# Measures a first install and a one-layer update of the sample app, by hand and with valise-installer, on Docker 20.10
# and 29, and prints table rows for docs/benchmarks.md.
# By hand, as root, after scripts/setup.sh:  scripts/bench-device.sh [ENGINE ...]    (installed 29-overlay2 29-containerd)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ $# -gt 0 ] || set -- installed 29-overlay2 29-containerd
dir=$(mktemp -d /tmp/valise-bench.XXXXXX)
trap 'scripts/engine.sh down "$dir/engine" >&2 || true; rm -rf "$dir"' EXIT
go build -o "$dir" ./cmd/valise ./cmd/valise-installer ./scripts/devicebench
export COSIGN_PASSWORD=benchmark
(cd "$dir" && ./valise keygen >&2)
for version in 1.0.0 1.1.0; do
  examples/shop/build.sh $version >&2
  "$dir/valise" build $version --project examples/shop/valise.yaml --platform "linux/$(go env GOARCH)" -o "$dir/shop-$version.tar.gz" --progress none >&2
  "$dir/valise" sign "$dir/shop-$version.tar.gz" --key "$dir/cosign.key" --progress none >&2
done
echo "| engine | what | wall time | bytes written | peak RSS | nobody answered |"
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
    nsenter -t "$pid" -n "$dir/devicebench" -releases "$dir" -installer "$dir/valise-installer" -engine "$pid" \
      -name "$(docker info --format '{{.ServerVersion}}, {{.Driver}}')"
    scripts/engine.sh down "$dir/engine" >&2
  )
done
