package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/docker"
)

// hints say what can be done about an error, with its Args.
var hints = map[device.Advice]string{
	device.InstallFirst:  `install it first: "valise-installer install %s --key FILE"`,
	device.InstallAny:    `start with "valise-installer install BUNDLE --key FILE"`,
	device.UpdateInstead: `use "valise-installer update %s"`,
	device.Wait:          `wait until it has ended; see "valise-installer status"`,
	device.SeeStatus:     `"valise-installer status" shows the state without the engine`,
	device.Again:         `try again`,
	device.AddTrust:      `use "valise-installer trust add" if the maker of the app signs differently now`,
	device.NameSigner:    `pass the signer's public key with --key FILE, or their --identity; get it from the maker of the app, not from the stick the bundle is on`,
	device.NameAdopted:   `pass the signer's public key with --key FILE, or their --identity or --identity-regexp`,
	device.ListSigners:   `"valise-installer trust show" lists them`,
	device.RotateInstead: `name the one that comes instead: "valise-installer trust rotate"`,
	device.WritePolicy:   `"valise-installer install BUNDLE --key FILE" writes one`,
	device.NameSource:    `add "source: {github: OWNER/REPOSITORY}" or "source: {url: https://HOST/DIRECTORY/}" to it, or name a bundle`,
	device.DataGone:      `"valise-installer rollback --keep-data" rolls back and keeps the current data; "valise-installer restore --list" shows what else was saved`,
	device.ChooseData:    `say --restore-data or --keep-data`,
	device.ListBackups:   `"valise-installer restore --list" shows what was saved`,
	device.BringEngine:   `build the bundle with "engine:" in valise.yaml, which packs it; or carry it here: %s; the app is as it was`,
	device.SeeEngineLog:  `see why with "journalctl -u docker.service"; nothing was changed`,
	device.MakeGroup:     `create the group %s by hand and repeat`,
	device.TakeOver:      `take it over with "valise-installer adopt --root %s --project %s" and the same --key or --identity, then "valise-installer update" with this bundle`,
	device.RepairRecords: `"valise-installer doctor --repair" recreates the records from what is on this device`,
	device.EditEnv:       `change it in the environment file and start the app again`,
}

// remedies say what can be done about a finding of doctor.
var remedies = map[device.Advice]string{
	device.StartEngine:    `systemctl enable --now docker.service; see journalctl -u docker.service`,
	device.MakeMissing:    `create what is missing: without it, a service that is recreated or restarted does not start`,
	device.RaiseEngine:    `install Docker Engine 20.10 or newer`,
	device.BringCompose:   `install the docker-compose-plugin package, or a bundle that carries docker-compose`,
	device.SeeDisk:        `check the disk: df, dmesg`,
	device.MakeRoom:       `free some space: valise-installer plan says what an update needs`,
	device.SetClock:       `set it (timedatectl); updates work all the same, but times in the history are wrong`,
	device.RestoreTrust:   `restore %s from a backup; without it no bundle is accepted`,
	device.MendFile:       `fix %s`,
	device.AskFleet:       `ask the operator of the server; a person may install it with valise-installer update`,
	device.RepairIt:       `valise-installer doctor --repair sets them aside and recreates them`,
	device.ApplyIt:        `valise-installer apply`,
	device.SeeLogs:        `valise-installer logs; valise-installer restart resets the count`,
	device.MendCause:      `fix the cause, then run valise-installer recover`,
	device.RecoverIt:      `if it runs right now, wait; otherwise run valise-installer recover`,
	device.InstallAgain:   `install the app again: valise-installer install BUNDLE`,
	device.InstallIt:      `valise-installer install BUNDLE`,
	device.MendLink:       `ln -sfnT releases/%s %s`,
	device.PutUnitsBack:   `valise-installer update BUNDLE of %s: it restores the units of the release, keeps your edits beside them, and starts them; put your own settings in systemctl edit UNIT`,
	device.WriteAnew:      `valise-installer update BUNDLE of %s: it rewrites them and keeps your edits beside them`,
	device.PutBack:        `valise-installer update BUNDLE of %s: it restores what is missing`,
	device.NoWayBack:      `a rollback will not work; after the next update there is a new release to roll back to`,
	device.SwitchMends:    `a switch to this release, or an update with its own bundle, restores the original and keeps the changed file beside it`,
	device.VerifiedNext:   `the next update is verified`,
	device.RestoreEnv:     `restore %s from a backup: databases depend on the passwords in it`,
	device.HideFile:       `chmod 600 %s`,
	device.WriteKeys:      `write each as KEY=VALUE, with quotes around values of several words, and comments on separate lines`,
	device.RestartDaemon:  `systemctl restart valise creates it`,
	device.NameDrop:       `write "updates: {drop: %s}" into %s, and make %s a directory`,
	device.OwnAbove:       `make root the owner of the folder and of those above it`,
	device.MoveAway:       `move it away; systemctl restart valise creates the folder`,
	device.ShutFolder:     `chmod o-w %s; to let people write there without root, give it to a group: chgrp GROUP, chmod 1775`,
	device.OwnFolder:      `chown root %s; to let people write there without root, give it to a group: chgrp GROUP, chmod 1775`,
	device.StickFolder:    `chmod +t %s`,
	device.SeeNetwork:     `check network, proxy and name server; without a network, remove "check" from %s: sticks, the drop folder and the page work without it`,
	device.PublishRollout: `the maker of the app publishes one with valise rollout set; or take "required" out of %s`,
	device.EnableEngine:   `systemctl enable docker.service`,
	device.EnableRecovery: `systemctl enable %s; the next update restores a missing one`,
	device.PutInstaller:   `put valise-installer there; the next update does so too`,
	device.RecoveryAnew:   `the next update rewrites it; put your own settings in systemctl edit %s`,
	device.SetUpAgain:     `valise-installer page setup rewrites it; then systemctl enable --now valise`,
	device.SetUpUnit:      `valise-installer page setup rewrites it; put your own settings in systemctl edit %s`,
	device.SeeUnit:        `systemctl status %s`,
	device.EnableUnit:     `systemctl enable --now %s`,
	device.RestartUnit:    `systemctl restart %s; see journalctl -u %s`,
}

