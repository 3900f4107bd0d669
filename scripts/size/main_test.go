package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestOf(t *testing.T) {
	modules := []string{"gopkg.in/yaml.v3", "github.com/a/b/v2", "github.com/a/b", own}
	for symbol, want := range map[string]string{
		"github.com/a/b/v2/x.(*T).M":             "github.com/a/b/v2",
		"github.com/a/b.F":                       "github.com/a/b",
		"github.com/a/bc.F":                      standard,
		"gopkg.in/yaml%2ev3.Unmarshal":           "gopkg.in/yaml.v3",
		"type:.eq.github.com/a/b.T":              "github.com/a/b",
		"go:itab.*github.com/a/b.T,error":        "github.com/a/b",
		"slices.SortFunc[go.shape.string]":       standard,
		"runtime.mallocgc":                       standard,
		own + "/installer/docker.(*Engine).Load": own + "/installer/docker",
		own + "/bundle.Open.func1(x/y.Z)":        own + "/bundle",
		own + "/installer/record.collect[go.shape.struct { " + own + "/installer/record.turn int64 }]": own + "/installer/record",
		own + "/bundle/order..dict.By[github.com/a/b.T]":                                               own + "/bundle/order",
		"go:itab.*" + own + "/installer/ota.buffers,net/http/httputil.BufferPool":                      own + "/installer/ota",
		"github.com/a/b.(*T[" + own + "/bundle.Reader]).M":                                             "github.com/a/b",
	} {
		if got := of(symbol, modules); got != want {
			t.Errorf("%s is of %s, want %s", symbol, got, want)
		}
	}
}

// TestReflected: a function that may call any method is named, once, whatever leads to it.
func TestReflected(t *testing.T) {
	const graph = "# example.org/a\nmain.main -> reflect.Value.NumMethod\ntype:*a.T <UsedInIface> -> type:a.T <UsedInIface>\n -> go:info.*runtime.reflectMethodValue\n"
	if err := reflected(graph); err != nil {
		t.Error(err)
	}
	err := reflected(graph + "html/template.f -> text/template.(*state).evalField <ReflectMethod>\ntext/template.(*state).evalField <ReflectMethod> -> fmt.Errorf\n")
	if want := "text/template.(*state).evalField can call any method"; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestTag: whatever builds the installer for a device does it with the tag that leaves gRPC's templates out.
func TestTag(t *testing.T) {
	builds := 0
	for _, pattern := range []string{"Makefile", ".goreleaser.yaml", "scripts/*.sh", "examples/*/*.sh"} {
		files, err := filepath.Glob("../../" + pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`go build[^\n]*cmd/valise-installer|main: \./cmd/valise-installer\n(?:    .*\n)*`).FindAllString(strings.ReplaceAll(string(b), "\\\n", ""), -1) {
				if builds++; !strings.Contains(m, "grpcnotrace") {
					t.Errorf("%s builds without the tag grpcnotrace: %s", file, m)
				}
			}
		}
	}
	if builds < 7 {
		t.Errorf("only %d builds were found", builds)
	}
}

// TestGrown: 64 KiB are no matter, a byte more is.
func TestGrown(t *testing.T) {
	page := "text\n" + begin + tables(30_000_000, map[string]int64{standard: 1000, own + "/bundle": 500}) + end
	for size, want := range map[int64]string{30_000_000 + allowed: "", 29_000_000: "", 30_000_001 + allowed: "it has grown by 65537 bytes"} {
		if err := grown(page, size); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %q", size, err, want)
		}
	}
	if grown("nothing", 1) == nil {
		t.Error("a page without a size is accepted")
	}
}
