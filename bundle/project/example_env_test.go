package project

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// strangers is an example file in the shapes that people write.
const strangers = `export EXPORTED=1
# Where people reach it. Required.
PUBLIC_URL=
PORT=8080
NAME="a b"
SINGLE='$HOME'
REF=http://${PORT}/x
#HINT=value
# OTHER=

# Sign-in; generate each with openssl rand -base64 48
SIGNING_KEY=
OTHER_TOKEN=""
# shown to people
COUNTRY_KEY=

# Optional, leave empty without mail
SMTP_HOST=
SMTP_PASSWORD=   # from your provider
STRIPE_SECRET_KEY= # generate one in your dashboard
CLIENT_ID=''
SECRET_KEY=changeme
`

// TestExampleEnv has keys of an example: with a value they are optional, and empty ones
// must be decided, all at once.
func TestExampleEnv(t *testing.T) {
	empty := []string{"CLIENT_ID", "COUNTRY_KEY", "OTHER_TOKEN", "PUBLIC_URL", "SIGNING_KEY", "SMTP_HOST", "SMTP_PASSWORD", "STRIPE_SECRET_KEY"}
	decided := "secrets: {SIGNING_KEY: {base64: 48}}\nenv: {COUNTRY_KEY: {required: false}, CLIENT_ID: {required: false}, OTHER_TOKEN: {default: x}, SMTP_HOST: {initial: h}, SMTP_PASSWORD: {required: false}, STRIPE_SECRET_KEY: {required: false}, PUBLIC_URL: {required: true}}\n"
	tree := "app: shop\nplatforms: [linux/amd64]\ntree: {files: [{from: a.service, to: a.service}], units: [a.service], keep_env: KEEP}\n"
	for kind, files := range map[string]map[string]string{
		"tree":    {"valise.yaml": tree, "a.service": "[Service]\nExecStart=/bin/true\n"},
		"compose": {"valise.yaml": goodProject, "compose.yaml": "services:\n  db: {image: a, restart: always, env_file: .env, environment: {D: \"${WITH_DEFAULT:-}\", E: \"${OPTIONAL-x}\"}}\n"},
	} {
		for _, end := range []string{"\n", "\r\n"} {
			t.Run(kind+fmt.Sprintf("%q", end), func(t *testing.T) {
				files := maps.Clone(files)
				files[".env.example"] = strings.ReplaceAll(strangers, "\n", end)
				if kind == "compose" {
					files[".env.example"] += "WITH_DEFAULT=\nOPTIONAL=\nCOMPOSE_FILE=\nSHOP_VERSION=\n"
				} else {
					files[".env.example"] += "KEEP=\n"
				}
				_, _, err := release(t, files)
				if err == nil {
					t.Fatal("empty keys are not refused")
				}
				for _, key := range empty {
					if !strings.Contains(err.Error(), key) {
						t.Errorf("%s is not named in %v", key, err)
					}
				}
				for _, not := range []string{"PORT", "HINT", "OTHER:", "SINGLE", "WITH_DEFAULT", "OPTIONAL", "COMPOSE_", "VERSION", "KEEP", "REF", " SECRET_KEY"} {
					if strings.Contains(err.Error(), not) {
						t.Errorf("%s is named in %v", not, err)
					}
				}
				if !strings.Contains(err.Error(), "env: {PUBLIC_URL: {required: false}, SIGNING_KEY: {required: false}, ") || !strings.HasSuffix(err.Error(), "secrets: {SIGNING_KEY: {base64: 48}, OTHER_TOKEN: {base64: 48}}") {
					t.Errorf("lines to choose from: %v", err)
				}
				files["valise.yaml"] += decided
				r, _, err := release(t, files)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(r.RequiredEnv, []string{"PUBLIC_URL"}) || r.Env["PUBLIC_URL"].Help != "Where people reach it. Required." {
					t.Errorf("required %q, env %v", r.RequiredEnv, r.Env)
				}
				if !strings.Contains(strings.Join(r.Notes, "\n"), "everybody can read there of SECRET_KEY") {
					t.Errorf("notes %q", r.Notes)
				}
			})
		}
	}
}

// TestDraftExample drafts both kinds of apps, and builds what it drafted.
func TestDraftExample(t *testing.T) {
	for _, kind := range []string{"tree", "compose"} {
		t.Run(kind, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "shop")
			write(t, filepath.Join(dir, ".env.example"), strangers)
			var d *Draft
			var err error
			if kind == "tree" {
				write(t, filepath.Join(dir, "packaging", "shop.service"), "[Service]\nExecStart=/opt/shop/current/bin/shop\n")
				write(t, filepath.Join(dir, "dist", "linux-amd64", "shop"), "x")
				write(t, filepath.Join(dir, "dist", "linux-arm64", "shop"), "x")
				d, err = NewTreeDraft(dir)
			} else {
				write(t, filepath.Join(dir, "compose.yaml"), "services:\n  a: {image: a, restart: always, env_file: .env}\n")
				d, err = NewDraft(t.Context(), dir, []string{"compose.yaml"}, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			text := string(d.YAML)
			for _, want := range []string{"\n  PUBLIC_URL: {required: true}", "\n  SMTP_HOST: {required: false}", "\n  SMTP_PASSWORD: {required: false}", "\n  STRIPE_SECRET_KEY: {required: false}", "\n  CLIENT_ID: {required: false}", "\n  COUNTRY_KEY: {required: false}", "\n  SIGNING_KEY: {base64: 48}", "\n  OTHER_TOKEN: {base64: 48}", "\n  SECRET_KEY: {hex: 32}"} {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
			if strings.Contains(text, "HINT") || strings.Contains(text, "\n  REF:") || !strings.Contains(strings.Join(d.Notes, "\n"), "guessed: ") {
				t.Errorf("got\n%s\n%q", text, d.Notes)
			}
			write(t, filepath.Join(dir, DefaultFile), text)
			p, err := Load(t.Context(), filepath.Join(dir, DefaultFile))
			if err != nil {
				t.Fatal(err)
			}
			r, err := p.Release(t.Context(), "1.2.3", p.Platforms)
			if err != nil || !slices.Equal(r.RequiredEnv, []string{"PUBLIC_URL"}) {
				t.Errorf("got %v, %v", r, err)
			}
		})
	}
}
