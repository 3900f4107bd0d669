package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// awaits is awaits socket, awaits page, or awaits file|gone NAME below the drop folder: waits
// until the daemon answers, or has put the file there or removed it.
func awaits(ts *testscript.TestScript, neg bool, args []string) {
	device := ts.Getenv("DEVICE")
	arrived := func() bool {
		if args[0] == "socket" {
			c, err := net.Dial("unix", filepath.Join(device, "run/valise/daemon.sock"))
			if err == nil {
				c.Close()
			}
			return err == nil
		}
		if args[0] == "page" {
			res, err := httpClient.Get("http://127.0.0.1:" + ts.Getenv("PAGE") + "/healthz")
			if err == nil {
				res.Body.Close()
			}
			return err == nil
		}
		_, err := os.Stat(filepath.Join(device, "opt", ts.Getenv("APP"), "updates", args[1]))
		return (err == nil) == (args[0] == "file")
	}
	for end := time.Now().Add(bundletest.Patience()); !arrived(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("waited in vain for %v", args)
		}
	}
}

// grows is grows FROM TO: copies in three pieces, with more time between them
// than a daemon with --scan $SCAN waits for a file that is still, and less than
// it takes one for a whole.
func grows(ts *testscript.TestScript, neg bool, args []string) {
	b := []byte(ts.ReadFile(args[0]))
	f, err := os.Create(ts.MkAbs(args[1]))
	ts.Check(err)
	defer f.Close()
	scan, err := time.ParseDuration(ts.Getenv("SCAN"))
	ts.Check(err)
	for i := range 3 {
		_, err := f.Write(b[i*len(b)/3 : (i+1)*len(b)/3])
		ts.Check(err)
		time.Sleep(scan * 9 / 5)
	}
}

// makeToken is token NAME SCOPES: a token of the page, in NAME.token.
func makeToken(ts *testscript.TestScript, neg bool, args []string) {
	ok(ts, neg, []string{"page", "token", args[0], "--scope", args[1]})
	_, token, _ := strings.Cut(strings.TrimSpace(ts.ReadFile("stdout")), ": ")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".token"), []byte(token), 0o600))
}
