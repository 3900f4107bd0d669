// Package daemon keeps one queue per app of a device: bundles that were put
// into the app's drop folder, uploaded or had downloaded wait in it, and one at a
// time goes through the transaction. It serves the OTA API on a local socket.
//
// The package decides when something is done, never how: every change to an app
// is made by a Device, which is the code of the commands. What it knows about an
// app are the records that the transaction writes.
//
// Who may attack: who can write to a drop folder or speak to the socket. They
// can hand over bytes and ask for an update, a rollback or a deletion. Nothing
// they hand over is used before it is verified against the device's own policy,
// and no name of theirs becomes a path.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/fleet"
)

// Device does what the commands do. Its methods are safe for concurrent use;
// Update, Rollback and Recover of one app are called one at a time.
type Device interface {
	// Apps are the installed ones.
	Apps() ([]string, error)
	Config(app string) (Config, error)
	// Configure writes settings into that configuration, and nothing else. The
	// error is ErrBusy while something changes the app.
	Configure(ctx context.Context, app string, s Settings) error
	// Records opens the records of an app, for as long as the daemon runs.
	Records(ctx context.Context, app string) (Records, error)
	// Ready returns nil when the engine answers, where an app needs one. Nothing
	// is tried before.
	Ready(ctx context.Context, app string) error
	// Plan verifies a bundle and says what it would do. It changes nothing. The
	// offer has no plan when something but the bundle is wrong.
	Plan(ctx context.Context, app, path string, forced bool, report func(installer.Event)) (Offer, error)
	// Update verifies a bundle again and carries it out as the record of that
	// ID, and as the update on the way to another one that on says, which may be
	// nil. The error is why the transaction never began.
	Update(ctx context.Context, app, path, record string, forced bool, on *installer.Path, report func(installer.Event)) (installer.Result, error)
	// Way returns what is to be installed to come to a version, which is the last:
	// bundles in files where they will do, else what the source has. There is none to
	// a version that is not newer than what runs. Without costs, hops have none.
	Way(ctx context.Context, app, version string, files []string, costs bool) ([]Hop, error)
	// Rollback returns to the previous release, as the record of that ID. data
	// is RestoreData, KeepData, or empty for what the release says.
	Rollback(ctx context.Context, app, record, data string, report func(installer.Event)) (installer.Result, error)
	// Restore restores saved data, as the record of that ID. Today's data are not
	// saved first with discard.
	Restore(ctx context.Context, app, record, backup string, discard bool, report func(installer.Event)) (installer.Result, error)
	// Start has the app run as it is configured now; always restarts a file tree. Stop
	// stops it, Save saves its data, and Logs writes what it printed last: at most so
	// many lines of each service. The error is ErrBusy while something changes the app.
	Start(ctx context.Context, app string, always bool, report func(installer.Event)) (installer.Result, error)
	Stop(ctx context.Context, app string, report func(installer.Event)) error
	Save(ctx context.Context, app string, report func(installer.Event)) (Backup, error)
	Logs(ctx context.Context, app string, lines int, to io.Writer) error
	// Repair gives apps whose records are damaged or gone records again, and returns
	// their names.
	Repair(ctx context.Context) ([]string, error)
	// Recover undoes what a power cut left unfinished.
	Recover(ctx context.Context, app string, report func(installer.Event)) error
	// Explain says in one line for people why something failed, and which check
	// refused a bundle.
	Explain(err error) (text, check string)
	// Latest asks where the app's releases come from; the error is ErrNoSource
	// when the device has no such place. Fetch writes that release to dst.
	Latest(ctx context.Context, app string) (Latest, error)
	Fetch(ctx context.Context, app, version string, dst *os.File, report func(installer.Event)) error
	// Backups are the saved data, newest first. OpenBackup opens one file of one.
	Backups(app string) ([]Backup, error)
	OpenBackup(app, id, file string) (io.ReadCloser, error)
	// OnRollback is what a rollback of r does to the data: never, ask, always.
	OnRollback(app string, r installer.Release) (string, error)
	Doctor(ctx context.Context, app string) []Finding
	// Receipt returns what a fleet server is told of the receipt about a record that ended.
	Receipt(ctx context.Context, app, record string) (string, error)
	// Replaced reports whether this program was exchanged for another one.
	Replaced() bool
}

// ErrReplaced says that there is a newer program to serve in place of this one.
var ErrReplaced = errors.New("the program was replaced")

// ErrNoSource says that the device knows no place to fetch releases from.
var ErrNoSource = errors.New("no source of releases is configured")

// ErrNoData says that an app has no data that could be saved.
var ErrNoData = errors.New("nothing can be saved")

// ErrBusy says that another program changes the app right now.
var ErrBusy = errors.New("another program changes this app")

// Offer is a verified bundle and what it would do.
type Offer struct {
	Plan      *installer.Plan
	Version   string
	Changelog string
}

