package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/record"
	"github.com/valise-ota/valise/scripts/bench/proc"
)

// newDevice makes the root of an empty device.
func (g *growth) newDevice() error {
	if err := g.emptied("device", "device/dev", "device/proc", "device/run", "device/tmp", "device/srv", "device/usr/bin"); err != nil {
		return err
	}
	const null = 1<<8 | 3
	return errors.Join(syscall.Mknod(filepath.Join(g.root, "dev/null"), syscall.S_IFCHR|0o666, null),
		os.Link(g.file("valise-installer"), filepath.Join(g.root, "usr/bin/valise-installer")),
		os.Link(g.file("systemctl"), filepath.Join(g.root, "usr/bin/systemctl")),
		os.Link(g.file("key.pub"), filepath.Join(g.root, "srv/key.pub")))
}

// onDevice is a command of valise-installer there. It has /proc, which goes with it.
func (g *growth) onDevice(args ...string) []string {
	return append([]string{"unshare", "--mount-proc=" + filepath.Join(g.root, "proc"), "chroot", g.root, "/usr/bin/valise-installer", "--progress", "none"}, args...)
}

// carry puts a bundle onto the device, and returns where it is there.
func (g *growth) carry(name string) (string, error) {
	to := filepath.Join("/srv", name+".tar.gz")
	err := os.Link(g.bundleFile(name), filepath.Join(g.root, to))
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	return to, err
}

// install installs a bundle, and measures that as program unless it is empty.
func (g *growth) install(ctx context.Context, program, name string) error {
	return g.apply(ctx, program, name, "install", "--key", "/srv/key.pub")
}

func (g *growth) apply(ctx context.Context, program, name, command string, flags ...string) error {
	file, err := g.carry(name)
	if err != nil {
		return err
	}
	args := g.onDevice(append([]string{command, file}, flags...)...)
	if program == "" {
		return g.do(ctx, args...)
	}
	return g.measure(ctx, program, args...)
}

// looks measures commands by themselves.
func (g *growth) looks(ctx context.Context, commands ...string) error {
	for _, c := range commands {
		if err := g.measure(ctx, "valise-installer "+c, g.onDevice(strings.Fields(c)...)...); err != nil {
			return err
		}
	}
	return nil
}

// service is a process that serves, and what it says on stderr.
type service struct {
	cmd  *exec.Cmd
	from time.Time
	mu   sync.Mutex
	log  []string
	said chan struct{} // something was, or it ended
	done chan error
}

// start starts "serve" or "page" on the device.
func (g *growth) start(ctx context.Context, args ...string) (*service, error) {
	args = g.onDevice(args...)
	s := &service{cmd: exec.CommandContext(ctx, args[0], args[1:]...), from: time.Now(), said: make(chan struct{}, 1), done: make(chan error, 1)}
	s.cmd.Env = g.env
	out, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.mu.Lock()
			s.log = append(s.log, lines.Text())
			s.mu.Unlock()
			s.wake()
		}
		s.done <- s.cmd.Wait()
		close(s.said)
	}()
	return s, nil
}

func (s *service) wake() {
	select {
	case s.said <- struct{}{}:
	default:
	}
}

// count waits until n lines have had all the words, and returns how long that took since the start.
func (s *service) count(ctx context.Context, n int, words ...string) (float64, error) {
	seen, found := 0, 0
	for {
		s.mu.Lock()
		for _, line := range s.log[seen:] {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				found++
			}
		}
		seen = len(s.log)
		last := strings.Join(s.log[max(0, seen-5):], "\n")
		s.mu.Unlock()
		if found >= n {
			return time.Since(s.from).Seconds(), nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case _, more := <-s.said:
			if !more {
				return 0, fmt.Errorf("%s ended: %d of %d lines with %q; the last lines:\n%s", s.cmd, found, n, words, last)
			}
		}
	}
}

