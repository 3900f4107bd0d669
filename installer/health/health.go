// Package health decides whether a release runs. It is asked after a switch,
// and its no brings the previous release back, so a release that crashes
// over and over must not look healthy in the moments in which it is up.
package health

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/trace"
)

const (
	attemptTimeout = 5 * time.Second // one HTTP request, redirects and body included; one connection
	commandTimeout = time.Minute
	listTimeout    = time.Minute // how the services are
	maxBody        = 1 << 20     // bytes of the answer
	maxRedirects   = 5
)

// Checks is what must hold, all of it in the same attempt.
type Checks struct {
	Services []string          // compose services that must run and, where they have a health check, be healthy
	Ends     map[string]bool   // services that may end, and with true must: none may end with another status than 0
	URL      string            // to ask; empty for no HTTP check
	Status   int               // of its answer; 0 means 200
	Body     string            // text that the answer contains
	JSON     map[string]string // members of the JSON answer, a.b for b in a, and their values as text
	// CA is a file with certificates that may have signed that of the answer, in place of
	// those of the machine; Fingerprint the SHA-256 of that certificate, in hex.
	CA, Fingerprint string
	TCP             []string // host:port that must take a connection
	Command         func(context.Context) error
	Retries         int           // attempts that may fail before the last one, at least 1
	Interval        time.Duration // between the end of an attempt and the next one
	// StableFor is how long attempts must go on passing; zero means that one is
	// enough.
	StableFor time.Duration
}

// ChecksOf returns the checks that a release of a version asks for, except what
// only a kind of app knows: services and the command. dir has the release's files;
// expand fills in what comes from the environment file.
func ChecksOf(h bundle.Health, version, dir string, expand func(string) (string, error)) (Checks, error) {
	c := Checks{
		Status: h.Status, Body: h.Body, JSON: maps.Clone(h.JSON),
		Retries: h.Retries, Interval: time.Duration(h.Interval), StableFor: time.Duration(h.StableFor),
	}
	if h.Version != "" {
		if c.JSON == nil {
			c.JSON = map[string]string{}
		}
		c.JSON[h.Version] = version
	}
	var err error
	if c.URL, err = expand(h.HTTP); err != nil {
		return c, fmt.Errorf("health check URL: %w", err)
	}
	if c.CA, err = expand(h.CA); err != nil {
		return c, fmt.Errorf("health check ca: %w", err)
	}
	if c.CA != "" && !filepath.IsAbs(c.CA) {
		c.CA = filepath.Join(dir, c.CA)
	}
	if c.Fingerprint, err = expand(h.Fingerprint); err != nil {
		return c, fmt.Errorf("health check fingerprint: %w", err)
	}
	for _, address := range h.TCP {
		if address, err = expand(address); err != nil {
			return c, fmt.Errorf("health check tcp: %w", err)
		}
		c.TCP = append(c.TCP, address)
	}
	return c, nil
}

// Container is one container of a compose service. Its fields are those of
// docker.Container, so that one converts to the other.
type Container struct {
	ID           string
	Service      string
	State        string
	Health       string // empty without a health check
	RestartCount int
	ImageID      string
	StartedAt    time.Time
	ConfigHash   string
	Ended        bool
	ExitCode     int
}

// Deps is what Probe looks at.
type Deps struct {
	// Ps lists the containers of the project; needed for Checks.Services. With
	// it a container of any service that restarts in between fails an attempt.
	Ps func(ctx context.Context) ([]Container, error)
	// Transport carries the HTTP check; nil is a direct connection. Proxies of
	// the environment are never used: they do not lead to this device.
	Transport http.RoundTripper
}

