// Command devicebench installs, updates and rolls back the sample app on a real engine, by hand and with valise-installer by turns, and keeps
// each figure as median, spread and ratio to the peer: wall time until the wanted version answers, bytes written, peak memory, and how long
// no one answered a client that asks every 50 ms. scripts/bench-device.sh starts it beside a private engine.
package main

import (
	"bytes"
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

	"github.com/valise-ota/valise/scripts/bench/history"
	"github.com/valise-ota/valise/scripts/bench/proc"
)

const (
	port  = "18080"
	large = "large"
)

var (
	releases = flag.String("releases", "", "directory with shop-1.0.0.tar.gz, shop-1.1.0.tar.gz, cosign.pub and the programs")
	engine   = flag.Int("engine", 0, "process ID of the engine; 0 measures what needs none")
	name     = flag.String("name", "", "name of the engine")
	app      = flag.String("app", "shop", "which app the releases are of: shop or large")
	load     = flag.String("load", "", "load average before anything was built")
	rounds   = flag.Int("rounds", 5, "how often everything is measured")
	memory   = flag.Int64("memory", 0, "bytes of memory that each command may use, page cache included; 0 for no limit")
	file     = flag.String("rows", "", "file that the rows are appended to")
	show     = flag.Bool("print", false, "measure nothing, and print the tables of the file")
	doc      = flag.String("doc", "", "with -print, the page that the tables are written into instead, and beside which the rows are kept")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "devicebench:", err)
		os.Exit(1)
	}
}

func run() error {
	if *show {
		return report()
	}
	began, err := history.NewRun(*load)
	if err != nil {
		return err
	}
	var rows []history.Row
	if *engine == 0 {
		rows, err = programs()
	} else {
		rows, err = onEngine()
	}
	if err != nil {
		return err
	}
	for i := range rows {
		rows[i].Run, rows[i].On = began, *name
		if *app == large {
			rows[i].Row = "large app: " + rows[i].Row
		}
	}
	return history.Write(*file, rows)
}

// report shows the rows of the file.
func report() error {
	rows, err := history.Read(*file)
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return fmt.Errorf("%s has no rows: measure first", *file)
	}
	r := rows[0]
	text := fmt.Sprintf("Commit %s, %s, %d rounds, load average before the run %.2f.\n\n%s\n%s", r.Commit, r.Time.Format("2006-01-02 15:04 UTC"), *rounds, r.Load,
		history.Goals(rows), history.Table(rows))
	if *doc == "" {
		fmt.Print(text)
		return nil
	}
	if err := history.WriteInto(*doc, "bench-device "+*app, text); err != nil {
		return err
	}
	return history.Keep(os.Stdout, *doc, "device", rows)
}

// programs measures what needs no engine.
func programs() (rows []history.Row, err error) {
	const runs = 20 // a start takes milliseconds: the median of so many is what a round measured
	starts, cpu, rss := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for range *rounds {
		wall, work, peak := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
		for range runs {
			for _, program := range []string{"empty", "valise-installer", "valise"} {
				begin := time.Now()
				cmd := exec.Command(filepath.Join(*releases, program), "--version")
				if out, err := cmd.CombinedOutput(); err != nil {
					return nil, fmt.Errorf("%s --version: %w: %s", program, err, out)
				}
				wall[program] = append(wall[program], float64(time.Since(begin).Microseconds())/1e3)
				state := cmd.ProcessState
				work[program] = append(work[program], float64((state.UserTime()+state.SystemTime()).Microseconds())/1e3)
				peak[program] = append(peak[program], float64(state.SysUsage().(*syscall.Rusage).Maxrss)*1024/1e6)
			}
		}
		for program := range wall {
			starts[program] = append(starts[program], history.Of(wall[program]).Median)
			cpu[program] = append(cpu[program], history.Of(work[program]).Median)
			rss[program] = append(rss[program], history.Of(peak[program]).Max)
		}
	}
	info, err := os.Stat(filepath.Join(*releases, "installer-arm64"))
	if err != nil {
		return nil, err
	}
	row := func(name, program string, values map[string][]float64, goal float64) history.Row {
		return history.Row{Row: name + program, Unit: "ms", Spread: history.Of(values[program]), Goal: goal,
			Ratio: history.Against("an empty Go program", values[program], values["empty"])}
	}
	return []history.Row{
		row("start of ", "valise-installer", starts, 3), row("start of ", "valise", starts, 4),
		row("CPU, start of ", "valise-installer", cpu, 0), row("CPU, start of ", "valise", cpu, 0),
		{Row: "peak memory, start of valise-installer", Unit: "MB", Spread: history.Of(rss["valise-installer"]), Limit: 25},
		{Row: "size of valise-installer, linux/arm64", Unit: "MiB", Spread: history.Of([]float64{float64(info.Size()) / (1 << 20)}), Limit: 25},
	}, nil
}

