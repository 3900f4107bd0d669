package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/compose"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/foreign"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/installer/systemd"
	"github.com/valise-ota/valise/installer/tree"
	"github.com/valise-ota/valise/verify"
)

// Adoption is what Adopt would do, and its result: of a file tree, or of a compose
// project.
type Adoption struct {
	App            string            `json:"app"`
	EnvFile        string            `json:"env_file"`
	*tree.Adoption                   // nil of a compose project
	Compose        *compose.Adoption `json:"compose,omitempty"`
	Signers        []verify.Signer   `json:"signers"`
	Adopted        bool              `json:"adopted"`
	policy         verify.Policy
}

// AdoptOptions say what cannot be found out.
type AdoptOptions struct {
	Tree    tree.AdoptOptions
	Compose compose.AdoptOptions
}

// FindAdoption says what of the app in dir, /opt/APP, can be taken over, and whose
// releases would be accepted then.
func (m *Machine) FindAdoption(ctx context.Context, dir string, o AdoptOptions, trust Trust) (*Adoption, error) {
	app := filepath.Base(dir)
	if dir != m.AppDir(app) || !bundle.ValidApp(app) {
		return nil, usagef("%s: want /opt/APP, the directory that units and releases name", dir)
	}
	found := &Adoption{App: app}
	isTree, err := m.adoptsTree(ctx, app, dir, o)
	switch {
	case err != nil:
		return nil, err
	case isTree && m.Root != "/":
		return nil, usagef("below %s: the units of an app that is a file tree run on this machine", m.Root)
	case isTree:
		store, err := release.Open(dir)
		if err != nil {
			return nil, err
		}
		defer store.Close()
		if found.Adoption, err = m.treeApp(app, store, nil).Find(ctx, o.Tree); err != nil {
			return nil, err
		}
		found.EnvFile = found.Adoption.EnvFile
	default:
		if err := m.findProject(ctx, found, o.Compose); err != nil {
			return nil, err
		}
	}
	policy, err := m.adoptedPolicy(ctx, found, trust)
	found.Signers, found.policy = policy.Signers, policy
	return found, err
}

// adoptsTree reports whether a file tree is meant, and no compose project: as the
// records or the operator say, else by the link that scripts make.
func (m *Machine) adoptsTree(ctx context.Context, app, dir string, o AdoptOptions) (bool, error) {
	if m.hasRecords(app) {
		if kind, _, err := m.recordedKind(ctx, app); err != nil || kind != "" {
			return kind == bundle.KindTree, err
		}
	}
	switch {
	case o.Compose.Project != "" || len(o.Compose.Files) > 0 || o.Compose.Version != "":
		return false, nil
	case len(o.Tree.Units) > 0 || o.Tree.Previous != "":
		return true, nil
	}
	_, err := os.Readlink(filepath.Join(dir, "current"))
	return err == nil, nil
}

// findProject finds a compose project.
func (m *Machine) findProject(ctx context.Context, found *Adoption, o compose.AdoptOptions) error {
	engine, err := m.connect(ctx)
	if err != nil {
		return err
	}
	defer engine.Close()
	program, err := docker.FindCompose(ctx, m.dockerEnv())
	if err != nil {
		return err
	}
	a := m.runtime(found.App, nil, engine, program)
	if found.Compose, err = a.Find(ctx, o); err != nil {
		return err
	}
	found.EnvFile = filepath.Join(m.AppDir(found.App), ".env")
	if m.live() {
		found.Compose.Notes = append(found.Compose.Notes, startedBy(systemd.UnitDir, found.Compose)...)
	}
	return nil
}

// startedBy names the units in dir that start a project: they would start it again.
func startedBy(dir string, found *compose.Adoption) (notes []string) {
	units, _ := filepath.Glob(filepath.Join(dir, "*.service"))
	for _, unit := range units {
		b, err := foreign.ReadFile(unit, bundle.MaxConfigFile)
		if text := string(b); err != nil || !strings.Contains(text, "compose") || !slices.ContainsFunc(append(found.Files, found.Dir), func(p string) bool { return strings.Contains(text, p) }) {
			continue
		}
		notes = append(notes, fmt.Sprintf("%s also starts or stops the project: move it away and run systemctl daemon-reload (stop and disable --now would run its ExecStop)", unit))
	}
	return notes
}