// stop ends it, and returns its memory and writes until then.
func (s *service) stop() (sample, error) {
	peak, err1 := proc.Peak(s.cmd.Process.Pid)
	written, err2 := proc.Written(s.cmd.Process.Pid)
	err := errors.Join(err1, err2, s.cmd.Process.Signal(os.Interrupt))
	return sample{rss: float64(peak), written: float64(written)}, errors.Join(err, <-s.done)
}

// served adds what a service cost until it had said something n times.
func (g *growth) served(ctx context.Context, program string, n int, words ...string) error {
	s, err := g.start(ctx, "serve")
	if err != nil {
		return err
	}
	wall, err := s.count(ctx, n, words...)
	cost, serr := s.stop()
	if err := errors.Join(err, serr); err != nil {
		return err
	}
	cost.wall = wall
	g.add(program, cost)
	return nil
}

// addRecords writes records of updates that failed, with its own package, until the app has n of them.
func (g *growth) addRecords(ctx context.Context, n int) error {
	file := filepath.Join(g.root, "var/lib/valise", app, "state.db")
	dir, err := os.MkdirTemp("/dev/shm", "valise-growth-") // in memory, where no record waits for a disk
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fast := filepath.Join(dir, "state.db")
	if err := copyFile(fast, file); err != nil {
		return err
	}
	s, err := record.Open(ctx, fast, app)
	if err != nil {
		return err
	}
	defer s.Close()
	st, err := s.Load(ctx)
	if err != nil {
		return err
	}
	_, have, err := s.Find(ctx, nil, 1, 0)
	if err != nil {
		return err
	}
	for i := have; i < n; i++ {
		at := st.Current.CommittedAt.Add(time.Duration(i) * time.Minute)
		to := *st.Current
		to.Version, to.Dir = fmt.Sprintf("1.1.%d", i), fmt.Sprintf("v1.1.%d", i)
		r := installer.Record{ID: fmt.Sprintf("GROWTH%d", i), Action: installer.ActionUpdate, From: st.Current, To: to, Created: at}
		for _, step := range []func() error{
			func() error { return s.Begin(ctx, r) },
			func() error { return s.StepBegun(ctx, r.ID, "stage", nil, at) },
			func() error { return s.Fail(ctx, r.ID, errors.New("unpack: no space left on device"), false) },
			func() error { return s.StepUndone(ctx, r.ID, "stage", at) },
			func() error { return s.End(ctx, r.ID, installer.Failed, at) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
	}
	if err := s.Close(); err != nil {
		return err
	}
	return copyFile(file, fast)
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// watch has n clients look at the page: each opens a stream of events, and loads the page. It waits until all have.
func (g *growth) watch(ctx context.Context, base string, tokens []string, n int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the streams
	get := func(client *http.Client, path string, i int) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, "GET", base+path, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+tokens[i%len(tokens)])
		res, err := client.Do(req)
		if err == nil && res.StatusCode != http.StatusOK {
			res.Body.Close()
			err = fmt.Errorf("%s: %s", path, res.Status)
		}
		return res, err
	}
	// Streams take nearly all the connections that the page has.
	watching := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	loading := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 16}}
	failures := make(chan error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			res, err := get(watching, "/api/v1/ota/events", i)
			if err != nil {
				failures <- err
				return
			}
			if _, err = res.Body.Read(make([]byte, 1)); err != nil {
				failures <- err
				return
			}
			if res, err = get(loading, "/", i); err == nil {
				_, err = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			if err != nil {
				failures <- err
			}
		})
	}
	wg.Wait()
	close(failures)
	return <-failures
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// versions builds and signs releases of the project, 1.0.FROM to 1.0.TO.
func (g *growth) versions(ctx context.Context, from, to int) error {
	var names []string
	for i := from; i <= to; i++ {
		name := fmt.Sprintf("1.0.%d", i)
		if err := g.do(ctx, g.build(name, name)...); err != nil {
			return err
		}
		names = append(names, name)
	}
	for part := range slices.Chunk(names, 100) {
		if err := g.do(ctx, g.sign(part...)...); err != nil {
			return err
		}
	}
	return nil
}
