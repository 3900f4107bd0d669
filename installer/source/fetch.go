package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/valise-ota/valise/bundle/trace"
)

// part is one file of a bundle. Local ones have a path, others an address.
type part struct {
	path   string
	tag    *tag // in a registry: the bundle is put together from what the tag names
	url    string
	accept string // Accept header; may be empty
	size   int64  // -1 until it is known
	client *client
}

// ErrNoRanges means that a server only gives whole files.
var ErrNoRanges = errors.New("the server does not give parts of files")

// ErrChanged means that a file on a server is not the one it was.
var ErrChanged = errors.New("the file on the server was exchanged while it was read")

// minProgress is how many bytes count as progress: fewer in limits.stall and an
// attempt ends, fewer in limits.attempts and the transfer does.
const minProgress = 4 << 10

// remote is a part on a server, while it is read.
type remote struct {
	part
	location string // where redirects led
	etag     string // of the first answer, else
	modified string // its Last-Modified
	seen     bool   // the first answer is there

	whole    bool // an answer with all of the file is as good: what is not wanted is skipped
	restarts int  // such answers
	blob     *blob
	data     []byte // in memory already
}

// maxRestarts is how often a server may begin at the beginning of a file.
const maxRestarts = 64

// fetch gives the bytes from up to to of the part, or up to its end, to write, in
// order, and begins again where an attempt ended. It returns how many came.
func (f *File) fetch(ctx context.Context, r *remote, from, to int64, write func([]byte)) (int64, error) {
	wait := r.client.backoff()
	var done int64
	for failed := 0; ; {
		n, err := f.attempt(ctx, r, from+done, to, write)
		done += n
		if r.size >= 0 {
			to = min(to, r.size)
		}
		if from+done >= to || err != nil && !temporary(err) {
			return done, err
		}
		if ctx.Err() != nil {
			return done, context.Cause(ctx)
		}
		if n >= minProgress {
			failed = 0
			wait.Reset()
		}
		if err == nil && n > 0 {
			continue // the server divides the range
		}
		if failed++; failed >= r.client.attempts {
			return done, fmt.Errorf("%w (given up after %d attempts)", err, failed)
		}
		if err := r.client.pause(ctx, wait.NextBackOff(), err); err != nil {
			return done, err
		}
	}
}

func (c *client) backoff() *backoff.ExponentialBackOff {
	wait := &backoff.ExponentialBackOff{InitialInterval: c.first, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: c.maxWait}
	wait.Reset()
	return wait
}

// pause waits before the next attempt, longer when the server asked for that.
func (c *client) pause(ctx context.Context, d time.Duration, cause error) error {
	if t := new(temporaryError); errors.As(cause, &t) && t.after > d {
		d = min(t.after, 4*c.maxWait)
	}
	if c.retry != nil {
		c.retry(cause)
	}
	return trace.Sleep(ctx, "before the next attempt", d)
}

// temporaryError is a failure after which it makes sense to try again, not before
// after.
type temporaryError struct {
	err   error
	after time.Duration
}

func (e *temporaryError) Error() string { return e.err.Error() }
func (e *temporaryError) Unwrap() error { return e.err }

func temporary(err error) bool { return errors.As(err, new(*temporaryError)) }

var errStalled = errors.New("the connection is silent")

// attempt is one request, whose answer may end before to.
func (f *File) attempt(ctx context.Context, r *remote, from, to int64, write func([]byte)) (int64, error) {
	ctx, watch := watchStall(ctx, r.client.stall)
	defer watch.stop()
	res, to, err := f.request(ctx, r, from, to)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		if _, err := watch.copy(ctx, res, from, func(p []byte) error { f.count(int64(len(p))); return nil }); err != nil {
			return 0, err
		}
	}
	n, err := watch.copy(ctx, res, to-from, func(p []byte) error {
		f.count(int64(len(p)))
		write(p)
		return nil
	})
	return n, err
}

// stallWatch ends a request whose answer does not go on.
type stallWatch struct {
	timer  *time.Timer
	after  time.Duration
	cancel context.CancelCauseFunc
}

func watchStall(ctx context.Context, after time.Duration) (context.Context, *stallWatch) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &stallWatch{time.AfterFunc(headerTimeout+after, func() { cancel(errStalled) }), after, cancel}
}

