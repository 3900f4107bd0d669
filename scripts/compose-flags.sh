#!/usr/bin/env bash
# Prints which options versions of docker compose have, of the commands that an installer calls, from the source in
# their Go modules:  scripts/compose-flags.sh >installer/docker/testdata/compose-flags.txt
# One line for each version and command, "VERSION COMMAND OPTION...". Needs Go's module proxy.
set -euo pipefail

versions='v2@v2.0.1 v2@v2.6.1 v2@v2.7.0 v2@v2.10.2 v2@v2.15.1 v2@v2.16.0 v2@v2.20.3 v2@v2.24.7 v2@v2.40.3 v5@v5.5.1'

fail() { echo "compose-flags: $*" >&2; exit 1; }

for version in $versions; do
  source=$(go mod download -json "github.com/docker/compose/$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') || fail "no module $version"
  for command in compose config create down logs run stop up version; do
    file=$source/cmd/compose/$command.go
    [ -e "$file" ] || file=$source/cmd/compose/convert.go # config was its alias once
    # flags.BoolVarP(&x, "detach", "d", ...: the long name, and the short one of those that end in P.
    options=$(sed -nE -e 's/.*\.[A-Za-z0-9]*Var\(&?[^"]*, "([a-zA-Z-]+)".*/--\1/p' -e 's/.*\.[A-Za-z0-9]*VarP\(&?[^"]*, "([a-zA-Z-]+)", "(.?)".*/--\1 -\2/p' \
      -e 's/.*\.(Bool|String|Int)\("([a-zA-Z-]+)".*/--\2/p' -e 's/.*\.(Bool|String|Int)P\("([a-zA-Z-]+)", "(.?)".*/--\2 -\3/p' "$file" | tr ' ' '\n' | grep -vx -e - -e '' | LC_ALL=C sort -u | tr '\n' ' ')
    [ -n "$options" ] || fail "no options of $command in $version"
    echo "${version#*@v} $command ${options% }"
  done
done
