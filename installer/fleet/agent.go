package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/valise-ota/valise/bundle/order"
)

const (
	maxTries     = 3 // of one action, from one release
	maxKept      = 64
	firstPause   = 10 * time.Minute // before a version is downloaded again; it grows
	longestPause = 24 * time.Hour
	tellEvery    = 30 * time.Second // between two messages about an action that goes on
	maxSaid      = 100              // such messages; a server takes 1000 of one action
	newestEvery  = 6 * time.Hour    // between two looks at what the source has
)

// State is what runs, and what may.
type State struct {
	Current, Previous string // versions
	Floor             string
	// Refused says why a version may not be asked for: its channel, a release that failed
	// or was left by hand. Nil where it may.
	Refused func(version string) error
}

// Record is what became of a version that was asked for.
type Record struct {
	Status    string // as installer.Status; empty: there is none
	Staged    bool   // its bundle is here, verified
	Queued    bool   // it waits for its turn
	Step      string // that goes on
	Error     string
	Code      int    // as the exit code of the command
	Attention string // why a person must look
	// Cut: power was lost, or the program ended. That is not the fault of the release.
	Cut bool
	// Left says what runs after a failure.
	Left string
}

const (
	pending   = "pending"
	completed = "completed"
	failed    = "failed"
	reverted  = "rolled_back"
)

// ended reports whether nothing more comes of it, unless a person wants it.
func (r Record) ended() bool {
	return r.Status == completed || r.Status == failed || r.Status == reverted || r.Attention != ""
}

// App is the app that is steered. What takes long is begun, and Agent.Wake is called when
// a record changed.
type App interface {
	State(ctx context.Context) (State, error)
	// Newest is the newest release that the source has; empty for none.
	Newest(ctx context.Context) (string, error)
	Record(ctx context.Context, id string) (Record, error)
	// Receipt returns what to tell of the receipt about a record that ended; it may be empty.
	Receipt(ctx context.Context, id string) (string, error)
	// Announce adds a record that waits.
	Announce(ctx context.Context, id, version string) error
	// Stage downloads and verifies what a record is about, Apply installs it, Rollback
	// returns to the previous release as that record. Each may be called again.
	Stage(ctx context.Context, id string) error
	Apply(ctx context.Context, id string) error
	Rollback(ctx context.Context, id, version string) error
	// Cancel ends a record that waits, or has what goes on undone. It reports whether it is
	// too late.
	Cancel(ctx context.Context, id, why string) (late bool, err error)
	// Opens is how long it is until an update may begin.
	Opens() time.Duration
	NewID() string
}

// Store keeps what has to outlive this program. A Note is durable when it returns.
type Store interface {
	Notes(ctx context.Context) (map[string]string, error)
	// Note keeps a value under a key; an empty one removes it.
	Note(ctx context.Context, key, value string) error
}

// Action is what is known of an action of the server: one record at most comes of it.
type Action struct {
	ID      string `json:"id"`
	Turn    int64  `json:"turn"`
	Version string `json:"version"`
	Record  string `json:"record,omitempty"`
	// Known: the record was added. If it is not there, a person deleted it.
	Known    bool      `json:"known,omitempty"`
	Rollback bool      `json:"rollback,omitempty"`
	Tries    int       `json:"tries,omitempty"`
	From     string    `json:"from,omitempty"`    // what ran when it was tried
	Staging  bool      `json:"staging,omitempty"` // the last try was to download
	Confirm  string    `json:"confirm,omitempty"` // asked, confirmed or denied
	Told     bool      `json:"told,omitempty"`    // that answer was
	Stop     string    `json:"stop,omitempty"`    // cancelAction that is not answered
	Canceled bool      `json:"canceled,omitempty"`
	Final    *Feedback `json:"final,omitempty"` // where no record says it
	Closed   bool      `json:"closed,omitempty"`
}

