#!/usr/bin/env bash
# Our own release, in .github/workflows/release.yml:
#   scripts/release.sh             builds, signs and uploads to a draft release
#   scripts/release.sh publish     downloads the draft, verifies all of it, publishes it
#   scripts/release.sh goreleaser  prints the path of goreleaser, built once into the cache
# By hand only goreleaser makes sense: signing needs the identity of the workflow. scripts/release-check.sh is for people.
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

publish() {
  local tag=${GITHUB_REF_NAME:?} dir valise names
  dir=$(mktemp -d)
  gh release download "$tag" --dir "$dir"
  valise=$(find dist -path "*_linux_$(go env GOARCH)_*" -name valise -type f) # not the downloaded one
  [ -n "$valise" ] || fail "dist holds no valise for this machine"
  mapfile -t names < <(cut -c 67- "$dir/CHECKSUMS.txt")
  (
    valise=$PWD/$valise
    cd "$dir"
    "$valise" verify --checksums CHECKSUMS.txt --bundle CHECKSUMS.txt.sigstore.json "${names[@]}" \
      --identity "https://github.com/$GITHUB_REPOSITORY/.github/workflows/release.yml@refs/tags/$tag"
  )
  gh release edit "$tag" --draft=false
}

case ${1:-} in
goreleaser) goreleaser ;;
publish) publish ;;
'')
  COSIGN=$(scripts/sigstore.sh cosign)
  export COSIGN
  "$(goreleaser)" release --clean
  ;;
*) echo "usage: release.sh [publish|goreleaser]" >&2; exit 64 ;;
esac
