#!/usr/bin/env bash
# Builds the documentation site.
#   scripts/docs.sh          this tree, into build/docs
#   scripts/docs.sh serve    the same, shown on http://localhost:5173 and built anew on each change
#   scripts/docs.sh all      as published: this tree as build/pages/main/, each tag's as build/pages/TAG/, / leads to the newest
# VALISE_DOCS_BASE is where the site is on its server (/valise/ on GitHub's pages), / without it. Packages are those of
# docs/package-lock.json, from the npm registry; they stay in ~/.cache/valise or $VALISE_CACHE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# modules DIR gives DIR/docs the packages of its lock file; they are kept in the cache.
modules() {
  local lock kept
  lock=$(sha256sum "$1/docs/package-lock.json")
  kept=${VALISE_CACHE:-$HOME/.cache/valise}/docs-${lock:0:12}
  if [ ! -e "$kept/done" ]; then
    command -v npm >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends npm >&2 || {
      echo 'docs: needs node 18 or newer with npm; as root this installs them' >&2
      exit 1
    }
    mkdir -p "$kept"
    cp "$1/docs/package.json" "$1/docs/package-lock.json" "$kept"
    npm ci --prefix "$kept" --ignore-scripts --no-audit --no-fund >&2
    touch "$kept/done"
  fi
  ln -sfnT "$kept/node_modules" "$1/docs/node_modules"
}

vitepress() { node docs/node_modules/vitepress/bin/vitepress.js "$@"; }

case ${1:-build} in
  build)
    modules .
    vitepress build docs
    echo "docs: build/docs" >&2
    ;;
  serve)
    modules .
    vitepress dev docs
    ;;
  all)
    base=${VALISE_DOCS_BASE:-/}
    out=$PWD/build/pages
    work=$(mktemp -d)
    trap 'rm -rf "$work"; git worktree prune' EXIT
    versions=()
    for tag in $(git tag --list 'v*' --sort=-version:refname); do
      if git cat-file -e "$tag:docs/package-lock.json" 2>/dev/null; then versions+=("$tag"); fi
    done
    newest=${versions[0]:-main}
    versions+=(main)
    rm -rf "$out"
    mkdir -p "$out"
    for version in "${versions[@]}"; do
      tree=$PWD
      if [ "$version" != main ]; then
        tree=$work/$version
        git worktree add -q --detach "$tree" "$version"
      fi
      modules "$tree"
      (cd "$tree" && VALISE_DOCS_VERSION=$version VALISE_DOCS_VERSIONS=${versions[*]} VALISE_DOCS_BASE=$base$version/ vitepress build docs)
      mv "$tree/build/docs" "$out/$version"
    done
    cat >"$out/index.html" <<HTML
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Valise</title><meta http-equiv="refresh" content="0; url=$newest/"></head>
<body><main><h1>Valise</h1><p><a href="$newest/">Documentation of $newest</a></p></main></body></html>
HTML
    cp "$out/$newest/404.html" "$out/404.html"
    echo "docs: build/pages has ${versions[*]}" >&2
    ;;
  *)
    echo "usage: $0 [build|serve|all]" >&2
    exit 64
    ;;
esac
