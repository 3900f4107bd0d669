package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debs is a directory of downloaded packages of one architecture.
type debs struct {
	dir   string
	cache map[string]tree // unpacked packages by name
}

func (d *debs) remove() { os.RemoveAll(d.dir) }

// file returns the path of the downloaded package: apt calls it NAME_VERSION_ARCH.deb.
func (d *debs) file(name string) (string, error) {
	found, err := filepath.Glob(filepath.Join(d.dir, name+"_*.deb"))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("package %s: %d files downloaded, want 1", name, len(found))
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// download has apt fetch packages for arch into a temporary directory. apt checks the signature of the index and
// the digest of every package, as for an installation. Its state is private: the machine's own stays untouched,
// and so do its hooks. From the machine come the sources, the keyrings and the proxy settings.
func download(arch, sources string, packages []string) (*debs, error) {
	dir, err := os.MkdirTemp("", "debimage-") // not in a home: apt downloads as a user of its own
	if err != nil {
		return nil, err
	}
	d := &debs{dir: dir, cache: map[string]tree{}}
	if err := d.fetch(arch, sources, packages); err != nil {
		d.remove()
		return nil, err
	}
	return d, nil
}

func (d *debs) fetch(arch, sources string, packages []string) error {
	for _, name := range []string{"none", "lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(d.dir, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(d.dir, 0o777|os.ModeSticky); err != nil { // apt's own user writes here
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "status"), nil, 0o644); err != nil {
		return err
	}
	lines := []string{
		option("Dir::Etc::main", "/dev/null"),
		option("Dir::Etc::parts", filepath.Join(d.dir, "none")),
		option("Dir::Etc::preferences", "/dev/null"),
		option("Dir::Etc::preferencesparts", filepath.Join(d.dir, "none")),
		option("Dir::State", d.dir),
		option("Dir::State::lists", filepath.Join(d.dir, "lists")),
		option("Dir::State::status", filepath.Join(d.dir, "status")),
		option("Dir::Cache", filepath.Join(d.dir, "cache")),
		option("APT::Architecture", arch),
		option("APT::Architectures", arch),
		option("Acquire::Languages", "none"),
		option("Acquire::PDiffs", "false"),
		option("Acquire::Retries", "2"),
	}
	if sources != "" {
		path, err := filepath.Abs(sources)
		if err != nil {
			return err
		}
		lines = append(lines, option("Dir::Etc::sourcelist", path), option("Dir::Etc::sourceparts", filepath.Join(d.dir, "none")))
	}
	host, err := exec.Command("apt-config", "dump").Output()
	if err != nil {
		return fmt.Errorf("apt-config: %w; this program needs a machine with apt", err)
	}
	for line := range strings.Lines(string(host)) {
		if strings.HasPrefix(line, "Acquire::http") || strings.HasPrefix(line, "Acquire::https") {
			lines = append(lines, line)
		}
	}
	config := filepath.Join(d.dir, "apt.conf")
	if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}

	// A third-party source that does not answer is no failure: the download decides.
	updateLog, _ := d.apt(config, "update")
	if sources == "" {
		if other, err := d.debian12(config); err != nil {
			return err
		} else if other != "" {
			lines = append(lines, option("Dir::Etc::sourcelist", other), option("Dir::Etc::sourceparts", filepath.Join(d.dir, "none")))
			if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
				return err
			}
			updateLog, _ = d.apt(config, "update")
		}
	}
	if log, err := d.apt(config, append([]string{"download"}, packages...)...); err != nil {
		return fmt.Errorf("apt-get download: %w\n%s%sthe packages are those of Debian 12: elsewhere, pass -sources a file that names a Debian 12 mirror and its keyring",
			err, updateLog, log)
	}
	return nil
}

// debian12 writes a sources file for Debian 12 on the mirror that a machine with another Debian uses, and returns its
// path; nothing on a machine that has Debian 12 among its sources, or no Debian.
func (d *debs) debian12(config string) (string, error) {
	cmd := exec.Command("apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages", "Origin: Debian")
	cmd.Env = append(os.Environ(), "APT_CONFIG="+config, "LC_ALL=C")
	targets, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("apt-get indextargets: %w", err)
	}
	const codename, keyring = "bookworm", "/usr/share/keyrings/debian-archive-keyring.gpg"
	mirror := ""
	for line := range strings.Lines(string(targets)) {
		switch name, uri, _ := strings.Cut(strings.TrimSpace(line), " "); {
		case name == codename:
			return "", nil
		case !strings.Contains(name, "-"): // not the updates of one
			mirror = uri
		}
	}
	if mirror == "" {
		return "", nil
	}
	path := filepath.Join(d.dir, "debian12.list")
	return path, os.WriteFile(path, fmt.Appendf(nil, "deb [signed-by=%s] %s %s main\n", keyring, mirror, codename), 0o644)
}

func (d *debs) apt(config string, args ...string) ([]byte, error) {
	cmd := exec.Command("apt-get", append([]string{"-q"}, args...)...)
	cmd.Dir = d.dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+config, "LC_ALL=C")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	err := cmd.Run()
	return log.Bytes(), err
}

func option(name, value string) string { return fmt.Sprintf("%s %q;", name, value) }
