package device

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle/bundletest"
)

var update = flag.Bool("update", false, "write docs/reference/app-yaml.md again")

// TestReference: docs/reference/app-yaml.md has all keys of /etc/valise/APP.yaml
// and an example that has each.
func TestReference(t *testing.T) {
	const file = "examples/device/shop.yaml"
	example, err := os.ReadFile("../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	var c Config
	if err := yaml.Load(example, &c, yaml.WithKnownFields(), yaml.WithUniqueKeys()); err != nil {
		t.Fatal(err)
	}
	if err := c.Updates.Validate(); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Keys of /etc/valise/APP.yaml\n\nThe file belongs to the device; `APP` is the name of the app. [On a device](../device.md#whom-a-device-trusts), "+
		"[sources](../sources.md) and [page and daemon](../page.md#settings-of-an-app) explain the keys. An unknown key is an error.\n\n| key | value | |\n|---|---|---|\n")
	keysOf(t, reflect.TypeFor[Config](), "", func(key, value, doc string) {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", key, value, strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(doc))
		if doc == "" {
			t.Errorf("configKeys has no words about %s", key)
		}
		if name := key[strings.LastIndex(key, ".")+1:]; !regexp.MustCompile(`\b` + name + `:`).Match(example) {
			t.Errorf("%s has no %s", file, key)
		}
	})
	fmt.Fprintf(&b, "\n## Example\n\n[%s](../../%[1]s) has every key; a test reads it.\n\n```yaml\n%s```\n", file, example)
	bundletest.Page(t, "../..", "app-yaml.md", b.String(), *update)
}

// configKeys are what the keys mean.
var configKeys = map[string]string{
	"trust.signers[].key":               "Public key in PEM form that may sign.",
	"trust.signers[].issuer":            "OIDC issuer that must vouch for the identity.",
	"trust.signers[].identity":          "Identity in the certificate, exactly.",
	"trust.signers[].identity_regexp":   "Regular expression that must match the whole identity. Set this or `identity`.",
	"trust.trusted_root":                "Sigstore `trusted_root.json` beside this file. Default: the public instance's, built in.",
	"trust.provenance.builder":          "Platform that must have built the release: `https://github.com/actions/runner/github-hosted` for GitHub's own machines.",
	"trust.provenance.repository":       "Repository of the source: `https://github.com/OWNER/REPO`.",
	"trust.provenance.ref":              "Git ref of the source, exactly.",
	"trust.provenance.ref_regexp":       "Regular expression that must match the whole ref.",
	"trust.provenance.workflow":         "Path of the workflow: `.github/workflows/release.yml`.",
	"trust.provenance.sbom":             "Requires a list of packages for every image.",
	"source.github":                     "`OWNER/REPOSITORY` whose releases are followed.",
	"source.tags":                       "Pattern of the tags to follow, for a repository with several apps.",
	"source.api":                        "API of a GitHub Enterprise Server: `https://HOST/api/v3`.",
	"source.oci":                        "Repository of a registry: `HOST/REPOSITORY`, or `http://HOST/REPOSITORY` without TLS.",
	"source.mirrors":                    "Repositories with the same content, which are asked for it first.",
	"source.url":                        "Directory on a web server.",
	"source.path":                       "Directory on this device, absolute.",
	"source.channel":                    "Pre-releases to accept too: `beta` accepts 1.2.0-beta.1.",
	"source.token_file":                 "File with a token for `github`, a bearer token for `url`, or for `oci` `USER:PASSWORD`, a token, or the `config.json` of `docker login`.",
	"fleet.hawkbit":                     "Address of a hawkBit server that decides when this app is updated: [hawkBit](../how-to/hawkbit.md).",
	"fleet.tenant":                      "Its tenant. Default: `DEFAULT`.",
	"fleet.id":                          "What the server calls this app on this device. Default: host name, first 8 digits of the device's key, and app.",
	"fleet.token_file":                  "File with the security token of this target.",
	"fleet.gateway_token_file":          "File with the gateway token of the tenant.",
	"fleet.client_certificate":          "Certificate in PEM form for a proxy before the server; with `client_key`.",
	"fleet.client_key":                  "Key of `client_certificate`.",
	"fleet.allow":                       "What the server may ask for: `update`, `rollback`. Default: `update`.",
	"fleet.poll.min":                    "Shortest pause between two requests, 5 s or more. Default: `30s`.",
	"fleet.poll.max":                    "Longest pause, whatever the server wants. Default: `24h`.",
	"fleet.attributes":                  "Facts that the server is told, beside app, version and platform: at most 50.",
	"rollout.signers[].key":             "Public key in PEM form that may sign [rollout files](../how-to/rollout.md), in place of the signers in `trust`.",
	"rollout.signers[].issuer":          "As in `trust`.",
	"rollout.signers[].identity":        "As in `trust`.",
	"rollout.signers[].identity_regexp": "As in `trust`.",
	"rollout.required":                  "Take no release by itself that no rollout file names.",
	"rollout.groups":                    "Groups that this device is in.",
	"rollout.id":                        "What decides about the turn of this device. Default: `/etc/machine-id`.",
	"limits.stage":                      "Until files and images are on the device.",
	"limits.backup":                     "Until the data are saved; the same for restoring them.",
	"limits.activate":                   "Until the running release is stopped and the new one started.",
	"limits.probe":                      "Until the release is healthy.",
	"limits.undo":                       "For each step of a rollback, and for tidying up.",
	"updates.drop":                      "Drop folder. Default: `/opt/APP/updates`.",
	"updates.drop_mode":                 "What happens with a bundle in the drop folder. Default: `apply`.",
	"updates.upload":                    "What happens with an uploaded bundle: `stage` or `apply`. Default: `stage`.",
	"updates.usb":                       "What happens with a bundle on a stick. Default: `stage`.",
	"updates.usb_receipts":              "Writes receipts and inventory to every stick that is plugged in.",
	"updates.check":                     "How often the source is asked, one minute or more. Default: never.",
	"updates.auto":                      "What happens with a newer release. Default: `off`.",
	"updates.window":                    "When updates may begin: `HH:MM-HH:MM` in local time. Default: always.",
	"updates.max_upload":                "Largest upload in bytes. Default: 8 GiB.",
	"updates.webhook":                   "Address that gets [an event](events.md#webhook) for each change of status.",
}

// keysOf calls row for each key of a struct.
func keysOf(t *testing.T, s reflect.Type, above string, row func(key, value, doc string)) {
	for i := range s.NumField() {
		f := s.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		key, typ := above+name, f.Type
		switch {
		case name == "-":
			continue
		case options == "inline":
			keysOf(t, typ, above, row)
			continue
		}
		list := typ.Kind() == reflect.Slice
		if list {
			typ, key = typ.Elem(), key+"[]"
		}
		if typ.Kind() == reflect.Struct && typ.NumField() > 0 {
			keysOf(t, typ, key+".", row)
			continue
		}
		if typ.Kind() == reflect.Map {
			row(key, "map of texts", configKeys[key])
			continue
		}
		value := map[string]string{"string": "text", "bool": "true or false", "int64": "number", "Mode": "`off`, `stage` or `apply`", "Interval": "time, like `6h`", "Duration": "time, like `30m`"}[typ.Name()]
		if value == "" {
			t.Errorf("%s: no words for %s", key, typ)
		}
		key = strings.TrimSuffix(key, "[]")
		row(key, value, configKeys[key])
	}
}
