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

	// InstallerDir holds the installer of each platform: see InstallerPath.
	InstallerDir  = "installer/"
	InstallerName = "valise-installer"
	// EngineDir holds, below <os>-<arch>, what an engine is installed from: Debian
	// packages, or Docker's static archive docker-*.tgz; and docker-compose, the
	// plugin.
	EngineDir = "engine/"
)

// InstallerPath is the file of a bundle that is the installer for p.
func InstallerPath(p Platform) string { return InstallerDir + p.Dashed() + "/" + InstallerName }

// EnginePath is the directory of a bundle, with a slash at its end, that holds the
// engine for p.
func EnginePath(p Platform) string { return EngineDir + p.Dashed() + "/" }

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
	Requires     *Requires   `json:"requires,omitempty"`
	Prefix       string      `json:"prefix,omitempty"`     // the one directory that every entry is in; kind tree
	Files        []File      `json:"files"`                // every entry that is neither the manifest nor its signature nor images.tar
	Archive      []File      `json:"archive,omitempty"`    // the entries of images.tar that are not blobs
	Components   []Component `json:"components,omitempty"` // the images
	Device       Device      `json:"device"`
	Trust        *Trust      `json:"trust,omitempty"`
}

// Trust says who signs the releases after this one. A device that accepts and
// commits this release goes by it from then on.
type Trust struct {
	Signers []Signer `json:"signers,omitempty" yaml:"signers"` // all of them; none: as before
	// TrustedRoot is the path in Files of a Sigstore trusted_root.json.
	TrustedRoot string `json:"trusted_root,omitempty" yaml:"trusted_root"`
}

