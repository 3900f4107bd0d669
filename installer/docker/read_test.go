package docker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What docker compose made of a project is asked once, and again when anything changed
// that it reads.
func TestRead(t *testing.T) {
	c := fakeCompose(t, `echo x >>asked; [ ! -e wrong ] || exit 1; echo "{\"services\":{\"a\":{$(cat service)}}}"`)
	file := func(name, text string) string {
		name = filepath.Join(c.Dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	c.Read = &Read{}
	c.Files, c.EnvFile = []string{file("a.yml", "services"), file("b.yml", "pins")}, file("env", "A=1\n")
	ask := func(what string, want int) {
		t.Helper()
		m, err := c.Model(t.Context())
		if err != nil || len(m.Services) != 1 {
			t.Fatalf("%s: %v, %v", what, m, err)
		}
		if err := c.Config(t.Context()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		b, _ := os.ReadFile(filepath.Join(c.Dir, "asked"))
		if got := strings.Count(string(b), "x"); got != want {
			t.Fatalf("%s: docker compose was asked %d times, want %d", what, got, want)
		}
		_ = os.Remove(filepath.Join(c.Dir, "asked"))
	}
	file("service", "")
	ask("first", 1)
	ask("again", 0)
	c.Files = []string{file("c.yml", "services"), c.Files[1]}
	ask("the same in another file", 0)
	file("c.yml", "services other")
	ask("other services", 1)
	file("b.yml", "other pins")
	ask("other pins", 1)
	file("env", "A=2\n")
	ask("another variable", 1)
	c.Profiles = []string{"debug"}
	ask("a profile", 1)
	c.Env.Host = "unix:///y.sock"
	ask("another engine", 1)
	c.Files[0], c.Files[1] = c.Files[1], c.Files[0]
	ask("another order", 1)
	file("b.yml", strings.Repeat(" ", maxRemembered))
	ask("large", 2)
	ask("large, again", 2)
	file("service", `"env_file":["a.env"]`)
	file("b.yml", "with an environment file, which the model does not read")
	ask("environment file", 2)
	ask("environment file, which may have changed", 1)

	file("b.yml", "wrong")
	file("wrong", "")
	for range 2 {
		if c.Config(t.Context()) == nil {
			t.Error("what was wrong is right the second time")
		}
		if _, err := c.Model(t.Context()); err == nil {
			t.Error("a project that cannot be read has a model")
		}
	}
}
