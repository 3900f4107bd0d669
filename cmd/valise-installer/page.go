package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/ota"
)

func pageCommand(p *program) *cobra.Command {
	c := &cobra.Command{
		Use:   "page",
		Short: "Serve the web page and API for updates",
		Long: "page serves the update page and its API. It needs no root: it talks to the daemon\n" +
			"(\"valise-installer serve\") through a socket. \"page setup\" writes its configuration,\n" +
			"/etc/valise-page/page.yaml, and users.json with a first password, which it shows once.",
		Example: "  sudo valise-installer page setup --listen :8443\n  sudo systemctl enable --now valise valise-page",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.servePage(cmd.Context()) },
	}
	c.AddCommand(pageSetupCommand(p), pagePasswdCommand(p), pageTokenCommand(p))
	return c
}

func (p *program) pageDir() string { return filepath.Join(p.Root, "etc/valise-page") }

func (p *program) pageConfig() (c ota.Config, err error) {
	path := filepath.Join(p.pageDir(), "page.yaml")
	b, err := os.ReadFile(path)
	if err != nil {
		return c, cli.WithHint(fmt.Errorf("read the page's configuration: %w", err), "run %q first", "valise-installer page setup")
	}
	if err := yaml.Load(b, &c, yaml.WithKnownFields(), yaml.WithUniqueKeys()); err != nil {
		return c, fmt.Errorf("read %s: %s", path, device.YAMLError(err))
	}
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("read %s: %w", path, err)
	}
	return c, nil
}

func (p *program) servePage(ctx context.Context) error {
	if p.trace != "" {
		return cli.Usagef("the page does nothing by itself: trace the service, with \"valise-installer serve --trace FILE\"")
	}
	collectAt(25) // hundreds may watch, and a device has more time than memory
	config, err := p.pageConfig()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(p.Stderr, nil))
	sessions := ""
	if dir := p.Getenv("STATE_DIRECTORY"); dir != "" { // systemd's, see the unit
		sessions = filepath.Join(dir, "sessions.json")
	}
	s, err := ota.New(ota.Server{Config: config, Socket: p.SocketPath(), Users: p.usersPath(), Sessions: sessions, Log: log, Now: p.Now})
	if err != nil {
		return err
	}
	defer s.Close()
	encrypt := &tls.Config{MinVersion: tls.VersionTLS12}
	if config.TLS.Certificate != "" {
		c, err := tls.LoadX509KeyPair(p.beside(config.TLS.Certificate), p.beside(config.TLS.Key))
		if err != nil {
			return fmt.Errorf("read the page's certificate: %w", err)
		}
		encrypt.Certificates = []tls.Certificate{c}
	}
	ended := make(chan error, 1+len(config.Sockets))
	begin := func(l net.Listener, h http.Handler) func() {
		server := &http.Server{
			Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), TLSConfig: encrypt,
			HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 100},
		}
		log.Info("serving", "address", l.Addr())
		go func() {
			if l.Addr().Network() == "tcp" && encrypt.Certificates != nil {
				ended <- server.ServeTLS(l, "", "")
			} else {
				ended <- server.Serve(l)
			}
		}()
		return func() { server.Close() }
	}
	if config.Listen != "" {
		l, err := net.Listen("tcp", config.Listen)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		defer begin(s.Limit(l), s.Handler())()
	}
	given, err := givenSockets()
	if err != nil {
		return err
	}
	for _, socket := range config.Sockets {
		l := given[socket.Path]
		if delete(given, socket.Path); l == nil {
			if l, err = newSocket(socket.Path); err != nil {
				return err
			}
		}
		defer begin(s.Limit(l), s.SocketHandler(socket.Role))()
	}
	for path := range given {
		return fmt.Errorf("systemd passes %s: give it a role under sockets in %s", path, filepath.Join(p.pageDir(), "page.yaml"))
	}
	if config.Listen == "" && len(config.Sockets) == 0 {
		return fmt.Errorf("%s has neither listen nor sockets: the page could not be reached", filepath.Join(p.pageDir(), "page.yaml"))
	}
	defer p.watchdog(ctx, func() {})()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return err
	}
}

// givenSockets are those of .socket units, by path: systemd made them, with the
// owner, group and mode that the units say.
func givenSockets() (map[string]net.Listener, error) {
	list, err := activation.Listeners()
	given := map[string]net.Listener{}
	for _, l := range list {
		if l == nil || l.Addr().Network() != "unix" {
			return nil, errors.New("systemd passes something that is not a Unix stream socket: fix the .socket unit")
		}
		given[l.Addr().String()] = l
	}
	return given, err
}

// newSocket makes a socket for the page's own user and group.
func newSocket(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o660)
	}
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// beside is a file that the configuration names: absolute, or beside it.
func (p *program) beside(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Join(p.Root, name)
	}
	return filepath.Join(p.pageDir(), name)
}

func (p *program) usersPath() string { return filepath.Join(p.pageDir(), "users.json") }
