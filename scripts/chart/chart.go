// Package chart draws small line charts side by side as one SVG, for pages with a light or a dark background.
package chart

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Chart is a picture of panels.
type Chart struct {
	Title   string
	Columns int
	Panels  []Panel
}

// Panel has its series on common axes.
type Panel struct {
	Title  string
	X, Y   Axis
	Series []Series
	Goal   float64 // a dashed line at this height; 0 for none
	// Straight draws a dashed line from the corner, of what grows as X does; for logarithmic axes.
	Straight bool
}

// Axis is linear or logarithmic.
type Axis struct {
	Label string
	Log   bool
	Names []string // of the places 0, 1, 2 and so on, instead of numbers
}

// Series is one line.
type Series struct {
	Name   string
	Points []Point
}

// Point has a spread where High is above Low.
type Point struct{ X, Y, Low, High float64 }

const (
	width, height            = 260.0, 190.0 // of a panel
	left, right, top, bottom = 44.0, 12.0, 26.0, 34.0
	line                     = 13.0 // of the legend
	colors                   = 9
)

const style = `text{font:11px system-ui,sans-serif;fill:#333}.t{font-weight:600;font-size:12px}.a{fill:none;stroke:#999}.g{stroke:#ddd}
.goal{stroke:#666;stroke-dasharray:4 3}.s{fill:none;stroke-width:1.6}.l{font-size:10px}
.c0{color:#0969da}.c1{color:#bc4c00}.c2{color:#1a7f37}.c3{color:#8250df}.c4{color:#bf3989}.c5{color:#9a6700}
.c6{color:#cf222e}.c7{color:#1b7c83}.c8{color:#6e7781}
@media(prefers-color-scheme:dark){text{fill:#ddd}.a{stroke:#777}.g{stroke:#3a3a3a}.goal{stroke:#aaa}
.c0{color:#58a6ff}.c1{color:#ffa657}.c2{color:#56d364}.c3{color:#bc8cff}.c4{color:#f778ba}.c5{color:#e3b341}
.c6{color:#ff7b72}.c7{color:#39c5cf}.c8{color:#8b949e}}`

// SVG draws the chart. The same chart gives the same bytes.
func (c Chart) SVG() []byte {
	columns := max(1, min(c.Columns, len(c.Panels)))
	rows := (len(c.Panels) + columns - 1) / columns
	legend := 0
	for _, p := range c.Panels {
		legend = max(legend, len(p.Series))
	}
	each := height + float64(legend)*line
	w, h := float64(columns)*width, float64(rows)*each
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%g" height="%g" role="img" aria-label="%s">`+"\n<style>%s</style>\n",
		w, h, w, h, html.EscapeString(c.Title), style)
	for i, p := range c.Panels {
		fmt.Fprintf(&b, `<g transform="translate(%g %g)">`+"\n", float64(i%columns)*width, float64(i/columns)*each)
		p.draw(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

func (p Panel) draw(b *strings.Builder) {
	var xs, ys []float64
	for _, s := range p.Series {
		for _, q := range s.Points {
			xs, ys = append(xs, q.X), append(ys, q.Y)
			if q.High > q.Low {
				ys = append(ys, q.Low, q.High)
			}
		}
	}
	if p.Goal > 0 {
		ys = append(ys, p.Goal)
	}
	text := func(x, y float64, class, anchor, s string) {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>`+"\n", x, y, class, anchor, html.EscapeString(s))
	}
	text(8, 15, "t", "start", p.Title)
	x, xTicks := p.X.scale(xs, left, width-right)
	y, yTicks := p.Y.scale(ys, height-bottom, top)
	for _, v := range yTicks {
		fmt.Fprintf(b, `<path class="g" d="M%g %.1fH%g"/>`+"\n", left, y(v), width-right)
		text(left-4, y(v)+4, "l", "end", p.Y.name(v))
	}
	for _, v := range xTicks {
		text(x(v), height-bottom+13, "l", "middle", p.X.name(v))
	}
	text(width-right, height-bottom+26, "l", "end", p.X.Label)
	text(left, height-bottom+26, "l", "start", p.Y.Label)
	fmt.Fprintf(b, `<path class="a" d="M%g %gV%gH%g"/>`+"\n", left, top, height-bottom, width-right)
	if p.Goal > 0 {
		fmt.Fprintf(b, `<path class="goal" d="M%g %.1fH%g"/>`+"\n", left, y(p.Goal), width-right)
	}
	if p.Straight {
		across, up := x(10*xTicks[0])-left, height-bottom-y(10*yTicks[0]) // a decade each
		n := min((width-right-left)/across, (height-bottom-top)/up)
		fmt.Fprintf(b, `<path class="goal" d="M%g %gL%.1f %.1f"/>`+"\n", left, height-bottom, left+n*across, height-bottom-n*up)
	}
	for i, s := range p.Series {
		var path strings.Builder
		fmt.Fprintf(b, `<g class="c%d" stroke="currentColor">`+"\n", i%colors)
		for j, q := range s.Points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(j, 1)], x(q.X), y(q.Y))
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="2" fill="currentColor"/>`, x(q.X), y(q.Y))
			if q.High > q.Low {
				fmt.Fprintf(b, `<path d="M%.1f %.1fV%.1f"/>`, x(q.X), y(q.Low), y(q.High))
			}
		}
		fmt.Fprintf(b, "\n"+`<path class="s" d="%s"/>`, path.String())
		at := height + (float64(i)+0.5)*line
		if s.Name != "" {
			fmt.Fprintf(b, `<path d="M%g %.1fh14"/>`, left, at-4)
		}
		b.WriteString("</g>\n")
		text(left+19, at, "l", "start", s.Name)
	}
}

