#!/usr/bin/env bash
# Tests against a private Sigstore of real servers, the real cosign, both ways, and a real buildkitd.
# By hand, as root:  scripts/e2e.sh    The first run builds all of them, which takes about fifteen minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=$(mktemp -d /tmp/valise-e2e.XXXXXX)
trap 'scripts/sigstore.sh down "$dir/sigstore" >&2 || true; scripts/buildkit.sh down "$dir/buildkit" >&2 || true; rm -rf "$dir"' EXIT
fail() { echo "e2e: $*" >&2; exit 1; }

scripts/sigstore.sh up "$dir/sigstore" >"$dir/env"
# shellcheck source=/dev/null
. "$dir/env"
cosign=$(scripts/sigstore.sh cosign)

echo "== keyless signing against Fulcio, Rekor 1 and 2, the timestamp authority"
go test -timeout 75m -count=1 -tags e2e ./bundle/sign

echo "== every refusal taken away once"
go test -timeout 75m -count=1 -tags e2e -run TestRemoval ./verify ./installer/device

echo "== Dockerfiles through BuildKit, two platforms at once"
scripts/buildkit.sh up "$dir/buildkit" >"$dir/env"
# shellcheck source=/dev/null
. "$dir/env"
VALISE_TEST_BUILDKIT_HOST=$BUILDKIT_HOST go test -timeout 75m -count=1 -tags e2e -run Dockerfile ./bundle/image

echo "== our commands and cosign check each other's signatures"
go build -o "$dir/valise" ./cmd/valise
issuer=https://token.actions.githubusercontent.com
identity=https://github.com/valise-test/app/.github/workflows/release.yml@refs/tags/v1.0.0
head -c 100000 /dev/urandom >"$dir/blob"
by_identity=(--certificate-identity "$identity" --certificate-oidc-issuer "$issuer" --trusted-root "$VALISE_TRUSTED_ROOT"
  --new-bundle-format --use-signed-timestamps)
verify=("$dir/valise" verify --progress none --identity "$identity" --trusted-root "$VALISE_TRUSTED_ROOT")

# A bundle that is small and real: the first good vector, unsigned.
bundle=$dir/shop-1.2.3.tar.gz
sed '1,/^$/d' testdata/vectors/good-unsigned.bundle >"$bundle"
"$dir/valise" sign "$bundle" --signing-config "$VALISE_SIGNING_CONFIG" --progress none
unshare -n "${verify[@]}" "$bundle" --bundle "$bundle.sigstore.json"
unshare -n "$cosign" verify-blob "${by_identity[@]}" --bundle "$bundle.sigstore.json" "$bundle"
(cd "$dir" && tar xzf "$bundle" manifest.json manifest.json.sigstore.json)
unshare -n "$cosign" verify-blob "${by_identity[@]}" --bundle "$dir/manifest.json.sigstore.json" "$dir/manifest.json"

token=$(curl -fsS -H "Authorization: bearer $ACTIONS_ID_TOKEN_REQUEST_TOKEN" "$ACTIONS_ID_TOKEN_REQUEST_URL&audience=sigstore" |
  sed 's/.*"value":"\([^"]*\)".*/\1/')
"$cosign" sign-blob --yes --identity-token "$token" --signing-config "$VALISE_SIGNING_CONFIG" --trusted-root "$VALISE_TRUSTED_ROOT" \
  --new-bundle-format --bundle "$dir/blob.sigstore.json" "$dir/blob" >/dev/null
unshare -n "${verify[@]}" --bundle "$dir/blob.sigstore.json" "$dir/blob"
unshare -n "${verify[@]}" --bundle "$dir/blob.sigstore.json" "sha256:$(sha256sum "$dir/blob" | cut -d' ' -f1)"

# The installer itself, with a certificate that expired long ago. Without an engine, what is trusted gets as far as
# looking for one.
CGO_ENABLED=0 go build -tags grpcnotrace -o "$dir/valise-installer" ./cmd/valise-installer
install=(env DOCKER_HOST=unix:///nowhere/docker.sock unshare -n "$dir/valise-installer" --root "$dir/device" --progress none install
  verify/testdata/keyless/shop-1.2.3.tar.gz --trusted-root verify/testdata/keyless/trusted_root.json --identity)
code=0
"${install[@]}" "$identity" 2>"$dir/err" || code=$?
{ [ $code -eq 1 ] && grep -q 'reach container engine' "$dir/err"; } || fail "a trusted bundle ended with exit code $code: $(cat "$dir/err")"
code=0
"${install[@]}" "$identity.1" 2>"$dir/err" || code=$?
{ [ $code -eq 4 ] && grep -q 'check "signer"' "$dir/err"; } || fail "somebody else's bundle ended with exit code $code: $(cat "$dir/err")"

code=0
echo x >>"$dir/blob"
"${verify[@]}" --bundle "$dir/blob.sigstore.json" "$dir/blob" || code=$?
[ $code -eq 4 ] || fail "a changed file ended with exit code $code, want 4"

