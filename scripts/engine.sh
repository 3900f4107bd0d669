#!/usr/bin/env bash
# Runs a private Docker engine below a directory, with its own socket, data and network.
# By hand, as root:
#   eval "$(scripts/engine.sh up DIR)"    start it and point docker at it (a running one is left as it is)
#   scripts/engine.sh down DIR            end it, with everything it ran, stored and left in the kernel
# VALISE_DOCKERD names another dockerd (its file name begins with dockerd). Its containerd and runc come from PATH.
# VALISE_ENGINE_STORE is how an engine since 23 keeps images: overlay2 or containerd; empty leaves it to the engine.
# VALISE_ENGINE_NET=private starts an engine in a network namespace of its own: any number of those can run side by
# side, but the ports that their containers publish cannot be reached from outside. Otherwise there can be only one.
set -euo pipefail

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
pool=10.213.0.0/16 # every network of the engine comes from here: that is how "down" knows its rules

fail() { echo "engine: $*" >&2; exit 1; }
usage() { echo "usage: engine.sh up|down DIR" >&2; exit 64; }

[ $# -eq 2 ] || usage
command=$1 dir=$2
[ -n "$dir" ] || usage

state=exec pidfile=docker.pid names='^(dockerd|containerd)' parents=shim
# shellcheck source=scripts/daemon.sh
. "$scripts/daemon.sh"

# others: the other Docker daemons that share docker0 and the DOCKER chains with ours.
others() {
  local pid network
  network=$(readlink /proc/self/ns/net)
  for pid in $(processes); do
    if grep -q ^dockerd "/proc/$pid/comm" 2>/dev/null && ! is_ours "$pid" &&
      [ "$(readlink "/proc/$pid/ns/net")" = "$network" ]; then
      echo "$pid"
    fi
  done
}

ping() { curl -fs --max-time 20 --unix-socket "$dir/docker.sock" http://docker/_ping >/dev/null 2>&1; }

exports() {
  printf 'export DOCKER_HOST=%q\nexport DOCKER_CONFIG=%q\n' "unix://$dir/docker.sock" "$dir/config"
}

# clean_network removes the links, chains and rules that an engine leaves behind.
clean_network() {
  local link tables table rule chain
  # The addresses tell our networks from those of other programs.
  for link in $(ip -o -4 addr show | awk -v ours="${pool%0.0/16}" 'index($4, ours) == 1 { print $2 }'); do
    ip link del "$link" || true
  done
  for tables in iptables ip6tables; do
    for table in filter nat raw; do
      "$tables" -t "$table" -S >/dev/null 2>&1 || continue
      "$tables" -t "$table" -S |
        sed -nE "/^-A (FORWARD|PREROUTING|OUTPUT|POSTROUTING) .*(DOCKER|docker0|br-[0-9a-f]{12}|${pool%.0.0/16}\\.)/ s/^-A/-D/p" |
        while read -r rule; do
          # shellcheck disable=SC2086 # a rule is several words
          "$tables" -t "$table" $rule 2>/dev/null || true
        done
      for chain in $("$tables" -t "$table" -S | awk '/^-N DOCKER/ { print $2 }'); do "$tables" -t "$table" -F "$chain"; done
      for chain in $("$tables" -t "$table" -S | awk '/^-N DOCKER/ { print $2 }'); do "$tables" -t "$table" -X "$chain"; done
    done
  done
  # As it was before "up".
  iptables -P FORWARD "$(cat "$dir/before.forward" 2>/dev/null || echo ACCEPT)"
  cat "$dir/before.ip_forward" >/proc/sys/net/ipv4/ip_forward 2>/dev/null || true
}

up() {
  local dockerd pid plugin store namespace=()
  dir=$(realpath -m -- "$dir")
  if [ -n "$(daemon)" ] && ping; then
    exports
    return
  fi

  [ ${#dir} -le 60 ] || fail "$dir is too long for socket names below it (60 characters at most): choose another directory"
  [ "$(id -u)" -eq 0 ] || fail "an engine needs root: run this as root"
  dockerd=$(command -v "${VALISE_DOCKERD:-dockerd}") || fail "${VALISE_DOCKERD:-dockerd} is missing: run scripts/setup.sh first"
  command -v curl >/dev/null || fail "curl is missing: run scripts/setup.sh first"
  [ ! -e "$dir/data" ] || [ -e "$dir/engine" ] || fail "$dir is not a directory of this script: choose another one"
  iptables -t nat -S >/dev/null 2>&1 ||
    fail "iptables does not work here: run on a machine of its own, or give this container the capability NET_ADMIN"
  case ${VALISE_ENGINE_NET:-shared} in
  shared)
    [ -z "$(others)" ] ||
      fail "another Docker engine runs (pid $(others | xargs)) and two cannot share the network: stop it, use it, or set VALISE_ENGINE_NET=private"
    ;;
  private)
    # shellcheck disable=SC2016 # for the inner shell
    namespace=(unshare --net sh -c 'ip link set lo up; exec "$@"' sh)
    ;;
  *) fail "VALISE_ENGINE_NET is shared (the default) or private, not $VALISE_ENGINE_NET" ;;
  esac
  plugin=$("$scripts/compose-plugin.sh")

  mkdir -p "$dir"
  touch "$dir/engine"
  end_processes # what an engine that was killed left running
  unmount_all
  rm -rf "$dir/docker.pid" "$dir/docker.sock" "$dir/exec"

  case ${VALISE_ENGINE_STORE:-} in
  overlay2) store=', "features": {"containerd-snapshotter": false}' ;;
  containerd) store=', "features": {"containerd-snapshotter": true}' ;;
  '') store= ;;
  *) fail "VALISE_ENGINE_STORE is overlay2 or containerd, not $VALISE_ENGINE_STORE" ;;
  esac
  printf '{"default-address-pools": [{"base": "%s", "size": 24}]%s}\n' "$pool" "$store" >"$dir/daemon.json"
  if [ ${#namespace[@]} -eq 0 ]; then
    [ -e "$dir/before.forward" ] || iptables -S FORWARD | awk '/^-P/ { print $3 }' >"$dir/before.forward"
    [ -e "$dir/before.ip_forward" ] || cat /proc/sys/net/ipv4/ip_forward >"$dir/before.ip_forward"
  fi
  mkdir -p "$dir/config/cli-plugins"
  ln -sfn "$plugin" "$dir/config/cli-plugins/docker-compose"

  detach "${namespace[@]}" "$dockerd" --config-file "$dir/daemon.json" --data-root "$dir/data" --exec-root "$dir/exec" \
    -H "unix://$dir/docker.sock" -p "$dir/docker.pid" </dev/null >"$dir/dockerd.log" 2>&1 &
  pid=$!
  if answers "$pid"; then
    exports
    return
  fi
  tail -n 20 "$dir/dockerd.log" >&2
  kill -KILL "$pid" 2>/dev/null || true
  end_processes
  fail "the engine did not start; its log is $dir/dockerd.log (the end is above)"
}

down() {
  local pid containers
  dir=$(realpath -m -- "$dir")
  [ -e "$dir/engine" ] || return 0 # nothing of ours
  [ "$(id -u)" -eq 0 ] || fail "the engine belongs to root: run this as root"

  pid=$(daemon)
  if [ -n "$pid" ]; then
    export DOCKER_HOST=unix://$dir/docker.sock DOCKER_CONFIG=$dir/config
    if ping; then
      containers=$(timeout 20 docker ps -q || true)
      # shellcheck disable=SC2086 # one word for each container
      [ -z "$containers" ] || timeout 20 docker kill $containers >/dev/null 2>&1 || true
    fi
    end_daemon "$pid"
  fi
  end_processes
  unmount_all
  if [ -e "$dir/before.forward" ]; then # else its network went with its namespace
    if [ -z "$(others)" ]; then
      clean_network
    else
      echo "engine: another Docker engine runs now: docker0 and the iptables chains stay as they are" >&2
    fi
  fi
  rm -rf --one-file-system "$dir"/{data,exec,config,docker.sock,docker.pid,daemon.json,dockerd.log,before.forward,before.ip_forward} ||
    fail "cannot remove everything below $dir: see what is still mounted there, then run this again"
  rm -f "$dir/engine"
  rmdir "$dir" 2>/dev/null || true # other files in it are the caller's
}

case $command in
up | down) "$command" ;;
*) usage ;;
esac
