package main

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/push"
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
