package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/installer"
)

// operates is a device that writes down what it is told, and is busy or fails.
type operates struct {
	*shop
	did []string
	err error
}

func (d *operates) Start(_ context.Context, _ string, always bool, report func(installer.Event)) (installer.Result, error) {
	d.did = append(d.did, fmt.Sprintf("start %v", always))
	report(installer.Event{Step: "activate"})
	return installer.Result{Outcome: installer.NothingToDo, Record: installer.Record{To: installer.Release{Version: "1.0.0"}}}, d.err
}

func (d *operates) Stop(context.Context, string, func(installer.Event)) error {
	d.did = append(d.did, "stop")
	return d.err
}

func (d *operates) Save(context.Context, string, func(installer.Event)) (Backup, error) {
	d.did = append(d.did, "save")
	return Backup{ID: "SAVED"}, d.err
}

func (d *operates) Logs(_ context.Context, _ string, lines int, to io.Writer) error {
	d.did = append(d.did, fmt.Sprintf("logs %d", lines))
	for range 3 * maxLog / 32 {
		if _, err := io.WriteString(to, strings.Repeat("x", 31)+"\n"); err != nil {
			return err
		}
	}
	_, err := io.WriteString(to, "last\n")
	return errors.Join(err, d.err)
}

func (d *operates) Repair(context.Context) ([]string, error) {
	d.did = append(d.did, "repair")
	return []string{"till", "shop"}, d.err
}

// Between releases the API does what the commands do, and answers when it has ended; not
// while something else changes the app.
func TestOperate(t *testing.T) {
	s := newShop(t, Off)
	a := s.boot()
	defer a.close()
	d := &operates{shop: s}
	a.Device, a.apps, a.gone = d, map[string]*app{"shop": a}, make(chan struct{}, 1)
	call := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		a.Handler().ServeHTTP(w, httptest.NewRequest(method, Prefix+path, nil))
		return w.Code, w.Body.String()
	}
	for _, tc := range []struct {
		method, path string
		status       int
		did          []string
		says         string
	}{
		{"POST", "/apply", 200, []string{"start true"}, "1.0.0 runs as it is configured"},
		{"POST", "/start", 200, []string{"start false"}, "1.0.0 runs as it is configured"},
		{"POST", "/restart", 200, []string{"stop", "start false"}, "1.0.0 runs as it is configured"},
		{"POST", "/stop", 200, []string{"stop"}, "It is stopped."},
		{"POST", "/backups", 201, []string{"save"}, `"id":"SAVED"`},
		{"POST", "/repair", 200, []string{"repair"}, `2 [\"shop\" \"till\"]`},
		{"GET", "/logs?lines=7", 200, []string{"logs 7"}, "last\n"},
		{"GET", "/logs", 200, []string{"logs 100"}, "last\n"},
		{"GET", "/logs?lines=0", 422, nil, "want 1 to 10000"},
		{"GET", "/logs?lines=10001", 422, nil, "want 1 to 10000"},
		{"POST", "/nothing", 405, nil, "there is no call POST /nothing"},
	} {
		d.did, d.err = nil, nil
		status, body := call(tc.method, tc.path)
		if status != tc.status || !slices.Equal(d.did, tc.did) || !strings.Contains(body, tc.says) || len(body) > maxLog {
			t.Errorf("%s %s: %d, %q, %d bytes: %.200s", tc.method, tc.path, status, d.did, len(body), body)
		}
		for err, want := range map[error]int{ErrBusy: 409, installer.ErrNothingRuns: 409, ErrNoData: 409, errors.New("no"): 500} {
			if tc.status >= 405 || tc.path == "/repair" && !errors.Is(err, ErrBusy) {
				continue
			}
			if d.err = err; true {
				if status, _ := call(tc.method, tc.path); status != want {
					t.Errorf("%s %s, %v: %d, want %d", tc.method, tc.path, err, status, want)
				}
			}
		}
	}
}
