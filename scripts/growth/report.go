package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/valise-ota/valise/scripts/bench/history"
	"github.com/valise-ota/valise/scripts/chart"
)

// metric is what is measured of a program.
type metric struct {
	name, unit string
	of         func(sample) float64
	floor      float64 // less than that is noise
}

var metrics = []metric{
	{"time", "s", func(s sample) float64 { return s.wall }, 0.02},
	{"memory", "MiB", func(s sample) float64 { return s.rss / (1 << 20) }, 1},
	{"written", "MB", func(s sample) float64 { return s.written / 1e6 }, 0.1},
}

// Exponents of what is called flat and straight, at most.
const (
	flat     = 0.2
	straight = 1.2
)

// median is that of one metric of a point.
func (p point) median(m metric) float64 {
	var all []float64
	for _, s := range p.samples {
		all = append(all, m.of(s))
	}
	return history.Of(all).Median
}

// exponent is e where the metric grows as n^e between the two largest sizes; 0 where there is but one.
func (s *series) exponent(m metric) float64 {
	if len(s.points) < 2 {
		return 0
	}
	a, b := s.points[len(s.points)-2], s.points[len(s.points)-1]
	return math.Log(max(b.median(m), m.floor)/max(a.median(m), m.floor)) / math.Log(float64(b.n)/float64(a.n))
}

// verdict is an exponent in words.
func verdict(e float64) string {
	switch {
	case e <= flat:
		return fmt.Sprintf("flat, %.1f", max(e, 0))
	case e <= straight:
		return fmt.Sprintf("straight, %.1f", e)
	}
	return fmt.Sprintf("**n^%.1f**", e)
}

// number has three digits.
func number(f float64) string {
	return fmt.Sprintf("%.*f", max(0, 2-max(0, int(math.Floor(math.Log10(max(f, 0.1)))))), f)
}

// amount is a size with its unit.
func amount(n int, unit string) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return strings.TrimSpace(digits + " " + unit)
}

// report is the table, and what is not in it.
func (g *growth) report(all []*dimension) string {
	var w strings.Builder
	fmt.Fprintf(&w, "Measured on %s, of commit %s.\n\n", time.Now().UTC().Format(time.DateOnly), g.commit)
	fmt.Fprintf(&w, "| what grows | program | at | time, s | peak memory, MiB | written, MB | time | memory | written |\n|---|---|---|---|---|---|---|---|---|\n")
	above := 0
	for _, d := range all {
		for _, s := range d.series {
			var sizes []string
			for _, p := range s.points {
				sizes = append(sizes, amount(p.n, ""))
			}
			fmt.Fprintf(&w, "| %s | %s | %s |", strings.TrimSuffix(d.title+", "+d.unit, ", "), s.program, strings.Join(sizes, "; "))
			verdicts := ""
			for _, m := range metrics {
				var values []string
				for _, p := range s.points {
					values = append(values, number(p.median(m)))
				}
				e := s.exponent(m)
				if e > straight {
					above++
				}
				fmt.Fprintf(&w, " %s |", strings.Join(values, "; "))
				verdicts += fmt.Sprintf(" %s |", verdict(e))
			}
			fmt.Fprintf(&w, "%s\n", verdicts)
		}
	}
	fmt.Fprintf(&w, "\nCells that grow faster than straight: %d.\n", above)
	for _, d := range all {
		if d.most != "" {
			g.missing = append(g.missing, fmt.Sprintf("%s: %s", d.title, d.most))
		}
	}
	if len(g.missing) > 0 {
		fmt.Fprintf(&w, "\nNo larger sizes:\n\n- %s.\n", strings.Join(g.missing, ".\n- "))
	}
	return w.String()
}

// write puts the report between the marks of the page, and the picture beside it.
func (g *growth) write(all []*dimension) error {
	return errors.Join(history.WriteInto(doc, "growth", g.report(all)), os.WriteFile(image, picture(all).SVG(), 0o644))
}

// short leaves out what all programs of a row begin with.
func short(program string) string {
	for _, p := range []string{"valise-installer ", "valise "} {
		program = strings.TrimPrefix(program, p)
	}
	return program
}

// picture has a row for each dimension: time, memory and written bytes against its size, with logarithms on both axes.
func picture(all []*dimension) chart.Chart {
	c := chart.Chart{Title: "Time, peak memory and written bytes of each program against each size", Columns: len(metrics)}
	for _, d := range all {
		for _, m := range metrics {
			p := chart.Panel{Title: d.title + ": " + m.name, X: chart.Axis{Label: d.unit, Log: true}, Y: chart.Axis{Label: m.unit, Log: true}, Straight: true}
			for _, s := range d.series {
				line := chart.Series{Name: short(s.program)}
				for _, at := range s.points {
					line.Points = append(line.Points, chart.Point{X: float64(at.n), Y: max(at.median(m), m.floor)})
				}
				p.Series = append(p.Series, line)
			}
			c.Panels = append(c.Panels, p)
		}
	}
	return c
}
