package main

import (
	"strings"
	"testing"
)

// TestMarkdownHostile: what a bundle says of itself stays in its cell.
func TestMarkdownHostile(t *testing.T) {
	s := summary{App: "a", Layers: new(layerSummary), Platforms: nil,
		Images: []imageSummary{{Reference: "a`|<b>\n# x", Services: []string{"x|y", "<img src=//e.example>", "[a](b)", "\x1b[2J"}, Sizes: nil}}}
	s.Platforms = append(s.Platforms, "linux/amd64")
	s.Images[0].Sizes = []int64{1000}
	got := s.markdown("a`b|c.tar.gz", []comparison{{From: "1.0.0", Images: map[string]int64{}}})
	for line := range strings.Lines(got) {
		if cells := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"); strings.Contains(line, "linux/amd64") && cells != 7 {
			t.Errorf("%d cells: %s", cells, line)
		}
		if strings.HasPrefix(line, "# ") || strings.Contains(line, "<img") || strings.Contains(line, "](b)") && !strings.Contains(line, `\[a`) || strings.ContainsRune(line, 0x1b) {
			t.Errorf("it gets out: %s", line)
		}
	}
	if !strings.Contains(got, "| new |") {
		t.Errorf("no change: %s", got)
	}
}

func TestBar(t *testing.T) {
	for n, want := range map[int64]int{0: 0, 1: 1, 50: 10, 100: 20} {
		if got := len([]rune(bar(n, 100))); got != want {
			t.Errorf("%d: got %d, want %d", n, got, want)
		}
	}
}

func TestComparisonChange(t *testing.T) {
	c := comparison{Images: map[string]int64{"a linux/amd64": 2048}}
	for n, want := range map[int64]string{2048: "same", 3072: "+1.0 KiB", 1024: "-1.0 KiB"} {
		if got := c.change(imageKey("a:9@sha256:1", "linux/amd64"), n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
	if got := c.change(imageKey("host:5000/a", "linux/amd64"), 1); got != "new" {
		t.Errorf("got %q", got)
	}
}
