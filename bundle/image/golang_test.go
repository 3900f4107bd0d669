package image

import (
	"debug/elf"
	"encoding/json"
	"io"
	"log"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/valise-ota/valise/bundle"
)

// newProgram writes a Go module in backend/ of a new directory.
func newProgram(t *testing.T, source string) string {
	t.Helper()
	log.SetOutput(io.Discard) // ko
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	// The environment of whoever runs this must not decide.
	t.Setenv("GOFLAGS", "")
	t.Setenv("GOARCH", "riscv64")
	t.Setenv("CGO_ENABLED", "1")
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "backend", "cmd", "server"), 0o777))
	must(t, os.WriteFile(filepath.Join(dir, "backend", "go.mod"), []byte("module example.org/backend\n\ngo 1.26\n"), 0o666))
	must(t, os.WriteFile(filepath.Join(dir, "backend", "cmd", "server", "main.go"), []byte(source), 0o666))
	return dir
}

const program = `package main

import "fmt"

var version = "none"

func main() { fmt.Println("hello", version) }
`

func goSpec(base string) Spec {
	return Spec{Reference: "shop/backend:1", Base: base, Go: &Go{Package: "backend/cmd/server", Ldflags: []string{"-X main.version={{1.2.3}}"}},
		Config: Config{User: "1000", Env: map[string]string{"B": "2"}}}
}

func TestGo(t *testing.T) {
	base := "oci:" + newLayout(t, newIndex(t, "base", amd64, arm64))
	collect := func() *Collection {
		t.Helper()
		c, err := Collect(t.Context(), Options{Platforms: both, CreatedAt: created, Dir: newProgram(t, program), CacheDir: t.TempDir(), Images: []Spec{goSpec(base)}})
		must(t, err)
		return c
	}
	c := collect()
	checkBlobs(t, c)
	checkManifest(t, c)
	for i, machine := range []elf.Machine{elf.EM_X86_64, elf.EM_AARCH64} {
		img := c.Components[0].Images[i]
		if len(img.Layers) != 3 {
			t.Fatalf("%d layers, want 3: the base's two and the program", len(img.Layers))
		}
		binary := fileIn(t, c, img.Layers[2].Digest, "/ko-app/server")
		f, err := elf.NewFile(strings.NewReader(binary))
		must(t, err)
		if libraries, _ := f.ImportedLibraries(); f.Machine != machine || len(libraries) > 0 || f.Section(".debug_info") == nil {
			t.Errorf("machine %s, libraries %v", f.Machine, libraries)
		}
		if !strings.Contains(binary, "{{1.2.3}}") {
			t.Error("the linker got other flags")
		}
		var config v1.ConfigFile
		must(t, json.Unmarshal(readBlob(t, c, img.Config.Digest), &config))
		want := v1.Config{Entrypoint: []string{"/ko-app/server"}, Env: []string{"PATH=/bin", "A=1", "B=2"}, User: "1000"}
		if !reflect.DeepEqual(config.Config, want) || !config.Created.Equal(created) {
			t.Errorf("config %+v", config)
		}
	}

	// Elsewhere, with another umask and an empty cache: the same image.
	defer syscall.Umask(syscall.Umask(0o077))
	if again := collect(); !reflect.DeepEqual(c.Components, again.Components) {
		t.Errorf("got  %+v\nthen %+v", c.Components, again.Components)
	}
}

// TestGoData has files for the program on an empty base, for a platform with a
// variant.
func TestGoData(t *testing.T) {
	dir := newProgram(t, program)
	must(t, os.MkdirAll(filepath.Join(dir, "backend/cmd/server/kodata"), 0o777))
	must(t, os.WriteFile(filepath.Join(dir, "backend/cmd/server/kodata/x"), []byte("data"), 0o666))
	s := goSpec(Scratch)
	s.Go.Ldflags = nil
	c, err := Collect(t.Context(), Options{Platforms: []bundle.Platform{"linux/arm/v6"}, CreatedAt: created, Dir: dir, CacheDir: t.TempDir(), Images: []Spec{s}})
	must(t, err)
	checkBlobs(t, c)
	img := c.Components[0].Images[0]
	if got := fileIn(t, c, img.Layers[0].Digest, "/var/run/ko/x"); got != "data" {
		t.Errorf("got %q", got)
	}
	binary := fileIn(t, c, img.Layers[1].Digest, "/ko-app/server")
	f, err := elf.NewFile(strings.NewReader(binary))
	must(t, err)
	if f.Machine != elf.EM_ARM || !strings.Contains(binary, "GOARM=6") || f.Section(".debug_info") != nil {
		t.Errorf("machine %s", f.Machine)
	}
	if config := string(readBlob(t, c, img.Config.Digest)); !strings.Contains(config, "KO_DATA_PATH=/var/run/ko") {
		t.Errorf("config %s", config)
	}
}

func TestGoRefused(t *testing.T) {
	for _, c := range []struct{ name, source, pkg, want string }{
		{"missing", program, "frontend", "no such file"},
		{"no directory", program, "backend/go.mod", "is not a directory"},
		{"no program", "package server\n", "backend/cmd/server", "importpath is not `package main`"},
		{"does not compile", "package main\n\nfunc main() { x }\n", "backend/cmd/server", "undefined: x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := goSpec(Scratch)
			s.Go.Package = c.pkg
			_, err := Collect(t.Context(), Options{Platforms: both[:1], Dir: newProgram(t, c.source), CacheDir: t.TempDir(), Images: []Spec{s}})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "collect image shop/backend:1: make it for linux/amd64: go "+c.pkg+": ") {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}
