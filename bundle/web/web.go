// Package web bounds what the answer of a server may cost, and keeps secrets off
// connections that others can read.
package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Limits of every request.
const (
	MaxHeader     = 64 << 10 // bytes of the header of an answer
	dialTimeout   = 15 * time.Second
	headerTimeout = 2 * time.Minute // until an answer begins, after all of an upload was sent
)

// ErrStalled means that an answer did not go on.
var ErrStalled = errors.New("the connection is silent")

// Transport is a transport of its own with limits of time and of headers.
func Transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	t.TLSHandshakeTimeout, t.ResponseHeaderTimeout, t.MaxResponseHeaderBytes = dialTimeout, headerTimeout, MaxHeader
	return t
}

// Guard is a RoundTripper that sends no secret in the open and bounds answers.
type Guard struct {
	Next  http.RoundTripper
	Limit int64 // bytes of an answer; 0: the caller has a limit
	// Whole are requests whose good answer the caller bounds. May be nil.
	Whole func(*http.Request) bool
	Stall time.Duration // an answer that does not go on for so long ends; 0: the caller sees to it
	// Loopback lets secrets go to this machine in the open, as to a registry of a
	// developer.
	Loopback bool
}

// RoundTrip implements http.RoundTripper.
func (g *Guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if host := req.URL.Hostname(); req.URL.Scheme != "https" && secret(req) && !(g.Loopback && Loopback(host)) {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, fmt.Errorf("a password or token would go to %s unencrypted: use https", req.URL.Host)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	res, err := g.Next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	res.Request = req
	b := &body{ReadCloser: res.Body, ctx: ctx, cancel: cancel, host: req.URL.Host, left: -1, stall: g.Stall}
	if g.Limit > 0 && !(g.Whole != nil && g.Whole(req) && (res.StatusCode == http.StatusOK || res.StatusCode == http.StatusPartialContent)) {
		b.left, b.limit = g.Limit, g.Limit
	}
	if g.Stall > 0 {
		b.timer = time.AfterFunc(g.Stall, func() { cancel(ErrStalled) })
	}
	res.Body = b
	return res, nil
}

// secret reports whether a request carries one: a header, or the form that a login
// sends.
func secret(req *http.Request) bool {
	return req.Header.Get("Authorization") != "" || req.Header.Get("Cookie") != "" ||
		req.Body != nil && strings.HasPrefix(req.Header.Get("Content-Type"), "application/x-www-form-urlencoded")
}

// Loopback reports whether a host is this machine.
func Loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// First is the request that redirects led to req from.
func First(req *http.Request) *http.Request {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return req
}

type body struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	host   string
	left   int64 // -1: no limit
	limit  int64
	stall  time.Duration
	timer  *time.Timer // nil without one
}

func (b *body) Read(p []byte) (int, error) {
	if b.left >= 0 && int64(len(p)) > b.left {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.timer != nil && n > 0 {
		b.timer.Reset(b.stall)
	}
	if b.left >= 0 {
		if b.left -= int64(n); b.left < 0 {
			b.Close() // go-github forgets the body of an error
			return n - 1, fmt.Errorf("the answer of %s has more than %d bytes", b.host, b.limit)
		}
	}
	if err != nil && err != io.EOF && context.Cause(b.ctx) == ErrStalled {
		err = ErrStalled
	}
	return n, err
}

func (b *body) Close() error {
	if b.timer != nil {
		b.timer.Stop()
	}
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
