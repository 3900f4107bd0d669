#!/usr/bin/env bash
# Our own release, in .github/workflows/release.yml:
#   scripts/release.sh             builds and signs, into dist
#   scripts/release.sh publish     verifies what is in dist and puts it on GitHub: uploaded to a draft, downloaded again,
#                                  compared, published
#   scripts/release.sh goreleaser  prints the path of goreleaser, built once into the cache
#   scripts/release.sh notes vVERSION    prints the section of CHANGELOG.md
#   scripts/release.sh gather DIST DIR   copies the files of the release into DIR, under their names there
# By hand only the last three make sense: signing needs the identity of the workflow. scripts/release-check.sh is for
# people. It runs all of this against a private Sigstore (VALISE_TRUSTED_ROOT) and a double of GitHub.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=v2.15.4 # newer ones need a newer Go than go.mod asks for
cache=$(realpath -m -- "${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}")
fail() { echo "release: $*" >&2; exit 1; }

goreleaser() {
  local binary=$cache/goreleaser/$version/goreleaser
  if [ ! -x "$binary" ]; then
    echo "release: building goreleaser, this takes some minutes once" >&2
    (cd / && GOBIN=$(dirname "$binary") GOFLAGS='' CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "github.com/goreleaser/goreleaser/v2@$version") >&2
  fi
  echo "$binary"
}

# gather: programs are in directories of their own before.
gather() {
  local f name suffix
  mkdir "$2"
  find "$1" -maxdepth 1 -type f ! -name '*.json' ! -name '*.yaml' -exec cp -t "$2" {} +
  find "$1" -maxdepth 1 -type f \( -name '*.cdx.json' -o -name '*.sigstore.json' \) -exec cp -t "$2" {} +
  for f in "$1"/*/valise*; do
    name=$(basename "$(dirname "$f")" | sed -E 's/_(linux|darwin|windows)_(amd64|arm64|arm)_.*$/-\1-\2/; s/-arm$/-arm-v7/')
    suffix=${f##*/valise}
    cp "$f" "$2/$name${suffix#-installer}"
  done
}

notes() {
  local text
  text=$(awk -v version="[${1#v}]" '/^## /{on = $2 == version; next} on' CHANGELOG.md)
  [[ $text == *[!$' \t\n']* ]] || fail "CHANGELOG.md has no section \"## [${1#v}] - DATE\""
  echo "$text"
}

publish() {
  local tag=${GITHUB_REF_NAME:?} dir
  dir=$(mktemp -d /tmp/valise-release.XXXXXX)
  # shellcheck disable=SC2064 # the value of now
  trap "rm -rf '$dir'" EXIT
  gather dist "$dir/files"
  (
    cd "$dir/files"
    mapfile -t names < <(cut -c 67- CHECKSUMS.txt)
    trust=(--identity "https://github.com/${GITHUB_REPOSITORY:?}/.github/workflows/release.yml@refs/tags/$tag"
      ${VALISE_TRUSTED_ROOT:+--trusted-root "$VALISE_TRUSTED_ROOT"} --progress none)
    valise=./valise-linux-$(go env GOARCH)
    chmod +x "$valise"
    "$valise" verify --checksums CHECKSUMS.txt --bundle CHECKSUMS.txt.sigstore.json "${names[@]}" "${trust[@]}"
    # What the Action downloads is signed by itself.
    for program in valise-linux-amd64 valise-linux-arm64; do "$valise" verify "$program" "${trust[@]}"; done
  )
  notes "$tag" >"$dir/notes"
  go run ./scripts/publish -tag "$tag" -commit "$(git rev-parse HEAD)" -notes "$dir/notes" "$dir/files"/*
}

case ${1:-} in
goreleaser) goreleaser ;;
gather) gather "${2:?}" "${3:?}" ;;
notes) notes "${2:?}" ;;
publish) publish ;;
'')
  PATH=$(dirname "$(scripts/sigstore.sh cosign)"):$PATH
  "$(goreleaser)" release --clean --skip=publish
  ;;
*) echo "usage: release.sh [publish | goreleaser | notes vVERSION | gather DIST DIR]" >&2; exit 64 ;;
esac
