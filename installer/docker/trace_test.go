package docker

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/bundle/trace/tracetest"
)

// TestTrace: a load is a span with its bytes, and in it stands the call of the engine;
// docker compose is one with its command, and without what it was given.
func TestTrace(t *testing.T) {
	b := blobs{}
	images := tagged("shop", b.image(t, "linux/amd64", v1.Config{}, layer(t)))
	e := takes("").start(t)
	var out bytes.Buffer
	ctx, root := trace.New(t.Context(), &out, time.Now, "update", func(err error) { t.Error(err) })
	sent := int64(0)
	if err := e.Load(ctx, images, nil, b.open, func(done, _ int64) { sent = done }); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "compose")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := &Compose{Program: Program{Command: []string{program}}, Env: Env{Path: os.Getenv("PATH")}, Engine: e, Project: "shop", Dir: t.TempDir()}
	if err := c.Up(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	if err := run(ctx, c.Env, c.Dir, c.words(), []string{"run", "--env", "PASSWORD=secret"}, nil, io.Discard, io.Discard); err != nil {
		t.Fatal(err)
	}
	root.End(nil)
	load := fmt.Sprintf("update > load step %d", sent)
	call := "update > load > POST /v1.41/images/load engine"
	tracetest.Want(t, tracetest.Spans(t, out.Bytes()), "update step", load, call, "update > docker compose up child", "update > docker compose run child")
	if bytes.Contains(out.Bytes(), []byte("secret")) || sent == 0 {
		t.Errorf("%d bytes were sent: %s", sent, out.String())
	}
}
