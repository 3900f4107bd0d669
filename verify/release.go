package verify

import (
	"io"

	"github.com/valise-ota/valise/bundle"
)

// Release is a bundle that passed every check of a Verifier. Only a Verifier
// makes one; the zero value is refused wherever one is taken. What it opens comes
// from the file that was checked, and is compared with the signed manifest as it
// is read: it is the release's when reading ends with io.EOF, and not before.
type Release struct {
	reader   *bundle.Reader
	digest   bundle.Digest
	by       signed
	rotation *Rotation
}

// Valid reports whether r came from a Verifier.
func (r *Release) Valid() bool { return r != nil && r.reader != nil }

// Check checks expectations that were not known when r was verified.
func (r *Release) Check(want Want) error { return compare(r.Manifest(), r.digest, r.by.signer, want) }

// Manifest returns the signed manifest. The caller does not change it.
func (r *Release) Manifest() *bundle.Manifest { return r.reader.Manifest() }

// ManifestBytes returns the signed bytes, Signature what signs them, Digest their
// digest, and Signer whose signature it is.
func (r *Release) ManifestBytes() []byte { return r.reader.ManifestBytes() }
func (r *Release) Signature() []byte     { return r.reader.Signature() }
func (r *Release) Digest() bundle.Digest { return r.digest }
func (r *Release) Signer() Signer        { return r.by.signer }

// Rotation returns what a device that commits the release goes by from then on;
// nil when that is what it goes by already. The caller does not change it.
func (r *Release) Rotation() *Rotation { return r.rotation }

// Size returns the bytes of the bundle file.
func (r *Release) Size() int64 { return r.reader.Size() }

// OpenFile, OpenBlob and HasBlob are those of bundle.Reader.
func (r *Release) OpenFile(path string) (io.ReadCloser, error)     { return r.reader.OpenFile(path) }
func (r *Release) OpenBlob(d bundle.Digest) (io.ReadCloser, error) { return r.reader.OpenBlob(d) }
func (r *Release) HasBlob(d bundle.Digest) bool                    { return r.reader.HasBlob(d) }
func (r *Release) HasFile(path string) bool                        { return r.reader.HasFile(path) }
