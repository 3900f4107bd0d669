package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/cmd/internal/ui"
	"github.com/valise-ota/valise/verify"
)

// sigstoreSuffix is what the signature of a file has after the file's name.
const sigstoreSuffix = ".sigstore.json"

type verifyFlags struct {
	trust       cli.Trust
	signature   string
	certificate string
	checksums   string
	app         string
	version     string
}

func verifyCommand(a *app) *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify FILE|sha256:DIGEST...",
		Short: "Check bundles the way a device does, or signatures over any files",
		Long: "verify checks the signature inside a bundle and then every byte of it, offline. Exit code 0\n" +
			"means that a device which trusts the same signer accepts the bundle, 4 that it does not.\n\n" +
			"Any other FILE needs a signature over the whole file: FILE.sigstore.json beside it, the file\n" +
			"that --bundle names, or a line in a signed list of --checksums. If FILE is a bundle, its\n" +
			"content is checked as well. A .sigstore.json proves who signed and when; a .sig alone needs\n" +
			"--key, because nothing in it proves when it was made. With --bundle, FILE may be\n" +
			"sha256:DIGEST (or sha384, sha512: the hash that the signature uses).",
		Example: "  valise verify shop-1.2.3.tar.gz --identity https://github.com/acme/shop/.github/workflows/release.yml@refs/tags/v1.2.3\n" +
			"  valise verify dist/shop-1.2.3.tar.gz --key cosign.pub\n" +
			"  valise verify --bundle README.md.sigstore.json --key cosign.pub README.md\n" +
			"  valise verify --checksums CHECKSUMS.txt --key cosign.pub shop-1.2.3.tar.gz valise-linux-amd64",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.verify(cmd.Context(), args, f) },
	}
	f.trust.Register(c.Flags())
	c.Flags().StringVar(&f.signature, "bundle", "", "signature over the whole file: .sigstore.json, or .sig with --key; with --checksums, the signature of the list")
	c.Flags().StringVar(&f.certificate, "certificate", "", "certificate of a .sig")
	c.Flags().StringVar(&f.checksums, "checksums", "", "signed list of SHA-256 digests that must contain every FILE")
	c.Flags().StringVar(&f.app, "app", "", "app that the bundle must belong to")
	c.Flags().StringVar(&f.version, "version", "", "version that the bundle must have")
	return c
}

// verified is what verify found out about one file. App and what follows it are
// those of a bundle.
type verified struct {
	File      string            `json:"file"`
	Signer    verify.Signer     `json:"signer"`
	App       string            `json:"app,omitempty"`
	Version   string            `json:"version,omitempty"`
	Manifest  bundle.Digest     `json:"manifest,omitempty"`
	Platforms []bundle.Platform `json:"platforms,omitempty"`
	Size      int64             `json:"size,omitempty"`
}

func (a *app) verify(ctx context.Context, paths []string, flags verifyFlags) error {
	if len(paths) > 1 && flags.signature != "" && flags.checksums == "" {
		return cli.Usagef("--bundle is the signature over one file, %d are named", len(paths))
	}
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
		return &verify.Error{Check: verify.CheckPolicy, Reason: fmt.Sprintf("nothing can be trusted by what was given (%v); get the key or trusted root again from its owner", err), Err: err}
	}
	var list *verify.Checksums
	if flags.checksums != "" {
		if list, err = readChecksums(verifier, flags); err != nil {
			return err
		}
	}
	var all []verified
	for _, path := range paths {
		v, err := a.verifyOne(ctx, verifier, list, path, flags)
		if err != nil {
			if len(paths) > 1 {
				err = fmt.Errorf("%s: %w", path, err)
			}
			return err
		}
		all = append(all, v)
	}
	var result any = all
	if len(all) == 1 {
		result = all[0]
	}
	return a.Result(result, func(w io.Writer) {
		for _, v := range all {
			if v.App == "" {
				fmt.Fprintf(w, "ok: %s is signed by %s\n", v.File, v.Signer)
				continue
			}
			fmt.Fprintf(w, "ok: %s %s, signed by %s\n  manifest  %s\n  platforms %s\n  size      %s, every byte as signed\n",
				v.App, v.Version, v.Signer, v.Manifest, joinPlatforms(v.Platforms), ui.Bytes(v.Size))
		}
	})
}

