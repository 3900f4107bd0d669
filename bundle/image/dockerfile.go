package image

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Dockerfile is an image that BuildKit builds for all platforms in one go.
type Dockerfile struct {
	Context string // directory, relative to Options.Dir
	File    string // relative to Options.Dir
	Target  string // stage; empty means the last one
	Args    map[string]string
	Labels  map[string]string

	// Contexts are more contexts, by the name that FROM and COPY --from use: a directory,
	// relative to Options.Dir, or docker-image://REFERENCE.
	Contexts map[string]string
	// Secrets, CacheFrom and CacheTo are as in BuildKit, whose secrets come before these.
	Secrets, CacheFrom, CacheTo []string
	Pull                        bool // ask registries for images that are there
	NoCache                     bool
}

// with is what b says, and d.
func (b BuildKit) with(d *Dockerfile) BuildKit {
	id := func(secret string) string {
		for field := range strings.SplitSeq(secret, ",") {
			if id, ok := strings.CutPrefix(field, "id="); ok {
				return id
			}
		}
		return ""
	}
	given := b.Secrets
	b.Secrets, b.CacheFrom, b.CacheTo = slices.Clip(b.Secrets), slices.Concat(b.CacheFrom, d.CacheFrom), slices.Concat(b.CacheTo, d.CacheTo)
	for _, s := range d.Secrets {
		if !slices.ContainsFunc(given, func(g string) bool { return id(g) == id(s) }) {
			b.Secrets = append(b.Secrets, s)
		}
	}
	return b
}

// contextImage is how a context that is an image begins.
const contextImage = "docker-image://"

// BuildKit is what a build says to BuildKit besides what the release says of an image.
type BuildKit struct {
	Args      map[string]string // build arguments, over those of a Dockerfile
	Secrets   []string          // id=ID,env=NAME or id=ID,src=FILE; in no layer and no history
	CacheFrom []string          // where earlier builds left their steps, such as type=registry,ref=NAME
	CacheTo   []string
	Builder   string // of docker buildx; empty means the one in use
}

// Empty reports whether nothing is said.
func (b BuildKit) Empty() bool {
	return len(b.Args)+len(b.Secrets)+len(b.CacheFrom)+len(b.CacheTo) == 0 && b.Builder == ""
}

// flags are those that name secrets and caches, for docker buildx or buildctl.
func (b BuildKit) flags(secret, cacheFrom, cacheTo string) []string {
	var flags []string
	for _, list := range []struct {
		flag   string
		values []string
	}{{secret, b.Secrets}, {cacheFrom, b.CacheFrom}, {cacheTo, b.CacheTo}} {
		for _, value := range list.values {
			flags = append(flags, list.flag, value)
		}
	}
	return flags
}

// BuildKitError says that there is nothing that builds a Dockerfile.
type BuildKitError struct{ Err error }

func (e *BuildKitError) Error() string { return "find BuildKit: " + e.Err.Error() }
func (e *BuildKitError) Unwrap() error { return e.Err }

// BuilderError says that the builder of docker buildx cannot make an image for a bundle.
type BuilderError struct {
	Builder   string
	Platforms []bundle.Platform // to build for
}

func (e *BuilderError) Error() string {
	var all []string
	for _, p := range e.Platforms {
		all = append(all, string(p))
	}
	if len(all) > 1 {
		return fmt.Sprintf("builder %s: the docker driver cannot build %s together", e.Builder, strings.Join(all, " and "))
	}
	return fmt.Sprintf("builder %s: the docker driver cannot write an image for a bundle", e.Builder)
}

// checkBuilder asks docker buildx, before anything is loaded or built, whether its
// builder can build for all platforms. The driver docker can with containerd's image
// store only. Platforms that it does not run are said and no more: a Dockerfile that
// runs nothing for them needs no emulation.
func (c *collector) checkBuilder(ctx context.Context) error {
	i := slices.IndexFunc(c.Images, func(s Spec) bool { return s.Dockerfile != nil })
	if i < 0 || c.BuildKitHost != "" {
		return nil
	}
	ask := func(args ...string) string {
		cmd := exec.CommandContext(ctx, "docker", args...)
		c.setHost(cmd)
		out, err := cmd.Output()
		if err != nil {
			return "" // the build says why
		}
		return string(out)
	}
	inspect := []string{"buildx", "inspect"}
	if c.BuildKit.Builder != "" {
		inspect = append(inspect, c.BuildKit.Builder)
	}
	b := parseBuilder(ask(inspect...))
	if b.driver == "docker" && !strings.Contains(ask("info", "--format", "{{json .DriverStatus}}"), "io.containerd.snapshotter") {
		return &BuilderError{b.name, c.Platforms}
	}
	for _, p := range c.Platforms {
		if len(b.platforms) > 0 && !b.platforms[p] {
			c.event(c.Images[i], p, Log, fmt.Sprintf("builder %s does not run programs of %s: a RUN for it needs emulation (QEMU)", b.name, p))
		}
	}
	return nil
}

