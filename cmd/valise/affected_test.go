package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/receipt"
)

// listOpenSSL is an SBOM that lists OpenSSL of a version, as Debian has it.
func listOpenSSL(version string) string {
	return fmt.Sprintf(`{"bomFormat":"CycloneDX","components":[{"name":"libssl3","version":%q,"purl":"pkg:deb/debian/libssl3@%s?arch=amd64&upstream=openssl"}]}`, version, version)
}

// writeBundle puts a bundle of app shop, or of the file tree cloud, into dir, and returns
// the digest of its manifest.
func writeBundle(t *testing.T, dir, app, version string, files map[string]string) bundle.Digest {
	t.Helper()
	s := bundletest.Spec{App: app, Version: version, Services: []string{"api"}, Platforms: []bundle.Platform{"linux/amd64"}, Files: files}
	m, c := bundletest.Release(t, s)
	if app == "cloud" {
		tree := bundletest.TreeFiles(app, version)
		for name, text := range files {
			tree[name] = text
		}
		m, c = bundletest.Tree(t, s, tree)
	}
	b := bundletest.Write(t, m, c) // completes the manifest
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	digest := bundle.DigestOf(raw)
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s-%.8s.tar.gz", app, version, digest.Hex())), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return digest
}

func TestAffected(t *testing.T) {
	const sbom = "sbom/api-linux-amd64.cdx.json"
	const vex = `{"@context":"https://openvex.dev/ns/v0.2.0","statements":[
		{"vulnerability":{"name":"CVE-2026-1"},"products":[{"@id":"pkg:oci/shop","subcomponents":[{"@id":"pkg:deb/debian/openssl"}]}],"status":"not_affected","justification":"vulnerable_code_not_in_execute_path"},
		{"vulnerability":{"name":"CVE-2026-2"},"products":[{"@id":"pkg:oci/shop"}],"status":"under_investigation"},
		{"vulnerability":{"name":"CVE-2026-3"},"products":[{"@id":"pkg:deb/debian/zlib1g"}],"status":"fixed"}]}`
	bundles, sticks := t.TempDir(), t.TempDir()
	old := writeBundle(t, bundles, "shop", "1.0.0", map[string]string{sbom: listOpenSSL("3.0.11-1~deb12u1"), "openvex.json": vex})
	middle := writeBundle(t, bundles, "shop", "1.1.0", map[string]string{sbom: listOpenSSL("3.0.11-1~deb12u2"), "security/shop.openvex.json": vex})
	writeBundle(t, bundles, "shop", "1.2.0-rc.1", map[string]string{sbom: listOpenSSL("3.0.22-1")})
	bare := writeBundle(t, bundles, "shop", "1.1.5", nil)
	writeBundle(t, bundles, "shop", "1.2.0", map[string]string{sbom: listOpenSSL("3.0.22-1"), "sbom/by-hand.spdx.json": `{"packages":[{"name":"openssl","versionInfo":"3.0.1"}]}`})
	clean := writeBundle(t, bundles, "shop", "1.3.0", map[string]string{sbom: listOpenSSL("3.0.22-1")})
	unversioned := writeBundle(t, bundles, "shop", "0.9.0", map[string]string{sbom: listOpenSSL("unknown")})
	tree := writeBundle(t, bundles, "cloud", "1.0.0", map[string]string{"share/cloud.spdx.json": `{"packages":[{"name":"openssl","versionInfo":"3.0.1"}]}`})
	hostile := writeBundle(t, bundles, "shop", "0.8.0", map[string]string{sbom: `{"components":[{"name":"=openssl\u001b[31m\nshop","version":"1","purl":"pkg:generic/openssl@1"}]}`})
	to := func(version string, manifest bundle.Digest) receipt.Receipt {
		return receipt.Receipt{To: version, Manifest: manifest, Status: "completed"}
	}
	write := func(device string, receipts ...receipt.Receipt) {
		writeReceipts(t, device, []string{sticks}, receipts...)
	}
	write("a-both", to("1.0.0", old), to("1.1.0", middle))
	write("b-clean", to("1.0.0", old), to("1.3.0", clean))
	write("c-back", to("1.0.0", old), to("1.3.0", clean), to("1.1.0", middle))
	write("d-failed", receipt.Receipt{From: "1.0.0", To: "1.1.0", Manifest: middle, Status: "failed"})
	affected := func(query string, more ...string) (int, string, string) {
		var stdout, stderr strings.Builder
		args := append([]string{"affected", query, "--receipts", "berlin=" + sticks, "--bundles", bundles}, more...)
		code := run(t.Context(), cli.Env{Args: args, Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" }, Now: time.Now})
		return code, stdout.String(), stderr.String()
	}
	code, out, stderr := affected("openssl<3.0.22")
	want := "APP   SITE    DEVICE    VERSION  SINCE       LAST SEEN   FIXED BY  PACKAGES                        STATEMENTS\n" +
		"shop  berlin  a-both    1.1.0    2026-01-01  2026-01-02  1.3.0     libssl3 3.0.11-1~deb12u2 (api)  CVE-2026-1 not_affected (vulnerable_code_not_in_execute_path)\n" +
		"shop  berlin  c-back    1.1.0    2026-01-03  2026-01-03  1.3.0     libssl3 3.0.11-1~deb12u2 (api)  CVE-2026-1 not_affected (vulnerable_code_not_in_execute_path)\n" +
		"shop  berlin  d-failed  1.0.0    2026-01-01  2026-01-01  1.3.0     libssl3 3.0.11-1~deb12u1 (api)  CVE-2026-1 not_affected (vulnerable_code_not_in_execute_path)\n" +
		"openssl<3.0.22: 3 of 4 run it, 0 unknown\n"
	if code != 0 || out != want || stderr != "" {
		t.Errorf("exit code %d\n%s%s\nwant\n%s", code, out, stderr, want)
	}
	_, out, _ = affected("openssl<3.0.11-1~deb12u2", "--vulnerability", "cve-2026-2")
	if !strings.Contains(out, "d-failed  1.0.0    2026-01-01  2026-01-01  1.1.0     libssl3 3.0.11-1~deb12u1 (api)  CVE-2026-2 under_investigation\n") || strings.Contains(out, "CVE-2026-1") || strings.Contains(out, "a-both") {
		t.Errorf("a vulnerability of the whole release:\n%s", out)
	}
	if code, out, _ = affected("pkg:npm/openssl"); code != 0 || out != "pkg:npm/openssl: 0 of 4 run it, 0 unknown\n" {
		t.Errorf("exit code %d\n%s", code, out)
	}

	// What cannot be judged is said, and another bundle of the same version is no answer.
	writeBundle(t, bundles, "shop", "1.3.0", map[string]string{sbom: listOpenSSL("3.0.1-1")})
	write("e-bare", to("1.1.5", bare))
	write("f-lost", to("1.3.0", bundle.DigestOf(nil)))
	write("g-unversioned", to("0.9.0", unversioned))
	write("h-tree", receipt.Receipt{App: "cloud", To: "1.0.0", Manifest: tree, Status: "completed"})
	write("i-hostile", to("0.8.0", hostile))
	write("j-two", receipt.Receipt{From: "1.3.0", To: "1.4.0", Status: "failed"})
	writeReceipts(t, "k-gap", []string{sticks, ""}, to("1.3.0", clean), to("1.3.0", clean), to("1.3.0", clean))
	if err := os.WriteFile(filepath.Join(bundles, "broken.tar.gz"), []byte("no bundle"), 0o644); err != nil {
		t.Fatal(err)
	}
	writeBundle(t, bundles, "shop", "0.1.0", map[string]string{"vex.json": `{"@context":"https://example.org"}`})
	code, out, stderr = affected("openssl<3.0.22")
	for _, want := range []string{
		"e-bare         1.1.5    -           2026-01-01  -         unknown: release 1.1.5 has no SBOM of api for linux/amd64",
		"f-lost         1.3.0    -           2026-01-01  -         unknown: no bundle of release 1.3.0 (manifest sha256:",
		`g-unversioned  0.9.0    -           2026-01-01  -         unknown: release 0.9.0 has libssl3 of a version that cannot be compared: "unknown"`,
		"h-tree         1.0.0    2026-01-01  2026-01-01  -         openssl 3.0.1 ",
		"j-two          1.3.0    -           2026-01-01  -         unknown: no receipt says which of the bundles of 1.3.0 it runs",
		"k-gap          1.3.0    -           2026-01-03  -         unknown: number 2 is missing",
		"broken.tar.gz: open ", "vex.json: read OpenVEX: its @context is",
		"openssl<3.0.22: 5 of 11 run it, 5 unknown",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if code != cli.ExitRefused || strings.Contains(out, "\x1b") || strings.Contains(out, "b-clean") || strings.Contains(out, "1.3.0     libssl3") {
		t.Errorf("exit code %d, %s\n%s", code, stderr, out)
	}
	_, out, _ = affected("openssl<3.0.22", "--output", "csv")
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil || len(rows) != 11 || !strings.Contains(out, ",'=openssl") {
		t.Errorf("%v\n%s", err, out)
	}
	_, out, _ = affected("openssl<3.0.22", "--output", "json")
	var r affectedReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Of != 11 || len(r.Devices) != 10 || len(r.Refused) != 2 || r.Devices[1].Packages[0].Services[0] != "api" || r.Devices[1].Statements[0].Vulnerability != "CVE-2026-1" || r.Devices[1].Fixed != "" {
		t.Errorf("%v\n%s", err, out)
	}

	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"openssl<", "--receipts", sticks, "--bundles", bundles}, cli.ExitUsage, "is not a bound"},
		{nil, cli.ExitUsage, "accepts 1 arg"},
		{[]string{"openssl", "--receipts", t.TempDir()}, cli.ExitUsage, "affected needs --receipts and --bundles"},
		{[]string{"openssl", "--receipts", t.TempDir(), "--bundles", bundles}, cli.ExitFailed, "no receipt"},
		{[]string{"openssl", "--receipts", sticks, "--bundles", t.TempDir()}, cli.ExitFailed, "no bundle in"},
		{[]string{"openssl", "--receipts", sticks, "--bundles", "/nowhere"}, cli.ExitFailed, "no such file"},
		{[]string{"openssl", "--receipts", sticks, "--bundles", bundles, "--output", "html"}, cli.ExitUsage, "want text, json or csv"},
	} {
		var stderr strings.Builder
		if code := run(t.Context(), cli.Env{Args: append([]string{"affected"}, c.args...), Stdout: &stderr, Stderr: &stderr, Getenv: func(string) string { return "" }, Now: time.Now}); code != c.code || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%q: exit code %d, %s", c.args, code, stderr.String())
		}
	}
}
