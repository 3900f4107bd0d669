package fleet

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/bundle/web"
)

// Limits of one request.
const (
	maxAnswer      = 1 << 20 // bytes
	maxToken       = 4 << 10 // bytes
	maxDetail      = 500     // bytes of one message; hawkBit splits those above 512 characters
	requestTimeout = 2 * time.Minute
)

// Client speaks the DDI API. It is for one goroutine.
type Client struct {
	http *http.Client
	base string // up to the name of the target
	auth func() (string, error)
	cert string // client certificate, if there is one
}

// NewClient prepares a client for the target id. next, which may be nil, carries out
// the requests in place of a network.
func NewClient(c Config, id, agent string, next http.RoundTripper) (*Client, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if !segment.MatchString(id) {
		return nil, fmt.Errorf("fleet: id is %.80q, want letters, digits and . : _ -", id)
	}
	if next == nil {
		t := web.Transport()
		t.MaxIdleConnsPerHost, t.IdleConnTimeout = 1, time.Minute
		if c.ClientCertificate != "" {
			// Read at each handshake: who renews it need not start this program anew.
			t.TLSClientConfig = &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				pair, err := tls.LoadX509KeyPair(c.ClientCertificate, c.ClientKey)
				if err != nil {
					return nil, fmt.Errorf("read client_certificate: %w", err)
				}
				return &pair, nil
			}}
		}
		next = t
	}
	return &Client{
		cert: c.ClientCertificate,
		base: strings.TrimSuffix(c.HawkBit, "/") + "/" + cmp.Or(c.Tenant, "DEFAULT") + "/controller/v1/" + url.PathEscape(id),
		http: &http.Client{
			Transport:     &named{&web.Guard{Next: next, Limit: maxAnswer, Loopback: true}, agent},
			Timeout:       requestTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		auth: func() (string, error) {
			switch {
			case c.TokenFile != "":
				return secretOf("TargetToken ", c.TokenFile)
			case c.GatewayTokenFile != "":
				return secretOf("GatewayToken ", c.GatewayTokenFile)
			}
			return "", nil
		},
	}, nil
}

type named struct {
	next  http.RoundTripper
	agent string
}

func (n *named) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", n.agent)
	return n.next.RoundTrip(req)
}

// secretOf reads a token anew for each request: it may be renewed.
func secretOf(scheme, file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	token := strings.TrimSpace(string(b))
	if err != nil || len(b) > maxToken || token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("read token: %s does not hold one line of text", file)
	}
	return scheme + token, nil
}

// StatusError is an answer that is not a success.
type StatusError struct {
	Code int
	Host string
	Page bool // with a page or text: a proxy answers so, a hawkBit does with JSON, or nothing
}

// Kind names these errors for front ends.
func (e *StatusError) Kind() string { return "fleet" }

func (e *StatusError) Error() string {
	text := strings.TrimSuffix(fmt.Sprintf("%s answered %d (%s)", e.Host, e.Code, http.StatusText(e.Code)), " ()")
	if e.Page {
		text += " with a page: that is a proxy, not hawkBit"
	}
	return text
}

// over reports whether a server took what it was told, or never will: what it does not
// know any more, or cannot read, is not told again. What a proxy says before a server
// that is down, or of a client certificate, counts for nothing.
func over(err error) bool {
	if err == nil {
		return true
	}
	s := new(StatusError)
	if !errors.As(err, &s) || s.Page {
		return false
	}
	switch s.Code {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusConflict, http.StatusGone, http.StatusUnsupportedMediaType:
		return true
	}
	return false
}

func (c *Client) do(ctx context.Context, method, rest string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+rest, body)
	if err != nil {
		return err
	}
	auth, err := c.auth()
	if err != nil {
		return err
	}
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		if u := new(url.Error); errors.As(err, &u) {
			err = u.Err
		}
		if alert := new(net.OpError); errors.As(err, &alert) && alert.Op == "remote error" { // of TLS
			err = fmt.Errorf("it refuses %s: %w", cmp.Or(c.cert, "a device without client_certificate"), alert)
		}
		return fmt.Errorf("ask %s: %w", req.URL.Host, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	page, good := len(b) > 0 && !strings.Contains(res.Header.Get("Content-Type"), "json"), res.StatusCode >= 200 && res.StatusCode <= 299
	if !good || page && out == nil {
		return &StatusError{res.StatusCode, req.URL.Host, page}
	}
	if err == nil && out != nil {
		err = json.Unmarshal(b, out)
	}
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", req.URL.Host, err)
	}
	return nil
}

// base is what the server has for the target.
type base struct {
	Config struct {
		Polling struct {
			Sleep string `json:"sleep"`
		} `json:"polling"`
	} `json:"config"`
	Links struct {
		Deployment   *link `json:"deploymentBase"`
		Confirmation *link `json:"confirmationBase"`
		Cancel       *link `json:"cancelAction"`
		Attributes   *link `json:"configData"`
	} `json:"_links"`
}

