package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
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
	key       string
	signature string
	app       string
	version   string
}

func verifyCommand(a *app) *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify BUNDLE",
		Short: "Check a bundle the way a device does",
		Long: "verify checks the signature inside BUNDLE and then every byte of it, offline. With\n" +
			"--signature it also checks a signature over the whole file: a .sigstore.json or a .sig.\n\n" +
			"Exit code 0 means that a device which trusts the same key accepts the bundle.",
		Example: "  valise verify dist/shop-1.2.3.tar.gz --key cosign.pub\n" +
			"  valise verify shop-1.2.3.tar.gz --key cosign.pub --signature shop-1.2.3.tar.gz.sig",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.verify(cmd.Context(), args[0], f) },
	}
	c.Flags().StringVar(&f.key, "key", "", "public key (PEM) that must have signed")
	c.Flags().StringVar(&f.signature, "signature", "", "signature over the whole file")
	c.Flags().StringVar(&f.app, "app", "", "app it must be a release of")
	c.Flags().StringVar(&f.version, "version", "", "version it must be")
	c.MarkFlagRequired("key")
	return c
}

func (a *app) verify(ctx context.Context, path string, flags verifyFlags) error {
	key, err := os.ReadFile(flags.key)
	if err != nil {
		return fmt.Errorf("read public key: %w", err)
	}
	if block, _ := pem.Decode(key); block != nil && block.Type == "CERTIFICATE" {
		return cli.WithHint(errors.New("a bare certificate proves nothing offline: it was valid for minutes, and nothing here shows that the signature was made in them"),
			"verify with the signer's public key")
	}
	verifier, err := verify.New(verify.Policy{Signers: []verify.Signer{{Key: string(key)}}})
	if err != nil {
		return err
	}
	r, f, err := openBundle(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if flags.signature != "" {
		if err := a.verifyFile(verifier, f, r.Size(), flags.signature); err != nil {
			return err
		}
	}
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
		Signer    string            `json:"signer"`
		Manifest  bundle.Digest     `json:"manifest"`
		Platforms []bundle.Platform `json:"platforms"`
		Size      int64             `json:"size"`
	}{m.App, m.Version, rel.Signer().String(), rel.Digest(), m.Platforms, rel.Size()}
	return a.Result(result, func(w io.Writer) {
		fmt.Fprintf(w, "ok: %s %s, signed by %s\n  manifest  %s\n  platforms %s\n  size      %s, every byte checked\n",
			m.App, m.Version, result.Signer, result.Manifest, joinPlatforms(m.Platforms), ui.Bytes(result.Size))
	})
}

// verifyFile checks a signature over the whole file.
func (a *app) verifyFile(v *verify.Verifier, f *os.File, size int64, signature string) error {
	sig, err := os.ReadFile(signature)
	if err != nil {
		return fmt.Errorf("read signature: %w", err)
	}
	update, finish := a.UI.Track("hash " + f.Name())
	digest := sha256.New()
	_, err = io.Copy(io.MultiWriter(digest, &meter{total: size, update: update}), io.NewSectionReader(f, 0, size))
	finish(err)
	if err != nil {
		return fmt.Errorf("read %s: %w", f.Name(), err)
	}
	var sum [sha256.Size]byte
	digest.Sum(sum[:0])
	if bare, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(sig))); err == nil {
		_, err = v.Bare(sum, bare)
		return err
	}
	_, err = v.Digest(sum, sig)
	return err
}