// Probe returns nil when every check passes in one attempt, and in all attempts
// of StableFor after it; or why they did not in the last one.
//
// With Ps an attempt passes only when no container has restarted since the
// attempt before it, and each of Services has run since then: a container that
// restarts in between is in a restart loop, however healthy it looks. So then
// there are always at least two attempts.
func Probe(ctx context.Context, c Checks, deps Deps) error {
	p := &prober{Checks: c, deps: deps, since: map[string]time.Time{}}
	failures := max(c.Retries, 1)
	if deps.Ps != nil {
		failures = max(failures, 2)
	}
	var err error
	var good time.Time // when the first of the passing attempts ended
	for failed := 0; ; {
		err = p.attempt(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("%w (last: %v)", context.Cause(ctx), err)
		case err != nil:
			good = time.Time{}
			if failed++; failed == failures {
				return fmt.Errorf("not healthy after %d attempts: %w", failures, err)
			}
		case good.IsZero():
			good = time.Now()
			fallthrough
		default:
			if time.Since(good) >= c.StableFor {
				return nil
			}
		}
		if stopped := trace.Sleep(ctx, "between two checks of health", c.Interval); stopped != nil {
			return fmt.Errorf("%w (last: %v)", stopped, err)
		}
	}
}

type prober struct {
	Checks
	deps Deps
	seen map[string]Container // containers in the attempt before, by ID; nil before the first
	// since says when a container was first seen in its present run.
	since map[string]time.Time
}

func (p *prober) attempt(ctx context.Context) error {
	if err := p.services(ctx); err != nil {
		return err
	}
	for _, address := range p.TCP {
		conn, err := (&net.Dialer{Timeout: attemptTimeout}).DialContext(ctx, "tcp", address)
		if err != nil {
			return fmt.Errorf("check tcp %s: %w", address, err)
		}
		conn.Close()
	}
	if p.Command != nil {
		if err := p.command(ctx); err != nil {
			return err
		}
	}
	if p.URL == "" {
		return nil
	}
	return p.http(ctx)
}

func (p *prober) command(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	if err := p.Command(ctx); err != nil {
		return fmt.Errorf("check by command: %w", err)
	}
	return nil
}

func (p *prober) services(ctx context.Context) error {
	if p.deps.Ps == nil {
		return nil
	}
	asked, cancel := context.WithTimeoutCause(ctx, listTimeout, fmt.Errorf("no answer within %s", listTimeout))
	defer cancel()
	list, err := p.deps.Ps(asked)
	if err != nil && asked.Err() != nil {
		err = context.Cause(asked)
	}
	if err != nil {
		return fmt.Errorf("check services: %w", err)
	}
	before := p.seen
	p.seen = map[string]Container{}
	byService := map[string][]Container{}
	for _, c := range list {
		p.seen[c.ID] = c
		byService[c.Service] = append(byService[c.Service], c)
	}
	for _, c := range list {
		if err := p.checkLoop(c, before); err != nil {
			return err
		}
	}
	for _, s := range slices.Sorted(maps.Keys(p.Ends)) {
		for _, c := range byService[s] {
			if err := checkEnd(c, p.Ends[s]); err != nil {
				return fmt.Errorf("service %s %w", s, err)
			}
		}
	}
	for _, c := range list {
		if c.State == "exited" && c.ExitCode != 0 && !slices.Contains(p.Services, c.Service) {
			return fmt.Errorf("service %s ended with status %d", c.Service, c.ExitCode)
		}
	}
	for _, s := range p.Services {
		if len(byService[s]) == 0 {
			return fmt.Errorf("service %s has no container", s)
		}
		if _, ends := p.Ends[s]; ends && !slices.ContainsFunc(byService[s], func(c Container) bool { return c.State != "exited" }) {
			continue // with status 0, as was seen above
		}
		for _, c := range byService[s] {
			if err := checkContainer(c, before); err != nil {
				return fmt.Errorf("service %s %w", s, err)
			}
		}
	}
	if before == nil {
		return errors.New("the services have only just been looked at")
	}
	return nil
}

// settled is how long a container that the engine had to start again must run
// until that counts as over: after that time the engine itself forgets it.
const settled = 10 * time.Second

// checkLoop finds containers that end again and again, whether they run at this
// moment or not.
func (p *prober) checkLoop(c Container, before map[string]Container) error {
	run := fmt.Sprint(c.ID, c.RestartCount)
	if _, ok := p.since[run]; !ok {
		p.since[run] = time.Now()
	}
	old, known := before[c.ID]
	switch {
	case known && c.RestartCount > old.RestartCount:
		return fmt.Errorf("service %s is in a restart loop: it started again since the attempt before (state %s, %d restarts)", c.Service, c.State, c.RestartCount)
	case c.State == "restarting":
		return fmt.Errorf("service %s is in a restart loop: it waits to be started again (%d restarts)", c.Service, c.RestartCount)
	case c.RestartCount == 0 || c.State != "running":
		return nil
	}
	want := min(settled, time.Duration(p.Retries)*p.Interval/2)
	if ran := max(time.Since(p.since[run]), time.Since(c.StartedAt)); ran < want {
		return fmt.Errorf("service %s was started again %d times and has run for %s since, want %s", c.Service, c.RestartCount, ran.Round(time.Millisecond), want)
	}
	return nil
}

