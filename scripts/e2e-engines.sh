#!/usr/bin/env bash
# Runs every test that needs a Docker engine on Docker 20.10 (Debian's) and 29, that with both image stores, and writes
# what each did into the table of docs/engines.md.
# By hand, as root, after scripts/setup.sh:  scripts/e2e-engines.sh [ENGINE ...]    (installed 29-overlay2 29-containerd)
# Nine minutes per engine, twice that on a busy machine; the first run builds Docker 29, which takes ten more.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ $# -gt 0 ] || set -- installed 29-overlay2 29-containerd
VALISE_TEST_COMPOSE_VERSIONS=$(scripts/compose-plugin.sh v2.10.2 v2.15.1) # the oldest that is accepted, and one after it
export VALISE_TEST_COMPOSE_VERSIONS
log=$(mktemp -d /tmp/valise-engines.XXXXXX)
failed=0
# TestScript and TestSystemd ask no engine, or one of their own.
for engine in "$@"; do
  echo "== $engine" >&2
  skip='TestScript|TestSystemd'
  [ "$engine" = installed ] || skip+='|TestComposeVersions|TestEngineDaemon' # not tried there: docs/engines.md
  CI=true VALISE_TEST_COMPOSE=all VALISE_ENGINE=$engine scripts/test.sh -tags long -count=1 -skip "$skip" -json ./installer/docker ./installer/backup ./installer/compose \
    ./cmd/valise-installer >"$log/$engine" 2> >(tee "$log/$engine.about" >&2) || failed=1
done
go run ./scripts/enginetable -doc docs/engines.md "${@/#/$log/}"
if [ $failed != 0 ]; then
  echo "e2e-engines: tests failed; what they printed is in $log, one file for each engine (go test -json)" >&2
  exit 1
fi
rm -rf "$log"
