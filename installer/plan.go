package installer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/verify"
)

// Facts is what a Runtime found out about the device for one release.
type Facts struct {
	Platform     bundle.Platform
	Engine       string                 // version of the container engine
	Missing      map[bundle.Digest]bool // layers of the release that the engine lacks
	Free         int64                  // bytes available where the engine keeps images
	EnvMissing   []string               // required keys without a value
	LocalMissing []string               // files that the operator must put there
	EnvNew       []string               // secrets that would be generated
	EnvChanged   []string               // keys that get another value
	Files        int64                  // bytes of the release's own files
	FilesFree    int64                  // available where they are kept, and backups
	Backup       int64                  // bytes that a backup is thought to need
	Services     []ServiceChange        // nil when it is not known
	PortsTaken   []string               // that the release needs and others have
	Unmet        []Note                 // what else the release needs of the device and does not find
	RunsSince    time.Time              // when the release that runs was made; zero when none runs
	DataLeft     []Note                 // volumes with data that the release leaves behind silently
	Notes        []Note                 // what else is to be said of it
	Edited       []string               // what services made of files of the release that runs
	Damage       error                  // of the release that runs, when that is the one to plan
}

// Change is what becomes of the containers of a service.
type Change string

const (
	KeptAsIs  Change = "kept" // they run on
	Recreated Change = "recreated"
	Started   Change = "started" // there are none, or they do not run
	Removed   Change = "removed"
)

// ServiceChange is what an update does to one service.
type ServiceChange struct {
	Service string `json:"service"`
	Change  Change `json:"change"`
}

// ConfigError says that what runs is not what is configured: a person changed the
// environment file or an override, or stopped or removed services.
type ConfigError struct{ Services []ServiceChange }

func (e *ConfigError) Error() string {
	var list []string
	for _, s := range e.Services {
		list = append(list, s.Service+" would be "+string(s.Change))
	}
	return "it does not run as it is configured: " + strings.Join(list, ", ")
}

// Edited reports whether more than the state of the services differs.
func (e *ConfigError) Edited() bool {
	return slices.ContainsFunc(e.Services, func(s ServiceChange) bool { return s.Change != Started })
}

// Downtime says what of the app is down for a moment.
type Downtime string

const (
	DowntimeUnknown Downtime = "unknown"
	DowntimeNone    Downtime = "none"
	DowntimePart    Downtime = "part" // some services go on
	DowntimeAll     Downtime = "all"
)

// downtime of an update follows from what becomes of the services.
func downtime(services []ServiceChange) Downtime {
	stop := 0
	for _, s := range services {
		if s.Change != KeptAsIs {
			stop++
		}
	}
	switch {
	case len(services) == 0:
		return DowntimeUnknown
	case stop == 0:
		return DowntimeNone
	case stop < len(services):
		return DowntimePart
	}
	return DowntimeAll
}

// freezeAge is how much older than the release that runs a newer version may be
// before that is worth a word: somebody may be handing out an old one on purpose.
const freezeAge = 30 * 24 * time.Hour

// Plan is what an update would do. It is computed from facts alone: making one
// changes nothing.
type Plan struct {
	App        string          `json:"app"`
	Action     Action          `json:"action,omitempty"` // empty when there is nothing to do, unless it is not healthy
	Repair     string          `json:"repair,omitempty"` // what is damaged of the release that runs
	From       string          `json:"from,omitempty"`
	To         string          `json:"to"`
	Signer     string          `json:"signer"`
	Platform   bundle.Platform `json:"platform"`
	Load       []PlanImage     `json:"images"`
	LoadBytes  int64           `json:"load_bytes"`  // compressed layers the engine lacks
	TotalBytes int64           `json:"total_bytes"` // compressed layers, or files, of this platform
	NeedBytes  int64           `json:"need_bytes"`  // most that the engine takes meanwhile, at least
	FreeBytes  int64           `json:"free_bytes"`
	FetchBytes int64           `json:"fetch_bytes,omitempty"` // of a remote bundle, beyond what planning took; set by who reads it
	Missing    []bundle.Digest `json:"-"`                     // layers to load
	FilesNeed  int64           `json:"files_need_bytes"`      // of the release's directory and a backup like the last
	FilesFree  int64           `json:"files_free_bytes"`
	Services   []ServiceChange `json:"services,omitempty"`
	Downtime   Downtime        `json:"downtime,omitempty"`
	PortsTaken []string        `json:"ports_taken,omitempty"`
	Unmet      []Note          `json:"unmet,omitempty"`     // what the device lacks: networks, volumes, devices, features
	DataLeft   []Note          `json:"data_left,omitempty"` // data in volumes that the release does not use
	EnvMissing []string        `json:"env_missing,omitempty"`
	// FilesMissing are files that the operator must put there, with what is in their place.
	FilesMissing []string `json:"files_missing,omitempty"`
	EnvNew       []string `json:"env_new,omitempty"`
	EnvChanged   []string `json:"env_changed,omitempty"`
	EnvFile      string   `json:"env_file,omitempty"` // of a tree
	// EnvHelp says what the keys of EnvMissing are for, where that is known.
	EnvHelp    map[string]string `json:"env_help,omitempty"`
	Backup     []Note            `json:"backup,omitempty"`       // what is saved before the switch
	BackupSize int64             `json:"backup_bytes,omitempty"` // that this is thought to need
	RollbackTo string            `json:"rollback_to,omitempty"`
	Limits     bundle.Limits     `json:"limits,omitzero"` // set by who knows the device's own
	Migration  bundle.Migration  `json:"migration,omitempty"`
	// Irreversible says that going back restores the data saved before.
	Irreversible bool               `json:"irreversible,omitempty"`
	RestoreData  bundle.RestoreData `json:"restore_data"`
	// Signers are who is trusted after it, when that changes.
	Signers []string `json:"signers_after,omitempty"`
	// Way are the updates that lead to the release which was asked for, this one
	// first, where it takes several; set by who found it.
	Way   []Hop  `json:"way,omitempty"`
	Notes []Note `json:"notes,omitempty"` // what an operator should look at; none stops the plan
}

