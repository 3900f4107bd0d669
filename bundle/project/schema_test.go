package project

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
)

// beyondSchema are mistakes that a schema cannot see.
var beyondSchema = map[string]string{
	"two documents":            "an editor checks the first",
	"duplicate":                "gone when the file is read as data",
	"platform twice":           "two names of one platform",
	"image tag":                "a colon may be the port of a registry",
	"template":                 "templates",
	"template of a platform":   "templates",
	"output":                   "templates",
	"template of a tree":       "templates",
	"default of a secret":      "two keys of the top level",
	"no platform":              "depends on platforms",
	"other name of a platform": "a platform has two names",
	"hook file":                "depends on files",
	"limits":                   "a schema does not compare times",
	"rollback without backup":  "depends on backup",
	"irreversible":             "depends on migration",
}

func TestSchemaAgrees(t *testing.T) {
	resolved, err := Schema().Resolve(&jsonschema.ResolveOptions{ValidateDefaults: true})
	if err != nil {
		t.Fatal(err)
	}
	check := func(name, text string) {
		t.Run(name, func(t *testing.T) {
			var instance any
			err := yaml.Load([]byte(text), &instance, yaml.WithUniqueKeys())
			if err == nil {
				err = resolved.Validate(instance)
			}
			_, want := parse("valise.yaml", []byte(text))
			if _, ok := beyondSchema[name]; ok {
				if want == nil {
					t.Fatal("is not a mistake")
				}
				return
			}
			if (err == nil) != (want == nil) {
				t.Errorf("%s\nschema:  %v\ndecoder: %v", text, err, want)
			}
		})
	}
	seen := map[string]bool{}
	for _, c := range badProjects {
		seen[c.name] = true
		check(c.name, c.text)
	}
	shop, err := os.ReadFile("testdata/shop/valise.yaml")
	if err != nil {
		t.Fatal(err)
	}
	check("shop", string(shop))
	const digest = "0123456789abcdef"
	for _, more := range []string{
		"", "files: [a/b.txt, .env.x, ...a]\n", "files: [a/./b]\n", "files: [/a]\n", "files: [a/]\n", "files: [a//b]\n", "files: [.]\n", "files: [a, a]\n", "files: [{path: a, public: true}, \"!b\", \"c/*.d\"]\n", "files: [{public: true}]\n", "files: [{path: ../a}]\n", "files: [\"!../a\"]\n", "files: [{path: a, other: b}]\n", "files: a\n",
		"limits: {stage: 1h, probe: 10m}\n", "limits: {start: 1h}\n",
		"keep: {releases: 2, backups: 1000}\n", "keep: {releases: 101}\n", "keep: {backups: 0}\n", "keep: {}\n",
		"project: Shop\n", "project: shop_1\n", "version_env: \"1\"\n", "version_env: TAG\n", "installer: ../dist\n", "output: x\n",
		"backup: []\n", "backup: [{}]\n", "backup: [{postgres: {service: a, user: b, database: c}}]\n", "backup: [{postgres: {service: a, user: b, database: \"\"}}]\n", "backup: [{postgres: {service: a}}, {mysql: {service: b}}, {mongo: {service: c}}, {redis: {service: d}}]\n", "backup: [{redis: {}}]\n", "backup: [{mongo: {service: a, database: b}}]\n",
		"backup: [{mysql: {service: a, user: b, database: c}}, {sqlite: {service: a, path: /d/e.db}}, {volume: {service: a, path: /d}}, {command: {service: a, save: [x], restore: [y]}}]\n",
		"backup: [{sqlite: {service: a, path: d}}]\n", "backup: [{command: {service: a, save: [x]}}]\n", "backup: [{command: {service: a, save: [x], restore: []}}]\n", "backup: [{mysql: {service: a, user: b, database: c}, sqlite: {service: a, path: /d}}]\n",
		"hooks: {migrate: {service: a, run: [x], timeout: 1m}}\n", "hooks: {boot: {service: a, run: [x]}}\n", "hooks: {migrate: {service: a}}\n", "hooks: {migrate: {service: a, run: []}}\n",
		"migration: reversible\n", "migration: sometimes\n", "rollback: {restore_data: never}\n", "rollback: {}\n", "rollback: {restore_data: perhaps}\n", "requires: {from: 1.0.0, engine: \"23.0\"}\n",
		"secrets: {A: {hex: 8}, B: {hex: 128, prefix: x-, immutable: true, show: once}}\n", "secrets: {A: {}}\n", "secrets: {A: {hex: 8, show: twice}}\n", "secrets: {\"A B\": {hex: 8}}\n", "secrets: {A: {hex: 8.5}}\n",
		"secrets: {A: {base64: 8}, B: {password: 12}}\n", "secrets: {A: {base64: 7}}\n", "secrets: {A: {password: 11}}\n", "secrets: {A: {hex: 8, password: 12}}\n", "secrets: {A: {password: 129}}\n", "secrets: {A: {hex: 8, prefix: \"a b\"}}\n",
	} {
		check(more, goodProject+more)
	}
	check("tree", goodTree)
	for _, more := range []string{
		"backup: []\n", "project: cloud\n", "version_env: V\n", "arch: {linux/amd64: \"\"}\n", "arch: {linux/amd64: a/b}\n", "arch: {linux/amd64: x86_64-linux}\n", "env: {A: {required: true, default: 8080, help: x}}\n",
	} {
		check("tree "+more, goodTree+more)
	}
	for _, more := range []string{
		"required: [bin/x]\n", "required: [bin/x, bin/x]\n", "required: [bin/../x]\n", "templates: [{from: a}]\n", "templates: [{from: a, to: /etc/a/b, mode: \"\", validate: [x, \"{}\"]}]\n", "env_file: /etc/x/y\n", "keep_env: WC_KEEP\nsigner_env: S\n",
	} {
		check("in tree "+more, strings.Replace(goodTree, "health", "  "+strings.ReplaceAll(more, "\n", "\n  ")[:len(strings.ReplaceAll(more, "\n", "\n  "))-2]+"health", 1))
	}
	for _, image := range []string{
		"{from: postgres:17}", "{from: \"oci:x\"}", "{from: \"archive:x.tar\"}", "{from: \"docker:x\"}", "{from: localhost:5000/a/b@sha256:" + digest + "}", "{from: s}", "{from: scr}", "{from: scratchy}", "{from: scratch}", "{from: \"\"}",
		"{from: \"oci:\"}", "{from: {linux/amd64: b}}", "{from: {linux/amd64: scratch}}", "{from: {linux/amd64: \"archive:\"}}", "{from: {AMD: b}}", "{from: []}",
		"{go: ./x}", "{go: \"\"}", "{go: {package: x, ldflags: -s, base: scratch, env: {A: b}}}", "{go: {package: x, base: \"oci:\"}}", "{go: {ldflags: x}}", "{go: {package: x, bases: y}}", "{go: x, user: y, files: [{from: a, to: /b}]}",
		"{go: x, context: y}", "{go: x, from: y}", "{dockerfile: x}", "{dockerfile: x, context: ., target: y, args: {A: 1}}", "{dockerfile: x, env: {A: b}}", "{context: x}", "{from: x, target: y}", "{base: x, args: {a: b}}",
		"{base: x}", "{base: scratch, files: [{from: a, to: /b/.c/..d, mode: \"0644\"}]}", "{base: x, files: [{from: a, to: /}]}", "{base: x, files: [{from: a, to: /a/}]}", "{base: x, files: [{from: a, to: b}]}", "{base: x, files: [{from: a}]}",
		"{base: x, files: [{from: a, to: /b, mode: \"8\"}]}", "{base: x, files: [{from: a, to: /b, mode: \"0\"}]}", "{base: x, files: [{from: a, to: /b, mode: \"07777\"}]}", "{base: x, files: [{from: a, to: /b, mode: \"17777\"}]}",
		"{base: x, env: {A: 1, B: true, C: text}}", "{base: x, env: {\"1\": a}}", "{base: x, user: 1000}", "{base: x, workdir: /}", "{base: x, workdir: a}", "{base: x, expose: [80, 53/udp, \"80/tcp\"]}", "{base: x, expose: [53/x]}",
		"{base: x, stop_signal: SIGINT}", "{base: x, stop_signal: 9}", "{base: x, stop_signal: int}", "{base: x, entrypoint: [a, 1]}", "{base: x, entrypoint: a}", "{base: x, entrypoint: [[a]]}", "{base: x, labels: {a: b}}", "{}", "[]",
	} {
		check(image, goodProject+"images: {a: "+image+"}\n")
	}
	for _, health := range []string{"{http: \"http://a\"}", "{http: \"https://a\", version: v}", "{http: a}", "{compose: []}", "{compose: [a], version: v}", "{}", "{compose: [a], retries: 1000, interval: 1m30s}",
		"{compose: [a], retries: 1001}", "{compose: [a], interval: 1.5s}", "{compose: [a], interval: 5}", "{compose: [a], interval: soon}", "{compose: a}",
		"{tcp: [\"127.0.0.1:5432\"], stable_for: 10s}", "{tcp: []}", "{command: {service: db, run: [pg_isready]}}", "{command: {service: db}}", "{http: \"http://a\", status: 204, body: ok, json: {a.b: c}}", "{http: \"http://a\", status: 99}", "{compose: [a], status: 200}"} {
		check(health, strings.Replace(goodProject, "{compose: [db]}", health, 1))
	}
	for name := range beyondSchema {
		if !seen[name] && name != "template of a platform" && name != "no platform" && name != "other name of a platform" {
			t.Errorf("%q is not in the table", name)
		}
	}
}

