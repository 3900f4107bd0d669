package main

import (
	"encoding/xml"
	"io"
	"math"
	"strings"
	"testing"
)

// grows is a dimension with one program whose time grows as n^e.
func grows(e float64, sizes ...int) *dimension {
	s := &series{program: "valise <test>"}
	for _, n := range sizes {
		wall := math.Pow(float64(n), e)
		s.points = append(s.points, point{n, []sample{{9 * wall, 32 << 20, 0}, {wall, 32 << 20, 0}, {wall / 9, 32 << 20, 0}}})
	}
	return &dimension{title: "things", series: []*series{s}, most: "a limit"}
}

func TestExponent(t *testing.T) {
	for e, want := range map[float64]string{0: "flat, 0.0", 1: "straight, 1.0", 1.1: "straight, 1.1", 2: "**n^2.0**"} {
		s := grows(e, 1, 10, 1000).series[0]
		if got := s.exponent(metrics[0]); math.Abs(got-e) > 1e-9 || verdict(got) != want {
			t.Errorf("n^%g: exponent %g, %s", e, got, verdict(got))
		}
		if got := s.exponent(metrics[2]); got != 0 {
			t.Errorf("nothing written: exponent %g", got)
		}
	}
	// Only the two largest sizes count, and what is below the floor is none.
	s := grows(0, 1, 10, 100).series[0]
	s.points[0].samples = []sample{{wall: 1000}}
	s.points[1].samples = []sample{{wall: 0.0001}}
	s.points[2].samples = []sample{{wall: 0.01}}
	if got := s.exponent(metrics[0]); got != 0 {
		t.Errorf("noise: exponent %g", got)
	}
}

func TestReport(t *testing.T) {
	g := &growth{missing: []string{"none of 50 GB"}}
	got := g.report([]*dimension{grows(2, 1, 10, 1000)})
	for _, want := range []string{
		"| things | valise <test> | 1; 10; 1,000 | 1.00; 100; 1000000 | 32.0; 32.0; 32.0 | 0.00; 0.00; 0.00 | **n^2.0** | flat, 0.0 | flat, 0.0 |\n",
		"faster than straight: 1.\n", "- none of 50 GB.\n", "- things: a limit.\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestPicture(t *testing.T) {
	text := string(picture([]*dimension{grows(1, 1, 10, 1000), grows(0, 10, 256)}).SVG())
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	// A straight line goes from corner to corner, whatever its decades.
	if !strings.Contains(text, `<path class="s" d="M44.0 156.0L112.0 112.7L248.0 26.0"/>`) || !strings.Contains(text, `<path class="goal" d="M44 156L248.0 26.0"/>`) {
		t.Errorf("no straight line in\n%s", text)
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Error("a coordinate is no number")
	}
}
