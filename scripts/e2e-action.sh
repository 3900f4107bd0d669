#!/usr/bin/env bash
# The Action as workflows run it: by act on this machine, against a double of GitHub and the private Sigstore, from
# pushed tags to published releases; then a device with a Docker engine installs and updates from them.
# By hand, as root, after scripts/setup.sh:  scripts/e2e-action.sh
# The first run builds act (a minute) and what make e2e needs. Everything else is below one temporary directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

act_version=v0.2.89
cache=$(realpath -m -- "${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}")

step() { printf '\n== %s\n' "$*"; }
fail() { echo "e2e-action: $*" >&2; exit 1; }

act=$cache/act/$act_version/act
if [ ! -x "$act" ]; then
  echo "e2e-action: building act, this takes a minute once" >&2
  GOBIN=$(dirname "$act") GOFLAGS='' CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "github.com/nektos/act@$act_version"
fi

dir=$(mktemp -d /tmp/valise-e2e-action.XXXXXX)
pids=() stand_ins=()
clean() {
  status=$?
  trap '' INT TERM
  if [ -e "$dir/device/opt/shop" ]; then
    docker compose -p shop down -v --remove-orphans >/dev/null 2>&1 || true
    keepers=$(docker ps -aq --filter label=dev.valise.app=shop)
    # shellcheck disable=SC2086 # ids, one word each
    [ -z "$keepers" ] || docker rm -f $keepers >/dev/null || true
    images=$(docker images -q valise/shop)
    # shellcheck disable=SC2086
    [ -z "$images" ] || docker rmi -f $images >/dev/null || true
  fi
  for name in tiny pair; do [ ! -e "$dir/field/root" ] || docker compose -p "$name" down -v --remove-orphans >/dev/null 2>&1 || true; done
  [ ! -d "$dir/engine" ] || scripts/engine.sh down "$dir/engine" >&2 || true
  scripts/buildkit.sh down "$dir/buildkit" >&2 || true
  scripts/sigstore.sh down "$dir/sigstore" >&2 || true
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  if [ $status -ne 0 ] && [ -e "$dir/act.log" ]; then tail -n 40 "$dir/act.log" >&2; fi
  if [ -z "${VALISE_KEEP:-}" ]; then rm -rf "$dir"; else echo "kept: $dir" >&2; fi
}
trap clean EXIT

step "Set-up: a private Sigstore, a GitHub, the repository of an app, the Action with its pinned program"
scripts/sigstore.sh up "$dir/sigstore" >"$dir/env"
# shellcheck source=/dev/null
. "$dir/env"
scripts/sample-images.sh >/dev/null
CGO_ENABLED=0 go build -trimpath -o "$dir/githubd" ./scripts/githubd

# github NAME ARGUMENT...: runs a double; its line is in NAME.json.
github() {
  local name=$1
  shift
  mkfifo "$dir/$name.input"
  "$dir/githubd" -dir "$dir/$name" "$@" <>"$dir/$name.input" >"$dir/$name.json" &
  pids+=($!)
  for _ in {1..2400}; do
    [ -s "$dir/$name.json" ] && return
    sleep 0.05
  done
  fail "githubd did not start"
}
field() { sed -nE "s/.*\"$1\":\"([^\"]*)\".*/\1/p" "$2"; }

# The app: this repository as it is, with a workflow of its own. Its commit is tagged.
git clone -q --no-hardlinks . "$dir/app"
git -C "$dir/app" switch -q -C main # act copies no empty directory, and git wants .git/refs
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' f; do if [ -f "$f" ]; then printf '%s\0' "$f"; fi; done |
  tar cf - --null -T - | tar xf - -C "$dir/app"
