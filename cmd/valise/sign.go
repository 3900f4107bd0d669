package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/sign"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

const passwordEnv = "COSIGN_PASSWORD"

func keygenCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "keygen [PREFIX]",
		Short: "Make a key pair for signing",
		Long: "keygen writes PREFIX.key, encrypted with a password, and PREFIX.pub: the files cosign\n" +
			"generate-key-pair writes. PREFIX is cosign unless it is given. The password is taken from\n" +
			passwordEnv + " or asked for. Existing files stay.",
		Example: "  valise keygen\n  " + passwordEnv + "=... valise keygen keys/shop",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.keygen(append(args, "cosign")[0])
		},
	}
}

func (a *app) keygen(prefix string) error {
	password, err := a.password("password for the new private key: ")
	if err != nil {
		return err
	}
	private, public, err := sign.GenerateKey(password)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		data []byte
		mode os.FileMode
	}{{prefix + ".key", private, 0o600}, {prefix + ".pub", public, 0o644}} {
		if err := writeNew(f.path, f.data, f.mode); err != nil {
			return err
		}
	}
	result := map[string]string{"private": prefix + ".key", "public": prefix + ".pub"}
	return a.Result(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s.key  keep it secret; it signs releases\n%s.pub  goes to every device and auditor\n", prefix, prefix)
	})
}

func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// password is COSIGN_PASSWORD, else what is typed on the terminal.
func (a *app) password(prompt string) ([]byte, error) {
	if p := a.Getenv(passwordEnv); p != "" {
		return []byte(p), nil
	}
	f, ok := a.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, cli.WithHint(errors.New("no password for the private key"), "set %s", passwordEnv)
	}
	fmt.Fprint(a.Stderr, prompt)
	p, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(a.Stderr)
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	return p, nil
}

type signFlags struct {
	key, token, config string
}

func signCommand(a *app) *cobra.Command {
	var f signFlags
	c := &cobra.Command{
		Use:   "sign BUNDLE",
		Short: "Sign a bundle",
		Long: "sign puts a signature over the manifest into BUNDLE, which is replaced in one step, and\n" +
			"writes signatures over the whole file beside it: BUNDLE.sigstore.json (cosign\n" +
			"verify-blob --bundle), BUNDLE.sig with BUNDLE.cert (cosign verify-blob --signature) and\n" +
			"BUNDLE.sha256.\n\n" +
			"Without --key it signs keylessly, as the identity of an OIDC token: that of the GitHub\n" +
			"Actions job it runs in (permission id-token: write), or --identity-token.",
		Example: "  valise sign dist/shop-1.2.3.tar.gz\n" +
			"  " + passwordEnv + "=... valise sign dist/shop-1.2.3.tar.gz --key cosign.key",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.sign(cmd.Context(), args[0], f) },
	}
	c.Flags().StringVar(&f.key, "key", "", "private key in cosign's form; its password is "+passwordEnv+" or asked for")
	c.Flags().StringVar(&f.token, "identity-token", "", "file with an OIDC token, - for standard input")
	c.Flags().StringVar(&f.config, "signing-config", "", "Sigstore signing_config.json (default: the public instance's, built in)")
	c.MarkFlagsMutuallyExclusive("key", "identity-token")
	c.MarkFlagsMutuallyExclusive("key", "signing-config")
	return c
}

// signer is the signer that the flags name.
func (a *app) signer(ctx context.Context, f signFlags) (sign.Signer, error) {
	if f.key != "" {
		private, err := os.ReadFile(f.key)
		if err != nil {
			return nil, fmt.Errorf("read private key: %w", err)
		}
		password, err := a.password("password for " + f.key + ": ")
		if err != nil {
			return nil, err
		}
		return sign.LoadKey(private, password)
	}
	config := sign.PublicGood
	if f.config != "" {
		var err error
		if config, err = os.ReadFile(f.config); err != nil {
			return nil, fmt.Errorf("read signing configuration: %w", err)
		}
	}
	token, err := a.token(ctx, f.token)
	if err != nil {
		return nil, err
	}
	return sign.Keyless(config, token, a.Now())
}

func (a *app) token(ctx context.Context, file string) (string, error) {
	var b []byte
	var err error
	switch file {
	case "":
		token, err := sign.AmbientToken(ctx)
		if errors.Is(err, sign.ErrNoToken) {
			return "", cli.WithHint(err, "sign with --key, or pass --identity-token")
		}
		return token, err
	case "-":
		b, err = io.ReadAll(io.LimitReader(a.Stdin, 1<<16))
	default:
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return "", fmt.Errorf("read identity token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (a *app) sign(ctx context.Context, path string, flags signFlags) (err error) {
	r, f, err := cli.OpenBundle(path)
	if err != nil {
		return err
	}
	defer f.Close()
	signer, err := a.signer(ctx, flags)
	if err != nil {
		return err
	}
	embedded, err := signer.Sign(ctx, sha256.Sum256(r.ManifestBytes()))
	if err != nil {
		return err
	}
	out, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o644))
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	defer out.Cleanup()
	digest := sha256.New()
	update, finish := a.UI.Track("sign " + filepath.Base(path))
	err = bundle.Seal(ctx, io.MultiWriter(out, digest, &meter{total: r.Size(), update: update}), r, embedded.Sigstore)
	finish(err)
	if err != nil {
		return fmt.Errorf("sign %s: %w", path, err)
	}
	var sum [sha256.Size]byte
	digest.Sum(sum[:0])
	whole, err := signer.Sign(ctx, sum)
	if err != nil {
		return err
	}
	hexSum := hex.EncodeToString(sum[:])
	beside := []struct {
		suffix string
		data   []byte
	}{{".sigstore.json", whole.Sigstore}, {".sig", whole.Legacy}, {".cert", whole.Certificate}, {".sha256", []byte(hexSum + "  " + filepath.Base(path) + "\n")}}
	// The signatures first: a bundle under its final name never lacks them.
	var written []string
	for _, s := range beside {
		if s.data == nil { // one of an earlier signature would mislead
			if err := os.Remove(path + s.suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove old signature: %w", err)
			}
			continue
		}
		if err := renameio.WriteFile(path+s.suffix, s.data, 0o644); err != nil {
			return fmt.Errorf("write signature: %w", err)
		}
		written = append(written, s.suffix)
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	result := map[string]string{"bundle": path, "sha256": hexSum, "manifest": string(bundle.DigestOf(r.ManifestBytes()))}
	return a.Result(result, func(w io.Writer) {
		fmt.Fprintf(w, "signed %s\n  sha256    %s\n  beside it %s\n", path, hexSum, strings.Join(written, " "))
	})
}

// meter counts what is written for a progress display.
type meter struct {
	done, total int64
	update      func(done, total int64)
}

func (m *meter) Write(p []byte) (int, error) {
	m.done += int64(len(p))
	m.update(m.done, m.total)
	return len(p), nil
}
