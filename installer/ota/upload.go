package ota

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	tus "github.com/tus/tusd/v2/pkg/handler"
	xslog "golang.org/x/exp/slog"

	"github.com/valise-ota/valise/bundle/lazyregexp"
	bundleparts "github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/installer/daemon"
)

// maxParts bounds what precedes the file in a form.
const maxParts = 16

// postUpload takes a bundle as a form: one request, for scripts and curl.
func (s *Server) postUpload(w http.ResponseWriter, r *http.Request) {
	// Apps that had an updater before us expect this.
	parts, err := r.MultipartReader()
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, "send the bundle as multipart/form-data, in the field \"file\"")
		return
	}
	if r.ContentLength <= 0 {
		problem(w, http.StatusLengthRequired, "say how long the request is: room is made before the first byte")
		return
	}
	for range maxParts {
		part, err := parts.NextPart()
		if err != nil {
			break
		}
		if part.FormName() != "file" {
			continue
		}
		if !bundleName.MatchString(part.FileName()) {
			detail := "the file must be a bundle: .tar.gz, .tar.zst or .tar"
			if name, n := bundleparts.Split(part.FileName()); n > 0 && bundleName.MatchString(name) {
				detail = fmt.Sprintf("this is a part of a bundle: join them first, cat %s.0* > %s", name, name)
			}
			problem(w, http.StatusBadRequest, detail)
			return
		}
		s.takeForm(w, r, part.FileName(), part)
		return
	}
	problem(w, http.StatusUnprocessableEntity, "the form has no field \"file\"")
}