rm -rf "$dir/app/.github/workflows"
mkdir -p "$dir/app/.github/workflows" "$dir/store"
# What act cannot fetch here is in testdata/action, for the commit that our workflows have.
while read -r pin; do
  name=${pin#*/}
  stand_ins+=(--local-repository "$pin=$PWD/testdata/action/${name%@*}")
done < <(grep -ohE '(actions/(up|down)load-artifact|docker/setup-[a-z]+-action)@[0-9a-f]{40}' examples/workflows/*.yml | sort -u)
cp testdata/action/*.yml "$dir/app/.github/workflows/"
sed -i '/^installer:/d' "$dir/app/examples/shop/valise.yaml" # those of the Action's release
printf '# Changelog\n\n## 1.0.0\n\n- The first.\n' >"$dir/app/examples/shop/CHANGELOG.md"
commit() {
  git -C "$dir/app" add -A
  git -C "$dir/app" -c user.name=e2e -c user.email=e2e@example.org commit -q -m "$1"
  git -C "$dir/app" rev-parse HEAD
}
git -C "$dir/app" remote set-url origin https://github.com/valise-test/app.git
first=$(commit "first")
printf '\n' >>"$dir/app/examples/shop/frontend/site/style.css"
second=$(commit "second")
printf '\n' >>"$dir/app/examples/shop/frontend/site/style.css"
third=$(commit "third")

# The Action's own release: the program for this machine, signed as its release workflow would, and action.pin.
git clone -q --no-hardlinks "$dir/app" "$dir/action"
machine=linux-$(go env GOARCH)
scripts/pin.sh v9.9.9 >"$dir/pin"
installers=$(scripts/installers.sh "$dir/installer" 9.9.9)
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X github.com/valise-ota/valise/cmd/internal/cli.version=9.9.9 -X main.installers=$installers" \
  -o "$dir/valise-$machine" ./cmd/valise
for platform in linux-amd64 linux-arm64; do ln "$dir/installer/$platform/valise-installer" "$dir/valise-installer-$platform"; done
valise=$dir/valise-$machine
ACTIONS_ID_TOKEN_REQUEST_URL="$ACTIONS_ID_TOKEN_REQUEST_URL&repository=valise-ota/valise&ref=refs/tags/v9.9.9" \
  "$valise" sign "$valise" --signing-config "$VALISE_SIGNING_CONFIG" --progress none
github valise -repository valise-ota/valise
api=$(field url "$dir/valise.json")
release=$(curl -fsS -H "Authorization: Bearer $(field write "$dir/valise.json")" -d '{"tag_name":"v9.9.9","draft":false}' "$api/repos/valise-ota/valise/releases")
upload=$(sed -nE 's/.*"upload_url":"([^"{]*).*/\1/p' <<<"$release")
for f in "$valise" "$valise.sigstore.json" "$dir"/valise-installer-*; do
  curl -fsS -o "$dir/uploaded" -H "Authorization: Bearer $(field write "$dir/valise.json")" --data-binary "@$f" "$upload?name=${f##*/}"
done
cp "$VALISE_TRUSTED_ROOT" "$dir/action/trusted_root.json"
sed -E "s|^releases .*|releases $api/valise-ota/valise/releases/download|" "$dir/pin" >"$dir/action/action.pin"
echo "root trusted_root.json" >>"$dir/action/action.pin"

github app -repository valise-test/app -tag "v1.0.0=$first" -tag "v1.1.0=$second" -tag "v1.2.0=$third"
url=$(field url "$dir/app.json")

# push NAME REF ACT-ARGUMENT...: runs the workflow NAME.yml of $app for a ref. CODE says how it must end; SPLIT and
# THIN are inputs of release.yml.
app=$dir/app
push() {
  local name=$1 ref=$2 code=0
  shift 2
  printf '{"ref":"%s","repository":{"full_name":"valise-test/app","default_branch":"main"}}' "$ref" >"$dir/event.json"
  (
    cd "$app"
    env -u ACTIONS_ID_TOKEN_REQUEST_URL -u ACTIONS_ID_TOKEN_REQUEST_TOKEN HOME="$dir/home" GOCACHE="$gocache" GOMODCACHE="$gomodcache" XDG_CACHE_HOME="$dir/home/.cache" VALISE_CACHE="$cache" \
      "$act" "${EVENT:-push}" --pull=false -W ".github/workflows/$name.yml" -e "$dir/event.json" -P ubuntu-24.04=-self-hosted -P ubuntu-24.04-arm=-self-hosted -P ubuntu-latest=-self-hosted --no-cache-server \
      --container-daemon-socket - --local-repository "valise-ota/valise@v9=$dir/action" "${stand_ins[@]}" --env "GITHUB_API_URL=$url" --env "GITHUB_REPOSITORY=valise-test/app" \
      --env "E2E_SPLIT=${SPLIT:-}" --env "E2E_THIN=${THIN:-1}" --env "E2E_STORE=$dir/store" --env "E2E_TRUSTED_ROOT=$VALISE_TRUSTED_ROOT" --env "E2E_SIGNING_CONFIG=$VALISE_SIGNING_CONFIG" "$@"
  ) >"$dir/act.log" 2>&1 || code=$?
  [ $code -eq "${CODE:-0}" ] || fail "the workflow $name for $ref ended with $code, want ${CODE:-0}; the end of its log is below"
}
gocache=$(go env GOCACHE) gomodcache=$(go env GOMODCACHE)
mkdir -p "$dir/home"
said() { grep -qF -- "$1" "$dir/act.log" || fail "the log does not say: $1"; }
trusted() { # REF: the environment and token of a job of this repository that may sign and publish
  printf -- '--env\nACTIONS_ID_TOKEN_REQUEST_URL=%s&ref=%s\n--env\nACTIONS_ID_TOKEN_REQUEST_TOKEN=%s\n-s\nGITHUB_TOKEN=%s\n' \
    "$ACTIONS_ID_TOKEN_REQUEST_URL" "$1" "$ACTIONS_ID_TOKEN_REQUEST_TOKEN" "${2:-$(field write "$dir/app.json")}"
}
mapfile -t as_v1 < <(trusted refs/tags/v1.0.0)
mapfile -t as_v11 < <(trusted refs/tags/v1.1.0)
mapfile -t as_v12 < <(trusted refs/tags/v1.2.0)
mapfile -t reader < <(trusted refs/tags/v1.0.0 "$(field read "$dir/app.json")")
public() { curl -fsS "$url/repos/valise-test/app/releases"; }

git -C "$dir/app" checkout -q "$first"
step "A pull request from a fork: no identity, a token that reads. Publishing says why not; a dry run works"
CODE=1 push release refs/tags/v1.0.0 -s "GITHUB_TOKEN=$(field read "$dir/app.json")"
said 'no OIDC token'
said 'a pull request from a fork never gets one: there, use dry-run: true'
push dry refs/pull/1/merge -s "GITHUB_TOKEN=$(field read "$dir/app.json")"
said 'valise build 0.0.0-dryrun'
[ "$(public)" = '[]' ] || fail "something was published: $(public)"

step "A job without the permission contents: write"
CODE=1 push release refs/tags/v1.0.0 "${reader[@]}"
said 'the token may not do that (Resource not accessible by integration)'
said 'permissions: contents: write'
[ "$(public)" = '[]' ] || fail "something was published: $(public)"

step "Tag v1.0.0: one job builds, the other one signs and publishes"
push release refs/tags/v1.0.0 "${as_v1[@]}"
said "url=$url/valise-test/app/releases/tag/v1.0.0"
public | grep '"tag_name":"v1.0.0"' >/dev/null || fail "v1.0.0 is not public"

step "The workflow is run again: done already"
push release refs/tags/v1.0.0 "${as_v1[@]}"
said 'is published, with signatures of an earlier run, which stay'

step "Tag v1.1.0: with a thin bundle for devices on 1.0.0"
git -C "$dir/app" checkout -q "$second"
push release refs/tags/v1.1.0 "${as_v11[@]}"
said 'thin=dist/shop-1.1.0-from-1.0.0.tar.gz'

step "Tag v1.2.0: a bundle larger than a release may have files, in parts"
git -C "$dir/app" checkout -q "$third"
SPLIT=20MiB THIN=0 push release refs/tags/v1.2.0 "${as_v12[@]}"
said "url=$url/valise-test/app/releases/tag/v1.2.0"
parts=$(public | grep -o '"name":"shop-1.2.0.tar.gz[^"]*"' | grep -cE '\.[0-9]{3}"$') || fail "v1.2.0 has no parts"
[ "$parts" -ge 3 ] || fail "v1.2.0 has $parts parts"

step "uses: ./ builds valise from the source of the commit"
push local refs/heads/main
said 'version=0.0.0-dryrun'

step "A program that is not the pinned one is not run"
cp "$dir/action/action.pin" "$dir/action.pin"
sed -i -E "s/^($machine) ./\1 0/; t; s/^($machine) 0/\1 1/" "$dir/action/action.pin"
CODE=1 push dry refs/pull/1/merge
said 'is not the one that this Action was released with'
mv "$dir/action.pin" "$dir/action/action.pin"

step "A device installs 1.0.0 from a stick, and shop-update takes 1.1.0 and the parts of 1.2.0 from the releases"
if docker version --format '{{.Server.Version}}' >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
  DOCKER_HOST=${DOCKER_HOST:-unix:///var/run/docker.sock}
else
  scripts/engine.sh up "$dir/engine" >"$dir/env"
  # shellcheck source=/dev/null
  . "$dir/env"
fi
export DOCKER_HOST
[ -z "$(docker ps -aq --filter label=com.docker.compose.project=shop)" ] || fail "this engine already runs a project called shop; stop it first"
mkdir "$dir/stick"
for file in v1.0.0/shop-1.0.0.tar.gz v1.0.0/CHECKSUMS.txt v1.0.0/CHECKSUMS.txt.sigstore.json v1.1.0/shop-1.1.0-from-1.0.0.tar.gz; do
  curl -fsSL -o "$dir/stick/${file#*/}" "$url/valise-test/app/releases/download/$file"
done
identity='https://github\.com/valise-test/app/\.github/workflows/release\.yml@refs/tags/v.+'
trust=(--identity-regexp "$identity" --trusted-root "$VALISE_TRUSTED_ROOT")
unshare -n "$valise" verify "$dir/stick/shop-1.0.0.tar.gz" "${trust[@]}" --progress none
unshare -n "$valise" verify --checksums "$dir/stick/CHECKSUMS.txt" "$dir/stick/shop-1.0.0.tar.gz" "${trust[@]}" --progress none
tar xzOf "$dir/stick/shop-1.0.0.tar.gz" "installer/$machine/valise-installer" >"$dir/valise-installer"
chmod +x "$dir/valise-installer"
device=("$dir/valise-installer" --root "$dir/device" --progress plain)
"${device[@]}" install "$dir/stick/shop-1.0.0.tar.gz" "${trust[@]}"
"${device[@]}" plan "$dir/stick/shop-1.1.0-from-1.0.0.tar.gz" | grep 'update 1.0.0 -> 1.1.0' >/dev/null || fail "the thin bundle is not an update"
# The first installation wrote where the bundle's source says releases are; here that repository is on the double.
sed -i '/^source:/,$d' "$dir/device/etc/valise/shop.yaml"
printf 'source:\n  github: valise-test/app\n  api: %s\n' "$url" >>"$dir/device/etc/valise/shop.yaml"
update=("$dir/device/usr/local/bin/shop-update" --root "$dir/device")
"${update[@]}" --check
for version in 1.1.0 1.2.0; do
  "${update[@]}" "v$version" --progress plain
  answer=$(curl -fsS http://127.0.0.1:18080/health)
  [[ $answer == *"\"version\":\"$version\""* ]] || fail "the app answers $answer"
done
"${device[@]}" uninstall --purge --yes >/dev/null

step "The workflow of the README, for tags as people write them: what the notes say installs N, and N+1 follows under the strictest policy"
# block NAME: the lines between ```NAME and ```.
block() { awk -v begin="\`\`\`$1" '$0 == begin {code = 1; next} $0 == "```" {code = 0} code'; }
app=$dir/tiny
mkdir -p "$app/.github/workflows"
cat >"$dir/web.go" <<'END'
package main

import (
	"context"
	"os/signal"
	"syscall"
)

func main() {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	<-ctx.Done()
}
END
CGO_ENABLED=0 go build -trimpath -o "$app/web" "$dir/web.go"
cat >"$app/valise.yaml" <<END
app: tiny
compose: compose.yaml
platforms: [linux/$(go env GOARCH)]
images: {web: {base: scratch, files: [{from: web, to: /web}]}}
health: {compose: [web], retries: 600, interval: 200ms}
END
block yaml <README.md | sed 's/valise@COMMIT/valise@v9/' >"$app/.github/workflows/release.yml"
grep -q 'valise-ota/valise@v9$' "$app/.github/workflows/release.yml" || fail "the README has no workflow"
# A private Sigstore in place of the public one is all that is added.
private=$(sed -n '/^ *trusted-root:/p; /^ *signing-config:/p' testdata/action/release.yml)
printf '        with:\n%s\n' "$private" >>"$app/.github/workflows/release.yml"
sed "s/^on: .*/on: [push, workflow_call]/" "$app/.github/workflows/release.yml" >"$app/.github/workflows/shared.yml"
cat >"$app/.github/workflows/caller.yml" <<'END'
on: push
permissions: {}
jobs:
  release:
    permissions: {contents: write, id-token: write}
    uses: ./.github/workflows/shared.yml
END
# Nothing is in the image: the programs are those of this machine.
mkdir -p "$dir"/box/{etc,root,tmp,usr}
for name in bin lib lib64 sbin; do ln -s "usr/$name" "$dir/box/$name"; done
echo 'root:x:0:0:root:/root:/bin/sh' >"$dir/box/etc/passwd"
tar c -C "$dir/box" . | docker import - valise-e2e-box >/dev/null
cat >"$app/.github/workflows/box.yml" <<END
on: push
permissions: {}
jobs:
  release:
    runs-on: ubuntu-24.04
    container:
      image: valise-e2e-box
      volumes: ['/usr:/usr:ro', '$dir/trust:/trust:ro']
    permissions: {contents: write, id-token: write}
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1
      - run: chown -R 1001:1001 . && ! git status # as on a runner, who is another user than the container's
      - uses: valise-ota/valise@v9
        with: {trusted-root: /trust/trusted_root.json, signing-config: /trust/signing.json}
END
mkdir "$dir/trust"
cp "$VALISE_TRUSTED_ROOT" "$dir/trust/trusted_root.json"
cp "$VALISE_SIGNING_CONFIG" "$dir/trust/signing.json"
git -C "$app" init -q -b main
git -C "$app" remote add origin https://github.com/valise-test/app.git
shapes=(1.0.0 v3.0.0 2026.11.28 app/v1.0.0 tiny-v1.0.0 tiny@1.0.0 box/v1.0.0)
next_of() { case $1 in 2026.11.28) echo 2026.11.29 ;; *) echo "${1%.0.0}.1.0" ;; esac }
# publishes NAME ARGUMENT...: the repository $app gets two commits, tagged in $shapes, and a double NAME that knows them.
publishes() {
  local name=$1 n tag tags=()
  shift
  for n in 1 2; do
    sed "s/NUMBER/$n/" "$app/compose.in" >"$app/compose.yaml"
    git -C "$app" add -A
    git -C "$app" -c user.name=e2e -c user.email=e2e@example.org commit -q -m "feat: number $n"
    for tag in "${shapes[@]}"; do
      [ "$n" = 1 ] || tag=$(next_of "$tag")
      git -C "$app" tag "$tag"
      tags+=(-tag "$tag=$(git -C "$app" rev-parse HEAD)")
    done
  done
  github "$name" -repository valise-test/app "${tags[@]}" "$@"
  url=$(field url "$dir/$name.json")
  write=$(field write "$dir/$name.json")
}
echo "services: {web: {image: web, restart: always, command: [/web], environment: {N: 'NUMBER'}}}" >"$app/compose.in"
publishes tiny -tag "box/v9.9.9=0123456789012345678901234567890123456789"
# release-please made one of the releases with its tag, and goreleaser put its files there.
release=$(curl -fsS -H "Authorization: Bearer $write" -d '{"tag_name":"tiny-v1.1.0","name":"tiny-v1.1.0","body":"Notes of release-please.","draft":false}' "$url/repos/valise-test/app/releases")
upload=$(sed -nE 's/.*"upload_url":"([^"{]*).*/\1/p' <<<"$release")
echo "12ab  another_linux_amd64.tar.gz" >"$dir/theirs"
curl -fsS -o "$dir/uploaded" -H "Authorization: Bearer $write" --data-binary "@$dir/theirs" "$upload?name=CHECKSUMS.txt"

# released NAME TAG CLAIMS: the workflow NAME for a tag publishes it, as a job of CLAIMS on a machine of GitHub's.
released() {
  git -C "$app" checkout -q "$2"
  rm -rf "$dir/store" && mkdir "$dir/store"
  push "$1" "refs/tags/$2" -s "GITHUB_TOKEN=$write" --env "ACTIONS_ID_TOKEN_REQUEST_URL=$ACTIONS_ID_TOKEN_REQUEST_URL&ref=refs/tags/$2$3" --env "ACTIONS_ID_TOKEN_REQUEST_TOKEN=$ACTIONS_ID_TOKEN_REQUEST_TOKEN" \
    --env RUNNER_ENVIRONMENT=github-hosted --env "GITHUB_WORKFLOW_REF=valise-test/app/.github/workflows/$1.yml@refs/tags/$2"
  [ "${CODE:-0}" -ne 0 ] || said "$url/valise-test/app/releases/tag/$2"
}
# notes TAG, asset TAG NAME: of a release, as everybody reads it.
notes() { curl -fsS "$url/repos/valise-test/app/releases/tags/$1" | python3 -c 'import json, sys; print(json.load(sys.stdin)["body"])'; }
asset() { curl -fsSL -o "$2" "$url/valise-test/app/releases/download/$1/$2"; }

# No command of a group before || ends it by failing: each says so.
# follows NAME TAG CLAIMS: a device installs TAG as its notes say, and takes the release after it.
follows() {
  local next version
  next=$(next_of "$2") version=${2##*[!0-9.]}
  released "$1" "$2" "$3"
  released "$1" "$next" "$3"
  rm -rf "$dir/field" && mkdir "$dir/field"
  (
    cd "$dir/field" || exit 1
    asset "$2" "$product-$version.tar.gz" || exit 1
    asset "$2" trusted_root.json || exit 1
    notes "$2" | sed -n '/^## Install it/,$p' | block sh | grep install.sh >install || exit 1
    sed -i '$s|$| --root '"$dir/field/root"' --progress plain|' install
    bash -euo pipefail install || { cat install >&2; exit 1; }
    asset "$next" "$product-${next##*[!0-9.]}.tar.gz" || exit 1
    sed -i "s|^trust:|&\n  provenance: {repository: 'https://github.com/valise-test/app', ref_regexp: 'refs/tags/.*', workflow: .github/workflows/$1.yml, builder: 'https://github.com/actions/runner/github-hosted', sbom: true}|" "root/etc/valise/$product.yaml" || exit 1
    root/usr/local/bin/valise-installer --root "$dir/field/root" update "$product-${next##*[!0-9.]}.tar.gz" --progress plain || exit 1
    root/usr/local/bin/valise-installer --root "$dir/field/root" uninstall --purge --yes >/dev/null
  ) || fail "a device with $2 does not follow to $next"
}
product=tiny
for tag in 1.0.0 2026.11.28 app/v1.0.0 tiny-v1.0.0 tiny@1.0.0; do
  follows release "$tag" ''
done
notes tiny-v1.1.0 | grep '^Notes of release-please\.' >/dev/null || fail "the notes of release-please are gone"
follows caller v3.0.0 '&workflow=caller.yml&job_workflow_ref=acme/shared/.github/workflows/valise.yml@refs/heads/main'
said 'and so is what any other repository signs that calls this workflow'

step "A job in a container, whose checkout belongs to another user: commit, tag and changelog are there, and the tag is checked"
follows box box/v1.0.0 '&workflow=box.yml'
notes box/v1.1.0 | grep 'number 2' >/dev/null || fail "the notes lack the commit: $(notes box/v1.1.0)"
source=$(cd "$dir/field" && asset box/v1.1.0 tiny-1.1.0.manifest.json && python3 -c 'import json; s = json.load(open("tiny-1.1.0.manifest.json"))["source"]; print(s["commit"], s["ref"])')
[ "$source" = "$(git -C "$app" rev-parse HEAD) refs/tags/box/v1.1.0" ] || fail "the bundle is from $source"
git -C "$app" tag box/v9.9.9
CODE=1 released box box/v9.9.9 '&workflow=box.yml'
said 'tag box/v9.9.9 is commit 012345678901, but the bundle was built from'

step "From a compose file and a Dockerfile: the workflow that valise init --github writes; releases that are immutable, and what workflow_dispatch does then"
scripts/buildkit.sh up "$dir/buildkit" >"$dir/env"
# shellcheck source=/dev/null
E2E_BUILDKIT=$(. "$dir/env" && echo "$BUILDKIT_HOST") E2E_BUILDCTL=$(. "$dir/env" && dirname "$(command -v buildctl)")
export E2E_BUILDKIT E2E_BUILDCTL
app=$dir/pair product=pair shapes=(v1.0.0 v3.0.0)
mkdir "$app"
git -C "$app" init -q -b main
git -C "$app" remote add origin https://github.com/valise-test/app.git
for arch in amd64 arm64; do CGO_ENABLED=0 GOARCH=$arch go build -trimpath -o "$app/web-$arch" "$dir/web.go"; done
# shellcheck disable=SC2016 # for BuildKit
printf '%s\n' 'FROM scratch' 'ARG TARGETARCH' 'COPY web-$TARGETARCH /web' 'CMD ["/web"]' >"$app/Dockerfile"
echo "services: {web: {build: ., restart: always, environment: {N: 'NUMBER'}}}" | tee "$app/compose.in" >"$app/compose.yaml"
(cd "$app" && "$valise" init --github --action valise-ota/valise@v9)
sed 's/valise@[0-9a-f]* # .*/valise@v9/' examples/workflows/native.yml >"$app/.github/workflows/native.yml"
for name in release native; do echo "$private" >>"$app/.github/workflows/$name.yml"; done
sed '/^  release:/,$d' "$app/.github/workflows/release.yml" >"$app/.github/workflows/single.yml" # its job that builds
publishes pair -immutable
follows release v1.0.0 ''
CODE=1 EVENT=workflow_dispatch released release v1.1.0 '' # another run makes another bundle
said 'release v1.1.0 is published and immutable already'
CODE=1 EVENT=workflow_dispatch push release refs/heads/main
said 'no version: refs/heads/main is not a tag'

step "examples/workflows/native.yml: a job for each platform, joined without QEMU: the bytes of one build, on a device"
follows native v3.0.0 '&workflow=native.yml'
"$valise" join "$dir"/store/bundle-[12]/pair-3.1.0.tar.gz -o "$dir/joined.tar.gz" --progress none
(cd "$dir/field" && asset v3.1.0 pair-3.1.0.manifest.json)
push single refs/tags/v3.1.0 --env RUNNER_ENVIRONMENT=github-hosted --env GITHUB_WORKFLOW_REF=valise-test/app/.github/workflows/native.yml@refs/tags/v3.1.0
cmp "$dir/joined.tar.gz" "$dir/store/bundle/pair-3.1.0.tar.gz"
tar xzOf "$dir/joined.tar.gz" manifest.json | cmp - "$dir/field/pair-3.1.0.manifest.json"
echo "e2e-action: ok"
