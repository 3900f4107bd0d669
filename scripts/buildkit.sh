#!/usr/bin/env bash
# Runs a private BuildKit below a directory, with its own socket and data.
# By hand, as root:
#   eval "$(scripts/buildkit.sh up DIR)"    start it, point valise and buildctl at it and put buildctl into PATH
#                                           (a running one is left as it is)
#   scripts/buildkit.sh down DIR            end it, with everything it ran and stored
# buildkitd and buildctl are built from their Go module, once, into
# ${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/buildkit/VERSION. runc comes from PATH (Debian: docker.io
# brings it). Progress goes to stderr. Any number of them can run side by side; steps of a build use the machine's network.
set -euo pipefail

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
version=v0.33.1 # newer ones need a module that the proxy does not have
cache=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/buildkit/$version

fail() { echo "buildkit: $*" >&2; exit 1; }
usage() { echo "usage: buildkit.sh up|down DIR" >&2; exit 64; }

[ $# -eq 2 ] || usage
command=$1 dir=$2
[ -n "$dir" ] || usage

state=root pidfile=buildkitd.pid names='^(buildkitd|runc)' parents=^runc
# shellcheck source=scripts/daemon.sh
. "$scripts/daemon.sh"

# build makes the two programs when they are not in the cache.
build() {
  local work program
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9 # two callers: one builds, the other waits for the result
  if [ ! -x "$cache/buildkitd" ] || [ ! -x "$cache/buildctl" ]; then
    command -v go >/dev/null || fail "cannot build BuildKit $version: Go is missing; install it and put it in PATH"
    work=$(mktemp -d)
    # shellcheck disable=SC2064 # the values of now
    trap "rm -rf '$work' '$cache'/*.tmp" EXIT
    echo "buildkit: building BuildKit $version, this takes some minutes once" >&2
    (
      cd "$work"
      export CGO_ENABLED=0 GOFLAGS="-buildvcs=false -mod=mod" GOWORK=off
      unset GOOS GOARCH
      go mod init local/buildkit
      go get "github.com/moby/buildkit/cmd/buildkitd@$version" "github.com/moby/buildkit/cmd/buildctl@$version"
      for program in buildkitd buildctl; do
        go build -trimpath -ldflags "-s -w -X github.com/moby/buildkit/version.Version=$version" \
          -o "$cache/$program.tmp" "github.com/moby/buildkit/cmd/$program"
      done
    ) >"$work/log" 2>&1 9>&- || {
      tail -n 15 "$work/log" >&2
      fail "cannot build BuildKit $version (output above); check that Go reaches its module proxy"
    }
    for program in buildkitd buildctl; do mv "$cache/$program.tmp" "$cache/$program"; done
  fi
  exec 9>&-
}

ping() { "$cache/buildctl" --addr "unix://$dir/buildkitd.sock" --timeout 2 debug workers >/dev/null 2>&1; }

exports() {
  # shellcheck disable=SC2016 # for the shell that evaluates it
  printf 'export BUILDKIT_HOST=%q\nexport PATH=%q:$PATH\n' "unix://$dir/buildkitd.sock" "$cache"
}

up() {
  local pid runc
  dir=$(realpath -m -- "$dir")
  [ ${#dir} -le 60 ] || fail "$dir is too long for socket names below it (60 characters at most): choose another directory"
  [ "$(id -u)" -eq 0 ] || fail "this BuildKit needs root: run this as root"
  runc=$(command -v runc) || fail "runc is missing: run scripts/setup.sh first"
  [ ! -e "$dir/root" ] || [ -e "$dir/buildkit" ] || fail "$dir is not a directory of this script: choose another one"
  build
  if [ -n "$(daemon)" ] && ping; then
    exports
    return
  fi

  mkdir -p "$dir"
  touch "$dir/buildkit"
  end_processes # what a buildkitd that was killed left running
  unmount_all
  rm -f "$dir/buildkitd.pid" "$dir/buildkitd.sock" "$dir/root/buildkitd.lock"

  # An empty configuration: that of the machine is for another one.
  detach "$cache/buildkitd" --config /dev/null --root "$dir/root" --addr "unix://$dir/buildkitd.sock" \
    --containerd-worker=false --oci-worker=true --oci-worker-binary "$runc" </dev/null >"$dir/buildkitd.log" 2>&1 &
  pid=$!
  if answers "$pid"; then
    echo "$pid" >"$dir/buildkitd.pid"
    exports
    return
  fi
  tail -n 20 "$dir/buildkitd.log" >&2
  kill -KILL "$pid" 2>/dev/null || true
  end_processes
  fail "BuildKit did not start; its log is $dir/buildkitd.log (the end is above)"
}

down() {
  local pid
  dir=$(realpath -m -- "$dir")
  [ -e "$dir/buildkit" ] || return 0 # nothing of ours
  [ "$(id -u)" -eq 0 ] || fail "this BuildKit belongs to root: run this as root"
  pid=$(daemon)
  [ -z "$pid" ] || end_daemon "$pid"
  end_processes
  unmount_all
  rm -rf --one-file-system "$dir"/{root,buildkitd.sock,buildkitd.pid,buildkitd.log} ||
    fail "cannot remove everything below $dir: see what is still mounted there, then run this again"
  rm -f "$dir/buildkit"
  rmdir "$dir" 2>/dev/null || true # other files in it are the caller's
}

case $command in
up | down) "$command" ;;
*) usage ;;
esac
