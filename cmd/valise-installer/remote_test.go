//go:build remote

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer/source"
)

// TestRemote measures what updates over a network cost, from a real web server,
// beside a pull from a registry. Its lines that begin with | are the table of
// docs/benchmarks.md.
func TestRemote(t *testing.T) {
	p := params("", realEngine(t))
	p.Cmds["nginx"] = startNginx
	p.Cmds["link"] = setLink
	p.Cmds["row"] = row
	p.Cmds["pull"] = pull
	p.Cmds["distribution"] = startDistribution
	p.Cmds["sent"] = checkSent
	scripts, err := filepath.Glob("testdata/remote/*.txtar")
	if err != nil || len(scripts) < 2 {
		t.Fatal(scripts, err)
	}
	for _, script := range scripts { // one after the other: there is one link, which counts
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			p.Files = []string{script}
			testscript.Run(t, p)
		})
	}
}

// link is the network between a device and its servers.
type link struct {
	mu      sync.Mutex
	rate    int // bytes a second in all, 0: no limit
	cuts    int // connections still to be cut
	every   int // bytes after which one is
	passed  int64
	tokens  time.Time
	address map[string]string // of servers behind it
}

var theLink = &link{address: map[string]string{}}

// to returns an address that leads to server.
func (l *link) to(t testing.TB, server string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go l.carry(c, server)
		}
	}()
	return ln.Addr().String()
}

func (l *link) carry(c net.Conn, server string) {
	defer c.Close()
	s, err := net.Dial("tcp", server)
	if err != nil {
		return
	}
	defer s.Close()
	go func() { _, _ = io.Copy(s, c); s.Close() }()
	buf := make([]byte, 8<<10)
	for sent := 0; ; {
		n, err := s.Read(buf)
		l.mu.Lock()
		l.passed += int64(n)
		var wait time.Duration
		if l.rate > 0 {
			if now := time.Now(); l.tokens.Before(now) {
				l.tokens = now
			}
			l.tokens = l.tokens.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
			wait = time.Until(l.tokens)
		}
		sent += n
		cut := l.cuts > 0 && sent > l.every
		if cut {
			l.cuts--
		}
		l.mu.Unlock()
		time.Sleep(wait)
		if _, werr := c.Write(buf[:n]); err != nil || werr != nil || cut {
			return
		}
	}
}

// startNginx is nginx DIR: serves it at $WEB.
func startNginx(ts *testscript.TestScript, neg bool, args []string) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		need(test(ts), "nginx (apt-get install nginx-light)")
	}
	port, err := freePort()
	ts.Check(err)
	dir := ts.MkAbs("nginx")
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(os.MkdirAll(ts.MkAbs(args[0]), 0o755))
	conf := fmt.Sprintf(`daemon off; master_process off; worker_processes 1; pid %[1]s/pid; error_log stderr;
events { worker_connections 64; }
http { access_log %[1]s/access.log; server { listen 127.0.0.1:%[2]s; root %[3]s; autoindex on; } }
`, dir, port, ts.MkAbs(args[0]))
	ts.Check(os.WriteFile(filepath.Join(dir, "conf"), []byte(conf), 0o644))
	cmd := exec.Command(program, "-p", dir, "-c", filepath.Join(dir, "conf"))
	cmd.Stderr = os.Stderr
	ts.Check(cmd.Start())
	test(ts).Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			break
		} else if time.Since(start) > 10*time.Second {
			ts.Fatalf("nginx: %v", err)
		}
	}
	ts.Setenv("WEB", "http://"+theLink.to(test(ts), "127.0.0.1:"+port))
}

// startDistribution is distribution NAME [OF]: a registry at $NAME, which is a
// pull-through cache of the one at $OF; distribution NAME stop stops it.
func startDistribution(ts *testscript.TestScript, neg bool, args []string) {
	program := os.Getenv("VALISE_TEST_DISTRIBUTION")
	if program == "" {
		need(test(ts), "distribution (VALISE_TEST_DISTRIBUTION, printed by scripts/distribution.sh)")
	}
	if len(args) > 1 && args[1] == "stop" {
		stopDistribution[args[0]]()
		return
	}
	port, err := freePort()
	ts.Check(err)
	dir := ts.MkAbs("distribution-" + args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	conf := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: '127.0.0.1:%s'}\n", dir, port)
	if len(args) > 1 {
		conf += "proxy: {remoteurl: 'http://" + ts.Getenv(args[1]) + "'}\n"
	}
	ts.Check(os.WriteFile(dir+".yml", []byte(conf), 0o644))
	cmd := exec.Command(program, "serve", dir+".yml")
	cmd.Stderr, cmd.Env = os.Stderr, append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	ts.Check(cmd.Start())
	stop := sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	test(ts).Cleanup(stop)
	stopDistribution[args[0]] = stop
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			break
		} else if time.Since(start) > bundletest.Patience() {
			ts.Fatalf("distribution: %v", err)
		}
	}
	ts.Setenv(args[0], theLink.to(test(ts), "127.0.0.1:"+port))
}

