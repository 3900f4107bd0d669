package sbom

import (
	"strings"
	"testing"
)

// What scanners write about the same packages of Debian, Alpine and Rocky.
const (
	syftSPDX = `{"spdxVersion":"SPDX-2.3","creationInfo":{"creators":["Tool: syft-1.22.0"]},"packages":[
		{"name":"libssl3","versionInfo":"3.0.11-1~deb12u2","sourceInfo":"acquired package info from DPKG DB: /var/lib/dpkg/status",
		 "externalRefs":[{"referenceCategory":"SECURITY","referenceType":"cpe23Type","referenceLocator":"cpe:2.3:a:libssl3:libssl3:3.0.11"},
		  {"referenceCategory":"PACKAGE-MANAGER","referenceType":"purl","referenceLocator":"pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64&distro=debian-12&upstream=openssl"}]},
		{"name":"libc6","versionInfo":"2.36-9+b1","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:deb/debian/libc6@2.36-9%2Bb1?arch=amd64&upstream=glibc%402.36-9"}]},
		{"name":"bind9-libs","versionInfo":"1:9.18.28-1~deb12u2","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:deb/debian/bind9-libs@1%3A9.18.28-1~deb12u2?upstream=bind9"}]},
		{"name":"openssl-libs","versionInfo":"1:3.0.7-24.el9","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:rpm/rocky/openssl-libs@3.0.7-24.el9?arch=x86_64&epoch=1&upstream=openssl-3.0.7-24.el9.src.rpm"}]},
		{"name":"stdlib","versionInfo":"go1.22.3","externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:golang/stdlib@1.22.3"}]},
		{"name":"docker.io/library/debian","versionInfo":"12","primaryPackagePurpose":"CONTAINER"}]}`
	trivyCycloneDX = `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[
		{"type":"operating-system","name":"debian","version":"12.4"},
		{"type":"library","name":"libssl3","version":"3.0.11-1~deb12u2","purl":"pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64&distro=debian-12.4","properties":[
		 {"name":"aquasecurity:trivy:PkgType","value":"debian"},{"name":"aquasecurity:trivy:SrcName","value":"openssl"},
		 {"name":"aquasecurity:trivy:SrcRelease","value":"1~deb12u2"},{"name":"aquasecurity:trivy:SrcVersion","value":"3.0.11"}]},
		{"type":"library","name":"openssl-libs","version":"1:3.0.7-24.el9","purl":"pkg:rpm/rocky/openssl-libs@3.0.7-24.el9?distro=rocky-9.3&epoch=1","properties":[{"name":"aquasecurity:trivy:SrcName","value":"openssl"}]},
		{"type":"library","name":"golang.org/x/net","version":"v0.10.0","purl":"pkg:golang/golang.org/x/net@v0.10.0"},
		{"type":"library","group":"@babel","name":"traverse","version":"7.20.1","purl":"pkg:npm/%40babel/traverse@7.20.1"}]}`
	trivySPDX = `{"spdxVersion":"SPDX-2.3","packages":[{"name":"libcrypto1.1","versionInfo":"1.1.1w-r1","sourceInfo":"built package from: openssl 1.1.1w-r1",
		"externalRefs":[{"referenceCategory":"PACKAGE-MANAGER","referenceType":"purl","referenceLocator":"pkg:apk/alpine/libcrypto1.1@1.1.1w-r1?arch=x86_64&distro=3.15.11"}]}]}`
	cdxgenCycloneDX = `{"bomFormat":"CycloneDX","specVersion":"1.6","components":[
		{"group":"debian","name":"openssl","version":"3.0.11","purl":"pkg:deb/debian/openssl@3.0.11-1~deb12u2?arch=amd64&distro=debian-12&distro_name=bookworm","type":"library"},
		{"group":"org.apache.logging.log4j","name":"log4j-core","version":"2.14.1","purl":"pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1?type=jar"},
		{"group":"","name":"Jinja2","version":"3.1.2","purl":"pkg:pypi/jinja2@3.1.2","components":[{"name":"inner","version":"1.0.0-rc.1","purl":"pkg:npm/inner@1.0.0-rc.1"}]},
		{"group":"@vendor","name":"nameless","version":"2.0.0"}]}`
	oldSyft = `{"components":[{"name":"libssl1.1","version":"1.1.1l-r0","purl":"pkg:alpine/libssl1.1@1.1.1l-r0?arch=x86_64&upstream=openssl&distro=alpine-3.11.12"}]}`
	ours    = `{"components":[{"name":"libssl3","version":"3.0.11-1~deb12u2","purl":"pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64&distro=bookworm&source=openssl"},
		{"name":"libssl3","version":"3.1.4-r1","purl":"pkg:apk/alpine/libssl3@3.1.4-r1?arch=x86_64&distro=alpine-3.18&origin=openssl"},
		{"name":"libexample","version":"1.0-4+b2","purl":"pkg:deb/debian/libexample@1.0-4%2Bb2?source=example&sourceversion=1.0-4"},
		{"name":"openssl-libs","version":"3.0.7-24.el9","purl":"pkg:rpm/rocky/openssl-libs@3.0.7-24.el9?epoch=1&sourcerpm=openssl-3.0.7-24.el9.src.rpm"},
		{"name":"unversioned","purl":"pkg:golang/example.org/unversioned"},
		{"name":"hostile","version":"1` + "LONG" + `","purl":"pkg:npm/hostile"}]}`
)

