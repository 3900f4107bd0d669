package daemon

import (
	"cmp"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/net/netutil"
)

const (
	// pieceTimeout is how long a sender of a bundle may send nothing, and how long
	// pieceSize bytes of it, or of an answer, may take.
	pieceTimeout = time.Minute
	pieceSize    = 16 << 10
	// bodyTimeout is how long any other body may take.
	bodyTimeout = 15 * time.Second
)

// Bounded ends requests whose sender does not go on, and answers that are not read.
type Bounded struct {
	Next     http.Handler
	Bundle   func(*http.Request) bool // reports whether the body is a bundle, which may be slow
	Now      func() time.Time
	Patience time.Duration // of tests, in place of both times
}

func (b Bounded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	switch {
	case r.Body == nil || r.Body == http.NoBody:
	case b.Bundle(r):
		r.Body = b.patient(rc, r.Body)
	default: // net/http takes the deadline away when the body is here
		_ = rc.SetReadDeadline(time.Now().Add(cmp.Or(b.Patience, bodyTimeout)))
	}
	a := &answer{w, rc, cmp.Or(b.Patience, pieceTimeout)}
	defer a.extend() // for what is flushed at the end
	b.Next.ServeHTTP(a, r)
}

// read is a request's body that is read in another way.
type read struct {
	io.ReadCloser
	read func(p []byte) (int, error)
}

func (b read) Read(p []byte) (int, error) { return b.read(p) }

// patient is a body whose sender may be slow, but neither silent nor so slow that
// it never ends.
func (b Bounded) patient(rc *http.ResponseController, r io.ReadCloser) io.ReadCloser {
	came, since, limit := 0, b.Now(), cmp.Or(b.Patience, pieceTimeout)
	return read{r, func(p []byte) (int, error) {
		_ = rc.SetReadDeadline(time.Now().Add(limit))
		n, err := r.Read(p)
		switch came += n; {
		case came >= pieceSize:
			came, since = 0, b.Now()
		case err == nil && b.Now().Sub(since) > limit:
			err = os.ErrDeadlineExceeded
		}
		return n, err
	}}
}

// answer is one whose reader may be slow, but has to go on.
type answer struct {
	http.ResponseWriter
	rc       *http.ResponseController
	patience time.Duration
}

func (a *answer) extend() { _ = a.rc.SetWriteDeadline(time.Now().Add(a.patience)) }

func (a *answer) WriteHeader(status int) {
	a.extend()
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (done int, err error) {
	for {
		a.extend()
		n, err := a.ResponseWriter.Write(p[:min(len(p), pieceSize)])
		done += n
		if p = p[n:]; err != nil || len(p) == 0 {
			return done, err
		}
	}
}

// Unwrap is for http.ResponseController, whose deadlines are ours: those of a
// library would end the request while its body is worked on.
func (a *answer) Unwrap() http.ResponseWriter      { return a.ResponseWriter }
func (a *answer) SetReadDeadline(time.Time) error  { return nil }
func (a *answer) SetWriteDeadline(time.Time) error { return nil }

// maxConnections is how many there may be to the daemon's socket. Each costs a file
// descriptor and some 50 KB, and the transaction needs both.
const maxConnections = 2048

// Limit is l with that limit. One more waits until another ends.
func Limit(l net.Listener) net.Listener { return netutil.LimitListener(l, maxConnections) }
