package daemon

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/installer"
)

// The inbox: files that were uploaded or downloaded. They are called after an ID
// of ours, and ID.unverified until they passed every check.

const (
	unverified     = ".unverified"
	bundleSuffix   = ".bundle"
	maxUpload      = 8 << 30
	maxUploads     = 8 // unfinished ones at a time
	maxKept        = 8 // bundles that wait to be applied
	noFollow       = syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	copyBufferSize = 256 << 10 // bytes
)

// upload is a file that is not complete yet.
type upload struct {
	mu     sync.Mutex // one writer at a time
	id     string
	by     string
	name   string // of the file that comes, as its sender calls it
	waits  bool   // when it is here, whatever the device does with uploads
	size   int64
	offset int64
	used   time.Time
}

// refusal is an error with an HTTP status and a name for programs.
type refusal struct {
	status int
	check  string
	text   string
	reason string // as installer.ReasonOf names it
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Kind() string  { return r.reason }

func refuse(status int, format string, args ...any) error {
	return because(ReasonFor(status), status, format, args...)
}

// because refuses with a reason of its own.
func because(reason string, status int, format string, args ...any) error {
	return &refusal{status, "", fmt.Sprintf(format, args...), reason}
}

// ReasonFor is the reason of a refusal that has none but its status.
func ReasonFor(status int) string {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "forbidden"
	case http.StatusNotFound:
		return "gone"
	case http.StatusConflict:
		return "not-now"
	case http.StatusRequestEntityTooLarge:
		return "too-large"
	case http.StatusLocked, http.StatusServiceUnavailable:
		return "busy"
	case http.StatusTooManyRequests:
		return "too-many"
	case http.StatusBadGateway:
		return "unreachable"
	case http.StatusInsufficientStorage:
		return "space"
	case http.StatusInternalServerError:
		return "device"
	}
	return "invalid"
}

// begin makes room for a file of size bytes, before the first of them comes.
func (a *app) begin(by string, in NewUpload) (*upload, error) {
	size := in.Size
	limit := a.config.MaxUpload
	if limit == 0 {
		limit = maxUpload
	}
	if size <= 0 || size > limit {
		return nil, refuse(http.StatusRequestEntityTooLarge, "the bundle has %d bytes, this device takes 1 to %d", size, limit)
	}
	if err := a.keepable(context.Background()); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.uploads) >= maxUploads {
		return nil, refuse(http.StatusTooManyRequests, "%d uploads are unfinished already: finish or delete one", maxUploads)
	}
	need := size + installer.Spare
	for _, u := range a.uploads {
		need += u.size - u.offset
	}
	free, err := installer.FreeBytes(a.config.Inbox)
	if err != nil {
		return nil, err
	}
	if free < need {
		return nil, refuse(http.StatusInsufficientStorage, "not enough space: %d bytes free, %d needed", free, need)
	}
	u := &upload{id: a.NewID(), by: by, name: in.Name, waits: in.Waits, size: size, used: a.Now()}
	f, err := a.inbox.OpenFile(u.id+unverified, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	a.uploads[u.id] = u
	return u, f.Close()
}

// keepable says why no further bundle can wait here. Of one that was tried the file
// makes room, the oldest first: it is here for a person who insists on it.
func (a *app) keepable(ctx context.Context) error {
	kept, err := fs.Glob(a.inbox.FS(), "*"+bundleSuffix)
	if err != nil || len(kept) < maxKept {
		return err
	}
	a.deciding.Lock()
	defer a.deciding.Unlock()
	tried, _, err := a.records.Find(ctx, []installer.Status{installer.Completed, installer.Failed, installer.RolledBack}, -1, 0)
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(tried) {
		if r.Bundle != nil && slices.Contains(kept, r.Bundle.File) {
			a.forgetFile(ctx, r.ID)
			return nil
		}
	}
	return because("too-many", http.StatusInsufficientStorage, "%d bundles wait already: apply or delete one", maxKept)
}

func (a *app) upload(id string) (*upload, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.uploads[id]
	if u == nil {
		return nil, refuse(http.StatusNotFound, "there is no such upload: it was finished, deleted or is too old")
	}
	return u, nil
}

