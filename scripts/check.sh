#!/usr/bin/env bash
# Runs every suite at the last commit, each in a clone of its own, goes on after a failure, and writes docs/suites.md: the
# newest run of each, of this commit or of one before.
# By hand, as root:  scripts/check.sh [SUITE]...       targets of make; every suite without names, which takes hours
# A suite that passed at this commit is not run again: what was ended is gone on with by the same command. What suites
# printed is kept in ${VALISE_CACHE:-~/.cache/valise}/check/COMMIT.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ "$(id -u)" -eq 0 ] || { echo "check: suites start engines and machines: run this as root" >&2; exit 1; }

suites=(test lint-all race vuln e2e e2e-engines e2e-systemd e2e-page e2e-action remote release-check fault fuzz e2e-device)
[ $# -gt 0 ] || set -- "${suites[@]}"
for suite; do
  [[ " ${suites[*]} " == *" $suite "* ]] || { echo "check: $suite is no suite: ${suites[*]}" >&2; exit 64; }
done
commit=$(git rev-parse --short=12 HEAD)
kept=${VALISE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/valise}/check/$commit
work=$(mktemp -d "${TMPDIR:-/var/tmp}/valise-check.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$kept"

failed=()
for suite; do
  log=$kept/$suite.log
  [ "$(cat "$kept/$suite.verdict" 2>/dev/null)" != passed ] || { echo "check: $suite passed at $commit before" >&2; continue; }
  git clone -q --no-hardlinks . "$work/$suite"
  git -C "$work/$suite" checkout -q --detach "$commit"
  echo "check: $suite, $log" >&2
  SECONDS=0 verdict=passed
  (cd "$work/$suite" && CI=true make "$suite") >"$log" 2>&1 </dev/null || verdict=FAILED
  echo "$verdict" >"$kept/$suite.verdict"
  echo "$((SECONDS / 60))" >"$kept/$suite.minutes"
  [ $verdict = passed ] || failed+=("$suite")
  echo "check: $suite $verdict after $SECONDS s" >&2
  rm -rf --one-file-system "${work:?}/$suite"
done

# of SUITE: where its newest verdict is, of this commit or of one before.
of() {
  if [ -e "$kept/$1.verdict" ]; then echo "$kept"; return; fi
  # shellcheck disable=SC2012 # hashes
  dirname "$(ls -t "${kept%/*}"/*/"$1.verdict" 2>/dev/null | head -n 1)"
}
# count LOG PATTERN: lines of it.
count() { grep -cE -- "$2" "$1" || true; }
{
  echo "# Suites"
  echo
  echo "Written by \`make check\`, which runs every suite: the newest run of each, and its commit. The first column is a target of make;"
  echo "what it printed is in \`~/.cache/valise/check/COMMIT\`."
  echo
  echo "| suite | what it does | result | tests | skipped | minutes | commit |"
  echo "|---|---|---|---|---|---|---|"
  for suite in "${suites[@]}"; do
    what=$(sed -nE "s/^$suite:.*## //p" Makefile)
    in=$(of "$suite")
    if [ "$in" = . ]; then
      echo "| $suite | $what | not run | | | | |"
      continue
    fi
    log=$in/$suite.log
    tests=$(sed -nE 's/^(The slowest of )?([0-9]+) tests(:| on [0-9]+ engines)$/\2/p' "$log")
    tests=${tests:-$(count "$log" '^ *--- (PASS|FAIL)|^== ')}
    result=$(cat "$in/$suite.verdict")
    [ "$result" = passed ] || result+=": $(grep -v '^make: ' "$log" | tail -n 1 | tr '|' '/' | cut -c 1-200)"
    echo "| $suite | $what | $result | $tests | $(count "$log" '^ *--- SKIP|^skipped: ') | $(cat "$in/$suite.minutes") | ${in##*/} |"
  done
  log=$(of test)/test.log
  if [ -e "$log" ]; then
    echo
    echo "## Where the time of make test goes"
    echo
    echo '```text'
    sed -n '/^The slowest of [0-9]* tests:$/,/^$/p; /^Set-up:$/,/^$/p' "$log" | sed '/^$/d'
    echo '```'
  fi
} >docs/suites.md
[ ${#failed[@]} -eq 0 ] || { echo "check: failed: ${failed[*]}; docs/suites.md has the table" >&2; exit 1; }
echo "check: docs/suites.md has the table" >&2
