package trace_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/bundle/trace/tracetest"
)

// begin is a trace into a buffer, at a clock that goes on by a millisecond each time.
func begin(t *testing.T, w io.Writer) (context.Context, *trace.Span) {
	now := time.Unix(1e9, 0)
	return trace.New(t.Context(), w, func() time.Time { now = now.Add(time.Millisecond); return now }, "update",
		func(err error) { t.Errorf("the trace failed: %v", err) })
}

func TestNested(t *testing.T) {
	var out bytes.Buffer
	ctx, root := begin(t, &out)
	if err := trace.Do(ctx, trace.Step, "stage", func(ctx context.Context) error {
		_, load := trace.Begin(ctx, trace.Engine, "load")
		load.Count(40)
		load.Count(2)
		load.End(nil)
		_, beside := trace.Begin(ctx, trace.Child, "one")
		_, other := trace.Begin(ctx, trace.Child, "other") // while one is open, from the same span
		beside.End(nil)
		other.End(nil)
		return errors.New("no room")
	}); err == nil {
		t.Error("the error of what was done is lost")
	}
	inner, probe := trace.Begin(ctx, trace.Step, "probe")
	_, left := trace.Begin(inner, trace.Wait, "left behind")
	probe.End(nil)
	left.End(nil)
	left.End(nil)
	_, late := trace.Begin(ctx, trace.Step, "late")
	root.End(nil)
	late.End(nil)
	trace.Begin(ctx, trace.Step, "after the end")
	if want := []string{"update step", "update > stage step (no room)", "update > stage > load engine 42", "update > stage > one child", "other child",
		"update > probe step", "update > probe > left behind wait", "update > late step"}; !slices.Equal(tracetest.Spans(t, out.Bytes()), want) {
		t.Errorf("got %q\nwant %q", tracetest.Spans(t, out.Bytes()), want)
	}
}

// TestNone: without a trace all of it does nothing.
func TestNone(t *testing.T) {
	ctx, s := trace.Begin(t.Context(), trace.Step, "stage")
	s.Count(1)
	s.End(nil)
	if ctx != t.Context() || s != nil {
		t.Error("a span begins although no trace is wanted")
	}
}

// TestHostile: names of strangers break neither the JSON nor a terminal, and are cut.
func TestHostile(t *testing.T) {
	names := []string{`"},{"ph":"E"}`, "a\nb\x00", "\x1b]0;owned\a", "\xff\xfe", "\u202etxt", strings.Repeat("ö", 1<<16)}
	var out bytes.Buffer
	ctx, root := begin(t, &out)
	for _, name := range names {
		_ = trace.Do(ctx, trace.Step, name, func(context.Context) error { return errors.New(name) })
	}
	root.End(nil)
	if spans := tracetest.Spans(t, out.Bytes()); len(spans) != 1+len(names) {
		t.Errorf("%d spans, want %d: %q", len(spans), 1+len(names), spans)
	}
	if bytes.ContainsAny(out.Bytes(), "\x00\x1b\u202e") || out.Len() > 10_000 {
		t.Errorf("%d bytes: %.2000s", out.Len(), out.String())
	}
}

// TestBounded: a trace does not grow for ever, and says where it ends.
func TestBounded(t *testing.T) {
	var out bytes.Buffer
	ctx, root := begin(t, &out)
	for range 2 * trace.MaxSpans {
		_, s := trace.Begin(ctx, trace.Step, "again")
		s.End(nil)
	}
	root.End(nil)
	if n := len(tracetest.Spans(t, out.Bytes())); n != trace.MaxSpans {
		t.Errorf("%d spans, want %d", n, trace.MaxSpans)
	}
	if n := strings.Count(out.String(), "spans are in this trace"); n != 1 {
		t.Errorf("the end is said %d times", n)
	}
}

// TestKilled: what a program that was killed has written is there, up to that moment.
func TestKilled(t *testing.T) {
	var out bytes.Buffer
	ctx, _ := begin(t, &out)
	trace.Begin(ctx, trace.Step, "stage")
	var events []json.RawMessage
	if err := json.Unmarshal(append(out.Bytes(), ']'), &events); err != nil || len(events) != 3 {
		t.Errorf("%d events, %v", len(events), err)
	}
}

// full takes some writes and then no more.
type full struct{ left int }

func (f *full) Write(p []byte) (int, error) {
	if f.left--; f.left < 0 {
		return len(p) / 2, errors.New("no space left on device")
	}
	return len(p), nil
}

func TestFull(t *testing.T) {
	for n := range 8 {
		told := 0
		ctx, root := trace.New(t.Context(), &full{n}, time.Now, "update", func(error) { told++ })
		for range 5 {
			if err := trace.Do(ctx, trace.Step, "stage", func(context.Context) error { return nil }); err != nil {
				t.Error(err)
			}
		}
		root.End(nil)
		if told != 1 {
			t.Errorf("after %d writes it was said %d times", n, told)
		}
	}
}

func TestConcurrent(t *testing.T) {
	var out bytes.Buffer
	ctx, root := trace.New(t.Context(), &out, time.Now, "serve", func(err error) { t.Error(err) })
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				_ = trace.Do(ctx, trace.Step, "update", func(ctx context.Context) error {
					return trace.Sleep(ctx, "a moment", time.Microsecond)
				})
			}
		})
	}
	all.Wait()
	root.End(nil)
	nested := 0
	for _, s := range tracetest.Spans(t, out.Bytes()) {
		if strings.HasSuffix(s, "update > a moment wait") {
			nested++
		}
	}
	if nested != 8*50 {
		t.Errorf("%d of %d spans stand in the one they are of", nested, 8*50)
	}
}

// TestTransport: a request is a span with the bytes of its answer, and without its query.
func TestTransport(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer srv.Close()
	var out bytes.Buffer
	ctx, root := begin(t, &out)
	client := &http.Client{Transport: trace.Transport{Next: http.DefaultTransport}}
	for _, to := range []string{srv.URL + "/latest?token=secret", "http://127.0.0.1:1/none"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := client.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}
	root.End(nil)
	spans := tracetest.Spans(t, out.Bytes())
	tracetest.Want(t, spans, "update > GET "+strings.TrimPrefix(srv.URL, "http://")+"/latest request 5")
	if len(spans) != 3 || !strings.HasSuffix(spans[2], "refused)") || strings.Contains(out.String(), "secret") {
		t.Errorf("got %q", spans)
	}
}
