#!/usr/bin/env bash
# Does what a stranger does: runs the README's commands, make demo and make test, in a clean clone of the last commit,
# on a bare Debian with Go, git, make, certificates and nothing else, and an empty home. Each twice; prints the times.
# By hand, as root:  scripts/first-run.sh [--debian 12|13] [--busy N] [demo|test]...     both without a name
#   --busy N   beside N loops that do nothing
# From this machine come the kernel, its network, Go, the certificates, and the settings for Go's module proxy and the
# Debian mirror. All is below a directory in /var/tmp (TMPDIR) and removed at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "first-run: $*" >&2; exit 1; }
usage() { echo "usage: first-run.sh [--debian 12|13] [--busy N] [demo|test]..." >&2; exit 64; }

debian=12 busy=0
while [[ ${1:-} == --* ]]; do
  case $1 in
  --debian) debian=${2:-} ;;
  --busy) busy=${2:-} ;;
  *) usage ;;
  esac
  shift 2 || usage
done
case $debian in 12) suite=bookworm ;; 13) suite=trixie ;; *) usage ;; esac
[[ $busy =~ ^[0-9]+$ ]] || usage
[ $# -gt 0 ] || set -- demo test
for target; do case $target in demo | test) ;; *) usage ;; esac; done

[ "$(id -u)" -eq 0 ] || fail "it needs root, to make a Debian and to run an engine in it"
command -v go >/dev/null || fail "Go is missing: the fresh machine gets this one's"
for pid in $(pgrep -x dockerd || true); do
  [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ] ||
    fail "a Docker engine runs here (pid $pid), and two cannot share the network: stop it first"
done
if ! command -v mmdebstrap >/dev/null; then
  apt-get -q update >&2 || true
  DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends mmdebstrap debian-archive-keyring >&2
fi

dir=$(mktemp -d "${TMPDIR:-/var/tmp}/valise-first-run.XXXXXX")
loops=() machine=''
clean() {
  trap '' INT TERM
  [ -z "$machine" ] || kill -KILL "$machine" 2>/dev/null || true
  [ ${#loops[@]} -eq 0 ] || kill "${loops[@]}" 2>/dev/null || true
  wait
  rm -rf --one-file-system "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM
[ "$(stat -f -c %T "$dir")" != overlayfs ] || fail "$dir lies on an overlay, on which no engine can work: set TMPDIR to a directory on a disk"

# The mirrors of this machine, whatever release of Debian it has; else Debian's own.
sources=() uri='' security=''
# shellcheck disable=SC2016 # for apt
targets=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian') || true
while read -r codename repo; do
  case $codename in
  *-security) security=$repo ;;
  *-*) ;;
  *) uri=$repo ;;
  esac
done <<<"$targets"
if [ -n "$uri" ]; then
  sources=("deb $uri $suite main" "deb $uri $suite-updates main")
  [ -z "$security" ] || sources+=("deb $security $suite-security main")
fi
apt-config dump | grep -E '^Acquire::(http|https)(::|\b)' >"$dir/apt.conf" || true
echo "first-run: making a bare Debian $debian" >&2
scripts/mmdebstrap.sh -q --variant=minbase --include=ca-certificates,git,make --aptopt="$dir/apt.conf" "$suite" "$dir/debian.tar" "${sources[@]}" >&2

# fresh ROOT: a machine that nothing ran on.
fresh() {
  mkdir "$1"
  tar -C "$1" -xf "$dir/debian.tar"
  cp -L /etc/resolv.conf /etc/hosts "$1/etc/"
  mkdir -p "$1/usr/local/go" "$1/usr/local/share/ca-certificates"
  cp -rL /usr/local/share/ca-certificates/. "$1/usr/local/share/ca-certificates/" 2>/dev/null || true
  chroot "$1" update-ca-certificates >/dev/null 2>&1
  git clone -q . "$1/root/valise"
}

environment=(HOME=/root LANG=C.UTF-8 PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
for name in GOPROXY GONOPROXY GOSUMDB GONOSUMDB GOPRIVATE GOINSECURE GOFLAGS GOTOOLCHAIN; do
  environment+=("$name=$(go env $name)")
done
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
  [ -z "${!name:-}" ] || environment+=("$name=${!name}")
done

# inside ROOT COMMAND: runs it there with processes and mounts of its own. The shell that becomes the first process stays,
# and takes the processor time of all that ran, daemons too.
inside() {
  # shellcheck disable=SC2016 # for the inner shells
  exec unshare --mount --propagation private --pid --fork --kill-child sh -euc '
    root=$1 go=$2
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount --bind -o ro "$go" "$root/usr/local/go"
    cd "$root"
    pivot_root . .
    umount -l .
    cd /root/valise
    command=$3
    shift 3
    exec env -i "$@" sh -c "$command; exit \$?"' sh "$1" "$(go env GOROOT)" "$2" "${environment[@]}" </dev/null
}

for ((i = 0; i < busy; i++)); do
  while :; do :; done &
  loops+=($!)
done
rows=() status=0
for target; do
  fresh "$dir/$target"
  for run in cold second; do
    printf '\nfirst-run: Debian %s, make %s, %s\n' "$debian" "$target" "$run" >&2
    TIMEFORMAT='%R %U %S'
    result=passed
    {
      time {
        inside "$dir/$target" "make $target" 2>&3 &
        machine=$!
        wait "$machine" || result=FAILED status=1
      }
    } 3>&2 2>"$dir/time"
    machine=''
    rows+=("$(awk -v row="| $debian | make $target | $run | $busy | " -v result="$result" '
      function span(s) { return sprintf("%d min %02d s", s / 60, s % 60) }
      END { print row span($1) " | " span($2 + $3) " | " result " |" }' "$dir/time")")
    [ "$result" = passed ] || break
  done
  rm -rf --one-file-system "${dir:?}/$target"
done
printf '\n| Debian | command | run | busy loops | time | processor time, user and system | |\n|---:|---|---|---:|---:|---:|---|\n'
printf '%s\n' "${rows[@]}"
[ $status -eq 0 ] || fail "not every run passed"