// checkEnd checks a container of a service that may end, or must.
func checkEnd(c Container, must bool) error {
	switch {
	case c.State == "exited" && c.ExitCode != 0:
		return fmt.Errorf("ended with status %d, want 0", c.ExitCode)
	case c.State != "exited" && must:
		return fmt.Errorf("is %s, want that it ends with status 0", c.State)
	}
	return nil
}

func checkContainer(c Container, before map[string]Container) error {
	old, known := before[c.ID]
	switch {
	case known && !c.StartedAt.Equal(old.StartedAt):
		return fmt.Errorf("is in a restart loop: it started again since the attempt before (state %s, %d restarts)", c.State, c.RestartCount)
	case c.State != "running":
		return fmt.Errorf("is %s (%d restarts), want running", c.State, c.RestartCount)
	case c.Health != "" && c.Health != "healthy":
		return fmt.Errorf("is %s, want healthy", c.Health)
	case !known:
		return errors.New("has only just been seen running")
	}
	return nil
}

func (p *prober) http(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if err := p.get(ctx); err != nil {
		if ctx.Err() == context.DeadlineExceeded {
			err = fmt.Errorf("no answer within %s", attemptTimeout)
		}
		return fmt.Errorf("check %s: %w", p.URL, err)
	}
	return nil
}

func (p *prober) get(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return err
	}
	rt := p.deps.Transport
	if rt == nil {
		// A connection of its own per attempt: one kept from the release that
		// was replaced would prove nothing.
		config, err := p.tlsConfig()
		if err != nil {
			return err
		}
		rt = &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}
	}
	client := &http.Client{Transport: trace.Transport{Next: rt}, CheckRedirect: checkRedirect}
	res, err := client.Do(req)
	if err != nil {
		var uerr *url.Error
		if errors.As(err, &uerr) {
			err = uerr.Err // its text repeats the URL
		}
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	want := cmp.Or(p.Status, http.StatusOK)
	switch {
	case err != nil:
		return fmt.Errorf("read answer: %w", err)
	case res.StatusCode != want:
		if to := res.Header.Get("Location"); to != "" {
			return fmt.Errorf("answers %s to %.200q, want %d", res.Status, to, want)
		}
		return fmt.Errorf("answers %s, want %d", res.Status, want)
	case len(body) > maxBody:
		return fmt.Errorf("answer is longer than %d bytes", maxBody)
	case !bytes.Contains(body, []byte(p.Body)):
		return fmt.Errorf("answer does not contain %.200q", p.Body)
	case len(p.JSON) == 0:
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(p.JSON)) {
		got, err := member(body, strings.Split(name, "."))
		if err != nil {
			return fmt.Errorf("answer has no %s: %w", name, err)
		}
		if got != p.JSON[name] {
			return fmt.Errorf("%s is %.200q, want %q", name, got, p.JSON[name])
		}
	}
	return nil
}

// member returns a value in a JSON object as text: what a string says, or the
// JSON of a number, true, false or null.
func member(raw json.RawMessage, names []string) (string, error) {
	for _, name := range names {
		var members map[string]json.RawMessage
		if err := json.Unmarshal(raw, &members); err != nil {
			return "", fmt.Errorf("it is not a JSON object: %w", err)
		}
		next, ok := members[name]
		if !ok {
			return "", fmt.Errorf("no member %q", name)
		}
		raw = next
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text, nil
	}
	if raw[0] == '{' || raw[0] == '[' {
		return "", errors.New("it is not a single value")
	}
	return string(raw), nil
}

// checkRedirect stays on the host that was asked: another one says nothing
// about this release.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects || req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	return nil
}
