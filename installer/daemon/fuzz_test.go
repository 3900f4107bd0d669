package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/installer"
)

// answering is a device that answers everything that is asked over the API.
type answering struct{ *shop }

func (answering) Configure(context.Context, string, Settings) error { return nil }
func (answering) Backups(string) ([]Backup, error)                  { return []Backup{{ID: "FIRST"}}, nil }
func (answering) Doctor(context.Context, string) []Finding          { return nil }
func (answering) Replaced() bool                                    { return false }
func (answering) OpenBackup(string, string, string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("data")), nil
}
func (answering) OnRollback(string, installer.Release) (string, error) { return RestoreData, nil }

// Whatever is asked, the daemon answers: never with a fault of its own, in JSON whose
// texts are plain, one line in the audit log at most, and nothing is made outside of
// its inbox.
func FuzzRequest(f *testing.F) {
	d := newShop(f, Apply)
	a := d.boot()
	f.Cleanup(a.close)
	var audit bytes.Buffer
	a.Device, a.Audit, a.apps = answering{d}, &audit, map[string]*app{"shop": a}
	handler := a.Handler()
	outside := names(list(f, d.dir))
	for _, seed := range [][2]string{
		{"GET " + Prefix + "/apps", ""}, {"GET " + Prefix + "/metrics", ""}, {"GET " + Prefix + "?page=2&page_size=100&status=failed", ""}, {"GET " + Prefix + "/check", ""},
		{"POST " + Prefix, `{"version":"1.1.0","changelog":"better"}`}, {"POST " + Prefix, `{"version":"\u001b[31m9.9.9"}`}, {"GET " + Prefix + "/FIRST", ""}, {"GET " + Prefix + "/FIRST/plan", ""},
		{"POST " + Prefix + "/FIRST/apply", `{"force":true}`}, {"POST " + Prefix + "/FIRST/rollback", `{"data":"keep"}`}, {"DELETE " + Prefix + "/FIRST", ""},
		{"GET " + Prefix + "/state?app=shop", ""}, {"GET " + Prefix + "/events", ""}, {"GET " + Prefix + "/backups", ""}, {"GET " + Prefix + "/backups/FIRST/..%2fstate.db", ""},
		{"POST " + Prefix + "/backups/FIRST/restore", ""}, {"GET " + Prefix + "/doctor", ""}, {"POST " + Prefix + "/download", `{"version":"1.1.0"}`},
		{"PATCH " + Prefix + "/settings", `{"check":"1h","window":"02:00-04:00","auto":"apply"}`}, {"POST /uploads?size=7", ""}, {"POST /uploads", `{"size":9223372036854775807}`},
		{"GET /uploads/..%2f..%2fstate.db", ""}, {"PATCH /uploads/x?offset=-1", "content"}, {"POST /uploads/x/done", ""}, {"DELETE /uploads/..", ""},
	} {
		f.Add(seed[0], "ann", seed[1])
	}
	f.Fuzz(func(t *testing.T, line, who, body string) {
		method, target, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(target, "/") || strings.ContainsAny(line+who, "\r\n") {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: valise\r\nContent-Length: %d\r\n\r\n%s", method, target, len(body), body))))
		if err != nil {
			return // net/http refuses it
		}
		r.Header.Set(ActorHeader, who)
		if strings.HasSuffix(r.URL.Path, "/events") { // who watches leaves at once
			ctx, leave := context.WithCancel(t.Context())
			leave()
			r = r.WithContext(ctx)
		}
		audit.Reset()
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		for len(a.jobs) > 0 { // nothing works on them here
			a.dequeue(<-a.jobs)
		}
		if w.Code == 500 {
			t.Fatalf("%s", w.Body)
		}
		if strings.HasSuffix(w.Header().Get("Content-Type"), "json") {
			var v any
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
				t.Fatalf("%v: %s", err, w.Body)
			}
			if p, is := v.(map[string]any); is && w.Code >= 400 && p["detail"] != plain.Text(p["detail"].(string)) {
				t.Fatalf("not plain: %q", p["detail"])
			}
		}
		if line := audit.String(); line != "" && (!json.Valid([]byte(line)) || strings.Count(line, "\n") != 1 || plain.Text(strings.TrimSuffix(line, "\n"))+"\n" != line) {
			t.Fatalf("audit log: %q", line)
		}
		if now := names(list(t, d.dir)); now != outside {
			t.Fatalf("beside the inbox: %s, want %s", now, outside)
		}
	})
}

// Whatever lies in the drop folder under whatever name, it is tried once: one record
// at most, whose texts are plain, and its file stays where it is or is in failed/.
func FuzzDrop(f *testing.F) {
	d := newShop(f, Apply)
	d.bad["1.1.0"] = true
	a := d.boot()
	f.Cleanup(a.close)
	m, c := bundletest.Release(f, bundletest.Spec{App: "shop", Version: "1.1.0"})
	good := bundletest.Write(f, m, c)
	for _, name := range []string{"shop.tar.gz", "shop-1.1.0.tar.gz.001", "stranger.tar.zst", ".shop.tar.gz", "shop.tar.gz.reason.txt", "\x1b[31m.tar.gz", "applied", "-rf.tar.gz", "sh\nop.tar.gz"} {
		f.Add(name, good)
		f.Add(name, good[:len(good)/2])
		f.Add(name, []byte{})
	}
	outside := names(list(f, d.dir))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		drop := filepath.Join(d.dir, "updates")
		if filepath.Base(name) != name || name == "." || name == ".." || name == "/" || name == AppliedDir || name == failedDir || os.WriteFile(filepath.Join(drop, name), content, 0o600) != nil {
			return // not a name of a file
		}
		defer func() {
			_ = os.Remove(filepath.Join(drop, name))
			_ = os.RemoveAll(filepath.Join(drop, failedDir))
			_ = os.RemoveAll(filepath.Join(drop, AppliedDir))
		}()
		_, before, err := a.records.Find(t.Context(), nil, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			a.lookAtDrop(t.Context())
		}
		found, after, err := a.records.Find(t.Context(), nil, 1, 0)
		if err != nil || after-before > 1 {
			t.Fatalf("%d records, %v", after-before, err)
		}
		taken := bundleOf(name) != ""
		if taken != (after > before) {
			t.Fatalf("taken for a bundle: %v, and %d records", taken, after-before)
		}
		if taken && (found[0].Status != installer.Failed || found[0].Error == "" || plain.Text(found[0].Error) != found[0].Error) {
			t.Fatalf("%+v", found[0])
		}
		if now := names(list(t, d.dir)); now != outside {
			t.Fatalf("beside the folder: %s, want %s", now, outside)
		}
		entries := list(t, drop)
		if !taken && (len(entries) != 1 || entries[0].Name() != name) || taken && slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == name }) {
			t.Fatalf("in the folder: %v", entries)
		}
	})
}

func list(t testing.TB, dir string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return entries
}
