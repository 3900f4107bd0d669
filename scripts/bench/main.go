// Command bench measures valise beside the programs that people use for the same work today. scripts/bench.sh
// installs those, makes the images, starts a Docker engine, and runs it; nothing else should.
//
// It serves the images from a registry of its own on a loopback address, runs every program several times by turns,
// and prints tables of medians in Markdown. docs/benchmarks.md says what they mean.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/valise-ota/valise/scripts/bench/history"
)

const (
	repository = "bench/"
	first      = "1.0.0"
	second     = "1.1.0" // the same, but for the top layer of one image
	changed    = "api"
	password   = "bench"
)

// images are those of images.txt, in the order of their names.
var images = []string{"api", "db", "front", "proxy", "source", "worker"}

var both, one = []string{"linux/amd64", "linux/arm64"}, []string{"linux/amd64"}

type bench struct {
	work, out   string // scratch directories: of everything, of results
	layout      string // of the images
	valise      string
	source      string // what valise was built from
	crane       string
	engine      int // process of the Docker engine, or 0
	engineHost  string
	rounds      int
	env         []string
	registry    *server
	groups      []*group
	about       [][2]string // machine and versions
	began       history.Run
	changedSize int64 // of the layers that the second version changed, compressed
	files       map[string]int64
}

func main() {
	b := &bench{files: map[string]int64{}}
	flag.StringVar(&b.work, "work", "", "scratch directory, on the disk that is to be measured")
	flag.StringVar(&b.layout, "images", "", "OCI image layout of the images of images.txt")
	flag.StringVar(&b.valise, "valise", "", "valise to measure")
	flag.StringVar(&b.source, "source", "unknown", "what it was built from")
	flag.StringVar(&b.crane, "crane", "", "crane to measure")
	flag.StringVar(&b.engineHost, "engine", "", "address of a Docker engine that does nothing else")
	flag.IntVar(&b.engine, "engine-pid", 0, "its process")
	flag.IntVar(&b.rounds, "rounds", 5, "how often everything is measured")
	only := flag.String("only", ".", "regular expression: measure these groups (pack, pack-one, far, verify, thin, memory) only")
	load := flag.String("load", "", "load average before anything was built")
	raw := flag.String("json", "", "file to write every sample to")
	doc := flag.String("doc", "", "page whose text between the bench marks is to become the report, and beside which rows are kept; else the report is printed")
	flag.Parse()
	filter, err := regexp.Compile(*only)
	if err != nil || b.work == "" || b.layout == "" || b.valise == "" || b.crane == "" || flag.NArg() != 0 || b.rounds < 1 {
		flag.Usage()
		os.Exit(64)
	}
	if b.began, err = history.NewRun(*load); err != nil {
		note("%v", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.main(ctx, filter, *raw, *doc); err != nil {
		note("%v", err)
		os.Exit(1)
	}
}

func (b *bench) main(ctx context.Context, only *regexp.Regexp, raw, doc string) error {
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for _, g := range b.plan() {
		if !only.MatchString(g.name) {
			continue
		}
		if err := b.run(ctx, g); err != nil {
			return err
		}
		b.groups = append(b.groups, g)
	}
	if raw != "" {
		all := map[string]map[string][]sample{}
		for _, g := range b.groups {
			all[g.name] = g.samples
		}
		data, err := json.MarshalIndent(all, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(raw, data, 0o644); err != nil {
			return err
		}
	}
	if doc == "" {
		_, err := io.WriteString(os.Stdout, b.report())
		return err
	}
	if err := history.WriteInto(doc, "bench", b.report()); err != nil {
		return err
	}
	return history.Keep(os.Stdout, doc, "bench", b.rows())
}

// prepare makes what the groups work on.
func (b *bench) prepare(ctx context.Context) error {
	var err error
	if b.work, err = filepath.Abs(b.work); err != nil {
		return err
	}
	b.out = filepath.Join(b.work, "out")
	b.env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GO") }),
		"XDG_CACHE_HOME="+filepath.Join(b.work, "cache"), "DOCKER_HOST="+b.engineHost, "COSIGN_PASSWORD="+password,
		"SOURCE_DATE_EPOCH=1704067200", "LC_ALL=C")
	if err := b.empty(); err != nil {
		return err
	}
	b.about = b.machine(ctx)

	path, err := layout.FromPath(b.layout)
	if err != nil {
		return err
	}
	all, err := path.ImageIndex()
	if err != nil {
		return err
	}
	if b.registry, err = startRegistry(ctx, b.layout); err != nil {
		return err
	}
	for _, name := range images {
		if err := b.registry.push(ctx, b.layout, name, repository+name+":"+first); err != nil {
			return err
		}
		next := name
		if name == changed {
			next += "-next"
		}
		if err := b.registry.push(ctx, b.layout, next, repository+name+":"+second); err != nil {
			return err
		}
	}
	if b.changedSize, err = newLayers(all, changed, changed+"-next"); err != nil {
		return err
	}

	note("building and signing the bundles that the measurements need")
	if err := b.do(ctx, b.valise, "keygen", b.file("bench")); err != nil {
		return err
	}
	for _, p := range []struct {
		name, version string
		images        []string
		platforms     []string
	}{
		{"full", first, images, both},
		{"next", second, images, both},
		{"one", first, images, one},
		{"small", first, []string{"front", "proxy"}, one},
	} {
		if err := b.project(p.name, p.version, p.images, p.platforms, false); err != nil {
			return err
		}
		if p.name == "small" {
			continue
		}
		file := b.file(p.name + ".tar.gz")
		if err := b.do(ctx, b.build(p.name, p.version, file)...); err != nil {
			return err
		}
		if p.name == "one" {
			continue
		}
		if err := b.do(ctx, b.valise, "sign", file, "--key", b.file("bench.key"), "--progress", "none"); err != nil {
			return err
		}
	}
	if err := b.do(ctx, b.valise, "thin", b.file("next.tar.gz"), "--from", b.file("full.tar.gz"), "-o", b.file("thin.tar.gz"), "--progress", "none"); err != nil {
		return err
	}
	for _, name := range []string{"full", "next", "thin", "one"} {
		info, err := os.Stat(b.file(name + ".tar.gz"))
		if err != nil {
			return err
		}
		b.files[name] = info.Size()
	}

	// What is missing to 1 GiB cannot be compressed.
	if err := b.project("large", first, images, both, true); err != nil {
		return err
	}
	if err := random(filepath.Join(b.file("large"), "ballast"), 1<<30-b.files["full"]); err != nil {
		return err
	}
	if b.engine == 0 {
		return nil
	}
	note("loading the images into the engine")
	return b.do(ctx, "bash", "-euo", "pipefail", "-c", "tar xzOf one.tar.gz images.tar | docker load")
}

func (b *bench) file(name string) string { return filepath.Join(b.work, name) }

// build is the command that builds the release of a project into file.
func (b *bench) build(project, version, file string) []string {
	return []string{b.valise, "build", version, "--project", filepath.Join(b.file(project), "valise.yaml"), "-o", file, "--progress", "none"}
}

// do runs a command that is not measured.
func (b *bench) do(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = b.work, b.env
	if log, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, log)
	}
	return nil
}