func (s *Server) takeForm(w http.ResponseWriter, r *http.Request, name string, part io.Reader) {
	ctx, app := r.Context(), r.URL.Query().Get("app")
	// A form does not say how long its file is: a little less than the request.
	// Room is made for that; what was not used is given back.
	u, err := s.daemon.Begin(ctx, app, daemon.NewUpload{Size: r.ContentLength, Name: name})
	if err == nil {
		id := u.ID
		var res daemon.Update
		if u, err = s.daemon.Write(ctx, app, id, 0, part); err == nil {
			res, err = s.daemon.Finish(ctx, app, id, u.Offset)
		} else {
			_ = s.daemon.Abandon(ctx, app, id)
		}
		if err == nil {
			done := daemon.Done{Status: "success", Message: fmt.Sprintf("Bundle %s is here and verified (%d bytes).", res.Version, u.Offset), PublicID: res.PublicID}
			if res.Queued {
				done.Message += " The update will be applied automatically."
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			_ = json.NewEncoder(w).Encode(done)
			return
		}
	}
	fail(w, err)
}

// fail answers with what the daemon said.
func fail(w http.ResponseWriter, err error) {
	if p := new(daemon.Problem); errors.As(err, &p) {
		writeProblem(w, *p)
		return
	}
	problem(w, http.StatusBadGateway, err.Error())
}

const filesPrefix = apiPrefix + "/files"

// withFiles serves resumable uploads below /files, and else what next does: their
// IDs look like those of records to a ServeMux.
func (s *Server) withFiles(next http.Handler) http.Handler {
	files := s.need(upload, s.tus())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == filesPrefix || strings.HasPrefix(r.URL.Path, filesPrefix+"/") {
			files.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// bounded ends requests and answers that do not go on.
func (s *Server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		daemon.Bounded{Next: next, Now: s.Now, Bundle: func(r *http.Request) bool {
			return r.URL.Path == apiPrefix+"/upload" || strings.HasPrefix(r.URL.Path, filesPrefix)
		}, Patience: s.patience}.ServeHTTP(w, r)
	})
}

// tus serves resumable uploads: the tus 1.0 protocol, whose files are the
// daemon's unfinished uploads.
func (s *Server) tus() http.HandlerFunc {
	composer := tus.NewStoreComposer()
	store := &store{s.daemon}
	composer.UseCore(store)
	composer.UseTerminater(store)
	h, err := tus.NewHandler(tus.Config{
		StoreComposer: composer, BasePath: apiPrefix + "/files/", DisableDownload: true, DisableConcatenation: true,
		Cors: &tus.CorsConfig{Disable: true}, Logger: xslog.New(xslog.NewTextHandler(io.Discard, nil)),
		PreFinishResponseCallback: store.done,
	})
	if err != nil { // our own configuration is wrong
		panic(err)
	}
	return http.StripPrefix(filesPrefix, h).ServeHTTP
}

var bundleName = lazyregexp.New(`\.tar(\.gz|\.zst)?$`)

var idPattern = lazyregexp.New(`^[A-Z2-7]{1,64}$`)

// store is where tus keeps its files: in the daemon. An upload is called
// APP.ID, or .ID where there is one app.
type store struct{ daemon *daemon.Client }

type stored struct {
	daemon *daemon.Client
	app    string
	id     string
}

func (s *store) NewUpload(ctx context.Context, info tus.FileInfo) (tus.Upload, error) {
	app := info.MetaData["app"]
	u, err := s.daemon.Begin(ctx, app, daemon.NewUpload{Size: info.Size, Name: info.MetaData["filename"]})
	if err != nil {
		return nil, tusError(err)
	}
	return &stored{s.daemon, app, u.ID}, nil
}

func (s *store) GetUpload(_ context.Context, id string) (tus.Upload, error) {
	app, rest, ok := strings.Cut(id, ".")
	if !ok || !idPattern.MatchString(rest) {
		return nil, tus.ErrNotFound
	}
	return &stored{s.daemon, app, rest}, nil
}

func (s *store) AsTerminatableUpload(u tus.Upload) tus.TerminatableUpload { return u.(*stored) }

func (u *stored) GetInfo(ctx context.Context) (tus.FileInfo, error) {
	at, err := u.daemon.At(ctx, u.app, u.id)
	if err != nil {
		return tus.FileInfo{}, tusError(err)
	}
	return tus.FileInfo{ID: u.app + "." + u.id, Size: at.Size, Offset: at.Offset}, nil
}

// WriteChunk returns how much was taken, also when the sender is gone: what came
// stays, and the sender goes on from there.
func (u *stored) WriteChunk(ctx context.Context, offset int64, src io.Reader) (int64, error) {
	at, err := u.daemon.Write(ctx, u.app, u.id, offset, src)
	if err != nil {
		return 0, tusError(err)
	}
	return at.Offset - offset, nil
}

func (u *stored) GetReader(context.Context) (io.ReadCloser, error) { return nil, tus.ErrNotImplemented }
func (u *stored) FinishUpload(context.Context) error               { return nil }

func (u *stored) Terminate(ctx context.Context) error {
	return tusError(u.daemon.Abandon(ctx, u.app, u.id))
}

// done has a complete file verified. The answer to the last request is the
// record, or why the bundle was refused.
func (s *store) done(hook tus.HookEvent) (tus.HTTPResponse, error) {
	app, id, _ := strings.Cut(hook.Upload.ID, ".")
	res, err := s.daemon.Finish(hook.Context, app, id, hook.Upload.Size)
	if err != nil {
		return tus.HTTPResponse{}, tusError(err)
	}
	b, err := json.Marshal(res)
	return tus.HTTPResponse{StatusCode: http.StatusOK, Body: string(b), Header: tus.HTTPHeader{"Content-Type": "application/json"}}, err
}

// tusError is what the daemon said, as tus hands it on.
func tusError(err error) error {
	if err == nil {
		return nil
	}
	p := daemon.Problem{Type: "about:blank", Title: "Bad Gateway", Status: http.StatusBadGateway, Detail: err.Error()}
	if no := new(daemon.Problem); errors.As(err, &no) {
		p = *no
	}
	b, _ := json.Marshal(p)
	return tus.Error{ErrorCode: "ERR_DEVICE", Message: p.Detail, HTTPResponse: tus.HTTPResponse{
		StatusCode: p.Status, Body: string(b), Header: tus.HTTPHeader{"Content-Type": "application/problem+json"},
	}}
}
