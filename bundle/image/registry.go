package image

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/web"
)

const userAgent = "valise"

// maxAnswer is how many bytes an answer has that is not a blob: an index, a token, an
// error.
const maxAnswer = 8 << 20

// How often and how patiently something is asked for again. Variables for tests.
var (
	askBackoff  = time.Second      // before a document is asked for again; then three times as long each time
	blobRounds  = 5                // failures in a row, of every place, before it is given up
	blobBackoff = time.Second      // before the second round; then three times as long each time
	blobStall   = 60 * time.Second // without a byte: the connection is dead
)

// registrySource is a repository of a registry, and its mirrors. What comes from a
// mirror is compared with digests just the same; only which image a tag means is a
// mirror's word.
type registrySource struct {
	reference name.Reference
	places    []*place // mirrors first
	held      func(ctx context.Context, d bundle.Digest) io.ReadCloser
}

// place is where a repository can be read.
type place struct {
	repository name.Repository
	keychain   authn.Keychain
	base       http.RoundTripper

	mu sync.Mutex // of rt
	rt http.RoundTripper
}

func (c *collector) registry(text string) (*registrySource, error) {
	reference, err := name.ParseReference(text)
	if err == nil && c.plain(reference.Context()) {
		reference, err = name.ParseReference(text, name.Insecure)
	}
	if err != nil {
		if _, lower := name.ParseReference(strings.ToLower(text)); lower == nil {
			return nil, fmt.Errorf("%w: the name of an image is in lower case", err)
		}
		return nil, err
	}
	keychain, base := c.Keychain, c.Transport
	if keychain == nil {
		keychain = authn.NewMultiKeychain()
	}
	if base == nil {
		base = c.hosts
	}
	base = patient{&web.Guard{Next: base, Limit: maxAnswer, Whole: isBlob, Stall: blobStall, Loopback: true}}
	base = transport.NewRetry(base, transport.WithRetryBackoff(remote.Backoff{Duration: askBackoff, Factor: 3, Jitter: 0.1, Steps: 3}),
		transport.WithRetryStatusCodes(http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout))
	base = transport.NewUserAgent(base, userAgent)
	r := &registrySource{reference: reference, held: c.Held}
	origin := reference.Context()
	for _, mirror := range c.Mirrors[origin.RegistryStr()] {
		repository, err := name.NewRepository(mirror + "/" + origin.RepositoryStr())
		if err == nil && c.plain(repository) {
			repository, err = name.NewRepository(mirror+"/"+origin.RepositoryStr(), name.Insecure)
		}
		if err != nil {
			return nil, fmt.Errorf("mirror %s: %w", mirror, err)
		}
		r.places = append(r.places, &place{repository: repository, keychain: keychain, base: base})
	}
	r.places = append(r.places, &place{repository: origin, keychain: keychain, base: base})
	return r, nil
}

func (c *collector) plain(r name.Repository) bool { return slices.Contains(c.Plain, r.RegistryStr()) }

// hosts has a transport for each host, with those who may certify it. All images share
// it, and so their connections.
type hosts struct {
	roots func(host string) (*x509.CertPool, error)
	mu    sync.Mutex // of next
	next  map[string]http.RoundTripper
}

func (h *hosts) RoundTrip(req *http.Request) (*http.Response, error) {
	t, err := h.of(req.URL.Host)
	if err != nil {
		return nil, err
	}
	return t.RoundTrip(req)
}

func (h *hosts) of(host string) (http.RoundTripper, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t, ok := h.next[host]; ok {
		return t, nil
	}
	t := web.Transport()
	t.MaxIdleConnsPerHost = 2 * maxImages // two are too few for what is read side by side
	if h.roots != nil {
		pool, err := h.roots(host)
		if err != nil {
			return nil, fmt.Errorf("certificates for %s: %w", host, err)
		}
		if pool != nil {
			t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		}
	}
	h.next[host] = t
	return t, nil
}

// BusyError says that a registry wants to be asked again much later.
type BusyError struct {
	Host  string
	After time.Duration
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("%s has had too many requests (429): it wants to be asked again in %s", e.Host, e.After)
}

// Kind names the section of docs/troubleshooting.md about it.
func (e *BusyError) Kind() string { return "registry-busy" }

// maxBusy is the longest time that a registry may ask to wait.
const maxBusy = time.Minute

// patient waits as long as a registry says before it lets a request be repeated. It reads
// what the registry says of a failure at once, as the connection is free only then.
type patient struct{ next http.RoundTripper }

