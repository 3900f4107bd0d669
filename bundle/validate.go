package bundle

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/Masterminds/semver/v3"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

var (
	referencePattern = lazyregexp.New(`^[a-z0-9][A-Za-z0-9._:/@-]{0,254}$`)
	servicePattern   = lazyregexp.New(`^[a-zA-Z0-9._-]{1,128}$`)
	projectPattern   = lazyregexp.New(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	hexPattern       = lazyregexp.New(`^[0-9a-f]{64}$`)
	enginePattern    = lazyregexp.New(`^([0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4})?)?$`)
	mediaTypePattern = lazyregexp.New(`^[a-z0-9][a-z0-9.+/-]{0,126}$`)
)

// ParseVersion checks that s is a SemVer 2 version that is safe in a path: no
// leading v, no leading zeros, at most 128 bytes.
func ParseVersion(s string) (*semver.Version, error) {
	if len(s) > 128 {
		return nil, fmt.Errorf("version has %d bytes, limit 128", len(s))
	}
	v, err := semver.StrictNewVersion(s)
	if err != nil {
		return nil, fmt.Errorf("version %q is not SemVer 2 (want MAJOR.MINOR.PATCH, for example 2.10.0 or 2.10.0-rc.1): %w", s, err)
	}
	return v, nil
}

// VersionNumbers are the leading numbers of a version of any kind: 20, 10, 24 of
// 20.10.24+dfsg1.
func VersionNumbers(version string) (list []int) {
	for part := range strings.SplitSeq(version, ".") {
		digits := len(part) - len(strings.TrimLeft(part, "0123456789"))
		n, err := strconv.Atoi(part[:digits])
		if err != nil {
			return list
		}
		if list = append(list, n); digits < len(part) {
			return list
		}
	}
	return list
}

// Newer reports whether version a is after b. An invalid version sorts before
// every valid one.
func Newer(a, b string) bool {
	x, err := ParseVersion(a)
	if err != nil {
		return false
	}
	y, err := ParseVersion(b)
	return err != nil || y.LessThan(x)
}

// Validate checks every rule that concerns the manifest alone.
func (m *Manifest) Validate() error {
	checks := []func() error{m.checkHead, m.checkFiles, m.checkComponents, m.checkArchive, m.checkDevice, m.checkCompose, m.checkTrust}
	if m.Kind == KindTree {
		checks = []func() error{m.checkHead, m.checkFiles, m.checkTree, m.checkDevice, m.checkTreeDevice, m.checkTrust}
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manifest) checkHead() error {
	bad := func(rule, format string, args ...any) error {
		return formatErr(rule, ManifestName, format, args...)
	}
	if m.Format != Format {
		return bad("format", "format is %q, this program reads %q: a newer installer is needed", m.Format, Format)
	}
	if !ValidApp(m.App) {
		return bad("app", "app is %q, want %s", m.App, appPattern)
	}
	if m.Kind != KindCompose && m.Kind != KindTree {
		return bad("kind", "kind is %q, this program installs %q and %q", m.Kind, KindCompose, KindTree)
	}
	if _, err := ParseVersion(m.Version); err != nil {
		return bad("version", "%v", err)
	}
	if m.CreatedAt.Location() != time.UTC || m.CreatedAt.Nanosecond() != 0 || m.CreatedAt.Unix() < 0 {
		return bad("created-at", "created_at is %s, want whole seconds in UTC since 1970", m.CreatedAt)
	}
	if len(m.Changelog) > MaxChangelog || !plainText(m.Changelog) {
		return bad("changelog", "the changelog has %d bytes or control characters, limit %d bytes of text", len(m.Changelog), MaxChangelog)
	}
	if m.Kind == KindCompose && !hexPattern.MatchString(m.ImagesSHA256) {
		return bad("images-sha256", "images_sha256 is %q, want 64 hex digits", m.ImagesSHA256)
	}
	if len(m.Platforms) == 0 || len(m.Platforms) > MaxPlatforms {
		return bad("platforms", "%d platforms, want 1 to %d", len(m.Platforms), MaxPlatforms)
	}
	for i, p := range m.Platforms {
		if q, err := ParsePlatform(string(p)); err != nil || q != p || slices.Contains(m.Platforms[:i], p) {
			return bad("platforms", "platform %q is malformed or repeated", p)
		}
	}
	if r := m.Requires; r != nil {
		if r.From != "" {
			if _, err := ParseVersion(r.From); err != nil {
				return bad("requires", "from: %v", err)
			}
		}
		if !enginePattern.MatchString(r.Engine) || *r == (Requires{}) {
			return bad("requires", "want from, a version, or engine, like 23.0")
		}
	}
	if s := m.Source; s != nil {
		for _, t := range []string{s.Repository, s.Commit, s.Ref} {
			if len(t) > MaxStringLength || !plainText(t) {
				return bad("source", "a source field is longer than %d bytes or has control characters", MaxStringLength)
			}
		}
	}
	return nil
}

func (m *Manifest) checkFiles() error {
	if len(m.Files) > MaxFiles {
		return formatErr("files", ManifestName, "%d files, limit %d", len(m.Files), MaxFiles)
	}
	return checkFileList(m.Files, ManifestName, SignatureName, ImagesName, TOCName)
}

// checkArchive: what images.tar holds besides blobs follows from the components,
// so that a load by hand gives the images that are signed.
func (m *Manifest) checkArchive() error {
	want, err := m.archive()
	if err != nil {
		return err
	}
	if !slices.Equal(m.Archive, want) {
		return formatErr("archive", ManifestName, "the entries of %s are not the ones that follow from the components", ImagesName)
	}
	return nil
}

// CheckPaths returns what is wrong with the paths of a release's files, which are
// sorted: it is what Validate will say, before anything was read.
func CheckPaths(paths []string) error {
	m := Manifest{Files: make([]File, len(paths))}
	for i, p := range paths {
		m.Files[i] = File{Path: p, Mode: 0o644, Digest: DigestOf(nil)}
	}
	return m.checkFiles()
}

// checkFileList checks one sorted list of files. Two names that some file
// system takes for the same one, and a file used as a directory, are refused.
func checkFileList(files []File, reserved ...string) error {
	folded := map[string]string{}
	for _, r := range reserved {
		folded[fold(r)] = r
	}
	for i, f := range files {
		if err := checkPath(f.Path); err != nil {
			return formatErr("path", fmt.Sprintf("%.80q", f.Path), "%v", err)
		}
		if i > 0 && files[i-1].Path >= f.Path {
			return formatErr("file-order", f.Path, "listed twice or out of order")
		}
		if f.Size < 0 || f.Size > MaxFileSize {
			return formatErr("file-size", f.Path, "size %d, want 0 to %d", f.Size, int64(MaxFileSize))
		}
		if f.Mode != 0o644 && f.Mode != 0o755 {
			return formatErr("file-mode", f.Path, "mode %o, want 644 or 755", f.Mode)
		}
		if !f.Digest.Valid() {
			return formatErr("digest", f.Path, "digest is %.80q", f.Digest)
		}
		key := fold(f.Path)
		if other, ok := folded[key]; ok {
			return formatErr("path-collision", f.Path, "the same name as %s on some file systems", other)
		}
		folded[key] = f.Path
	}
	for _, f := range files {
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			if other, ok := folded[fold(dir)]; ok {
				return formatErr("path-collision", f.Path, "%s is a file, not a directory", other)
			}
		}
	}
	return nil
}

// fold maps names that a case-insensitive file system takes for one to one.
// checkPath has refused combining marks, so composed and decomposed spellings
// cannot meet here.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		low := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			low = min(low, f)
		}
		return low
	}, s)
}

