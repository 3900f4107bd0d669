package installer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/verify"
)

// Facts is what a Runtime found out about the device for one release.
type Facts struct {
	Platform   bundle.Platform
	Engine     string                 // version of the container engine
	Missing    map[bundle.Digest]bool // layers of the release that the engine lacks
	Free       int64                  // bytes available where the engine keeps images
	EnvMissing []string               // required keys without a value
	EnvNew     []string               // secrets that would be generated
}

// Plan is what an update would do. It is computed from facts alone: making one
// changes nothing.
type Plan struct {
	App        string           `json:"app"`
	Action     Action           `json:"action,omitempty"` // empty when there is nothing to do
	From       string           `json:"from,omitempty"`
	To         string           `json:"to"`
	Signer     string           `json:"signer"`
	Platform   bundle.Platform  `json:"platform"`
	Load       []PlanImage      `json:"images"`
	LoadBytes  int64            `json:"load_bytes"`  // compressed layers the engine lacks
	TotalBytes int64            `json:"total_bytes"` // compressed layers of this platform
	NeedBytes  int64            `json:"need_bytes"`  // free space the load needs at least
	FreeBytes  int64            `json:"free_bytes"`
	EnvMissing []string         `json:"env_missing,omitempty"`
	EnvNew     []string         `json:"env_new,omitempty"`
	Backup     []string         `json:"backup,omitempty"` // what is saved before the switch
	RollbackTo string           `json:"rollback_to,omitempty"`
	Migration  bundle.Migration `json:"migration,omitempty"`
	// Irreversible says that going back brings back the data saved before.
	Irreversible bool               `json:"irreversible,omitempty"`
	RestoreData  bundle.RestoreData `json:"restore_data"`
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

// UnmetError says what this device lacks that the release requires.
type UnmetError struct{ Reason string }

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
			return &UnmetError{fmt.Sprintf("an update to %s starts from %s or a newer version, and %s is installed: update to %s first", m.Version, r.From, current, r.From)}
		}
	}
	if r.Engine != "" && engine != "" && slices.Compare(numbers(engine), numbers(r.Engine)) < 0 {
		return &UnmetError{fmt.Sprintf("%s needs container engine %s or newer, and this one is %s: upgrade it first", m.Version, r.Engine, engine)}
	}
	return nil
}

// numbers are the leading numbers of a version: 20, 10, 24 of 20.10.24+dfsg1.
func numbers(version string) (list []int) {
	for part := range strings.SplitSeq(version, ".") {
		digits := len(part) - len(strings.TrimLeft(part, "0123456789"))
		n, err := strconv.Atoi(part[:digits])
		if err != nil {
			return list
		}
		if list = append(list, n); digits < len(part) {
			return list
		}
	}
	return list
}

// NewPlan plans an update of st to rel. It fails when the bundle does not hold
// what this device lacks.
func NewPlan(st State, rel *verify.Release, f Facts) (*Plan, error) {
	m := rel.Manifest()
	p := &Plan{App: m.App, Action: ActionUpdate, To: m.Version, Signer: rel.Signer().String(), Platform: f.Platform, FreeBytes: f.Free, EnvMissing: f.EnvMissing, EnvNew: f.EnvNew,
		Migration: m.Device.Migration, Irreversible: m.Device.Migration == bundle.Irreversible, RestoreData: m.Device.RestoreData()}
	at := slices.Index(m.Platforms, f.Platform)
	if at < 0 {
		return nil, fmt.Errorf("plan: no images for %s in the release", f.Platform)
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
					return nil, fmt.Errorf("plan: this device lacks layer %s of image %s and the bundle leaves it out: use the full bundle of %s", l.Digest, c.Reference, m.Version)
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
				i.Bytes += l.Size
			}
		}
		p.Load = append(p.Load, i)
	}
	// The engine first copies what it is sent to a temporary directory and
	// then unpacks it, and unpacked is never smaller.
	p.NeedBytes = 2 * p.LoadBytes
	switch {
	case st.Current == nil:
		p.Action = ActionInstall
	case st.Current.Manifest == rel.Digest():
		p.Action, p.From = "", st.Current.Version
	default:
		p.From, p.RollbackTo = st.Current.Version, st.Current.Version
		for _, b := range m.Device.Backup {
			kind, service, what := b.Parts()
			p.Backup = append(p.Backup, fmt.Sprintf("%s %s of service %s", kind, what, service))
		}
	}
	return p, nil
}

// Check says what speaks against carrying the plan out.
func (p *Plan) Check() error {
	if len(p.EnvMissing) > 0 {
		return &MissingEnvError{p.EnvMissing}
	}
	if p.FreeBytes < p.NeedBytes {
		return fmt.Errorf("not enough space for the engine: %d bytes free, at least %d needed; remove what is not needed there and try again", p.FreeBytes, p.NeedBytes)
	}
	return nil
}