// onEngine measures by hand and with valise-installer by turns.
func onEngine() ([]history.Row, error) {
	work, err := os.MkdirTemp("", "valise-devicebench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	group, err := memoryGroup(*memory)
	if err != nil {
		return nil, err
	}
	if group != "" {
		defer os.Remove(group)
	}
	bundle := func(version string) string { return filepath.Join(*releases, "shop-"+version+".tar.gz") }
	env := append(os.Environ(), "SHOP_PORT="+port, "DB_PASSWORD=benchmark")
	in := func(version string, args ...string) step {
		return step{filepath.Join(work, "hand"), append(env[:len(env):len(env)], "SHOP_VERSION="+version), args}
	}
	up := func(version string) step {
		return in(version, "docker", "compose", "-p", "shop", "-f", "compose.yaml", "up", "-d", "--quiet-pull")
	}
	hand := func(version string) []step {
		return []step{in(version, "tar", "xzf", bundle(version)), in(version, "sha256sum", "images.tar"), in(version, "docker", "load", "-q", "-i", "images.tar"), up(version)}
	}
	device, spans := filepath.Join(work, "device"), filepath.Join(work, "trace.json")
	valise := func(args ...string) []step {
		return []step{{work, env, append([]string{filepath.Join(*releases, "valise-installer"), "--root", device, "--progress", "none", "--trace", spans}, args...)}}
	}
	type part struct {
		what, version string
		steps         []step
	}
	const byHand, installer, install, update, rollback = "by hand", "valise-installer", "first install", "one-layer update", "rollback"
	plan := map[string][]part{
		byHand: {{install, "1.0.0", hand("1.0.0")}, {update, "1.1.0", hand("1.1.0")}, {rollback, "1.0.0", []step{up("1.0.0")}}},
		installer: {{install, "1.0.0", valise("install", bundle("1.0.0"), "--key", filepath.Join(*releases, "cosign.pub"))},
			{update, "1.1.0", valise("update", bundle("1.1.0"))}, {rollback, "1.0.0", valise("rollback")}},
	}
	all := map[string][]measured{} // by what and how, in the order of the rounds
	for round := range *rounds {
		order := []string{byHand, installer}
		if round%2 == 1 {
			order = []string{installer, byHand}
		}
		for _, how := range order {
			for _, dir := range []string{"hand", "device/opt/shop"} {
				if err := os.MkdirAll(filepath.Join(work, dir), 0o755); err != nil {
					return nil, err
				}
			}
			if err := os.WriteFile(filepath.Join(device, "opt/shop/.env"), []byte("SHOP_PORT="+port+"\n"), 0o600); err != nil {
				return nil, err
			}
			for _, p := range plan[how] {
				m, err := measure(p.version, group, p.steps)
				if err != nil {
					return nil, fmt.Errorf("%s, %s: %w", how, p.what, err)
				}
				if how == installer {
					fmt.Fprintf(os.Stderr, "%s, %s:\n", *name, p.what)
					if m.last, err = where(spans, "docker compose up"); err != nil {
						return nil, err
					}
				}
				fmt.Fprintf(os.Stderr, "%s, round %d, %s, %s: %.1f s, compose up %.1f s, %.1f MB written, %.0f MB memory, down %.2f s\n",
					*name, round+1, p.what, how, m.wall.Seconds(), m.last.Seconds(), float64(m.written)/1e6, float64(m.rss)/1e6, m.down.Seconds())
				all[p.what+how] = append(all[p.what+how], m)
			}
			if err := clean(); err != nil {
				return nil, err
			}
			for _, dir := range []string{"hand", "device"} {
				if err := os.RemoveAll(filepath.Join(work, dir)); err != nil {
					return nil, err
				}
			}
		}
	}
	of := func(what, how string, figure func(measured) float64) (values []float64) {
		for _, m := range all[what+how] {
			values = append(values, figure(m))
		}
		return values
	}
	row := func(row, what, to, unit string, goal float64, figure func(measured) float64) history.Row {
		mine := of(what, installer, figure)
		return history.Row{Row: row, Unit: unit, Spread: history.Of(mine), Goal: goal, Ratio: history.Against(to, mine, of(what, byHand, figure))}
	}
	wall := func(m measured) float64 { return m.wall.Seconds() }
	down := func(m measured) float64 { return m.down.Seconds() }
	written := func(m measured) float64 { return float64(m.written) / 1e6 }
	goals := map[string]float64{install: 1, update: 0.5}
	if *app == large {
		goals = map[string]float64{install: 0.8, update: 0.25}
	}
	const compose = "docker compose up"
	var longer, rss []float64
	for i, m := range all[update+installer] {
		longer = append(longer, down(m)-down(all[update+byHand][i]))
		rss = append(rss, float64(max(m.rss, all[install+installer][i].rss, all[rollback+installer][i].rss))/1e6)
	}
	return []history.Row{
		row(install, install, byHand, "s", goals[install], wall),
		row(update, update, byHand, "s", goals[update], wall),
		row("switch", update, compose, "s", 1.1, func(m measured) float64 { return m.last.Seconds() }),
		row(rollback, rollback, compose+" until it answers", "s", 1.5, wall),
		row("downtime", update, byHand, "s", 0, down),
		{Row: "downtime, longer than by hand", Unit: "s", Spread: history.Of(longer), Limit: 0.1},
		row("bytes written, "+install, install, byHand, "MB", 0, written),
		row("bytes written, update", update, byHand, "MB", 0, written),
		{Row: "peak memory", Unit: "MB", Spread: history.Of(rss), Limit: 32},
	}, nil
}

// where prints to stderr what a trace says of where the time went, all that took 50 ms or more, and returns how long the steps of a name took.
func where(file, of string) (sum time.Duration, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var events []struct {
		Name, Ph string
		Ts       int64 // microseconds
		Tid      int
		Args     struct{ Bytes int64 }
		ends     int64
	}
	if err := json.Unmarshal(b, &events); err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
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
			took := time.Duration(e.ends-e.Ts) * time.Microsecond
			if e.Name == of {
				sum += took
			}
			if took >= 50*time.Millisecond {
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
	if sum == 0 {
		return 0, fmt.Errorf("%s has no step %q, which is to be measured: is it called otherwise now?", file, of)
	}
	return sum, nil
}

// step is one command.
type step struct {
	dir  string
	env  []string
	args []string
}

type measured struct {
	wall, down time.Duration
	last       time.Duration // of the last command by hand, docker compose up; of that step with valise-installer
	written    int64         // bytes by the engine and the commands
	rss        int64         // bytes, of the largest command
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
		started := time.Now()
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			return m, err
		}
		ended, peak := make(chan struct{}), make(chan int64)
		go watch(cmd.Process.Pid, ended, peak)
		err := cmd.Wait()
		close(ended)
		m.rss = max(m.rss, <-peak)
		if err != nil {
			return m, fmt.Errorf("%v: %w: %s", s.args, err, out.String())
		}
		m.last = time.Since(started)
		usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		m.written += usage.Oublock * 512
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

// watch looks every 5 ms how much memory a process had at most. What the kernel says at its end would be that of docker compose, which it started.
func watch(pid int, ended <-chan struct{}, peak chan<- int64) {
	var most int64
	for {
		if now, err := proc.Peak(pid); err == nil { // no longer there at the end
			most = max(most, now)
		}
		select {
		case <-ended:
			peak <- most
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
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
	if sum, err = proc.Written(pid); err != nil {
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
