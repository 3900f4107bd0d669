#!/usr/bin/env bash
# Runs a private Sigstore on loopback addresses: Fulcio, Rekor v1 and v2, a timestamp authority, a certificate
# transparency log, and the OIDC issuer of GitHub Actions. Nothing in it knows the public one, and nobody knows it.
# By hand:
#   eval "$(scripts/sigstore.sh up DIR)"    start one and sign against it (a running one is left as it is)
#   scripts/sigstore.sh down DIR            end it and remove its files
#   scripts/sigstore.sh sigstored|rekor1|cosign    print the path of that program
#   scripts/sigstore.sh cached              are sigstored and rekor1 built, so that up takes seconds?
# The programs are built once, into ${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}: sigstored and rekor1
# anew whenever their sources or Go change. Progress goes to stderr.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$(realpath -m -- "${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}")
cosign=v2.6.5 # newer ones need a newer Go than go.mod asks for

fail() { echo "sigstore: $*" >&2; exit 1; }
usage() { echo "usage: sigstore.sh up|down DIR | cached | sigstored | rekor1 | cosign" >&2; exit 64; }

# build BINARY DIRECTORY ARGUMENT...: runs go with the arguments in the directory, which writes into $GOBIN, unless
# the binary is there.
build() {
  local binary=$1 directory=$2 name
  shift 2
  [ ! -x "$binary" ] || return 0
  name=$(basename "$binary")
  command -v go >/dev/null || fail "cannot build $name: Go is missing"
  mkdir -p "$(dirname "$binary")"
  exec 9>"$(dirname "$binary")/lock"
  flock 9 # two callers: one builds, the other waits for the result
  if [ ! -x "$binary" ]; then
    work=$(mktemp -d "$binary.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "sigstore: building $name, this takes some minutes once" >&2
    if ! (
      cd "$directory"
      export CGO_ENABLED=0 GOBIN=$work GOFLAGS=-buildvcs=false GOWORK=off
      unset GOOS GOARCH
      go "$@"
    ) >"$work/log" 2>&1 9>&-; then
      tail -n 15 "$work/log" >&2
      fail "cannot build $name (output above); check that Go reaches its module proxy"
    fi
    mv "$work/$name" "$binary"
  fi
  exec 9>&-
}

# path NAME: where that program is when it is built.
path() {
  local key
  case $1 in
  cosign) key=$cosign ;;
  *)
    key=$(
      cd "$root/verify/verifytest/$1" && go env GOVERSION GOARCH &&
        find . -type f ! -name '*_test.go' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    ) || fail "cannot tell which $1 this is: Go is missing"
    key=$(sha256sum <<<"$key" | cut -c 1-16)
    ;;
  esac
  echo "$cache/$1/$key/$1"
}

# program NAME: builds it if need be and prints its path.
program() {
  local binary
  binary=$(path "$1")
  case $1 in
  cosign) build "$binary" / install -trimpath -ldflags "-s -w" "github.com/sigstore/cosign/v2/cmd/cosign@$cosign" ;;
  *) build "$binary" "$root/verify/verifytest/$1" install -trimpath -ldflags "-s -w" . ;;
  esac
  echo "$binary"
}

# field NAME FILE: a string of the JSON line in the file.
field() { sed -nE "s/.*\"$1\":\"?([^\",}]*).*/\1/p" "$2"; }

# is_ours NAME PID: is that process this program, with our directory as an argument?
is_ours() {
  local argument
  [ "$(cat "/proc/$2/comm" 2>/dev/null)" = "$1" ] || return 1
  while IFS= read -r -d '' argument; do
    [ "$argument" != "$dir" ] || return 0
  done < <(cat "/proc/$2/cmdline" 2>/dev/null)
  return 1
}

# running NAME: the pid of that program of ours. What it printed proves nothing: pids are used again.
running() {
  local pid
  pid=$(field pid "$dir/$1.json" 2>/dev/null || true)
  if [ -n "$pid" ] && is_ours "$1" "$pid"; then echo "$pid"; fi
}

# start NAME ARGUMENT...: runs that program until it printed its line, into NAME.json.
start() {
  local name=$1 binary pid
  shift
  binary=$(program "$name")
  (
    # It outlives the caller: it gets a session of its own, none of the caller's open files, and an input that it
    # holds open itself.
    cd /
    for fd in "/proc/$BASHPID/fd"/*; do
      fd=${fd##*/}
      if ((fd > 2)); then eval "exec $fd>&-"; fi
    done
    exec setsid "$binary" -dir "$dir" "$@" <>"$dir/input"
  ) >"$dir/$name.json" 2>"$dir/$name.log" &
  pid=$!
  for _ in {1..6000}; do
    [ ! -s "$dir/$name.json" ] || return 0
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
  done
  tail -n 20 "$dir/$name.log" >&2
  kill -KILL "$pid" 2>/dev/null || true
  end
  fail "$name did not start; its log is $dir/$name.log (the end is above)"
}

# end stops what runs.
end() {
  local name pid
  for name in sigstored rekor1; do
    pid=$(running "$name")
    [ -n "$pid" ] || continue
    kill "$pid" 2>/dev/null || true
    for _ in {1..100}; do
      is_ours "$name" "$pid" || continue 2 # the pid of a process that ended, reaped or not, has no arguments
      sleep 0.05
    done
    kill -KILL "$pid" 2>/dev/null || true
  done
}

up() {
  local line=$dir/sigstored.json
  if [ -z "$(running rekor1)" ] || [ -z "$(running sigstored)" ]; then
    [ ! -e "$dir/rekor2" ] || [ -e "$dir/sigstore" ] || fail "$dir is not a directory of this script: choose another one"
    mkdir -p "$dir"
    touch "$dir/sigstore"
    end
    [ -p "$dir/input" ] || mkfifo "$dir/input"
    start rekor1
    start sigstored -rekor1 "$(field rekor_url "$dir/rekor1.json")"
  fi
  printf 'export %s=%q\n' \
    VALISE_SIGSTORE_JSON "$line" \
    VALISE_TRUSTED_ROOT "$dir/trusted_root.json" \
    VALISE_SIGNING_CONFIG "$dir/signing_config.json" \
    ACTIONS_ID_TOKEN_REQUEST_URL "$(field oidc_request_url "$line")" \
    ACTIONS_ID_TOKEN_REQUEST_TOKEN "$(field oidc_request_token "$line")"
}

down() {
  [ -e "$dir/sigstore" ] || return 0 # nothing of ours
  end
  rm -rf "$dir"/{rekor2,rekor2.key,rekor1.pub,ct.pub,fulcio.pem,{sigstored,rekor1}.{json,log},input} \
    "$dir"/{trusted_root,signing_config,signing_config_rekor1}.json
  rm -f "$dir/sigstore"
  rmdir "$dir" 2>/dev/null || true # other files in it are the caller's
}

case ${1:-} in
up | down)
  if [ $# -ne 2 ] || [ -z "$2" ]; then usage; fi
  dir=$(realpath -m -- "$2")
  "$1"
  ;;
cached)
  [ $# -eq 1 ] || usage
  for name in sigstored rekor1; do
    binary=$(path "$name") && [ -x "$binary" ] || exit 1
  done
  ;;
sigstored | rekor1 | cosign)
  [ $# -eq 1 ] || usage
  program "$1"
  ;;
*) usage ;;
esac
