package ota

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/valise-ota/valise/installer/daemon"
)

// api adds the calls. Those of the daemon are passed on with the name of who
// asks, once that somebody may ask for them; the raw uploads of the daemon are
// not among them, what browsers and scripts speak is in upload.go.
func (s *Server) api(mux *http.ServeMux) {
	ours := map[string]http.HandlerFunc{"POST /{id}/apply": s.postApply, "POST /upload": s.postUpload, "POST /files": nil}
	for _, r := range daemon.Routes() {
		h, is := ours[r.Method+" "+r.Path]
		switch {
		case !r.Public(), is && h == nil, strings.HasPrefix(r.Path, "/files/"): // withFiles answers it
			continue
		case !is:
			h = s.proxy.ServeHTTP
		}
		mux.Handle(r.Method+" "+apiPrefix+r.Path, s.need(r.Scope, h))
	}
	mux.Handle("POST "+apiPrefix+"/{command}", s.need(daemon.Read, s.proxy.ServeHTTP)) // the daemon names the command
	mux.HandleFunc("GET "+apiPrefix+"/openapi.json", func(w http.ResponseWriter, r *http.Request) {
		b, _ := files.ReadFile("openapi.json")
		serveCompressed(w, r, "openapi.json", b)
	})
}

// postApply passes an apply on. To insist on a version that failed or is older
// takes more than to apply.
func (s *Server) postApply(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if err != nil {
		problem(w, http.StatusRequestEntityTooLarge, "the request is too large")
		return
	}
	var in struct {
		Force bool `json:"force"`
	}
	if len(b) > 0 && json.Unmarshal(b, &in) != nil {
		problem(w, http.StatusUnprocessableEntity, "malformed request: want a JSON object")
		return
	}
	if in.Force && !whoIs(r).may(admin) {
		problem(w, http.StatusForbidden, "this needs the permission to admin: force")
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	s.proxy.ServeHTTP(w, r)
}
