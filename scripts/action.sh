#!/usr/bin/env bash
# The step of action.yml: gets valise and runs `valise action`, which does everything else.
# From a release it takes the program that action.pin names: of one version, with one digest, signed by the release
# workflow of that version. Used as ./ in a workflow, or where there is no action.pin, it is built from this source.
# By hand: set GITHUB_OUTPUT, GITHUB_STEP_SUMMARY and INPUT_* as action.yml does, and run it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
workspace=$(realpath -m -- "${GITHUB_WORKSPACE:-/nonexistent}")
fail() { echo "::error title=valise::$*"; exit 1; }
pinned() { sed -n "s/^$1 //p" "$here/action.pin"; }

[ "$(uname -s)" = Linux ] || fail "the Action runs on Linux runners only"
case $(uname -m) in
x86_64) platform=linux-amd64 ;;
aarch64) platform=linux-arm64 ;;
*) fail "the Action has no program for $(uname -m)" ;;
esac

dir=$(mktemp -d "${RUNNER_TEMP:-/tmp}/valise.XXXXXX")
trap 'rm -rf "$dir"' EXIT
valise=$dir/valise

# download NAME FILE
download() {
  local url
  url=$(pinned releases)/$(pinned version)/$1
  curl -fsSL --retry 3 --retry-connrefused --connect-timeout 20 -o "$2" "$url" ||
    fail "cannot download $url (why is above): let the runner reach it, or check valise out into the workspace and use it as ./DIRECTORY, which builds it with Go"
}

if [ -e "$here/action.pin" ] && [[ $here/ != "$workspace"/* ]]; then
  digest=$(pinned "$platform")
  [[ $digest =~ ^[0-9a-f]{64}$ ]] || fail "action.pin has no digest for $platform"
  download "valise-$platform" "$valise"
  # The digest comes with the Action, whose commit the workflow names. Only what has it is run, and then it checks
  # for itself that the release workflow made it.
  echo "$digest  $valise" | sha256sum --check --quiet --strict || fail "the downloaded valise-$platform is not the one that this Action was released with"
  chmod +x "$valise"
  download "valise-$platform.sigstore.json" "$valise.sigstore.json"
  root=$(pinned root)
  VALISE_RELEASES=$(pinned releases) # the installers for bundles come from there too
  export VALISE_RELEASES
  "$valise" verify "$valise" --bundle "$valise.sigstore.json" --identity "$(pinned signer)" ${root:+--trusted-root "$here/$root"} --progress none >/dev/null ||
    fail "the downloaded valise-$platform is not signed by the release workflow"
else
  command -v go >/dev/null || fail "valise is built from source here, and there is no Go: add a step with actions/setup-go"
  installers=
  [ -n "${INPUT_BUNDLE:-}" ] || installers=$("$here/scripts/installers.sh" "$dir/installer") # for what is built
  (cd "$here" && CGO_ENABLED=0 GOFLAGS='' GOWORK=off go build -trimpath -ldflags "-X main.installers=$installers" -o "$valise" ./cmd/valise)
fi
"$valise" action
