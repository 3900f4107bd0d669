package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
)

// The commands of the scripts that look at a device. "The device" is all that
// valise-installer may change: the directory $DEVICE, and what the engine has of
// $APP.

// call runs valise-installer on the device and returns its exit code and what it
// printed.
func call(ts *testscript.TestScript, args []string) (code int, stdout, stderr string) {
	err := ts.Exec("valise-installer", append([]string{"--root", ts.Getenv("DEVICE"), "--progress", "none"}, args...)...)
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	return code, ts.ReadFile("stdout"), ts.ReadFile("stderr")
}

// ok is ok ARG...: valise-installer ends well and has nothing to complain about.
func ok(ts *testscript.TestScript, neg bool, args []string) {
	code, _, stderr := call(ts, args)
	if neg || code != 0 {
		ts.Fatalf("exit code %d, want 0", code)
	}
	if len(complaints(stderr)) > 0 {
		ts.Fatalf("it ended well and complains:\n%s", stderr)
	}
}

// complaints are the lines on stderr that are no notes.
func complaints(stderr string) []string {
	lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	return slices.DeleteFunc(lines, func(l string) bool { return l == "" || strings.HasPrefix(l, "note: ") })
}

// fails is fails [-history|-changed] CODE REGEXP ARG...: valise-installer ends
// with CODE and one line that matches REGEXP, perhaps with a hint. Unless it says
// that it reverted or needs attention, the device must be as it was; with
// -history the journal may say that something was tried, with -changed anything
// may have happened.
func fails(ts *testscript.TestScript, neg bool, args []string) {
	flag := ""
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		flag, args = args[0], args[1:]
	}
	if neg || len(args) < 3 {
		ts.Fatalf("usage: fails [-history|-changed] CODE REGEXP ARG...")
	}
	history := flag == "-history"
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	before := lookAt(ts, history)
	code, stdout, stderr := call(ts, args[2:])
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
	lines := complaints(stderr)
	if len(lines) == 2 && strings.HasPrefix(lines[1], "hint: ") {
		lines = lines[:1]
	}
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "valise-installer: ") {
		ts.Fatalf("want one line of complaint and at most one hint, got:\n%s", stderr)
	}
	if !regexp.MustCompile(args[1]).MatchString(lines[0]) {
		ts.Fatalf("%q is not in: %s", args[1], lines[0])
	}
	if slices.Contains(args, "json") && stdout != "" && !json.Valid([]byte(stdout)) {
		ts.Fatalf("stdout is not JSON")
	}
	if code == 3 || code == 5 || flag == "-changed" {
		return
	}
	if d := difference(before, lookAt(ts, history)); d != "" {
		ts.Fatalf("the device changed:\n%s", d)
	}
}

// snapshot is snapshot NAME: keeps how the device is, or, when NAME is kept,
// compares. What is in the journal and which containers run does not count.
func snapshot(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: snapshot NAME")
	}
	now := slices.DeleteFunc(lookAt(ts, true), func(l string) bool { return strings.HasPrefix(l, "container ") })
	name := ts.MkAbs(args[0])
	old, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		ts.Check(os.WriteFile(name, []byte(strings.Join(now, "\n")), 0o644))
		return
	}
	ts.Check(err)
	if d := difference(strings.Split(string(old), "\n"), now); d != "" {
		ts.Fatalf("the device changed:\n%s", d)
	}
}

// lookAt lists the device: files with their content, containers, images,
// volumes and networks, and what the app answers.
func lookAt(ts *testscript.TestScript, history bool) (list []string) {
	root := ts.Getenv("DEVICE")
	daemons := ts.Value(testKey{}).(*state).daemon
	history = history || daemons // which records what was refused, too
	ts.Check(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := fmt.Sprintf("file %s %s", rel, info.Mode())
		base := filepath.Base(rel)
		switch {
		// Who held the lock last is for people, and room that is set aside is
		// no content. SQLite's shared memory is a cache. The marker says that
		// the engine may hold what a load left that failed.
		case daemons && byDaemon.MatchString(rel):
			return nil
		case base == "lock", base == ".valise-load-unfinished", strings.HasSuffix(base, ".reserve"), strings.HasSuffix(base, "-shm"):
			return nil
		case (strings.HasPrefix(base, "state.db") || strings.HasSuffix(base, ".state")) && history, strings.Contains(rel, "updates/hooks") && history, strings.HasSuffix(base, "-wal") && info.Size() == 0:
			return nil
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		}
		list = append(list, line)
		return nil
	}))
	list = append(list, lookAtEngine(ts)...)
	if version, body, err := askHealth(ts); err == nil {
		list = append(list, "answers "+version+" "+strings.TrimSpace(body))
	}
	return list
}

