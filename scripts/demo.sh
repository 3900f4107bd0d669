#!/usr/bin/env bash
# Shows the whole life of a release on this machine: build, sign, verify, install, update, break, roll back.
# By hand, as root:  scripts/demo.sh        (the same as make demo)
# It uses a Docker engine that already runs, or starts a private one; without either it stops after verifying and says
# so. All it makes is below one temporary directory and removed at the end; what is built once stays in build/demo,
# examples/shop/build, Go's caches and ~/.cache/valise.
# It signs keylessly when the private Sigstore is built already (scripts/sigstore.sh) or VALISE_DEMO_SIGN=keyless says
# so, which builds it, in about ten minutes; else, or with VALISE_DEMO_SIGN=key, with a key.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
run() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; "$@"; }
fail() { echo "demo: $*" >&2; exit 1; }

# shellcheck disable=SC2016 # for the reader's shell
sudo='sudo env "PATH=$PATH" make demo'
[ "$(id -u)" -eq 0 ] || fail "it needs root, for packages and a Docker engine of its own: $sudo"
command -v go >/dev/null || fail "Go is not in PATH; install the version that go.mod names, and keep your PATH: $sudo"

dir=$(mktemp -d /tmp/valise-demo.XXXXXX)
jobs=()
clean() {
  status=$?
  trap '' INT TERM
  for job in "${jobs[@]}"; do kill -- "-$job" 2>/dev/null || true; done
  if [ -e "$dir/device/opt/shop" ] && [ ! -e "$dir/engine/engine" ]; then # a private engine goes as a whole
    docker compose -p shop down -v --remove-orphans >"$dir/down.log" 2>&1 || true
    keepers=$(docker ps -aq --filter label=dev.valise.app=shop)
    # shellcheck disable=SC2086 # ids, one word each
    [ -z "$keepers" ] || docker rm -f $keepers >/dev/null || true
    images=$(docker images -q valise/shop)
    # shellcheck disable=SC2086
    [ -z "$images" ] || docker rmi -f $images >/dev/null || true
  fi
  scripts/engine.sh down "$dir/engine" || true
  scripts/sigstore.sh down "$dir/sigstore" || true
  rm -rf "$dir" "$broken"
  if [ $status -eq 0 ]; then
    echo "demo: done in $SECONDS s, everything it ran is removed"
  else
    echo "demo: stopped (exit $status), everything it ran is removed" >&2
  fi
}
trap clean EXIT
trap 'exit 130' INT TERM

# machine: what may be the reason when something fails or takes long.
machine() {
  awk -v cores="$(nproc)" -v disk="$(df -Pk /tmp | awk 'NR == 2 { print $4 }')" '
    FILENAME == "/proc/loadavg" { load = $1 }
    /^MemAvailable/ { memory = $2 }
    END { printf "%d cores, load %s, %.1f GiB of memory and %.1f GiB of disk free\n", cores, load, memory / 2 ^ 20, disk / 2 ^ 20 }
  ' /proc/loadavg /proc/meminfo
}

# piece NAME COMMAND...: one piece of set-up; says how long it took, or the end of its output when it fails.
piece() {
  local name=$1 began=$SECONDS log
  shift
  log=$(mktemp "$dir/log.XXXXXX")
  if "$@" >"$log" 2>&1; then
    printf '  %4d s  %s\n' $((SECONDS - began)) "$name"
    return
  fi
  tail -n 20 "$log" >&2
  echo "demo: the set-up failed, before anything was installed or updated: $name (its last lines are above)" >&2
  return 1
}

# must COMMAND...: run, for what passes on every machine that can run the demo.
must() {
  local code=0
  run "$@" || code=$?
  [ $code -ne 0 ] || return 0
  {
    printf '\n'
    docker ps -a --filter label=com.docker.compose.project=shop --format '{{.Names}}: {{.Status}}' || true
    docker compose -p shop logs --no-color --tail 10 || true
    echo "demo: exit code $code, and this is not part of the demo: the command should have passed."
    echo "demo: the machine: $(machine). On one that has little to spare, try again when it is idle; else please report this."
  } >&2
  exit 1
}

