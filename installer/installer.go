// Package installer brings one app on one device from the release it runs to
// another one, and back by itself when anything is wrong.
//
// One update is a short list of journalled steps (apply.go). The intent of a
// step is durable before its effect, every effect and every undo may be
// repeated, and recovery (recover.go) goes backward before the commit and
// forward after it. Planning is pure (plan.go); every effect goes through
// Journal and Runtime, so that tests can fail and crash each of them.
//
// The package never prints, exits or reads clock and environment.
package installer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/verify"
)

// Release is a release that is or was on this device.
type Release struct {
	Version     string        `json:"version"`
	Dir         string        `json:"dir"`      // name below the releases directory
	Manifest    bundle.Digest `json:"manifest"` // digest of its manifest.json
	Signer      string        `json:"signer"`
	Kind        string        `json:"kind,omitempty"` // of the app; empty means bundle.KindCompose
	CommittedAt time.Time     `json:"committed_at,omitzero"`
}

// Adopted is the signer of a release that was here before: it was never verified.
const Adopted = "adopted"

// Action is what a record is about.
type Action string

const (
	ActionInstall  Action = "install"
	ActionUpdate   Action = "update"
	ActionRollback Action = "rollback"
)

// Status is where a record stands. The names and transitions are those of the
// OTA API that existing apps speak.
type Status string

const (
	Pending     Status = "pending"
	Downloading Status = "downloading"
	Verifying   Status = "verifying"
	Applying    Status = "applying"
	Completed   Status = "completed"
	Failed      Status = "failed"
	RolledBack  Status = "rolled_back"
)

var transitions = map[Status][]Status{
	Pending:     {Pending, Downloading, Verifying, Failed},
	Downloading: {Verifying, Failed, Pending}, // Pending: something blocked it
	Verifying:   {Applying, Failed, Pending},
	Applying:    {Completed, Failed, RolledBack},
	Completed:   {RolledBack},
	Failed:      {Pending},
	RolledBack:  {Pending},
}

// CanBecome reports whether a record may go from s to next.
func (s Status) CanBecome(next Status) bool {
	for _, t := range transitions[s] {
		if t == next {
			return true
		}
	}
	return false
}

// Record is one attempt to change what runs, as the history shows it.
type Record struct {
	ID        string    `json:"id"`
	Action    Action    `json:"action"`
	From      *Release  `json:"from,omitempty"` // what ran when it began; nil at a first install
	To        Release   `json:"to"`
	Status    Status    `json:"status"`
	Error     string    `json:"error,omitempty"`     // why it failed or was rolled back
	Reason    string    `json:"reason,omitempty"`    // the kind of Error, as ReasonOf names it
	Log       string    `json:"log,omitempty"`       // what failed services printed last, before the way back
	Attention string    `json:"attention,omitempty"` // why the undo failed too: a person must look
	Changelog string    `json:"changelog,omitempty"`
	Bundle    *Bundle   `json:"bundle,omitempty"` // the file it is about, where one was handed over
	By        string    `json:"by,omitempty"`     // who asked for it, where that is known
	Created   time.Time `json:"created_at"`
	Started   time.Time `json:"started_at,omitzero"` // when verifying or applying began
	Ended     time.Time `json:"ended_at,omitzero"`
	Steps     []Step    `json:"steps,omitempty"`
	// Rotation is who signs from this record on, once it is committed; nil when
	// that does not change.
	Rotation *verify.Rotation `json:"rotation,omitempty"`
	// Path is which of several updates it is; nil for one by itself.
	Path *Path `json:"path,omitempty"`
}

// Repairs reports whether r put the current release back: it has no data of its
// own and leaves no other release.
func (r Record) Repairs() bool {
	return r.Action == ActionUpdate && r.From != nil && r.From.Dir == r.To.Dir
}

// Bundle is a file that was handed over for a record. It is not trusted: every
// use verifies it again.
type Bundle struct {
	File   string `json:"file,omitempty"` // name in the app's inbox; empty when it is not kept
	Size   int64  `json:"size"`           // bytes
	Digest string `json:"sha256"`         // hex, of the whole file
	Name   string `json:"name,omitempty"` // what the sender called it; not trusted
	// Verified: it passed every check when it came.
	Verified bool `json:"verified,omitempty"`
	// Tried: it had its try in the drop folder and lies there still, because it
	// cannot be moved.
	Tried bool `json:"tried,omitempty"`
}

// StepState is how far a step got.
type StepState string

const (
	StepBegun  StepState = "begun"
	StepDone   StepState = "done"
	StepUndone StepState = "undone"
)

// Step is one journalled step of a record, in the order they began.
type Step struct {
	Name  string          `json:"name"`
	State StepState       `json:"state"`
	Undo  json.RawMessage `json:"-"` // what the undo needs, written before the effect
	Begun time.Time       `json:"begun_at"`
	Ended time.Time       `json:"ended_at,omitzero"`
}

// State is what the journal knows about the app.
type State struct {
	App      string    `json:"app"`
	Current  *Release  `json:"current,omitempty"`  // committed and meant to run
	Previous *Release  `json:"previous,omitempty"` // what ran, committed, before Current: the target of a rollback
	Kept     []Release `json:"kept,omitempty"`     // committed releases still on disk, newest commit first; holds Current and Previous
	Floor    string    `json:"floor,omitempty"`    // highest version ever committed; of those that differ in build metadata only, the last
	Bad      []string  `json:"bad,omitempty"`      // versions that failed here
	// Rotation is committed, and the trust policy on disk may not have it yet: it
	// counts as if it had.
	Rotation *verify.Rotation `json:"rotation,omitempty"`
	// Path is the way to a release that this device is on: its last update was
	// committed, or ended through no fault of its release.
	Path *Path `json:"path,omitempty"`
	// Rollout is the rollout file with the highest sequence that was accepted here. It
	// is verified whenever it is used.
	Rollout *Rollout `json:"-"`
	// Unfinished is a record that neither committed nor ended: power was lost
	// or the program was killed.
	Unfinished *Record `json:"unfinished,omitempty"`
}

