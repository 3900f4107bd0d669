package main

import (
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
	} {
		if got := of(symbol, modules); got != want {
			t.Errorf("%s is of %s, want %s", symbol, got, want)
		}
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
