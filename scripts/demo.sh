#!/usr/bin/env bash
# Shows the whole life of a release on this machine: build, sign, verify, install, update, break, roll back.
# By hand, as root:  scripts/demo.sh        (the same as make demo)
# Everything it makes is below one temporary directory and is removed at the end. It uses a Docker engine that
# already runs, or starts a private one; without either it stops after verifying and says so.
# It signs keylessly when the private Sigstore is built already (scripts/sigstore.sh) or VALISE_DEMO_SIGN=keyless says
# so, which builds it, in about ten minutes; else, or with VALISE_DEMO_SIGN=key, with a key.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
run() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; "$@"; }
fail() { echo "demo: $*" >&2; exit 1; }

[ "$(id -u)" -eq 0 ] || fail "run it as root: it installs packages and, where there is none, starts a Docker engine"

dir=$(mktemp -d /tmp/valise-demo.XXXXXX)
engine=''
clean() {
  status=$?
  trap '' INT TERM
  if [ -n "${DOCKER_HOST:-}" ] && [ -e "$dir/device/opt/shop" ]; then
    "${compose[@]}" -p shop down -v --remove-orphans >"$dir/down.log" 2>&1 || true
    keepers=$(docker ps -aq --filter label=dev.valise.app=shop)
    # shellcheck disable=SC2086 # ids, one word each
    [ -z "$keepers" ] || docker rm -f $keepers >/dev/null || true
    images=$(docker images -q valise/shop)
    # shellcheck disable=SC2086
    [ -z "$images" ] || docker rmi -f $images >/dev/null || true
  fi
  [ -z "$engine" ] || scripts/engine.sh down "$engine" || true
  scripts/sigstore.sh down "$dir/sigstore" || true
  rm -rf "$dir"
  if [ $status -eq 0 ]; then echo "demo: done, everything it made is removed"; else echo "demo: stopped (exit $status), everything it made is removed" >&2; fi
}
trap clean EXIT
trap 'exit 130' INT TERM

valise=$dir/valise
shop=examples/shop

# release VERSION [--broken]: builds, packs and signs one release of the sample app.
release() {
  "$shop/build.sh" "$@"
  run "$valise" build "$1" --project "$shop/valise.yaml" -o "$dir/"
  # The token is that of a workflow which runs for the tag.
  ACTIONS_ID_TOKEN_REQUEST_URL=${tokens:-}\&repository=acme/shop\&ref=refs/tags/v$1 \
    run "$valise" sign "$dir/shop-$1.tar.gz" "${sign[@]}" --progress none
}

step "Set-up: packages, programs, the sample's base images from Debian packages"
scripts/setup.sh
CGO_ENABLED=0 go build -trimpath -o "$valise" ./cmd/valise
scripts/sample-images.sh >/dev/null

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
if docker version --format '{{.Server.Version}}' >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
  [ -z "$(docker ps -aq --filter label=com.docker.compose.project=shop)" ] || fail "this engine already runs a project called shop; stop it first"
  DOCKER_HOST=${DOCKER_HOST:-unix:///var/run/docker.sock}
  echo "using the one that runs: $DOCKER_HOST"
else
  if ! scripts/engine.sh up "$dir/engine" >"$dir/env"; then
    echo "No Docker engine runs here and none can be started (see above): the demo ends after verify."
    exit 0
  fi
  engine=$dir/engine
  # shellcheck source=/dev/null
  . "$dir/env"
  echo "started a private one: $DOCKER_HOST"
fi
export DOCKER_HOST
compose=(docker compose)

SHOP=http://127.0.0.1:18080
items() { curl -fsS "$SHOP/api/items"; }
health() { curl -fsS "$SHOP/health"; }
# The installer comes out of the bundle, as it does for a technician with a stick.
tar xzOf "$dir/shop-1.0.0.tar.gz" "installer/linux-$(go env GOARCH)/valise-installer" >"$dir/valise-installer"
chmod +x "$dir/valise-installer"
device=("$dir/valise-installer" --root "$dir/device" --progress plain)

step "Install 1.0.0 below $dir/device"
run "${device[@]}" install "$dir/shop-1.0.0.tar.gz" "${trust[@]}"
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
run "${device[@]}" plan "$dir/shop-1.1.0.tar.gz"
run "${device[@]}" update "$dir/shop-1.1.0.tar.gz"
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
run "${device[@]}" rollback
runs 1.0.0
same_rows

step "What the records say"
run "${device[@]}" status
run "${device[@]}" history