// Hop is an update on the way to a version. Its bundle is not verified yet.
type Hop struct {
	installer.Hop
	File string // empty where the source has it
}

// Latest is the newest release of a source that can be reached from what runs, or else
// the newest.
type Latest struct {
	Version string
	// Way are the versions that lead there, the last of them Version; none when it
	// cannot be reached.
	Way         []string
	Blocked     error // why there is a newer one that cannot be reached, in the words of the program
	DownloadURL string
	ReleaseURL  string
	Notes       string // Markdown
	Published   time.Time
	Size        int64 // bytes, 0 when unknown
}

// What Rollback does to data, when the caller says so.
const (
	RestoreData = "restore"
	KeepData    = "keep"
)

// Records are the records of one app: installer/record.
type Records interface {
	Load(ctx context.Context) (installer.State, error)
	Get(ctx context.Context, id string) (installer.Record, error)
	Find(ctx context.Context, states []installer.Status, limit, offset int) ([]installer.Record, int, error)
	OfFile(ctx context.Context, file string) ([]installer.Record, error)
	Add(ctx context.Context, r installer.Record) error
	Become(ctx context.Context, id string, next installer.Status, cause error, at time.Time) error
	SetBundle(ctx context.Context, id string, b *installer.Bundle, changelog string) error
	Note(ctx context.Context, id, by string) error
	Delete(ctx context.Context, id string) error
	// FleetNotes are what is kept of the server that steers the app. An empty value
	// removes a note.
	FleetNotes(ctx context.Context) (map[string]string, error)
	SetFleetNote(ctx context.Context, key, value string) error
	// Gone reports whether they are those of an app that was removed, or installed
	// again, since they were opened.
	Gone() bool
	Close() error
}

// Mode says how far the daemon goes by itself.
type Mode string

const (
	Off   Mode = "off"
	Stage Mode = "stage" // verified, shown, waiting for a person to apply it
	Apply Mode = "apply"
)

// valid reports whether it is one of them, or empty for a default.
func (m Mode) valid() bool { return m == "" || m == Off || m == Stage || m == Apply }

// Config is the part of an app's device configuration that is about the daemon.
// Zero values are the defaults.
type Config struct {
	// Drop is the drop folder; empty for /opt/APP/updates. DropMode is Apply
	// when it is empty.
	Drop     string `yaml:"drop,omitempty"`
	DropMode Mode   `yaml:"drop_mode,omitempty"`
	// Upload is what happens with a bundle that was uploaded; Stage when it is empty.
	Upload Mode `yaml:"upload,omitempty"`
	// USB is what happens with a release on a stick; Stage when it is empty.
	USB Mode `yaml:"usb,omitempty"`
	// USBReceipts has receipts and inventory written to every stick that is
	// plugged in.
	USBReceipts bool `yaml:"usb_receipts,omitempty"`
	Settings    `yaml:",inline"`
	// MaxUpload limits one uploaded bundle, in bytes; 0 is 8 GiB.
	MaxUpload int64 `yaml:"max_upload,omitempty"`
	// Webhook gets a CloudEvent when a record changes its status.
	Webhook string `yaml:"webhook,omitempty"`

	Fleet fleet.Config      `yaml:"-"` // server that steers the app
	Facts map[string]string `yaml:"-"` // what it may know of this machine

	Inbox   string   `yaml:"-"` // directory of uploads, for root alone
	Signers []string `yaml:"-"` // who may sign, for people
	Source  string   `yaml:"-"` // where releases come from, for people
}

// Validate says what is wrong with a configuration.
func (c Config) Validate() error {
	for name, m := range map[string]Mode{"drop_mode": c.DropMode, "usb": c.USB} {
		if !m.valid() {
			return fmt.Errorf("%s is %q, want off, stage or apply", name, m)
		}
	}
	if c.Upload != "" && c.Upload != Stage && c.Upload != Apply {
		return fmt.Errorf("upload is %q, want stage or apply: who may upload is a matter of roles", c.Upload)
	}
	if c.MaxUpload < 0 {
		return fmt.Errorf("max_upload is %d, want bytes", c.MaxUpload)
	}
	if !c.Fleet.IsZero() {
		if err := c.Fleet.Validate(); err != nil {
			return err
		}
		if c.Source == "" {
			return errors.New("fleet needs a source: the server names versions, and the device fetches them from there")
		}
		if c.Auto != "" && c.Auto != Off {
			return fmt.Errorf("updates.auto is %s, and fleet has a server decide: set one of both", c.Auto)
		}
	}
	return c.Settings.Validate()
}