// builder is what docker buildx inspect says of one.
type builder struct {
	name, driver string
	platforms    map[bundle.Platform]bool // that it builds and runs
}

func parseBuilder(inspect string) builder {
	b := builder{platforms: map[bundle.Platform]bool{}}
	for line := range strings.Lines(inspect) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			b.name = cmp.Or(b.name, value) // its nodes follow
		case "Driver":
			b.driver = value
		case "Platforms":
			for p := range strings.SplitSeq(value, ",") {
				if p, err := bundle.ParsePlatform(strings.Trim(p, " *")); err == nil {
					b.platforms[p] = true
				}
			}
		}
	}
	return b
}

// buildLogTail is how many bytes of the output of a failed build an error has.
const buildLogTail = 4 << 10

// killAfter is how long a build may take to end by itself.
const killAfter = 10 * time.Second

// dockerfile builds the image and returns what BuildKit made, taken verbatim.
// BuildKit writes an OCI image layout into a directory that lives as long as the
// collection: a tar would have to be copied.
func (c *collector) dockerfile(ctx context.Context, s Spec) (*root, error) {
	dir, err := c.tempDir()
	if err != nil {
		return nil, err
	}
	cmd, err := c.buildCommand(ctx, s.Dockerfile, dir)
	if err != nil {
		return nil, err
	}
	c.event(s, "", Build, s.Dockerfile.File)
	log := &buildLog{line: func(line string) {
		if from, ok := baseOf(line); ok {
			c.took(from)
		}
		c.event(s, "", Log, line)
	}}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("build %s with %s: %w\n%s", s.Dockerfile.File, filepath.Base(cmd.Path), err, bytes.TrimSpace(log.tail))
	}
	r := &root{text: s.Dockerfile.File, source: layoutSource(dir), ctx: c.ctx, cache: c.cache}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("read what %s made of %s: %w", filepath.Base(cmd.Path), s.Dockerfile.File, err)
	}
	r.index = nil // ours, as over images that were built one by one
	return r, nil
}

// baseLine is how BuildKit names the step that takes an image. What a command prints
// has a time before it and never looks so.
var baseLine = lazyregexp.New(`^#[0-9]+ (?:\[[^\]]*\] )?(?:FROM |docker-image://)(\S+)@(sha256:[0-9a-f]{64})$`)

// baseOf returns the image that a line of a build's output says was taken: by FROM or
// COPY --from, or to read the Dockerfile with.
func baseOf(line string) (Source, bool) {
	m := baseLine.FindStringSubmatch(line)
	if m == nil {
		return Source{}, false
	}
	from := Source{Name: m[1], Digest: bundle.Digest(m[2])}
	if reference, err := name.ParseReference(from.Name); err == nil {
		from.URI = packageURL(reference, from.Digest)
	}
	return from, true
}