// enter makes releases of what was found, in the order in which they are to be
// committed.
func (found *Adoption) enter(ctx context.Context, a *lockedApp, known []installer.Release) ([]installer.Release, error) {
	if found.Compose == nil {
		return a.Runtime.(*tree.App).Adopt(ctx, found.Adoption, known)
	}
	r, err := a.Runtime.(*compose.App).Adopt(ctx, found.Compose)
	return []installer.Release{r}, err
}

// Adopt takes over what was found. It may be repeated.
func (m *Machine) Adopt(ctx context.Context, found *Adoption) error {
	kind := bundle.KindTree
	if found.Compose != nil {
		kind = bundle.KindCompose
	}
	a, err := m.lockApp(ctx, found.App, kind, "adopt")
	if err != nil {
		return err
	}
	defer a.close()
	if err := m.enterFound(ctx, a, found); err != nil {
		return err
	}
	found.Adopted = true
	if err := m.installCommands(ctx, found.App); err != nil {
		m.Note("%v; it does not change until you replace it with a link to valise-installer", err)
	}
	return nil
}

// enterFound enters what was found into the records, the current release last.
// What is there already is not entered again, so it may be repeated.
func (m *Machine) enterFound(ctx context.Context, a *lockedApp, found *Adoption) error {
	if err := m.recoverFirst(ctx, a); err != nil {
		return err
	}
	st, err := a.journal.Load(ctx)
	if err != nil {
		return err
	}
	if c := st.Current; c != nil && c.Signer != installer.Adopted {
		return fmt.Errorf("adopt %s: %s is already installed by this program", found.App, c.Version)
	}
	releases, err := found.enter(ctx, a, st.Kept)
	if err != nil {
		return err
	}
	if err := m.writePolicy(found.App, found.policy, source.Config{}); err != nil {
		return err
	}
	switch {
	case found.Compose == nil:
		err = m.installRecovery(ctx, found.App, servicesOf(found.Units), nil)
	case m.live():
		err = m.installRecovery(ctx, found.App, nil, []string{"docker.service"})
	}
	if err != nil {
		return err
	}
	for i, r := range releases {
		known := slices.ContainsFunc(st.Kept, func(k installer.Release) bool { return k.Dir == r.Dir })
		if i == len(releases)-1 {
			known = st.Current != nil && st.Current.Dir == r.Dir
		}
		if known {
			continue
		}
		action := installer.ActionUpdate
		if st.Current == nil {
			action = installer.ActionInstall
		}
		rec := installer.Record{ID: m.NewID(), Action: action, From: st.Current, To: r, Status: installer.Applying, By: "adopt", Created: m.Now(), Started: m.Now()}
		if err := a.journal.Begin(ctx, rec); err != nil {
			return err
		}
		if err := a.journal.Commit(ctx, rec.ID, m.Now()); err != nil {
			return err
		}
		if st, err = a.journal.Load(ctx); err != nil {
			return err
		}
	}
	return nil
}

// adoptedPolicy is whom the device trusts: as it says already, as the operator
// says, or as the environment file says.
func (m *Machine) adoptedPolicy(ctx context.Context, found *Adoption, trust Trust) (verify.Policy, error) {
	app, files := found.App, []string{found.EnvFile}
	if found.Compose != nil {
		files = append(files, found.Compose.EnvFrom...)
	}
	if have, err := m.Policy(ctx, app); !errors.Is(err, fs.ErrNotExist) {
		return have, err
	}
	policy, err := trust.policy(func() (string, error) {
		identity, _, err := signerFromEnv(files...)
		return identity, err
	})
	if err != nil {
		return policy, err
	}
	if len(policy.Signers) == 0 {
		return policy, advise(fmt.Errorf("adopt %s: no signer is trusted: %s has no %s", app, found.EnvFile, signerEnv), NameAdopted)
	}
	if _, err := verify.New(policy); err != nil {
		return policy, fmt.Errorf("adopt %s: %w", app, err)
	}
	return policy, nil
}