// Signer is who may sign releases: the holder of a key, or an identity
// that an issuer vouches for, such as a workflow of a repository.
type Signer struct {
	Key string `json:"key,omitempty" yaml:"key"` // public key, PEM

	Issuer string `json:"issuer,omitempty" yaml:"issuer"` // OIDC issuer, exactly
	// Identity is the subject alternative name of the certificate, exactly;
	// IdentityRegexp must match the whole of it. One of the two is set.
	Identity       string `json:"identity,omitempty" yaml:"identity"`
	IdentityRegexp string `json:"identity_regexp,omitempty" yaml:"identity_regexp"`
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

// Requires is what a device must have before it may take the release.
type Requires struct {
	// From is the lowest version that an update may start from; a device with
	// an older one takes that version, or one above it, first. It does not matter
	// to a device that has no release yet.
	From   string `json:"from,omitempty" yaml:"from"`
	Engine string `json:"engine,omitempty" yaml:"engine"` // lowest version of the container engine: "23.0"
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
	// Mounts are paths of Files, or directories of them, that the compose file
	// mounts or reads: a device keeps each in a place of its own, see MountName.
	Mounts []string `json:"mounts,omitempty"`
	// Local are paths below the app's directory that the compose file reads as files
	// and that do not travel: each must be there before the app starts.
	Local []string `json:"local,omitempty"`
	// Create are external networks and volumes of the compose file, by their keys
	// there, that a device makes when they do not exist.
	Create *Create `json:"create,omitempty"`
	// Volumes say where the data of volumes that are new in a release come from, by
	// their keys in the compose file.
	Volumes   map[string]Origin `json:"volumes,omitempty"`
	Health    Health            `json:"health"`
	Hooks     map[string]Hook   `json:"hooks,omitempty"` // by moment, one of HookNames
	Backup    []Backup          `json:"backup,omitempty"`
	Migration Migration         `json:"migration,omitempty"`
	Rollback  *Rollback         `json:"rollback,omitempty"`
	Secrets   map[string]Secret `json:"secrets,omitempty"`
	Limits    Limits            `json:"limits,omitzero"`
	Keep      Keep              `json:"keep"`
}

// Limits are how long the parts of a change may take. A device has a default for
// what is zero, and may overrule the others.
type Limits struct {
	Stage    Duration `json:"stage,omitzero" yaml:"stage"`       // files and images come to the device
	Backup   Duration `json:"backup,omitzero" yaml:"backup"`     // data are saved; the same for bringing them back
	Activate Duration `json:"activate,omitzero" yaml:"activate"` // hooks run, what runs is stopped and started
	Probe    Duration `json:"probe,omitzero" yaml:"probe"`       // until it is healthy
	Undo     Duration `json:"undo,omitzero" yaml:"undo"`         // one step of the way back, and tidying up
}

// Create names networks and volumes that are made and never removed.
type Create struct {
	Networks []string `json:"networks,omitempty"`
	Volumes  []string `json:"volumes,omitempty"`
}

// Origin is where the data of a new volume come from: one of the two is set.
type Origin struct {
	From  string `json:"from,omitempty" yaml:"from"`   // key of the volume, in the release before, that is copied
	Empty bool   `json:"empty,omitempty" yaml:"empty"` // it begins empty, whatever other volumes are left
}

// Health says when a release counts as running. Every named check must pass in
// the same attempt. ${KEY:-default} in http and tcp is read from the environment
// file.
type Health struct {
	Compose []string          `json:"compose,omitempty" yaml:"compose"` // services that must be running and, where they have a health check, healthy
	HTTP    string            `json:"http,omitempty" yaml:"http"`       // URL to ask
	Status  int               `json:"status,omitempty" yaml:"status"`   // of its answer; 200 when it is missing
	Body    string            `json:"body,omitempty" yaml:"body"`       // text that the answer contains
	JSON    map[string]string `json:"json,omitempty" yaml:"json"`       // members of the JSON answer, a.b for b in a, and their values
	Version string            `json:"version,omitempty" yaml:"version"` // member of the JSON answer that must equal the release's version
	// CA and Fingerprint say which certificate an https URL may answer with, in place of
	// those that the device trusts: one that is signed by a certificate in a file, which
	// is of the device, or of the release when the path is relative; or the one with this
	// SHA-256, in hex. ${KEY} in them is read from the environment file.
	CA          string `json:"ca,omitempty" yaml:"ca"`
	Fingerprint string `json:"fingerprint,omitempty" yaml:"fingerprint"`

	TCP      []string        `json:"tcp,omitempty" yaml:"tcp"`         // host:port that must take a connection
	Command  *ServiceCommand `json:"command,omitempty" yaml:"command"` // must end with status 0
	Retries  int             `json:"retries" yaml:"retries"`           // attempts
	Interval Duration        `json:"interval" yaml:"interval"`         // between two attempts
	// StableFor is how long all checks must go on passing before the release
	// counts as running.
	StableFor Duration `json:"stable_for,omitzero" yaml:"stable_for"`
}

// ServiceCommand is a command in the running container of a service.
type ServiceCommand struct {
	Service string   `json:"service" yaml:"service"`
	Run     []string `json:"run" yaml:"run"`
}

// HookNames are the moments of a transaction at which a release may run a
// command, in their order.
var HookNames = []string{
	"pre-stage", "post-stage", "pre-backup", "post-backup", "pre-activate", "migrate", "post-activate", "post-probe",
	"pre-rollback", "post-rollback",
}

// Hook is a command of the release. With a service it runs in a new container
// of that service, else on the device: Run[0] is then a file of the bundle.
type Hook struct {
	Service string   `json:"service,omitempty" yaml:"service"`
	Run     []string `json:"run" yaml:"run"`
	Timeout Duration `json:"timeout" yaml:"timeout"`
}

// Migration says what a release does to the data of the one before it.
type Migration string

const (
	// Reversible: the release before can still work with them.
	Reversible Migration = "reversible"
	// Irreversible: it cannot. Going back means restoring a backup.
	Irreversible Migration = "irreversible"
)

// Rollback says what going back from this release does.
type Rollback struct {
	RestoreData RestoreData `json:"restore_data" yaml:"restore_data"`
}

// RestoreData says whether going back restores the data saved before the
// update, and so loses what was written since.
type RestoreData string

const (
	RestoreNever  RestoreData = "never"
	RestoreAsk    RestoreData = "ask" // a person decides; an update that fails by itself keeps the data
	RestoreAlways RestoreData = "always"
)

// RestoreData is what going back from the release does to the data: as it says,
// else RestoreAlways after an irreversible migration.
func (d *Device) RestoreData() RestoreData {
	switch {
	case d.Rollback != nil:
		return d.Rollback.RestoreData
	case d.Migration == Irreversible:
		return RestoreAlways
	}
	return RestoreNever
}

// EnvKey is what a release says of one key of the environment file.
type EnvKey struct {
	Help    string `json:"help,omitempty"`    // shown when a value is asked for
	Default string `json:"default,omitempty"` // written when the key has no value, at every update
	Initial string `json:"initial,omitempty"` // written at the first installation only
}

// Backup is one data backup made before a switch; exactly one member is set.
type Backup struct {
	Postgres *Postgres      `json:"postgres,omitempty" yaml:"postgres"`
	MySQL    *MySQL         `json:"mysql,omitempty" yaml:"mysql"`
	SQLite   *SQLite        `json:"sqlite,omitempty" yaml:"sqlite"`
	Volume   *Volume        `json:"volume,omitempty" yaml:"volume"`
	Mongo    *Mongo         `json:"mongo,omitempty" yaml:"mongo"`
	Redis    *Redis         `json:"redis,omitempty" yaml:"redis"`
	Command  *BackupCommand `json:"command,omitempty" yaml:"command"`
}

// Mongo is a database of MongoDB, or without one all of them, dumped inside its own
// service as the root user of the service's own environment.
type Mongo struct {
	Service  string `json:"service" yaml:"service"`
	Database string `json:"database,omitempty" yaml:"database"`
}

// Redis is all keys of a Redis or Valkey server. The password is REDISCLI_AUTH or
// REDIS_PASSWORD of the service's own environment.
type Redis struct {
	Service string `json:"service" yaml:"service"`
}

// MySQL is a database of MySQL or MariaDB, dumped inside its own service. The
// password is that of the service's own environment: MARIADB_PASSWORD or
// MYSQL_PASSWORD, and for root MARIADB_ROOT_PASSWORD or MYSQL_ROOT_PASSWORD; user
// and database that are empty are those of that environment too.
type MySQL struct {
	Service  string `json:"service" yaml:"service"`
	User     string `json:"user,omitempty" yaml:"user"`
	Database string `json:"database,omitempty" yaml:"database"`
}

// SQLite is a database file in a volume of a service.
type SQLite struct {
	Service string `json:"service" yaml:"service"`
	Path    string `json:"path" yaml:"path"` // in its container
}

// Volume is all files of a directory that is a volume of a service. While they
// are copied, the containers that use the volume are paused.
type Volume struct {
	Service string `json:"service" yaml:"service"`
	Path    string `json:"path" yaml:"path"` // in its container
}

// BackupCommand saves data in a way of its own: Save writes them to standard
// output, Restore reads them from standard input, both in the container of
// Service.
type BackupCommand struct {
	Service string   `json:"service" yaml:"service"`
	Save    []string `json:"save" yaml:"save"`
	Restore []string `json:"restore" yaml:"restore"`
}

// Subject returns the kind of b, its service, and what of it is saved. The
// strings are empty when not exactly one member is set.
func (b Backup) Subject() (kind, service, what string) {
	n := 0
	set := func(k, s, w string) { n, kind, service, what = n+1, k, s, w }
	if b.Postgres != nil {
		set("postgres", b.Postgres.Service, databaseName(b.Postgres.Database, "its database"))
	}
	if b.MySQL != nil {
		set("mysql", b.MySQL.Service, databaseName(b.MySQL.Database, "its database"))
	}
	if b.SQLite != nil {
		set("sqlite", b.SQLite.Service, b.SQLite.Path)
	}
	if b.Volume != nil {
		set("volume", b.Volume.Service, b.Volume.Path)
	}
	if b.Mongo != nil {
		set("mongo", b.Mongo.Service, databaseName(b.Mongo.Database, "all databases"))
	}
	if b.Redis != nil {
		set("redis", b.Redis.Service, "all keys")
	}
	if b.Command != nil {
		set("command", b.Command.Service, "by command")
	}
	if n != 1 {
		return "", "", ""
	}
	return kind, service, what
}

// String describes what is saved: "postgres database shop of service db".
func (b Backup) String() string {
	kind, service, what := b.Subject()
	return kind + " " + what + " of service " + service
}

func databaseName(name, other string) string {
	if name == "" {
		return other
	}
	return "database " + name
}

// Postgres is a database dumped with pg_dump inside its own service. User and
// database that are empty are those of the service's own environment.
type Postgres struct {
	Service  string `json:"service" yaml:"service"`
	User     string `json:"user,omitempty" yaml:"user"`
	Database string `json:"database,omitempty" yaml:"database"`
}

// Secret is a value generated on the device at the first installation. One of
// Hex, Base64 and Password is set.
type Secret struct {
	Hex       int    `json:"hex,omitempty" yaml:"hex"`             // random bytes, written as hex
	Base64    int    `json:"base64,omitempty" yaml:"base64"`       // random bytes, written in standard base64
	Password  int    `json:"password,omitempty" yaml:"password"`   // random letters and digits, for people to type
	Prefix    string `json:"prefix,omitempty" yaml:"prefix"`       // put before the value
	Immutable bool   `json:"immutable,omitempty" yaml:"immutable"` // data depends on it: if it is lost, no new one is generated
	Show      string `json:"show,omitempty" yaml:"show"`           // "once": printed when it is generated
	// File is where the value is kept in place of the environment file: a path below
	// the app's directory, for compose secrets. User is its owner there.
	File string `json:"file,omitempty" yaml:"file"`
	User int    `json:"user,omitempty" yaml:"user"`
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