// Seen is what people want to know of the server.
type Seen struct {
	Server  string `json:"server"`
	ID      string `json:"id"`
	Wants   string `json:"wants,omitempty"`  // version of the action that is open
	Action  string `json:"action,omitempty"` // its name
	Newest  string `json:"newest,omitempty"` // release of the source
	Since   string `json:"newest_since,omitempty"`
	Trouble string `json:"trouble,omitempty"` // why the server cannot be asked
}

// Keys of notes.
const (
	// SeenKey is that of a Seen as JSON.
	SeenKey   = "seen"
	toldKey   = "told" // the version that the server knows to run
	actionKey = "action."
)

// Agent asks the server, and does what it may ask for. Run it once.
type Agent struct {
	Config Config
	Client *Client
	App    App
	Store  Store
	Name   string // of the app, as in what the server assigns
	Facts  map[string]string
	Log    *slog.Logger
	Now    func() time.Time // of people

	mu      sync.Mutex
	seen    Seen
	asking  map[string]bool // records that wait for a person and for the server
	pressed map[string]bool

	wake    chan struct{}
	actions []*Action // oldest first
	told    string
	said    map[string][]string // by action: what was told of one that goes on
	saidAt  map[string]time.Time
	late    map[string]late // by version
	looked  time.Time       // at the source
	sleep   time.Duration
}

// late is a version that was downloaded, or failed to be: when it may be again, whatever
// name the server gives to the action.
type late struct {
	from  string
	tries int
	again time.Time
}

// Load reads what is kept. Call it before Run and everything else.
func (g *Agent) Load(ctx context.Context) error {
	notes, err := g.Store.Notes(ctx)
	if err != nil {
		return err
	}
	g.asking, g.pressed, g.wake = map[string]bool{}, map[string]bool{}, make(chan struct{}, 1)
	g.said, g.saidAt, g.late = map[string][]string{}, map[string]time.Time{}, map[string]late{}
	g.actions, g.told = nil, notes[toldKey]
	_ = json.Unmarshal([]byte(notes[SeenKey]), &g.seen) // it is for people
	g.seen.Server, g.seen.ID = g.Config.HawkBit, g.Config.ID
	for key, text := range notes {
		if !strings.HasPrefix(key, actionKey) {
			continue
		}
		a := new(Action)
		if err := json.Unmarshal([]byte(text), a); err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		g.actions = append(g.actions, a)
		if a.Confirm == "asked" {
			g.asking[a.Record] = true
		}
	}
	order.By(g.actions, func(a, b *Action) int { return cmp.Compare(a.Turn, b.Turn) })
	return nil
}

// Wake says that a record changed. It never waits.
func (g *Agent) Wake() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// Confirm is called when a person wants a record applied. It reports whether the server
// is asked first.
func (g *Agent) Confirm(record string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.asking[record] {
		return false
	}
	g.pressed[record] = true
	g.Wake()
	return true
}

// Asks reports whether the server wants a person to agree to a record.
func (g *Agent) Asks(record string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asking[record] && !g.pressed[record]
}

// Seen is what is known of the server.
func (g *Agent) Seen() Seen {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen
}