func (p patient) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := p.next.RoundTrip(req)
	if err != nil || res.StatusCode < http.StatusBadRequest {
		return res, err
	}
	text, _ := io.ReadAll(res.Body) // what can be had of it
	res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(text))
	if res.StatusCode != http.StatusTooManyRequests {
		return res, nil
	}
	after := retryAfter(res.Header)
	if after > maxBusy {
		return nil, &BusyError{req.URL.Host, after}
	}
	select {
	case <-req.Context().Done():
	case <-time.After(after):
	}
	return res, nil
}

// retryAfter reads seconds, or a time, which counts from that of the answer.
func retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	then, err := http.ParseTime(text)
	now, err2 := http.ParseTime(h.Get("Date"))
	if err != nil || err2 != nil {
		return 0
	}
	return max(then.Sub(now), 0)
}

// isBlob reports whether a request is for a blob, whose size and digest are known.
func isBlob(r *http.Request) bool { return strings.Contains(web.First(r).URL.Path, "/blobs/") }

// transport is logged in; that is done once.
func (p *place) transport(ctx context.Context) (http.RoundTripper, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rt != nil {
		return p.rt, nil
	}
	auth, err := authn.Resolve(ctx, p.keychain, p.repository)
	if err != nil {
		return nil, err
	}
	rt, err := transport.NewWithContext(ctx, p.repository.Registry, auth, p.base, []string{p.repository.Scope(transport.PullScope)})
	if err == nil {
		p.rt = rt
	}
	return rt, err
}

// get fetches the image manifest or index that a reference of the place names.
func (p *place) get(ctx context.Context, reference name.Reference) (*remote.Descriptor, error) {
	rt, err := p.transport(ctx)
	if err != nil {
		return nil, err
	}
	return remote.Get(reference, remote.WithContext(ctx), remote.WithTransport(rt))
}

// with are the library's options for the registry itself.
func (r *registrySource) with(ctx context.Context) []remote.Option {
	p := r.places[len(r.places)-1]
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(p.keychain), remote.WithTransport(p.base)}
}