func (m *Manifest) checkComponents() error {
	bad := func(c *Component, rule, format string, args ...any) error {
		return formatErr(rule, fmt.Sprintf("image %.80q", c.Reference), format, args...)
	}
	if len(m.Components) == 0 || len(m.Components) > MaxComponents {
		return formatErr("components", ManifestName, "%d images, want 1 to %d", len(m.Components), MaxComponents)
	}
	if len(m.Images) != len(m.Components) {
		return formatErr("images", ManifestName, "images lists %d references for %d components", len(m.Images), len(m.Components))
	}
	sizes := map[Digest]int64{}
	services := map[string]bool{}
	for i := range m.Components {
		c := &m.Components[i]
		if !referencePattern.MatchString(c.Reference) {
			return bad(c, "reference", "malformed image reference")
		}
		if i > 0 && m.Components[i-1].Reference >= c.Reference {
			return bad(c, "component-order", "listed twice or out of order")
		}
		if m.Images[i] != c.Reference {
			return bad(c, "images", "images[%d] is %.80q", i, m.Images[i])
		}
		if len(c.Services) == 0 {
			return bad(c, "services", "no service runs it")
		}
		for _, s := range c.Services {
			if !servicePattern.MatchString(s) || services[s] {
				return bad(c, "services", "service %.80q is malformed or has two images", s)
			}
			services[s] = true
		}
		if c.Index != nil {
			if err := checkDescriptor(*c.Index, MaxImageManifest, sizes); err != nil {
				return bad(c, "descriptor", "index: %v", err)
			}
		}
		if len(c.Images) != len(m.Platforms) {
			return bad(c, "component-platforms", "has %d of %d platforms", len(c.Images), len(m.Platforms))
		}
		for j, img := range c.Images {
			if img.Platform != m.Platforms[j] {
				return bad(c, "component-platforms", "platform %d is %.40q, want %q", j, img.Platform, m.Platforms[j])
			}
			if len(img.Layers) == 0 || len(img.Layers) > MaxLayers {
				return bad(c, "layers", "%d layers, want 1 to %d", len(img.Layers), MaxLayers)
			}
			for _, d := range []Descriptor{img.Manifest, img.Config} {
				if err := checkDescriptor(d, MaxImageManifest, sizes); err != nil {
					return bad(c, "descriptor", "%s: %v", img.Platform, err)
				}
			}
			for _, l := range img.Layers {
				if err := checkDescriptor(l.Descriptor, MaxFileSize, sizes); err != nil {
					return bad(c, "descriptor", "%s layer: %v", img.Platform, err)
				}
				if !l.DiffID.Valid() {
					return bad(c, "digest", "diffID is %.80q", l.DiffID)
				}
			}
		}
	}
	return nil
}