// Run asks the server until ctx ends.
func (g *Agent) Run(ctx context.Context) {
	g.sleep = g.Config.pollMin()
	pause := rand.N(g.sleep) // devices that start together do not ask together
	for next := time.Now().Add(pause); ; {
		timer := time.NewTimer(time.Until(next))
		due := false
		select {
		case <-ctx.Done():
		case <-g.wake:
		case <-timer.C:
			due = true
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		if err := g.Round(ctx, due); err != nil && ctx.Err() == nil {
			g.trouble(ctx, err)
		} else if due {
			g.trouble(ctx, nil)
		}
		if due {
			next = time.Now().Add(g.pause())
		}
	}
}

// pause is what the server wants, within bounds, give or take a tenth; an update that may
// begin earlier shortens it.
func (g *Agent) pause() time.Duration {
	d := min(max(g.sleep, g.Config.pollMin()), g.Config.pollMax())
	if opens := g.App.Opens(); opens > 0 && g.Seen().Wants != "" {
		d = min(d, max(opens, g.Config.pollMin()))
	}
	return max(g.Config.pollMin(), d*9/10+rand.N(d/5+1))
}

// trouble keeps why the server cannot be asked, and logs it once.
func (g *Agent) trouble(ctx context.Context, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	seen := g.Seen()
	if seen.Trouble == text {
		return
	}
	if seen.Trouble = text; text != "" {
		g.Log.Warn("fleet server", "err", err)
	}
	if err := g.show(ctx, seen); err != nil {
		g.Log.Error("write record", "err", err)
	}
}

func (g *Agent) show(ctx context.Context, s Seen) error {
	g.mu.Lock()
	same := g.seen == s
	g.seen = s
	g.mu.Unlock()
	if same {
		return nil
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return g.Store.Note(ctx, SeenKey, string(b))
}

// Round tells what is to be told, and when it is due asks for work.
func (g *Agent) Round(ctx context.Context, due bool) error {
	for _, a := range slices.Clone(g.actions) {
		if err := g.tell(ctx, a); err != nil {
			return err
		}
	}
	if !due {
		return nil
	}
	b, err := g.Client.poll(ctx) // a server hears of a device by its first one
	if err != nil {
		return err
	}
	g.sleep = b.sleep()
	if err := g.tellInstalled(ctx); err != nil {
		return err
	}
	if b.Links.Attributes != nil {
		if err := g.tellAttributes(ctx); err != nil {
			return err
		}
	}
	seen := g.Seen()
	seen.Wants, seen.Action = "", ""
	for _, work := range []struct {
		*link
		do func(context.Context, string) (*Action, error)
	}{{b.Links.Cancel, g.cancel}, {b.Links.Confirmation, g.confirm}, {b.Links.Deployment, g.deploy}} {
		if work.link == nil {
			continue
		}
		id, err := work.action()
		if err != nil {
			return err
		}
		a, err := work.do(ctx, id)
		if err != nil {
			return err
		}
		if a != nil && !a.Closed {
			seen.Wants, seen.Action = a.Version, a.ID
		}
		break
	}
	if time.Since(g.looked) > newestEvery || g.looked.IsZero() {
		if newest, err := g.App.Newest(ctx); err == nil {
			g.looked = time.Now()
			if newest != seen.Newest {
				seen.Newest, seen.Since = newest, g.Now().UTC().Format(time.RFC3339)
			}
		}
	}
	return g.show(ctx, seen)
}

func (g *Agent) find(id string) *Action {
	i := slices.IndexFunc(g.actions, func(a *Action) bool { return a.ID == id })
	if i < 0 {
		return nil
	}
	return g.actions[i]
}

func (g *Agent) save(ctx context.Context, a *Action) error {
	g.mu.Lock()
	if a.Confirm == "asked" {
		g.asking[a.Record] = true
	} else {
		delete(g.asking, a.Record)
	}
	g.mu.Unlock()
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return g.Store.Note(ctx, actionKey+a.ID, string(b))
}

// add makes an action known, and forgets the oldest that are over. A server that begins
// anew may give an old name to another action.
func (g *Agent) add(ctx context.Context, a *Action) error {
	a.Turn = 1
	if n := len(g.actions); n > 0 {
		a.Turn = g.actions[n-1].Turn + 1
	}
	if err := g.save(ctx, a); err != nil {
		return err
	}
	g.actions = slices.DeleteFunc(g.actions, func(old *Action) bool { return old.ID == a.ID })
	g.actions = append(g.actions, a)
	for i := 0; len(g.actions) > maxKept && i < len(g.actions)-1; {
		if old := g.actions[i]; !old.Closed {
			i++
		} else if err := g.Store.Note(ctx, actionKey+old.ID, ""); err != nil {
			return err
		} else {
			g.actions = slices.Delete(g.actions, i, i+1)
		}
	}
	return nil
}