// scale places the values of an axis between two ends, and chooses its ticks. A value that a logarithmic axis cannot have is at its lower end.
func (a Axis) scale(values []float64, from, to float64) (place func(float64) float64, ticks []float64) {
	if a.Log {
		values = slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return v <= 0 })
	}
	low, high := 0.0, 1.0
	if len(values) > 0 {
		low, high = slices.Min(values), slices.Max(values)
	}
	of := func(v float64) float64 { return v }
	switch {
	case a.Names != nil:
		low, high = -0.5, float64(len(a.Names))-0.5
		for i := range a.Names {
			if step := (len(a.Names) + 3) / 4; i%step == 0 {
				ticks = append(ticks, float64(i))
			}
		}
	case a.Log:
		floor := cmp.Or(low, 1)
		of = func(v float64) float64 { return math.Log10(max(v, floor)) }
		first, last := math.Floor(of(floor)), math.Ceil(of(max(high, floor)))
		if last == first {
			last++
		}
		low, high = math.Pow(10, first), math.Pow(10, last)
		floor = low
		for e := first; e <= last; e += math.Ceil((last - first) / 5) {
			ticks = append(ticks, math.Pow(10, e))
		}
	default:
		low, high = min(low, 0), max(high, 0)
		if low == high {
			high = 1
		}
		step := math.Pow(10, math.Floor(math.Log10((high-low)/4)))
		for _, f := range []float64{1, 2, 5, 10} {
			if (high-low)/(step*f) <= 5 {
				step *= f
				break
			}
		}
		low, high = math.Floor(low/step)*step, math.Ceil(high/step)*step
		for i := range int(math.Round((high-low)/step)) + 1 {
			ticks = append(ticks, low+float64(i)*step)
		}
	}
	return func(v float64) float64 { return from + (of(v)-of(low))/(of(high)-of(low))*(to-from) }, ticks
}

func (a Axis) name(v float64) string {
	if a.Names != nil {
		return a.Names[int(v)]
	}
	for _, unit := range []struct {
		of   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e4, "k"}} {
		if math.Abs(v) >= unit.of {
			if unit.name == "k" {
				unit.of = 1e3
			}
			return strconv.FormatFloat(v/unit.of, 'g', 4, 64) + unit.name
		}
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}
