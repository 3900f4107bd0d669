//go:build e2e_page

package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// load is load FILE...: 200 people watch and load the page while the files are
// uploaded at once. It prints how long it took and the memory of both processes.
func load(ts *testscript.TestScript, neg bool, args []string) {
	const viewers = 200
	base := "http://127.0.0.1:" + ts.Getenv("PAGE")
	token, err := os.ReadFile(ts.MkAbs("all.token"))
	ts.Check(err)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: viewers}}
	get := func(path string) (*http.Response, error) {
		req, err := http.NewRequest("GET", base+path, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+string(token))
		return client.Do(req)
	}
	var mu sync.Mutex
	var took []time.Duration
	var failures []string
	var events int
	fail := func(format string, args ...any) {
		mu.Lock()
		failures = append(failures, fmt.Sprintf(format, args...))
		mu.Unlock()
	}
	stop := make(chan struct{})
	var watching, looking sync.WaitGroup
	for range viewers {
		res, err := get("/api/v1/ota/events")
		ts.Check(err)
		if res.StatusCode != http.StatusOK {
			ts.Fatalf("events: %s", res.Status)
		}
		watching.Go(func() {
			b := make([]byte, 4096)
			for {
				n, err := res.Body.Read(b)
				mu.Lock()
				events += strings.Count(string(b[:n]), "event: now")
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
		go func() { <-stop; res.Body.Close() }()
		looking.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(500+len(token)) * time.Millisecond):
				}
				start := time.Now()
				res, err := get("/ui/history")
				if err != nil {
					fail("%v", err)
					continue
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != http.StatusOK {
					fail("history: %s", res.Status)
				}
				mu.Lock()
				took = append(took, time.Since(start))
				mu.Unlock()
			}
		})
	}
	start, bytes := time.Now(), 0
	var uploads sync.WaitGroup
	for _, name := range args {
		b := []byte(ts.ReadFile(name))
		bytes += len(b)
		uploads.Go(func() {
			form := slices.Concat([]byte("--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.tar.gz\"\r\n\r\n"), b, []byte("\r\n--x--\r\n"))
			req, _ := http.NewRequest("POST", base+"/api/v1/ota/upload", strings.NewReader(string(form)))
			req.Header.Set("Authorization", "Bearer "+string(token))
			req.Header.Set("Content-Type", "multipart/form-data; boundary=x")
			res, err := client.Do(req)
			if err != nil {
				fail("%v", err)
				return
			}
			defer res.Body.Close()
			if text, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusCreated {
				fail("upload of %s: %s %s", name, res.Status, text)
			}
		})
	}
	uploads.Wait()
	whole := time.Since(start)
	close(stop)
	looking.Wait()
	watching.Wait()
	slices.Sort(took)
	if len(failures) > 0 || len(took) < viewers || events < viewers*len(args) {
		ts.Fatalf("%d looks, %d events; %d failures: %.500s", len(took), events, len(failures), strings.Join(failures, "; "))
	}
	fmt.Fprintf(os.Stderr, "load: %d viewers, %d uploads of %d bytes together in %s; %d pages, median %s, 99%% %s; %d events\n",
		viewers, len(args), bytes, whole.Round(time.Millisecond), len(took), took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), events)
	for _, process := range []string{"serve", "page"} {
		most, file := memory(ts.Getenv("DEVICE"), process)
		fmt.Fprintf(os.Stderr, "load: most memory of %s: %d kB, of which the program itself %d kB\n", process, most, file)
		if most == 0 || most > 64<<10 {
			ts.Fatalf("%s had %d kB, want at most 64 MiB", process, most)
		}
	}
}

// processes are those of the device that run a command, such as page.
func processes(device, command string) (pids []int) {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range found {
		line, _ := os.ReadFile(name)
		if strings.Contains(string(line), "--root\x00"+device+"\x00"+command+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// memory is the most memory that a process of the device ever had, in kB, and
// how much of what it has now is pages of the program's file.
func memory(device, command string) (most, file int) {
	for _, pid := range processes(device, command) {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for l := range strings.Lines(string(text)) {
			_, _ = fmt.Sscanf(l, "VmHWM: %d kB", &most)
			_, _ = fmt.Sscanf(l, "RssFile: %d kB", &file)
		}
	}
	return most, file
}
