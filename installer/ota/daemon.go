package ota

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"github.com/valise-ota/valise/installer/daemon"
)

const (
	apiPrefix = "/api/v1/ota"
	maxAnswer = 8 << 20 // bytes of an answer that a page is made from
)

var errDown = errors.New("the update service does not answer: systemctl status valise")

// daemonClient is the daemon behind its socket.
type daemonClient struct {
	client *http.Client
	proxy  *httputil.ReverseProxy
}

func newDaemonClient(socket string) *daemonClient {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute, DisableCompression: true,
	}
	return &daemonClient{
		client: &http.Client{Transport: transport},
		proxy: &httputil.ReverseProxy{
			Transport: transport, FlushInterval: -1, BufferPool: buffers{},
			// What somebody sends stays here, but for what the daemon is asked.
			Rewrite: func(r *httputil.ProxyRequest) {
				r.Out.URL.Scheme, r.Out.URL.Host = "http", "daemon"
				r.Out.Header = http.Header{"Content-Type": r.In.Header["Content-Type"], "Accept": r.In.Header["Accept"]}
				if me := whoIs(r.In); me != nil {
					r.Out.Header.Set(daemon.ActorHeader, me.name)
				}
			},
			ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
				if r.Context().Err() == nil {
					problem(w, http.StatusBadGateway, errDown.Error())
				}
			},
		},
	}
}

// buffers are small: each browser that watches holds one all day.
type buffers struct{}

func (buffers) Get() []byte { return make([]byte, 4<<10) }
func (buffers) Put([]byte)  {}

// failure is a problem that the daemon answered.
type failure struct{ daemon.Problem }

func (f *failure) Error() string { return f.Detail }

// call asks the daemon for something and decodes the answer into out, which may
// be nil.
func (e *daemonClient) call(ctx context.Context, method, path string, query url.Values, in io.Reader, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://daemon"+path+"?"+query.Encode(), in)
	if err != nil {
		return err
	}
	if me, _ := ctx.Value(whoKey{}).(*who); me != nil {
		req.Header.Set(daemon.ActorHeader, me.name)
	}
	res, err := e.client.Do(req)
	if err != nil {
		return errDown
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		f := new(failure)
		if json.Unmarshal(b, &f.Problem) != nil || f.Status == 0 {
			f.Problem = daemon.Problem{Status: res.StatusCode, Detail: "the update service answered " + res.Status}
		}
		return f
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(b, out)
}

func jsonBody(v any) io.Reader {
	b, _ := json.Marshal(v)
	return bytes.NewReader(b)
}

// problem answers with a problem of our own.
func problem(w http.ResponseWriter, status int, detail string) {
	writeProblem(w, daemon.Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail})
}

func writeProblem(w http.ResponseWriter, p daemon.Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}