// Rollout is a rollout file and its signature.
type Rollout struct {
	Sequence  int64  `json:"sequence"`
	Text      []byte `json:"text"`
	Signature []byte `json:"signature"`
}

// Journal keeps records. Every method that changes something has made it
// durable when it returns.
type Journal interface {
	Load(ctx context.Context) (State, error)
	// Begin adds an unfinished record in status Applying, or makes the one of
	// that ID, which was Verifying, the unfinished one. It fails when there is
	// an unfinished one already. The Path of r becomes that of the state: none,
	// when it has none.
	Begin(ctx context.Context, r Record) error
	// StepBegun, StepDone and StepUndone record one step of the record id.
	StepBegun(ctx context.Context, id, step string, undo json.RawMessage, at time.Time) error
	StepDone(ctx context.Context, id, step string, at time.Time) error
	StepUndone(ctx context.Context, id, step string, at time.Time) error
	// Fail notes why the unfinished record is being undone, before the undo
	// begins; the first cause stays. bad marks its version as one that fails here,
	// and ends the path it is on.
	Fail(ctx context.Context, id string, cause error, bad bool) error
	// Said notes what failed services printed last, of the record that Fail named.
	Said(ctx context.Context, id, log string) error
	// Attention notes that the undo failed too. The record stays unfinished, so
	// that recovery tries again.
	Attention(ctx context.Context, id, cause string) error
	// End ends a record without a commit, as Failed or RolledBack.
	End(ctx context.Context, id string, status Status, at time.Time) error
	// Commit ends the record as Completed and, in the same transaction, makes
	// its To the current release, its From the previous one, raises the floor,
	// forgets that the version failed, and makes its Rotation that of the state. The
	// path ends with its last hop. It is the point of no return.
	Commit(ctx context.Context, id string, at time.Time) error
	// Rotated notes that the trust policy on disk has State.Rotation.
	Rotated(ctx context.Context) error
	// Forget removes releases from Kept after a prune. Current and Previous
	// cannot be forgotten.
	Forget(ctx context.Context, dirs []string) error
	// History returns the newest records first, steps included.
	History(ctx context.Context, limit, offset int) ([]Record, error)
}

// Witness is a Runtime that knows what services print.
type Witness interface {
	// LastWords writes the last lines of the services of release r that do not run as
	// they should; of all, when that is none of them.
	LastWords(ctx context.Context, r Release, lines int, out io.Writer) error
}

// Switch is the change from one release to another.
type Switch struct {
	Record string
	Action Action
	From   *Release // nil at a first installation
	To     Release
	// Data is the record whose backup To gets, or empty: To gets the data as
	// they are.
	Data string
}

// Runtime is how one kind of app is put on this device and run. After a crash
// every method may be called again with the same arguments and must then end
// as if it had been called once.
type Runtime interface {
	// Inspect reads what planning needs to know of this device.
	Inspect(ctx context.Context, rel *verify.Release, st State) (Facts, error)
	// Stage puts the release on disk and into the engine. Nothing that runs
	// changes. kept are the releases whose files and images must stay.
	Stage(ctx context.Context, rel *verify.Release, to Release, kept []Release) error
	// Backup saves the app's data while from still runs, under the record's ID. What
	// that is, from says; or to, when from was adopted.
	Backup(ctx context.Context, from, to Release, recordID string) error
	// Resume unpauses what an interrupted Backup left paused.
	Resume(ctx context.Context, from, to Release) error
	// Snapshot returns what Revert needs to undo Activate of s.
	Snapshot(ctx context.Context, s Switch) (json.RawMessage, error)
	// Activate switches to a staged release: environment, current, services,
	// and data when s says so.
	Activate(ctx context.Context, s Switch) error
	// Revert undoes Activate: everything is as the snapshot says and from
	// runs again, or nothing runs when from is nil.
	Revert(ctx context.Context, snapshot json.RawMessage, from *Release) error
	// Probe returns nil when rel runs and is healthy, or why it is not.
	Probe(ctx context.Context, rel Release) error
	// Intact returns nil when everything that rel, the current release, runs from
	// is on this device and is what was verified. The error says all that is wrong.
	Intact(ctx context.Context, rel Release) error
	// Repair puts back what r, the current release, lacks, and starts it. fresh
	// trusts nothing that the engine has of it: the app is down meanwhile.
	// Without rel there is only what is on this device.
	Repair(ctx context.Context, rel *verify.Release, r Release, kept []Release, fresh bool) error
	// Prune removes everything of ours on disk and in the engine that no kept
	// release needs.
	Prune(ctx context.Context, kept []Release) error
}

// Event tells a person what happens. Done and Total are bytes where a step
// moves bytes, else zero.
type Event struct {
	Step   string `json:"step"`
	Detail string `json:"detail,omitempty"`
	Done   int64  `json:"done,omitempty"`
	Total  int64  `json:"total,omitempty"`
	Ended  bool   `json:"ended,omitempty"`
	Err    error  `json:"-"`
}

// Note is what people should know of it who do not watch, empty for progress.
func (e Event) Note() string {
	switch {
	case e.Ended && e.Err != nil && e.Step == "prune":
		return fmt.Sprintf("cleaning up: %v", e.Err)
	case e.Ended && e.Err != nil && e.Step == "hook":
		return e.Err.Error()
	case !e.Ended && slices.Contains([]string{"edited", "override", "repair", "prune"}, e.Step):
		return e.Detail
	}
	return ""
}