// write appends at offset what r has, also when r ends early: the sender asks how
// far it got and goes on from there.
func (a *app) write(u *upload, offset int64, r io.Reader) (int64, error) {
	if !u.mu.TryLock() {
		return 0, refuse(http.StatusLocked, "another request writes to this upload")
	}
	defer u.mu.Unlock()
	if offset != u.offset {
		return u.offset, refuse(http.StatusConflict, "the upload is at byte %d, not at %d", u.offset, offset)
	}
	f, err := a.inbox.OpenFile(u.id+unverified, os.O_WRONLY, 0)
	if err != nil {
		return u.offset, fmt.Errorf("write upload: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return u.offset, err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(r, u.size-offset), make([]byte, copyBufferSize))
	a.mu.Lock()
	u.offset, u.used = u.offset+n, a.Now()
	a.mu.Unlock()
	if errors.Is(err, syscall.ENOSPC) {
		return u.offset, refuse(http.StatusInsufficientStorage, "the disk is full at byte %d", u.offset)
	}
	return u.offset, err
}

// shrink says that a file is as long as what came of it: a form does not know
// before.
func (a *app) shrink(u *upload, size string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if size != strconv.FormatInt(u.offset, 10) {
		return refuse(http.StatusConflict, "the upload has %d bytes, not %.20s", u.offset, size)
	}
	u.size = u.offset
	return nil
}

// abandon removes an unfinished upload.
func (a *app) abandon(u *upload) {
	a.mu.Lock()
	delete(a.uploads, u.id)
	a.mu.Unlock()
	a.removeFile(u.id + unverified)
}

// finish verifies a complete upload and makes a record of it: a new one, or the
// one that was created for that version and waits for its bundle. One that is
// refused is removed, and its record says why.
func (a *app) finish(ctx context.Context, u *upload) (installer.Record, error) {
	if !u.mu.TryLock() {
		return installer.Record{}, refuse(http.StatusLocked, "another request writes to this upload")
	}
	defer u.mu.Unlock()
	if u.offset != u.size {
		return installer.Record{}, refuse(http.StatusConflict, "the upload has %d of %d bytes", u.offset, u.size)
	}
	a.mu.Lock()
	delete(a.uploads, u.id)
	a.mu.Unlock()
	r, err := a.accept(ctx, u.id, u.by, u.name, "")
	if err == nil && a.config.Upload == Apply && !u.waits {
		a.applyUploaded(ctx, r)
	}
	return r, err
}

// applyUploaded has a release applied that was uploaded, where the device says so. As in
// the drop folder, one that was left by hand waits for a person.
func (a *app) applyUploaded(ctx context.Context, r installer.Record) {
	st, err := a.records.Load(ctx)
	if err == nil && wentBack(st, r.To.Version) {
		err = fmt.Errorf("%s was rolled back by hand: it waits for a person to apply it", r.To.Version)
	}
	if err == nil {
		err = a.enqueue(job{record: r.ID})
	}
	if err != nil {
		a.become(ctx, r.ID, installer.Pending, a.told(err))
	}
}

// called is how records speak of a file that came.
func called(name string) string {
	if name = filepath.Base(filepath.ToSlash(plain.Text(name))); name == "." || name == "/" || len(name) > 255 {
		return "the file"
	}
	return name
}

// accept verifies ID.unverified and makes a record of it. version is what it is
// said to be, if anybody said so, and name what the file was called where it came from.
func (a *app) accept(ctx context.Context, id, by, name, version string) (r installer.Record, err error) {
	defer func() {
		if err != nil {
			a.removeFile(id + unverified)
		}
	}()
	path := filepath.Join(a.config.Inbox, id+unverified)
	sum, size, err := a.settle(ctx, path)
	if err != nil {
		return r, err
	}
	r = installer.Record{ID: id, Status: installer.Pending, By: by, Created: a.Now(), Bundle: &installer.Bundle{Size: size, Digest: sum, Name: called(name)}}
	offer, err := a.plan(ctx, path, true)
	if err != nil {
		text, check := a.Device.Explain(err)
		text, r.Reason = strings.ReplaceAll(text, path, called(name)), installer.ReasonOf(err)
		if check != "" {
			r.Status, r.Error, r.To.Version = installer.Failed, text, cmp.Or(version, offer.Version)
			if err := a.records.Add(ctx, r); err != nil {
				return r, err
			}
			a.changed(r.ID, installer.Failed)
			return r, &refusal{http.StatusUnprocessableEntity, check, text, r.Reason}
		}
		if offer.Version == "" { // it was not even looked at
			return r, because(r.Reason, http.StatusServiceUnavailable, "%s", text)
		}
		// It is good; what keeps it from being applied may be mended first.
	}
	if version != "" && offer.Version != version {
		r.Status, r.Error, r.To.Version, r.Reason = installer.Failed, fmt.Sprintf("the source gave %s under the name of %s", offer.Version, version), version, "check.version"
		if err := a.records.Add(ctx, r); err != nil {
			return r, err
		}
		a.changed(r.ID, installer.Failed)
		return r, because(r.Reason, http.StatusUnprocessableEntity, "%s", r.Error)
	}
	if offer.Plan != nil && offer.Plan.Action == "" {
		return r, because("runs", http.StatusConflict, "%s runs already", offer.Version)
	}
	r.To.Version, r.Changelog = offer.Version, offer.Changelog
	waiting, err := a.open(ctx, offer.Version)
	if err != nil {
		return r, err
	}
	if waiting != nil && (waiting.Status != installer.Pending || waiting.Bundle != nil && waiting.Bundle.File != "") {
		return r, because("here", http.StatusConflict, "version %s is here already, %s", offer.Version, waiting.Status)
	}
	r.Bundle.File, r.Bundle.Verified = id+bundleSuffix, true
	if err := a.inbox.Rename(id+unverified, r.Bundle.File); err != nil {
		return r, fmt.Errorf("keep bundle: %w", err)
	}
	if waiting != nil {
		err = a.records.SetBundle(ctx, waiting.ID, r.Bundle, r.Changelog)
		r.ID = waiting.ID
	} else {
		err = a.records.Add(ctx, r)
	}
	if err != nil {
		a.removeFile(r.Bundle.File)
		return r, err
	}
	a.changed(r.ID, installer.Pending)
	return a.records.Get(ctx, r.ID)
}

// open is the record of a version that is not at its end.
func (a *app) open(ctx context.Context, version string) (*installer.Record, error) {
	found, _, err := a.records.Find(ctx, []installer.Status{installer.Pending, installer.Downloading, installer.Verifying, installer.Applying}, -1, 0)
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		if r.To.Version == version {
			return &r, nil
		}
	}
	return nil, nil
}

// plan verifies one bundle at a time.
func (a *app) plan(ctx context.Context, path string, forced bool) (Offer, error) {
	select {
	case a.verifying <- struct{}{}:
		defer func() { <-a.verifying }()
	case <-ctx.Done():
		return Offer{}, ctx.Err()
	}
	return a.Device.Plan(ctx, a.name, path, forced, func(e installer.Event) {
		if e.Done > 0 && !e.Ended {
			a.hub.send(Event{Type: "upload", Done: e.Done, Total: e.Total})
		}
	})
}

// settle makes a file durable and returns the digest of all of it.
func (a *app) settle(ctx context.Context, path string) (sum string, size int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|noFollow, 0)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return "", 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	if err := copyTo(ctx, h, f); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), info.Size(), nil
}