// buildCommand is the command that builds d into dir.
func (c *collector) buildCommand(ctx context.Context, d *Dockerfile, dir string) (*exec.Cmd, error) {
	context, file := c.path(d.Context), c.path(d.File)
	if info, err := os.Stat(context); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("context %s is not a directory", context)
	}
	if info, err := os.Stat(file); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("dockerfile %s is not a file", file)
	}
	platforms := make([]string, len(c.Platforms))
	for i, p := range c.Platforms {
		platforms[i] = string(p)
	}
	// One time for all files and for the image itself, whenever it is built: then
	// an unchanged image is the same image in the next release.
	args := maps.Clone(d.Args)
	if args == nil {
		args = map[string]string{}
	}
	maps.Copy(args, c.BuildKit.Args)
	if _, ok := args["SOURCE_DATE_EPOCH"]; !ok {
		args["SOURCE_DATE_EPOCH"] = strconv.FormatInt(fileTime.Unix(), 10)
	}
	output := "type=oci,tar=false,rewrite-timestamp=true," + csvField("dest="+dir)
	platform := strings.Join(platforms, ",")
	contexts := maps.Clone(d.Contexts)
	for name, value := range contexts {
		if strings.HasPrefix(value, contextImage) {
			continue
		}
		contexts[name] = c.path(value)
		if info, err := os.Stat(contexts[name]); err != nil {
			return nil, fmt.Errorf("context %s: %w", name, err)
		} else if !info.IsDir() {
			return nil, fmt.Errorf("context %s: %s is not a directory", name, contexts[name])
		}
	}
	names, said := slices.Sorted(maps.Keys(contexts)), c.BuildKit.with(d)

	if c.BuildKitHost != "" {
		program, err := exec.LookPath("buildctl")
		if err != nil {
			return nil, &BuildKitError{err}
		}
		cmd := exec.CommandContext(ctx, program, "--addr", c.BuildKitHost, "build", "--progress", "plain",
			"--frontend", "dockerfile.v0", "--local", "context="+context, "--local", "dockerfile="+filepath.Dir(file),
			"--opt", "filename="+filepath.Base(file), "--opt", "platform="+platform, "--output", output)
		cmd.Args = append(cmd.Args, said.flags("--secret", "--import-cache", "--export-cache")...)
		for _, name := range names {
			if strings.HasPrefix(contexts[name], contextImage) {
				cmd.Args = append(cmd.Args, "--opt", "context:"+name+"="+contexts[name])
				continue
			}
			cmd.Args = append(cmd.Args, "--local", "more-"+name+"="+contexts[name], "--opt", "context:"+name+"=local:more-"+name)
		}
		if d.Pull {
			cmd.Args = append(cmd.Args, "--opt", "image-resolve-mode=pull")
		}
		if d.NoCache {
			cmd.Args = append(cmd.Args, "--no-cache")
		}
		if d.Target != "" {
			cmd.Args = append(cmd.Args, "--opt", "target="+d.Target)
		}
		for _, key := range slices.Sorted(maps.Keys(args)) {
			cmd.Args = append(cmd.Args, "--opt", "build-arg:"+key+"="+args[key])
		}
		for _, key := range slices.Sorted(maps.Keys(d.Labels)) {
			cmd.Args = append(cmd.Args, "--opt", "label:"+key+"="+d.Labels[key])
		}
		return gentle(cmd), nil
	}

	program, err := exec.LookPath("docker")
	if err != nil {
		return nil, &BuildKitError{err}
	}
	cmd := exec.CommandContext(ctx, program, "buildx", "version")
	c.setHost(cmd)
	if out, err := cmd.CombinedOutput(); ctx.Err() != nil {
		return nil, ctx.Err() // another image failed, and says why
	} else if err != nil {
		return nil, &BuildKitError{fmt.Errorf("docker buildx: %w: %s", err, firstLine(out))}
	}
	cmd = exec.CommandContext(ctx, program, "buildx", "build", "--progress", "plain", "--provenance=false", "--sbom=false",
		"--platform", platform, "--file", file, "--output", output)
	c.setHost(cmd)
	if c.BuildKit.Builder != "" {
		cmd.Args = append(cmd.Args, "--builder", c.BuildKit.Builder)
	}
	cmd.Args = append(cmd.Args, said.flags("--secret", "--cache-from", "--cache-to")...)
	for _, name := range names {
		cmd.Args = append(cmd.Args, "--build-context", name+"="+contexts[name])
	}
	if d.Pull {
		cmd.Args = append(cmd.Args, "--pull")
	}
	if d.NoCache {
		cmd.Args = append(cmd.Args, "--no-cache")
	}
	if d.Target != "" {
		cmd.Args = append(cmd.Args, "--target", d.Target)
	}
	for _, key := range slices.Sorted(maps.Keys(args)) {
		cmd.Args = append(cmd.Args, "--build-arg", key+"="+args[key])
	}
	for _, key := range slices.Sorted(maps.Keys(d.Labels)) {
		cmd.Args = append(cmd.Args, "--label", key+"="+d.Labels[key])
	}
	cmd.Args = append(cmd.Args, context)
	return gentle(cmd), nil
}

func (c *collector) setHost(cmd *exec.Cmd) {
	if c.DockerHost != "" {
		cmd.Env = append(cmd.Environ(), "DOCKER_HOST="+c.DockerHost)
	}
}

// gentle lets a build end by itself when it is interrupted: it must tell BuildKit.
func gentle(cmd *exec.Cmd) *exec.Cmd {
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = killAfter
	return cmd
}

// csvField quotes a field of a list whose fields are separated by commas.
func csvField(s string) string {
	if !strings.ContainsAny(s, ",\"\n") {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}

// buildLog passes lines on and keeps the last bytes.
type buildLog struct {
	line func(string)
	rest []byte // of a line that is not complete
	tail []byte
}

func (l *buildLog) Write(p []byte) (int, error) {
	l.tail = append(l.tail, p...)
	l.tail = l.tail[max(0, len(l.tail)-buildLogTail):]
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found && len(line) < buildLogTail {
			return len(p), nil
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			l.line(string(line))
		}
		l.rest = slices.Clone(rest)
	}
}
