// Command devicebench installs and updates the sample app on a real engine, by hand and with valise-installer, and prints
// one table row for each: wall time until the new version answers, bytes written, peak memory, and how long nobody
// answered a client that asks every 50 ms. scripts/bench-device.sh starts it beside a private engine.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const port = "18080"

var (
	releases  = flag.String("releases", "", "directory with shop-1.0.0.tar.gz, shop-1.1.0.tar.gz, cosign.pub")
	installer = flag.String("installer", "", "valise-installer")
	engine    = flag.Int("engine", 0, "process ID of the engine")
	name      = flag.String("name", "", "name of the engine")
	memory    = flag.Int64("memory", 0, "bytes of memory that each command may use, page cache included; 0 for no limit")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "devicebench:", err)
		os.Exit(1)
	}
}

func run() error {
	work, err := os.MkdirTemp("", "valise-devicebench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	group, err := memoryGroup(*memory)
	if err != nil {
		return err
	}
	if group != "" {
		defer os.Remove(group)
	}
	bundle := func(version string) string { return filepath.Join(*releases, "shop-"+version+".tar.gz") }
	env := append(os.Environ(), "SHOP_PORT="+port, "DB_PASSWORD=benchmark")
	hand := func(version string) []step {
		dir := filepath.Join(work, "hand")
		in := func(args ...string) step {
			return step{dir, append(env[:len(env):len(env)], "SHOP_VERSION="+version), args}
		}
		return []step{
			in("tar", "xzf", bundle(version)), in("sha256sum", "images.tar"), in("docker", "load", "-q", "-i", "images.tar"),
			in("docker", "compose", "-p", "shop", "-f", "compose.yaml", "up", "-d", "--quiet-pull"),
		}
	}
	device, spans := filepath.Join(work, "device"), filepath.Join(work, "trace.json")
	valise := func(args ...string) []step {
		return []step{{work, env, append([]string{*installer, "--root", device, "--progress", "none", "--trace", spans}, args...)}}
	}
	for _, dir := range []string{"hand", "device/opt/shop"} {
		if err := os.MkdirAll(filepath.Join(work, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(device, "opt/shop/.env"), []byte("SHOP_PORT="+port+"\n"), 0o600); err != nil {
		return err
	}
	for _, f := range []struct {
		how     string
		install []step
		update  []step
	}{
		{"by hand", hand("1.0.0"), hand("1.1.0")},
		{"valise-installer", valise("install", bundle("1.0.0"), "--key", filepath.Join(*releases, "cosign.pub")), valise("update", bundle("1.1.0"))},
	} {
		for _, part := range []struct {
			what, version string
			steps         []step
		}{{"first install", "1.0.0", f.install}, {"one-layer update", "1.1.0", f.update}} {
			m, err := measure(part.version, group, part.steps)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", f.how, part.what, err)
			}
			down := "-"
			if part.what != "first install" {
				down = fmt.Sprintf("%.1f s", m.down.Seconds())
			}
			fmt.Printf("| %s | %s, %s | %.1f s | %.1f MB | %.0f MB | %s |\n", *name, part.what, f.how, m.wall.Seconds(), float64(m.written)/1e6, float64(m.rss)/1e6, down)
			if f.how == "valise-installer" {
				if err := where(spans); err != nil {
					return err
				}
			}
		}
		if err := clean(); err != nil {
			return err
		}
	}
	return nil
}

// where prints to stderr what a trace says of where the time went: all that took 50 ms or more.
func where(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var events []struct {
		Name, Ph string
		Ts       int64 // microseconds
		Tid      int
		Args     struct{ Bytes int64 }
		ends     int64
	}
	if err := json.Unmarshal(b, &events); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	open := map[int][]int{}
	for i, e := range events {
		lane := open[e.Tid]
		switch e.Ph {
		case "B":
			open[e.Tid] = append(lane, i)
		case "E":
			begun := &events[lane[len(lane)-1]]
			begun.ends, begun.Args, open[e.Tid] = e.Ts, e.Args, lane[:len(lane)-1]
		}
	}
	depth := map[int]int{}
	for _, e := range events {
		switch e.Ph {
		case "B":
			if took := time.Duration(e.ends-e.Ts) * time.Microsecond; took >= 50*time.Millisecond {
				fmt.Fprintf(os.Stderr, "%7.2f s %s%s", took.Seconds(), strings.Repeat("  ", depth[e.Tid]), e.Name)
				if e.Args.Bytes > 0 {
					fmt.Fprintf(os.Stderr, ", %.1f MB", float64(e.Args.Bytes)/1e6)
				}
				fmt.Fprintln(os.Stderr)
			}
			depth[e.Tid]++
		case "E":
			depth[e.Tid]--
		}
	}
	return nil
}

// step is one command.
type step struct {
	dir  string
	env  []string
	args []string
}

type measured struct {
	wall, down time.Duration
	written    int64 // bytes by the engine and the commands
	rss        int64 // bytes, of the largest command
}

// measure runs steps until the app answers as version.
func measure(version, group string, steps []step) (m measured, err error) {
	before, err := written(*engine)
	if err != nil {
		return m, err
	}
	c := poll()
	begin := time.Now()
	for _, s := range steps {
		if group != "" { // the shell joins it, and what it becomes stays in it
			s.args = append([]string{"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, group}, s.args...)
		}
		cmd := exec.Command(s.args[0], s.args[1:]...)
		cmd.Dir, cmd.Env = s.dir, s.env
		if out, err := cmd.CombinedOutput(); err != nil {
			return m, fmt.Errorf("%v: %w: %s", s.args, err, out)
		}
		usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		m.written += usage.Oublock * 512
		m.rss = max(m.rss, usage.Maxrss<<10)
	}
	for deadline := time.Now().Add(2 * time.Minute); c.version() != version; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return m, fmt.Errorf("%s never answered", version)
		}
	}
	m.wall, m.down = time.Since(begin), c.stop()
	after, err := written(*engine)
	m.written += after - before
	return m, err
}

// memoryGroup makes a control group, of version 2 or 1, whose processes have so
// many bytes of memory together, or none when that is 0.
func memoryGroup(limit int64) (dir string, err error) {
	if limit == 0 {
		return "", nil
	}
	dir, file := "/sys/fs/cgroup/valise-bench", "memory.max"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		dir, file = "/sys/fs/cgroup/memory/valise-bench", "memory.limit_in_bytes"
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, file), fmt.Appendln(nil, limit), 0o644)
}