// Note is a sentence of a plan: Text is English. Front ends in another language know
// it by Format, and put Args into theirs.
type Note struct {
	Text   string   `json:"text"`
	Format string   `json:"format" jsonschema:"text without its args"`
	Args   []string `json:"args,omitempty"`
}

func (n Note) String() string { return n.Text }

// Notef makes a note; each argument is one %s or %d of format.
func Notef(format string, args ...any) Note {
	n := Note{Text: fmt.Sprintf(format, args...), Format: format}
	for _, a := range args {
		n.Args = append(n.Args, fmt.Sprint(a))
	}
	return n
}

func join(notes []Note) string {
	var texts []string
	for _, n := range notes {
		texts = append(texts, n.Text)
	}
	return strings.Join(texts, "; ")
}

// Saved is Backup.String as a note.
func Saved(b bundle.Backup) Note {
	kind, service, what := b.Subject()
	if name, ok := strings.CutPrefix(what, "database "); ok {
		return Notef("%s database %s of service %s", kind, name, service)
	}
	switch what {
	case "its database":
		return Notef("%s its database of service %s", kind, service)
	case "all databases":
		return Notef("%s all databases of service %s", kind, service)
	case "all keys":
		return Notef("%s all keys of service %s", kind, service)
	case "by command":
		return Notef("%s by command of service %s", kind, service)
	}
	return Notef("%s %s of service %s", kind, what, service)
}

// Hop is one update of several, as the head of its bundle says. The later ones
// are not verified yet.
type Hop struct {
	Version string `json:"version"`
	// Bytes are those of layers, or of the files of a tree, that this device would
	// lack then.
	Bytes int64 `json:"bytes"`
	// Downtime is what is down. Of a later one it is known when all or none of
	// the images are new.
	Downtime Downtime `json:"downtime"`
}

// PlanImage is one image of a plan.
type PlanImage struct {
	Reference string   `json:"reference"`
	Services  []string `json:"services"`
	Layers    int      `json:"layers"`
	Missing   int      `json:"missing"` // layers to load
	Bytes     int64    `json:"bytes"`   // of them, compressed
}

// MissingEnvError lists required keys of the environment file that have no
// value.
type MissingEnvError struct{ Keys []string }

func (e *MissingEnvError) Error() string {
	return fmt.Sprintf("required environment keys have no value: %v", e.Keys)
}

// MissingFilesError lists files that a release needs, does not carry, and that are
// not there.
type MissingFilesError struct{ Paths []string }

func (e *MissingFilesError) Error() string {
	return "required files are not there: " + strings.Join(e.Paths, ", ")
}

// TakenError says that a first installation would take the place of containers that
// are not ours.
type TakenError struct {
	Project  string
	Services []string // with their states
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("containers of a compose project %s already exist: %s; an installation would remove them for good", e.Project, strings.Join(e.Services, ", "))
}

// UnmetError says what this device lacks that the release requires.
type UnmetError struct {
	Reason string
	From   string // the version that must run first, when it is that
}

func (e *UnmetError) Error() string { return e.Reason }

