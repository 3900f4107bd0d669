#!/usr/bin/env bash
# Updates and rollbacks while system calls fail, everything is killed, and disks are full.
#   VALISE_FAULTS=40                        so many cases
#   VALISE_SEED=7                           the same choice of cases again
#   VALISE_FAULT_DOC=docs/reliability.md    write the table there
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v strace >/dev/null || apt-get install -y --no-install-recommends strace
[ -z "${VALISE_FAULT_DOC:-}" ] || VALISE_FAULT_DOC=$(realpath "$VALISE_FAULT_DOC")
export VALISE_FAULT_DOC=${VALISE_FAULT_DOC:-}
exec scripts/test.sh -tags fault -run 'TestFault$' -v ./cmd/valise-installer
