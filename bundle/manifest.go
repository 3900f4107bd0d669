package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Format is the value of the manifest's format key.
const Format = "valise/1"

// Names of the entries every bundle has.
const (
	ManifestName  = "manifest.json"
	SignatureName = "manifest.json.sigstore.json"
	ImagesName    = "images.tar"
	TOCName       = "toc.json"

	// InstallerDir holds PLATFORM/valise-installer, the platform with dashes.
	InstallerDir = "installer/"
	// EngineDir holds what a machine without an engine gets.
	EngineDir = "engine/"
)

// Manifest is what a signer signs: it pins every byte of the release.
// The keys version, images_sha256, created_at, changelog and images keep the
// meaning they have for updaters that predate this format.
type Manifest struct {
	Format       string      `json:"format"`
	App          string      `json:"app"`
	Kind         string      `json:"kind"` // KindCompose or KindTree
	Version      string      `json:"version"`
	CreatedAt    time.Time   `json:"created_at"` // whole seconds, UTC
	Changelog    string      `json:"changelog"`
	Images       []string    `json:"images,omitempty"`        // references of Components, in their order
	ImagesSHA256 string      `json:"images_sha256,omitempty"` // hex SHA-256 of the complete images.tar
	Platforms    []Platform  `json:"platforms"`
	Source       *Source     `json:"source,omitempty"`
	Prefix       string      `json:"prefix,omitempty"`     // the one directory that every entry is in; kind tree
	Files        []File      `json:"files"`                // every entry that is neither the manifest nor its signature nor images.tar
	Archive      []File      `json:"archive,omitempty"`    // the entries of images.tar that are not blobs
	Components   []Component `json:"components,omitempty"` // the images
	Device       Device      `json:"device"`
}

// Kinds of apps. Images, ImagesSHA256, Archive and Components belong to the
// first, Prefix to the second.
const (
	KindCompose = "compose" // a set of images and a compose file
	KindTree    = "tree"    // a file tree that systemd units run
)

// Source says which commit a release was built from.
type Source struct {
	Repository string `json:"repository,omitempty"`
	Commit     string `json:"commit,omitempty"`
	Ref        string `json:"ref,omitempty"`
}

// File is one file of the bundle. Mode is 420 (0644) or 493 (0755).
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Mode   uint32 `json:"mode"`
	Digest Digest `json:"digest"`
}

// Component is one image and the compose services that run it.
type Component struct {
	Reference string   `json:"reference"`
	Services  []string `json:"services"`
	// Index is the image index the platforms came from, kept so that the
	// registry digest stays true; nil for a single image.
	Index  *Descriptor `json:"index,omitempty"`
	Images []Image     `json:"platforms"` // one per platform of the manifest, in its order
}

// Image is a component for one platform.
type Image struct {
	Platform Platform   `json:"platform"`
	Manifest Descriptor `json:"manifest"`
	Config   Descriptor `json:"config"`
	Layers   []Layer    `json:"layers"`
}

// Descriptor is an OCI content descriptor. Size is in bytes.
type Descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    Digest `json:"digest"`
	Size      int64  `json:"size"`
}

// Layer is a layer and the digest of its uncompressed tar.
type Layer struct {
	Descriptor
	DiffID Digest `json:"diffID"`
}

// Device is the part of the project's configuration that acts on the device.
type Device struct {
	Compose    string `json:"compose,omitempty"`     // path in Files of the compose file
	Project    string `json:"project,omitempty"`     // compose project name; another one means new, empty volumes
	Tree       *Tree  `json:"tree,omitempty"`        // of kind tree
	VersionEnv string `json:"version_env,omitempty"` // key of the environment file that carries the version
	// RequiredEnv are the keys the release cannot do without.
	RequiredEnv []string          `json:"required_env,omitempty"`
	Env         map[string]EnvKey `json:"env,omitempty"` // what else is known of keys
	Health      Health            `json:"health"`
	Backup      []Backup          `json:"backup,omitempty"`
	Secrets     map[string]Secret `json:"secrets,omitempty"`
	Keep        Keep              `json:"keep"`
}

// Health says when a release counts as running. Every named check must pass in
// the same attempt.
type Health struct {
	Compose  []string `json:"compose,omitempty" yaml:"compose"` // services that must be running and, where they have a health check, healthy
	HTTP     string   `json:"http,omitempty" yaml:"http"`       // URL that must answer 200; ${KEY:-default} is read from the environment file
	Version  string   `json:"version,omitempty" yaml:"version"` // member of the JSON answer that must equal the release's version
	Retries  int      `json:"retries" yaml:"retries"`           // attempts
	Interval Duration `json:"interval" yaml:"interval"`         // between two attempts
}

// EnvKey is what a release says of one key of the environment file.
type EnvKey struct {
	Help    string `json:"help,omitempty"`    // shown when a value is asked for
	Default string `json:"default,omitempty"` // written when the key has no value, at every update
	Initial string `json:"initial,omitempty"` // written at the first installation only
}

// Backup is one data backup made before a switch; exactly one member is set.
type Backup struct {
	Postgres *Postgres `json:"postgres,omitempty" yaml:"postgres"`
}

// Postgres is a database dumped with pg_dump inside its own service.
type Postgres struct {
	Service  string `json:"service" yaml:"service"`
	User     string `json:"user" yaml:"user"`
	Database string `json:"database" yaml:"database"`
}

// Secret is a value generated on the device at the first installation.
type Secret struct {
	Hex       int    `json:"hex" yaml:"hex"`                       // random bytes, written as hex
	Prefix    string `json:"prefix,omitempty" yaml:"prefix"`       // put before the value
	Immutable bool   `json:"immutable,omitempty" yaml:"immutable"` // data depends on it: a lost one is an error, never a new one
	Show      string `json:"show,omitempty" yaml:"show"`           // "once": printed when it is generated
}

// Keep says how many of each a device retains.
type Keep struct {
	Releases int `json:"releases" yaml:"releases"`
	Backups  int `json:"backups" yaml:"backups"`
}

// Duration is a time.Duration written as "5s".
type Duration time.Duration

func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Encode returns the canonical bytes of m: the bytes that are signed.
func (m *Manifest) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(m); err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return b.Bytes(), nil
}

// ParseManifest decodes and validates a manifest. Only canonical bytes are
// accepted: what decodes must encode to the same bytes again, so a duplicate, a
// differently spelled or an unknown key cannot mean one thing to one reader and
// another thing to the next.
func ParseManifest(b []byte) (*Manifest, error) {
	if len(b) > MaxManifestSize {
		return nil, formatErr("entry-size", ManifestName, "%d bytes, limit %d", len(b), MaxManifestSize)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	m := new(Manifest)
	if err := dec.Decode(m); err != nil {
		return nil, formatErr("manifest-json", ManifestName, "%v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, formatErr("manifest-json", ManifestName, "text after the end of the object")
	}
	again, err := m.Encode()
	if err != nil {
		return nil, formatErr("manifest-json", ManifestName, "%v", err)
	}
	if !bytes.Equal(again, b) {
		return nil, formatErr("manifest-canonical", ManifestName, "not in canonical form (duplicate or differently spelled key, order or white space): first difference at byte %d", firstDifference(again, b))
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
