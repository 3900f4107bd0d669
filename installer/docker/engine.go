// Package docker is everything the installer asks of the container engine of
// the device it runs on: which layers it has, loading the ones it lacks,
// keeping and removing our images, and running the app with the device's own
// docker compose.
//
// The exit code of a load proves nothing: an engine tags images before it
// fails, or prints a failure and succeeds. So the answer of a load is read to
// its end, Check compares what the engine then has with the signed manifest,
// and Sync makes it survive a power cut. Engine 20.10 (API 1.41) and newer
// work, with a graph driver or with the containerd image store.
//
// Nothing here prunes: what is removed is named, and is ours.
package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/trace"
)

// DefaultHost is where an engine listens by default.
const DefaultHost = client.DefaultDockerHost

// AnswerTimeout is how long an engine may take to say what it is, and docker
// compose to say its version or to read the files of a project. It is long: a small
// device that has just started takes its time.
const AnswerTimeout = 30 * time.Second

// silenceTimeout is how long an engine may neither take nor send anything while it
// does what it was asked to: what it does with one layer it does without a word.
const silenceTimeout = 15 * time.Minute

// Engine is a connection to the engine. It may be used concurrently, but two
// loads at once only slow each other down.
type Engine struct {
	host   string
	client *client.Client
	answer time.Duration
	dials  atomic.Int64 // connections made
	known  atomic.Pointer[known]
}

// known is what an engine said of itself, and how many connections had been made.
type known struct {
	info  Info
	dials int64
}

// UnreachableError says that no engine answers at Host.
type UnreachableError struct {
	Host string
	Err  error
}

func (e *UnreachableError) Error() string {
	if errors.As(e.Err, new(*SilentError)) {
		return fmt.Sprintf("reach container engine at %s: %v", e.Host, e.Err)
	}
	return fmt.Sprintf("reach container engine at %s: %v (is Docker installed and its service running, and may this user open the socket?)", e.Host, e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// UnsupportedError says that what answers is not an engine that can be used here.
type UnsupportedError struct{ Engine, Why string }

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("the container engine is %s, which is not supported: %s; install Docker Engine, or name its socket with DOCKER_HOST", e.Engine, e.Why)
}

// Kind names these errors for front ends.
func (e *UnreachableError) Kind() string { return "engine" }

// Kind names these errors for front ends.
func (e *UnsupportedError) Kind() string { return "engine" }

// Kind names these errors for front ends.
func (e *SilentError) Kind() string { return "engine" }

// SilentError says that a program of the engine runs and does not answer.
type SilentError struct {
	Who  string
	Wait time.Duration
}

func (e *SilentError) Error() string {
	return fmt.Sprintf("%s does not answer within %s: it hangs, or this device has too much to do", e.Who, e.Wait)
}

// asking is ctx for one question, whose cause says who did not answer it.
func asking(ctx context.Context, who string, wait time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, wait, &SilentError{who, wait})
}

// unanswered is err, or why nobody answered in time.
func unanswered(ctx context.Context, err error) error {
	if err != nil && errors.As(context.Cause(ctx), new(*SilentError)) {
		return context.Cause(ctx)
	}
	return err
}

// silent is a connection that ends when nothing moves on it.
type silent struct{ net.Conn }

func (s silent) Read(p []byte) (int, error) {
	_ = s.SetReadDeadline(time.Now().Add(silenceTimeout))
	return s.Conn.Read(p)
}

func (s silent) Write(p []byte) (int, error) {
	_ = s.SetDeadline(time.Now().Add(silenceTimeout)) // who waits for the answer waits from now
	return s.Conn.Write(p)
}

// Connect connects to the engine at host, "unix:///path"; an empty host is
// DefaultHost. Only a local socket is accepted: Sync looks at the
// engine's files. The error is an *UnreachableError when nothing answers within the
// time, which is AnswerTimeout when answer is 0.
func Connect(ctx context.Context, host string, answer time.Duration) (*Engine, error) {
	answer = cmp.Or(answer, AnswerTimeout)
	if host == "" {
		host = DefaultHost
	}
	if !strings.HasPrefix(host, "unix:///") {
		return nil, fmt.Errorf("connect to container engine: host is %q, want unix:///path/of/the/socket: the engine must be on this device", host)
	}
	e := &Engine{host: host, answer: answer}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		e.dials.Add(1)
		conn, err := new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(host, "unix://"))
		if err != nil {
			return nil, err
		}
		if ctx.Value(patient{}) != nil {
			context.AfterFunc(ctx, func() { conn.Close() }) // the client reads the answer without a look at ctx
			return conn, nil
		}
		return silent{conn}, nil
	}
	c, err := client.New(client.WithHost(host), client.WithDialContext(dial), client.WithTraceProvider(calls{}))
	if err != nil {
		return nil, fmt.Errorf("connect to container engine at %s: %w", host, err)
	}
	// The client negotiates on its first request and then swallows the reason
	// of a failure, so negotiate here, where it can be told.
	soon, cancel := asking(ctx, "the engine", answer)
	defer cancel()
	if _, err := c.Ping(soon, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		c.Close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("connect to container engine at %s: %w", host, context.Cause(ctx))
		}
		return nil, &UnreachableError{Host: host, Err: unanswered(soon, err)}
	}
	e.client = c
	return e, nil
}

