package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/systemd"
)

func uninstallCommand(p *program) *cobra.Command {
	var purge, yes bool
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove an app that is a file tree",
		Long: "uninstall says what it would remove, and then stops the app and removes its units,\n" +
			"configuration files, releases and records. The environment file and the trust policy stay for\n" +
			"the next installation, and so do configuration files that were changed here, unless --purge\n" +
			"removes them too. What the app itself wrote (StateDirectory) is never removed.",
		Example: "  valise-installer uninstall\n  valise-installer uninstall --purge --yes",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.uninstall(cmd.Context(), purge, yes) },
	}
	c.Flags().BoolVar(&purge, "purge", false, "remove the environment file, changed configuration files and the trust policy too")
	c.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	return c
}

func (p *program) uninstall(ctx context.Context, purge, yes bool) error {
	app, err := p.theApp()
	if err != nil {
		return err
	}
	kind, err := p.kindOf(ctx, app)
	if err != nil {
		return err
	}
	if kind != bundle.KindTree {
		return cli.WithHint(fmt.Errorf("%s is a compose app, and this command removes file trees", app), "cd %s && docker compose down; its volumes hold the data", p.appDir(app))
	}
	d, err := p.openDevice(ctx, app, kind, "uninstall")
	if err != nil {
		return err
	}
	defer d.close()
	if err := p.recoverFirst(ctx, d); err != nil {
		return err
	}
	st, err := d.journal.Load(ctx)
	if err != nil {
		return err
	}
	list, err := d.tree.Removes(st.Current, purge)
	if err != nil {
		return err
	}
	list = append(list, filepath.Join(systemd.UnitDir, systemd.RecoveryName(app)), p.stateDir(app))
	if purge {
		list = append(list, p.configPath(app))
	}
	if !yes {
		for _, name := range list {
			fmt.Fprintln(p.Stderr, "removes", name)
		}
		if err := p.confirm("Remove " + app + "?"); err != nil {
			return err
		}
	}
	if err := d.tree.Remove(ctx, st.Current, purge); err != nil {
		return err
	}
	if err := removeRecovery(ctx, app); err != nil {
		return err
	}
	if purge {
		if err := p.removePolicy(app); err != nil {
			return fmt.Errorf("uninstall %s: %w", app, err)
		}
	}
	command := filepath.Join(p.binDir(), app+updateSuffix)
	if to, err := os.Readlink(command); err == nil && to == programName {
		if err := os.Remove(command); err != nil {
			return fmt.Errorf("uninstall %s: %w", app, err)
		}
	}
	_ = os.Remove(p.statePath(app))
	_ = os.Remove(p.appDir(app)) // when nothing of others is in it
	// The records go last: until then this can be repeated.
	if err := os.RemoveAll(p.stateDir(app)); err != nil {
		return fmt.Errorf("uninstall %s: %w", app, err)
	}
	result := struct {
		App     string   `json:"app"`
		Removed []string `json:"removed"`
	}{app, list}
	return p.Result(result, func(w io.Writer) { fmt.Fprintf(w, "%s is removed\n", app) })
}
