package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/systemd"
)

func uninstallCommand(p *program) *cobra.Command {
	var purge, yes bool
	c := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove an app",
		Long: "uninstall says what it would remove, and then stops the app and removes its containers and images,\n" +
			"or its units and configuration files, and releases and records. The environment file and the trust\n" +
			"policy stay for the next installation, and so do configuration files that were changed here, unless\n" +
			"--purge removes them too. What the app itself wrote (volumes, StateDirectory) and what was saved of\n" +
			"it is never removed.",
		Example: "  valise-installer uninstall\n  valise-installer uninstall --purge --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.onDevice(cmd.Context(), "uninstall", func(ctx context.Context, d *device) error {
				return p.uninstall(ctx, d, purge, yes)
			})
		},
	}
	c.Flags().BoolVar(&purge, "purge", false, "remove the environment file, changed configuration files and the trust policy too")
	c.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	return c
}

func (p *program) uninstall(ctx context.Context, d *device, purge, yes bool) error {
	app, err := p.theApp()
	if err != nil {
		return err
	}
	if err := p.recoverFirst(ctx, d); err != nil {
		return err
	}
	st, err := d.journal.Load(ctx)
	if err != nil {
		return err
	}
	var runtime interface {
		Remove(ctx context.Context, current *installer.Release, purge bool) error
		Removes(current *installer.Release, purge bool) ([]string, error)
	} = d.app
	if d.tree != nil {
		runtime = d.tree
	}
	list, err := runtime.Removes(st.Current, purge)
	if err != nil {
		return err
	}
	list = append(list, p.stateDir(app))
	managed := p.root == "/" && there(filepath.Join(systemd.UnitDir, systemd.RecoveryName(app)))
	if managed {
		list = append(list, filepath.Join(systemd.UnitDir, systemd.RecoveryName(app)))
	}
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
	if err := runtime.Remove(ctx, st.Current, purge); err != nil {
		return err
	}
	if managed {
		if err := removeRecovery(ctx, app); err != nil {
			return err
		}
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
