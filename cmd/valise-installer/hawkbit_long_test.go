//go:build long

package main

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer/fleet/fleettest"
)

// hawkbit starts a double of a hawkBit server at $HAWKBIT, whose target is d1:
//
//	hawkbit start
//	hawkbit assign VERSION [MODE]     MODE is forced, skip or confirm
//	hawkbit awaits STATE REGEXP       the last action, and what was told of it last
func hawkbit(ts *testscript.TestScript, neg bool, args []string) {
	st := ts.Value(testKey{}).(*state)
	switch args[0] {
	case "start":
		st.hawkbit = &fleettest.Server{Sleep: "00:00:05", Token: "secret"}
		web := httptest.NewServer(st.hawkbit)
		ts.Defer(web.Close)
		ts.Setenv("HAWKBIT", web.URL)
	case "assign":
		a := fleettest.Action{Target: "d1", Module: ts.Getenv("APP"), Version: args[1]}
		switch mode := append(args, "forced")[2]; mode {
		case "skip":
			a.Update = mode
		case "confirm":
			a.State = mode
		}
		st.hawkbit.Assign(a)
	case "awaits":
		s, want := st.hawkbit, regexp.MustCompile(args[2])
		for end := time.Now().Add(bundletest.Patience()); ; time.Sleep(50 * time.Millisecond) {
			all := s.Actions()
			a := all[len(all)-1]
			said := strings.Join(a.Messages[max(0, len(a.Messages)-1):], "")
			if a.State == args[1] && want.MatchString(said) {
				break
			}
			if time.Now().After(end) {
				ts.Fatalf("action %d is %s: %q", a.ID, a.State, a.Messages)
			}
		}
		if p := s.Problems(); len(p) > 0 {
			ts.Fatalf("hawkBit would refuse: %q", p)
		}
	default:
		ts.Fatalf("hawkbit %s", args[0])
	}
}
