#!/usr/bin/env bash
# Drives the update page in a real Chromium, on a real engine, and looks at the documentation site.
# By hand, as root:  scripts/e2e-page.sh [GO TEST ARGUMENTS]
# The site alone:    scripts/e2e-page.sh site
# Pictures of the page go to build/page, or to $VALISE_SCREENSHOTS. VALISE_PICTURES=write puts those of the README into
# docs/images.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

axe=4.11.1 # axe-core, from the npm registry
cache=${VALISE_CACHE:-$HOME/.cache/valise}/axe-core-$axe

if ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then
  DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends chromium fonts-dejavu-core >&2
fi
if [ ! -e "$cache/axe.min.js" ]; then
  command -v npm >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends npm >&2
  tmp=$(mktemp -d)
  trap 'rm -rf "$tmp"' EXIT
  (cd "$tmp" && npm pack --silent "axe-core@$axe" >/dev/null && tar xzf "axe-core-$axe.tgz")
  mkdir -p "$cache"
  mv "$tmp/package/axe.min.js" "$cache/axe.min.js"
fi

export VALISE_AXE=$cache/axe.min.js
export VALISE_SCREENSHOTS=${VALISE_SCREENSHOTS:-$PWD/build/page}
mkdir -p "$VALISE_SCREENSHOTS"
rm -f "$VALISE_SCREENSHOTS"/*.png
VALISE_DOCS_BASE=/valise/ scripts/docs.sh all
go test -timeout 75m -count=1 -tags e2e_page -run TestSite -v ./docs
[ "${1:-}" != site ] || exit 0
scripts/test.sh -tags e2e_page -run TestBrowser "$@" ./cmd/valise-installer
if [ "${VALISE_PICTURES:-}" = write ]; then
  for mode in light dark; do cp "$VALISE_SCREENSHOTS/readme-$mode.png" "docs/images/page-$mode.png"; done
fi
echo "pictures: $VALISE_SCREENSHOTS" >&2
