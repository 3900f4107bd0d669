// Command growth measures what the programs cost while one thing grows: time, peak memory and written bytes of whole
// processes. It makes all that it needs below -work, and removes it.
//
// A device is a directory that valise-installer has as its root, with a double of systemctl: scripts/growth/systemctl.
//
// By hand, as root on Debian, from the top of the repository:  go run ./scripts/growth [-only REGEXP] [-quick]
// make growth writes docs/growth.md and docs/images/growth.svg.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/valise-ota/valise/scripts/bench/history"
)

const (
	app    = "growth"
	doc    = "docs/growth.md"
	image  = "docs/images/growth.svg"
	rounds = 3 // of what is short
	long   = 10 * time.Second
)

// dimension is something that grows.
type dimension struct {
	name   string
	title  string
	unit   string // of sizes, if they have one
	sizes  []int
	most   string // why there is no larger one; empty where there could be
	lasts  bool   // a round goes on where the one of the size before ended, so that there is one
	round  func(ctx context.Context, n int) error
	series []*series
}

// series is one program, at each size of a dimension.
type series struct {
	program string
	points  []point
}

type point struct {
	n       int
	samples []sample
}

type sample struct {
	wall    float64 // s
	rss     float64 // bytes, of the largest process
	written float64 // bytes given to the file system
}

type growth struct {
	commit     string
	work, root string // scratch directory; what the device has as its root
	env        []string
	now        *dimension
	n          int
	missing    []string // what was not measured, and why
}

func main() {
	g := &growth{}
	flag.StringVar(&g.work, "work", "", "directory for scratch files, on the disk that is to be measured; a temporary one when empty")
	only := flag.String("only", ".", "regular expression: measure these (bundle, images, files, mounted, kept, records, drop, apps, clients) only")
	quick := flag.Bool("quick", false, "leave the largest of each out")
	write := flag.Bool("doc", false, "write the table into "+doc+" and the picture "+image+", in place of printing the table")
	flag.Parse()
	filter, err := regexp.Compile(*only)
	if err != nil || flag.NArg() != 0 {
		flag.Usage()
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := g.main(ctx, filter, *quick, *write); err != nil {
		note("%v", err)
		os.Exit(1)
	}
}

func (g *growth) main(ctx context.Context, only *regexp.Regexp, quick, write bool) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("run as root: a device is a root directory of its own")
	}
	if g.commit, err = history.Commit(); err != nil {
		return err
	}
	if g.work, err = os.MkdirTemp(g.work, "valise-growth-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(g.work)) }()
	if g.work, err = filepath.Abs(g.work); err != nil {
		return err
	}
	g.root = g.file("device")
	g.env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GO") }),
		"XDG_CACHE_HOME="+g.file("cache"), "COSIGN_PASSWORD=growth", "LC_ALL=C")
	build := exec.CommandContext(ctx, "go", "build", "-tags", "grpcnotrace", "-trimpath", "-buildvcs=false", "-o", g.work+"/",
		"./cmd/valise", "./cmd/valise-installer", "./scripts/growth/systemctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	if err := g.do(ctx, g.file("valise"), "keygen", g.file("key")); err != nil {
		return err
	}
	var measured []*dimension
	for _, d := range g.dimensions() {
		if !only.MatchString(d.name) {
			continue
		}
		if quick && len(d.sizes) > 1 {
			d.sizes = d.sizes[:len(d.sizes)-1]
		}
		if err := g.run(ctx, d); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		measured = append(measured, d)
	}
	if write {
		return g.write(measured)
	}
	_, err = fmt.Print(g.report(measured))
	return err
}

func (g *growth) dimensions() []*dimension {
	return []*dimension{
		{name: "bundle", title: "size of a bundle", unit: "MB", sizes: []int{100, 1000, 10_000, 50_000}, round: g.bundle},
		{name: "images", title: "images in a bundle", sizes: []int{1, 10, 100, 256}, most: "a bundle has at most 256 images, and 500 are refused", round: g.images},
		{name: "files", title: "files in a tree", sizes: []int{10, 1000, 39_000}, most: "a bundle has at most 40,000 files, and 100,000 are refused", round: g.files},
		{name: "mounted", title: "files in a mounted directory", sizes: []int{10, 1000, 39_000}, most: "as for a tree", round: g.mounted},
		{name: "kept", title: "kept releases", sizes: []int{1, 10, 100}, most: "a device keeps at most 100", lasts: true, round: g.kept},
		{name: "records", title: "records of an app", sizes: []int{10, 100, 1000, 10_000, 100_000}, lasts: true, round: g.records},
		{name: "drop", title: "bundles in a drop folder", sizes: []int{1, 10, 100, 1000}, most: "from 1,001 on, none is taken", round: g.drop},
		{name: "apps", title: "apps on a device", sizes: []int{1, 10, 100, 200}, lasts: true, round: g.apps},
		{name: "clients", title: "clients of the update page", sizes: []int{1, 100, 1000}, most: "the page has at most 1,024 connections", round: g.clients},
	}
}

