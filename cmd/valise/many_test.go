//go:build unix

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// mountingApp writes a compose app that mounts directory conf, which is empty yet.
func mountingApp(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := writeLayout(filepath.Join(dir, "image"), "a", []string{"linux/amd64"}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"valise.yaml":  "app: many\ninstaller: none\ncompose: compose.yaml\nplatforms: [linux/amd64]\nimages: {a: {from: \"oci:image\"}}\nhealth: {compose: [web]}\n",
		"compose.yaml": "services: {web: {image: \"a:1\", restart: always, volumes: [\"./conf:/conf:ro\"]}}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "conf"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestChangedWhilePacked: a file that is written to meanwhile is one clear error, and
// nothing is left.
func TestChangedWhilePacked(t *testing.T) {
	dir := mountingApp(t)
	name := filepath.Join(dir, "conf/log")
	if err := os.WriteFile(name, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stop, stopped := make(chan bool), make(chan bool)
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				fmt.Fprint(&at{f}, n)
			}
		}
	}()
	// It is seen when a write falls between the two looks at the file: mostly, not always.
	var out strings.Builder
	code := 0
	for try := 0; code == 0 && try < 100; try++ {
		os.RemoveAll(filepath.Join(dir, "out"))
		out.Reset()
		code = run(t.Context(), cli.Env{Args: []string{"build", "1.0.0", "--progress", "none", "--project", filepath.Join(dir, "valise.yaml"), "-o", filepath.Join(dir, "out", "x.tar.gz")},
			Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out, Now: time.Now, Getenv: func(string) string { return "" }})
	}
	close(stop)
	<-stopped
	if code != cli.ExitFailed || !strings.Contains(out.String(), name+" changed while it was packed: nothing was written") {
		t.Errorf("exit code %d: %s", code, &out)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "out")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// at writes to the beginning of a file.
type at struct{ f *os.File }

func (a *at) Write(p []byte) (int, error) { return a.f.WriteAt(p, 0) }

// TestManyFiles: ten thousand mounted files of 100 MB in all take little more memory
// than ten, and give the same bytes each time.
func TestManyFiles(t *testing.T) {
	dir := mountingApp(t)
	build := func(out string) (maxRSS int64) {
		t.Helper()
		cmd := exec.Command("valise", "build", "1.0.0", "--progress", "none", "-o", out)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000", "XDG_CACHE_HOME="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return int64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) << 10
	}
	random := rand.NewChaCha8([32]byte{1})
	files := func(from, to int) {
		for i := from; i < to; i++ {
			b := make([]byte, 10_000)
			random.Read(b)
			if err := os.WriteFile(filepath.Join(dir, "conf", fmt.Sprintf("%05d", i)), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	files(0, 10)
	few := build("few.tar")
	files(10, 10_000)
	many := build("one.tar")
	t.Logf("10 files: %d MiB, 10,000 files of 100 MB: %d MiB", few>>20, many>>20)
	if many-few > 64<<20 {
		t.Errorf("10 files take %d bytes of memory, 10,000 take %d", few, many)
	}
	build("two.tar")
	var sums []bundle.Digest
	for _, name := range []string{"one.tar", "two.tar"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, bundle.DigestOf(b))
	}
	if sums[0] != sums[1] {
		t.Error("two builds differ")
	}
}