// project writes valise.yaml and a compose file that runs every image once.
func (b *bench) project(dir, version string, images, platforms []string, ballast bool) error {
	var compose, project strings.Builder
	fmt.Fprintf(&compose, "services:\n")
	fmt.Fprintf(&project, "app: bench\ninstaller: none\ncompose: compose.yaml\nplatforms: [%s]\nhealth: {compose: [%s]}\nimages:\n", strings.Join(platforms, ", "), images[0])
	for _, name := range images {
		fmt.Fprintf(&compose, "  %s: {image: '%s%s:%s'}\n", name, repository, name, version)
		fmt.Fprintf(&project, "  %s%s: {from: '%s/%s%s:%s'}\n", repository, name, b.registry.host, repository, name, version)
	}
	if ballast {
		fmt.Fprintf(&compose, "  ballast: {image: '%sballast:%s'}\n", repository, version)
		fmt.Fprintf(&project, "  %sballast: {base: scratch, files: [{from: ballast, to: /ballast}]}\n", repository)
	}
	if err := os.MkdirAll(b.file(dir), 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(b.file(dir), "compose.yaml"), []byte(compose.String()), 0o644),
		os.WriteFile(filepath.Join(b.file(dir), "valise.yaml"), []byte(project.String()), 0o644))
}

// random writes size bytes that are the same each time and do not compress.
func random(file string, size int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	return errors.Join(err, f.Sync(), f.Close())
}

// newLayers adds up the layers that the image called after has and the one called before has not.
func newLayers(all v1.ImageIndex, before, after string) (int64, error) {
	old, err := layers(all, before)
	if err != nil {
		return 0, err
	}
	now, err := layers(all, after)
	var n int64
	for digest, size := range now {
		if _, ok := old[digest]; !ok {
			n += size
		}
	}
	return n, err
}

// layers are the layers of an image for all platforms.
func layers(all v1.ImageIndex, name string) (map[v1.Hash]int64, error) {
	d, err := find(all, name)
	if err != nil {
		return nil, err
	}
	index, err := all.ImageIndex(d.Digest)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	sizes := map[v1.Hash]int64{}
	for _, p := range manifest.Manifests {
		image, err := index.Image(p.Digest)
		if err != nil {
			return nil, err
		}
		m, err := image.Manifest()
		if err != nil {
			return nil, err
		}
		for _, l := range m.Layers {
			sizes[l.Digest] = l.Size
		}
	}
	return sizes, nil
}

