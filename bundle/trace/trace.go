// Package trace says where the time of an operation goes: spans, one inside of another,
// as JSON in Chrome's trace event format, which chrome://tracing and ui.perfetto.dev
// draw. A context carries the span that is open. Without one nothing is written.
package trace

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/valise-ota/valise/bundle/plain"
)

// Kinds of spans.
const (
	Step    = "step"    // of an operation
	Child   = "child"   // another program, from its start to its end
	Engine  = "engine"  // a call of the container engine, its answer included
	Request = "request" // over HTTP, its answer included
	Wait    = "wait"    // nothing is done
)

// MaxSpans is how many spans one trace has; what comes then is not in it.
const MaxSpans = 20_000

// maxName is how many bytes of a name or an error are written.
const maxName = 200

// Trace writes spans. It may be used concurrently: what runs side by side stands in
// lanes of its own.
type Trace struct {
	mu    sync.Mutex
	w     io.Writer
	now   func() time.Time
	fail  func(error) // told once, of the first write that fails
	begun time.Time
	spans int
	lanes [][]*Span // those that are open, the innermost last
}

// Span is a part of an operation. All methods may be called on nil.
type Span struct {
	t     *Trace
	lane  int
	bytes int64
}

type current struct{}

// New begins a trace of program with a span of that name, which the context has. What
// was written by a program that was killed is readable too.
func New(ctx context.Context, w io.Writer, now func() time.Time, program string, fail func(error)) (context.Context, *Span) {
	t := &Trace{w: w, now: now, begun: now(), fail: fail}
	t.write("[\n", event{Name: "process_name", Phase: "M", Args: map[string]any{"name": cut(program)}})
	return Begin(context.WithValue(ctx, current{}, &Span{t: t}), Step, program)
}

// Begin begins a span inside of that of the context.
func Begin(ctx context.Context, kind, name string) (context.Context, *Span) {
	parent, _ := ctx.Value(current{}).(*Span)
	if parent == nil {
		return ctx, nil
	}
	s := parent.t.open(parent, kind, name)
	if s == nil {
		return ctx, nil
	}
	return context.WithValue(ctx, current{}, s), s
}

// Do does something in a span.
func Do(ctx context.Context, kind, name string, do func(context.Context) error) error {
	ctx, s := Begin(ctx, kind, name)
	err := do(ctx)
	s.End(err)
	return err
}

// Sleep waits until d is over or the context ends, whose cause is the error.
func Sleep(ctx context.Context, name string, d time.Duration) error {
	return Do(ctx, Wait, name, func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// open is the beginning of a span: in the lane of its parent unless something is there,
// else in one where nothing is.
func (t *Trace) open(parent *Span, kind, name string) *Span {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spans++; t.spans > MaxSpans {
		if t.spans == MaxSpans+1 {
			t.write(",\n", event{Name: fmt.Sprintf("the first %d spans are in this trace", MaxSpans), Phase: "i"})
		}
		return nil
	}
	s := &Span{t: t, lane: parent.lane}
	if len(t.lanes) > 0 && t.top(parent.lane) != parent {
		if s.lane = slices.IndexFunc(t.lanes, func(open []*Span) bool { return len(open) == 0 }); s.lane < 0 {
			s.lane = len(t.lanes)
		}
	}
	if s.lane == len(t.lanes) {
		t.lanes = append(t.lanes, nil)
	}
	t.lanes[s.lane] = append(t.lanes[s.lane], s)
	t.write(",\n", event{Name: cut(name), Kind: kind, Phase: "B", Lane: s.lane})
	return s
}

func (t *Trace) top(lane int) *Span {
	if n := len(t.lanes[lane]); n > 0 {
		return t.lanes[lane][n-1]
	}
	return nil
}

// Count adds bytes that the span is about.
func (s *Span) Count(n int64) {
	if s != nil {
		s.t.mu.Lock()
		s.bytes += n
		s.t.mu.Unlock()
	}
}

// End ends the span, and what is open inside of it; the first span ends the trace.
// The second End of a span does nothing.
func (s *Span) End(err error) {
	if s == nil {
		return
	}
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	at := slices.Index(t.lanes[s.lane], s)
	if at < 0 {
		return
	}
	if s.lane > 0 || at > 0 {
		t.end(s.lane, at, err)
		return
	}
	for lane := range slices.Backward(t.lanes) {
		t.end(lane, 0, err)
	}
	t.print([]byte("\n]\n"))
	t.w = nil
}

// end ends what is open in a lane, down to the one at an index, which err is about.
func (t *Trace) end(lane, at int, err error) {
	for i, s := range slices.Backward(t.lanes[lane]) {
		if i < at {
			break
		}
		args := map[string]any{}
		if s.bytes > 0 {
			args["bytes"] = s.bytes
		}
		if err != nil && i == at {
			args["error"] = cut(err.Error())
		}
		t.write(",\n", event{Phase: "E", Lane: lane, Args: args})
	}
	t.lanes[lane] = t.lanes[lane][:at]
}

// cut is text that a person may look at, not too long.
func cut(s string) string {
	s = plain.Text(s)
	return s[:min(len(s), maxName)]
}

// event is one line, with the names of the format.
type event struct {
	Name    string         `json:"name,omitempty"`
	Kind    string         `json:"cat,omitempty"`
	Phase   string         `json:"ph"`
	Time    int64          `json:"ts"` // microseconds
	Process int            `json:"pid"`
	Lane    int            `json:"tid"`
	Args    map[string]any `json:"args,omitempty"`
}

func (t *Trace) write(before string, e event) {
	e.Time, e.Process = t.now().Sub(t.begun).Microseconds(), 1
	b, err := json.Marshal(e)
	if err == nil {
		t.print(append([]byte(before), b...))
	}
}

// print writes at once: a program that is killed leaves all that happened.
func (t *Trace) print(b []byte) {
	if t.w == nil {
		return
	}
	if _, err := t.w.Write(b); err != nil {
		t.w = nil
		t.fail(err)
	}
}

// Transport makes a span of each request, from its beginning to the end of its answer.
// Neither query nor header is in it: both may hold secrets.
type Transport struct{ Next http.RoundTripper }

// RoundTrip is that of an http.RoundTripper.
func (t Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	_, s := Begin(req.Context(), Request, req.Method+" "+req.URL.Host+req.URL.Path)
	res, err := t.Next.RoundTrip(req)
	if err != nil || s == nil {
		s.End(err)
		return res, err
	}
	res.Body = &body{res.Body, s}
	return res, nil
}

// body is an answer that ends its span.
type body struct {
	io.ReadCloser
	s *Span
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.s.Count(int64(n))
	if err != nil {
		b.s.End(nil)
	}
	return n, err
}

func (b *body) Close() error {
	b.s.End(nil)
	return b.ReadCloser.Close()
}

// Run runs a command in a span. What it was given is not in it: that may be secret.
func Run(ctx context.Context, name string, cmd interface{ Run() error }) error {
	return Do(ctx, Child, name, func(context.Context) error { return cmd.Run() })
}
