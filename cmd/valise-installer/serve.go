package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/cmd/internal/cli"
	engine "github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/release"
)

func serveCommand(p *program) *cobra.Command {
	var scan time.Duration
	c := &cobra.Command{
		Use:   "serve",
		Short: "Apply bundles in drop folders, and serve the local update API",
		Long: "serve updates all installed apps. It applies a bundle that is copied to /opt/APP/updates as\n" +
			"soon as it is complete, and moves it to applied/ or, with the reason, to failed/. Other\n" +
			"programs connect to the socket /run/valise/daemon.sock, which root and the group \"valise\"\n" +
			"may use. serve needs root; the web page is a separate process without root: see\n" +
			"\"valise-installer page\".\n\n" +
			"Settings are in /etc/valise/APP.yaml:\n\n" +
			"  updates:\n" +
			"    drop: /srv/updates        # another drop folder\n" +
			"    drop_mode: stage          # off, stage: wait until a person applies it, apply (default)\n" +
			"    usb: stage                # a release on a stick: off, stage (default), apply\n" +
			"    check: 6h                 # how often to check the source; 0 is never\n" +
			"    auto: stage               # with a newer release: off, stage, apply\n" +
			"    window: 02:00-04:30       # when, in local time\n" +
			"    webhook: http://10.0.0.5/valise   # gets a CloudEvent for every change of status",
		Example: "  systemctl enable --now valise\n  valise-installer serve",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.serve(cmd.Context(), scan) },
	}
	c.Flags().DurationVar(&scan, "scan", 30*time.Second, "time between two scans of a drop folder")
	return c
}

// stopWithin is how long a way back may take once the service is to end: less than
// TimeoutStopSec of its unit. The next start goes on with it.
const stopWithin = 8 * time.Minute

func (p *program) serve(ctx context.Context, scan time.Duration) error {
	if scan <= 0 {
		return cli.Usagef("--scan must be greater than zero, got %s", scan)
	}
	p.StopWithin = stopWithin
	log := slog.New(slog.NewTextHandler(p.Stderr, nil))
	state, err := release.OpenDir(filepath.Join(p.Root, "var/lib/valise"), 0o755)
	if err != nil {
		return err
	}
	state.Close()
	audit, err := engine.AuditFile(filepath.Join(p.Root, "var/lib/valise"))
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	defer audit.Close()
	d := &engine.Daemon{Device: &device.Device{Machine: p.Machine, Explanation: func(err error) string { return cli.Explain(p.explained(err)) }, Remedy: remedy}, Log: log, Audit: audit, Now: p.Now, NewID: p.NewID, Agent: "valise-installer/" + cli.Version(), Timing: engine.Timing{
		Scan: scan, Stable: min(scan, 2*time.Second), Settle: 4 * scan,
	}}
	l, err := p.listen(p.SocketPath())
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: d.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) }, // with the trace
	}
	defer l.Close()
	defer server.Close()
	stop := p.watchdog(ctx, d.Alive)
	defer stop()
	err = d.Run(ctx, func() { // it knows its apps; who asked before waits until now
		go server.Serve(engine.Limit(l))
		log.Info("serving", "socket", p.SocketPath(), "version", cli.Version())
		_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	})
	if !errors.Is(err, engine.ErrReplaced) {
		return err
	}
	log.Info("valise-installer was replaced: starting the new one")
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, append([]string{self}, p.Args...), os.Environ())
}

// listen makes the socket: for root and, where it exists, the group.
func (p *program) listen(path string) (net.Listener, error) {
	dir, err := release.OpenDir(filepath.Dir(path), 0o755)
	if err != nil {
		return nil, err
	}
	dir.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	mode := fs.FileMode(0o600)
	if g, err := user.LookupGroup(device.SocketGroup); err == nil {
		gid, _ := strconv.Atoi(g.Gid)
		if err := os.Chown(path, -1, gid); err != nil {
			l.Close()
			return nil, fmt.Errorf("give the socket to group %s: %w", device.SocketGroup, err)
		}
		mode = 0o660
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// watchdog tells systemd that the process is alive, which it is when alive
// returns.
func (p *program) watchdog(ctx context.Context, alive func()) (stop func()) {
	ctx, stop = context.WithCancel(ctx)
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return stop
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
				return
			case <-time.After(every / 3):
				alive()
				_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			}
		}
	}()
	return stop
}
