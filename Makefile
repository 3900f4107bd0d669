# Every target does its own set-up. The two that matter: make demo, make test.
SHELL := /bin/bash
GO    ?= go
DIST  := dist
LDFLAGS := -s -w -buildid=

.PHONY: help build demo test remote e2e e2e-page e2e-engines e2e-device e2e-action release-check bench fuzz lint setup sigstore-up sigstore-down verify-tarball clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 18

build: ## both programs into dist/: the installers of all device platforms, and valise, which puts them into bundles
	@installers=$$(scripts/installers.sh $(DIST)/installer) && set -x && \
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS) -X main.installers=$$installers" -o $(DIST)/valise ./cmd/valise

setup: ## install what tests and demo need (Debian, Ubuntu; as root)
	scripts/setup.sh

demo: ## build, sign, verify, install, update, break and roll back a sample app
	@scripts/demo.sh

test: ## quick lint and every test, with a real engine
	@scripts/test.sh

sigstore-up: ## start a private Sigstore below build/sigstore and print how to use it
	@mkdir -p build && scripts/sigstore.sh up build/sigstore

sigstore-down: ## stop it
	scripts/sigstore.sh down build/sigstore

e2e: ## real Sigstore servers, cosign both ways, BuildKit; the first run takes a while
	scripts/e2e.sh

e2e-device: setup ## a whole machine without Docker: first install from a stick, reboots, power cuts (VALISE_POWER_CUTS=3); the installers for ARM
	scripts/e2e-device.sh

e2e-engines: setup ## the engine tests on Docker 20.10 and 29, with graph driver and containerd store
	scripts/e2e-engines.sh

e2e-page: ## the update page and the documentation site in a real Chromium; pictures in build/page
	scripts/e2e-page.sh

.PHONY: docs docs-serve
docs: ## the documentation site, into build/docs; a dead link or anchor fails
	scripts/docs.sh

docs-serve: ## the same on http://localhost:5173, built anew on each change
	scripts/docs.sh serve

.PHONY: e2e-systemd
e2e-systemd: ## apps that are file trees, daemon and page in their units, on machines with a real systemd; power cuts one after the other
	command -v strace >/dev/null || apt-get install -y --no-install-recommends strace
	VALISE_TEST_SYSTEMD=1 VALISE_COMPOSE=$$(scripts/compose-plugin.sh) $(GO) test -tags long -count=1 -timeout 90m -run TestSystemd -v ./cmd/valise-installer

e2e-action: ## the Action by act, from tags to published releases to a device
	scripts/e2e-action.sh

release-check: ## our own release: built twice, compared, signed, published to a double of GitHub, installed
	scripts/release-check.sh

remote: ## updates over a network: bytes, requests, bad links; nginx, registries, and swupdate on the double of hawkBit
	command -v nginx >/dev/null || apt-get install -y --no-install-recommends nginx-light
	command -v swupdate >/dev/null || apt-get install -y --no-install-recommends swupdate
	VALISE_TEST_DISTRIBUTION=$$(scripts/distribution.sh) scripts/test.sh -tags remote -run TestRemote -v ./cmd/valise-installer ./installer/fleet/fleettest
	VALISE_TEST_DISTRIBUTION=$$(scripts/distribution.sh debian) scripts/test.sh -tags remote -run 'TestRemote/^registry$$' -v ./cmd/valise-installer

bench: ## pack, verify, thin and memory beside their peers; writes docs/benchmarks.md, fails when a ratio became worse
	scripts/bench.sh -doc docs/benchmarks.md

fuzz: ## every fuzz target for three minutes (FUZZTIME=10m)
	scripts/fuzz.sh $(or $(FUZZTIME),3m)

.PHONY: fault race vuln
fault: ## updates while system calls fail, everything is killed, disks are full, from each state that a power cut leaves, and chaos (VALISE_FAULTS=40 VALISE_STATES=40 VALISE_OPERATIONS=60 VALISE_SEED=N)
	scripts/fault.sh

race: ## every test that needs no engine, with the race detector
	CGO_ENABLED=1 $(GO) test -race -short -timeout 60m ./...

vuln: ## known holes in what the programs call (network)
	@curl -fsS --retry 2 --max-time 60 -o /dev/null https://vuln.go.dev/index/db.json || \
	  { echo 'vuln: the database at https://vuln.go.dev cannot be reached: nothing was checked' >&2; exit 1; }
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

.PHONY: check
check: ## every suite at the last commit, one after the other, with a table in docs/suites.md; hours, and it can be ended and started again
	scripts/check.sh

.PHONY: growth
growth: ## time, memory and written bytes against sizes and numbers that grow; writes docs/growth.md (root, 30 GB)
	type -P time >/dev/null || apt-get install -y --no-install-recommends time
	CGO_ENABLED=0 $(GO) run ./scripts/growth -doc

.PHONY: bench-device
bench-device: setup ## install, update and rollback on each engine, beside the same by hand; writes docs/benchmarks.md, fails when a ratio became worse (VALISE_BENCH_APP=large)
	scripts/bench-device.sh -doc docs/benchmarks.md

.PHONY: size size-check
size: ## what each module costs in the installer; writes docs/size.md
	$(GO) run ./scripts/size

size-check: ## fails when the installer has grown by more than 64 KiB against docs/size.md
	$(GO) run ./scripts/size -check

lint: ## gofmt, shellcheck, vet, words that are refused where people read
	scripts/lint.sh

.PHONY: lint-all
lint-all: ## the same, for other machines too, and staticcheck, actionlint, codespell
	scripts/lint.sh all

verify-tarball: ## check a bundle as a device does: TARBALL= SIG= CERT= [SIGNER= ISSUER=]
	@test -n "$(TARBALL)" -a -n "$(SIG)" || { echo 'usage: make verify-tarball TARBALL=F SIG=F.sigstore.json SIGNER=IDENTITY [ISSUER=URL], or SIG=F.sig CERT=cosign.pub' >&2; exit 64; }
	@$(GO) run ./cmd/valise verify '$(TARBALL)' --bundle '$(SIG)' $(if $(CERT),--certificate '$(CERT)') $(if $(SIGNER),--identity '$(SIGNER)') $(if $(ISSUER),--issuer '$(ISSUER)') $(if $(ROOT),--trusted-root '$(ROOT)') --progress none

clean: ## remove what was built
	rm -rf $(DIST) examples/shop/build