// Daemon serves the apps of a device.
type Daemon struct {
	Device Device
	Log    *slog.Logger
	Audit  io.Writer // one JSON object per line: who asked for what
	Now    func() time.Time
	NewID  func() string
	Timing Timing
	// Fleet carries out the requests to fleet servers; nil for the network.
	Fleet http.RoundTripper
	Agent string // as which program those requests come

	mu   sync.Mutex
	apps map[string]*app

	working   sync.RWMutex  // held for reading while a job is done
	gone      chan struct{} // an app that was asked for is not what it was
	verifying chan struct{} // one bundle at a time: a small device has one core to spare
}

// Timing is how long things take. The zero value is for devices; tests are in a
// hurry.
type Timing struct {
	Scan   time.Duration // between two looks at a drop folder; 30 s
	Stable time.Duration // how long a file must not change; 2 s
	Settle time.Duration // how long an incomplete one may rest before it fails; 2 min
	Stale  time.Duration // after which an unfinished upload goes; 24 h

	Patience time.Duration // with who sends or reads slowly; see Bounded
}

func (t *Timing) defaults() {
	for d, def := range map[*time.Duration]time.Duration{&t.Scan: 30 * time.Second, &t.Stable: 2 * time.Second, &t.Settle: 2 * time.Minute, &t.Stale: 24 * time.Hour} {
		if *d == 0 {
			*d = def
		}
	}
}

// Run serves until ctx ends. A transaction that runs then is undone, as with an
// interrupted command. ready is called when every app is known. When the program
// was replaced it ends between two jobs, with ErrReplaced.
func (d *Daemon) Run(ctx context.Context, ready func()) error {
	d.Timing.defaults()
	d.mu.Lock() // the handler may be asked already
	d.apps, d.verifying, d.gone = map[string]*app{}, make(chan struct{}, 1), make(chan struct{}, 1)
	d.mu.Unlock()
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for first := true; ; first = false {
		names, err := d.Device.Apps()
		if err != nil {
			return err
		}
		d.dropGone()
		for _, name := range names {
			d.mu.Lock()
			served := d.apps[name] != nil // one that goes from now on is let go of the next time
			d.mu.Unlock()
			if served {
				continue
			}
			a, err := d.open(ctx, name)
			if err != nil {
				d.Log.Error("cannot serve app", "app", name, "err", err)
				continue
			}
			mine, end := context.WithCancel(ctx)
			a.end = end
			d.mu.Lock()
			d.apps[name] = a
			d.mu.Unlock()
			wg.Go(func() { a.run(mine) })
		}
		if first {
			ready()
		}
		// An app that is installed later is served too.
		select {
		case <-ctx.Done():
			return nil
		case <-d.gone:
		case <-time.After(d.Timing.Scan):
		}
		if d.Device.Replaced() && d.idle() {
			stop()
			d.working.Unlock()
			return ErrReplaced
		}
	}
}

// idle reports whether no job runs or waits. Then it holds working, so that none
// begins.
func (d *Daemon) idle() bool {
	if !d.working.TryLock() {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.apps {
		if len(a.jobs) > 0 {
			d.working.Unlock()
			return false
		}
	}
	return true
}

// app is the app of a name, unless it was removed or installed anew since: then it is
// opened again soon.
func (d *Daemon) app(name string) *app {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.apps[name]
	if a == nil || !a.records.Gone() {
		return a
	}
	select {
	case d.gone <- struct{}{}:
	default:
	}
	return nil
}

// dropGone lets go of apps that were removed or installed anew.
func (d *Daemon) dropGone() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, a := range d.apps {
		if a.records.Gone() {
			a.end()
			delete(d.apps, name)
		}
	}
}

// Alive takes every lock: a watchdog that hears nothing restarts the daemon.
func (d *Daemon) Alive() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.apps {
		a.hub.touch()
	}
}

func (d *Daemon) open(ctx context.Context, name string) (*app, error) {
	config, err := d.Device.Config(name)
	if err != nil {
		return nil, err
	}
	if err := config.Validate(); err != nil {
		return nil, err
	}
	records, err := d.Device.Records(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.Inbox, 0o700); err != nil {
		records.Close()
		return nil, fmt.Errorf("make inbox: %w", err)
	}
	inbox, err := os.OpenRoot(config.Inbox)
	if err != nil {
		records.Close()
		return nil, fmt.Errorf("open inbox: %w", err)
	}
	left, err := fs.Glob(inbox.FS(), "*")
	if err != nil {
		records.Close()
		inbox.Close()
		return nil, fmt.Errorf("look into inbox: %w", err)
	}
	a := &app{
		Daemon: d, name: name, config: config, records: records, inbox: inbox, left: left,
		jobs: make(chan job, maxQueue), wake: make(chan struct{}, 1), rescheduled: make(chan struct{}, 1), onward: make(chan struct{}, 1), hub: newHub(d.Now), uploads: map[string]*upload{}, queued: map[string]int{}, seen: map[string]look{},
	}
	if !config.Fleet.IsZero() {
		if a.agent, err = a.newAgent(ctx); err != nil {
			a.close()
			return nil, err
		}
	}
	return a, nil
}