func TestQuery(t *testing.T) {
	documents := map[string]string{"syft": syftSPDX, "trivy": trivyCycloneDX, "trivy spdx": trivySPDX, "cdxgen": cdxgenCycloneDX, "old syft": oldSyft, "ours": strings.ReplaceAll(ours, "LONG", strings.Repeat("9", maxComparedLength))}
	for _, c := range []struct{ document, query, yes, unknown string }{
		{"syft", "openssl<3.0.22", "libssl3 openssl-libs", ""},
		{"syft", "openssl<3.0.11", "openssl-libs", ""},
		{"syft", "openssl<=3.0.11", "libssl3 openssl-libs", ""}, // the revision does not make it a later one
		{"syft", "openssl=3.0.11", "libssl3", ""},
		{"syft", "openssl<3.0.11-1~deb12u3", "libssl3 openssl-libs", ""},
		{"syft", "pkg:deb/debian/openssl<3.0.11-1~deb12u2", "", ""},
		{"syft", "pkg:rpm/openssl<3.0.22", "openssl-libs", ""},
		{"syft", "openssl>=3.0.8, <3.0.22", "libssl3", ""},
		{"syft", "libssl3", "libssl3", ""},
		{"syft", "glibc<2.36-9+b1", "libc6", ""}, // the source has no rebuild
		{"syft", "libc6<2.36-9+b1", "", ""},
		{"syft", "bind9<9.18.30", "bind9-libs", ""}, // an epoch that was not asked for
		{"syft", "bind9<1:9.18.28", "", ""},
		{"syft", "stdlib<1.22.4", "stdlib", ""},
		{"syft", "stdlib<go1.22.3", "", ""},
		{"syft", "debian", "", ""},
		{"trivy", "openssl<3.0.11-1~deb12u3", "libssl3 openssl-libs", ""},
		{"trivy", "pkg:deb/openssl>=3.0.11-1~deb12u2", "libssl3", ""},
		{"trivy", "golang.org/x/net<0.17.0", "golang.org/x/net", ""},
		{"trivy", "pkg:golang/golang.org/x/net<0.17.0", "golang.org/x/net", ""},
		{"trivy", "net<0.17.0", "", ""}, // a last element is no name
		{"trivy", "@babel/traverse<7.23.2", "traverse", ""},
		{"trivy", "pkg:npm/%40babel/traverse<7.23.2", "traverse", ""},
		{"trivy", "traverse<7.23.2", "", ""},
		{"trivy spdx", "openssl<1.1.1x", "libcrypto1.1", ""},
		{"trivy spdx", "openssl<1.1.1w-r1", "", ""},
		{"trivy spdx", "openssl<=1.1.1w", "libcrypto1.1", ""},
		{"cdxgen", "openssl<3.0.22", "openssl", ""},
		{"cdxgen", "log4j-core<2.17.1", "log4j-core", ""},
		{"cdxgen", "org.apache.logging.log4j:log4j-core<2.17.1", "log4j-core", ""},
		{"cdxgen", "jinja2<3.1.3", "Jinja2", ""},
		{"cdxgen", "Jinja2<3.1.10", "Jinja2", ""}, // by numbers
		{"cdxgen", "inner<1.0.0", "inner", ""},
		{"cdxgen", "@vendor/nameless>1.9", "nameless", ""},
		{"old syft", "pkg:apk/openssl<1.1.1m", "libssl1.1", ""},
		{"ours", "openssl<3.0.22", "libssl3 openssl-libs", ""},
		{"ours", "openssl<3.1.4", "libssl3 openssl-libs", ""},
		{"ours", "openssl<=3.1.4", "libssl3 libssl3 openssl-libs", ""},
		{"ours", "example<1.0-4+b1", "libexample", ""},
		{"ours", "example.org/unversioned<2", "", "unversioned"},
		{"ours", "example.org/unversioned", "unversioned", ""},
		{"ours", "hostile<2", "", "hostile"},
	} {
		packages, err := Read([]byte(documents[c.document]))
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		got := map[Answer][]string{}
		for _, p := range packages {
			name := p.Name[strings.LastIndexByte(p.Name, '/')+1:]
			if c.document == "trivy" {
				name = p.Name
			}
			got[q.Ask(p)] = append(got[q.Ask(p)], name)
		}
		if yes, unknown := strings.Join(got[Yes], " "), strings.Join(got[Unknown], " "); yes != c.yes || unknown != c.unknown {
			t.Errorf("%s %q: yes %q, unknown %q, want %q and %q", c.document, c.query, yes, unknown, c.yes, c.unknown)
		}
	}
	for _, bad := range []string{"", "<3", "openssl<", "openssl<3,", "openssl<3,bad", "openssl!=3", "openssl~3", "openssl 3.0", "lodash@4.17.20", "pkg:deb", "pkg:deb/debian/openssl@3", "pkg:deb/debian/openssl?arch=amd64<3",
		"openssl<3 || 4", "a\nb", "openssl<" + strings.Repeat("9", 300), strings.Repeat("a", 2000)} {
		if _, err := ParseQuery(bad); err == nil || !strings.Contains(err.Error(), "want NAME") && !strings.Contains(err.Error(), "want a package URL") {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
}

func TestOpenVEX(t *testing.T) {
	list, err := ReadOpenVEX([]byte(`{"@context":"https://openvex.dev/ns/v0.2.0","@id":"https://example.org/vex/1","author":"shop","timestamp":"2026-01-01T00:00:00Z","version":1,"statements":[
		{"vulnerability":{"name":"CVE-2026-1","aliases":["GHSA-aaaa"]},"products":[{"@id":"pkg:oci/shop","subcomponents":[{"@id":"pkg:deb/debian/openssl"}]}],"status":"not_affected","justification":"vulnerable_code_not_in_execute_path"},
		{"vulnerability":{"name":"CVE-2026-2"},"products":[{"@id":"pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64"}],"status":"affected","action_statement":"take 1.2.0"},
		{"vulnerability":{"name":"CVE-2026-3"},"products":[{"@id":"pkg:deb/debian/libssl3@3.0.9-1"}],"status":"fixed"},
		{"vulnerability":{"@id":"https://example.org/CVE-2026-4"},"products":[{"@id":"shop","identifiers":{"purl":"pkg:oci/shop"}}],"status":"under_investigation"},
		{"vulnerability":{"name":"CVE-2026-5"},"products":[{"identifiers":{"purl":"pkg:npm/libssl3"}}],"status":"fixed"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	packages, err := Read([]byte(trivyCycloneDX))
	if err != nil {
		t.Fatal(err)
	}
	var about, whole []string
	for _, s := range list {
		if s.About(packages[1]) {
			about = append(about, s.Vulnerability+" "+s.Status)
		}
		if s.Whole() {
			whole = append(whole, s.Vulnerability)
		}
	}
	if got := strings.Join(about, ", "); got != "CVE-2026-1 not_affected, CVE-2026-2 affected" {
		t.Errorf("about libssl3: %s", got)
	}
	if !list[0].Is("ghsa-aaaa") || !list[0].Is("CVE-2026-1") || list[0].Is("CVE-2026-2") || !list[3].Is("https://example.org/CVE-2026-4") || list[3].Vulnerability != "https://example.org/CVE-2026-4" {
		t.Errorf("names: %+v", list)
	}
	if got := strings.Join(whole, " "); got != "CVE-2026-2 CVE-2026-3 https://example.org/CVE-2026-4 CVE-2026-5" {
		t.Errorf("whole: %s", got)
	}
	for _, bad := range []string{``, `{}`, `[]`, `{"@context":"https://openvex.dev/ns"}`, `{"@context":"https://cyclonedx.org"}`, `{"@context":"https://openvex.dev/ns/v0.2.0","statements":[{"vulnerability":"CVE-2023-1"}]}`} {
		if _, err := ReadOpenVEX([]byte(bad)); err == nil || !strings.Contains(err.Error(), "read OpenVEX") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for path, want := range map[string]bool{"openvex.json": true, "security/shop.openvex.json": true, "shop.vex.json": true, "convex.json": false, "vex/readme.md": false} {
		if IsOpenVEX(path) != want {
			t.Errorf("%s: %v", path, !want)
		}
	}
}
