//go:build device

package device

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// phases of an update begin when the serial console shows these lines. Cuts take
// turns at them, because some take a hundred times as long as others.
var phases = []string{"update", "stage", "load layers", "backup", "activate", "probe", "commit"}

// beforeCommit and afterCommit say how long around the end of the probe the
// commit is looked for: it has no line of its own and takes milliseconds.
const (
	beforeCommit = time.Second
	afterCommit  = 2 * time.Second
)

// TestPowerCuts updates from a stick and cuts the power, as often as
// VALISE_POWER_CUTS says, at random moments of each phase. Every time the old or
// the new release must come back by itself, with the data, and the device must
// take the update afterwards.
func TestPowerCuts(t *testing.T) {
	b := newBench(t)
	cuts := 3
	if s := os.Getenv("VALISE_POWER_CUTS"); s != "" {
		var err error
		cuts, err = strconv.Atoi(s)
		b.check(err)
	}
	b.begin()
	b.run(`for i in $(seq 20); do /usr/local/bin/client POST ` + shop + `/api/items "{\"name\":\"item $i\"}"; done; sync`)
	rows := b.rows()
	b.plug("next", b.stick("next", "ext4", "shop-1.1.0.tar.gz"), true)
	b.run("mkdir -p /mnt && mount -o ro /dev/sda /mnt")
	b.freeze()

	took := b.referenceUpdate()
	out := os.Stdout
	if name := os.Getenv("VALISE_POWER_CUTS_TABLE"); name != "" {
		f, err := os.Create(name)
		b.check(err)
		defer f.Close()
		out = f
	}
	fmt.Fprint(out, "| cut | moment | journal when the power went | then runs | answers after | data | update again |\n|---|---|---|---|---|---|---|\n")
	for i := range cuts {
		phase := phases[(len(phases)-1-i%len(phases)+len(phases))%len(phases)]
		delay := time.Duration(rand.Int64N(int64(took[phase]) + 1))
		c := b.cut(phase, delay, took, rows)
		again := "-"
		if i < len(phases) || c.bad != "" {
			again = "done"
			if c.version == "1.1.0" {
				again = "was done"
			}
			if _, code := b.try("mkdir -p /mnt; mount -o ro /dev/sda /mnt; valise-installer update /mnt/shop-1.1.0.tar.gz"); code != 0 {
				again = fmt.Sprintf("exit code %d", code)
				b.Errorf("cut %d: the update does not work any more: %s", i+1, again)
			}
			if v, got := b.answers(), b.rows(); v != "1.1.0" || got != rows {
				b.Errorf("cut %d: after the update %s answers, with rows %s", i+1, v, got)
			}
		}
		data := "intact"
		if c.bad != "" {
			data = c.bad
			b.Errorf("cut %d, %s + %s: %s", i+1, phase, delay, c.bad)
		}
		fmt.Fprintf(out, "| %d | %s + %.1f s | %s | %s | %.0f s | %s | %s |\n", i+1, phase, delay.Seconds(), c.journal, c.version, c.answered.Seconds(), data, again)
		b.vm.Cut()
	}
}

// update starts the update on the frozen machine and returns how to wait for a
// line of the console.
func (b *bench) update() (line func(string) time.Time) {
	b.thaw()
	start := time.Now()
	// The agent is not told to wait: the console says how far it is.
	b.run("(valise-installer --progress plain update /mnt/shop-1.1.0.tar.gz; echo ended $?) >/dev/ttyS0 2>&1 &")
	return func(prefix string) time.Time {
		if prefix == "update" {
			return start
		}
		want := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(prefix))
		for deadline := start.Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if want.Match(b.console()) {
				return time.Now()
			}
		}
		b.Fatalf("the console never says %q: %s", prefix, b.console())
		return start
	}
}

func (b *bench) console() []byte {
	text, err := os.ReadFile(filepath.Join(b.dir, "console.log"))
	b.check(err)
	return text
}

