package ota

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// api adds the calls. Those of the daemon are passed on with the name of who
// asks, once that somebody may ask for them; the raw uploads of the daemon are
// not among them, what browsers and scripts speak is in upload.go.
func (s *Server) api(mux *http.ServeMux) {
	for pattern, scope := range map[string]Scope{
		"GET ":                       read,
		"POST ":                      upload,
		"GET /apps":                  read,
		"GET /check":                 check,
		"GET /state":                 read,
		"GET /events":                read,
		"GET /backups":               read,
		"GET /backups/{id}/{file}":   admin,
		"POST /backups/{id}/restore": admin,
		"GET /doctor":                read,
		"GET /metrics":               read,
		"POST /download":             upload,
		"PATCH /settings":            admin,
		"GET /{id}":                  read,
		"GET /{id}/plan":             read,
		"POST /{id}/rollback":        apply,
		"DELETE /{id}":               admin,
	} {
		method, path, _ := strings.Cut(pattern, " ")
		mux.Handle(method+" "+apiPrefix+path, s.need(scope, s.daemon.proxy.ServeHTTP))
	}
	mux.Handle("POST "+apiPrefix+"/{id}/apply", s.need(apply, s.postApply))
	mux.Handle("POST "+apiPrefix+"/upload", s.need(upload, s.postUpload))
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
		problem(w, http.StatusUnprocessableEntity, "the request is not understood: want a JSON object")
		return
	}
	if in.Force && !whoIs(r).may(admin) {
		problem(w, http.StatusForbidden, "this needs the permission to admin: force")
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	s.daemon.proxy.ServeHTTP(w, r)
}