// checkRequires compares what a release requires with the device.
func checkRequires(st State, m *bundle.Manifest, engine string) error {
	r := m.Requires
	if r == nil {
		return nil
	}
	if r.From != "" && st.Current != nil {
		from, err := bundle.ParseVersion(r.From)
		if err != nil {
			return err
		}
		current, err := bundle.ParseVersion(st.Current.Version)
		if err != nil {
			return err
		}
		if current.LessThan(from) {
			return &UnmetError{fmt.Sprintf("an update to %s starts from %s or a newer version, and %s is installed: update to %s first", m.Version, r.From, current, r.From), r.From}
		}
	}
	return CheckEngine(m, engine)
}

// CheckEngine returns an UnmetError when a release requires a newer container engine
// than the one of that version; of one that is not known, nothing is said.
func CheckEngine(m *bundle.Manifest, engine string) error {
	if r := m.Requires; r != nil && r.Engine != "" && engine != "" && slices.Compare(bundle.VersionNumbers(engine), bundle.VersionNumbers(r.Engine)) < 0 {
		return &UnmetError{Reason: fmt.Sprintf("%s needs container engine %s or newer, and this one is %s: upgrade it first", m.Version, r.Engine, engine)}
	}
	return nil
}

// LackingError means that a thin bundle leaves out what this device lacks too.
type LackingError struct {
	Layer   bundle.Digest
	Image   string
	Version string
}

func (e *LackingError) Error() string {
	return fmt.Sprintf("this device lacks layer %s of image %s and the bundle leaves it out: use the full bundle of %s", e.Layer, e.Image, e.Version)
}

// NewPlan plans an update of st to rel. It fails when the bundle does not hold
// what this device lacks.
func NewPlan(st State, rel *verify.Release, f Facts) (*Plan, error) {
	m := rel.Manifest()
	p := &Plan{App: m.App, Action: ActionUpdate, To: m.Version, Signer: rel.Signer().String(), Platform: f.Platform, FreeBytes: f.Free, PortsTaken: f.PortsTaken, Unmet: f.Unmet, DataLeft: f.DataLeft, Notes: f.Notes, EnvMissing: f.EnvMissing, FilesMissing: f.LocalMissing, EnvNew: f.EnvNew, EnvChanged: f.EnvChanged,
		Migration: m.Device.Migration, Irreversible: m.Device.Migration == bundle.Irreversible, RestoreData: m.Device.RestoreData()}
	at := slices.Index(m.Platforms, f.Platform)
	if at < 0 {
		return nil, fmt.Errorf("plan: nothing for %s in the release", f.Platform)
	}
	for _, key := range f.EnvMissing {
		if help := m.Device.Env[key].Help; help != "" {
			if p.EnvHelp == nil {
				p.EnvHelp = map[string]string{}
			}
			p.EnvHelp[key] = help
		}
	}
	if m.Kind == bundle.KindTree {
		p.EnvFile = m.Device.Tree.EnvFile
		for _, t := range m.TreeFiles(f.Platform) {
			p.TotalBytes += t.Size
		}
		p.LoadBytes = p.TotalBytes
	}
	if err := checkRequires(st, m, f.Engine); err != nil {
		return nil, err
	}
	seen := map[bundle.Digest]bool{}
	for _, c := range m.Components {
		i := PlanImage{Reference: c.Reference, Services: c.Services, Layers: len(c.Images[at].Layers)}
		for _, l := range c.Images[at].Layers {
			if f.Missing[l.Digest] {
				if !rel.HasBlob(l.Digest) {
					return nil, fmt.Errorf("plan: %w", &LackingError{l.Digest, c.Reference, m.Version})
				}
				i.Missing++
			}
			if seen[l.Digest] {
				continue
			}
			seen[l.Digest] = true
			p.TotalBytes += l.Size
			if f.Missing[l.Digest] {
				p.LoadBytes += l.Size
				p.Missing = append(p.Missing, l.Digest)
				i.Bytes += l.Size
			}
		}
		p.Load = append(p.Load, i)
	}
	// The engine first copies what it is sent to a temporary directory and
	// then unpacks it, and unpacked is never smaller.
	if m.Kind == bundle.KindCompose {
		p.NeedBytes = 2 * p.LoadBytes
	}
	p.FilesNeed, p.FilesFree = f.Files, f.FilesFree
	switch {
	case st.Current == nil:
		p.Action, p.Downtime = ActionInstall, DowntimeNone
	case st.Current.Manifest == rel.Digest():
		p.Action, p.From, p.EnvChanged = "", st.Current.Version, nil
		if f.Damage != nil {
			p.Action, p.Repair = ActionUpdate, f.Damage.Error()
		}
	default:
		p.From, p.RollbackTo = st.Current.Version, st.Current.Version
		p.Services, p.Downtime = f.Services, downtime(f.Services)
		p.BackupSize, p.FilesNeed = f.Backup, f.Files+f.Backup
		for _, b := range m.Device.Backup {
			p.Backup = append(p.Backup, Saved(b))
		}
	}
	if r := rel.Rotation(); r != nil {
		for _, s := range r.Signers {
			p.Signers = append(p.Signers, s.String())
		}
	}
	for _, e := range f.Edited {
		p.Notes = append(p.Notes, Notef("changed on this device: %s; a switch to its release, or its removal, keeps the change aside", e))
	}
	if made := m.CreatedAt; !f.RunsSince.IsZero() && p.Action == ActionUpdate && made.Before(f.RunsSince.Add(-freezeAge)) {
		p.Notes = append(p.Notes, Notef("%s was made on %s, %d days before the running %s: ask its maker whether you should install it",
			m.Version, made.Format(time.DateOnly), int(f.RunsSince.Sub(made).Hours()/24), p.From))
	}
	return p, nil
}

