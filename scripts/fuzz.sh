#!/usr/bin/env bash
# Runs every fuzz target for a while, one after the other.  scripts/fuzz.sh [TIME [REGEXP]], such as 10m 'Fuzz(Open|Damage)'
# What the fuzzer finds is in testdata/fuzz of the package; go test runs it from then on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${1:-3m} only=${2:-.}
failed=()
while IFS=: read -r file target; do
  [[ $target =~ $only ]] || continue
  echo "== $target of $(dirname "$file"), $time"
  # Making a large input smaller may take the fuzzer a minute; most are not worth it.
  "${GO:-go}" test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 20x || failed+=("$target")
done < <(git grep -oP '^func \KFuzz\w+' -- '*_test.go')
[ ${#failed[@]} -eq 0 ] || { echo "fuzz: failed: ${failed[*]}" >&2; exit 1; }
