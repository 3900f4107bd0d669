package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/ota"
	"github.com/valise-ota/valise/installer/release"
)

// writeShared writes a file that the page's process may read and nobody else but
// root.
func (p *program) writeShared(name string, b []byte) error {
	dir, err := release.OpenDir(p.pageDir(), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := release.WriteFile(dir, name, b, 0o640); err != nil {
		return err
	}
	return share(dir, name)
}

// shareAgain is share for what was there, in case that the power went before it.
func (p *program) shareAgain() error {
	dir, err := release.OpenDir(p.pageDir(), 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, name := range []string{"page.yaml", "tls.crt", "tls.key", "users.json"} {
		if err := share(dir, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// share gives a file to the group of the page's process.
func share(dir *os.Root, name string) error {
	if g, err := user.LookupGroup(device.SocketGroup); err == nil {
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
		Short: "Add a user, or set a new password",
		Long: "passwd generates a password and shows it once, or reads one from standard input. It is\n" +
			"stored as an argon2id hash. The page uses it at once.",
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
	c.Flags().StringVar(&role, "role", string(ota.Admin), "viewer (read only), operator (also uploads and applies) or admin")
	c.Flags().BoolVar(&stdin, "stdin", false, "read the password from standard input")
	return c
}

func pageTokenCommand(p *program) *cobra.Command {
	var scopes []string
	var valid time.Duration
	c := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a token for a program",
		Long: "token creates a token for the API and shows it once. Only its digest is stored. To revoke\n" +
			"it, remove it from /etc/valise-page/users.json.",
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
	c.Flags().DurationVar(&valid, "valid", 90*24*time.Hour, "how long it is valid; 0 means without end")
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
		Short: "Set up the page: certificate, first password, units",
		Long: "setup creates what is missing below /etc/valise-page and changes no existing file:\n" +
			"page.yaml, a self-signed certificate, and users.json with the user admin, whose password it\n" +
			"shows once. On a machine with systemd it also creates the group \"valise\" and the units\n" +
			"valise.service and valise-page.service, but does not start them.",
		Example: "  valise-installer page setup --listen :8443 --host controller.plant.example\n  systemctl enable --now valise valise-page",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.setupPage(cmd.Context(), listen, hosts) },
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "address of the page; any address but loopback gets TLS")
	c.Flags().StringSliceVar(&hosts, "host", nil, "host name of this device in browsers (repeatable)")
	return c
}

func (p *program) setupPage(ctx context.Context, listen string, hosts []string) error {
	if err := p.InstallUnits(ctx); err != nil {
		return err
	}
	if !release.Exists(filepath.Join(p.pageDir(), "page.yaml")) {
		config := ota.Config{Listen: listen, Hosts: hosts}
		if config.Validate() != nil { // not loopback
			config.TLS.Certificate, config.TLS.Key = "tls.crt", "tls.key"
		}
		if err := config.Validate(); err != nil {
			return cli.Usagef("--listen %q: %v", listen, err)
		}
		if config.TLS.Key != "" {
			switch crt, key := release.Exists(filepath.Join(p.pageDir(), "tls.crt")), release.Exists(filepath.Join(p.pageDir(), "tls.key")); {
			case crt && !key:
				return fmt.Errorf("%s has tls.crt but no tls.key: put both there, or remove it to have both created", p.pageDir())
			case !crt: // a key alone is there when the power went between the two
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
	if err := p.shareAgain(); err != nil {
		return err
	}
	if release.Exists(p.usersPath()) {
		p.Note("%s is there already; a new password: valise-installer page passwd admin", p.usersPath())
		return nil
	}
	password := ota.NewPassword()
	if err := p.editUsers(func(l *ota.List) error { return l.SetUser("admin", ota.Admin, password) }); err != nil {
		return err
	}
	return p.showSecret("password", "admin", password)
}

// selfSigned makes a key and a certificate for this device, valid for as long as
// browsers accept one.
func (p *program) selfSigned(hosts []string) error {
	key, err := p.pageKey()
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
	return p.writeShared("tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// pageKey is the key in tls.key, or a new one.
func (p *program) pageKey() (crypto.Signer, error) {
	path := filepath.Join(p.pageDir(), "tls.key")
	b, err := os.ReadFile(path)
	if err == nil {
		if block, _ := pem.Decode(b); block != nil {
			if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if s, is := key.(crypto.Signer); is {
					return s, nil
				}
			}
		}
		return nil, fmt.Errorf("%s is not in PKCS #8, so no certificate can be made for it: put tls.crt there, or remove the key", path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, p.writeShared("tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