// remedy is that of a finding, nothing when there is none.
func remedy(r device.Remedy) string { return fmt.Sprintf(remedies[r.Advice], r.Args...) }

// flags say by which flag or argument the command line is mended.
var flags = map[device.Advice]string{
	device.NameApp:    "name one with --app",
	device.NameNewApp: "name the app with --app",
	device.NameBundle: "name a bundle, or --source",
}

// explained gives an error of the library its sentences and its exit code.
func (p *program) explained(err error) error {
	if cli.Hint(err) != "" {
		return err
	}
	// What a value or a file cannot mend is no matter of exit code 2.
	if errors.As(err, new(*installer.DataLeftError)) {
		return cli.WithHint(err, "ask the maker of the app for a release that says so, or put the data there yourself (docker volume); nothing was changed")
	}
	if errors.As(err, new(*installer.LacksError)) || errors.As(err, new(*installer.PortsError)) {
		return cli.WithHint(err, "create what is missing and repeat; nothing was changed")
	}
	if missing := new(device.EnvError); errors.As(err, &missing) {
		for _, key := range missing.Keys {
			if help := missing.Help[key]; help != "" {
				p.Note("%s: %s", key, cli.OneLine(help))
			}
		}
		return cli.WithCode(cli.WithHint(err, "give them a value in %s or with --set KEY=VALUE and repeat; nothing was changed", missing.File), cli.ExitEnv)
	}
	if errors.As(err, new(*installer.MissingFilesError)) {
		return cli.WithCode(cli.WithHint(err, "put them there and repeat; nothing was changed"), cli.ExitEnv)
	}
	if errors.As(err, new(*device.AttentionError)) {
		return cli.WithCode(cli.WithHint(err, "fix the cause and run %q; it tries again", "valise-installer recover"), cli.ExitAttention)
	}
	if errors.As(err, new(*docker.NotRunningError)) { // for a backup: later it would be a failure of the release
		return cli.WithHint(err, "start the app and repeat: %q", "valise-installer start")
	}
	if errors.Is(err, daemon.ErrUnreachable) {
		return cli.WithHint(err, "start it: %q", "systemctl enable --now valise")
	}
	advised := new(device.Error)
	if errors.As(err, &advised) {
		if flag := flags[advised.Advice]; flag != "" {
			return cli.Usagef("%w: %s", err, flag)
		}
		if hint := hints[advised.Advice]; hint != "" {
			err = cli.WithHint(err, hint, advised.Args...)
		}
		if advised.Advice == device.UnmetCondition {
			return cli.WithCode(err, cli.ExitRefused)
		}
	}
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 && cli.Hint(err) == "" {
		return cli.WithHint(err, "run it as root: sudo %s", filepath.Base(p.Program))
	}
	if errors.As(err, new(*device.UsageError)) {
		return cli.WithCode(err, cli.ExitUsage)
	}
	return err
}

// explain has all commands below c end with explained errors.
func (p *program) explain(c *cobra.Command) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			ctx, end := p.traced(c)
			c.SetContext(ctx)
			err := run(c, args)
			end(err)
			if err != nil {
				return p.explained(err)
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		p.explain(sub)
	}
}
