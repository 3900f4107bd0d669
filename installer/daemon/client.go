package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxAnswer is how many bytes of an answer a Client reads.
const maxAnswer = 8 << 20

// ErrUnreachable says that nothing answers on the daemon's socket.
var ErrUnreachable = errors.New("the update service does not answer")

// Error is the daemon's sentence: a refusal of a call, as a Client returns it.
func (p *Problem) Error() string { return p.Detail }

// Client asks the daemon on its socket. Goroutines may share it.
type Client struct {
	http  http.Client
	actor func(context.Context) string
}

// NewClient returns a client of the daemon on socket. actor names who asks, for
// the records; nothing but Transport may be used where it is nil.
func NewClient(socket string, actor func(context.Context) string) *Client {
	return &Client{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute, DisableCompression: true,
	}}, actor}
}

// Transport is for those who pass calls on as they are.
func (c *Client) Transport() http.RoundTripper { return c.http.Transport }

// Get asks for something about app, which may be empty, and decodes the answer
// into out. path is below Prefix.
func (c *Client) Get(ctx context.Context, path, app string, query url.Values, out any) error {
	return c.call(ctx, http.MethodGet, Prefix+path, app, query, nil, out)
}

// Post asks for a change; in, which may be nil, is sent as JSON.
func (c *Client) Post(ctx context.Context, path, app string, in, out any) error {
	return c.call(ctx, http.MethodPost, Prefix+path, app, nil, in, out)
}

// Begin makes room for a bundle.
func (c *Client) Begin(ctx context.Context, app string, in NewUpload) (u Upload, err error) {
	err = c.call(ctx, http.MethodPost, uploads, app, nil, in, &u)
	return u, err
}

// At says how much of an upload has come.
func (c *Client) At(ctx context.Context, app, id string) (u Upload, err error) {
	err = c.call(ctx, http.MethodGet, uploads+"/"+url.PathEscape(id), app, nil, nil, &u)
	return u, err
}

// Write sends what comes from offset on.
func (c *Client) Write(ctx context.Context, app, id string, offset int64, r io.Reader) (u Upload, err error) {
	err = c.call(ctx, http.MethodPatch, uploads+"/"+url.PathEscape(id), app, url.Values{"offset": {strconv.FormatInt(offset, 10)}}, r, &u)
	return u, err
}

// Finish has a complete upload verified. It has size bytes: fewer may have come
// than there was room for.
func (c *Client) Finish(ctx context.Context, app, id string, size int64) (u Update, err error) {
	err = c.call(ctx, http.MethodPost, uploads+"/"+url.PathEscape(id)+"/done", app, url.Values{"size": {strconv.FormatInt(size, 10)}}, nil, &u)
	return u, err
}

// Abandon deletes an upload, whatever has become of ctx.
func (c *Client) Abandon(ctx context.Context, app, id string) error {
	return c.call(context.WithoutCancel(ctx), http.MethodDelete, uploads+"/"+url.PathEscape(id), app, nil, nil, nil)
}

// call sends in, JSON unless it is a reader. The error is a *Problem when the
// daemon refuses, and ErrUnreachable when there is none.
func (c *Client) call(ctx context.Context, method, path, app string, query url.Values, in, out any) error {
	q := url.Values{}
	if app != "" {
		q.Set("app", app)
	}
	for k, v := range query {
		q[k] = v
	}
	body, raw := in.(io.Reader)
	if !raw && in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://valise"+path+"?"+q.Encode(), body)
	if err != nil {
		return err
	}
	req.Header.Set(ActorHeader, c.actor(ctx))
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %v", ErrUnreachable, errors.Unwrap(err))
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		p := new(Problem)
		if json.Unmarshal(b, p) != nil || p.Status == 0 {
			p = &Problem{Type: "about:blank", Title: http.StatusText(res.StatusCode), Status: res.StatusCode, Detail: "the update service answered " + res.Status}
		}
		return p
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}
