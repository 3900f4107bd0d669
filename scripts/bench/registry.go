package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/google/go-containerregistry/pkg/registry"
)

// blobs serves the blobs of OCI image layouts straight from their files: the kernel moves them, so that a measured
// program shares its cores with as little else as possible.
type blobs []string

func (b blobs) find(h v1.Hash) (string, fs.FileInfo, error) {
	for _, dir := range b {
		path := filepath.Join(dir, "blobs", h.Algorithm, h.Hex)
		if info, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, info, err
		}
	}
	return "", nil, registry.ErrNotFound
}

func (b blobs) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	_, info, err := b.find(h)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (b blobs) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	path, _, err := b.find(h)
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}

// line is how far away the registry is.
type line struct {
	delay      time.Duration // before every answer
	connection float64       // bytes per second of one answer
	total      float64       // bytes per second of all answers together
}

func (l line) String() string {
	return fmt.Sprintf("%d ms to the first byte, %.0f MB/s each connection, %.0f MB/s in all", l.delay.Milliseconds(), l.connection/1e6, l.total/1e6)
}

// server is a registry on a loopback address.
type server struct {
	host string
	far  atomic.Pointer[line] // nil: as fast as the machine
	rate limiter              // of all answers
}

func startRegistry(ctx context.Context, layouts ...string) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{host: listener.Addr().String()}
	handler := registry.New(registry.WithBlobHandler(blobs(layouts)), registry.Logger(log.New(io.Discard, "", 0)))
	web := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l := s.far.Load(); l != nil {
			time.Sleep(l.delay)
			w = &slowWriter{w, l, &s.rate, limiter{}}
		}
		handler.ServeHTTP(w, r)
	})}
	go web.Serve(listener)
	context.AfterFunc(ctx, func() { web.Close() })
	return s, nil
}

// push gives the image that the layout calls as a tag. Its blobs are there already.
func (s *server) push(ctx context.Context, dir, as, tag string) error {
	path, err := layout.FromPath(dir)
	if err != nil {
		return err
	}
	all, err := path.ImageIndex()
	if err != nil {
		return err
	}
	d, err := find(all, as)
	if err != nil {
		return err
	}
	index, err := all.ImageIndex(d.Digest)
	if err != nil {
		return err
	}
	reference, err := name.ParseReference(s.host + "/" + tag)
	if err != nil {
		return err
	}
	return remote.WriteIndex(reference, index, remote.WithContext(ctx))
}

// find returns the descriptor of the image that a layout calls as.
func find(all v1.ImageIndex, as string) (v1.Descriptor, error) {
	manifest, err := all.IndexManifest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	named := match.Annotation("org.opencontainers.image.ref.name", as)
	for _, d := range manifest.Manifests {
		if named(d) {
			return d, nil
		}
	}
	return v1.Descriptor{}, fmt.Errorf("no image %s", as)
}

// slowWriter writes no faster than the line allows.
type slowWriter struct {
	http.ResponseWriter
	line *line
	all  *limiter
	one  limiter
}

func (w *slowWriter) Write(p []byte) (done int, err error) {
	for done < len(p) && err == nil {
		part := p[done:min(done+64<<10, len(p))]
		w.one.wait(len(part), w.line.connection)
		w.all.wait(len(part), w.line.total)
		var n int
		n, err = w.ResponseWriter.Write(part)
		done += n
	}
	return done, err
}

// limiter spaces what passes it.
type limiter struct {
	mu   sync.Mutex
	next time.Time
}

func (l *limiter) wait(n int, rate float64) {
	l.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-5 * time.Millisecond); l.next.Before(earliest) {
		l.next = earliest
	}
	l.next = l.next.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	until := l.next
	l.mu.Unlock()
	if pause := until.Sub(now); pause > 2*time.Millisecond {
		time.Sleep(pause)
	}
}