func (a *app) verifyOne(ctx context.Context, verifier *verify.Verifier, list *verify.Checksums, path string, flags verifyFlags) (v verified, err error) {
	v.File = path
	if hash, sum, ok := parseDigest(path); ok {
		if flags.signature == "" || list != nil {
			return v, cli.Usagef("a digest has no signature in it: name one with --bundle")
		}
		v.Signer, err = whole(verifier, flags, func(want crypto.Hash) ([]byte, error) {
			if want != hash {
				return nil, &verify.Error{Check: verify.CheckSignature, Reason: fmt.Sprintf("the signature names its file by %s, which cannot be compared with a %s; give the file, or its %s", want, hash, want)}
			}
			return sum, nil
		})
		return v, err
	}
	f, err := parts.Open(path)
	if err != nil {
		return v, fmt.Errorf("open file: %w", err)
	}
	defer f.Close()
	r, err := bundleIn(f)
	if err != nil {
		return v, err
	}
	switch beside := f.Name + sigstoreSuffix; {
	case list != nil:
		for _, path := range f.Paths {
			sum, err := a.hashPart(path)
			if err == nil {
				err = list.Check(filepath.Base(path), [sha256.Size]byte(sum))
			}
			if err != nil {
				return v, err
			}
		}
		v.Signer = list.Signer
	case flags.signature == "" && r == nil && isFile(beside):
		flags.signature = beside
		fallthrough
	case flags.signature != "":
		if v.Signer, err = whole(verifier, flags, func(h crypto.Hash) ([]byte, error) { return a.hash(f, h) }); err != nil {
			return v, err
		}
	}
	if r == nil && v.Signer != (verify.Signer{}) { // there is no inside
		return v, nil
	}
	return a.verifyBundle(ctx, verifier, path, flags)
}

// verifyBundle checks a bundle as a device does.
func (a *app) verifyBundle(ctx context.Context, verifier *verify.Verifier, path string, flags verifyFlags) (v verified, err error) {
	r, f, err := parts.OpenBundle(path)
	if err != nil {
		return v, err
	}
	defer f.Close()
	want := verify.Want{App: flags.app, Version: strings.TrimPrefix(flags.version, "v")}
	update, finish := a.UI.Track("verify " + path)
	rel, err := verifier.Release(ctx, r, want, update)
	finish(err)
	if err != nil {
		return v, err
	}
	m := rel.Manifest()
	return verified{path, rel.Signer(), m.App, m.Version, rel.Digest(), m.Platforms, rel.Size()}, nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// bundleIn returns the bundle in f, or nil when f is some other kind of file. A
// file that says it is a bundle and breaks the format is an error.
func bundleIn(f *parts.File) (*bundle.Reader, error) {
	r, err := bundle.Open(f, f.Size())
	if format := new(bundle.FormatError); errors.As(err, &format) && (format.Rule == "framing" || format.Rule == "gzip" || format.Rule == "zstd" || format.Rule == "manifest-first" || format.Rule == "truncated") {
		return nil, nil
	}
	return r, err
}

// hash returns the digest of a file.
func (a *app) hash(f *parts.File, hash crypto.Hash) ([]byte, error) {
	update, finish := a.UI.Track("hash " + f.Name)
	digest := hash.New()
	_, err := io.Copy(io.MultiWriter(digest, &meter{total: f.Size(), update: update}), f.Reader())
	finish(err)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name, err)
	}
	return digest.Sum(nil), nil
}

// hashPart returns the SHA-256 of one file, be it a part or not.
func (a *app) hashPart(path string) ([]byte, error) {
	f, err := parts.OpenAll(path, []string{path})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return a.hash(f, crypto.SHA256)
}

// parseDigest reads sha256:DIGEST and the like. What has not exactly that form
// is the name of a file.
func parseDigest(s string) (crypto.Hash, []byte, bool) {
	name, digits, _ := strings.Cut(s, ":")
	hash, ok := map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}[name]
	sum, err := hex.DecodeString(digits)
	return hash, sum, ok && err == nil && len(sum) == hash.Size()
}
