package main

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/sign"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

type signFlags struct {
	key, token, config, checksums string
}

func signCommand(a *app) *cobra.Command {
	var f signFlags
	c := &cobra.Command{
		Use:   "sign FILE...",
		Short: "Sign bundles and other files of a release",
		Long: "sign adds a signature over the manifest to a bundle, which it replaces in one step, and\n" +
			"writes signatures over the whole of each FILE beside it: FILE.sigstore.json (cosign\n" +
			"verify-blob --bundle), FILE.sig with FILE.cert (cosign verify-blob --signature) and\n" +
			"FILE.sha256. For a bundle in parts, these cover the joined file. --checksums writes a list\n" +
			"of the SHA-256 of all FILEs, and signs the list too.\n\n" +
			"Without --key, it signs keyless, with the identity of an OIDC token: that of the GitHub\n" +
			"Actions job (permission id-token: write), or --identity-token.",
		Example: "  valise sign dist/shop-1.2.3.tar.gz\n" +
			"  " + passwordEnv + "=... valise sign dist/shop-1.2.3.tar.gz --key cosign.key\n" +
			"  valise sign --checksums dist/CHECKSUMS.txt dist/*.tar.gz dist/valise-linux-amd64",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.sign(cmd.Context(), args, f) },
	}
	f.register(c)
	c.Flags().StringVar(&f.checksums, "checksums", "", "list of the SHA-256 of all FILEs to write and sign")
	return c
}

// register adds the flags that say who signs.
func (f *signFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.key, "key", "", "private key in cosign's format, a file or env://NAME; its password is "+passwordEnv+", or typed at the terminal")
	c.Flags().StringVar(&f.token, "identity-token", "", "file with an OIDC token, - for standard input")
	c.Flags().StringVar(&f.config, "signing-config", "", "Sigstore signing_config.json (default: the public instance's, built in)")
	c.MarkFlagsMutuallyExclusive("key", "identity-token")
	c.MarkFlagsMutuallyExclusive("key", "signing-config")
}

