package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/valise-ota/valise/scripts/bench/proc"
)

// contestant is a command that is measured.
type contestant struct {
	name   string
	cores  string   // that it may use, as taskset has them; empty means all
	args   []string // OUT in it is the directory for its result
	daemon int      // process that works for it, or 0
	goOn   bool     // on the result of the contestant before
}

// shell is a contestant that is a script.
func shell(name, script string) contestant {
	return contestant{name: name, args: []string{"bash", "-euo", "pipefail", "-c", script}}
}

// sample is one measured run.
type sample struct {
	Wall    float64 `json:"wall_s"`
	CPU     float64 `json:"cpu_s"`
	RSS     int64   `json:"peak_rss"` // bytes, of the largest process
	Written int64   `json:"written"`  // bytes given to the file system
	Size    int64   `json:"size"`     // bytes of the result
}

// group is what is measured side by side.
type group struct {
	name        string
	title       string
	baseline    string // contestant that the ratios are relative to
	times       int    // how many rounds for one of the others; 0 means one: short runs need more
	contestants []contestant
	far         *line
	samples     map[string][]sample
}

// run measures every contestant once in each round, so that what else the machine does hits them all. Each round has
// an order of its own.
func (b *bench) run(ctx context.Context, g *group) error {
	g.samples = map[string][]sample{}
	b.registry.far.Store(g.far)
	defer b.registry.far.Store(nil)
	var chains [][]contestant
	for _, c := range g.contestants {
		if c.goOn {
			chains[len(chains)-1] = append(chains[len(chains)-1], c)
		} else {
			chains = append(chains, []contestant{c})
		}
	}
	order := rand.New(rand.NewPCG(1, 1)) // the same in every run of this program
	rounds := b.rounds * max(1, g.times)
	for round := range rounds {
		order.Shuffle(len(chains), func(i, j int) { chains[i], chains[j] = chains[j], chains[i] })
		for _, chain := range chains {
			if err := b.empty(); err != nil {
				return err
			}
			if err := b.touch(); err != nil {
				return err
			}
			for _, c := range chain {
				s, err := b.measure(ctx, c)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", g.name, c.name, err)
				}
				note("%-8s %2d/%d  %-42s %7.2f s  %7.2f s CPU  %7.1f MiB", g.name, round+1, rounds, c.name, s.Wall, s.CPU, mib(s.RSS))
				g.samples[c.name] = append(g.samples[c.name], s)
			}
		}
	}
	return b.empty()
}

// empty removes results: what of them is not on the disk yet never needs to be, and does not slow the next one.
func (b *bench) empty() error {
	return errors.Join(os.RemoveAll(b.out), os.Mkdir(b.out, 0o755))
}

// touch has as much memory as the largest result needs used, and freed again. On a virtual machine the first use of
// memory that the host had taken back is slow, and would be counted against whoever comes first.
func (b *bench) touch() error {
	name := b.file("touch")
	return errors.Join(zeros(name, b.files["full"]*5/4), os.Remove(name))
}

func zeros(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	part := make([]byte, 1<<20)
	for n := int64(0); err == nil && n < size; n += int64(len(part)) {
		_, err = f.Write(part)
	}
	return errors.Join(err, f.Close())
}

func (b *bench) measure(ctx context.Context, c contestant) (s sample, err error) {
	// GNU time stands between, because a process takes over the peak memory of the one that started it, and time
	// has next to none.
	report := filepath.Join(b.work, "time")
	args := []string{"-q", "-o", report, "-f", "%U %S %M %O", "--"}
	if c.cores != "" {
		args = append(args, "taskset", "-c", c.cores)
	}
	for _, a := range c.args {
		args = append(args, strings.ReplaceAll(a, "OUT", b.out))
	}
	var before process
	if c.daemon != 0 {
		if before, err = readProcess(c.daemon); err != nil {
			return s, err
		}
	}
	cmd := exec.CommandContext(ctx, "time", args...)
	cmd.Env, cmd.Dir = b.env, b.work
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // to end all of them
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	start := time.Now()
	err = cmd.Run()
	s.Wall = time.Since(start).Seconds()
	if err != nil {
		return s, fmt.Errorf("%w\n%s", err, log.String())
	}
	line, err := os.ReadFile(report)
	if err != nil {
		return s, err
	}
	var user, system float64
	if _, err := fmt.Sscan(string(line), &user, &system, &s.RSS, &s.Written); err != nil {
		return s, fmt.Errorf("time says %q: %w", line, err)
	}
	s.CPU, s.RSS, s.Written = user+system, s.RSS<<10, s.Written*512
	if c.daemon != 0 {
		after, err := readProcess(c.daemon)
		if err != nil {
			return s, err
		}
		s.CPU += after.cpu - before.cpu
		s.Written += after.written - before.written
		s.RSS = max(s.RSS, after.peak)
	}
	s.Size, err = sizeOf(b.out)
	return s, err
}

// process is what /proc tells of a process and the ended ones it started.
type process struct {
	cpu     float64
	written int64
	peak    int64 // since the readProcess before
}

func readProcess(pid int) (p process, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return p, err
	}
	// The fields behind the name in parentheses begin with the third one.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 15 {
		return p, fmt.Errorf("%s/stat has %d fields", dir, len(fields))
	}
	for _, f := range fields[11:15] { // user and system time, and those of children
		ticks, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return p, err
		}
		p.cpu += ticks / 100
	}
	if p.written, err = proc.Written(pid); err != nil {
		return p, err
	}
	if p.peak, err = proc.Peak(pid); err != nil {
		return p, err
	}
	return p, os.WriteFile(filepath.Join(dir, "clear_refs"), []byte("5"), 0) // the peak begins anew
}

// sizeOf adds up the files below a directory.
func sizeOf(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func note(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