// byDaemon are the files that are the daemon's own.
var byDaemon = regexp.MustCompile(`^(run(/valise(/.*)?)?|var(/lib(/valise)?)?|var/lib/valise/audit.*|var/lib/valise/[^/]+/inbox(/.*)?|opt/[^/]+/updates(/(applied|failed).*)?)$`)

func lookAtEngine(ts *testscript.TestScript) (list []string) {
	c, err := client.New(client.WithHost(ts.Getenv("DOCKER_HOST")))
	ts.Check(err)
	defer c.Close()
	ctx := context.Background()
	if _, err := c.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		return nil
	}
	app := ts.Getenv("APP")
	containers, err := c.ContainerList(ctx, client.ContainerListOptions{All: true})
	ts.Check(err)
	for _, x := range containers.Items {
		if x.Labels["com.docker.compose.project"] == app || x.Labels["dev.valise.app"] == app {
			list = append(list, fmt.Sprintf("container %s %s %s %s", x.ID, x.Names, x.ImageID, x.State))
		}
	}
	images, err := c.ImageList(ctx, client.ImageListOptions{})
	ts.Check(err)
	for _, x := range images.Items {
		for _, tag := range x.RepoTags {
			if strings.HasPrefix(tag, "valise/"+app+":") {
				list = append(list, fmt.Sprintf("image %s %s", tag, x.ID))
			}
		}
	}
	volumes, err := c.VolumeList(ctx, client.VolumeListOptions{})
	ts.Check(err)
	for _, x := range volumes.Items {
		if x.Labels["com.docker.compose.project"] == app {
			list = append(list, "volume "+x.Name+" "+x.CreatedAt)
		}
	}
	slices.Sort(list)
	return list
}

// difference returns the lines that only one of two lists has.
func difference(before, after []string) string {
	var b strings.Builder
	for _, l := range before {
		if !slices.Contains(after, l) {
			b.WriteString("- " + l + "\n")
		}
	}
	for _, l := range after {
		if !slices.Contains(before, l) {
			b.WriteString("+ " + l + "\n")
		}
	}
	return b.String()
}

// words are what docker prints.
func words(t testing.TB, host string, args ...string) []string {
	cmd := exec.Command("docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+host)
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("clean up: docker %v: %v", args, err)
	}
	return strings.Fields(string(out))
}

// freeNetworks takes out of the networks of an app the containers that are gone: Docker
// 20.10 now and then forgets to.
func freeNetworks(t testing.TB, host, app string) {
	for _, network := range words(t, host, "network", "ls", "-q", "--filter", "label=com.docker.compose.project="+app) {
		for _, container := range words(t, host, "network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", network) {
			words(t, host, "network", "disconnect", "-f", network, container)
		}
	}
}

// cleanEngine removes all that an app left in the engine.
func cleanEngine(t testing.TB, host, app string) {
	if strings.Contains(host, "/nowhere/") {
		return
	}
	cli := func(args ...string) []string { return words(t, host, args...) }
	each := func(list []string, args ...string) {
		if len(list) > 0 {
			cli(append(args, list...)...)
		}
	}
	each(cli("ps", "-aq", "--filter", "label=com.docker.compose.project="+app), "rm", "-f")
	each(cli("ps", "-aq", "--filter", "label=dev.valise.app="+app), "rm", "-f")
	freeNetworks(t, host, app)
	each(cli("network", "ls", "-q", "--filter", "label=com.docker.compose.project="+app), "network", "rm")
	each(cli("volume", "ls", "-q", "--filter", "label=com.docker.compose.project="+app), "volume", "rm")
	each(cli("images", "--format", "{{.Repository}}:{{.Tag}}", "valise/"+app), "rmi", "-f")
}

// dotenv is dotenv [LINE...]: the environment file that an administrator wrote.
func dotenv(ts *testscript.TestScript, neg bool, args []string) {
	dir := filepath.Join(ts.Getenv("DEVICE"), "opt", ts.Getenv("APP"))
	ts.Check(os.MkdirAll(dir, 0o755))
	text := strings.Join(append([]string{"TINY_PORT=" + ts.Getenv("PORT")}, args...), "\n") + "\n"
	ts.Check(os.WriteFile(filepath.Join(dir, ".env"), []byte(text), 0o600))
}