// TestSchemaText looks at what an editor gets.
func TestSchemaText(t *testing.T) {
	raw, err := SchemaJSON()
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Schema     string `json:"$schema"`
		Properties map[string]struct {
			Description string
		}
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	if s.Schema != SchemaVersion {
		t.Errorf("schema %q", s.Schema)
	}
	for name, p := range s.Properties {
		if p.Description == "" {
			t.Errorf("%s has no description", name)
		}
	}
	// Every path of a rule or a description leads somewhere.
	for path := range rules {
		find(t, path)
	}
	for path := range descriptions {
		find(t, path)
	}
}

func find(t *testing.T, path string) {
	t.Helper()
	s := Schema()
	for _, key := range strings.Split(path, ".") {
		if path == "" {
			return
		}
		if len(s.AnyOf) == 2 && s.AnyOf[1].Properties != nil && s.Properties == nil {
			s = s.AnyOf[1] // the long form
		}
		next := s.Properties[key]
		if key == "*" && s.Items != nil {
			next = s.Items
		} else if key == "*" {
			next = s.AdditionalProperties
		}
		if next == nil {
			t.Errorf("%s leads nowhere", path)
			return
		}
		s = next
	}
}

func TestSchemaPatterns(t *testing.T) {
	for _, s := range []string{"a", "a-1", "A", "1", "", "_", "A_1", "a b", strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 128), strings.Repeat("a", 129)} {
		if got := matches(t, appPattern, s); got != bundle.ValidApp(s) {
			t.Errorf("app %q: %t", s, got)
		}
		if got := matches(t, envPattern, s); got != bundle.ValidEnvKey(s) {
			t.Errorf("variable %q: %t", s, got)
		}
	}
	for _, s := range []string{"linux/amd64", "linux/arm/v7", "linux", "linux/", "Linux/amd64", "linux/arm64/v8/x", "linux/386"} {
		if _, err := bundle.ParsePlatform(s); matches(t, platformPattern, s) != (err == nil) {
			t.Errorf("platform %q: %v", s, err)
		}
	}
}

func matches(t *testing.T, pattern, s string) bool {
	t.Helper()
	resolved, err := (&jsonschema.Schema{Pattern: pattern}).Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return resolved.Validate(s) == nil
}