// signer is the signer that the flags name.
func (a *app) signer(ctx context.Context, f signFlags) (sign.Signer, error) {
	if f.key != "" {
		private, err := a.readKey(f.key)
		if err != nil {
			return nil, err
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

// readKey reads a private key: a file, or env://NAME, as cosign calls a variable.
func (a *app) readKey(name string) ([]byte, error) {
	if variable, ok := strings.CutPrefix(name, "env://"); ok {
		if key := a.Getenv(variable); key != "" {
			return []byte(key), nil
		}
		return nil, fmt.Errorf("read private key: %s is not set", variable)
	}
	if scheme, _, ok := strings.Cut(name, "://"); ok {
		return nil, cli.WithHint(fmt.Errorf("read private key %s: a key behind %s:// cannot be used", name, scheme), "name a file or env://NAME, or sign keylessly, without --key")
	}
	private, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	return private, nil
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

// signedFile is what sign did to one file. Manifest is that of a bundle.
type signedFile struct {
	File     string        `json:"file"`
	SHA256   string        `json:"sha256"`
	Manifest bundle.Digest `json:"manifest,omitempty"`
	Beside   []string      `json:"beside"` // suffixes of the files beside it
}

func (a *app) sign(ctx context.Context, paths []string, flags signFlags) error {
	// A file that is not there should not be found after others were signed.
	names := map[string]bool{}
	for _, path := range paths {
		f, err := parts.Open(path)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		f.Close()
		name := filepath.Base(f.Name)
		if flags.checksums != "" && (names[name] || strings.ContainsAny(name, "\\\n")) {
			return cli.Usagef("%q twice: a list of checksums names files without their directories", name)
		}
		names[name] = true
	}
	signer, err := a.signer(ctx, flags)
	if err != nil {
		return err
	}
	var all []signedFile
	for _, path := range paths {
		s, err := a.signOne(ctx, signer, path)
		if err != nil {
			return err
		}
		all = append(all, s)
	}
	if flags.checksums != "" {
		slices.SortFunc(all, func(x, y signedFile) int { return strings.Compare(filepath.Base(x.File), filepath.Base(y.File)) })
		var list strings.Builder
		for _, s := range all {
			lines, err := a.checksumLines(s)
			if err != nil {
				return err
			}
			list.WriteString(lines)
		}
		if err := writeFile(flags.checksums, []byte(list.String())); err != nil {
			return fmt.Errorf("write checksums: %w", err)
		}
		s, err := a.signOne(ctx, signer, flags.checksums)
		if err != nil {
			return err
		}
		all = append(all, s)
	}
	var result any = all
	if len(all) == 1 {
		result = all[0]
	}
	return a.Result(result, func(w io.Writer) {
		for _, s := range all {
			fmt.Fprintf(w, "signed %s\n  sha256    %s\n  beside it %s\n", s.File, s.SHA256, strings.Join(s.Beside, " "))
		}
	})
}

// signOne signs the inside of a bundle, and any file as a whole.
func (a *app) signOne(ctx context.Context, signer sign.Signer, path string) (s signedFile, err error) {
	f, err := parts.Open(path)
	if err != nil {
		return s, fmt.Errorf("open file: %w", err)
	}
	defer f.Close()
	path = f.Name
	s.File = path
	r, err := bundleIn(f)
	if err != nil {
		return s, fmt.Errorf("open %s: %w", path, err)
	}
	if r == nil {
		sum, err := a.hash(f, crypto.SHA256)
		if err != nil {
			return s, err
		}
		s.SHA256 = hex.EncodeToString(sum)
		s.Beside, err = writeBeside(ctx, signer, path, [sha256.Size]byte(sum))
		return s, err
	}
	s.Manifest = bundle.DigestOf(r.ManifestBytes())
	embedded, err := signer.Sign(ctx, sha256.Sum256(r.ManifestBytes()))
	if err != nil {
		return s, err
	}
	out := newBundle(path, f.PartSize())
	defer out.Cleanup()
	digest := sha256.New()
	update, finish := a.UI.Track("sign " + filepath.Base(path))
	err = bundle.Seal(ctx, io.MultiWriter(&hashedWriter{out, digest}, &meter{total: r.Size(), update: update}), r, embedded.Sigstore)
	finish(err)
	if err != nil {
		return s, fmt.Errorf("sign %s: %w", path, err)
	}
	// The signatures first: a bundle under its final name never lacks them.
	sum := digest.Sum(nil)
	s.SHA256 = hex.EncodeToString(sum)
	if s.Beside, err = writeBeside(ctx, signer, path, [sha256.Size]byte(sum)); err != nil {
		return s, err
	}
	if err := out.commit(); err != nil {
		return s, fmt.Errorf("write bundle: %w", err)
	}
	return s, nil
}

// checksumLines are what a list of checksums says of a file: of one in parts, what
// lies there to be compared, which is the parts.
func (a *app) checksumLines(s signedFile) (string, error) {
	f, err := parts.Open(s.File)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if f.PartSize() == 0 {
		return checksumLine(s.SHA256, s.File), nil
	}
	lines := ""
	for _, path := range f.Paths {
		sum, err := a.hashPart(path)
		if err != nil {
			return "", err
		}
		lines += checksumLine(hex.EncodeToString(sum), path)
	}
	return lines, nil
}

func checksumLine(hexSum, path string) string { return hexSum + "  " + filepath.Base(path) + "\n" }

// writeBeside writes the signatures over a whole file and returns the suffixes of
// their names.
func writeBeside(ctx context.Context, signer sign.Signer, path string, sum [sha256.Size]byte) (written []string, err error) {
	whole, err := signer.Sign(ctx, sum)
	if err != nil {
		return nil, err
	}
	for _, s := range []struct {
		suffix string
		data   []byte
	}{{sigstoreSuffix, whole.Sigstore}, {".sig", whole.Legacy}, {".cert", whole.Certificate}, {".sha256", []byte(checksumLine(hex.EncodeToString(sum[:]), path))}} {
		if s.data == nil { // one of an earlier signature would mislead
			if err := os.Remove(path + s.suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("remove old signature: %w", err)
			}
			continue
		}
		if err := writeFile(path+s.suffix, s.data); err != nil {
			return nil, fmt.Errorf("write signature: %w", err)
		}
		written = append(written, s.suffix)
	}
	return written, nil
}

// hashedWriter hashes what it writes, at the same time.
type hashedWriter struct {
	w    io.Writer
	hash hash.Hash
}

func (h *hashedWriter) Write(p []byte) (n int, err error) {
	var both sync.WaitGroup
	both.Go(func() { h.hash.Write(p) })
	n, err = h.w.Write(p)
	both.Wait()
	return n, err
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