func checkDescriptor(d Descriptor, limit int64, sizes map[Digest]int64) error {
	if !d.Digest.Valid() {
		return fmt.Errorf("digest is %.80q", d.Digest)
	}
	if d.Size <= 0 || d.Size > limit {
		return fmt.Errorf("size %d, want 1 to %d", d.Size, limit)
	}
	if size, ok := sizes[d.Digest]; ok && size != d.Size {
		return fmt.Errorf("%s has two sizes, %d and %d", d.Digest, size, d.Size)
	}
	sizes[d.Digest] = d.Size
	if !mediaTypePattern.MatchString(d.MediaType) {
		return fmt.Errorf("media type is %.80q", d.MediaType)
	}
	return nil
}

func (m *Manifest) checkDevice() error {
	bad := func(field, format string, args ...any) error {
		return formatErr("device", ManifestName, "device.%s: %s", field, fmt.Sprintf(format, args...))
	}
	d := &m.Device
	for i, key := range d.RequiredEnv {
		if !ValidEnvKey(key) || i > 0 && d.RequiredEnv[i-1] >= key {
			return bad("required_env", "%.80q is malformed, repeated or out of order", key)
		}
	}
	if err := d.Health.Check(m.Kind); err != nil {
		return bad("health", "%v", err)
	}
	for key, e := range d.Env {
		if !ValidEnvKey(key) || !plainText(e.Help) || !plainText(e.Default) || !plainText(e.Initial) || max(len(e.Help), len(e.Default), len(e.Initial)) > MaxStringLength {
			return bad("env", "%.80q: want an environment key with texts of at most %d bytes", key, MaxStringLength)
		}
	}
	for key, s := range d.Secrets {
		if !ValidEnvKey(key) {
			return bad("secrets", "%.80q is not an environment key", key)
		}
		if err := s.Check(); err != nil {
			return bad("secrets", "%s: %v", key, err)
		}
	}
	if err := d.Limits.Check(); err != nil {
		return bad("limits", "%v", err)
	}
	if d.Keep.Releases < 2 || d.Keep.Releases > 100 || d.Keep.Backups < 1 || d.Keep.Backups > 1000 {
		return bad("keep", "releases %d, backups %d: want 2 to 100 and 1 to 1000", d.Keep.Releases, d.Keep.Backups)
	}
	return nil
}

