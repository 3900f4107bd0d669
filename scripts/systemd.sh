#!/usr/bin/env bash
# Runs a machine whose first process is systemd, in a container: Debian 12 with units, a journal and nothing else.
# By hand, as root:
#   scripts/systemd.sh up DIR            boot it; its root is DIR/root, network its own
#   scripts/systemd.sh run DIR COMMAND…  run a command in it
#   scripts/systemd.sh cut DIR           end it at once, as a power cut does; "up" boots it again with its files
#   scripts/systemd.sh down DIR          end it and remove DIR
#   scripts/systemd.sh pid DIR           print the pid of its first process
#   scripts/systemd.sh base              make what "up" begins with, and print where it is
# The first time it makes a Debian (under a minute, network), kept in ~/.cache/valise or VALISE_CACHE. The machine shares
# our kernel: a cut ends processes, and loses nothing that was written.
# VALISE_MACHINE_SEES="DIR..." gives a machine that is booted those directories, under their names, and the caller's network.
set -euo pipefail
shopt -s inherit_errexit

self=${BASH_SOURCE[0]}
fail() { echo "systemd: $*" >&2; exit 1; }
usage() { echo "usage: systemd.sh up|cut|down|pid DIR | run DIR COMMAND... | base" >&2; exit 64; }
[ $# -ge 2 ] || [ "$*" = base ] || usage
command=$1 dir=${2:-}
shift $(($# > 1 ? 2 : 1))
[ "$(id -u)" = 0 ] || fail "run as root"

# base: a directory with a bootable Debian.
base() {
  local cache key work
  cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/systemd
  key=$(sed -n '/^base()/,/^}/p' "$self" | sha256sum | cut -c1-16)
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  if [ ! -d "$cache/$key" ]; then
    if ! command -v mmdebstrap >/dev/null || ! command -v systemd-nspawn >/dev/null; then
      echo "systemd: installing mmdebstrap and systemd-container" >&2
      apt-get -q update >&2 || true
      DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 install -y --no-install-recommends mmdebstrap systemd-container >&2
    fi
    work=$(mktemp -d "$cache/work.XXXXXX")
    chmod 755 "$work"
    # shellcheck disable=SC2016 # $1 is for the hooks
    "$(dirname "$self")/mmdebstrap.sh" --variant=minbase --aptopt='Acquire::Languages "none"' --include=systemd-sysv,procps \
      --customize-hook='for u in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer getty.target console-getty.service systemd-logind.service; do chroot "$1" systemctl mask $u; done' \
      --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/usr/share/doc "$1"/usr/share/locale' \
      bookworm "$work/root.tar" >&2
    mkdir "$work/root"
    tar -C "$work/root" -xf "$work/root.tar"
    mv "$work/root" "$cache/$key"
    rm -rf "$work"
  fi
  flock -u 9
  echo "$cache/$key"
}

# leader: the pid of the machine's first process, as we see it.
leader() {
  local pid
  pid=$(cat "$dir/pid" 2>/dev/null) || return 1
  pgrep -P "$pid" -x systemd || pgrep -P "$pid" | head -n1
}

inside() {
  local first
  first=$(leader) || true
  [ -n "$first" ] || { echo "systemd: no machine runs in $dir" >&2; return 1; }
  nsenter --target "$first" --mount --uts --ipc --net --pid --root --wdns=/ -- \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}

end() {
  local pid first
  pid=$(cat "$dir/pid" 2>/dev/null) || return 0
  first=$(leader) || true
  if [ -n "$first" ]; then
    # All others at the same moment: nobody may see the first process die.
    inside sh -c 'kill -KILL -1' 2>/dev/null || true
    kill -9 "$first" 2>/dev/null || true
  fi
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
  done
  ! kill -0 "$pid" 2>/dev/null || kill -9 "$pid"
  find "$(cat "$dir/cgroup")" -depth -type d -exec rmdir {} + 2>/dev/null || true
  rm -f "$dir/pid" "$dir/cgroup"
  umount -l "$dir/root" 2>/dev/null || true
}

case $command in
base) base ;;
up)
  mkdir -p "$dir/root" "$dir/upper" "$dir/work"
  dir=$(cd "$dir" && pwd)
  [ -s "$dir/lower" ] || base >"$dir/lower" # it boots again with what it booted with, wherever the caller's home is
  lower=$(cat "$dir/lower")
  mountpoint -q "$dir/root" || mount -t overlay overlay -o "lowerdir=$lower,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
  network=(--private-network)
  if [ -n "${VALISE_MACHINE_SEES:-}" ]; then
    network=()
    for seen in $VALISE_MACHINE_SEES; do network+=("--bind=$seen:$seen:norbind"); done
    mkdir -p "$dir/root/etc/tmpfiles.d"
    ln -sf /dev/null "$dir/root/etc/tmpfiles.d/tmp.conf" # nothing empties /tmp
  fi
  # A control group of its own: in the caller's, the units of all machines would have the same groups, and one machine
  # that stops a unit would remove the group of another's.
  cgroup=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)$(sed -n 's/^0:://p' /proc/self/cgroup)/valise-machine.$$
  mkdir -p "$cgroup"
  echo "$cgroup" >"$dir/cgroup"
  # shellcheck disable=SC2016 # $1 is for the inner shell
  # A /run of its own: nspawn leaves things there, and the host's may be another systemd's or none.
  SYSTEMD_SECCOMP=0 SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 unshare --mount --propagation slave sh -c \
    'echo $$ >"$(cat "$1/cgroup")/cgroup.procs" && mount -t tmpfs tmpfs /run && echo $$ >"$1/pid" && dir=$1 && shift && exec systemd-nspawn -q -b -D "$dir/root" --machine="valise-$$" --register=no --keep-unit --private-users=no --capability=all --console=pipe "$@"' \
    sh "$dir" "${network[@]}" >"$dir/console" 2>&1 </dev/null &
  for _ in $(seq $((600 * ${VALISE_TEST_SLOW:-1}))); do
    sleep 0.1
    kill -0 $! 2>/dev/null || break
    state=$(inside systemctl is-system-running 2>/dev/null || true)
    case $state in running | degraded) exit 0 ;; esac
  done
  tail -n 20 "$dir/console" >&2
  fail "the machine did not boot"
  ;;
run)
  [ $# -gt 0 ] || usage
  inside "$@"
  ;;
cut) end ;;
pid) leader ;;
down)
  end
  rm -rf "$dir"
  ;;
*) usage ;;
esac
