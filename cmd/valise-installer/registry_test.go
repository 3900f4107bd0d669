package main

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/push"
	"github.com/valise-ota/valise/bundle/rollout"
)

// startRegistry is registry NAME: one in memory, at $NAME. registry NAME stop stops it.
func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	st := ts.Value(testKey{}).(*state)
	if len(args) > 1 {
		st.registries[args[0]].Close()
		return
	}
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	if st.registries == nil {
		st.registries = map[string]*httptest.Server{}
	}
	st.registries[args[0]] = s
	st.Cleanup(s.Close)
	ts.Setenv(args[0], strings.TrimPrefix(s.URL, "http://"))
}

// pushBundle is push FILE HOST/REPOSITORY, what valise push does. It sets $PULL to what
// docker pull takes for the first image.
func pushBundle(ts *testscript.TestScript, neg bool, args []string) {
	r, f, err := parts.OpenBundle(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	ts.Check(r.Check(context.Background(), nil))
	to, err := name.NewRepository(args[1])
	ts.Check(err)
	result, err := push.Push(context.Background(), push.Request{Bundle: r, Repository: to})
	ts.Check(err)
	ts.Logf("%s: %d bytes sent", result.Reference, result.Sent)
	ts.Setenv("PULL", result.Images[0].Reference)
	sent = result.Sent
}

// sent is what the last push sent.
var sent int64

// makeRollout is rollout DIR SEQUENCE [VERSION=PERCENT...]: signed by maker, whose key is
// written as maker.pub.
func makeRollout(ts *testscript.TestScript, neg bool, args []string) {
	sequence, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	f := &rollout.File{Format: rollout.Format, App: ts.Getenv("APP"), Sequence: sequence, Releases: []rollout.Release{}}
	for _, arg := range args[2:] {
		version, percent, _ := strings.Cut(arg, "=")
		n, err := rollout.ParsePercent(percent)
		if rollout.Set(f, rollout.Release{Version: version, Percent: n}); percent == "halted" {
			rollout.Halt(f, version)
		} else {
			ts.Check(err)
		}
	}
	text, err := f.Encode()
	ts.Check(err)
	file := filepath.Join(ts.MkAbs(args[0]), rollout.FileName(f.App, sequence))
	ts.Check(os.WriteFile(file+rollout.SignatureSuffix, signer(test(ts), "maker").Sign(test(ts), text), 0o600))
	ts.Check(os.WriteFile(file, text, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("maker.pub"), []byte(signer(test(ts), "maker").PublicPEM()), 0o644))
}
