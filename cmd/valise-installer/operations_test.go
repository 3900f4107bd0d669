package main

import (
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/installer/device"
)

// TestOperations: docs/page.md says of each command, each of its flags and each call of
// the API what is the same elsewhere, or why there is nothing, and names none that is not
// there.
func TestOperations(t *testing.T) {
	b, err := os.ReadFile("../../docs/page.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(b), "## What can be done where\n")
	text, _, _ = strings.Cut(text, "\n## ")
	var rows [][]string
	for line := range strings.Lines(text) {
		if cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | "); len(cells) == 4 && !strings.Contains(line, "| what |") {
			rows = append(rows, cells)
		}
	}
	if !found || len(rows) < 20 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	code := regexp.MustCompile("`([^`]+)`")
	words := func(cell string) (all []string) {
		for _, m := range code.FindAllStringSubmatch(cell, -1) {
			all = append(all, m[1])
		}
		return all
	}

	// The flags that each command has, and those that rows give it.
	has, said := map[string][]string{}, map[string][]string{"APP-update": nil}
	p := &program{App: cli.App{Env: cli.Env{}}, Machine: &device.Machine{}}
	root := &cobra.Command{Use: "valise-installer"}
	for _, c := range commands {
		root.AddCommand(c(p))
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Runnable() && !c.Hidden {
			path := strings.TrimPrefix(c.CommandPath(), "valise-installer ")
			has[path] = []string{}
			c.Flags().VisitAll(func(f *pflag.Flag) { has[path] = append(has[path], "--"+f.Name) })
			for _, alias := range c.Aliases {
				has[alias] = has[path]
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	for _, row := range rows {
		trust := []string{}
		if strings.Contains(row[1], "flags of trust") {
			trust = []string{"--key", "--identity", "--identity-regexp", "--issuer", "--trusted-root"}
		}
		last := ""
		for _, w := range words(row[1]) {
			fields := strings.Fields(w)
			i := slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, "--") })
			if i < 0 {
				i = len(fields)
			}
			if name := strings.Join(fields[:i], " "); name != "" {
				last = name
			}
			if _, ok := has[last]; !ok && last != "APP-update" && !strings.HasPrefix(last, "/") {
				t.Errorf("%s: there is no command %q", row[0], last)
			}
			said[last] = append(append(said[last], fields[i:]...), trust...)
		}
		for i, cell := range row {
			if strings.TrimSpace(cell) == "" || i == 2 && len(words(cell)) == 0 && !strings.HasPrefix(cell, "no") {
				t.Errorf("%s: %q says neither how nor why not", row[0], cell)
			}
		}
	}
	for path, flags := range has {
		for _, f := range flags {
			if !slices.Contains(said[path], f) {
				t.Errorf("no row says what %s %s is elsewhere", path, f)
			}
		}
		if _, ok := said[path]; !ok {
			t.Errorf("no row has the command %s", path)
		}
	}
	for path, flags := range said {
		for _, f := range flags {
			if has[path] != nil && !slices.Contains(has[path], f) && !slices.Contains([]string{"--key", "--identity", "--identity-regexp", "--issuer", "--trusted-root"}, f) {
				t.Errorf("%s has no flag %s", path, f)
			}
		}
	}

	var calls, named []string
	for _, r := range daemon.Routes() {
		if r.Public() {
			calls = append(calls, strings.TrimSpace(r.Method+" "+regexp.MustCompile(`\{[a-z]+\}`).ReplaceAllStringFunc(r.Path, func(s string) string { return strings.ToUpper(strings.Trim(s, "{}")) })))
		}
	}
	api := (&daemon.Daemon{}).Handler()
	for _, row := range rows {
		if strings.HasPrefix(row[2], "no") { // the API names the command
			for _, w := range words(row[1]) {
				name, _, _ := strings.Cut(w, " ")
				if strings.HasPrefix(name, "-") || slices.Contains([]string{"update", "serve", "page"}, name) {
					continue
				}
				answer := httptest.NewRecorder()
				api.ServeHTTP(answer, httptest.NewRequest("POST", daemon.Prefix+"/"+name, nil))
				if !strings.Contains(answer.Body.String(), "valise-installer "+name) {
					t.Errorf("POST /%s: %s", name, answer.Body)
				}
			}
		}
		for _, w := range words(row[2]) {
			if method, _, _ := strings.Cut(w, " "); method == strings.ToUpper(method) {
				named = append(named, w)
			}
		}
	}
	for _, c := range calls {
		if !slices.Contains(named, c) {
			t.Errorf("no row has the call %s", c)
		}
	}
	for _, c := range named {
		if !slices.Contains(calls, c) {
			t.Errorf("there is no call %s", c)
		}
	}
}
