package hook

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func script(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRun(t *testing.T) {
	t.Setenv("SECRET", "of whoever called us")
	dir := t.TempDir()
	var out bytes.Buffer
	err := Run(t.Context(), script(t, `echo "$1 $A $SECRET $(pwd)"; echo bad >&2; exit 3`), []string{"one"}, dir, []string{"A=b", "PATH=" + os.Getenv("PATH")}, time.Minute, &out)
	if err == nil || err.Error() != "exit status 3" || out.String() != "one b  "+dir+"\nbad\n" {
		t.Errorf("%v, %q", err, &out)
	}
	out.Reset()
	if err := Run(t.Context(), script(t, `echo "$SECRET"`), nil, dir, nil, time.Minute, &out); err != nil || out.String() != "\n" {
		t.Errorf("%v, %q", err, &out)
	}
}

// What it started ends with it, and does not hold us by its pipes.
func TestTimeout(t *testing.T) {
	dir := t.TempDir()
	begin := time.Now()
	err := Run(t.Context(), script(t, "(sleep 100; touch "+dir+"/late) & sleep 100"), nil, dir, nil, 200*time.Millisecond, new(bytes.Buffer))
	if err == nil || err.Error() != "not done after 200ms: killed" || time.Since(begin) > 50*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("asked to end")
	time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
	if err := Run(ctx, script(t, "sleep 100"), nil, dir, nil, time.Minute, new(bytes.Buffer)); !errors.Is(err, cause) {
		t.Errorf("%v, want %v", err, cause)
	}
}

// A child that it leaves behind runs on, and is no failure.
func TestChildStays(t *testing.T) {
	dir := t.TempDir()
	var out bytes.Buffer
	if err := Run(t.Context(), script(t, "sleep 300 & echo $! >"+dir+"/pid; echo started"), nil, dir, nil, time.Minute, &out); err != nil || out.String() != "started\n" {
		t.Errorf("%v, %q", err, &out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
		t.Errorf("the child %q does not run: %v", b, err)
	}
}

func TestTail(t *testing.T) {
	tail := &Tail{Limit: 4}
	for range 100 {
		tail.Write([]byte("abc"))
	}
	if got := string(tail.Bytes()); got != "cabc" || cap(tail.b) > 64 {
		t.Errorf("%q in %d bytes", got, cap(tail.b))
	}
	short := &Tail{Limit: 4}
	short.Write([]byte("ab"))
	if got := string(short.Bytes()); got != "ab" {
		t.Errorf("%q", got)
	}
}
