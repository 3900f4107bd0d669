#!/usr/bin/env bash
# Builds our own release as a snapshot, twice, in two directories, and compares every file; checks that action.pin is
# what this commit builds; signs the result and verifies it with the valise that is in it, as a device would.
# By hand:  scripts/release-check.sh [--tag vVERSION]      (the same as make release-check)
# --tag: as the version of a tag, and action.pin must be there and right. The first run builds goreleaser.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "release-check: $*" >&2; exit 1; }
version=v0.0.0-snapshot tag=
case ${1:-} in
'') ;;
--tag) version=${2:?} tag=$2 ;;
*) echo "usage: release-check.sh [--tag vVERSION]" >&2; exit 64 ;;
esac

goreleaser=$(scripts/release.sh goreleaser)
dir=$(mktemp -d /tmp/valise-release-check.XXXXXX)
trap '[ -n "${VALISE_KEEP:-}" ] && echo "kept: $dir" >&2 || rm -rf "$dir"' EXIT

# The committed tree and what is not committed yet, as a commit of its own: goreleaser wants a clean one.
copy() {
  git clone -q --no-hardlinks . "$1"
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' f; do if [ -f "$f" ]; then printf '%s\0' "$f"; fi; done |
    tar cf - --null -T - | tar xf - -C "$1"
  git -C "$1" remote set-url origin https://github.com/valise-ota/valise.git
  git -C "$1" add -A
  GIT_AUTHOR_DATE=$2 GIT_COMMITTER_DATE=$2 git -C "$1" -c user.name=check -c user.email=check@example.org commit -q --allow-empty -m check
  [ -n "$(git -C "$1" tag -l 'v*')" ] || git -C "$1" tag v0.0.0
}
# gather DIST DIR: the files of the release under their names there. Programs are in directories of their own before.
gather() {
  local f name
  mkdir "$2"
  find "$1" -maxdepth 1 -type f ! -name '*.json' ! -name '*.yaml' -exec cp -t "$2" {} +
  find "$1" -maxdepth 1 -type f -name '*.cdx.json' -exec cp -t "$2" {} +
  for f in "$1"/*/valise*; do
    name=$(basename "$(dirname "$f")" | sed -E 's/_(linux|darwin|windows)_(amd64|arm64|arm)_.*$/-\1-\2/; s/-arm$/-arm-v7/')
    [[ $f != *.exe ]] || name=$name.exe
    cp "$f" "$2/$name"
  done
}
when=$(git log -1 --format=%cI)
copy "$dir/one" "$when"
copy "$dir/another-directory" "$when"
for n in one another-directory; do
  echo "== build in $n, at $(date -u +%T)" >&2
  (cd "$dir/$n" && VALISE_VERSION=${version#v} "$goreleaser" release --snapshot --clean --skip=sign --parallelism 2 >"$dir/$n.log" 2>&1) ||
    { tail -n 30 "$dir/$n.log" >&2; fail "goreleaser failed"; }
  gather "$dir/$n/dist" "$dir/$n.files"
  (cd "$dir/$n.files" && sha256sum -- *) >"$dir/$n.sums"
done
diff "$dir/one.sums" "$dir/another-directory.sums" || fail "the two builds differ"
echo "== $(wc -l <"$dir/one.sums") files, the same twice"
dist=$dir/one.files

echo "== action.pin"
scripts/pin.sh "$version" >"$dir/action.pin"
for machine in linux-amd64 linux-arm64; do
  [ "$(sed -n "s/^$machine //p" "$dir/action.pin")" = "$(sha256sum <"$dist/valise-$machine" | cut -d' ' -f1)" ] ||
    fail "scripts/pin.sh and the release build differ for $machine"
done
[ -z "$tag" ] || diff action.pin "$dir/action.pin" || fail "action.pin is not what this commit builds: scripts/pin.sh $tag >action.pin, commit, tag that"

echo "== packages"
for deb in "$dist"/*_amd64.deb; do
  dpkg-deb --contents "$deb" | grep -q '/usr/share/man/man1/valise' || fail "$deb has no manual page"
  dpkg-deb --contents "$deb" | grep -q '/usr/share/bash-completion/completions/valise' || fail "$deb has no completion"
done

echo "== signed, and verified by the valise in it"
valise=$dist/valise-linux-$(go env GOARCH)
export COSIGN_PASSWORD=check
"$valise" keygen "$dir/key" >/dev/null
"$valise" --version | grep -qF "${version#v}" || fail "the program is $("$valise" --version), want ${version#v}"
"$valise" sign "$dist/CHECKSUMS.txt" --key "$dir/key.key" --progress none >/dev/null
mapfile -t listed < <(cut -c 67- "$dist/CHECKSUMS.txt")
[ ${#listed[@]} -gt 20 ] || fail "CHECKSUMS.txt lists ${#listed[@]} files"
(cd "$dist" && "$valise" verify --checksums CHECKSUMS.txt --key "$dir/key.pub" --progress none "${listed[@]}") >/dev/null
printf x >>"$dist/${listed[0]}"
if (cd "$dist" && "$valise" verify --checksums CHECKSUMS.txt --key "$dir/key.pub" --progress none "${listed[0]}") 2>/dev/null; then
  fail "a changed file was accepted"
fi
echo "release-check: ok, ${#listed[@]} files in CHECKSUMS.txt"
