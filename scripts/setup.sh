#!/usr/bin/env bash
# Installs what the tests and the demo need on a Debian or Ubuntu machine.
# By hand, as root:  scripts/setup.sh [demo]      with "demo", only what that needs
# Runs apt-get only when something is missing. It installs the Docker engine but never starts it:
# scripts/engine.sh runs a private one.
set -euo pipefail

packages=(
  ca-certificates curl   # talk to the engine's socket and to the sample app
  docker.io iptables iproute2 pigz   # the engine, its network, and fast layer decompression
)
case ${1:-} in
demo) ;;
'')
  packages+=(
    procps systemd-container   # machines with systemd: scripts/systemd.sh
    busybox-static         # the shell and tools of small devices, for install.sh
    e2fsprogs              # sticks
    git make python3 shellcheck sqlite3 strace xz-utils zstd
  )
  ;;
*) echo "usage: setup.sh [demo]" >&2; exit 64 ;;
esac

fail() { echo "setup: $*" >&2; exit 1; }

command -v apt-get >/dev/null || fail "this machine has no apt-get; install by hand: ${packages[*]}"

missing=()
for package in "${packages[@]}"; do
  # An engine or client from elsewhere (docker-ce, a CI image) is as good as Debian's.
  if [ "$package" = docker.io ] && command -v docker >/dev/null && command -v dockerd >/dev/null; then
    continue
  fi
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done

if [ ${#missing[@]} -eq 0 ]; then
  echo "setup: everything is installed" >&2
else
  [ "$(id -u)" -eq 0 ] || fail "missing: ${missing[*]}; run this script again as root"
  export DEBIAN_FRONTEND=noninteractive

  # Debian asks policy-rc.d before it starts a daemon at installation: deny that for this run.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 0755 "$policy"
  fi

  # One unreachable third-party source is no reason to stop: the installation below decides.
  apt-get -q update >&2 || echo "setup: apt-get update reported errors, going on" >&2
  # Since Debian 13 the client is a package of its own, and docker-compose is what it was not before: Docker's plugin.
  if [[ " ${missing[*]} " == *" docker.io "* ]]; then
    for package in docker-cli docker-compose; do
      candidate=$(apt-cache policy "$package" 2>/dev/null | awk '/Candidate:/ { print $2 }')
      ! dpkg --compare-versions "${candidate:-0}" ge 2.24 || missing+=("$package")
    done
  fi
  apt-get -q install -y --no-install-recommends "${missing[@]}" >&2 ||
    fail "apt-get could not install: ${missing[*]}; check the machine's apt sources and its network, then run this script again"
  echo "setup: installed ${missing[*]}" >&2
fi

command -v go >/dev/null || fail "Go is missing; install the version that go.mod names and put it in PATH"
