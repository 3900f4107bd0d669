// Package device is what can be done with the apps of a device: open a bundle,
// decide whether it is trusted, plan, update, roll back, save and restore data,
// Examine, adopt, uninstall. The commands of valise-installer and its daemon call
// the same methods.
//
// A Machine is the device. It has no state of its own: what it knows is in files
// below Root, and every method that changes an app holds that app's lock.
//
// What people are told is not decided here: errors are typed (Error, UsageError,
// AttentionError, EnvError), and progress goes to Report.
package device

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/verify"
)

// Machine is a device and what a caller lends it. All functions but Ask, Planned
// and Proxy are needed. Calls about one app must not overlap in one process; copies
// may be used side by side.
type Machine struct {
	Root    string            // directory that stands for /
	App     string            // the app that is meant; empty: the only one
	Version string            // of the running program
	Given   map[string]string // values for the environment file, from the operator
	Record  string            // ID of the record that the next transaction continues
	Boot    bool              // the machine starts: units that do not run yet are left to systemd

	EngineAnswer time.Duration // that an engine may take to answer; 0 is docker.AnswerTimeout
	StopWithin   time.Duration // that a way back may take once its context has ended; 0 is its limits

	Getenv func(string) string
	Now    func() time.Time
	Proxy  func(*http.Request) (*url.URL, error) // for sources; nil asks none

	Note    func(format string, args ...any) // told what changes no result
	Step    func(name, detail string)        // told what begins outside of a transaction
	Report  func(installer.Event)            // told how a transaction goes on
	Secret  func(key, value, file string)    // told of a generated secret that is shown once, and where it is kept
	Planned func(*installer.Plan)            // told of the plan that is carried out now; may be nil
	Ask     func() Person                    // who answers questions; nil, or gives nil, where no person can answer

	// Runtime stands in for Docker or systemd, where it is not nil: to try what a
	// device does without having one. It saves data and is uninstalled as far as it
	// has the methods of the others.
	Runtime func(app string) installer.Runtime
}

// Person answers questions.
type Person interface {
	// Trust asks whether releases of app are accepted from by from now on; with
	// anyTag, from the same workflow at other tags too.
	Trust(app, version string, by verify.Signer, anyTag bool) bool
	// Value asks for the value of a key. The error is io.EOF when there is none.
	Value(key, help string) (string, error)
}

func (m *Machine) person() Person {
	if m.Ask == nil {
		return nil
	}
	return m.Ask()
}

// track reports the progress of one step that is outside of the transaction.
func (m *Machine) track(ctx context.Context, step, what string) (inside context.Context, update func(done, total int64), finish func(error)) {
	m.Report(installer.Event{Step: step, Detail: what})
	inside, span := trace.Begin(ctx, trace.Step, step+" "+what)
	last := int64(0)
	return inside, func(done, total int64) {
			last = done
			m.Report(installer.Event{Step: step, Done: done, Total: total})
		}, func(err error) {
			m.Report(installer.Event{Step: step, Ended: true, Err: err})
			span.Count(last)
			span.End(err)
		}
}