// try calls do for every place until one has what is wanted.
func (r *registrySource) try(ctx context.Context, do func(p *place) error) error {
	var errs []error
	for _, p := range r.places {
		err := do(p)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if len(r.places) > 1 {
			err = fmt.Errorf("%s: %w", p.repository, err)
		}
		errs = append(errs, err)
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

func (r *registrySource) root(ctx context.Context) (d v1.Descriptor, raw []byte, err error) {
	err = r.try(ctx, func(p *place) error {
		var reference name.Reference = p.repository.Tag(r.reference.Identifier())
		if digest, ok := r.reference.(name.Digest); ok {
			reference = p.repository.Digest(digest.DigestStr())
		}
		got, err := p.get(ctx, reference)
		if err != nil {
			return err
		}
		d, raw = got.Descriptor, got.Manifest
		return checkDocument(d, raw)
	})
	return d, raw, err
}

func (r *registrySource) document(ctx context.Context, d v1.Descriptor) (raw []byte, err error) {
	if !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
		return readDocument(d, r.layer(ctx, d))
	}
	if rc := r.here(ctx, d); rc != nil {
		return readDocument(d, func() (io.ReadCloser, error) { return rc, nil })
	}
	err = r.try(ctx, func(p *place) error {
		got, err := p.get(ctx, p.repository.Digest(d.Digest.String()))
		if err != nil {
			return err
		}
		raw = got.Manifest
		return checkDocument(d, raw)
	})
	return raw, err
}

// here opens a blob that this machine has, or returns nil.
func (r *registrySource) here(ctx context.Context, d v1.Descriptor) io.ReadCloser {
	if r.held == nil {
		return nil
	}
	return r.held(ctx, bundle.Digest(d.Digest.String()))
}

func (r *registrySource) layer(ctx context.Context, d v1.Descriptor) opener {
	return func() (io.ReadCloser, error) {
		if rc := r.here(ctx, d); rc != nil {
			return rc, nil
		}
		ctx, cancel := context.WithCancel(ctx)
		return &blobReader{ctx: ctx, cancel: cancel, digest: d.Digest, size: d.Size, places: slices.Clone(r.places)}, nil
	}
}

// blobReader reads a blob, and goes on where a broken connection left off, at the
// next place when there are several. It does not look at the bytes: whoever reads
// compares them with the digest.
type blobReader struct {
	ctx    context.Context
	cancel func()
	digest v1.Hash
	size   int64
	places []*place // that may have it

	at     int64 // bytes passed on
	body   io.ReadCloser
	drop   func() // ends the connection of body
	whole  bool   // a part of it is not to be had
	next   int    // place to ask
	failed int    // times in a row
	mark   int64  // at, when it failed
}

// Close may be called during a read, which then fails.
func (b *blobReader) Close() error {
	b.cancel()
	return nil
}

func (b *blobReader) Read(p []byte) (int, error) {
	for b.at < b.size {
		if b.body == nil {
			if err := b.open(); err != nil {
				return 0, err
			}
		}
		stall := time.AfterFunc(blobStall, b.drop)
		n, err := b.body.Read(p[:min(int64(len(p)), b.size-b.at)])
		stall.Stop()
		b.at += int64(n)
		if n > 0 || err == nil {
			return n, nil // an error comes again
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err := b.fail(err, false); err != nil {
			return 0, err
		}
	}
	return 0, io.EOF
}

// fail notes that a place failed, waits when all of them did, and returns an error
// when it is time to give up.
func (b *blobReader) fail(err error, forGood bool) error {
	if b.body != nil {
		b.drop()
		b.body.Close()
		b.body = nil
	}
	if b.ctx.Err() != nil {
		return b.ctx.Err()
	}
	err = fmt.Errorf("blob %s of %s: %w", b.digest, b.places[b.next].repository, err)
	if b.at-b.mark >= 1<<20 { // it gets on
		b.failed = 0
	}
	b.mark = b.at
	b.failed++
	if forGood {
		if b.places = slices.Delete(b.places, b.next, b.next+1); len(b.places) == 0 {
			return err
		}
		b.next %= len(b.places)
		return nil
	}
	round := b.failed / len(b.places)
	if round >= blobRounds {
		return fmt.Errorf("%w (given up after %d attempts)", err, b.failed)
	}
	if b.next++; b.next < len(b.places) {
		return nil
	}
	b.next = 0
	wait := blobBackoff
	for range round - 1 {
		wait *= 3
	}
	select {
	case <-b.ctx.Done():
		return b.ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

// open asks the places for what is left of the blob.
func (b *blobReader) open() error {
	for b.body == nil {
		err := b.request(b.places[b.next])
		if err == nil {
			break
		}
		forGood := errors.As(err, new(*BusyError))
		if status := (*transport.Error)(nil); errors.As(err, &status) {
			switch code := status.StatusCode; {
			case code == http.StatusRequestedRangeNotSatisfiable && !b.whole:
				b.whole = true
			case code >= 400 && code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests:
				forGood = true
			}
		}
		if err := b.fail(err, forGood); err != nil {
			return err
		}
	}
	return nil
}

func (b *blobReader) request(p *place) (err error) {
	ctx, drop := context.WithCancel(b.ctx)
	stall := time.AfterFunc(blobStall, drop)
	defer stall.Stop()
	defer func() {
		if err != nil {
			drop()
		}
	}()
	rt, err := p.transport(ctx)
	if err != nil {
		return err
	}
	url := fmt.Sprintf("%s://%s/v2/%s/blobs/%s", p.repository.Scheme(), p.repository.RegistryStr(), p.repository.RepositoryStr(), b.digest)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if b.at > 0 && !b.whole {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.at, b.size-1))
	}
	answer, err := (&http.Client{Transport: rt, CheckRedirect: checkRedirect}).Do(req)
	if err != nil {
		return err
	}
	if err := transport.CheckError(answer, http.StatusOK, http.StatusPartialContent); err != nil {
		return err
	}
	skip := b.at // of an answer that begins at the beginning
	if answer.StatusCode == http.StatusPartialContent {
		if got := answer.Header.Get("Content-Range"); !strings.HasPrefix(got, fmt.Sprintf("bytes %d-", b.at)) {
			return fmt.Errorf("asked for the bytes from %d, got %.80q", b.at, got)
		}
		skip = 0
	}
	for skip > 0 {
		n, err := io.CopyN(io.Discard, answer.Body, min(skip, 1<<20))
		if err != nil {
			return err
		}
		skip -= n
		stall.Reset(blobStall)
	}
	b.body, b.drop = answer.Body, drop
	return nil
}

// checkRedirect keeps a registry out there from sending this machine to an address
// of its own network. One that is in that network may have its storage there.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	host, from := req.URL.Hostname(), via[0].URL.Hostname()
	ip, err := netip.ParseAddr(host)
	if err != nil || host == from || !ip.IsPrivate() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() && !ip.IsUnspecified() {
		return nil
	}
	if ip.IsPrivate() && inPrivateNetwork(req.Context(), from) {
		return nil
	}
	return fmt.Errorf("redirect from %s to the private address %s refused", from, host)
}

// inPrivateNetwork reports whether all addresses of a host are private ones.
func inPrivateNetwork(ctx context.Context, host string) bool {
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	return err == nil && len(addresses) > 0 && !slices.ContainsFunc(addresses, func(ip netip.Addr) bool { return !ip.Unmap().IsPrivate() })
}
