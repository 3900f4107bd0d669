package project

import (
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

var (
	projectPattern = lazyregexp.New(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	profilePattern = lazyregexp.New(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
	hostPattern    = lazyregexp.New(`^[A-Za-z0-9.-]+(:[0-9]{1,5})?$`)
	mirrorPattern  = lazyregexp.New(`^[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9._/-]+)?$`)
	exposePattern  = lazyregexp.New(`^[0-9]{1,5}(/(tcp|udp|sctp))?$`)
	signalPattern  = lazyregexp.New(`^(SIG[A-Z0-9+-]{2,12}|[0-9]{1,2})$`)
)

// check checks everything that can be known without another file. It repeats
// some rules of bundle.Manifest.Validate, because here the answer has a line.
func (p *Project) check() error {
	for _, f := range []func() error{p.checkApp, p.checkImages, p.checkDevice, p.checkData, p.checkEnv, p.checkFiles, p.checkEngine, p.checkTree, p.checkTrust} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// at makes an error at a place of the file.
func (p *Project) at(path []any, format string, args ...any) error {
	return p.doc.at(path, format, args...)
}

func (p *Project) checkApp() error {
	if p.App == "" {
		return p.at(nil, "app is missing")
	}
	if !bundle.ValidApp(p.App) {
		return p.at([]any{"app"}, "app is %q, want a lower-case letter, then up to 62 lower-case letters, digits and hyphens", p.App)
	}
	if !projectPattern.MatchString(p.Project) {
		return p.at([]any{"project"}, "project is %q, want lower-case letters, digits, hyphens and underscores", p.Project)
	}
	if p.VersionEnv != "" && !bundle.ValidEnvKey(p.VersionEnv) {
		return p.at([]any{"version_env"}, "version_env is %q, want the name of a variable", p.VersionEnv)
	}
	if len(p.Platforms) == 0 {
		return p.at([]any{"platforms"}, "platforms is missing, want for example [linux/amd64, linux/arm64]")
	}
	if len(p.Platforms) > bundle.MaxPlatforms {
		return p.at([]any{"platforms"}, "%d platforms, limit %d", len(p.Platforms), bundle.MaxPlatforms)
	}
	for i, s := range p.Platforms {
		q, err := bundle.ParsePlatform(string(s))
		if err != nil {
			return p.at([]any{"platforms", i}, "%v", err)
		}
		if slices.Contains(p.Platforms[:i], q) {
			return p.at([]any{"platforms", i}, "platform %s is listed twice", q)
		}
		p.Platforms[i] = q
	}
	if p.Legacy != "" {
		q, err := bundle.ParsePlatform(string(p.Legacy))
		if err != nil || !slices.Contains(p.Platforms, q) {
			return p.at([]any{"legacy"}, "legacy is %q, want the one of platforms whose images updaters older than Valise take", p.Legacy)
		}
		p.Legacy = q
	}
	for _, s := range sortedKeys(p.Arch) {
		if q, err := bundle.ParsePlatform(s); err != nil || string(q) != s || strings.ContainsAny(p.Arch[s], "/\\ ") || p.Arch[s] == "" {
			return p.at([]any{"arch", s}, "want a platform and its name in your files, for example linux/amd64: x86_64-linux")
		}
	}
	return nil
}

func (p *Project) checkImages() error {
	for _, host := range sortedKeys(p.Registries) {
		if !hostPattern.MatchString(host) {
			return p.at([]any{"registries", host}, "registry %q is not a host: want for example docker.io or registry.example.com:5000", host)
		}
		r := p.Registries[host]
		if r.HTTP && r.CA != "" {
			return p.at([]any{"registries", host}, "registry %s has http and ca: who certifies it counts with HTTPS only", host)
		}
		for i, mirror := range r.Mirrors {
			if !mirrorPattern.MatchString(mirror) {
				return p.at([]any{"registries", host, "mirrors", i}, "mirror %q, want HOST or HOST/PATH", mirror)
			}
		}
	}
	for _, name := range sortedKeys(p.Images) {
		img := p.Images[name]
		at := []any{"images", name}
		if nameOf(name) != name {
			return p.at(at, "image %q has a tag or digest, want the name alone: %q", name, nameOf(name))
		}
		if err := p.checkSources(name, img); err != nil {
			return err
		}
		if !img.From.empty() || img.Dockerfile != "" {
			if !img.unchanged() {
				return p.at(at, "image %q is taken as it is; to change it write base in place of %s", name, img.sources()[0])
			}
			continue
		}
		if err := p.checkMade(name, img); err != nil {
			return err
		}
	}
	return nil
}

// sources are the keys that say where the image comes from.
func (i Image) sources() []string {
	var keys []string
	if !i.From.empty() {
		keys = append(keys, "from")
	}
	if i.Base != "" {
		keys = append(keys, "base")
	}
	if i.Go != nil {
		keys = append(keys, "go")
	}
	if i.Dockerfile != "" {
		keys = append(keys, "dockerfile")
	}
	return keys
}

// checkSources checks where an image comes from.
func (p *Project) checkSources(name string, img Image) error {
	at := func(more ...any) []any { return append([]any{"images", name}, more...) }
	switch keys := img.sources(); {
	case len(keys) == 0:
		return p.at(at(), "image %q has no source, want from, base, go or dockerfile", name)
	case len(keys) > 1:
		return p.at(at(), "image %q has both %s and %s, want one", name, keys[0], keys[1])
	case img.Dockerfile == "" && (img.Context != "" || img.Target != "" || len(img.Args) > 0):
		return p.at(at(), "image %q has context, target or args, which belong to dockerfile", name)
	}
	check := func(source, key string, more ...any) error {
		where := at(append([]any{key}, more...)...)
		for _, prefix := range []string{"oci:", "archive:", "docker:"} {
			if source == prefix {
				return p.at(where, "image %q: %s needs a name", name, prefix)
			}
		}
		switch source {
		case "":
			return p.at(where, "image %q: a source is empty", name)
		case Scratch:
			if key == "from" {
				return p.at(where, "from is %q, which holds nothing; write base: %s and files", source, Scratch)
			}
		}
		if _, err := render(key, source, p.versionVars("0.0.0")); err != nil {
			return p.at(where, "%v", err)
		}
		return nil
	}
	for _, platform := range sortedKeys(img.From.Each) {
		if q, err := bundle.ParsePlatform(string(platform)); err != nil || q != platform {
			return p.at(at("from", string(platform)), "want platform %s, got %q", orExample(q), platform)
		}
		if err := check(img.From.Each[platform], "from", string(platform)); err != nil {
			return err
		}
	}
	for _, platform := range p.Platforms {
		if _, ok := img.From.Each[platform]; img.From.Each != nil && !ok {
			return p.at(at("from"), "image %q has no source for %s", name, platform)
		}
	}
	switch {
	case img.From.Source != "":
		return check(img.From.Source, "from")
	case img.Base != "":
		return check(img.Base, "base")
	case img.Go != nil:
		if img.Go.Package == "" {
			return p.at(at("go"), "image %q: go needs package, the directory of the program", name)
		}
		for _, key := range sortedKeys(img.Go.Env) {
			if !bundle.ValidEnvKey(key) {
				return p.at(at("go", "env", key), "%q is not the name of a variable", key)
			}
		}
		if _, err := render("ldflags", img.Go.Ldflags, p.versionVars("0.0.0")); err != nil {
			return p.at(at("go", "ldflags"), "%v", err)
		}
		if img.Go.Base != "" {
			return check(img.Go.Base, "go", "base")
		}
	case img.Dockerfile != "":
		for _, key := range sortedKeys(img.Args) {
			if _, err := render("args", img.Args[key], p.versionVars("0.0.0")); err != nil {
				return p.at(at("args", key), "%v", err)
			}
		}
	}
	return nil
}

func orExample(p bundle.Platform) bundle.Platform {
	if p == "" {
		return "linux/arm64"
	}
	return p
}

// unchanged reports whether nothing says how to change the image.
func (i Image) unchanged() bool {
	return len(i.Files) == 0 && i.Entrypoint == nil && i.Cmd == nil && len(i.Env) == 0 && i.User == "" &&
		i.Workdir == "" && len(i.Labels) == 0 && len(i.Expose) == 0 && i.StopSignal == ""
}

func (p *Project) checkMade(name string, img Image) error {
	at := func(more ...any) []any { return append([]any{"images", name}, more...) }
	if img.Base == Scratch && len(img.Files) == 0 {
		return p.at(at("base"), "image %q has no files on an empty base", name)
	}
	for i, c := range img.Files {
		if c.From == "" || c.To == "" {
			return p.at(at("files", i), "want from and to")
		}
		if _, err := c.Render(p.Vars("linux/amd64", "0.0.0")); err != nil {
			return p.at(at("files", i, "from"), "%v", err)
		}
		if !path.IsAbs(c.To) || path.Clean(c.To) != c.To || c.To == "/" {
			return p.at(at("files", i, "to"), "to is %q, want a clean absolute path below /", c.To)
		}
		if _, err := c.FileMode(); err != nil {
			return p.at(at("files", i, "mode"), "mode is %q, want octal digits in quotes, for example \"0755\"", c.Mode)
		}
	}
	for _, key := range sortedKeys(img.Env) {
		if !bundle.ValidEnvKey(key) {
			return p.at(at("env", key), "%q is not the name of a variable", key)
		}
	}
	if img.Workdir != "" && (!path.IsAbs(img.Workdir) || path.Clean(img.Workdir) != img.Workdir) {
		return p.at(at("workdir"), "workdir is %q, want a clean absolute path", img.Workdir)
	}
	for i, e := range img.Expose {
		if !exposePattern.MatchString(e) {
			return p.at(at("expose", i), "expose is %q, want PORT or PORT/PROTOCOL", e)
		}
	}
	if img.StopSignal != "" && !signalPattern.MatchString(img.StopSignal) {
		return p.at(at("stop_signal"), "stop_signal is %q, want for example SIGTERM", img.StopSignal)
	}
	return nil
}

// FileMode is the permission bits of c.Mode, 0 when it is empty.
func (c Copy) FileMode() (uint32, error) {
	if c.Mode == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(c.Mode, 8, 32)
	if err == nil && (n == 0 || n > 0o7777) {
		err = strconv.ErrRange
	}
	return uint32(n), err
}

func (p *Project) kind() string {
	if p.Tree != nil {
		return bundle.KindTree
	}
	return bundle.KindCompose
}

// checkDevice: what acts on the device has its rules in package bundle; here they get a line.
func (p *Project) checkDevice() error {
	if err := p.Health.Check(p.kind()); err != nil {
		return p.at([]any{"health"}, "health: %v", err)
	}
	for _, name := range sortedKeys(p.Hooks) {
		h := p.Hooks[name]
		if err := h.Check(name); err != nil {
			return p.at([]any{"hooks", name}, "hook %v", err)
		}
		if h.Service == "" && !p.lists(h.Run[0]) {
			return p.at([]any{"hooks", name, "run"}, "hook %s: %s is not in the bundle: list it under files, or name a service to run it in", name, h.Run[0])
		}
	}
	if err := p.Limits.Check(); err != nil {
		return p.at([]any{"limits"}, "limits: %v", err)
	}
	for i, b := range p.Backup {
		if err := b.Check(); err != nil {
			return p.at([]any{"backup", i}, "backup: %v", err)
		}
	}
	if err := (&bundle.Device{Backup: p.Backup, Migration: p.Migration, Rollback: p.Rollback}).CheckRollback(); err != nil {
		return p.at([]any{"rollback"}, "rollback: %v", err)
	}
	if r := p.Requires; r != nil && r.From != "" {
		if _, err := bundle.ParseVersion(r.From); err != nil {
			return p.at([]any{"requires", "from"}, "requires: from: %v", err)
		}
	}
	return nil
}

func (p *Project) checkData() error {
	for _, key := range sortedKeys(p.Secrets) {
		s := p.Secrets[key]
		at := []any{"secrets", key}
		if !bundle.ValidEnvKey(key) {
			return p.at(at, "%q is not the name of a variable", key)
		}
		if err := s.Check(); err != nil {
			return p.at(at, "%s: %v", key, err)
		}
	}
	if k := p.Keep.Releases; k < 2 || k > 100 {
		return p.at([]any{"keep", "releases"}, "releases is %d, want 2 to 100: the running one and one to roll back to", k)
	}
	if k := p.Keep.Backups; k < 1 || k > 1000 {
		return p.at([]any{"keep", "backups"}, "backups is %d, want 1 to 1000", k)
	}
	return nil
}

func (p *Project) checkTrust() error {
	t := p.Trust
	if t == nil {
		return nil
	}
	if len(t.Signers) == 0 && t.TrustedRoot == "" {
		return p.at([]any{"trust"}, "trust is empty, want signers, trusted_root or both")
	}
	for i, s := range t.Signers {
		identity := s.Issuer != "" && (s.Identity == "") != (s.IdentityRegexp == "")
		if (s.Key != "") == identity || s.Key != "" && s != (bundle.Signer{Key: s.Key}) {
			return p.at([]any{"trust", "signers", i}, "want key (a file), or issuer with identity or identity_regexp")
		}
	}
	if f := t.TrustedRoot; f != "" && (!filepath.IsLocal(f) || filepath.ToSlash(filepath.Clean(f)) != f) {
		return p.at([]any{"trust", "trusted_root"}, "file %q is not a clean path below the directory of %s", f, DefaultFile)
	}
	return nil
}

func (p *Project) checkFiles() error {
	if (len(p.Compose) == 0 || slices.Contains(p.Compose, "")) && p.Tree == nil {
		return p.at(nil, "compose is missing, want the path of the compose file, or tree, the files of an app that systemd runs")
	}
	for i, name := range p.Compose {
		if slices.Contains(p.Compose[:i], name) {
			return p.at([]any{"compose", i}, "%s is listed twice", name)
		}
	}
	for i, name := range p.Profiles {
		if !profilePattern.MatchString(name) || slices.Contains(p.Profiles[:i], name) {
			return p.at([]any{"profiles", i}, "profile %q is listed twice or is not a name of a profile", name)
		}
	}
	for i, f := range p.Files {
		// The path is the same in the bundle, so it must not lead out of it.
		name := strings.TrimPrefix(f.Path, "!")
		if !filepath.IsLocal(name) || filepath.ToSlash(filepath.Clean(name)) != name || name == "." {
			return p.at([]any{"files", i}, "file %q is not a clean path below the directory of %s", f.Path, DefaultFile)
		}
		if slices.ContainsFunc(p.Files[:i], func(g FileItem) bool { return g.Path == f.Path }) {
			return p.at([]any{"files", i}, "file %q is listed twice", f.Path)
		}
	}
	if _, err := template.New("output").Parse(p.Output); err != nil {
		return p.at([]any{"output"}, "%v", err)
	}
	if _, err := p.OutputName("0.0.0", ""); err != nil {
		return p.at([]any{"output"}, "%v", err)
	}
	return nil
}
