//go:build device

package device

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
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
//
// The update itself runs once: at the beginning of each phase memory and disk
// are kept, and from there on every cut machine is on its own.
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
	took := b.update()
	b.vm.Cut()
	var whole time.Duration
	for phase, d := range took {
		if phase != "commit" { // a window of others
			whole += d
		}
	}

	var table strings.Builder
	commit, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	b.check(err)
	fmt.Fprintf(&table, "%d cuts on %s, commit %s; the update alone takes %.0f s on that machine:\n\n", cuts, time.Now().UTC().Format(time.DateOnly), strings.TrimSpace(string(commit)), whole.Seconds())
	table.WriteString("| | power lost | journal afterwards | runs | answered after | recovered after | data |\n|---:|---|---|---|---:|---:|---|\n")
	again := map[string]bool{"load layers": true, "activate": true} // where the most is left lying about
	for i := range cuts {
		phase := phases[len(phases)-1-i%len(phases)]
		delay := time.Duration(rand.Int64N(int64(took[phase]) + 1))
		e := b.cut(phase, delay, took, rows)
		data := "intact"
		if e.bad != "" {
			data = e.bad
			b.Errorf("cut %d, %s + %s: %s", i+1, phase, delay, e.bad)
		}
		row := fmt.Sprintf("| %d | %s + %.1f s | %s | %s | %.0f s | %.0f s | %s |\n", i+1, phase, delay.Seconds(), e.journal, e.version, e.answered.Seconds(), e.recovered.Seconds(), strings.Join(strings.Fields(data), " "))
		b.Log(row)
		table.WriteString(row)
		if again[phase] {
			delete(again, phase)
			b.run("valise-installer doctor && mkdir -p /mnt && mount -o ro /dev/sda /mnt && valise-installer update /mnt/shop-1.1.0.tar.gz")
			if v, got := b.answers(), b.rows(); v != "1.1.0" || got != rows {
				b.Errorf("cut %d: after the update is repeated %s answers, with the rows %s", i+1, v, got)
			}
		}
		b.vm.Cut()
	}
	b.Logf("%d power cuts:\n%s", cuts, &table)
	if doc := os.Getenv("VALISE_POWER_CUTS_DOC"); doc != "" {
		text, err := os.ReadFile(doc)
		b.check(err)
		const begin, end = "<!-- power cuts: made by the test -->\n", "<!-- end -->"
		before, rest, ok1 := strings.Cut(string(text), begin)
		_, after, ok2 := strings.Cut(rest, end)
		if !ok1 || !ok2 {
			b.Fatalf("%s has no place for the table", doc)
		}
		b.check(os.WriteFile(doc, []byte(before+begin+table.String()+end+after), 0o644))
	}
}

// update updates, keeps the machine at the beginning of each phase, and says how
// long each takes.
func (b *bench) update() map[string]time.Duration {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 4*patience)
	defer cancel()
	// Nobody waits for the agent: the console says how far it is.
	b.run("(echo; valise-installer --progress plain update /mnt/shop-1.1.0.tar.gz; echo ended $?) >/dev/ttyS0 2>&1 &")
	took := map[string]time.Duration{}
	last, since := "", time.Time{}
	for _, phase := range append(phases[:len(phases)-1:len(phases)-1], "ended 0") {
		for line := regexp.MustCompile(`(?m)^` + phase); phase != "update" && !line.Match(b.console()); time.Sleep(5 * time.Millisecond) {
			if ctx.Err() != nil {
				b.Fatalf("the console never says %q: %s", phase, b.console())
			}
		}
		took[last] = time.Since(since)
		if phase != "ended 0" {
			b.check(b.vm.Freeze(ctx, b.disk(), b.frozen(phase), b.frozen(phase)+".qcow2"))
		}
		last, since = phase, time.Now()
	}
	delete(took, "")
	took["commit"] = beforeCommit + afterCommit
	b.Logf("phases of an update: %v\n%s", took, b.console())
	return took
}

func (b *bench) frozen(phase string) string {
	return filepath.Join(b.dir, "frozen-"+strings.ReplaceAll(phase, " ", "-"))
}

func (b *bench) console() []byte {
	text, err := os.ReadFile(filepath.Join(b.dir, "console.log"))
	b.check(err)
	return text
}

// ending is what came back after a cut.
type ending struct {
	journal             string        // what became of the update, and of its steps
	version             string        // that runs when recovery is through
	answered, recovered time.Duration // from power on
	bad                 string        // what is wrong
}

// cut cuts the power delay after a phase began, and boots again.
func (b *bench) cut(phase string, delay time.Duration, took map[string]time.Duration, rows string) ending {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	from, wait := phase, delay
	if phase == "commit" {
		from, wait = "probe", max(0, took["probe"]-beforeCommit)+delay
	}
	stick := []string{"-device", "usb-storage,id=next,drive=next,bus=usb.0,removable=on", "-drive", "if=none,id=next,format=raw,readonly=on,file=" + filepath.Join(b.dir, "next.img")}
	os.Remove(b.disk())
	b.check(Overlay(b.frozen(from)+".qcow2", b.disk()))
	var err error
	b.vm, err = b.image.Thaw(ctx, b.dir, b.disk(), b.frozen(from), stick...)
	b.check(err)
	time.Sleep(wait)
	b.vm.Cut()
	b.Logf("power lost %s after %s began; the console said: %s", delay, phase, b.console())
	start := time.Now()
	b.boot(stick...)
	// The engine starts what ran when the power went; recovery comes after it.
	first := b.answers()
	e := ending{answered: time.Since(start)}
	if _, code := b.try("systemctl start valise-recover-shop.service"); code != 0 {
		e.bad = "recovery fails: " + b.run("journalctl -u valise-recover-shop.service --no-pager -o cat; docker ps -a; valise-installer history --output json; journalctl -u docker --no-pager -o cat -n 30")
	}
	e.version, e.recovered = b.answers(), time.Since(start)
	if got := b.rows(); got != rows {
		e.bad = fmt.Sprintf("the rows are %s, want %s", got, rows)
	}
	old := func(v string) bool { return v == "1.0.0" || v == "1.1.0" }
	status := b.run("valise-installer status")
	if !old(first) || !old(e.version) || !strings.Contains(status, "current     "+e.version) || strings.Contains(status, "unfinished") {
		e.bad += fmt.Sprintf("%q answers first, then %q, and status says %s", first, e.version, status)
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
