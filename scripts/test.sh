#!/usr/bin/env bash
# Runs every test, those that need a Docker engine on a private one.
# By hand, as root, after scripts/setup.sh:  scripts/test.sh [GO TEST ARGUMENTS]
# The engine has a network of its own; test programs run inside it, so nothing of this machine's is touched.
# VALISE_ENGINE=29-overlay2 or 29-containerd takes engine 29 with that store (scripts/engine-29.sh) for the machine's own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ "$(id -u)" -eq 0 ] || { echo "test: the engine needs root; run this script as root" >&2; exit 1; }
[ $# -gt 0 ] || set -- ./...

dir=$(mktemp -d /tmp/valise-test.XXXXXX)
trap 'scripts/engine.sh down "$dir/engine" >&2 || true; rm -rf "$dir"' EXIT

case ${VALISE_ENGINE:-installed} in
installed) ;;
29-overlay2 | 29-containerd)
  bin=$(scripts/engine-29.sh)
  export PATH=$bin:$PATH VALISE_DOCKERD=$bin/dockerd VALISE_ENGINE_STORE=${VALISE_ENGINE#29-}
  ;;
*) echo "test: VALISE_ENGINE is 29-overlay2 or 29-containerd, not $VALISE_ENGINE" >&2; exit 64 ;;
esac
go mod download
VALISE_TEST_IMAGES=$(scripts/sample-images.sh)
VALISE_COMPOSE=$(scripts/compose-plugin.sh)
VALISE_TEST_MARIADB=$(scripts/mariadb-image.sh)
export VALISE_TEST_IMAGES VALISE_TEST_MARIADB VALISE_COMPOSE
VALISE_ENGINE_NET=private scripts/engine.sh up "$dir/engine" >"$dir/env"
# shellcheck source=/dev/null
. "$dir/env"
export VALISE_TEST_DOCKER_HOST=$DOCKER_HOST
export VALISE_TEST_SYSTEMD=1 # containers of their own: scripts/systemd.sh
echo "engine: $(docker info --format '{{.ServerVersion}}, {{.Driver}}')" >&2
go test -shuffle=on -timeout 20m -exec "nsenter -t $(cat "$dir/engine/docker.pid") -n" "$@"
