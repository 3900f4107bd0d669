#!/usr/bin/env bash
# Our own release as .github/workflows/release.yml makes it, without GitHub: built twice, in two directories, and
# compared; signed by cosign as the workflow, in a private Sigstore; published to a double of GitHub; then taken from
# there as people, the Action and packages do. action.pin is compared with what is built.
# By hand, as root:  scripts/release-check.sh [--tag vVERSION]      (the same as make release-check)
# --tag: as the version of a tag; action.pin and the section of CHANGELOG.md must be there.
# The first run compiles for every platform, and builds goreleaser and what make e2e needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "release-check: $*" >&2; exit 1; }
step() { echo "== $(date -u +%T) $*"; }
version=v0.0.0-snapshot tag=
case ${1:-} in
'') ;;
--tag) version=${2:?} tag=$2 ;;
*) echo "usage: release-check.sh [--tag vVERSION]" >&2; exit 64 ;;
esac
[ "$(id -u)" -eq 0 ] || fail "packages are installed on a machine of their own: run this as root"
command -v rpm >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends rpm >&2

goreleaser=$(scripts/release.sh goreleaser)
cosign=$(scripts/sigstore.sh cosign)
dir=$(mktemp -d /tmp/valise-release-check.XXXXXX)
pids=()
clean() {
  scripts/sigstore.sh down "$dir/sigstore" >&2 || true
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  if [ -z "${VALISE_KEEP:-}" ]; then rm -rf "$dir"; else echo "kept: $dir" >&2; fi
}
trap clean EXIT

# The committed tree and what is not committed yet, as a commit of its own: goreleaser wants a clean one.
copy() {
  git clone -q --no-hardlinks . "$1"
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' f; do if [ -f "$f" ]; then printf '%s\0' "$f"; fi; done |
    tar cf - --null -T - | tar xf - -C "$1"
  git -C "$1" remote set-url origin https://github.com/valise-ota/valise.git
  [ -n "$tag" ] || printf '\n## [%s] - %s\n\n- A snapshot.\n' "${version#v}" "${2%%T*}" >>"$1/CHANGELOG.md"
  git -C "$1" add -A
  GIT_AUTHOR_DATE=$2 GIT_COMMITTER_DATE=$2 git -C "$1" -c user.name=check -c user.email=check@example.org commit -q --allow-empty -m check
  [ -n "$(git -C "$1" tag -l 'v*')" ] || git -C "$1" tag v0.0.0
}
when=$(git log -1 --format=%cI)
copy "$dir/one" "$when"
copy "$dir/another-directory" "$when"
if [ -n "$tag" ]; then scripts/release.sh notes "$tag" >"$dir/notes"; fi

scripts/sigstore.sh up "$dir/sigstore" >"$dir/env"
# shellcheck source=/dev/null
. "$dir/env"
repository=valise-ota/valise
identity="https://github.com/$repository/.github/workflows/release.yml@refs/tags/$version"
export ACTIONS_ID_TOKEN_REQUEST_URL="$ACTIONS_ID_TOKEN_REQUEST_URL&repository=$repository&ref=refs/tags/$version"
# cosign as the release calls it, for the private Sigstore.
mkdir "$dir/bin"
cat >"$dir/bin/cosign" <<END
#!/usr/bin/env bash
set -euo pipefail
command=\$1
shift
case \$command in
sign-blob) exec "$cosign" sign-blob --signing-config "$VALISE_SIGNING_CONFIG" --trusted-root "$VALISE_TRUSTED_ROOT" "\$@" ;;
verify-blob) exec "$cosign" verify-blob --use-signed-timestamps --trusted-root "$VALISE_TRUSTED_ROOT" "\$@" ;;
esac
exit 64
END
chmod +x "$dir/bin/cosign"

