// Command githubd runs the double of GitHub that the tests of publishing use, for
// programs that are not Go: REST API, uploads, downloads, on a loopback address.
// It prints one line of JSON and ends with its standard input. The documentation of
// package publishtest says what could not be compared with GitHub.
//
//	githubd -dir DIR -repository acme/shop -tag v1.0.0=COMMIT
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/valise-ota/valise/bundle/publish/publishtest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "githubd:", err)
		os.Exit(1)
	}
}

func run() error {
	s := &publishtest.Server{}
	flag.StringVar(&s.Repository, "repository", "acme/shop", "OWNER/NAME")
	flag.StringVar(&s.Dir, "dir", "", "directory for files")
	flag.BoolVar(&s.Immutable, "immutable", false, "published releases cannot be changed")
	address := flag.String("listen", "127.0.0.1:0", "address")
	flag.Func("tag", "NAME=COMMIT, repeatable", func(v string) error {
		name, commit, ok := strings.Cut(v, "=")
		if !ok {
			return fmt.Errorf("%q, want NAME=COMMIT", v)
		}
		s.Tag(name, commit)
		return nil
	})
	flag.Parse()
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	url := "http://" + listener.Addr().String()
	if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"url": url, "pid": os.Getpid(), "write": publishtest.Write, "read": publishtest.Read}); err != nil {
		return err
	}
	go http.Serve(listener, s)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}