// run measures a dimension at each of its sizes, and leaves nothing behind.
func (g *growth) run(ctx context.Context, d *dimension) error {
	g.now = d
	defer g.clean()
	for _, n := range d.sizes {
		g.n = n
		if need, free := g.room(); need > free {
			g.missing = append(g.missing, fmt.Sprintf("%s, %s: it needs %d GB of disk, and %d GB were free", d.title, amount(n, d.unit), need, free))
			continue
		}
		for start, round := time.Now(), 0; round < rounds; round++ {
			if err := d.round(ctx, n); err != nil {
				return fmt.Errorf("%d: %w", n, err)
			}
			if d.lasts || time.Since(start) > long {
				break
			}
		}
	}
	return nil
}

// room is how many GB a bundle of this size needs with its copies, and how many are free.
func (g *growth) room() (need, free int) {
	if g.now.name != "bundle" {
		return 0, 0
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(g.work, &st); err != nil {
		return 1, 0
	}
	return (2*g.n+g.n/10)/1000 + 1, int(st.Bavail * uint64(st.Bsize) / 1e9)
}

// clean removes what one dimension made.
func (g *growth) clean() {
	for _, name := range []string{"device", "cache", "project", "bundles"} {
		_ = os.RemoveAll(g.file(name)) // the work directory goes at the end
	}
}

func (g *growth) file(names ...string) string {
	return filepath.Join(append([]string{g.work}, names...)...)
}

// do runs a command that is not measured.
func (g *growth) do(ctx context.Context, args ...string) error {
	_, err := g.output(ctx, args...)
	return err
}

func (g *growth) output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = g.work, g.env
	var out, log strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, out.String(), log.String())
	}
	return out.String(), nil
}

// measure runs a command, and adds what it cost to a series of this dimension.
func (g *growth) measure(ctx context.Context, program string, args ...string) error {
	// GNU time stands between, because a process takes over the peak memory of the one that started it, and time has
	// next to none.
	report := g.file("time")
	start := time.Now()
	if err := g.do(ctx, append([]string{"time", "-q", "-o", report, "-f", "%M %O", "--"}, args...)...); err != nil {
		return err
	}
	s := sample{wall: time.Since(start).Seconds()}
	line, err := os.ReadFile(report)
	if err != nil {
		return err
	}
	if _, err := fmt.Sscan(string(line), &s.rss, &s.written); err != nil {
		return fmt.Errorf("time says %q: %w", line, err)
	}
	s.rss, s.written = s.rss*1024, s.written*512
	g.add(program, s)
	return nil
}

func (g *growth) add(program string, s sample) {
	note("%-8s %6d  %-34s %8.2f s  %6.1f MiB  %9.2f MB", g.now.name, g.n, program, s.wall, s.rss/(1<<20), s.written/1e6)
	i := slices.IndexFunc(g.now.series, func(s *series) bool { return s.program == program })
	if i < 0 {
		i = len(g.now.series)
		g.now.series = append(g.now.series, &series{program: program})
	}
	in := g.now.series[i]
	if last := len(in.points) - 1; last < 0 || in.points[last].n != g.n {
		in.points = append(in.points, point{n: g.n})
	}
	last := &in.points[len(in.points)-1]
	last.samples = append(last.samples, s)
}

// project writes the files of a project, and removes the one before.
func (g *growth) project(yaml string, files map[string]string) error {
	dir := g.file("project")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	files["valise.yaml"] = fmt.Sprintf("installer: none\nplatforms: [linux/%s]\n%s", runtime.GOARCH, yaml)
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// tree writes the project of a file tree. parts are more of what is in it.
func (g *growth) tree(app, parts string, files map[string]string) error {
	files["units/"+app+".service"] = fmt.Sprintf("[Service]\nExecStart=/opt/%s/current/bin/run\n\n[Install]\nWantedBy=multi-user.target\n", app)
	files["bin/run"] = "#!/bin/sh\n"
	return g.project(fmt.Sprintf(`app: %s
tree:
  files: [{from: units, to: units}, {from: bin, to: bin}%s]
  units: [units/%[1]s.service]
health: {retries: 5, interval: 10ms}
keep: {releases: 100}
`, app, parts), files)
}

// bundleFile is the bundle of a version.
func (g *growth) bundleFile(name string) string { return g.file("bundles", name+".tar.gz") }

// build is the command that builds a release of the project.
func (g *growth) build(version, name string) []string {
	return []string{g.file("valise"), "build", version, "--project", g.file("project", "valise.yaml"), "-o", g.bundleFile(name), "--progress", "none"}
}

func (g *growth) sign(names ...string) []string {
	args := []string{g.file("valise"), "sign", "--key", g.file("key.key"), "--progress", "none"}
	for _, name := range names {
		args = append(args, g.bundleFile(name))
	}
	return args
}

func (g *growth) verify(name string) []string {
	return []string{g.file("valise"), "verify", g.bundleFile(name), "--key", g.file("key.pub"), "--progress", "none"}
}

func (g *growth) inspect(name string) []string {
	return []string{g.file("valise"), "inspect", g.bundleFile(name)}
}

// emptied removes directories and makes them again.
func (g *growth) emptied(names ...string) error {
	for _, name := range names {
		if err := errors.Join(os.RemoveAll(g.file(name)), os.MkdirAll(g.file(name), 0o755)); err != nil {
			return err
		}
	}
	return nil
}

func note(format string, args ...any) { fmt.Fprintf(os.Stderr, "growth: "+format+"\n", args...) }
