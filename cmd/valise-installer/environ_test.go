package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle/environ"
)

// envPieces are what means something to a parser of environment files.
var envPieces = []string{"a", "B", "7", " ", "\t", "\n", "\r\n", "#", " # c", ";", "'", `"`, `\`, "\\\n", "$", "${A}", "=", ":", "`", "%", "ä", "\u00a0", "\xff", "\uffff", "\x01", "\x7f", "\uFEFF", "export ", "\nA=", "\nB = ", "\n#", "\n;"}

func envText(r *rand.Rand, most int) string {
	var b strings.Builder
	for range r.IntN(most) {
		b.WriteString(envPieces[r.IntN(len(envPieces))])
	}
	return b.String()
}

// envFiles is envfiles N: what a process that systemd starts sees of N environment
// files is what we read of them, and N values that we set arrive as they are.
func envFiles(ts *testscript.TestScript, _ bool, args []string) {
	var n int
	_, err := fmt.Sscan(args[0], &n)
	ts.Check(err)
	dir := filepath.Join(ts.Getenv("ROOT"), "srv/env")
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("ROOT"), "etc/systemd/system/dump@.service"),
		[]byte("[Unit]\nCollectMode=inactive-or-failed\n[Service]\nType=oneshot\nEnvironmentFile=/srv/env/%i\nExecStart=/bin/cp /proc/self/environ /srv/env/%i.out\n"), 0o644))
	r := rand.New(rand.NewPCG(3, 4))
	files := make([]string, 2*n)
	start := []string{"systemctl", "start"}
	for i := range files {
		files[i] = "A=" + envText(r, 14) + "\nLAST=1\n"
		if i >= n {
			f, err := environ.Systemd.Parse([]byte("# c\nA = 'x' \\\n y\nB=2"))
			ts.Check(err)
			value := envText(r, 10)
			if f.Set([]string{"A", "B", "NEW"}[i%3], value) != nil && utf8.ValidString(value) && !strings.Contains(value, "\uffff") {
				ts.Fatalf("%q cannot be set", value)
			}
			files[i] = string(f.Bytes())
		}
		ts.Check(os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(files[i]), 0o600))
		start = append(start, fmt.Sprintf("dump@%d.service", i))
	}
	ts.Check(ts.Exec("in", "systemctl", "daemon-reload"))
	_ = ts.Exec("in", start...) // those whose file systemd refuses do not start
	seen := 0
	for i, text := range files {
		f, err := environ.Systemd.Parse([]byte(text))
		out, readErr := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)+".out"))
		if readErr != nil {
			if err == nil {
				ts.Fatalf("systemd refuses what we read: %q", text)
			}
			continue
		}
		if err != nil { // what we refuse for people's sake, and systemd does not
			if !strings.Contains(err.Error(), "do not end") && !strings.Contains(err.Error(), "backslash") {
				ts.Fatalf("systemd reads %q, and we say: %v", text, err)
			}
			continue
		}
		got, want := map[string]string{}, map[string]string{}
		for pair := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
			if key, value, _ := strings.Cut(pair, "="); key == "A" || key == "B" || key == "NEW" || key == "LAST" {
				got[key] = value
			}
		}
		for _, key := range f.Keys() {
			want[key], _ = f.Lookup(key)
		}
		if seen++; !maps.Equal(got, want) {
			ts.Fatalf("of %q the process sees %q, and we read %q", text, got, want)
		}
	}
	if seen < n {
		ts.Fatalf("only %d of %d files were compared", seen, len(files))
	}
}

// TestEnvFilesOfCompose is envfiles with docker compose: what it makes of environment
// files, in containers and for variables, is what we read of them and set in them.
func TestEnvFilesOfCompose(t *testing.T) {
	t.Parallel()
	realEngine(t)
	const n = 300
	r := rand.New(rand.NewPCG(5, 6))
	dir := t.TempDir()
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	type service struct {
		Image       string            `json:"image"`
		EnvFile     []string          `json:"env_file,omitempty"`
		Environment map[string]string `json:"environment,omitempty"`
	}
	services, want := map[string]service{}, map[string]map[string]string{}
	add := func(name string, f *environ.File) {
		write(name, f.Bytes())
		services[name], want[name] = service{Image: "x", EnvFile: []string{name}}, map[string]string{}
		for _, key := range f.Keys() {
			want[name][key], _ = f.Lookup(key)
		}
	}
	for i := range n { // as people write them
		text := "A=" + envText(r, 14) + "\nLAST=1\n"
		if f, err := environ.Compose.Parse([]byte(text)); err == nil && utf8.ValidString(text) {
			add(fmt.Sprint("read", i), f)
		}
	}
	all, err := environ.Compose.Parse([]byte("# c\nFIRST='x'\nSECOND=2"))
	if err != nil {
		t.Fatal(err)
	}
	asked := service{Image: "x", Environment: map[string]string{}}
	want["all"] = map[string]string{}
	for i := range n { // as we write them
		key, value := fmt.Sprint("KEY", i), envText(r, 10)
		if !utf8.ValidString(value) || all.Set(key, value) != nil { // JSON has no other text
			continue
		}
		asked.Environment[key], want["all"][key] = "${"+key+"}", value
	}
	if len(services) < n/4 || len(asked.Environment) < n/2 {
		t.Fatalf("only %d files and %d values are compared", len(services), len(asked.Environment))
	}
	add("set", all)
	services["all"] = asked
	b, err := json.Marshal(map[string]any{"services": services})
	if err != nil {
		t.Fatal(err)
	}
	write("compose.yaml", b)
	cmd := exec.Command("docker", "compose", "--project-name", "x", "--project-directory", dir, "--env-file", filepath.Join(dir, "set"), "config", "--format", "json")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "DOCKER_CONFIG=" + os.Getenv("DOCKER_CONFIG")}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%.2000s", err, errs.Bytes())
	}
	var got struct{ Services map[string]service }
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	for name := range want {
		delete(got.Services[name].Environment, "") // of a line that begins with =: nothing can ask for it
		for key, value := range want[name] {
			// Docker compose writes a $ as it would have to be written in its file.
			if has := strings.ReplaceAll(got.Services[name].Environment[key], "$$", "$"); has != value {
				t.Errorf("%s: %s is %q, and we say %q", name, key, has, value)
			}
		}
		if len(got.Services[name].Environment) != len(want[name]) {
			t.Errorf("%s: it has %q, and we say %q", name, got.Services[name].Environment, want[name])
		}
	}
}
