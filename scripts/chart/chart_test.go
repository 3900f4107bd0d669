package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"testing"
)

func TestScale(t *testing.T) {
	for _, test := range []struct {
		name   string
		axis   Axis
		values []float64
		ticks  []float64
		at     float64
		want   float64
	}{
		{"linear from 0", Axis{}, []float64{0.4, 0.9}, []float64{0, 0.2, 0.4, 0.6, 0.8, 1}, 0.5, 50},
		{"decades", Axis{Log: true}, []float64{3, 2000}, []float64{1, 10, 100, 1000, 10000}, 100, 50},
		{"one decade", Axis{Log: true}, []float64{10}, []float64{10, 100}, 10, 0},
		{"0 has no logarithm", Axis{Log: true}, []float64{0, 10, 100}, []float64{10, 100}, 0, 0},
		{"names", Axis{Names: []string{"a", "b"}}, []float64{0, 1}, []float64{0, 1}, 0, 25},
		{"nothing", Axis{}, nil, []float64{0, 0.2, 0.4, 0.6, 0.8, 1}, 1, 100},
	} {
		place, ticks := test.axis.scale(test.values, 0, 100)
		same := slices.EqualFunc(ticks, test.ticks, func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })
		if got := place(test.at); !same || got-test.want > 1e-9 || test.want-got > 1e-9 {
			t.Errorf("%s: ticks %v, %g at %g; want %v, at %g", test.name, ticks, test.at, got, test.ticks, test.want)
		}
	}
}

func TestSVG(t *testing.T) {
	c := Chart{Title: `a "title" & more`, Columns: 2, Panels: []Panel{
		{Title: "a < b", Goal: 0.5, X: Axis{Names: []string{"1a2b3c4"}}, Series: []Series{{Name: "one", Points: []Point{{Y: 1, Low: 0.5, High: 2}}}}},
		{Title: "log", X: Axis{Log: true}, Y: Axis{Log: true}, Series: []Series{{Name: "two", Points: []Point{{X: 1, Y: 10}, {X: 100, Y: 1000}}}}},
		{Title: "empty"},
	}}
	svg := c.SVG()
	if bytes.Contains(svg, []byte("NaN")) || bytes.Contains(svg, []byte("Inf")) {
		t.Errorf("a place that is no number:\n%s", svg)
	}
	for _, want := range []string{"a &lt; b", "a &#34;title&#34; &amp; more", "prefers-color-scheme"} {
		if !bytes.Contains(svg, []byte(want)) {
			t.Errorf("no %q in\n%s", want, svg)
		}
	}
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