type link struct {
	Href string `json:"href"`
}

var actionID = lazyregexp.New(`^[0-9A-Za-z_-]{1,64}$`)

// action is the last part of the path of a link. The rest of it is not used.
func (l *link) action() (string, error) {
	u, err := url.Parse(l.Href)
	if err == nil {
		if id := path.Base(u.Path); actionID.MatchString(id) {
			return id, nil
		}
	}
	return "", fmt.Errorf("the server gives %.100q as the address of an action", l.Href)
}

// sleep is how long the server wants to be left alone; 0 when it does not say.
func (b *base) sleep() time.Duration {
	var total time.Duration
	fields := strings.Split(b.Config.Polling.Sleep, ":")
	if len(fields) != 3 {
		return 0
	}
	for i, unit := range []time.Duration{time.Hour, time.Minute, time.Second} {
		n, err := strconv.ParseUint(fields[i], 10, 16)
		if err != nil {
			return 0
		}
		total += time.Duration(n) * unit
	}
	return total
}

// handling of a download or an update.
const (
	skip   = "skip"
	forced = "forced" // else "attempt"
)

type deployment struct {
	Download          string  `json:"download"`
	Update            string  `json:"update"`
	MaintenanceWindow string  `json:"maintenanceWindow"`
	Chunks            []chunk `json:"chunks"`
}

type chunk struct {
	Part    string `json:"part"`
	Name    string `json:"name"`
	Version string `json:"version"`
}

func (c *Client) poll(ctx context.Context) (b base, err error) {
	err = c.do(ctx, http.MethodGet, "", nil, &b)
	return b, err
}

func (c *Client) deployment(ctx context.Context, id string) (deployment, error) {
	var out struct {
		ID         string     `json:"id"`
		Deployment deployment `json:"deployment"`
	}
	err := c.do(ctx, http.MethodGet, "/deploymentBase/"+id, nil, &out)
	return out.Deployment, err
}

func (c *Client) confirmation(ctx context.Context, id string) (deployment, error) {
	var out struct {
		Confirmation deployment `json:"confirmation"`
	}
	err := c.do(ctx, http.MethodGet, "/confirmationBase/"+id, nil, &out)
	return out.Confirmation, err
}

// canceled is the action that is to be stopped.
func (c *Client) canceled(ctx context.Context, id string) (string, error) {
	var out struct {
		Cancel struct {
			StopID string `json:"stopId"`
		} `json:"cancelAction"`
	}
	if err := c.do(ctx, http.MethodGet, "/cancelAction/"+id, nil, &out); err != nil {
		return "", err
	}
	if !actionID.MatchString(out.Cancel.StopID) {
		return "", fmt.Errorf("the server wants %.100q stopped, which is not the name of an action", out.Cancel.StopID)
	}
	return out.Cancel.StopID, nil
}

// How an action stands, and how it ended.
const (
	execClosed     = "closed"
	execProceeding = "proceeding"
	execScheduled  = "scheduled"
	execRejected   = "rejected"
	execDownload   = "download"
	execDownloaded = "downloaded"

	success = "success"
	failure = "failure"
	none    = "none"
)

// Feedback is what is told about an action.
type Feedback struct {
	Execution string   `json:"execution"`
	Finished  string   `json:"finished"`
	Code      int      `json:"code,omitempty"`
	Details   []string `json:"details,omitempty"`
}

// feedback tells about what: deploymentBase or cancelAction. Its time is that of the
// server: a device's clock may be wrong.
func (c *Client) feedback(ctx context.Context, what, id string, f Feedback) error {
	status := map[string]any{"execution": f.Execution, "result": map[string]string{"finished": f.Finished}, "details": details(f.Details)}
	if f.Code != 0 {
		status["code"] = f.Code
	}
	return c.do(ctx, http.MethodPost, "/"+what+"/"+id+"/feedback", map[string]any{"status": status}, nil)
}

func (c *Client) confirmed(ctx context.Context, id string, yes bool, why ...string) error {
	word := "denied"
	if yes {
		word = "confirmed"
	}
	return c.do(ctx, http.MethodPost, "/confirmationBase/"+id+"/feedback", map[string]any{"confirmation": word, "details": details(why)}, nil)
}

func (c *Client) installed(ctx context.Context, name, version string) error {
	return c.do(ctx, http.MethodPut, "/installedBase", map[string]string{"name": name, "version": version}, nil)
}

func (c *Client) attributes(ctx context.Context, data map[string]string) error {
	return c.do(ctx, http.MethodPut, "/configData", map[string]any{"mode": "merge", "data": data}, nil)
}

// details are messages as the server takes them.
func details(all []string) []string {
	out := []string{}
	for _, s := range all {
		if s = strings.ToValidUTF8(plain.Text(s)[:min(len(plain.Text(s)), maxDetail)], ""); s != "" {
			out = append(out, s)
		}
	}
	return out
}