# build DIR ARGUMENT...
build() {
  local n=$1
  shift
  step "build in $n"
  (cd "$dir/$n" && PATH=$dir/bin:$PATH VALISE_VERSION=${version#v} "$goreleaser" release --snapshot --clean --parallelism 2 "$@" >"$dir/$n.log" 2>&1) ||
    { tail -n 30 "$dir/$n.log" >&2; fail "goreleaser failed"; }
  scripts/release.sh gather "$dir/$n/dist" "$dir/$n.files"
  (cd "$dir/$n.files" && find . -type f ! -name '*.sigstore.json' -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum) >"$dir/$n.sums"
}
build one
build another-directory --skip=sign
diff "$dir/one.sums" "$dir/another-directory.sums" || fail "the two builds differ"
step "$(wc -l <"$dir/one.sums") files, the same twice"
files=$dir/one.files

step "action.pin"
scripts/pin.sh "$version" >"$dir/action.pin"
for machine in linux-amd64 linux-arm64; do
  [ "$(sed -n "s/^$machine //p" "$dir/action.pin")" = "$(sha256sum <"$files/valise-$machine" | cut -d' ' -f1)" ] ||
    fail "scripts/pin.sh and the release build differ for $machine"
done
[ -z "$tag" ] || diff action.pin "$dir/action.pin" || fail "action.pin is not what this commit builds: scripts/pin.sh $tag >action.pin, commit, tag that"

step "published, to a double of GitHub"
CGO_ENABLED=0 go build -trimpath -o "$dir/githubd" ./scripts/githubd
mkfifo "$dir/input"
"$dir/githubd" -dir "$dir/github" -repository "$repository" -tag "$version=$(git -C "$dir/one" rev-parse HEAD)" <>"$dir/input" >"$dir/github.json" &
pids+=($!)
for _ in {1..2400}; do [ ! -s "$dir/github.json" ] || break; sleep 0.05; done
field() { sed -nE "s/.*\"$1\":\"([^\"]*)\".*/\1/p" "$dir/github.json"; }
url=$(field url)
publish() { (cd "$dir/one" && env GITHUB_REF_NAME="$version" GITHUB_REPOSITORY="$repository" GITHUB_API_URL="$url" GITHUB_TOKEN="$(field write)" scripts/release.sh publish); }
cp "$files/valise-linux-arm64" "$dir/kept"
printf x >>"$dir"/one/dist/valise_linux_arm64*/valise
if publish >"$dir/out" 2>&1; then fail "a changed file was published"; fi
grep -q 'valise-linux-arm64' "$dir/out" || fail "a changed file: $(cat "$dir/out")"
cp "$dir/kept" "$(echo "$dir"/one/dist/valise_linux_arm64*/valise)"
publish >/dev/null
publish | grep ', 0 of them uploaded now' >/dev/null || fail "a second run did something"

step "installed as docs/get.md says, by whoever has cosign or an older valise, and by the Action"
machine=linux-$(go env GOARCH)
awk '/^```/{code = $0 == "```sh"; next} code' docs/get.md |
  sed "s|linux-amd64|$machine|g; s|^version=.*|version=$version|; s|\"\$from/releases/download|\"$url/$repository/releases/download|; s|/usr/local/bin/valise|$dir/valise|" >"$dir/get.sh"
mkdir "$dir/get"
(cd "$dir/get" && PATH=$dir/bin:$PATH bash -euo pipefail "$dir/get.sh" >"$dir/out" 2>&1) || fail "the commands of docs/get.md: $(cat "$dir/out")"
"$dir/valise" --version | grep -F "${version#v}" >/dev/null || fail "the program is $("$dir/valise" --version), want ${version#v}"
trust=(--identity "$identity" --trusted-root "$VALISE_TRUSTED_ROOT" --progress none)
(cd "$dir/get" && unshare -n "$dir/valise" verify --checksums CHECKSUMS.txt "valise-$machine" "${trust[@]}")

step "bundles carry the installers of the same release: from the archive, or downloaded once"
for platform in linux-amd64 linux-arm64 linux-arm-v7; do
  tar -xzOf "$files/valise-${version#v}-$machine.tar.gz" --wildcards "*/installer/$platform/valise-installer" | cmp - "$files/valise-installer-$platform"
done
cp -r examples/hello "$dir/hello"
sed -i '/^installer:/d' "$dir/hello/valise.yaml"
hello() { XDG_CACHE_HOME=$dir/cache "$@" "$dir/valise" build 1.0.0 --project "$dir/hello/valise.yaml" -o "$dir/hello.tar.gz" --progress none >"$dir/out" 2>&1; }
if hello unshare -n; then fail "a bundle was built with installers from nowhere"; fi
grep -q 'or "installer: none"' "$dir/out" || fail "without a network: $(cat "$dir/out")"
hello env "VALISE_RELEASES=$url/$repository/releases/download" || fail "installers cannot be downloaded: $(cat "$dir/out")"
hello unshare -n || fail "installers are downloaded twice: $(cat "$dir/out")"
"$dir/valise" inspect "$dir/hello.tar.gz" | grep "^installer  *${version#v} linux/amd64, ${version#v} linux/arm64, ${version#v} linux/arm/v7$" >/dev/null || fail "another installer"

printf x >>"$dir/get/valise-$machine"
rm "$dir/valise"
if (cd "$dir/get" && sed '/^curl/d' "$dir/get.sh" | PATH=$dir/bin:$PATH bash -euo pipefail) >/dev/null 2>&1 || [ -e "$dir/valise" ]; then
  fail "docs/get.md installs a changed file"
fi
mkdir -p "$dir/action/scripts"
cp scripts/action.sh "$dir/action/scripts/"
cp "$VALISE_TRUSTED_ROOT" "$dir/action/trusted_root.json"
{ sed "s|^releases .*|releases $url/$repository/releases/download|" "$dir/action.pin"; echo "root trusted_root.json"; } >"$dir/action/action.pin"
if env -u GITHUB_OUTPUT "$dir/action/scripts/action.sh" >"$dir/out" 2>&1 || ! grep -q 'this is not a step of GitHub Actions' "$dir/out"; then
  fail "the Action does not take the program: $(cat "$dir/out")" # it runs, and says that
fi

step "packages"
scripts/package-check.sh "$files" "${version#v}"
step "ok, $(wc -l <"$files/CHECKSUMS.txt") files in CHECKSUMS.txt"
