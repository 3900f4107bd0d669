package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/ota"
	"github.com/valise-ota/valise/installer/release"
)

func pageCommand(p *program) *cobra.Command {
	c := &cobra.Command{
		Use:   "page",
		Short: "Serve the web page and API for updates",
		Long: "page serves the update page and its API to browsers and programs. It needs no root: it asks the\n" +
			"daemon (\"valise-installer serve\") on its socket. \"page setup\" writes its configuration,\n" +
			"/etc/valise-page/page.yaml, and users.json with a first password, which it shows once.",
		Example: "  sudo valise-installer page setup --listen :8443\n  sudo systemctl enable --now valise valise-page",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.servePage(cmd.Context()) },
	}
	c.AddCommand(pageSetupCommand(p), pagePasswdCommand(p), pageTokenCommand(p))
	return c
}

func (p *program) pageDir() string { return filepath.Join(p.root, "etc/valise-page") }

func (p *program) pageConfig() (c ota.Config, err error) {
	path := filepath.Join(p.pageDir(), "page.yaml")
	b, err := os.ReadFile(path)
	if err != nil {
		return c, cli.WithHint(fmt.Errorf("read the page's configuration: %w", err), "run %q first", "valise-installer page setup")
	}
	if err := yaml.Load(b, &c, yaml.WithKnownFields(), yaml.WithUniqueKeys()); err != nil {
		return c, fmt.Errorf("read %s: %s", path, goType.ReplaceAllString(err.Error(), " is not a known key"))
	}
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("read %s: %w", path, err)
	}
	return c, nil
}