shop=examples/shop
broken=$shop/broken.yaml
valise=build/demo/valise
# The same flags everywhere, so that nothing is compiled twice. Without inlining and debug information it takes a third
# less.
export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -tags=grpcnotrace -trimpath -buildvcs=false '-gcflags=all=-dwarf=false -l'"

# release VERSION [--broken]: builds, packs and signs one release of the sample app.
release() {
  local project=$shop/valise.yaml
  if [ $# -gt 1 ]; then
    # A release that never gets healthy need not be given the time that a slow machine takes.
    project=$broken
    sed -E 's/retries: [0-9]+/retries: 10/' "$shop/valise.yaml" >"$project"
  fi
  "$shop/build.sh" "$@"
  run "$valise" build "$1" --project "$project" -o "$dir/"
  # The token is that of a workflow which runs for the tag.
  ACTIONS_ID_TOKEN_REQUEST_URL=${tokens:-}\&repository=acme/shop\&ref=refs/tags/v$1 \
    run "$valise" sign "$dir/shop-$1.tar.gz" "${sign[@]}" --progress none
}

# What needs the network and apt, beside what needs the processor.
engine_runs() { docker version --format '{{.Server.Version}}' && docker compose version; }
engine_starts() { scripts/engine.sh up "$dir/engine" >"$dir/engine.env" 2>"$dir/engine.log" || echo failed >"$dir/engine.failed"; }
engine() {
  piece "packages: Docker's engine and what it needs" scripts/setup.sh demo || return
  if engine_runs >/dev/null 2>&1; then return; fi
  piece "docker compose: the machine's own or Debian's, or built from its module" scripts/compose-plugin.sh || return
  piece "a private Docker engine, started" engine_starts
}
programs() {
  piece "valise, built from this tree" go build -ldflags '-s -w' -o "$valise" ./cmd/valise &&
    piece "the sample's base images, from Debian packages" scripts/sample-images.sh &&
    piece "the sample app and the installer it carries" "$shop/build.sh" 1.0.0
}

mkdir -p "${valise%/*}"
step "Set-up: minutes the first time, on a busy machine many; what is built is kept"
machine
set -m # a process group for each, to end it as a whole
engine & jobs+=($!)
programs & jobs+=($!)
set +m
for job in "${jobs[@]}"; do wait "$job" || { echo "demo: the machine: $(machine)" >&2; exit 1; }; done
jobs=()

step "Build and sign release 1.0.0 for linux/amd64 and linux/arm64, without Docker"
case ${VALISE_DEMO_SIGN:-} in
keyless | key) why='VALISE_DEMO_SIGN says so' ;;
'')
  if scripts/sigstore.sh cached; then
    VALISE_DEMO_SIGN=keyless why='it is built already'
  else
    VALISE_DEMO_SIGN=key why='a private Sigstore to sign without one is not built yet (VALISE_DEMO_SIGN=keyless builds it, in about ten minutes)'
  fi
  ;;
*) fail "VALISE_DEMO_SIGN is \"$VALISE_DEMO_SIGN\", want key or keyless" ;;
esac
if [ "$VALISE_DEMO_SIGN" = keyless ]; then
  echo "signing keylessly, as a workflow does, through a private Sigstore: $why"
  scripts/sigstore.sh up "$dir/sigstore" >"$dir/env"
  # shellcheck source=/dev/null
  . "$dir/env"
  sign=(--signing-config "$VALISE_SIGNING_CONFIG")
  tokens=$ACTIONS_ID_TOKEN_REQUEST_URL
  trust=(--identity-regexp 'https://github\.com/acme/shop/\.github/workflows/release\.yml@refs/tags/v.+' --trusted-root "$VALISE_TRUSTED_ROOT")
