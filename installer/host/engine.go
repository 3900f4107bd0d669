// Package host prepares a machine for its first app: it gives it a container
// engine and docker compose where there are none, from what a verified release
// carries, else from the distribution.
package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/systemd"
	"github.com/valise-ota/valise/verify"
)

// What the carried files are called.
const (
	composeName   = "docker-compose"
	packageSuffix = ".deb"
	archiveSuffix = ".tgz"
)

// Machine is what is prepared. Everything it runs, it runs without a shell.
type Machine struct {
	Root string // directory that stands for /; anything but / is for tests of what is written
	Path string // PATH of the commands
	// Spool is a directory of ours on a disk that keeps files: packages are
	// written there, read by dpkg and removed.
	Spool string
	// Report says what happens; it may be nil.
	Report func(step, detail string)
}

// NoEngineError says that there is no engine and nothing to install one from.
type NoEngineError struct {
	What   string // "a container engine", "docker compose"
	Carry  string // directory of the bundle that was looked into
	Reason string // why the distribution could not help
	Bring  string // what an operator can do about it without a network
}

// Kind names these errors for front ends.
func (e *NoEngineError) Kind() string { return "engine" }

func (e *NoEngineError) Error() string {
	return fmt.Sprintf("this machine has no usable %s, the bundle carries none in %s, and the distribution gave none: %s", e.What, e.Carry, e.Reason)
}

// Platform is the platform of programs on this machine: that of its packages,
// since a kernel may be of another one.
func (m *Machine) Platform(ctx context.Context) bundle.Platform {
	if out, err := m.output(ctx, "dpkg", "--print-architecture"); err == nil {
		return platform(strings.TrimSpace(out))
	}
	return Platform()
}

// Platform is that of this machine as far as this program can tell: it is built for
// it.
func Platform() bundle.Platform { return platform(runtime.GOARCH) }

// platform is that of an architecture, as Go or Debian calls it.
func platform(arch string) bundle.Platform {
	switch arch {
	case "arm", "armhf":
		return "linux/arm/v7"
	}
	return bundle.Platform("linux/" + arch)
}

// Carried are the files of rel for an engine on platform p.
func Carried(rel *verify.Release, p bundle.Platform) []bundle.File {
	prefix := bundle.EnginePath(p)
	var files []bundle.File
	for _, f := range rel.Manifest().Files {
		if strings.HasPrefix(f.Path, prefix) {
			files = append(files, f)
		}
	}
	return files
}

// InstallEngine installs a container engine. It may be repeated after an
// interruption, and leaves alone what is there already in the same or a newer version.
func (m *Machine) InstallEngine(ctx context.Context, rel *verify.Release) error {
	p := m.Platform(ctx)
	packages, archive := split(Carried(rel, p))
	switch {
	case len(packages) > 0:
		return m.installPackages(ctx, rel, packages)
	case archive != nil:
		return m.installArchive(ctx, rel, *archive)
	}
	// Where the kernel has AppArmor the engine starts no container without its
	// tools, which it only recommends.
	return m.fromDistribution(ctx, NoEngineError{What: "container engine", Carry: bundle.EnginePath(p),
		Bring: "\"apt-get install --download-only docker.io apparmor\" on a machine of the same distribution puts the packages into /var/cache/apt/archives, \"dpkg -i *.deb\" installs them here"},
		[]string{"docker.io", "apparmor"})
}

// InstallCompose installs docker compose.
func (m *Machine) InstallCompose(ctx context.Context, rel *verify.Release) error {
	p := m.Platform(ctx)
	for _, f := range Carried(rel, p) {
		if path.Base(f.Path) == composeName {
			m.report("engine", "install docker compose from the bundle")
			return m.place(rel, f, "usr/local/lib/docker/cli-plugins", composeName)
		}
	}
	// Ubuntu, Docker's own repository, Debian 13. That of Debian 12 is version 1,
	// a program of its own in Python, which is of no use here.
	return m.fromDistribution(ctx, NoEngineError{What: "docker compose", Carry: bundle.EnginePath(p),
		Bring: "docker-compose of Docker's releases (2 or newer, for this machine) belongs at /usr/local/lib/docker/cli-plugins/docker-compose, mode 755"},
		[]string{"docker-compose-v2"}, []string{"docker-compose-plugin"}, []string{"docker-compose=2*"})
}

// StartEngine starts the engine now and at every boot.
func (m *Machine) StartEngine(ctx context.Context) error {
	m.report("engine", "start it")
	if err := systemd.Enable(ctx, "docker.service"); err != nil {
		return err
	}
	return systemd.Start(ctx, "docker.service")
}