export COSIGN_PASSWORD=e2e
(cd "$dir" && "$cosign" generate-key-pair)
"$dir/valise" sign "$bundle" --key "$dir/cosign.key" --progress none
"$dir/valise" verify "$bundle" --key "$dir/cosign.pub" --bundle "$bundle.sig" --progress none
"$cosign" verify-blob --key "$dir/cosign.pub" --signature "$bundle.sig" --insecure-ignore-tlog "$bundle"
make -s verify-tarball TARBALL="$bundle" SIG="$bundle.sig" CERT="$dir/cosign.pub"

echo "== rollout files, signed keylessly by our command, and who may sign them on a device"
mkdir "$dir/rollouts"
rollout=("$dir/valise" rollout set 1.2.0 --app shop --dir "$dir/rollouts" --progress none --signing-config "$VALISE_SIGNING_CONFIG"
  --trusted-root "$VALISE_TRUSTED_ROOT")
"${rollout[@]}" 5% --group canary=100% >/dev/null
code=0
"${rollout[@]}" 0% 2>"$dir/err" || code=$?
{ [ $code -eq 1 ] && grep -q 'say who must have signed it' "$dir/err"; } || fail "a rollout file of a signer that was not named ended with exit code $code: $(cat "$dir/err")"
code=0
"${rollout[@]}" 0% --identity "$identity.1" 2>"$dir/err" || code=$?
{ [ $code -eq 4 ] && grep -q 'check "signer"' "$dir/err"; } || fail "another's rollout file ended with exit code $code: $(cat "$dir/err")"
"${rollout[@]}" 0% --group canary=0% --identity "$identity" >/dev/null
unshare -n "$dir/valise" rollout status --app shop --dir "$dir/rollouts" --identity "$identity" --trusted-root "$VALISE_TRUSTED_ROOT" >"$dir/out"
{ grep -qF "signed by $identity" "$dir/out" && grep -q '1.2.0 *0% of devices, 0% of group canary' "$dir/out"; } || fail "rollout status says $(cat "$dir/out")"
VALISE_TEST_ROLLOUTS=$dir/rollouts go test -timeout 75m -count=1 -tags e2e -run TestRolloutKeyless ./installer/device

echo "== an updater older than Valise, with cosign and tar, takes a file tree"
tree=$dir/tree
mkdir -p "$tree/bin" "$tree/packaging" "$tree/device/releases"
printf '#!/bin/sh\necho cloud\n' >"$tree/bin/cloud"
chmod 755 "$tree/bin/cloud"
printf '[Service]\nExecStart=/opt/cloud/current/bin/cloud\n' >"$tree/packaging/cloud.service"
echo PORT=8080 >"$tree/.env.example"
cat >"$tree/valise.yaml" <<'END'
app: cloud
platforms: [linux/amd64]
output: cloud-{{.Tag}}-x86_64-linux.tar.gz
installer: none
tree: {files: [{from: bin, to: bin}, {from: packaging, to: packaging}], units: [packaging/cloud.service]}
health: {http: "http://127.0.0.1:8080/health"}
END
for version in 1.0.0 1.1.0; do
  "$dir/valise" build "$version" --project "$tree/valise.yaml" -o "$tree" --progress none >/dev/null
done
sigstore=$(dirname "$VALISE_TRUSTED_ROOT")
keyless=(env SIGSTORE_ROOT_FILE="$sigstore/fulcio.pem" SIGSTORE_CT_LOG_PUBLIC_KEY_FILE="$sigstore/ct.pub"
  SIGSTORE_REKOR_PUBLIC_KEY="$sigstore/rekor1.pub" COSIGN="$cosign" cmd/valise/testdata/consumers/tree-updater)
search=(--certificate-oidc-issuer "$issuer" --rekor-url "$(sed 's/.*"rekor1_url":"\([^"]*\)".*/\1/' "$VALISE_SIGSTORE_JSON")")
file=$tree/cloud-v1.0.0-x86_64-linux.tar.gz
"$dir/valise" sign "$file" --signing-config "$sigstore/signing_config_rekor1.json" --progress none
if "${keyless[@]}" "$file" "$tree/device/releases" "${search[@]}" --certificate-identity "$identity.1"; then fail "cosign took somebody else's file"; fi
"${keyless[@]}" "$file" "$tree/device/releases" "${search[@]}" --certificate-identity-regexp '^https://github\.com/valise-test/app/.*$'
[ "$("$tree/device/current/bin/cloud")" = cloud ] || fail "the file tree does not run"
keyed=(env COSIGN="$cosign" unshare -n cmd/valise/testdata/consumers/tree-updater)
file=$tree/cloud-v1.1.0-x86_64-linux.tar.gz
"$dir/valise" sign "$file" --key "$dir/cosign.key" --progress none
"${keyed[@]}" "$file" "$tree/device/releases" --key "$dir/cosign.pub" --insecure-ignore-tlog
[ "$(readlink "$tree/device/current")" = releases/v1.1.0 ] || fail "the signed file tree is not current"
rm -r "$tree/device/releases/v1.1.0"
echo x >>"$file"
(cd "$tree" && sha256sum "${file##*/}" >"${file##*/}.sha256")
if "${keyed[@]}" "$file" "$tree/device/releases" --key "$dir/cosign.pub" --insecure-ignore-tlog; then fail "cosign took a changed file"; fi
[ "$(ls -A "$tree/device/releases")" = v1.0.0 ] || fail "a changed file was unpacked"
echo "e2e: ok"