func (p *program) servePage(ctx context.Context) error {
	config, err := p.pageConfig()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(p.Stderr, nil))
	sessions := ""
	if dir := p.Getenv("STATE_DIRECTORY"); dir != "" { // systemd's, see the unit
		sessions = filepath.Join(dir, "sessions.json")
	}
	s, err := ota.New(ota.Server{Config: config, Engine: p.socketPath(), Users: p.usersPath(), Sessions: sessions, Log: log, Now: p.Now})
	if err != nil {
		return err
	}
	defer s.Close()
	ended := make(chan error, 1+len(config.Sockets))
	begin := func(l net.Listener, h http.Handler) func() {
		server := &http.Server{
			Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		}
		log.Info("serving", "address", l.Addr())
		go func() {
			if l.Addr().Network() == "tcp" && config.TLS.Certificate != "" {
				ended <- server.ServeTLS(l, p.beside(config.TLS.Certificate), p.beside(config.TLS.Key))
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
		defer begin(l, s.Handler())()
	}
	for _, socket := range config.Sockets {
		if err := os.Remove(socket.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove old socket: %w", err)
		}
		l, err := net.Listen("unix", socket.Path)
		if err == nil {
			err = os.Chmod(socket.Path, 0o660)
		}
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		defer begin(l, s.SocketHandler(socket.Role))()
	}
	if config.Listen == "" && len(config.Sockets) == 0 {
		return fmt.Errorf("%s says neither listen nor sockets: nobody would be served", filepath.Join(p.pageDir(), "page.yaml"))
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

// beside is a file that the configuration names: absolute, or beside it.
func (p *program) beside(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Join(p.root, name)
	}
	return filepath.Join(p.pageDir(), name)
}

func (p *program) usersPath() string { return filepath.Join(p.pageDir(), "users.json") }

// writeShared writes a file that the page's process may read and nobody else but
// root.
func (p *program) writeShared(name string, b []byte) error {
	dir, err := openDir(p.pageDir(), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := release.WriteFile(dir, name, b, 0o640); err != nil {
		return err
	}
	if g, err := user.LookupGroup(socketGroup); err == nil {
		gid, _ := strconv.Atoi(g.Gid)
		return dir.Chown(name, -1, gid)
	}
	return nil
}

// editUsers changes the users file.
func (p *program) editUsers(edit func(*ota.List) error) error {
	var l ota.List
	b, err := os.ReadFile(p.usersPath())
	if err == nil {
		l, err = ota.ParseList(b)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := edit(&l); err != nil {
		return err
	}
	out, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return p.writeShared("users.json", append(out, '\n'))
}

func pagePasswdCommand(p *program) *cobra.Command {
	var role string
	var stdin bool
	c := &cobra.Command{
		Use:   "passwd USER",
		Short: "Add a user, or give one a new password",
		Long:  "passwd makes a password and shows it once, or takes one from standard input. It is kept as an\nargon2id hash. The page knows it at once.",
		Example: "  valise-installer page passwd admin\n" +
			"  valise-installer page passwd kim --role viewer --stdin <password.txt",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			password := ota.NewPassword()
			if stdin {
				b, err := io.ReadAll(io.LimitReader(p.Stdin, 1<<10))
				if err != nil {
					return err
				}
				password = strings.TrimRight(string(b), "\r\n")
			}
			if err := p.editUsers(func(l *ota.List) error { return l.SetUser(args[0], ota.Role(role), password) }); err != nil {
				return err
			}
			if stdin {
				password = ""
			}
			return p.showSecret("password", args[0], password)
		},
	}
	c.Flags().StringVar(&role, "role", string(ota.Admin), "viewer (looks), operator (also uploads and applies) or admin")
	c.Flags().BoolVar(&stdin, "stdin", false, "read the password from standard input")
	return c
}

func pageTokenCommand(p *program) *cobra.Command {
	var scopes []string
	var valid time.Duration
	c := &cobra.Command{
		Use:     "token NAME",
		Short:   "Make a token for a program",
		Long:    "token makes a token for the API and shows it once. It is kept as a digest. To take it back, remove\nit from /etc/valise-page/users.json.",
		Example: "  valise-installer page token monitoring --scope check\n  valise-installer page token ci --scope upload,apply --valid 720h",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var list []ota.Scope
			for _, s := range scopes {
				list = append(list, ota.Scope(s))
			}
			var expires time.Time
			if valid > 0 {
				expires = p.Now().Add(valid).UTC().Truncate(time.Second)
			}
			var token string
			if err := p.editUsers(func(l *ota.List) (err error) {
				token, err = l.NewToken(args[0], list, expires)
				return err
			}); err != nil {
				return err
			}
			return p.showSecret("token", args[0], token)
		},
	}
	c.Flags().StringSliceVar(&scopes, "scope", []string{"read"}, "what it may do: read, check, upload, apply, admin")
	c.Flags().DurationVar(&valid, "valid", 90*24*time.Hour, "how long it is valid; 0 is for ever")
	return c
}

func (p *program) showSecret(kind, name, secret string) error {
	return p.Result(map[string]string{"name": name, kind: secret}, func(w io.Writer) {
		if secret == "" {
			fmt.Fprintf(w, "the %s of %s is set\n", kind, name)
			return
		}
		fmt.Fprintf(w, "%s of %s, shown once: %s\n", kind, name, secret)
	})
}

func pageSetupCommand(p *program) *cobra.Command {
	var listen string
	var hosts []string
	c := &cobra.Command{
		Use:   "setup",
		Short: "Set the page up: certificate, first password, units",
		Long: "setup writes what is missing below /etc/valise-page and changes nothing that is there: page.yaml, a\n" +
			"certificate that it signs itself, and users.json with the user admin, whose password it shows once.\n" +
			"On a machine with systemd it also makes the group \"valise\" and the units valise.service and\n" +
			"valise-page.service, and does not start them.",
		Example: "  valise-installer page setup --listen :8443 --host controller.plant.example\n  systemctl enable --now valise valise-page",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.setupPage(cmd.Context(), listen, hosts) },
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address of the page; other than loopback it gets TLS")
	c.Flags().StringSliceVar(&hosts, "host", nil, "a name under which browsers reach this device")
	return c
}

func (p *program) setupPage(ctx context.Context, listen string, hosts []string) error {
	if err := p.installUnits(ctx); err != nil {
		return err
	}
	if !there(filepath.Join(p.pageDir(), "page.yaml")) {
		config := ota.Config{Listen: listen, Hosts: hosts}
		if config.Validate() != nil { // not loopback
			config.TLS.Certificate, config.TLS.Key = "tls.crt", "tls.key"
		}
		if err := config.Validate(); err != nil {
			return cli.Usagef("--listen %q: %v", listen, err)
		}
		if config.TLS.Key != "" {
			switch crt, key := there(filepath.Join(p.pageDir(), "tls.crt")), there(filepath.Join(p.pageDir(), "tls.key")); {
			case crt != key:
				return fmt.Errorf("%s has only one of tls.crt and tls.key: put both there, or neither to have them made", p.pageDir())
			case !key:
				if err := p.selfSigned(hosts); err != nil {
					return err
				}
			}
		}
		b, err := yaml.Dump(config)
		if err != nil {
			return err
		}
		if err := p.writeShared("page.yaml", append([]byte("# The update page of this device; see \"valise-installer page --help\".\n"), b...)); err != nil {
			return err
		}
	}
	if there(p.usersPath()) {
		p.Note("%s is there already; a new password: valise-installer page passwd admin", p.usersPath())
		return nil
	}
	password := ota.NewPassword()
	if err := p.editUsers(func(l *ota.List) error { return l.SetUser("admin", ota.Admin, password) }); err != nil {
		return err
	}
	return p.showSecret("password", "admin", password)
}

func there(path string) bool { _, err := os.Stat(path); return err == nil }

// selfSigned makes a key and a certificate for this device, valid for as long as
// browsers accept one.
func (p *program) selfSigned(hosts []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	name, _ := os.Hostname()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Valise on " + name},
		NotBefore: p.Now().Add(-24 * time.Hour), NotAfter: p.Now().Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
		DNSNames: append([]string{"localhost", name, name + ".local"}, hosts...), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			c.IPAddresses = append(c.IPAddresses, n.IP)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	var crt, priv bytes.Buffer
	_ = pem.Encode(&crt, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	_ = pem.Encode(&priv, &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	if err := p.writeShared("tls.key", priv.Bytes()); err != nil {
		return err
	}
	return p.writeShared("tls.crt", crt.Bytes())
}