// HasEngine reports whether an engine is installed, running or not.
func (m *Machine) HasEngine() bool { return m.look("dockerd") != "" }

func split(files []bundle.File) (packages []bundle.File, archive *bundle.File) {
	for i, f := range files {
		switch {
		case strings.HasSuffix(f.Path, packageSuffix):
			packages = append(packages, f)
		case strings.HasSuffix(f.Path, archiveSuffix):
			archive = &files[i]
		}
	}
	return packages, archive
}

// installPackages gives all packages to one dpkg, which orders them itself. It
// refuses downgrades, and skips what is there unless an earlier call was cut off:
// what was unpacked then is only configured together with what it depends on.
func (m *Machine) installPackages(ctx context.Context, rel *verify.Release, packages []bundle.File) error {
	if m.look("dpkg") == "" {
		return errors.New("install container engine: the bundle carries Debian packages, and this system has no dpkg")
	}
	root, cleanUp, err := m.spool()
	if err != nil {
		return err
	}
	defer cleanUp()
	args := []string{"--refuse-downgrade"}
	if half, err := m.output(ctx, "dpkg", "--audit"); err == nil && half == "" {
		args = append(args, "--skip-same-version")
	}
	args = append(args, "--install")
	for _, f := range packages {
		name := path.Base(f.Path)
		if err := copyFile(rel, f, root, name, 0o644); err != nil {
			return err
		}
		args = append(args, filepath.Join(root.Name(), name))
	}
	m.report("engine", fmt.Sprintf("install %d packages from the bundle", len(packages)))
	if _, err := m.output(ctx, "dpkg", args...); err != nil {
		return fmt.Errorf("install container engine: %w", err)
	}
	return nil
}

// spool makes an empty directory of ours, and cleanUp removes it. Its name is
// fixed: what a power cut left does not stay beside the next one.
func (m *Machine) spool() (dir *os.Root, cleanUp func(), err error) {
	name := filepath.Join(m.Spool, "engine")
	err = errors.Join(os.RemoveAll(name), os.MkdirAll(name, 0o700))
	if err == nil {
		dir, err = os.OpenRoot(name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make directory: %w", err)
	}
	return dir, func() { dir.Close(); os.RemoveAll(name) }, nil
}

// place puts one verified file below Root.
func (m *Machine) place(rel *verify.Release, f bundle.File, dir, name string) error {
	full := filepath.Join(m.Root, dir)
	if err := os.MkdirAll(full, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	root, err := os.OpenRoot(full)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer root.Close()
	return copyFile(rel, f, root, name, 0o755)
}

// copyFile writes a file of the release; its bytes are compared with the
// manifest on the way.
func copyFile(rel *verify.Release, f bundle.File, dir *os.Root, name string, mode os.FileMode) error {
	r, err := rel.OpenFile(f.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	return release.CopyFile(dir, name, r, mode)
}

// fromDistribution installs the first of sets that the package manager has.
func (m *Machine) fromDistribution(ctx context.Context, none NoEngineError, sets ...[]string) error {
	none.Reason = "there is no apt-get here"
	if m.look("apt-get") == "" {
		return &none
	}
	m.report("engine", "ask the distribution for "+none.What)
	// Fails without a network; what is in the lists may be enough.
	_, updateErr := m.output(ctx, "apt-get", "update", "-qq")
	// An earlier call may have been cut off: apt-get installs nothing before that is
	// mended, first by dpkg. What cannot be mended is told below.
	_, _ = m.output(ctx, "dpkg", "--configure", "--pending")
	_, _ = m.output(ctx, "apt-get", "install", "-qq", "--no-install-recommends", "--no-remove", "--fix-broken")
	var last error
	for _, set := range sets {
		_, last = m.output(ctx, "apt-get", append([]string{"install", "-qq", "--no-install-recommends"}, set...)...)
		if last == nil {
			return nil
		}
		if ctx.Err() != nil {
			return last
		}
	}
	none.Reason = errors.Join(updateErr, last).Error()
	return &none
}

func (m *Machine) report(step, detail string) {
	if m.Report != nil {
		m.Report(step, detail)
	}
}

// engineFiles are the programs of Docker's static archive.
var engineFiles = []string{"containerd", "containerd-shim-runc-v2", "ctr", "docker", "docker-init", "docker-proxy", "dockerd", "runc"}

func isEngineFile(name string) bool { return slices.Contains(engineFiles, name) }
