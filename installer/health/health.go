// Package health decides whether a release runs. It is asked after a switch,
// and its no brings the previous release back, so a release that crashes
// over and over must not look healthy in the moments in which it is up.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	attemptTimeout = 5 * time.Second // one HTTP request, redirects and body included
	maxBody        = 1 << 20         // bytes of the answer
	maxRedirects   = 5
)

// Checks is what must hold, all of it in the same attempt.
type Checks struct {
	Services []string // compose services that must run and, where they have a health check, be healthy
	URL      string   // must answer 200; empty for no HTTP check
	Member   string   // member of the JSON answer that must equal Version; empty for none
	Version  string
	Retries  int           // attempts, at least 1
	Interval time.Duration // between the end of an attempt and the next one
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
}

// Deps is what Probe looks at.
type Deps struct {
	// Ps lists the containers of the project; needed for Checks.Services.
	Ps func(ctx context.Context) ([]Container, error)
	// Transport carries the HTTP check; nil is a direct connection. Proxies of
	// the environment are never used: they do not lead to this device.
	Transport http.RoundTripper
}

// Probe returns nil as soon as every check passes in one attempt, or why they
// did not in the last one.
//
// With Services an attempt passes only when each of their containers has run
// since the attempt before it: a container that restarts in between is in a
// restart loop, however healthy it looks. So then there are always at least two
// attempts.
func Probe(ctx context.Context, c Checks, deps Deps) error {
	p := &prober{Checks: c, deps: deps}
	attempts := max(c.Retries, 1)
	if len(c.Services) > 0 {
		attempts = max(attempts, 2)
	}
	var err error
	for i := range attempts {
		if i > 0 {
			select {
			case <-time.After(c.Interval):
			case <-ctx.Done():
				return fmt.Errorf("%w (last: %v)", context.Cause(ctx), err)
			}
		}
		if err = p.attempt(ctx); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w (last: %v)", context.Cause(ctx), err)
		}
	}
	return fmt.Errorf("not healthy after %d attempts: %w", attempts, err)
}

type prober struct {
	Checks
	deps Deps
	seen map[string]Container // containers of Services in the attempt before, by ID; nil before the first
}

func (p *prober) attempt(ctx context.Context) error {
	if err := p.services(ctx); err != nil || p.URL == "" {
		return err
	}
	return p.http(ctx)
}

func (p *prober) services(ctx context.Context) error {
	if len(p.Services) == 0 {
		return nil
	}
	list, err := p.deps.Ps(ctx)
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
	for _, s := range p.Services {
		if len(byService[s]) == 0 {
			return fmt.Errorf("service %s has no container", s)
		}
		for _, c := range byService[s] {
			if err := checkContainer(c, before); err != nil {
				return fmt.Errorf("service %s %w", s, err)
			}
		}
	}
	return nil
}

func checkContainer(c Container, before map[string]Container) error {
	old, known := before[c.ID]
	switch {
	case known && (c.RestartCount > old.RestartCount || !c.StartedAt.Equal(old.StartedAt)):
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
		rt = &http.Transport{DisableKeepAlives: true}
	}
	client := &http.Client{Transport: rt, CheckRedirect: checkRedirect}
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
	switch {
	case err != nil:
		return fmt.Errorf("read answer: %w", err)
	case res.StatusCode != http.StatusOK:
		if to := res.Header.Get("Location"); to != "" {
			return fmt.Errorf("answers %s to %.200q, want 200", res.Status, to)
		}
		return fmt.Errorf("answers %s, want 200", res.Status)
	case len(body) > maxBody:
		return fmt.Errorf("answer is longer than %d bytes", maxBody)
	case p.Member == "":
		return nil
	}
	var members map[string]json.RawMessage
	var got string
	if err := json.Unmarshal(body, &members); err != nil {
		return fmt.Errorf("answer is not a JSON object: %w", err)
	}
	if raw, ok := members[p.Member]; !ok || json.Unmarshal(raw, &got) != nil {
		return fmt.Errorf("answer has no text member %q", p.Member)
	}
	if got != p.Version {
		return fmt.Errorf("%s is %.200q, want %q", p.Member, got, p.Version)
	}
	return nil
}

// checkRedirect stays on the host that was asked: another one says nothing
// about this release.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects || req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	return nil
}