var httpClient = &http.Client{Timeout: bundletest.Slower(5 * time.Second), Transport: &http.Transport{DisableKeepAlives: true}}

func askHealth(ts *testscript.TestScript) (version, body string, err error) {
	res, err := httpClient.Get("http://127.0.0.1:" + ts.Getenv("PORT") + "/health")
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	var answer struct{ Version string }
	if err == nil {
		err = json.Unmarshal(b, &answer)
	}
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, b)
	}
	return answer.Version, string(b), err
}

// runs is runs VERSION [TEXT], or ! runs: the app answers as that version, and
// TEXT is in its answer; or nothing answers.
func runs(ts *testscript.TestScript, neg bool, args []string) {
	version, body, err := askHealth(ts)
	switch {
	case neg && err == nil:
		ts.Fatalf("%s runs", version)
	case neg:
	case err != nil:
		ts.Fatalf("%v", err)
	case version != args[0] || len(args) > 1 && !strings.Contains(body, args[1]):
		ts.Fatalf("got %s, want %s", body, args)
	}
}

// addItem is additem NAME: the app saves it.
func addItem(ts *testscript.TestScript, neg bool, args []string) {
	body, _ := json.Marshal(map[string]string{"name": args[0]})
	res, err := httpClient.Post("http://127.0.0.1:"+ts.Getenv("PORT")+"/api/items", "application/json", bytes.NewReader(body))
	ts.Check(err)
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		ts.Fatalf("%s", res.Status)
	}
}

// countItems is items N: so many are saved.
func countItems(ts *testscript.TestScript, neg bool, args []string) {
	res, err := httpClient.Get("http://127.0.0.1:" + ts.Getenv("PORT") + "/api/items")
	ts.Check(err)
	defer res.Body.Close()
	var answer struct{ Count int }
	ts.Check(json.NewDecoder(res.Body).Decode(&answer))
	if strconv.Itoa(answer.Count) != args[0] {
		ts.Fatalf("%d items, want %s", answer.Count, args[0])
	}
}

// checkJSON is json PATH VALUE: PATH, such as current.version or 0.status, has
// VALUE in the JSON printed last; a VALUE in slashes is a regular expression.
// With ! there is no PATH.
func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &v); err != nil {
		ts.Fatalf("stdout: %v", err)
	}
	for _, name := range strings.Split(args[0], ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[name]
		case []any:
			i, err := strconv.Atoi(name)
			ts.Check(err)
			v = nil
			if i < len(x) {
				v = x[i]
			}
		default:
			v = nil
		}
	}
	if neg {
		if v != nil {
			ts.Fatalf("%s is %v, want none", args[0], v)
		}
		return
	}
	got := fmt.Sprint(v)
	if pattern, ok := strings.CutPrefix(args[1], "/"); ok {
		if !regexp.MustCompile(strings.TrimSuffix(pattern, "/")).MatchString(got) {
			ts.Fatalf("%s is %q, want %s", args[0], got, args[1])
		}
	} else if got != args[1] {
		ts.Fatalf("%s is %q, want %q", args[0], got, args[1])
	}
}

// loadedOnly is loadedonly OLD NEW: the update whose JSON was printed last loaded
// those layers of the bundle NEW that OLD does not have, and no others.
func loadedOnly(ts *testscript.TestScript, neg bool, args []string) {
	layers := func(path string) map[bundle.Digest]int64 {
		f, err := os.Open(ts.MkAbs(path))
		ts.Check(err)
		defer f.Close()
		info, err := f.Stat()
		ts.Check(err)
		r, err := bundle.Open(f, info.Size())
		ts.Check(err)
		sizes := map[bundle.Digest]int64{}
		for _, c := range r.Manifest().Components {
			for _, l := range c.Images[0].Layers {
				sizes[l.Digest] = l.Size
			}
		}
		return sizes
	}
	old := layers(args[0])
	var changed, total int64
	for d, size := range layers(args[1]) {
		total += size
		if _, ok := old[d]; !ok {
			changed += size
		}
	}
	if changed == 0 || changed == total {
		ts.Fatalf("%d of %d bytes changed: nothing to see", changed, total)
	}
	var s struct {
		LoadedBytes int64 `json:"loaded_bytes"`
		TotalBytes  int64 `json:"total_bytes"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &s))
	if s.LoadedBytes != changed || s.TotalBytes != total {
		ts.Fatalf("loaded %d of %d bytes, want %d of %d", s.LoadedBytes, s.TotalBytes, changed, total)
	}
}
