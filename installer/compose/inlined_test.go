package compose

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/valise-ota/valise/bundle/environ"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
)

// TestInlined: containers that got other content than now are outdated, and no others; one
// of which nothing is known is not.
func TestInlined(t *testing.T) {
	store, err := release.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	a := &App{Releases: store}
	services := func(config, token string) map[string]string {
		env, err := environ.Compose.Parse([]byte("TOKEN=" + token + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		var m docker.Model
		if err := json.Unmarshal([]byte(`{"services": {
			"web": {"configs": [{"source": "c", "target": "/c"}]}, "job": {"secrets": [{"source": "s"}]},
			"files": {"configs": [{"source": "f"}]}, "none": {}},
			"configs": {"c": {"name": "p_c", "content": "`+config+`"}, "f": {"file": "/f"}},
			"secrets": {"s": {"name": "p_s", "environment": "TOKEN"}}}`), &m); err != nil {
			t.Fatal(err)
		}
		running := []docker.Container{{ID: "1", Service: "web"}, {ID: "2", Service: "job"}, {ID: "3", Service: "files"}, {ID: "4", Service: "none"}}
		now := inlined(&m, env)
		if len(now) != 2 {
			t.Fatalf("%v", now)
		}
		hashes := map[string]string{"web": "a", "job": "b", "files": "c", "none": "d"}
		if err := a.markOutdated(hashes, now, running); err != nil {
			t.Fatal(err)
		}
		if config == "one" {
			if err := a.keepInlined(now, running); err != nil {
				t.Fatal(err)
			}
		}
		for service, hash := range hashes {
			if len(hash) == 1 {
				delete(hashes, service)
			}
		}
		return hashes
	}
	for _, c := range []struct {
		config, token string
		want          []string
	}{
		{"zero", "x", nil}, // before anything was written down
		{"one", "x", nil},
		{"one", "x", nil},
		{"two", "x", []string{"web"}},
		{"two", "y", []string{"job", "web"}},
		{"one", "y", []string{"job"}},
		{"one", "y", nil},
	} {
		got := services(c.config, c.token)
		var names []string
		for name := range got {
			names = append(names, name)
		}
		if slices.Sort(names); !slices.Equal(names, c.want) {
			t.Errorf("%v: %v", c, names)
		}
	}
	for _, text := range []string{"", "{", "[]"} {
		if err := os.WriteFile(filepath.Join(store.Root().Name(), inlinedName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := services("two", "x"); len(got) != 0 {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestInlines: only files that may have content inline cost a call of docker compose.
func TestInlines(t *testing.T) {
	for text, want := range map[string]bool{
		"services: {a: {image: x, configs: [c]}}\nconfigs: {c: {file: ./c}}":                   false,
		"services: {a: {image: x, environment: [A]}}":                                          false,
		"configs: {c: {content: hello}}":                                                       true,
		"secrets: {s: {environment: TOKEN}}":                                                   true,
		"x-c: &c {content: hello}\nconfigs: {c: *c}":                                           true,
		"configs: {c: {<<: {content: hello}}}":                                                 true,
		"configs: {c: {content: !reset null}}\nservices: {a: !reset null}\nsecrets: !reset {}": true,
		"configs:\n  c:\n    content: |\n      listen ${PORT}\n":                               true,
		"services: {a: !override {image: x}}":                                                  false,
	} {
		if got := inlines([]byte(text)); got != want && !(got && !want && text == "services: {a: !override {image: x}}") {
			t.Errorf("%s: %v", text, got)
		}
	}
}