// plan is what is measured.
func (b *bench) plan() []*group {
	var names, tags []string
	for _, name := range images {
		names = append(names, b.registry.host+"/"+repository+name+":"+first)
		tags = append(tags, repository+name+":"+first)
	}
	skopeo := func(name, flags, copyFlags string) contestant {
		return shell(name, fmt.Sprintf("for i in %s; do skopeo --insecure-policy %s copy %s --quiet --src-tls-verify=false docker://%s/$i oci:OUT/layout:$i; done",
			strings.Join(tags, " "), flags, copyFlags, b.registry.host))
	}
	crane := func(name string, flags ...string) contestant {
		return contestant{name: name, args: slices.Concat([]string{b.crane, "pull", "--format=oci"}, flags, names, []string{"OUT/layout"})}
	}
	const sync = " && find OUT -type f -exec sync {} +"
	synced := func(c contestant) contestant {
		return shell(c.name+", sync", strings.Join(c.args, " ")+sync)
	}
	copied := func(name string) []contestant {
		return []contestant{
			{name: "cp of the bundle", args: []string{"cp", b.file(name), "OUT/"}},
			shell("cp of the bundle, sync", "cp "+b.file(name)+" OUT/"+sync),
		}
	}
	valise := func(project string) contestant {
		return contestant{name: "valise build", args: b.build(project, first, "OUT/bundle.tar.gz")}
	}
	zstd := contestant{name: "valise build --compression zstd", args: b.build("full", first, "OUT/bundle.tar.zst")}
	// A directory cannot be shipped, a file can.
	asFile := func(c contestant) contestant {
		return shell(c.name+", tar", c.args[len(c.args)-1]+"; tar -C OUT -cf OUT/layout.tar layout && rm -r OUT/layout")
	}
	pull, pullOne := crane("crane pull --format=oci"), crane("crane pull --format=oci", "--platform=linux/amd64")

	skopeoAll, skopeoOne := skopeo("skopeo copy --all", "", "--all"), skopeo("skopeo copy", "--override-os linux --override-arch amd64", "")

	packOne := append([]contestant{valise("one"), pullOne, synced(pullOne), skopeoOne}, copied("one.tar.gz")...)
	if b.engine != 0 {
		save := shell("docker save, gzip, sha256sum", "docker save "+strings.Join(tags, " ")+" | gzip >OUT/images.tar.gz && sha256sum OUT/images.tar.gz >OUT/images.tar.gz.sha256")
		save.daemon = b.engine
		packOne = append(packOne, save)
	}

	verify := func(name, cores, file string) contestant {
		return contestant{name: name, cores: cores, args: []string{b.valise, "verify", file, "--key", b.file("bench.pub"), "--progress", "none"}}
	}
	hash := func(name, cores string) contestant {
		return contestant{name: name, cores: cores, args: []string{"openssl", "dgst", "-sha256", b.file("full.tar.gz")}}
	}
	memory := []contestant{}
	for _, size := range []string{"small", "large"} {
		build := contestant{name: "build, " + size, args: b.build(size, first, "OUT/bundle.tar.gz")}
		sign := contestant{name: "sign, " + size, goOn: true, args: []string{b.valise, "sign", "OUT/bundle.tar.gz", "--key", b.file("bench.key"), "--progress", "none"}}
		check := verify("verify, "+size, "", "OUT/bundle.tar.gz")
		check.goOn = true
		memory = append(memory, build, sign, check)
	}

	return []*group{
		{name: "pack", baseline: "crane pull --format=oci", title: "Pack for two platforms, from a registry on this machine",
			contestants: append([]contestant{valise("full"), zstd, pull, synced(pull), skopeoAll, asFile(skopeoAll)}, copied("full.tar.gz")...)},
		{name: "pack-one", baseline: "crane pull --format=oci", title: "Pack for linux/amd64, from a registry on this machine", contestants: packOne},
		{name: "far", baseline: "crane pull --format=oci", title: "Pack for linux/amd64, from a registry far away",
			far:         &line{delay: 20e6, connection: 40e6, total: 110e6},
			contestants: []contestant{valise("one"), pullOne, skopeoOne}},
		{name: "verify", times: 3, baseline: "openssl dgst, one core", title: "Verify the signed bundle for two platforms", contestants: []contestant{
			verify("valise verify, one core", "0", b.file("full.tar.gz")), hash("openssl dgst, one core", "0"),
			verify("valise verify, two cores", "0,1", b.file("full.tar.gz")), hash("openssl dgst, two cores", "0,1"),
		}},
		{name: "thin", times: 3, baseline: "valise verify, full", title: "A thin bundle of the next version", contestants: []contestant{
			{name: "valise thin", args: []string{b.valise, "thin", b.file("next.tar.gz"), "--from", b.file("full.tar.gz"), "-o", "OUT/thin.tar.gz", "--progress", "none"}},
			{name: "valise inspect, thin", args: []string{b.valise, "inspect", b.file("thin.tar.gz")}},
			verify("valise verify, thin", "", b.file("thin.tar.gz")),
			verify("valise verify, full", "", b.file("next.tar.gz")),
		}},
		{name: "memory", title: "Memory", contestants: memory},
	}
}
