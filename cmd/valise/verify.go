package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
	"github.com/valise-ota/valise/verify"
)

type verifyFlags struct {
	trust       cli.Trust
	signature   string
	certificate string
	app         string
	version     string
}

func verifyCommand(a *app) *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify FILE|sha256:DIGEST",
		Short: "Check a bundle the way a device does, or a signature over any file",
		Long: "verify checks the signature inside a bundle and then every byte of it, offline: exit code\n" +
			"0 means that a device which trusts the same signer accepts the bundle.\n\n" +
			"With --bundle it checks a signature over the whole FILE, which may be any file, and then\n" +
			"a bundle's inside as well. A .sigstore.json proves who signed and when; a bare .sig needs\n" +
			"--key, because nothing in it proves when it was made.",
		Example: "  valise verify shop-1.2.3.tar.gz --identity https://github.com/acme/shop/.github/workflows/release.yml@refs/tags/v1.2.3\n" +
			"  valise verify dist/shop-1.2.3.tar.gz --key cosign.pub\n" +
			"  valise verify --bundle README.md.sigstore.json --key cosign.pub README.md",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.verify(cmd.Context(), args[0], f) },
	}
	f.trust.Register(c.Flags())
	c.Flags().StringVar(&f.signature, "bundle", "", "signature over the whole file: .sigstore.json, or .sig with --key")
	c.Flags().StringVar(&f.certificate, "certificate", "", "certificate that belongs to a .sig")
	c.Flags().StringVar(&f.app, "app", "", "app it must be a release of")
	c.Flags().StringVar(&f.version, "version", "", "version it must be")
	return c
}

func (a *app) verify(ctx context.Context, path string, flags verifyFlags) error {
	// make verify-tarball passes whatever was published as CERT.
	if key, err := os.ReadFile(flags.certificate); err == nil && bytes.Contains(key, []byte("PUBLIC KEY")) {
		flags.trust.Key, flags.certificate = flags.certificate, ""
	}
	policy, err := flags.trust.Policy()
	if err != nil {
		return err
	}
	verifier, err := verify.New(policy)
	if err != nil {
		return err
	}
	if digest, ok := strings.CutPrefix(path, "sha256:"); ok {
		sum, err := hex.DecodeString(digest)
		if err != nil || len(sum) != sha256.Size || flags.signature == "" {
			return cli.Usagef("sha256:DIGEST takes 64 hex digits and --bundle")
		}
		signer, err := a.verifyWhole(verifier, [sha256.Size]byte(sum), flags)
		if err != nil {
			return err
		}
		return a.reportWhole(path, signer)
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open file: %w", err)
	}
	defer f.Close()
	if flags.signature != "" {
		sum, err := a.hash(f)
		if err != nil {
			return err
		}
		signer, err := a.verifyWhole(verifier, sum, flags)
		if err != nil {
			return err
		}
		if r, err := bundleIn(f); err != nil {
			return err
		} else if r == nil { // another kind of file: there is no inside
			return a.reportWhole(path, signer)
		}
	}
	r, b, err := cli.OpenBundle(path)
	if err != nil {
		return err
	}
	defer b.Close()
	want := verify.Want{App: flags.app, Version: strings.TrimPrefix(flags.version, "v")}
	update, finish := a.UI.Track("verify " + path)
	rel, err := verifier.Release(ctx, r, want, update)
	finish(err)
	if err != nil {
		return err
	}
	m := rel.Manifest()
	result := struct {
		App       string            `json:"app"`
		Version   string            `json:"version"`
		Signer    verify.Signer     `json:"signer"`
		Manifest  bundle.Digest     `json:"manifest"`
		Platforms []bundle.Platform `json:"platforms"`
		Size      int64             `json:"size"`
	}{m.App, m.Version, rel.Signer(), rel.Digest(), m.Platforms, rel.Size()}
	return a.Result(result, func(w io.Writer) {
		fmt.Fprintf(w, "ok: %s %s, signed by %s\n  manifest  %s\n  platforms %s\n  size      %s, every byte checked\n",
			m.App, m.Version, rel.Signer(), result.Manifest, joinPlatforms(m.Platforms), ui.Bytes(result.Size))
	})
}

// bundleIn returns the bundle in f, or nil when f is some other kind of file. A
// file that says it is a bundle and breaks the format is an error.
func bundleIn(f *os.File) (*bundle.Reader, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r, err := bundle.Open(f, info.Size())
	if format := new(bundle.FormatError); errors.As(err, &format) && (format.Rule == "gzip" || format.Rule == "manifest-first" || format.Rule == "truncated") {
		return nil, nil
	}
	return r, err
}

// hash returns the SHA-256 of a file.
func (a *app) hash(f *os.File) (sum [sha256.Size]byte, err error) {
	info, err := f.Stat()
	if err != nil {
		return sum, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	update, finish := a.UI.Track("hash " + f.Name())
	digest := sha256.New()
	_, err = io.Copy(io.MultiWriter(digest, &meter{total: info.Size(), update: update}), io.NewSectionReader(f, 0, info.Size()))
	finish(err)
	if err != nil {
		return sum, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	digest.Sum(sum[:0])
	return sum, nil
}

// verifyWhole checks a signature over a whole file of which sum is the digest.
func (a *app) verifyWhole(v *verify.Verifier, sum [sha256.Size]byte, flags verifyFlags) (verify.Signer, error) {
	sig, err := os.ReadFile(flags.signature)
	if err != nil {
		return verify.Signer{}, fmt.Errorf("read signature: %w", err)
	}
	if bare, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(sig))); err == nil {
		if flags.certificate != "" {
			return verify.Signer{}, bareCertificate(flags.certificate, sum, bare)
		}
		return v.Bare(sum, bare)
	}
	return v.Digest(sum, sig)
}

func (a *app) reportWhole(name string, signer verify.Signer) error {
	result := struct {
		File   string        `json:"file"`
		Signer verify.Signer `json:"signer"`
	}{name, signer}
	return a.Result(result, func(w io.Writer) { fmt.Fprintf(w, "ok: %s is signed by %s\n", name, signer) })
}

// bareCertificate says what a .sig and a .cert prove by themselves, which is not
// enough: a certificate is valid for minutes, and nothing in the two shows that
// the signature was made in them.
func bareCertificate(file string, sum [sha256.Size]byte, sig []byte) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	if inner, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b))); err == nil {
		b = inner // cosign writes base64 of PEM
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return fmt.Errorf("read certificate: %s holds no certificate", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, sum[:], sig) {
		return &verify.Error{Check: verify.CheckSignature, Reason: "the signature was not made with the key of the certificate, or the file was changed after signing"}
	}
	return cli.WithHint(&verify.Error{Check: verify.CheckTime, Reason: fmt.Sprintf("the signature belongs to the certificate, but the certificate was valid until %s only, and a bare .sig and .cert hold no log entry or timestamp that proves the signature was made before",
		cert.NotAfter.UTC().Format("2006-01-02 15:04:05Z"))}, "use the .sigstore.json that was published with the file, or a trusted public key")
}