// copyTo copies until r or ctx ends.
func copyTo(ctx context.Context, w io.Writer, r io.Reader) error {
	_, err := io.CopyBuffer(w, readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	}), make([]byte, copyBufferSize))
	return err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// forgetFile removes the bundle of a record that needs none any more.
func (a *app) forgetFile(ctx context.Context, id string) {
	r, err := a.records.Get(ctx, id)
	if err != nil || r.Bundle == nil || r.Bundle.File == "" || dropName(r) != "" {
		return
	}
	a.removeFile(r.Bundle.File)
	b := *r.Bundle
	b.File = ""
	if err := a.records.SetBundle(ctx, id, &b, ""); err != nil {
		a.log().Error("write record", "err", err)
	}
}

func (a *app) removeFile(name string) {
	if err := a.inbox.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log().Error("remove bundle", "err", err)
	}
}

// dropStaleUploads removes uploads that nobody goes on with.
func (a *app) dropStaleUploads() {
	a.mu.Lock()
	var stale []*upload
	for _, u := range a.uploads {
		if a.Now().Sub(u.used) > a.Timing.Stale {
			stale = append(stale, u)
		}
	}
	a.mu.Unlock()
	for _, u := range stale {
		a.abandon(u)
	}
}

// dropOrphans removes files that no record knows: an earlier daemon ended between
// file and record, and unfinished uploads ended with it. What has come since the
// inbox was opened is no orphan.
func (a *app) dropOrphans(ctx context.Context) {
	for _, name := range a.left {
		known, err := a.records.OfFile(ctx, name)
		if err == nil && len(known) == 0 && (strings.HasSuffix(name, unverified) || strings.HasSuffix(name, bundleSuffix)) {
			a.removeFile(name)
		}
	}
	a.left = nil
}
