package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/source"
	"github.com/valise-ota/valise/installer/systemd"
	"github.com/valise-ota/valise/installer/tree"
	"github.com/valise-ota/valise/verify"
)

type adoptFlags struct {
	root  string
	o     tree.AdoptOptions
	trust cli.Trust
	yes   bool
}

func adoptCommand(p *program) *cobra.Command {
	var f adoptFlags
	c := &cobra.Command{
		Use:   "adopt",
		Short: "Take over an app that scripts installed",
		Long: "adopt finds the releases, the unit and the environment file of an app that is a file tree,\n" +
			"says what it would do, and records them: from then on valise-installer updates the app and\n" +
			"goes back. Nothing that runs is touched.\n\n" +
			"Whose releases are accepted is read from TRUSTED_SIGNER_IDENTITY of the environment file, which\n" +
			"is parsed and never run, or passed with --key, --identity or --identity-regexp.",
		Example: "  valise-installer adopt --root /opt/wattcloud\n  valise-installer adopt --root /opt/wattcloud --health http://127.0.0.1:8080/health --yes",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.adopt(cmd.Context(), f) },
	}
	c.Flags().StringVar(&f.root, "root", "", "directory of the app, /opt/APP")
	c.Flags().StringVar(&f.o.Unit, "unit", "", "unit that runs it (default APP.service)")
	c.Flags().StringVar(&f.o.EnvFile, "env-file", "", "environment file (default the unit's)")
	c.Flags().StringVar(&f.o.Health, "health", "", "URL that answers 200 when it is healthy")
	c.Flags().StringVar(&f.o.Previous, "previous", "", "version that ran before (default the stable one below the current one that was unpacked last)")
	c.Flags().BoolVar(&f.yes, "yes", false, "do it without asking")
	f.trust.Register(c.Flags())
	c.MarkFlagRequired("root")
	return c
}

// adoption is what adopt would do, and its result.
type adoption struct {
	*tree.Adoption
	Signers []verify.Signer `json:"signers"`
	Adopted bool            `json:"adopted"`
}

func (p *program) adopt(ctx context.Context, f adoptFlags) error {
	root, err := filepath.Abs(f.root)
	if err != nil {
		return err
	}
	app := filepath.Base(root)
	if filepath.Dir(root) != "/opt" || !bundle.ValidApp(app) {
		return cli.Usagef("--root %s: want /opt/APP, the directory that units and releases name", f.root)
	}
	store, err := release.Open(root)
	if err != nil {
		return err
	}
	defer store.Close()
	found, err := p.treeApp(app, store, nil).Find(ctx, f.o)
	if err != nil {
		return err
	}
	policy, err := p.adoptedPolicy(ctx, app, found, f.trust)
	if err != nil {
		return err
	}
	result := &adoption{Adoption: found, Signers: policy.Signers}
	if !f.yes {
		printAdoption(p.Stderr, result)
		if err := p.confirm("Take it over?"); err != nil {
			return err
		}
	}
	d, err := p.openDevice(ctx, app, bundle.KindTree, "adopt")
	if err != nil {
		return err
	}
	defer d.close()
	if err := p.enterFound(ctx, d, found, policy); err != nil {
		return err
	}
	result.Adopted = true
	if err := p.installCommands(ctx, app); err != nil {
		p.Note("%v; it stays what it was until you remove it and link it to valise-installer", err)
	}
	return p.Result(result, func(w io.Writer) {
		printAdoption(w, result)
		fmt.Fprintf(w, "next: valise-installer update BUNDLE\n")
	})
}

// enterFound enters what was found into the records, the current release last.
// What is there already is not entered again, so it may be repeated.
func (p *program) enterFound(ctx context.Context, d *device, found *tree.Adoption, policy verify.Policy) error {
	if err := p.recoverFirst(ctx, d); err != nil {
		return err
	}
	st, err := d.journal.Load(ctx)
	if err != nil {
		return err
	}
	if c := st.Current; c != nil && c.Signer != tree.Adopted {
		return fmt.Errorf("adopt %s: %s was installed by this program already", found.App, c.Version)
	}
	releases, err := d.tree.Adopt(ctx, found)
	if err != nil {
		return err
	}
	if err := p.writePolicy(found.App, policy, source.Config{}); err != nil {
		return err
	}
	if err := p.installRecovery(ctx, found.App, []string{found.Unit}, nil); err != nil {
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
		rec := installer.Record{ID: p.newID(), Action: action, From: st.Current, To: r, Status: installer.Applying, By: "adopt", Created: p.Now(), Started: p.Now()}
		if err := d.journal.Begin(ctx, rec); err != nil {
			return err
		}
		if err := d.journal.Commit(ctx, rec.ID, p.Now()); err != nil {
			return err
		}
		if st, err = d.journal.Load(ctx); err != nil {
			return err
		}
	}
	return nil
}

// adoptedPolicy is whom the device trusts: as it says already, as the operator
// says, or as the environment file says.
func (p *program) adoptedPolicy(ctx context.Context, app string, found *tree.Adoption, trust cli.Trust) (verify.Policy, error) {
	if have, err := p.readPolicy(ctx, app); !errors.Is(err, fs.ErrNotExist) {
		return have, err
	}
	if !trust.Given() {
		var err error
		if trust.IdentityRegexp, _, err = signerFromEnv(found.EnvFile); err != nil {
			return verify.Policy{}, err
		}
	}
	if !trust.Given() {
		return verify.Policy{}, cli.WithHint(fmt.Errorf("adopt %s: nobody is trusted to sign it: %s has no %s", app, found.EnvFile, signerEnv),
			"pass the signer's public key with --key FILE, or their --identity or --identity-regexp")
	}
	policy, err := trust.Policy()
	if err != nil {
		return policy, err
	}
	if _, err := verify.New(policy); err != nil {
		return policy, fmt.Errorf("adopt %s: %w", app, err)
	}
	return policy, nil
}

func printAdoption(w io.Writer, a *adoption) {
	fmt.Fprintf(w, "app          %s\nunit         %s\nenvironment  %s\n", a.App, a.Unit, a.EnvFile)
	for _, s := range a.Signers {
		fmt.Fprintf(w, "accepts      releases signed by %s\n", s)
	}
	for _, r := range a.Releases {
		note := ""
		switch r.Dir {
		case a.Current:
			note = "  current"
		case a.Previous:
			note = "  previous: what a rollback returns to"
		}
		fmt.Fprintf(w, "release      %s, of %s%s\n", r.Dir, stamp(r.Since), note)
	}
	for _, s := range a.Skipped {
		fmt.Fprintf(w, "not taken    %s: the next update removes it from releases\n", s)
	}
	if a.Link != "releases/"+a.Current {
		fmt.Fprintf(w, "current      leads to %s and will lead to releases/%s, which is the same\n", a.Link, a.Current)
	}
	if !a.Adopted {
		fmt.Fprintf(w, "writes       a manifest.json into each release, %s, records in /var/lib/valise/%s, %s\n", "/etc/valise/"+a.App+".yaml", a.App, systemd.RecoveryName(a.App))
	}
}

// confirm asks a person; without one the answer is no.
func (p *program) confirm(question string) error {
	if person := p.person(); person == nil || !p.agrees(person, question) {
		return cli.Usagef("nothing was changed: say --yes to do it")
	}
	return nil
}
