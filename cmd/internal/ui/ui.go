// Package ui tells people what a command is doing, on stderr: a bar on a
// terminal, plain lines elsewhere, nothing at all when asked. Results never pass
// through it; they belong on stdout. What it is told is shown as plain.Text.
package ui

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/valise-ota/valise/bundle/plain"
)

// Modes of New.
const (
	Auto  = "auto"  // TTY on a terminal, Plain elsewhere
	TTY   = "tty"   // bars
	Plain = "plain" // a line at the start and at the end
	None  = "none"  // nothing
)

// Modes lists what New accepts, for help texts.
var Modes = []string{Auto, TTY, Plain, None}

// UI writes progress. Its methods may be called from several goroutines.
type UI struct {
	mode  string // TTY, Plain or None
	color bool
	now   func() time.Time

	mu  sync.Mutex // one line at a time
	out io.Writer
}

// New returns a UI that writes to stderr. Auto means bars when stderr is a
// terminal that is not TERM=dumb. NO_COLOR switches colour off.
func New(stderr io.Writer, mode string, getenv func(string) string, now func() time.Time) (*UI, error) {
	u := &UI{mode: mode, out: stderr, now: now}
	switch mode {
	case Auto:
		u.mode = Plain
		if f, ok := stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) && getenv("TERM") != "dumb" {
			u.mode = TTY
		}
	case TTY, Plain, None:
	default:
		return nil, fmt.Errorf("unknown progress mode %q, want %s", mode, strings.Join(Modes, ", "))
	}
	u.color = u.mode == TTY && getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
	return u, nil
}

// Mode is TTY, Plain or None.
func (u *UI) Mode() string { return u.mode }

// Step says that something begins that takes no noticeable time, or whose length
// is not known. Do not call it while a Track of the same UI is running on a
// terminal: it would write into the bar.
func (u *UI) Step(name, detail string) {
	if u.mode == None {
		return
	}
	name, detail = plain.Text(name), plain.Text(detail)
	if u.color {
		name = "\x1b[1m" + name + "\x1b[0m"
	}
	if detail != "" {
		name += " " + detail
	}
	u.line("%s", name)
}

// Track shows the progress of work counted in bytes. update may be called often
// and from one goroutine at a time; finish must be called once, with the error
// that ended the work or nil.
func (u *UI) Track(label string) (update func(done, total int64), finish func(error)) {
	label = plain.Text(label)
	switch u.mode {
	case TTY:
		return u.trackBar(label)
	case Plain:
		return u.trackLines(label)
	}
	return func(int64, int64) {}, func(error) {}
}

func (u *UI) trackLines(label string) (update func(done, total int64), finish func(error)) {
	start := u.now()
	var done int64
	u.line("%s ...", label)
	return func(d, _ int64) { done = d }, func(err error) {
		took := u.now().Sub(start).Round(time.Millisecond)
		if err != nil {
			u.line("%s: stopped after %s, %s", label, Bytes(done), took)
			return
		}
		u.line("%s: %s in %s", label, Bytes(done), took)
	}
}

func (u *UI) trackBar(label string) (update func(done, total int64), finish func(error)) {
	p := mpb.New(mpb.WithOutput(u.out), mpb.WithWidth(40), mpb.WithAutoRefresh())
	bar := p.New(0, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.PrependDecorators(decor.Name(label, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(
			decor.CountersKibiByte("% .1f / % .1f"),
			decor.Name("  "), decor.AverageSpeed(decor.SizeB1024(0), "% .1f"),
			decor.Name("  "), decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO), "done"),
		))
	return func(done, total int64) {
			bar.SetTotal(total, false)
			bar.SetCurrent(done)
		}, func(err error) {
			if err != nil {
				bar.Abort(false)
			} else {
				bar.SetTotal(-1, true)
			}
			p.Wait()
		}
}

func (u *UI) line(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	fmt.Fprintf(u.out, format+"\n", args...)
}

// Bytes writes a number of bytes for people: 1536 is "1.5 KiB".
func Bytes(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for f >= 1023.95 && unit < 4 {
		f, unit = f/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTP"[unit])
}