// LacksError lists what a release needs of a device and does not find there.
type LacksError struct{ What []Note }

func (e *LacksError) Error() string { return "this device lacks: " + join(e.What) }

// DataLeftError says that a release would begin without data that are here.
type DataLeftError struct{ What []Note }

func (e *DataLeftError) Error() string {
	return "data would be left behind: " + join(e.What)
}

// PortsError lists ports that something else has.
type PortsError struct{ Ports []string }

func (e *PortsError) Error() string {
	return fmt.Sprintf("ports are taken: %s; stop what listens there, or choose others in the environment file", strings.Join(e.Ports, ", "))
}

// SpaceError says that there is too little room.
type SpaceError struct {
	Where      string // for what
	Free, Need int64  // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("not enough space %s: %d bytes free, at least %d needed; remove what is not needed there and try again", e.Where, e.Free, e.Need)
}

// HeldError says that a release is held back by the rollout file of its app.
type HeldError struct {
	Version string
	Halted  bool   // for everybody
	Unnamed bool   // no such file names it, and this device requires that
	Percent int    // whose turn it is
	Group   string // of which group; empty: of all devices
}

func (e *HeldError) Error() string { return e.Note("").Text }

// Note is the error as a note, with more behind it.
func (e *HeldError) Note(more string) Note {
	switch {
	case e.Halted:
		return Notef("%s was halted by its rollout file (--force installs it)"+more, e.Version)
	case e.Unnamed:
		return Notef("%s waits for its turn: this device requires a rollout file that names it"+more, e.Version)
	case e.Group != "":
		return Notef("%s waits for its turn: %d %% of group %s"+more, e.Version, e.Percent, e.Group)
	default:
		return Notef("%s waits for its turn: %d %% of devices"+more, e.Version, e.Percent)
	}
}

// Obstacle reports whether err is why a release cannot be installed now, although
// nothing is wrong with it: something else has to come first, to be upgraded, or to
// make room. It is worth trying again.
func Obstacle(err error) bool {
	return errors.As(err, new(*HeldError)) || errors.As(err, new(*UnmetError)) || errors.As(err, new(*NoWayError)) || errors.As(err, new(*LacksError)) ||
		errors.As(err, new(*PortsError)) || errors.As(err, new(*SpaceError))
}

// Check says what speaks against carrying the plan out, all of it.
func (p *Plan) Check() error {
	var wrong []error
	if len(p.EnvMissing) > 0 {
		wrong = append(wrong, &MissingEnvError{p.EnvMissing})
	}
	if len(p.FilesMissing) > 0 {
		wrong = append(wrong, &MissingFilesError{p.FilesMissing})
	}
	if len(p.Unmet) > 0 {
		wrong = append(wrong, &LacksError{p.Unmet})
	}
	if len(p.DataLeft) > 0 {
		wrong = append(wrong, &DataLeftError{p.DataLeft})
	}
	if len(p.PortsTaken) > 0 {
		wrong = append(wrong, &PortsError{p.PortsTaken})
	}
	if p.FilesFree < p.FilesNeed {
		wrong = append(wrong, &SpaceError{"for the app's files", p.FilesFree, p.FilesNeed})
	}
	if p.FreeBytes < p.NeedBytes {
		wrong = append(wrong, &SpaceError{"for the engine", p.FreeBytes, p.NeedBytes})
	}
	return errors.Join(wrong...)
}
