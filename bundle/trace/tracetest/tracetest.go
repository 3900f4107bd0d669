// Package tracetest reads traces, for tests.
package tracetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// Spans are the spans of a complete trace, in the order they began. Each is its names from
// the outermost on, "update > stage > load", then its kind, and its bytes if it has some.
func Spans(t testing.TB, trace []byte) (spans []string) {
	t.Helper()
	var events []struct {
		Name string
		Cat  string
		Ph   string
		Ts   int64
		Tid  int
		Args struct {
			Bytes int64
			Error string
		}
	}
	if err := json.Unmarshal(trace, &events); err != nil {
		t.Fatalf("%v in\n%s", err, trace)
	}
	type open struct {
		at   int
		name string
	}
	last, lanes := int64(0), map[int][]open{}
	for _, e := range events {
		if e.Ts < last {
			t.Errorf("%q is earlier than the event before", e.Name)
		}
		last = e.Ts
		lane := lanes[e.Tid]
		switch e.Ph {
		case "B":
			name := e.Name
			if len(lane) > 0 {
				name = lane[len(lane)-1].name + " > " + name
			}
			lanes[e.Tid] = append(lane, open{len(spans), name})
			spans = append(spans, name+" "+e.Cat)
		case "E":
			if len(lane) == 0 {
				t.Fatalf("an end in lane %d, where nothing is open:\n%s", e.Tid, trace)
			}
			s := &spans[lane[len(lane)-1].at]
			if e.Args.Bytes > 0 {
				*s += fmt.Sprintf(" %d", e.Args.Bytes)
			}
			if e.Args.Error != "" {
				*s += " (" + e.Args.Error + ")"
			}
			lanes[e.Tid] = lane[:len(lane)-1]
		}
	}
	for lane, left := range lanes {
		if len(left) > 0 {
			t.Errorf("lane %d: %v has no end", lane, left)
		}
	}
	return spans
}

// Want fails unless each of want is in spans, in that order.
func Want(t testing.TB, spans []string, want ...string) {
	t.Helper()
	rest := spans
	for _, w := range want {
		for len(rest) > 0 && rest[0] != w {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			t.Fatalf("no span %q, in this order, among\n%s", w, strings.Join(spans, "\n"))
		}
	}
}
