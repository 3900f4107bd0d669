package main

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/receipt"
)

// fleetDay is a day of January 2026.
func fleetDay(n int) time.Time { return time.Date(2026, 1, n, 12, 0, 0, 0, time.UTC) }

// writeReceipts has a new device write a receipt a day, each to the directory of its
// turn, and returns its key.
func writeReceipts(t *testing.T, device string, dirs []string, receipts ...receipt.Receipt) string {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	var before []byte
	for i, r := range receipts {
		r.Device, r.App, r.Action, r.Signer = device, cmp.Or(r.App, "shop"), "update", cmp.Or(r.Signer, "key 1")
		r.Begun, r.Ended = fleetDay(i+1), fleetDay(i+1).Add(time.Hour)
		if before, err = receipt.Seal(t.Context(), key, before, r); err != nil {
			t.Fatal(err)
		}
		if dirs[i%len(dirs)] == "" {
			continue // lost
		}
		dir := filepath.Join(dirs[i%len(dirs)], "valise", fmt.Sprintf("%x", device), "shop")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%06d.json", i+1)), before, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return receipt.Fingerprint(public)
}

func TestFleetReport(t *testing.T) {
	berlin, other := t.TempDir(), t.TempDir()
	first := receipt.Receipt{To: "1.0.0", Status: "completed"}
	second := receipt.Receipt{From: "1.0.0", To: "1.1.0", Status: "completed"}
	bad := receipt.Receipt{From: "1.1.0", To: "1.2.0", Status: "rolled_back", Reason: "sick"}
	failed := receipt.Receipt{From: "1.0.0", To: "1.0.0", Status: "failed", Signer: "key 2"} // of the same version, and never ran
	fleet := func(args ...string) (int, string, string) {
		var stdout, stderr strings.Builder
		code := run(t.Context(), cli.Env{Args: append([]string{"fleet", "report"}, args...), Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" }, Now: time.Now})
		return code, stdout.String(), stderr.String()
	}

	// One device whose receipts are on two sticks, and one that never took 1.1.0.
	key := writeReceipts(t, "pump-7", []string{berlin, other}, first, second, bad)
	writeReceipts(t, "pump-8", []string{berlin}, first, failed)
	code, out, stderr := fleet("berlin="+berlin, other)
	want := "APP   SITE    DEVICE  VERSION  SINCE       LAST SEEN   RECEIPTS  PROBLEM\n" +
		"shop  berlin  pump-7  1.1.0    2026-01-02  2026-01-03  3         -\n" +
		"shop  berlin  pump-8  1.0.0    2026-01-01  2026-01-02  2         -\n" +
		"shop 1.0.0: 1 of 2\nshop 1.1.0: 1 of 2\n"
	if code != 0 || out != want || stderr != "" {
		t.Errorf("exit code %d\n%s%s\nwant\n%s", code, out, stderr, want)
	}
	code, out, _ = fleet("berlin="+berlin, other, "--output", "json")
	var r fleetReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || len(r.Devices) != 2 || r.Devices[0].Key != key || len(r.Devices[0].Versions) != 2 || r.Devices[0].Signer != "key 1" ||
		r.Devices[1].Signer != "key 1" || !r.Devices[0].Since.Equal(fleetDay(2).Add(time.Hour)) {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}

	// What is missing, changed or of another key is said, and the rest is shown.
	hostile := t.TempDir()
	writeReceipts(t, "=cmd|' /C calc'!A0<script>\x1b[31m", []string{hostile, ""}, first, second, bad)
	writeReceipts(t, "twin", []string{hostile}, first)
	writeReceipts(t, "twin", []string{filepath.Join(hostile, "deep/er")}, first, second)
	changed := filepath.Join(hostile, "000009.json")
	if err := os.WriteFile(changed, []byte(`{"payloadType":"x"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("mkfifo", filepath.Join(hostile, "1.json")).Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(hostile, "link")); err != nil {
		t.Fatal(err)
	}
	code, out, stderr = fleet(hostile)
	for _, want := range []string{"number 2 is missing", "another key writes under this name", "refused: " + changed + ": ", "1.json: not a regular file", "shop 1.0.0: 1 of 3"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if code != cli.ExitRefused || !strings.Contains(stderr, "in 4 places") || strings.Contains(out, "\x1b") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	code, out, _ = fleet(hostile, "--output", "csv")
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil || code != cli.ExitRefused || len(rows) != 4 || rows[1][2][0] != '\'' {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}
	_, out, _ = fleet(hostile, "--output", "html")
	if strings.Contains(out, "<script>") || !strings.Contains(out, "&lt;script&gt;") || strings.Contains(out, "http://") || !strings.Contains(out, "<rect x=") {
		t.Errorf("html:\n%s", out)
	}

	for _, c := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{t.TempDir()}, cli.ExitFailed, "no receipt (NUMBER.json, or one a line of a file) in "},
		{[]string{"/nowhere"}, cli.ExitFailed, "no such file"},
		{nil, cli.ExitUsage, "want a place with receipts"},
		{[]string{berlin, "--output", "markdown"}, cli.ExitUsage, "want text, json, csv or html"},
	} {
		if code, _, stderr := fleet(c.args...); code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%q: exit code %d, %s", c.args, code, stderr)
		}
	}
}

// TestFleetHawkBit: what devices told hawkBit shows which receipts are missing, or are not
// those of then.
func TestFleetHawkBit(t *testing.T) {
	stick := t.TempDir()
	first := receipt.Receipt{To: "1.0.0", Status: "completed"}
	second := receipt.Receipt{From: "1.0.0", To: "1.1.0", Status: "completed"}
	keys := map[string]string{}
	files := map[string][]byte{}
	for _, device := range []string{"good", "late", "swapped", "silent"} {
		dir := t.TempDir()
		keys[device] = writeReceipts(t, device, []string{dir}, first, second)
		names, err := filepath.Glob(filepath.Join(dir, "valise/*/shop/*.json"))
		if err != nil || len(names) != 2 {
			t.Fatal(names, err)
		}
		for i, name := range names {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files[fmt.Sprint(device, i+1)] = b
			if device == "silent" || device == "late" && i == 1 {
				continue // did not come to the office
			}
			to := filepath.Join(stick, device, filepath.Base(name))
			if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, b, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	files["swapped2"] = append(files["swapped2"], '\n') // another file under its number
	status := func(device string, n int) actionStatus {
		r, err := receipt.Open(t.Context(), files[fmt.Sprint(device, n)])
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(receipt.MentionOf(r, files[fmt.Sprint(device, n)]))
		if err != nil || len(text) > 500 {
			t.Fatal(string(text), err)
		}
		return actionStatus{Messages: []string{"Update Server: target reported", r.To + " runs", string(text)}, ReportedAt: fleetDay(9).UnixMilli()}
	}
	page := func(all ...actionStatus) string {
		b, err := json.Marshal(map[string]any{"content": all, "total": len(all), "size": len(all)})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	report := func(export string, args ...string) (int, string, string) {
		name := filepath.Join(t.TempDir(), "hawkbit.json")
		if err := os.WriteFile(name, []byte(export), 0o644); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr strings.Builder
		code := run(t.Context(), cli.Env{Args: append([]string{"fleet", "report", "--hawkbit", name}, args...), Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" }, Now: time.Now})
		return code, stdout.String(), stderr.String()
	}

	code, out, stderr := report(page(status("good", 1))+"\n"+page(status("good", 2), status("late", 2))+page(status("swapped", 2), status("silent", 2)), stick)
	want := "APP   SITE  DEVICE   VERSION  SINCE       LAST SEEN   RECEIPTS  PROBLEM\n" +
		"shop  -     good     1.1.0    2026-01-02  2026-01-09  2         -\n" +
		"shop  -     late     1.0.0    2026-01-01  2026-01-09  1         hawkBit was told of receipt 2, which is missing\n" +
		"shop  -     silent   1.1.0    2026-01-09  2026-01-09  0         no receipts, only what hawkBit was told\n" +
		"shop  -     swapped  1.1.0    2026-01-02  2026-01-09  2         hawkBit was told of another receipt 2\n" +
		"shop 1.1.0: 3 of 4\nshop 1.0.0: 1 of 4\n"
	if code != cli.ExitRefused || out != want || !strings.Contains(stderr, "in 3 places") {
		t.Errorf("exit code %d\n%s%s\nwant\n%s", code, out, stderr, want)
	}
	if code, out, _ := report(page(status("silent", 1))); code != cli.ExitRefused || !strings.Contains(out, "silent  1.0.0") {
		t.Errorf("without a stick: exit code %d\n%s", code, out)
	}

	for export, want := range map[string]string{
		page(actionStatus{Messages: []string{`{"app":"shop","key":"../x","receipt":1}`}}):  "a message about a receipt: want a number, a digest",
		page(actionStatus{Messages: []string{`{"app":`}}):                                  "a message about a receipt: unexpected end",
		strings.Replace(page(status("good", 1)), `"reportedAt":`, `"reportedAt":99999`, 1): "a message about a receipt: it was reported at 99999",
		`{"content":[{"id":1,"status":"finished"}]}`:                                       "no receipt is mentioned there",
		`[1]`:              "want pages of action statuses",
		`{"content":[{"`:   "want pages of action statuses",
		page():             "no receipt",
		`{"content":null}`: "no receipt",
	} {
		if code, out, stderr := report(export); code == 0 || !strings.Contains(out+stderr, want) {
			t.Errorf("%s: exit code %d, %s%s, want %s", export, code, out, stderr, want)
		}
	}
}

// TestFleetLines reads receipts that cat put together, from a file and a server.
func TestFleetLines(t *testing.T) {
	stick := t.TempDir()
	writeReceipts(t, "pump-7", []string{stick}, receipt.Receipt{To: "1.0.0", Status: "completed"}, receipt.Receipt{From: "1.0.0", To: "1.1.0", Status: "completed"})
	writeReceipts(t, "pump-8", []string{stick}, receipt.Receipt{Status: "completed"})
	var all []byte
	names, err := filepath.Glob(filepath.Join(stick, "valise/*/*/*.json"))
	if err != nil || len(names) != 3 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	lines := filepath.Join(t.TempDir(), "berlin.jsonl")
	if err := os.WriteFile(lines, all, 0o644); err != nil {
		t.Fatal(err)
	}
	ask := func(trust *httptest.Server, args ...string) (int, string, string) {
		if trust != nil {
			before := http.DefaultTransport
			http.DefaultTransport = trust.Client().Transport
			defer func() { http.DefaultTransport = before }()
		}
		var stdout, stderr strings.Builder
		code := run(t.Context(), cli.Env{Args: append([]string{"fleet", "report", "--output", "json"}, args...), Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" }, Now: time.Now})
		return code, stdout.String(), stderr.String()
	}
	_, want, _ := ask(nil, "berlin="+stick)
	mux := http.NewServeMux()
	mux.HandleFunc("/berlin.jsonl", func(w http.ResponseWriter, r *http.Request) { w.Write(all) })
	mux.HandleFunc("/crlf.jsonl", func(w http.ResponseWriter, r *http.Request) {
		w.Write(append(bytes.ReplaceAll(all, []byte("\n"), []byte("\r\n")), "\r\n\r\n"...))
	})
	mux.HandleFunc("/spoilt.jsonl", func(w http.ResponseWriter, r *http.Request) { w.Write(append(bytes.Clone(all), "{}\n"...)) })
	mux.HandleFunc("/page.html", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Repeat("<a>\n", 1000)) })
	mux.HandleFunc("/long", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Repeat("a", 100<<10)) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://example.org/berlin.jsonl", http.StatusFound)
	})
	open, sealed := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	defer open.Close()
	defer sealed.Close()
	for _, place := range []string{lines, open.URL + "/berlin.jsonl", open.URL + "/crlf.jsonl", sealed.URL + "/berlin.jsonl"} {
		code, out, stderr := ask(sealed, "berlin="+place)
		if code != 0 || out != want || !strings.Contains(out, `"berlin"`) {
			t.Errorf("%s: exit code %d, %s\n%s\nwant\n%s", place, code, stderr, out, want)
		}
	}
	if code, out, stderr := ask(nil, open.URL+"/spoilt.jsonl"); code != cli.ExitRefused || !strings.Contains(out, "/spoilt.jsonl, line 4: ") || !strings.Contains(stderr, "in 1 places") {
		t.Errorf("exit code %d, %s\n%s", code, stderr, out)
	}
	for place, want := range map[string]string{
		open.URL + "/page.html":                         "/page.html, line 1: read receipt: ",
		open.URL + "/long":                              "a line of more than 65536 bytes is not a receipt",
		open.URL + "/nothing":                           "404",
		open.URL + "/away":                              "http://example.org/berlin.jsonl: want https",
		sealed.URL + "/away":                            "redirect to example.org, which is not https, refused",
		"http://user:secret@example.org/berlin.jsonl":   "http://user:xxxxx@example.org/berlin.jsonl: want https, or http of this machine",
		"ftp://example.org/berlin.jsonl":                "want https",
		"berlin=" + open.URL + "/berlin.jsonl?\x7fsite": "invalid control character",
	} {
		if code, out, stderr := ask(sealed, place); code != cli.ExitFailed || !strings.Contains(stderr, want) || out != "" {
			t.Errorf("%s: exit code %d, %s\n%s", place, code, stderr, out)
		}
	}
}