var stopDistribution = map[string]func(){}

// checkSent is sent BYTES: the last push sent layers of so many, and at most 64 KiB more.
func checkSent(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.ParseInt(args[0], 10, 64)
	ts.Check(err)
	if sent < n || sent > n+64<<10 {
		ts.Fatalf("%d bytes sent for layers of %d", sent, n)
	}
}

// setLink is link [rate=N] [cuts=N every=N]: what the network is like from now on.
func setLink(ts *testscript.TestScript, neg bool, args []string) {
	theLink.mu.Lock()
	defer theLink.mu.Unlock()
	theLink.rate, theLink.cuts, theLink.every = 0, 0, 0
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		n, err := strconv.Atoi(value)
		ts.Check(err)
		*map[string]*int{"rate": &theLink.rate, "cuts": &theLink.cuts, "every": &theLink.every}[key] = n
	}
}

// row is row NAME ARG...: valise-installer does that with --output json, and a row
// of the table says what it took. Its bytes must not be more than 2 % and 64 KiB
// above those of the layers it loaded.
func row(ts *testscript.TestScript, neg bool, args []string) {
	before := passed()
	start := time.Now()
	code, stdout, stderr := call(ts, append(args[1:], "--output", "json"))
	took := time.Since(start)
	if code != 0 {
		ts.Fatalf("exit code %d: %s", code, stderr)
	}
	var s struct {
		LoadedBytes int64           `json:"loaded_bytes"`
		Fetched     *source.Traffic `json:"fetched"`
	}
	ts.Check(json.Unmarshal([]byte(stdout), &s))
	sent := passed() - before
	print(ts, args[0], s.LoadedBytes, sent, s.Fetched.Requests, took)
	if s.Fetched.Spooled > 0 {
		ts.Logf("%d bytes came from the spool", s.Fetched.Spooled)
	}
	if sent > s.LoadedBytes*102/100+64<<10 {
		ts.Fatalf("%d bytes over the link for layers of %d", sent, s.LoadedBytes)
	}
}

func passed() int64 {
	theLink.mu.Lock()
	defer theLink.mu.Unlock()
	return theLink.passed
}

func print(ts *testscript.TestScript, name string, layers, sent int64, requests int, took time.Duration) {
	ts.Logf("| %s | %d | %d | %+.2f | %d | %.1f |", name, layers, sent, 100*float64(sent-layers)/float64(layers), requests, took.Seconds())
}

// pull is pull NAME OLD NEW: the images of bundle OLD, and then those of NEW, are
// pulled from a registry; the row is about the second pull.
func pull(ts *testscript.TestScript, neg bool, args []string) {
	var requests int
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		handler.ServeHTTP(w, r)
	}))
	defer srv.Close()
	address := theLink.to(test(ts), strings.TrimPrefix(srv.URL, "http://"))
	send := func(method, path, contentType string, b []byte) {
		req, err := http.NewRequest(method, srv.URL+path, bytes.NewReader(b))
		ts.Check(err)
		req.Header.Set("Content-Type", contentType)
		res, err := http.DefaultClient.Do(req)
		ts.Check(err)
		defer res.Body.Close()
		if res.StatusCode >= 300 {
			text, _ := io.ReadAll(res.Body)
			ts.Fatalf("%s %s: %s %s", method, path, res.Status, text)
		}
	}
	var layers int64
	had := map[bundle.Digest]bool{}
	for i, file := range args[1:] {
		f, err := os.Open(ts.MkAbs(file))
		ts.Check(err)
		info, err := f.Stat()
		ts.Check(err)
		r, err := bundle.Open(f, info.Size())
		ts.Check(err)
		ts.Check(r.Locate())
		read := func(d bundle.Digest) []byte {
			rc, err := r.OpenBlob(d)
			ts.Check(err)
			b, err := io.ReadAll(rc)
			ts.Check(err)
			return b
		}
		img := r.Manifest().Components[0].Images[0]
		blobs := []bundle.Digest{img.Config.Digest}
		for _, l := range img.Layers {
			blobs = append(blobs, l.Digest)
			if i == 1 && !had[l.Digest] {
				layers += l.Size
			}
			had[l.Digest] = true
		}
		for _, d := range blobs {
			send("POST", "/v2/tiny/blobs/uploads/?digest="+string(d), "application/octet-stream", read(d))
		}
		send("PUT", fmt.Sprintf("/v2/tiny/manifests/%d", i), "application/vnd.oci.image.manifest.v1+json", read(img.Manifest.Digest))
		f.Close()
	}
	var sent int64
	var took time.Duration
	for i := range args[1:] {
		requests, sent = 0, passed()
		start := time.Now()
		ts.Check(ts.Exec("docker", "pull", "-q", fmt.Sprintf("%s/tiny:%d", address, i)))
		took, sent = time.Since(start), passed()-sent
	}
	print(ts, args[0], layers, sent, requests, took)
	ts.Check(ts.Exec("docker", "rmi", fmt.Sprintf("%s/tiny:0", address), fmt.Sprintf("%s/tiny:1", address)))
}