// checkCompose checks what a device does with images and a compose file.
func (m *Manifest) checkCompose() error {
	bad := func(field, format string, args ...any) error {
		return formatErr("device", ManifestName, "device.%s: %s", field, fmt.Sprintf(format, args...))
	}
	d := &m.Device
	if m.Prefix != "" || d.Tree != nil {
		return formatErr("kind", ManifestName, "prefix or device.tree in a release of kind %q", m.Kind)
	}
	if i, ok := m.fileAt(d.Compose); !ok || m.Files[i].Size > MaxManifestSize || strings.Contains(d.Compose, "/") {
		return bad("compose", "%.80q is not a small file at the root of the bundle", d.Compose)
	}
	if !projectPattern.MatchString(d.Project) {
		return bad("project", "%.80q is not a compose project name", d.Project)
	}
	if !ValidEnvKey(d.VersionEnv) {
		return bad("version_env", "%.80q is not an environment key", d.VersionEnv)
	}
	for _, name := range d.Health.services() {
		if !m.hasService(name) {
			return bad("health", "no image for service %.80q", name)
		}
	}
	for name, h := range d.Hooks {
		if err := h.Check(name); err != nil {
			return bad("hooks", "%v", err)
		}
		if h.Service != "" && !m.hasService(h.Service) {
			return bad("hooks", "%s: no image for service %.80q", name, h.Service)
		}
		i, ok := slices.BinarySearchFunc(m.Files, h.Run[0], func(f File, p string) int { return strings.Compare(f.Path, p) })
		if h.Service == "" && (!ok || m.Files[i].Mode != 0o755) {
			return bad("hooks", "%s: %.80q is not an executable file of the bundle", name, h.Run[0])
		}
	}
	if err := d.checkLocal(); err != nil {
		return bad("local", "%v", err)
	}
	if err := d.Create.check(); err != nil {
		return bad("create", "%v", err)
	}
	for key, o := range d.Volumes {
		if !servicePattern.MatchString(key) || (o.From == "") == !o.Empty || o.From != "" && !servicePattern.MatchString(o.From) || o.From == key || len(d.Volumes) > MaxMounts {
			return bad("volumes", "%.80q: want from, the key of another volume, or empty", key)
		}
	}
	files := map[string]bool{}
	for key, s := range d.Secrets {
		if s.File != "" && files[s.File] {
			return bad("secrets", "%s: %s is the file of another one too", key, s.File)
		}
		files[s.File] = true
	}
	if err := m.checkMounts(); err != nil {
		return bad("mounts", "%v", err)
	}
	saved := map[string]bool{}
	for _, b := range d.Backup {
		if err := b.Check(); err != nil {
			return bad("backup", "%v", err)
		}
		kind, service, _ := b.Subject()
		if !m.hasService(service) {
			return bad("backup", "no image for service %.80q", service)
		}
		if saved[kind+" "+service] {
			return bad("backup", "%s of service %.80q is named twice", kind, service)
		}
		saved[kind+" "+service] = true
	}
	if err := d.CheckRollback(); err != nil {
		return bad("rollback", "%v", err)
	}
	return nil
}

// checkTrust checks the form of what a release says about signers. Whether a
// device can and will go by it is for package verify.
func (m *Manifest) checkTrust() error {
	bad := func(format string, args ...any) error { return formatErr("trust", ManifestName, format, args...) }
	t := m.Trust
	switch {
	case t == nil:
		return nil
	case len(t.Signers) == 0 && t.TrustedRoot == "":
		return bad("it names neither signers nor a trusted root")
	case len(t.Signers) > MaxSigners:
		return bad("%d signers, limit %d", len(t.Signers), MaxSigners)
	}
	for i, s := range t.Signers {
		identity := s.Issuer != "" && (s.Identity == "") != (s.IdentityRegexp == "")
		none := s.Issuer == "" && s.Identity == "" && s.IdentityRegexp == ""
		if identity == (s.Key != "") || s.Key != "" && !none || slices.Contains(t.Signers[:i], s) {
			return bad("signer %d: want a key, or an issuer with an identity or identity_regexp, each once", i)
		}
		for _, text := range []string{s.Key, s.Issuer, s.Identity, s.IdentityRegexp} {
			if len(text) > MaxStringLength || !plainText(text) {
				return bad("signer %d has a text of more than %d bytes or with control characters", i, MaxStringLength)
			}
		}
		if _, err := regexp.Compile(s.IdentityRegexp); err != nil {
			return bad("signer %d: identity_regexp: %v", i, err)
		}
	}
	if i, ok := m.fileAt(t.TrustedRoot); t.TrustedRoot != "" && (!ok || m.Files[i].Size > MaxTrustedRoot) {
		return bad("trusted_root %.80q is not a file of at most %d bytes in the bundle", t.TrustedRoot, MaxTrustedRoot)
	}
	return nil
}

// fileAt finds a file by its path.
func (m *Manifest) fileAt(path string) (int, bool) {
	return slices.BinarySearchFunc(m.Files, path, func(f File, p string) int { return strings.Compare(f.Path, p) })
}

func (m *Manifest) hasService(name string) bool {
	return slices.ContainsFunc(m.Components, func(c Component) bool { return slices.Contains(c.Services, name) })
}

// nameArgument reports whether s can stand as an argument of a command without
// being taken for an option or needing quotes.
func nameArgument(s string) bool {
	return s != "" && len(s) <= 128 && s[0] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") == ""
}

// ValidDatabaseName reports whether s may be the user or the database of a backup.
func ValidDatabaseName(s string) bool { return nameArgument(s) }

// plainText reports whether s is UTF-8 text without control characters other
// than line feed and tab: nothing that moves a terminal's cursor.
func plainText(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r != '\n' && r != '\t' && unicode.IsControl(r) })
}
