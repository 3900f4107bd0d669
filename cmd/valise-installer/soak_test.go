//go:build fault

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/scripts/bench/history"
	"github.com/valise-ota/valise/scripts/chart"
)

// TestSoak lets daemon and page of a device with three apps work for as long as VALISE_SOAK says, and looks whether
// what they use grows. What a device does in weeks is done one after the other.
func TestSoak(t *testing.T) {
	releases := t.TempDir()
	buildCloud(t, releases, runtime.GOARCH, "1.0.0", "1.1.0")
	var list []map[string]any // of the source
	for _, version := range []string{"1.0.0", "1.1.0"} {
		name := "cloud-" + version + ".tar.gz"
		info, err := os.Stat(filepath.Join(releases, version+".tar.gz"))
		if err := errors.Join(err, os.Link(filepath.Join(releases, version+".tar.gz"), filepath.Join(releases, name))); err != nil {
			t.Fatal(err)
		}
		list = append(list, map[string]any{"name": name, "size": info.Size()})
	}
	index, err := json.Marshal(list)
	if err := errors.Join(err, os.WriteFile(filepath.Join(releases, "list.json"), index, 0o644)); err != nil {
		t.Fatal(err)
	}
	p := machines(t, releases)
	p.Dir = "testdata/soak"
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		busybox, err := os.ReadFile("/bin/busybox")
		return errors.Join(err, os.WriteFile(filepath.Join(e.WorkDir, "busybox"), busybox, 0o755), setup(e))
	}
	p.Cmds = maps.Clone(p.Cmds)
	p.Cmds["stick"], p.Cmds["soak"] = stick, soak
	testscript.Run(t, p)
}

// used is one thing that must not grow, with what it may grow by.
type used struct {
	name, unit string
	slack      float64
	each       float64 // what each operation may add
}

var uses = []used{
	{"memory of the daemon", "kB", 4096, 0}, {"threads of the daemon", "", 4, 0}, {"open files of the daemon", "", 4, 0},
	{"memory of the page", "kB", 4096, 0}, {"threads of the page", "", 4, 0}, {"open files of the page", "", 4, 0},
	{"records", "kB", 0, 4}, {"logs of their databases", "kB", 3 * 4200, 0}, // SQLite begins one again when it has 4 MB
	{"releases, settings and inboxes", "kB", 64, 0},
}

// operations are those of round.sh: three updates and three rollbacks.
const roundOperations = 6

func soak(ts *testscript.TestScript, _ bool, _ []string) {
	whole, err := time.ParseDuration(os.Getenv("VALISE_SOAK"))
	ts.Check(err)
	in := func(args ...string) string {
		out, err := exec.Command(filepath.Join(ts.Getenv("WORK"), ".bin/in"), args...).CombinedOutput()
		if err != nil {
			log, _ := exec.Command(filepath.Join(ts.Getenv("WORK"), ".bin/in"), "journalctl", "-u", "valise", "-u", "valise-page", "--no-pager", "-n", "40").CombinedOutput()
			ts.Fatalf("%v: %v\n%s\n%s", args, err, out, log)
		}
		return string(out)
	}
	in("mknod", "/dev/stick", "b", "7", strings.TrimPrefix(ts.Getenv("STICK"), "/dev/loop"))
	var samples [][]float64
	for begun := time.Now(); time.Since(begun) < whole; {
		in("bash", "/srv/round.sh", "/dev/stick")
		sample := make([]float64, len(uses))
		for i, word := range strings.Fields(in("bash", "/srv/sample.sh")) {
			_, err := fmt.Sscan(word, &sample[i])
			ts.Check(err)
		}
		samples = append(samples, sample)
		if len(samples)%10 == 0 {
			fmt.Fprintf(os.Stderr, "soak: %s, %d operations: %v\n", time.Since(begun).Round(time.Second), len(samples)*roundOperations, sample)
		}
	}
	if len(samples) < 12 {
		ts.Fatalf("%d rounds in %s, and 12 are needed: VALISE_SOAK is too short", len(samples), whole)
	}
	table := fmt.Sprintf("%d operations in %s:\n\n| what | in the second quarter | in the last quarter |\n|---|---:|---:|\n", len(samples)*roundOperations, whole)
	picture := chart.Chart{Title: "What daemon and page use over time", Columns: 3}
	grown := false
	for i, u := range uses {
		before, after, operations := growth(samples, i)
		table += fmt.Sprintf("| %s | %s | %s |\n", u.name, strings.TrimSpace(fmt.Sprintf("%.0f %s", before, u.unit)), strings.TrimSpace(fmt.Sprintf("%.0f %s", after, u.unit)))
		grown = grown || after-before > u.slack+u.each*operations
		panel := chart.Panel{Title: u.name, X: chart.Axis{Label: "operations"}, Y: chart.Axis{Label: u.unit}, Series: make([]chart.Series, 1)}
		for n, sample := range samples {
			panel.Series[0].Points = append(panel.Series[0].Points, chart.Point{X: float64((n + 1) * roundOperations), Y: sample[i]})
		}
		picture.Panels = append(picture.Panels, panel)
	}
	fmt.Fprint(os.Stderr, table)
	document(test(ts), "soak", table)
	if doc := os.Getenv("VALISE_FAULT_DOC"); doc != "" {
		ts.Check(os.WriteFile(filepath.Join(filepath.Dir(doc), "images/soak.svg"), picture.SVG(), 0o644))
	}
	if grown {
		ts.Fatalf("what is used grows:\n%s", table)
	}
}

// growth is the median of the second quarter of samples and that of the last, with the operations between them.
func growth(samples [][]float64, column int) (before, after, operations float64) {
	n := len(samples)
	median := func(part [][]float64) float64 {
		var all []float64
		for _, s := range part {
			all = append(all, s[column])
		}
		return history.Of(all).Median
	}
	return median(samples[n/4 : max(n/2, n/4+1)]), median(samples[n-max(n/4, 1):]), float64(n) / 2 * roundOperations
}