else
  echo "signing with a key: $why"
  export COSIGN_PASSWORD=demo
  run "$valise" keygen "$dir/cosign"
  sign=(--key "$dir/cosign.key") trust=(--key "$dir/cosign.pub")
fi
release 1.0.0

step "Verify it the way a device does, with the network cut off"
run unshare -n "$valise" verify "$dir/shop-1.0.0.tar.gz" "${trust[@]}" --progress none

step "One flipped byte is refused"
cp "$dir/shop-1.0.0.tar.gz" "$dir/flipped.tar.gz"
middle=$(($(stat -c %s "$dir/flipped.tar.gz") / 2))
byte=$(od -An -tu1 -j "$middle" -N 1 "$dir/flipped.tar.gz")
printf '%b' "\\x$(printf %02x $((byte ^ 1)))" | dd of="$dir/flipped.tar.gz" bs=1 seek="$middle" conv=notrunc status=none
code=0
run "$valise" verify "$dir/flipped.tar.gz" "${trust[@]}" --progress none || code=$?
[ $code -eq 4 ] || fail "the changed bundle ended with exit code $code, want 4"

step "A Docker engine"
if [ -e "$dir/engine.failed" ]; then
  cat "$dir/engine.log" >&2
  echo "No Docker engine runs here and none can be started (see above): the demo ends after verify."
  exit 0
elif [ -e "$dir/engine.env" ]; then
  # shellcheck source=/dev/null
  . "$dir/engine.env"
  echo "a private one was started: $DOCKER_HOST"
else
  [ -z "$(docker ps -aq --filter label=com.docker.compose.project=shop)" ] || fail "this engine already runs a project called shop; stop it first"
  DOCKER_HOST=${DOCKER_HOST:-unix:///var/run/docker.sock}
  echo "using the one that runs: $DOCKER_HOST"
fi
export DOCKER_HOST
if (: </dev/tcp/127.0.0.1/18080) 2>/dev/null; then fail "port 18080, which the sample app publishes, is taken on this machine: free it first"; fi

SHOP=http://127.0.0.1:18080
items() { curl -fsS "$SHOP/api/items"; }
health() { curl -fsS "$SHOP/health"; }
# The installer comes out of the bundle, as it does for a technician with a stick.
tar xzOf "$dir/shop-1.0.0.tar.gz" "installer/linux-$(go env GOARCH)/valise-installer" >"$dir/valise-installer"
chmod +x "$dir/valise-installer"
device=("$dir/valise-installer" --root "$dir/device" --progress plain)

step "Install 1.0.0 below $dir/device"
must "${device[@]}" install "$dir/shop-1.0.0.tar.gz" "${trust[@]}"
run health
for name in apples pears; do
  curl -fsS -X POST "$SHOP/api/items" -d "{\"name\":\"$name\"}" >/dev/null
done
run items
rows=$(items)
same_rows() { [ "$(items)" = "$rows" ] || fail "the rows are not what they were: $(items)"; echo "the rows are still there"; }
runs() {
  local answer
  answer=$(health)
  [[ $answer == *"\"version\":\"$1\""* ]] || fail "want $1, got $answer"
  echo "$1 answers"
}

step "Update to 1.1.0: only what changed is loaded"
release 1.1.0
must "${device[@]}" plan "$dir/shop-1.1.0.tar.gz"
must "${device[@]}" update "$dir/shop-1.1.0.tar.gz"
runs 1.1.0
same_rows

step "Update to 1.2.0, whose backend never becomes healthy"
release 1.2.0 --broken
code=0
run "${device[@]}" update "$dir/shop-1.2.0.tar.gz" || code=$?
[ $code -eq 3 ] || fail "exit code $code, want 3: reverted"
echo "exit code 3: reverted"
runs 1.1.0
same_rows

step "Roll back to 1.0.0 by hand"
must "${device[@]}" rollback
runs 1.0.0
same_rows

step "What the records say"
must "${device[@]}" status
must "${device[@]}" history
