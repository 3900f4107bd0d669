#!/usr/bin/env bash
# What goes wrong on a device, on a real engine:
#   TestFault   updates and rollbacks while system calls fail, everything is killed, and disks are full
#   TestFaultTree    the same for each command of a file tree, ten times as many cases; VALISE_FAULTS=all: every call
#   TestReplay  updates and rollbacks from each state of the disk that a power cut can leave
#   TestReplayTree   the same for a file tree, 500 states each
#   TestChaos   all that happens to a device, at random, one after the other
#   TestSoak    daemon and page at work for VALISE_SOAK=60m; only when it is named
# By hand:  scripts/fault.sh [GO TEST ARGUMENTS]     as -run TestReplay/update
#   VALISE_FAULTS=40, VALISE_STATES=40, VALISE_OPERATIONS=60    so many cases, states for each command, operations
#   VALISE_SEED=7                           the same choice again
#   VALISE_MUTANT=syncfs                    TestReplay: system calls of the installer do nothing (fsync:3: the third one)
#   VALISE_MUTANT=each                      TestReplayTree: without the syncs of one path after the other
#   VALISE_FAULT_DOC=docs/reliability.md    write the tables there
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
need=()
command -v strace >/dev/null || need+=(strace)
command -v qemu-storage-daemon >/dev/null || need+=(qemu-system-common)
[ ${#need[@]} -eq 0 ] || apt-get install -y --no-install-recommends "${need[@]}"
[ -z "${VALISE_FAULT_DOC:-}" ] || VALISE_FAULT_DOC=$(realpath "$VALISE_FAULT_DOC")
export VALISE_FAULT_DOC=${VALISE_FAULT_DOC:-}
[ $# -gt 0 ] || set -- -run 'TestFault$|TestFaultTree$|TestReplay$|TestReplayTree$|TestChaos$'
exec unshare --mount scripts/test.sh -tags fault -v ./cmd/valise-installer "$@"
