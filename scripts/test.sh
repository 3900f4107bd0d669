#!/usr/bin/env bash
# Runs every test, those that need a Docker engine on a private one, and prints which took longest.
# By hand, as root:  scripts/test.sh                       packages, lint, all tests: what make test does
#                    scripts/test.sh GO TEST ARGUMENTS     some tests, as go test prints them (after scripts/setup.sh)
# The engine has a network of its own; test programs run inside it, so nothing of this machine's is touched. What is
# made once (sample images, docker compose, a Debian with systemd) is kept in ~/.cache/valise or VALISE_CACHE; all else
# lies in one temporary directory.
# VALISE_ENGINE=29-overlay2 or 29-containerd takes engine 29 with that store (scripts/engine-29.sh) for the machine's own,
# and the newest docker compose for the machine's own (scripts/compose-plugin.sh).
# VALISE_TEST_SLOW multiplies every time limit of the tests; without it, the machine is measured at the start.
set -euo pipefail
if [ "$(id -u)" -ne 0 ]; then
  echo "test: the tests need root, for a Docker engine and machines of their own: sudo env \"PATH=\$PATH\" make test" >&2
  exit 1
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

began=$EPOCHREALTIME
cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}
VALISE_CACHE=$(realpath -m -- "$cache")
dir=$(mktemp -d /tmp/vt.XXXXXX) # short: names of sockets lie below it
mkdir "$dir/tmp"
export VALISE_CACHE TMPDIR=$dir/tmp CGO_ENABLED=0 # as programs are built that the tests run: nothing is compiled twice

# shellcheck disable=SC2317 # the trap calls it
clean() {
  local machine
  trap '' INT TERM
  # shellcheck disable=SC2046 # pids
  kill $(jobs -p) 2>/dev/null || true
  wait || true
  for machine in "$dir"/tmp/valise-machine-*; do # of a run that was ended
    [ ! -d "$machine" ] || scripts/systemd.sh down "$machine" || true
  done
  scripts/engine.sh down "$dir/engine" >&2 || true
  awk -v top="$dir/" 'index($2, top) == 1 { print $2 }' /proc/self/mounts | sort -r | xargs -r umount -l || true
  rm -rf --one-file-system "$dir"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

seconds() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", to - from }'; }

# piece NAME COMMAND...: one piece of the set-up; what it prints is in $dir/NAME.out. The network and mirrors fail at times:
# it gets a second chance, and says so.
piece() {
  local name=$1 from=$EPOCHREALTIME
  shift
  if ! "$@" >"$dir/$name.out" 2>"$dir/$name.log"; then
    { tail -n 15 "$dir/$name.log"; echo "test: set-up: $name failed (above), trying once more"; } >&2
    if ! "$@" >"$dir/$name.out" 2>"$dir/$name.log"; then
      { tail -n 15 "$dir/$name.log"; echo "test: set-up: $name failed twice (above): no test of it ran; look at this machine's network and packages"; } >&2
      return 1
    fi
  fi
  printf '%9s  %s\n' "$(seconds "$from")" "$name" | tee -a "$dir/times" >&2
}

# slowness prints how many times slower than a quiet machine of today this one is now: two loops, for two cores.
slowness() {
  local from=$EPOCHREALTIME i
  (for ((i = 0; i < 300000; i++)); do :; done) &
  for ((i = 0; i < 300000; i++)); do :; done
  wait
  awk -v from="$from" -v to="$EPOCHREALTIME" 'BEGIN { n = (to - from) / 0.7; printf "%d", n < 1 ? 1 : n + 0.999 }'
}

export VALISE_TEST_SLOW=${VALISE_TEST_SLOW:-$(slowness)}
[ "$VALISE_TEST_SLOW" = 1 ] || echo "test: this machine is slow or busy: every limit is $VALISE_TEST_SLOW times longer" >&2

case ${VALISE_ENGINE:-installed} in
installed) ;;
29-overlay2 | 29-containerd)
  bin=$(scripts/engine-29.sh)
  export PATH=$bin:$PATH VALISE_DOCKERD=$bin/dockerd VALISE_ENGINE_STORE=${VALISE_ENGINE#29-}
  export VALISE_COMPOSE=build # the newest engine with the newest docker compose
  ;;
*) echo "test: VALISE_ENGINE is 29-overlay2 or 29-containerd, not $VALISE_ENGINE" >&2; exit 64 ;;
esac

# Pieces that do not need each other, side by side. apt-get serves one at a time: packages come before what needs them.
side=()
side() {
  piece "$@" &
  side+=($!)
}
side modules go mod download
side compose scripts/compose-plugin.sh
[ $# -gt 0 ] || piece packages scripts/setup.sh
side sample-images scripts/sample-images.sh
[[ " $* " != *" long "* ]] || side mariadb scripts/mariadb-image.sh
side systemd scripts/systemd.sh base
if [ $# -eq 0 ]; then side lint scripts/lint.sh; fi # which compiles most of what the tests need
for pid in "${side[@]}"; do wait "$pid" || exit 1; done
VALISE_TEST_IMAGES=$(cat "$dir/sample-images.out") VALISE_TEST_MARIADB=$(cat "$dir/mariadb.out" 2>/dev/null || true) VALISE_COMPOSE=$(cat "$dir/compose.out")
export VALISE_TEST_IMAGES VALISE_TEST_MARIADB VALISE_COMPOSE
VALISE_ENGINE_NET=private piece engine scripts/engine.sh up "$dir/engine"
# shellcheck source=/dev/null
. "$dir/engine.out"
export VALISE_TEST_DOCKER_HOST=$DOCKER_HOST
export VALISE_TEST_SYSTEMD=1 # machines of their own: scripts/systemd.sh
echo "engine: $(docker info --format '{{.ServerVersion}}, {{.Driver}}')" >&2

# Tests of an engine mostly wait for it: more at once than there are cores, one for each GiB that is free. The limit is
# there so that go test names what hangs; a run on a slow machine takes a fraction of it.
at_once=$(awk '/^MemAvailable/ { n = int($2 / 1048576); print (n < 2 ? 2 : (n > 8 ? 8 : n)) }' /proc/meminfo)
go=(go test -shuffle=on -ldflags '-s -w' -timeout 75m -p 4 -parallel "$at_once" -exec "nsenter -t $(cat "$dir/engine/docker.pid") -n")
if [ $# -gt 0 ]; then
  "${go[@]}" "$@"
  exit
fi
status=0
"${go[@]}" -vet=off -json ./... | go run ./scripts/testlog || status=$? # lint has vetted
printf '\nSet-up:\n'
cat "$dir/times"
[ $status = 0 ] && verdict=passed || verdict=FAILED
printf '\ntest: %s after %s\n' "$verdict" "$(seconds "$began")"
exit $status
