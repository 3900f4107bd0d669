package history

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func row(commit, name string, low, median, high float64) Row {
	return Row{Run: Run{Commit: commit, Time: time.Unix(0, 0).UTC(), Load: 0.1}, Row: name, On: "20.10, overlay2", Unit: "s", Spread: Spread{2, 1, 3},
		Ratio: &Ratio{"by hand", 4, Spread{median, low, high}}}
}

func TestSpread(t *testing.T) {
	if got, want := Of([]float64{4, 1, 2, 3}), (Spread{2.5, 1, 4}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := *Against("x", []float64{1, 4, 9}, []float64{2, 4, 3}), (Ratio{"x", 3, Spread{1, 0.5, 3}}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCompare(t *testing.T) {
	before := []Row{row("aaaaaaa", "update", 0.3, 0.4, 0.5), row("bbbbbbb", "update", 0.4, 0.5, 0.6), row("bbbbbbb", "switch", 1, 1, 1)}
	for _, test := range []struct {
		name  string
		row   Row
		said  string
		worse bool
	}{
		{"much worse", row("ccccccc", "update", 0.52, 0.6, 0.7), "+20 %  WORSE", true},
		{"a little worse", row("ccccccc", "update", 0.52, 0.54, 0.7), "+8 %", false},
		{"worse, within the spread", row("ccccccc", "update", 0.49, 0.6, 0.7), "+20 %", false},
		{"better", row("ccccccc", "update", 0.2, 0.25, 0.3), "-50 %", false},
		{"the same commit is not the one before", row("bbbbbbb", "update", 0.42, 0.45, 0.46), "0.400 at aaaaaaa, +12 %  WORSE", true},
		{"a row without a past", row("ccccccc", "rollback", 9, 9, 9), "for the first time", false},
	} {
		var said strings.Builder
		err := Compare(&said, before, []Row{test.row})
		if errors.Is(err, ErrWorse) != test.worse || !strings.Contains(said.String(), test.said) || !test.worse && strings.Contains(said.String(), "WORSE") {
			t.Errorf("%s: %v, %q", test.name, err, said.String())
		}
	}
	other := row("ccccccc", "update", 9, 9, 9)
	other.Ratio.To = "something else"
	if err := Compare(&strings.Builder{}, before, []Row{other}); err != nil {
		t.Errorf("compared with the ratio to another peer: %v", err)
	}
}

func TestKeep(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "images"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kept.md"), []byte("<!-- history: begin -->\n<!-- history: end -->\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	keep := func(rows ...Row) error {
		return Keep(&strings.Builder{}, filepath.Join(dir, "kept.md"), "device", rows)
	}
	if err := keep(row("aaaaaaa", "update", 0.3, 0.4, 0.5)); err != nil {
		t.Fatal(err)
	}
	if err := keep(row("bbbbbbb", "update", 0.8, 0.9, 0.95), row("bbbbbbb", "switch", 1, 1, 1)); !errors.Is(err, ErrWorse) {
		t.Errorf("worse by a factor of two: %v", err)
	}
	rows, err := Read(filepath.Join(dir, "kept/device.jsonl"))
	if err != nil || len(rows) != 3 || rows[1].Ratio.Median != 0.9 || rows[1].Load != 0.1 || rows[1].Commit != "bbbbbbb" {
		t.Errorf("what was worse is not kept: %v, %v", rows, err)
	}
	svg, err := os.ReadFile(filepath.Join(dir, "images/benchmarks.svg"))
	if err != nil || !strings.Contains(string(svg), "bbbbbbb") || !strings.Contains(string(svg), ">switch<") {
		t.Errorf("%v\n%s", err, svg)
	}
	c := Draw(rows)
	if len(c.Panels) != 2 || len(c.Panels[0].Series[0].Points) != 2 {
		t.Errorf("%+v", c)
	}
	if err := os.WriteFile(filepath.Join(dir, "kept/bench.jsonl"), []byte("{\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := keep(); err == nil || !strings.Contains(err.Error(), "bench.jsonl:1") {
		t.Errorf("a broken line: %v", err)
	}
}

func TestPage(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	within, over := row("aaaaaaa", "update", 0.3, 0.4, 0.5), row("aaaaaaa", "memory", 1, 1, 1)
	within.Goal, over.Ratio, over.Limit = 0.4, nil, 1.5
	if err := WriteInto(page, "x", Goals([]Row{within, over})+Table([]Row{within, over})); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(page)
	for _, want := range []string{
		"a\n<!-- x: begin -->\n",
		"| update, 20.10, overlay2 | at most 0.4 x by hand | 0.40 (0.30 to 0.50) | yes |\n",
		"| memory, 20.10, overlay2 | at most 1.5 s | 2.00 (1.00 to 3.00) s | no |\n",
		"| update | 20.10, overlay2 | 2.00 (1.00 to 3.00) s | by hand | 4.00 s | 0.40 (0.30 to 0.50) |\n",
		"\n<!-- x: end -->\nb\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if err := WriteInto(page, "y", ""); err == nil {
		t.Error("wrote between marks that are not there")
	}
}