func (w *stallWatch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// copy gives n bytes of an answer to write and returns how many came.
func (w *stallWatch) copy(ctx context.Context, res *http.Response, n int64, write func([]byte) error) (int64, error) {
	w.timer.Reset(w.after)
	var done, ticked int64
	buf := make([]byte, 32<<10)
	for done < n {
		k, err := res.Body.Read(buf[:min(int64(len(buf)), n-done)])
		if werr := write(buf[:k]); werr != nil {
			return done, werr
		}
		if done += int64(k); done-ticked >= minProgress {
			ticked = done
			w.timer.Reset(w.after)
		}
		if err != nil && done < n {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if errors.Is(context.Cause(ctx), errStalled) {
				err = errStalled
			}
			return done, &temporaryError{err: fmt.Errorf("connection to %s: %w", res.Request.URL.Host, err)}
		}
	}
	return done, nil
}

// request asks for a range and checks that the answer is of the file that the
// first answer was about. It returns where the answer ends.
func (f *File) request(ctx context.Context, r *remote, from, to int64) (*http.Response, int64, error) {
	f.mu.Lock()
	asked, etag := r.location, r.etag
	f.requests++
	f.mu.Unlock()
	header := http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", from, to-1)}}
	// A weak ETag, or a date, says too little to put ranges together by it
	// alone; then answers are compared.
	if strings.HasPrefix(etag, `"`) {
		header.Set("If-Range", etag)
	}
	res, err := r.get(ctx, asked, header)
	if err != nil {
		return nil, 0, err
	}
	end, err := f.answer(r, asked, res, from, to)
	if err != nil {
		res.Body.Close()
		return nil, 0, err
	}
	return res, end, nil
}

// get sends a request. Whatever the answer, it is no error.
func (p part) get(ctx context.Context, address string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header = header
	req.Header.Set("User-Agent", p.client.agent)
	if p.accept != "" {
		req.Header.Set("Accept", p.accept)
	}
	res, err := p.client.http.Do(req)
	if err == nil {
		return res, nil
	}
	if errors.Is(context.Cause(ctx), errStalled) {
		err = errStalled
	} else if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	} else if no := new(loginError); errors.As(err, &no) {
		return nil, no
	}
	return nil, &temporaryError{err: fmt.Errorf("ask %s: %w", req.URL.Host, plain(err))}
}

// statusError is the error of an answer that is no success.
func statusError(res *http.Response) error {
	err := &StatusError{res.StatusCode, res.Request.URL.Host}
	switch code := res.StatusCode; {
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		after, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		return &temporaryError{err, time.Duration(after) * time.Second}
	}
	return err
}

// answer judges the header of an answer and returns where its range ends.
func (f *File) answer(r *remote, asked string, res *http.Response, from, to int64) (end int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	etag, modified := res.Header.Get("ETag"), res.Header.Get("Last-Modified")
	unchanged := !r.seen || same(r.etag, etag) && same(r.modified, modified)
	switch code := res.StatusCode; {
	case code == http.StatusPartialContent:
	case code == http.StatusOK && r.whole:
		if r.restarts++; r.restarts > maxRestarts {
			return 0, fmt.Errorf("%s gives whole files only, and broke off %d times", res.Request.URL.Host, maxRestarts)
		}
		if res.ContentLength >= 0 && res.ContentLength != r.size {
			return 0, fmt.Errorf("%s sends %d bytes in place of %d", res.Request.URL.Host, res.ContentLength, r.size)
		}
		return to, nil
	case code == http.StatusOK && (!r.seen || unchanged && res.ContentLength == r.size):
		return 0, ErrNoRanges
	case code == http.StatusOK, code == http.StatusRequestedRangeNotSatisfiable, code == http.StatusPreconditionFailed:
		return 0, ErrChanged
	case asked != r.url && code >= 400 && code < 500:
		// An address that a redirect led to is good for a while only.
		r.location = r.url
		return 0, &temporaryError{err: statusError(res)}
	default:
		return 0, statusError(res)
	}
	start, last, size, ok := contentRange(res.Header.Get("Content-Range"))
	encoding := res.Header.Get("Content-Encoding")
	switch {
	case !ok || start != from || last < start || last >= to || encoding != "" && encoding != "identity":
		return 0, fmt.Errorf("%s answered another range than was asked for (%.80q)", res.Request.URL.Host, res.Header.Get("Content-Range"))
	case r.size >= 0 && size != r.size:
		return 0, fmt.Errorf("%w: it has %d bytes, not %d", ErrChanged, size, r.size)
	case !unchanged:
		return 0, ErrChanged
	}
	if !r.seen {
		r.seen, r.etag, r.modified = true, etag, modified
	}
	if r.size < 0 {
		r.size = size
	}
	r.location = res.Request.URL.String() // where redirects led
	return last + 1, nil
}

func same(a, b string) bool { return a == "" || b == "" || a == b }

// contentRange reads "bytes 0-99/1000".
func contentRange(s string) (start, end, size int64, ok bool) {
	rest, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, 0, 0, false
	}
	span, total, ok1 := strings.Cut(rest, "/")
	first, last, ok2 := strings.Cut(span, "-")
	if !ok1 || !ok2 {
		return 0, 0, 0, false
	}
	var err error
	number := func(s string) int64 {
		n, e := strconv.ParseInt(s, 10, 64)
		if e != nil || n < 0 {
			err = errors.New("not a number")
		}
		return n
	}
	start, end, size = number(first), number(last), number(total)
	return start, end, size, err == nil
}
