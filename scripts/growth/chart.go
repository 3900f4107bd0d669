package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Sizes of the picture, in pixels.
const (
	left, gap, right = 56, 52, 24 // beside the panels
	panelWidth       = 240
	panelHeight      = 130
	head             = 44 // of a row: title and legend
	foot             = 34 // labels of the axis
	pictureWidth     = left + 3*panelWidth + 2*gap + right
)

const style = `<style>
.back { fill: #f6f8fa } text { fill: #1f2328 } .grid { stroke: #d1d9e0 } .one { stroke: #818b98; stroke-dasharray: 4 4 } .title { font-weight: bold; font-size: 14px }
.line { fill: none; stroke-width: 2 } .c0 { stroke: #0969da } .c1 { stroke: #bc4c00 } .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df } .c4 { stroke: #bf3989 } .c5 { stroke: #6e7781 } .c6 { stroke: #9a6700 }
@media (prefers-color-scheme: dark) { .back { fill: #161b22 } text { fill: #e6edf3 } .grid { stroke: #3d444d } .one { stroke: #7d8590 }
.c0 { stroke: #58a6ff } .c1 { stroke: #f0883e } .c2 { stroke: #3fb950 } .c3 { stroke: #bc8cff } .c4 { stroke: #f778ba } .c5 { stroke: #8b949e } .c6 { stroke: #d29922 } }
</style>
`

// axis maps values to pixels, each decade as far as the other.
type axis struct {
	low, high  float64 // logarithms
	from, upTo float64
}

// axisOf spans the decades that hold all values.
func axisOf(values []float64, from, upTo float64) axis {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		low, high = min(low, math.Floor(math.Log10(v))), max(high, math.Ceil(math.Log10(v)))
	}
	if high <= low {
		high = low + 1
	}
	return axis{low, high, from, upTo}
}

func (a axis) at(v float64) float64 {
	return a.from + (math.Log10(v)-a.low)/(a.high-a.low)*(a.upTo-a.from)
}

// decade is 10^e as people write it.
func decade(e float64) string {
	if e >= 3 {
		return fmt.Sprintf("%gk", math.Pow(10, e-3))
	}
	return fmt.Sprintf("%g", math.Pow(10, e))
}

// picture draws a row for each dimension: time, memory and written bytes against its size, with logarithms on both axes.
func picture(all []*dimension) string {
	var w strings.Builder
	height := len(all)*(head+panelHeight+foot) + 16
	fmt.Fprintf(&w, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %[1]d %[2]d\" font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"11\">\n%s<rect class=\"back\" width=\"100%%\" height=\"100%%\" rx=\"8\"/>\n",
		pictureWidth, height, style)
	for row, d := range all {
		top := float64(row*(head+panelHeight+foot) + 24)
		fmt.Fprintf(&w, "<text class=\"title\" x=\"16\" y=\"%g\">%s</text>\n", top, html.EscapeString(strings.TrimSuffix(d.title+", "+d.unit, ", ")))
		x := 16.0
		for i, s := range d.series {
			fmt.Fprintf(&w, "<path class=\"line c%d\" d=\"M%g %gh14\"/><text x=\"%g\" y=\"%g\">%s</text>\n", i%7, x, top+14, x+18, top+18, html.EscapeString(short(s.program)))
			x += 34 + 6.2*float64(len(short(s.program)))
		}
		for column, m := range metrics {
			d.panel(&w, m, float64(left+column*(panelWidth+gap)), top+head-16)
		}
	}
	w.WriteString("</svg>\n")
	return w.String()
}

// short leaves out what all programs of a row begin with.
func short(program string) string {
	for _, p := range []string{"valise-installer ", "valise "} {
		program = strings.TrimPrefix(program, p)
	}
	return program
}

// panel draws one metric of all series, with its corner at x, y.
func (d *dimension) panel(w *strings.Builder, m metric, x, y float64) {
	var sizes, values []float64
	for _, s := range d.series {
		for _, p := range s.points {
			sizes, values = append(sizes, float64(p.n)), append(values, max(p.median(m), m.floor))
		}
	}
	if len(sizes) == 0 {
		return
	}
	across, up := axisOf(sizes, x, x+panelWidth), axisOf(values, y+panelHeight, y)
	for e := across.low; e <= across.high; e++ {
		at := across.at(math.Pow(10, e))
		fmt.Fprintf(w, "<path class=\"grid\" d=\"M%.1f %.1fv%d\"/><text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", at, y, panelHeight, at, y+panelHeight+14, decade(e))
	}
	for e := up.low; e <= up.high; e++ {
		at := up.at(math.Pow(10, e))
		fmt.Fprintf(w, "<path class=\"grid\" d=\"M%.1f %.1fh%d\"/><text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", x, at, panelWidth, x-5, at+4, decade(e))
	}
	// What grows as n does, from the corner.
	decades := min(across.high-across.low, up.high-up.low)
	fmt.Fprintf(w, "<path class=\"one\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", x, y+panelHeight, across.at(math.Pow(10, across.low+decades)), up.at(math.Pow(10, up.low+decades)))
	for i, s := range d.series {
		line, marks := "", ""
		for k, p := range s.points {
			px, py := across.at(float64(p.n)), up.at(max(p.median(m), m.floor))
			line += fmt.Sprintf("%s%.1f %.1f", "ML"[min(k, 1):min(k, 1)+1], px, py)
			marks += fmt.Sprintf("M%.1f %.1fh0", px, py)
		}
		fmt.Fprintf(w, "<path class=\"line c%d\" d=\"%s\"/><path class=\"line c%[1]d\" style=\"stroke-width:6;stroke-linecap:round\" d=\"%s\"/>\n", i%7, line, marks)
	}
	fmt.Fprintf(w, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s, %s</text>\n", x+panelWidth, y-5, m.name, m.unit)
}
