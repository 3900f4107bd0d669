#!/usr/bin/env bash
# Checks the form of the code. By hand:  scripts/lint.sh [all]
# Alone it is what make test begins with. With "all" it also looks at code for other machines, and asks staticcheck and
# actionlint, which are built first: minutes the first time, and codespell, which must be there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.7.0
actionlint=github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

unformatted=$(git ls-files -z '*.go' | xargs -0 gofmt -l)
[ -z "$unformatted" ] || { echo "lint: not formatted: $unformatted; run gofmt -w" >&2; exit 1; }
mapfile -t shell < <(git grep -lE '^#!(/bin/sh|/usr/bin/env bash)' -- ':!*.txtar' ':!*.go')
shellcheck "${shell[@]}"
# What people read: words and sentences that are refused (scripts/words/words.txt), and typos.
mapfile -t prose < <(git ls-files '*.md' '*.go' 'installer/ota/i18n/*.json' action.yml cmd/valise/install.sh \
  ':!*_test.go' ':!*testdata/*' ':!*test/*' ':!scripts/*' ':!examples/*' ':!*.svg')
go run ./scripts/words "${prose[@]}"
if [ "${1:-}" = all ] || command -v codespell >/dev/null; then
  codespell --skip "*/de.json" --ignore-words scripts/words/known.txt "${prose[@]}" >&2 || { echo "lint: codespell: fix these, or add a word to scripts/words/known.txt" >&2; exit 1; }
else
  echo "lint: codespell is not here (apt-get install codespell): typos are not looked for" >&2
fi
go vet ./...
if [ "${1:-}" = all ]; then
  go mod tidy -diff
  GOARCH=arm CGO_ENABLED=0 go vet ./bundle/... ./installer/... ./cmd/... # types of another size
  GOOS=windows CGO_ENABLED=0 go vet ./cmd/valise
  go vet -tags long,remote,device,e2e,e2e_page,fault ./...
  go run "$staticcheck" -tags long ./...
  go run "$actionlint" .github/workflows/*.yml examples/workflows/*.yml cmd/valise/testdata/workflows/*.yml
fi
echo "lint: ok" >&2
