package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

const (
	debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	maxPackages   = 1 << 30          // bytes of all packages of a platform
	maxAptOutput  = 256 << 20        // bytes that apt prints: its list of all packages is some 80 MiB
	maxAptError   = 1 << 10          // bytes of why apt fails: a body without end is named for each piece of it
	aptTimeout    = 30 * time.Minute // one call of apt
)

// debianEngine is what an engine needs on Debian. docker.io only recommends apparmor, but
// where the kernel has it no container starts without.
var debianEngine = []string{"docker.io", "apparmor"}

// fetchDebian has apt find the packages of an engine, for a machine that has nothing but
// the required ones, and downloads them. apt checks the signature of the index and the
// digest of every package; its state is private, and nothing is installed.
func (a *app) fetchDebian(ctx context.Context, p *project.Project, e *project.Engine, platform bundle.Platform, arch string) error {
	target := filepath.Join(p.Path(e.Dir), platform.Dashed())
	pinned, here := map[string]string{}, true
	for name, sum := range e.Pinned(platform) {
		if strings.HasSuffix(name, ".deb") {
			pinned[name] = sum
			got, err := hashFile(ctx, project.ReleaseFile{Source: filepath.Join(target, name)})
			here = here && err == nil && got.Digest == bundle.Digest("sha256:"+sum)
		}
	}
	if len(pinned) > 0 && here {
		return nil
	}
	keyring := cmp.Or(e.Mirrors.Keyring, debianKeyring)
	if e.Mirrors.Keyring != "" {
		keyring = p.Path(keyring)
	}
	if _, err := os.Stat(keyring); err != nil {
		return cli.WithHint(fmt.Errorf("find the keys of Debian: %w", err), "apt-get install debian-archive-keyring")
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return cli.WithHint(fmt.Errorf("find the packages of Debian: %w", err), "use a machine with apt, such as Debian or Ubuntu, or leave --debian out for Docker's static archive")
	}
	dir, err := os.MkdirTemp("", "valise-apt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	keys := filepath.Join(dir, "keys"+filepath.Ext(keyring)) // a source of apt takes no path with a space
	if err := copyTo(keys, keyring); err != nil {
		return err
	}
	apt := &apt{dir: dir, config: filepath.Join(dir, "apt.conf")}
	if err := apt.prepare(ctx, e, keys, arch); err != nil {
		return err
	}
	a.UI.Step("apt", "read the index of "+e.Debian+" for "+arch)
	packages, err := apt.resolve(ctx)
	if err != nil {
		return cli.WithHint(fmt.Errorf("find the packages of Debian %s for %s: %w", e.Debian, arch, err), "is %s the name of a release, and does the mirror have it? engine.mirrors in %s names others", e.Debian, p.File)
	}
	found := map[string]string{}
	for _, d := range packages {
		found[d.name] = d.sum
	}
	if len(pinned) > 0 && !maps.Equal(pinned, found) {
		return cli.WithHint(fmt.Errorf("packages of Debian %s for %s are not those that %s has digests of: %s", e.Debian, arch, p.File, changedPackages(pinned, found)),
			"valise engine fetch --update takes them")
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	a.UI.Step("apt", fmt.Sprintf("download %d packages", len(packages)))
	if _, err := apt.run(ctx, "apt-get", append([]string{"install", "--yes", "--no-install-recommends", "--download-only"}, debianEngine...)...); err != nil {
		return err
	}
	for _, d := range packages {
		from := filepath.Join(dir, "cache/archives", d.archive)
		got, err := hashFile(ctx, project.ReleaseFile{Source: from})
		if err != nil {
			return err
		}
		if got.Digest != bundle.Digest("sha256:"+d.sum) {
			return fmt.Errorf("%s has %s, want sha256:%s", d.name, got.Digest, d.sum)
		}
		if err := copyTo(filepath.Join(target, d.name), from); err != nil {
			return err
		}
		e.SHA256[platform.Dashed()+"/"+d.name] = d.sum
	}
	return nil
}

func copyTo(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	f, err := newFile(to)
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := io.Copy(f, in); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// changedPackages names some files that only one of two lists has.
func changedPackages(a, b map[string]string) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if a[name] != b[name] {
			list = append(list, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if b[name] == "" {
			list = append(list, "no "+name)
		}
	}
	if len(list) > 5 {
		list = append(list[:5], fmt.Sprintf("and %d more", len(list)-5))
	}
	return strings.Join(list, ", ")
}

// apt is apt with a state of its own.
type apt struct{ dir, config string }

// prepare writes its configuration. From the machine come only proxies.
func (t *apt) prepare(ctx context.Context, e *project.Engine, keyring, arch string) error {
	for _, name := range []string{"none", "lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(t.dir, name), 0o755); err != nil {
			return err
		}
	}
	host, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return fmt.Errorf("apt-config: %w", err)
	}
	none := filepath.Join(t.dir, "none")
	var config bytes.Buffer
	for line := range strings.Lines(string(host)) {
		if strings.HasPrefix(line, "Acquire::http") {
			config.WriteString(line)
		}
	}
	for _, o := range [][2]string{
		{"Dir::Etc::main", "/dev/null"}, {"Dir::Etc::parts", none}, {"Dir::Etc::preferences", "/dev/null"}, {"Dir::Etc::preferencesparts", none},
		{"Dir::Etc::sourcelist", filepath.Join(t.dir, "sources.list")}, {"Dir::Etc::sourceparts", none},
		{"Dir::State", t.dir}, {"Dir::State::lists", filepath.Join(t.dir, "lists")}, {"Dir::State::status", t.status()}, {"Dir::Cache", filepath.Join(t.dir, "cache")},
		{"Dir::Log", t.dir}, {"APT::Architecture", arch}, {"APT::Architectures", arch}, {"APT::Sandbox::User", "root"}, {"APT::Update::Error-Mode", "any"},
		{"Acquire::Languages", "none"}, {"Acquire::PDiffs", "false"}, {"Acquire::Retries", "2"}, {"Acquire::http::Timeout", "60"},
	} {
		fmt.Fprintf(&config, "%s %q;\n", o[0], o[1])
	}
	var sources bytes.Buffer
	for _, s := range [][2]string{{cmp.Or(e.Mirrors.Debian, debianURL), e.Debian}, {cmp.Or(e.Mirrors.Debian, debianURL), e.Debian + "-updates"}, {cmp.Or(e.Mirrors.Security, securityURL), e.Debian + "-security"}} {
		fmt.Fprintf(&sources, "deb [signed-by=%s] %s %s main\n", keyring, s[0], s[1])
	}
	return errors.Join(os.WriteFile(t.config, config.Bytes(), 0o600), os.WriteFile(filepath.Join(t.dir, "sources.list"), sources.Bytes(), 0o600), os.WriteFile(t.status(), nil, 0o600))
}

func (t *apt) status() string { return filepath.Join(t.dir, "status") }

var (
	simulated = lazyregexp.New(`(?m)^Inst (\S+) `)
	// printed is a line of apt-get --print-uris: address, name of the download, size.
	printed = lazyregexp.New(`(?m)^'([^']+)' (\S+) ([0-9]+)( |$)`)
	// packageFile and packageSum are lines of the index, which is signed.
	packageFile = lazyregexp.New(`(?m)^Filename: (\S+)$`)
	packageSum  = lazyregexp.New(`(?m)^SHA256: ([0-9a-f]{64})$`)
)

// deb is a package to download.
type deb struct {
	name    string // of the file, in the mirror and in the bundle
	archive string // that apt gives it
	sum     string // SHA-256
}

// resolve returns the files that an engine needs on a machine that has the required
// packages and what they depend on.
func (t *apt) resolve(ctx context.Context) ([]deb, error) {
	if _, err := t.run(ctx, "apt-get", "update"); err != nil {
		return nil, err
	}
	available, err := t.run(ctx, "apt-cache", "dumpavail")
	if err != nil {
		return nil, err
	}
	records, sums := map[string][]byte{}, map[string]string{}
	var required []string
	for record := range bytes.SplitSeq(available, []byte("\n\n")) {
		name, _, _ := bytes.Cut(bytes.TrimPrefix(record, []byte("Package: ")), []byte("\n"))
		if file, sum := packageFile.FindSubmatch(record), packageSum.FindSubmatch(record); file != nil && sum != nil {
			sums[path.Base(string(file[1]))] = string(sum[1])
		}
		if records[string(name)] != nil {
			continue
		}
		records[string(name)] = record
		if bytes.Contains(record, []byte("\nPriority: required\n")) || bytes.Contains(record, []byte("\nEssential: yes\n")) {
			required = append(required, string(name))
		}
	}
	if len(required) == 0 {
		return nil, errors.New("its index has no required packages")
	}
	out, err := t.run(ctx, "apt-get", append([]string{"install", "--simulate", "--no-install-recommends"}, required...)...)
	if err != nil {
		return nil, err
	}
	var status bytes.Buffer
	for _, m := range simulated.FindAllSubmatch(out, -1) {
		record, ok := bytes.CutPrefix(records[string(m[1])], []byte("Package: "+string(m[1])+"\n"))
		if ok {
			fmt.Fprintf(&status, "Package: %s\nStatus: install ok installed\n%s\n\n", m[1], record)
		}
	}
	if err := os.WriteFile(t.status(), status.Bytes(), 0o600); err != nil {
		return nil, err
	}
	out, err = t.run(ctx, "apt-get", append([]string{"install", "--yes", "--no-install-recommends", "--print-uris"}, debianEngine...)...)
	if err != nil {
		return nil, err
	}
	var debs []deb
	size := 0
	for _, m := range printed.FindAllSubmatch(out, -1) {
		n, err := strconv.Atoi(string(m[3]))
		if err != nil {
			return nil, err
		}
		size += n
		address, err := url.PathUnescape(string(m[1]))
		if err != nil {
			return nil, err
		}
		d := deb{name: path.Base(address), archive: string(m[2])}
		if d.sum = sums[d.name]; d.sum == "" {
			return nil, fmt.Errorf("its index has no SHA-256 of %s", d.name)
		}
		debs = append(debs, d)
	}
	if size > maxPackages || len(debs) == 0 {
		return nil, fmt.Errorf("%d packages of %d bytes, want some, of %d bytes at most", len(debs), size, maxPackages)
	}
	return debs, nil
}

func (t *apt) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, aptTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, name, append([]string{"-q"}, args...)...)
	c.Env = append(os.Environ(), "APT_CONFIG="+t.config, "LC_ALL=C")
	out, log := &limited{limit: maxAptOutput}, &limited{limit: maxAptOutput}
	c.Stdout, c.Stderr = out, log
	if err := c.Run(); err != nil {
		said := cli.OneLine(log.String())
		if len(said) > maxAptError {
			said = strings.ToValidUTF8(said[:maxAptError], "") + "..."
		}
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, said)
	}
	return out.Bytes(), nil
}

// limited is a buffer that does not grow without end.
type limited struct {
	bytes.Buffer
	limit int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > l.limit {
		return 0, fmt.Errorf("more than %d bytes", l.limit)
	}
	return l.Buffer.Write(p)
}
