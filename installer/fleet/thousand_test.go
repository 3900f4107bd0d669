package fleet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valise-ota/valise/installer/fleet/fleettest"
)

// TestThousand: a thousand devices, each with the agent that devices have, follow a rollout
// in five groups. Requests and answers are lost, requests come twice, the power goes, clocks
// jump, a site is cut off, and the server loses its memory. No device installs anything
// twice, the server hears how each action ended, and where a group is bad the groups after it
// are left alone.
func TestThousand(t *testing.T) {
	const devices = 1000
	sizes := []int{10, 90, 230, 330, 340}
	for name, tc := range map[string]struct {
		loss    float64
		forgets bool // and power is cut, and a site is
		bad     int  // group whose devices do not get healthy
		begun   int  // groups
	}{
		"bad links": {0.2, true, 0, 5},
		"bad group": {0.2, false, 3, 3},
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Now() // of the machine, for the log
			synctest.Test(t, func(t *testing.T) {
				s := &fleettest.Server{Sleep: "01:00:00"}
				bubble := time.Now()
				all, links := map[string]*device{}, map[string]*lossy{}
				var groups [][]string
				stops := map[string]func(){}
				start := func(id string) {
					d := all[id]
					ctx, stop := context.WithCancel(t.Context())
					d.ctx = ctx
					g := d.boot(links[id], Config{ID: id})
					g.Now = func() time.Time { return time.Now().Add(rand.N(1000 * 24 * time.Hour)) }
					ended := make(chan struct{})
					go func() { g.Run(ctx); close(ended) }()
					stops[id] = func() { stop(); <-ended }
				}
				for n, size := range sizes {
					var group []string
					for range size {
						id := fmt.Sprint("d", len(all))
						d := newDevice(t, "1.0.0")
						d.takes = time.Minute + rand.N(10*time.Minute)
						d.sick["1.1.0"] = n+1 == tc.bad
						all[id], links[id] = d, &lossy{Handler: s, share: tc.loss}
						group = append(group, id)
						start(id)
					}
					groups = append(groups, group)
				}
				rollout := fleettest.Rollout{Module: "shop", Version: "1.1.0", Groups: groups, Success: 0.8, Error: 0.1}
				s.Start(rollout)
				for hour := range 72 {
					time.Sleep(time.Hour)
					synctest.Wait()
					if !tc.forgets {
						if s.Settled() {
							break
						}
						continue
					}
					switch hour {
					case 1:
						for _, id := range groups[2][:100] { // a site
							links[id].set(true)
						}
					case 3, 5:
						for id := range all {
							if rand.IntN(4) == 0 {
								stops[id]()
								start(id)
							}
						}
					case 4:
						s.Forget()
						s.Start(rollout)
					case 8:
						for _, id := range groups[2][:100] {
							links[id].set(false)
						}
					}
					if hour > 8 && s.Settled() {
						break
					}
				}
				for _, stop := range stops {
					stop()
				}
				var mem runtime.MemStats
				runtime.ReadMemStats(&mem)
				understood(t, s)
				r, states, late := s.Rollout(), map[string]int{}, 0
				for _, a := range s.Actions() {
					states[a.State]++
					late += a.Late
					if a.Finals > 1 {
						t.Errorf("the end of %d is taken %d times", a.ID, a.Finals)
					}
				}
				runs := map[string]int{}
				for n, group := range groups {
					for _, id := range group {
						d := all[id]
						runs[d.current]++
						if len(d.applied) > 1 {
							t.Errorf("%s applied %v", id, d.applied)
						}
						for r, times := range d.applied {
							if times > 1 {
								t.Errorf("%s applied %s %d times", id, r, times)
							}
						}
						if n >= tc.begun && (len(d.records) > 0 || d.fetched > 0) {
							t.Errorf("%s, of group %d, has %d records", id, n+1, len(d.records))
						}
					}
				}
				if r.Begun != tc.begun || r.Halted != (tc.bad > 0) {
					t.Errorf("%d groups begun, halted %v: %v", r.Begun, r.Halted, states)
				}
				switch {
				case tc.bad == 0 && (states["finished"] != devices || runs["1.1.0"] != devices):
					t.Errorf("%v, %v", states, runs)
				case tc.bad > 0 && (states["running"] > 0 || states["error"] != sizes[2] || states["finished"] != sizes[0]+sizes[1] || runs["1.0.0"] != devices-sizes[0]-sizes[1]):
					t.Errorf("%v, %v", states, runs)
				}
				t.Logf("%s later: %d groups begun, halted %v, %v, %d told late, %d requests, %d MiB of heap", time.Since(bubble).Round(time.Hour), r.Begun, r.Halted, states, late, s.Requests(), mem.HeapInuse>>20)
			})
			t.Logf("%s", time.Since(begun).Round(100*time.Millisecond))
		})
	}
}