// written is what a process and its children wrote, in bytes.
func written(pid int) (sum int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	_, text, _ := strings.Cut(string(b), "\nwrite_bytes: ")
	text, _, _ = strings.Cut(text, "\n")
	if sum, err = strconv.ParseInt(text, 10, 64); err != nil {
		return 0, err
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // a thread that has ended
		}
		for _, child := range strings.Fields(string(b)) {
			n, _ := strconv.Atoi(child)
			if more, err := written(n); err == nil {
				sum += more
			}
		}
	}
	return sum, nil
}

// client asks for the app's health every 50 ms.
type client struct {
	mu      sync.Mutex
	now     string
	last    time.Time // of an answer
	longest time.Duration
	done    chan struct{}
}

func poll() *client {
	c := &client{done: make(chan struct{})}
	h := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	go func() {
		for {
			select {
			case <-c.done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			res, err := h.Get("http://127.0.0.1:" + port + "/health")
			if err != nil {
				continue
			}
			var answer struct{ Version string }
			err = json.NewDecoder(res.Body).Decode(&answer)
			res.Body.Close()
			if err != nil || res.StatusCode != http.StatusOK {
				continue
			}
			c.mu.Lock()
			if !c.last.IsZero() {
				c.longest = max(c.longest, time.Since(c.last))
			}
			c.now, c.last = answer.Version, time.Now()
			c.mu.Unlock()
		}
	}()
	return c
}

func (c *client) version() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// stop returns the longest time without an answer.
func (c *client) stop() time.Duration {
	close(c.done)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.longest
}

// clean removes everything from the engine, which is ours alone.
func clean() error {
	for _, line := range []string{"docker ps -aq | xargs -r docker rm -fv", "docker volume ls -q | xargs -r docker volume rm -f", "docker network prune -f", "docker image prune -af"} {
		if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}
