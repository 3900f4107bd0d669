package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/installer/tree"
	"github.com/valise-ota/valise/verify"
)

// Adoption is what Adopt would do, and its result.
type Adoption struct {
	*tree.Adoption
	Signers []verify.Signer `json:"signers"`
	Adopted bool            `json:"adopted"`
	policy  verify.Policy
}

// FindAdoption says what of the app in dir, /opt/APP, can be taken over, and whose
// releases would be accepted then.
func (m *Machine) FindAdoption(ctx context.Context, dir string, o tree.AdoptOptions, trust Trust) (*Adoption, error) {
	app := filepath.Base(dir)
	if filepath.Dir(dir) != "/opt" || !bundle.ValidApp(app) {
		return nil, usagef("%s: want /opt/APP, the directory that units and releases name", dir)
	}
	store, err := release.Open(dir)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	found, err := m.treeApp(app, store, nil).Find(ctx, o)
	if err != nil {
		return nil, err
	}
	policy, err := m.adoptedPolicy(ctx, app, found, trust)
	return &Adoption{Adoption: found, Signers: policy.Signers, policy: policy}, err
}

// Adopt takes over what was found. It may be repeated.
func (m *Machine) Adopt(ctx context.Context, found *Adoption) error {
	a, err := m.lockApp(ctx, found.App, bundle.KindTree, "adopt")
	if err != nil {
		return err
	}
	defer a.close()
	if err := m.enterFound(ctx, a, found.Adoption, found.policy); err != nil {
		return err
	}
	found.Adopted = true
	if err := m.installCommands(ctx, found.App); err != nil {
		m.Note("%v; it stays what it was until you remove it and link it to valise-installer", err)
	}
	return nil
}

// enterFound enters what was found into the records, the current release last.
// What is there already is not entered again, so it may be repeated.
func (m *Machine) enterFound(ctx context.Context, a *lockedApp, found *tree.Adoption, policy verify.Policy) error {
	if err := m.recoverFirst(ctx, a); err != nil {
		return err
	}
	st, err := a.journal.Load(ctx)
	if err != nil {
		return err
	}
	if c := st.Current; c != nil && c.Signer != tree.Adopted {
		return fmt.Errorf("adopt %s: %s was installed by this program already", found.App, c.Version)
	}
	releases, err := a.Runtime.(*tree.App).Adopt(ctx, found, st.Kept)
	if err != nil {
		return err
	}
	if err := m.writePolicy(found.App, policy, source.Config{}); err != nil {
		return err
	}
	if err := m.installRecovery(ctx, found.App, []string{found.Unit}, nil); err != nil {
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
func (m *Machine) adoptedPolicy(ctx context.Context, app string, found *tree.Adoption, trust Trust) (verify.Policy, error) {
	if have, err := m.Policy(ctx, app); !errors.Is(err, fs.ErrNotExist) {
		return have, err
	}
	policy, err := trust.policy(func() (string, error) {
		identity, _, err := signerFromEnv(found.EnvFile)
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
