package main

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/receipt"
)

// TestReceipts reads a stick that two devices wrote to, then one that lost a file.
func TestReceipts(t *testing.T) {
	stick := t.TempDir()
	for _, device := range []string{"pump-7", "pump-8"} {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		var before []byte
		for i, status := range []string{"completed", "rolled_back", "completed"} {
			before, err = receipt.Seal(t.Context(), key, before, receipt.Receipt{
				Device: device, App: "shop", Action: "update", From: "1.0.0", To: "1.1.0", Status: status, Reason: "because\nof it", Begun: time.Unix(1767225600, 0)})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(stick, "valise", device, "shop", fmt.Sprintf("%06d.json", i+1))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, before, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	receipts := func(dir string) (int, string, string) {
		var stdout, stderr strings.Builder
		code := run(t.Context(), cli.Env{Args: []string{"receipts", dir}, Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" }, Now: time.Now})
		return code, stdout.String(), stderr.String()
	}
	for _, dir := range []string{stick, filepath.Join(stick, "valise")} {
		code, out, stderr := receipts(dir)
		if code != 0 || !strings.Contains(out, "pump-7: app shop, 3 receipts, complete from 1 to 3, key ") ||
			!strings.Contains(out, "  2  2026-01-01 00:00:00Z  update  1.0.0  1.1.0  rolled_back  because; of it\n") {
			t.Errorf("exit code %d, %s%s", code, out, stderr)
		}
	}
	if err := os.Remove(filepath.Join(stick, "valise/pump-8/shop/000002.json")); err != nil {
		t.Fatal(err)
	}
	if code, out, stderr := receipts(stick); code != cli.ExitRefused || out != "" || stderr != "valise: valise/pump-8/shop: read receipts of pump-8: number 2 is missing\n" {
		t.Errorf("exit code %d, %s%s", code, out, stderr)
	}
	if code, _, stderr := receipts(t.TempDir()); code != cli.ExitFailed || !strings.Contains(stderr, "holds none") {
		t.Errorf("exit code %d, %s", code, stderr)
	}

	// A stick may hold anything under the name of a receipt.
	pipe := filepath.Join(stick, "valise/pump-8/shop/000002.json")
	if err := exec.Command("mkfifo", pipe).Run(); err != nil {
		t.Fatal(err)
	}
	done := make(chan string, 1)
	go func() {
		_, _, stderr := receipts(stick)
		done <- stderr
	}()
	select {
	case stderr := <-done:
		if stderr != "valise: read receipts: valise/pump-8/shop/000002.json is not a file\n" {
			t.Errorf("a pipe: %s", stderr)
		}
	case <-time.After(bundletest.Patience()):
		t.Error("it waits for a writer of the pipe")
	}
}
