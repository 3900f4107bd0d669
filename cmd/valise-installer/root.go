package main

import (
	"context"
	"net/http"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/device"
)

// commands are the subcommands. Each stands in a file of its own.
var commands = []func(*program) *cobra.Command{
	installCommand,
	updateCommand,
	planCommand,
	rollbackCommand,
	applyCommand,
	stopCommand,
	restartCommand,
	logsCommand,
	backupCommand,
	restoreCommand,
	recoverCommand,
	statusCommand,
	historyCommand,
	checkCommand,
	envCommand,
	adoptCommand,
	uninstallCommand,
	doctorCommand,
	receiptsCommand,
	usbCommand,
	serveCommand,
	pageCommand,
	trustCommand,
	selfUpdateCommand,
	selfCheckCommand,
}

const exitCodes = "Exit codes: 0 done or nothing to do, 1 failed and unchanged, 2 required environment keys\n" +
	"missing, 3 the previous release runs again, 4 bundle refused, 5 needs attention: the\n" +
	"rollback failed too, 64 wrong usage."

// program is what the subcommands share: the command line, and the device.
type program struct {
	cli.App
	*device.Machine
	trace string // where a trace goes, if anywhere
}

// Note tells people something on stderr that changes no result.
func (p *program) Note(format string, args ...any) { p.App.Note(format, args...) }

func run(ctx context.Context, e cli.Env) int {
	p := &program{App: cli.App{Env: e}}
	p.Machine = &device.Machine{
		Root: "/", Version: cli.Version(), Getenv: e.Getenv, Now: e.Now, Proxy: http.ProxyFromEnvironment,
		Note: p.Note, Step: func(name, detail string) { p.UI.Step(name, detail) }, Report: p.reporter(),
		Secret:  func(key, value, file string) { p.Note("%s is %s (shown once; it is kept in %s)", key, value, file) },
		Planned: func(plan *installer.Plan) { p.UI.Step("plan", planLine(plan)) },
		Ask:     p.person,
	}
	root := p.newRoot(e.Program)
	p.explain(root)
	return p.Run(ctx, root)
}

// newRoot is the program that is called so: valise-installer, or APP-update.
func (p *program) newRoot(program string) *cobra.Command {
	root := &cobra.Command{
		Use:   "valise-installer",
		Short: "Install, update and roll back sealed releases on this device",
		Long: "valise-installer verifies a bundle offline, loads only what is missing, backs up the data,\n" +
			"switches, checks health, and rolls back by itself if anything fails.\n\n" +
			"Files of the device are in /etc/valise/APP.yaml (trusted signers, settings), /opt/APP\n" +
			"(releases, environment file, backups) and /var/lib/valise/APP (records, lock).\n\n" + exitCodes,
		Example: "  valise-installer install shop-1.0.0.tar.gz --key cosign.pub\n" +
			"  valise-installer update shop-1.1.0.tar.gz\n" +
			"  valise-installer rollback\n" +
			"  valise-installer status --output json",
	}
	if app, ok := device.AppOf(program); ok {
		root = p.appUpdateRoot(app)
	} else {
		root.PersistentFlags().StringVar(&p.Machine.App, "app", "", "app, if more than one is installed")
		for _, c := range commands {
			root.AddCommand(c(p))
		}
	}
	root.PersistentFlags().Var((*absolutePath)(&p.Root), "root", "directory to use as the root of the device's file system")
	root.PersistentFlags().StringVar(&p.trace, "trace", "", "write where the time goes to this file, NAME.json: in Chrome's trace event format")
	return root
}

// absolutePath is a flag whose value is made absolute: docker compose runs
// elsewhere and gets paths below it.
type absolutePath string

func (a *absolutePath) String() string { return string(*a) }
func (a *absolutePath) Type() string   { return "directory" }

func (a *absolutePath) Set(s string) error {
	abs, err := filepath.Abs(s)
	*a = absolutePath(abs)
	return err
}
