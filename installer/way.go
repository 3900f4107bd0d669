package installer

import (
	"fmt"
	"slices"

	"github.com/valise-ota/valise/bundle"
)

// MaxHops is how many updates one after the other lead to a release at most.
const MaxHops = 16

// Path is where an update stands that takes several, one after the other: each a
// transaction of its own. The journal has it until the target is reached, a release
// on the way fails, or something else is done: so what a power cut ended can go on.
type Path struct {
	Target string `json:"target"` // version that is to run in the end
	Hop    int    `json:"hop"`    // the one of Version, from 1
	Hops   int    `json:"hops"`
	// Version that Hop leads to, and how many times that was tried. The journal
	// sets both.
	Version string `json:"version,omitempty"`
	Try     int    `json:"try,omitempty"`
}

// String is 2 of 3 to 1.3.0.
func (p Path) String() string { return fmt.Sprintf("%d of %d to %s", p.Hop, p.Hops, p.Target) }

// PathTo is where an update to target stands in state st, of which hops are left.
func (st State) PathTo(target string, hops int) *Path {
	p := &Path{Target: target, Hop: 1, Hops: hops}
	if was := st.Path; was != nil && was.Target == target && st.Current != nil {
		if p.Hop = was.Hop; was.Version == st.Current.Version {
			p.Hop++
		}
		p.Hops = p.Hop + hops - 1
	}
	return p
}

// NoWayError says that a release cannot be reached from the one that runs.
type NoWayError struct {
	Target, Current string
	// To starts from Need or a newer version, and none of those can be reached.
	To, Need string
	Hops     int // how many there would be, when that is too many
}

func (e *NoWayError) Error() string {
	if e.Hops > 0 {
		return fmt.Sprintf("no way leads from %s to %s in %d updates or less", e.Current, e.Target, MaxHops)
	}
	return fmt.Sprintf("an update to %s starts from %s or a newer version, %s is installed, and no release between them is available", e.To, e.Need, e.Current)
}

// Way returns the versions to install, one after the other, to come from current
// to target: the last is target, and there are as few as can be. between are versions
// that could come first, and from says from which one an update to each may start;
// it is asked for no more than it takes. ok is false for one that cannot be used.
func Way(current, target string, between []string, from func(version string) (lowest string, ok bool, err error)) ([]string, error) {
	between = slices.Clone(between)
	slices.SortFunc(between, func(a, b string) int {
		switch {
		case bundle.Newer(a, b):
			return -1
		case bundle.Newer(b, a):
			return 1
		}
		return 0
	})
	way := []string{target}
	need, ok, err := from(target)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, &NoWayError{Target: target, Current: current, To: target, Need: target}
	}
	for goal := target; need != "" && bundle.Newer(need, current); {
		// Of what goal may start from, that which starts from the lowest has the
		// most ways to it; and each step lowers it, so that this ends.
		best, lowest := "", need
		for _, v := range between {
			if bundle.Newer(need, v) {
				break
			}
			if !bundle.Newer(goal, v) {
				continue
			}
			f, ok, err := from(v)
			switch {
			case err != nil:
				return nil, err
			case ok && (f == "" || bundle.Newer(lowest, f)):
				best, lowest = v, f
			}
			if best == v && (f == "" || !bundle.Newer(f, current)) {
				break
			}
		}
		if best == "" {
			return nil, &NoWayError{Target: target, Current: current, To: goal, Need: need}
		}
		if way = append(way, best); len(way) > MaxHops {
			return nil, &NoWayError{Target: target, Current: current, Hops: len(way)}
		}
		goal, need = best, lowest
	}
	slices.Reverse(way)
	return way, nil
}