// Close closes idle connections.
func (e *Engine) Close() error { return e.client.Close() }

// Host is the address of the engine, as DOCKER_HOST wants it.
func (e *Engine) Host() string { return e.host }

// Store is how an engine keeps images. It decides what an image ID is and
// which layers a thin load may leave out.
type Store string

const (
	// GraphDriver knows layers by their diffIDs; an image ID is the digest of
	// the image config.
	GraphDriver Store = "graphdriver"
	// Containerd knows blobs by their digests; an image ID is the digest of
	// the image manifest.
	Containerd Store = "containerd"
)

// ID is what a store calls an image.
func (s Store) ID(img bundle.Image) string {
	if s == Containerd {
		return string(img.Manifest.Digest)
	}
	return string(img.Config.Digest)
}

// Info describes the engine.
type Info struct {
	Version    string          `json:"version"`     // of the engine: "20.10.24+dfsg1"
	APIVersion string          `json:"api_version"` // spoken with it: "1.41"
	Platform   bundle.Platform `json:"platform"`
	Root       string          `json:"root"` // directory that holds its images and volumes
	Store      Store           `json:"store"`
	Driver     string          `json:"driver"` // graph driver or snapshotter: "overlay2", "overlayfs"
}

// podmanLacks is what TestKeep and TestLoadThin found with Podman 4.3.1: docs/engines.md.
const podmanLacks = "it loads no image without the layers that it has already, so that each update would have to bring all; it puts another name in front of those that images are given; " +
	"and it answers 500 where a container's name is taken: install Docker, whose socket DOCKER_HOST may name"

// Info is what Ask says, which starts several programs of the engine. As long as it
// answers on the connections that there were then, it is the same engine, and only asked
// whether it is there: one that was upgraded, perhaps to another store, needs new ones.
func (e *Engine) Info(ctx context.Context) (Info, error) {
	if k := e.known.Load(); k != nil {
		soon, cancel := asking(ctx, "the engine", e.answer)
		defer cancel()
		if _, err := e.client.Ping(soon, client.PingOptions{}); err == nil && e.dials.Load() == k.dials {
			return k.info, nil
		}
	}
	return e.Ask(ctx)
}

// Ask asks the engine what it is.
func (e *Engine) Ask(ctx context.Context) (Info, error) {
	ctx, cancel := asking(ctx, "the engine", e.answer)
	defer cancel()
	dials := e.dials.Load()
	v, err := e.client.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return Info{}, fmt.Errorf("ask container engine for its version: %w", unanswered(ctx, err))
	}
	for _, part := range v.Components {
		if strings.Contains(part.Name, "Podman") {
			return Info{}, &UnsupportedError{"Podman " + part.Version, podmanLacks}
		}
	}
	res, err := e.client.Info(ctx, client.InfoOptions{})
	if err != nil {
		return Info{}, fmt.Errorf("ask container engine for its state: %w", unanswered(ctx, err))
	}
	info := Info{
		Version:    v.Version,
		APIVersion: e.client.ClientVersion(),
		Root:       res.Info.DockerRootDir,
		Store:      GraphDriver,
		Driver:     res.Info.Driver,
	}
	for _, kv := range res.Info.DriverStatus {
		if kv[0] == "driver-type" && kv[1] == "io.containerd.snapshotter.v1" {
			info.Store = Containerd
		}
	}
	if info.Platform, err = platform(v.Os, v.Arch, res.Info.Architecture); err != nil {
		return Info{}, fmt.Errorf("read platform of container engine: %w", err)
	}
	e.known.Store(&known{info, dials})
	return info, nil
}

// platform is the platform of an engine built for goos/goarch on a machine
// that uname calls machine. The engine's own architecture counts, not the
// kernel's: a 32-bit engine on a 64-bit kernel runs 32-bit images.
func platform(goos, goarch, machine string) (bundle.Platform, error) {
	p := goos + "/" + goarch
	if goarch == "arm" {
		if p += "/v7"; strings.HasPrefix(machine, "armv6") {
			p = goos + "/arm/v6"
		}
	}
	return bundle.ParsePlatform(p)
}

// externalContainerd is where a containerd that the engine did not start
// itself keeps its content.
const externalContainerd = "/var/lib/containerd"

// Sync makes every image and layer the engine has durable. A load that
// returned is not: power cut right after it leaves tags without files and files
// without content, which a second load does not repair.
func (e *Engine) Sync(ctx context.Context) (err error) {
	ctx, span := trace.Begin(ctx, trace.Step, "sync the disk of the engine")
	defer func() { span.End(err) }()
	info, err := e.Info(ctx)
	if err != nil {
		return err
	}
	// The driver's directory may be a file system of its own.
	dirs := []string{filepath.Join(info.Root, info.Driver)}
	if info.Store == Containerd {
		dirs = append(dirs, filepath.Join(info.Root, "containerd"), externalContainerd)
	}
	if err := syncFS(info.Root); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := syncFS(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync container engine: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync file system of %s: %w", dir, err)
	}
	return nil
}