// referenceUpdate says how long each phase of an update takes that nobody
// disturbs.
func (b *bench) referenceUpdate() map[string]time.Duration {
	b.Helper()
	line := b.update()
	begun := map[string]time.Time{}
	for _, p := range phases[:len(phases)-1] {
		begun[p] = line(p)
	}
	end := line("ended 0")
	took := map[string]time.Duration{}
	for i, p := range phases[:len(phases)-2] {
		took[p] = begun[phases[i+1]].Sub(begun[p])
	}
	took["probe"] = end.Sub(begun["probe"])
	took["commit"] = beforeCommit + afterCommit
	b.Logf("an update takes %s; its phases: %v\n%s", end.Sub(begun["update"]).Round(time.Second), took, b.console())
	b.vm.Cut()
	return took
}

// ending is what came back after a cut.
type ending struct {
	journal  string        // the last step that was begun
	version  string        // that answers
	answered time.Duration // from power on
	bad      string        // what is wrong
}

// cut cuts the power delay after a phase began, and boots again.
func (b *bench) cut(phase string, delay time.Duration, took map[string]time.Duration, rows string) ending {
	b.Helper()
	line := b.update()
	if phase == "commit" {
		line("probe")
		time.Sleep(max(0, took["probe"]-beforeCommit) + delay)
	} else {
		line(phase)
		time.Sleep(delay)
	}
	b.vm.Cut()
	b.Logf("cut %s after %s began; the console said: %s", delay, phase, b.console())
	start := time.Now()
	b.boot("-device", "usb-storage,id=next,drive=next,bus=usb.0,removable=on", "-drive", "if=none,id=next,format=raw,readonly=on,file="+filepath.Join(b.dir, "next.img"))
	e := ending{version: b.answers()}
	e.answered = time.Since(start)
	if got := b.rows(); got != rows {
		e.bad = fmt.Sprintf("the rows are %s, want %s", got, rows)
	}
	// Whoever asks before recovery is through waits for it.
	out := b.run("systemctl start valise-recover-shop.service && valise-installer doctor && valise-installer status")
	if e.version != "1.0.0" && e.version != "1.1.0" || !strings.Contains(out, "current     "+e.version) || strings.Contains(out, "unfinished") {
		e.bad += fmt.Sprintf("%q answers, status says %s", e.version, out)
	}
	if v := b.answers(); v != e.version {
		e.bad += fmt.Sprintf("%s answered first, after recovery %s", e.version, v)
	}
	e.journal = b.lastStep()
	return e
}

// lastStep is the last step of the newest update and what became of it.
func (b *bench) lastStep() string {
	b.Helper()
	var records []struct {
		Action, Status string
		Steps          []struct{ Name, State string }
	}
	b.check(json.Unmarshal([]byte(b.run("valise-installer history --limit 1 --output json 2>/dev/null")), &records))
	if len(records) == 0 || records[0].Action != "update" {
		return "no record yet"
	}
	var names []string
	for _, s := range slices.Backward(records[0].Steps) {
		names = append(names, s.Name+" "+s.State)
	}
	return fmt.Sprintf("%s; %s", records[0].Status, strings.Join(names, ", "))
}

// freeze keeps the running machine, memory included, and ends it.
func (b *bench) freeze() {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	b.check(b.vm.Freeze(ctx, filepath.Join(b.dir, "frozen")))
	b.check(os.Rename(b.disk(), filepath.Join(b.dir, "frozen.qcow2")))
}

// thaw starts a copy of the frozen machine.
func (b *bench) thaw() {
	b.Helper()
	os.Remove(b.disk())
	b.check(overlay(filepath.Join(b.dir, "frozen.qcow2"), b.disk()))
	b.boot("-incoming", "exec:cat "+filepath.Join(b.dir, "frozen"),
		"-device", "usb-storage,id=next,drive=next,bus=usb.0,removable=on", "-drive", "if=none,id=next,format=raw,readonly=on,file="+filepath.Join(b.dir, "next.img"))
}
