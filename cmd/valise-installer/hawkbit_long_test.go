//go:build long

package main

import (
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer/fleet/fleettest"
)

// hawkbit starts a double of a hawkBit server at $HAWKBIT, in the machine if there is one,
// whose target is d1:
//
//	hawkbit start
//	hawkbit assign VERSION [MODE]     MODE is forced, skip or confirm
//	hawkbit force                     the last action is not to wait any more
//	hawkbit awaits STATE REGEXP       the last action, and what was told of it last
func hawkbit(ts *testscript.TestScript, neg bool, args []string) {
	st := ts.Value(testKey{}).(*state)
	switch args[0] {
	case "start":
		st.hawkbit = &fleettest.Server{Sleep: "00:00:05", Token: "secret"}
		web := httptest.NewUnstartedServer(st.hawkbit)
		if ts.Getenv("MACHINE") != "" {
			web.Listener.Close()
			web.Listener = listenInMachine(ts)
		}
		web.Start()
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
	case "force":
		st.hawkbit.Set(len(st.hawkbit.Actions()), func(a *fleettest.Action) { a.Update = "forced" })
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

// listenInMachine listens in the network of the machine, which is its own.
func listenInMachine(ts *testscript.TestScript) net.Listener {
	pid, err := exec.Command(ts.Getenv("SYSTEMD"), "pid", ts.Getenv("MACHINE")).Output()
	ts.Check(err)
	its, err := os.Open("/proc/" + strings.TrimSpace(string(pid)) + "/ns/net")
	ts.Check(err)
	defer its.Close()
	var l net.Listener
	ended := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with this function
		err := unix.Setns(int(its.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			l, err = net.Listen("tcp", "127.0.0.1:0")
		}
		ended <- err
	}()
	ts.Check(<-ended)
	return l
}
