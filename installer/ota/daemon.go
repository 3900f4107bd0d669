package ota

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httputil"

	"github.com/valise-ota/valise/installer/daemon"
)

const apiPrefix = daemon.Prefix

// newClient asks the daemon in the name of who asks the page.
func newClient(socket string) *daemon.Client {
	return daemon.NewClient(socket, func(ctx context.Context) string {
		me, _ := ctx.Value(whoKey{}).(*who)
		if me == nil {
			return ""
		}
		return me.name
	})
}

// newProxy passes calls on to the daemon as they are.
func newProxy(client *daemon.Client) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Transport: client.Transport(), FlushInterval: -1, BufferPool: buffers{},
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
				problem(w, http.StatusBadGateway, daemon.ErrUnreachable.Error())
			}
		},
	}
}

// buffers are small: each browser that watches holds one all day.
type buffers struct{}

func (buffers) Get() []byte { return make([]byte, 4<<10) }
func (buffers) Put([]byte)  {}

// problem answers with a problem of our own.
func problem(w http.ResponseWriter, status int, detail string) {
	writeProblem(w, daemon.Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Reason: daemon.ReasonFor(status)})
}

func writeProblem(w http.ResponseWriter, p daemon.Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}
