//go:build remote

package fleettest

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// TestRemoteSwupdate: the double is honest. Debian's swupdate, which others wrote for hawkBit,
// polls it, downloads and installs an image, and closes its action with a success; with a
// wrong digest in the answer it does not.
func TestRemoteSwupdate(t *testing.T) {
	for _, tool := range []string{"swupdate", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: apt-get install --no-install-recommends %[1]s", tool)
		}
	}
	dir := t.TempDir()
	image := makeImage(t, dir)
	for name, tc := range map[string]struct {
		wrong bool
		state string
	}{"good": {false, "finished"}, "wrong digest": {true, "error"}} {
		t.Run(name, func(t *testing.T) {
			work := t.TempDir()
			s := &Server{Lenient: true, Sleep: "00:00:05", Token: "secret"}
			var downloads atomic.Int32
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/files/image.swu" {
					s.ServeHTTP(w, r)
					return
				}
				if r.Method == http.MethodGet {
					downloads.Add(1)
				}
				http.ServeContent(w, r, "image.swu", time.Time{}, bytes.NewReader(image))
			}))
			defer web.Close()
			sum := sha1.Sum(image)
			if tc.wrong {
				sum[0]++
			}
			s.Artifact = func(*Action) []map[string]any {
				return []map[string]any{{
					"filename": "image.swu", "size": len(image), "hashes": map[string]any{"sha1": hex.EncodeToString(sum[:])},
					"_links": map[string]any{"download": map[string]any{"href": web.URL + "/files/image.swu"}, "download-http": map[string]any{"href": web.URL + "/files/image.swu"}},
				}}
			}
			id := s.Assign(Action{Target: "d1", Module: "shop", Version: "1.1.0", Part: "os"})
			var out bytes.Buffer
			// It is started twice: the second time it reports that what it installed runs.
			for _, confirm := range []string{"", " -c 2"} {
				ctx, stop := context.WithCancel(t.Context())
				c := exec.CommandContext(ctx, "swupdate", "-v", "-H", "test:1.0", "-k", filepath.Join(dir, "cert.pem"), "-u", fmt.Sprintf("-t DEFAULT -u %s -i d1 -p 1 -r 1 -w 1 -k secret%s", web.URL, confirm))
				c.Dir = work
				c.Env = append(os.Environ(), "TMPDIR="+work)
				log, err := os.Create(filepath.Join(work, "log"))
				if err != nil {
					t.Fatal(err)
				}
				c.Stdout, c.Stderr = log, log
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				said := func() bool {
					b, _ := os.ReadFile(log.Name())
					return confirm == "" && strings.Contains(string(b), "Update successful, executing post-update actions")
				}
				for end := time.Now().Add(bundletest.Patience()); s.Action(id).Active() && !said() && time.Now().Before(end); {
					time.Sleep(100 * time.Millisecond)
				}
				stop()
				_ = c.Wait() // it was ended
				log.Close()
				b, _ := os.ReadFile(log.Name())
				out.Write(b)
			}
			a := s.Action(id)
			installed, err := os.ReadFile(filepath.Join(dir, "installed"))
			if a.State != tc.state || downloads.Load() == 0 || err != nil || s.Target("d1").Polls == 0 || len(s.Problems()) > 0 {
				t.Errorf("action: %+v\n%d downloads, installed %q, %v\nproblems: %q\n%s", a, downloads.Load(), installed, err, s.Problems(), out.String())
			}
			_ = os.Remove(filepath.Join(dir, "installed"))
			t.Logf("%d polls, %q", s.Target("d1").Polls, a.Messages)
		})
	}
}

// makeImage is an image of swupdate's, signed with a key of the test, that installs one file.
func makeImage(t *testing.T, dir string) []byte {
	t.Helper()
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %q: %v: %s", args, err, out)
		}
	}
	key, cert := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-subj", "/CN=test", "-addext", "extendedKeyUsage=emailProtection", "-addext", "keyUsage=digitalSignature")
	content := []byte("installed by swupdate\n")
	sum := sha256Hex(content)
	description := fmt.Sprintf("software = {\n version = \"1.1.0\";\n hardware-compatibility = [\"1.0\"];\n files: ({ filename = \"file\"; path = %q; sha256 = %q; });\n}\n", filepath.Join(dir, "installed"), sum)
	text, sig := filepath.Join(dir, "sw-description"), filepath.Join(dir, "sw-description.sig")
	if err := os.WriteFile(text, []byte(description), 0o600); err != nil {
		t.Fatal(err)
	}
	run("cms", "-sign", "-in", text, "-out", sig, "-signer", cert, "-inkey", key, "-outform", "DER", "-nosmimecap", "-binary")
	signature, err := os.ReadFile(sig)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for i, f := range []struct {
		name string
		body []byte
	}{{"sw-description", []byte(description)}, {"sw-description.sig", signature}, {"file", content}, {"TRAILER!!!", nil}} {
		cpio(&b, i+1, f.name, f.body)
	}
	return b.Bytes()
}

// cpio writes a member of an archive of the kind that has sums.
func cpio(b *bytes.Buffer, inode int, name string, body []byte) {
	sum := uint32(0)
	for _, c := range body {
		sum += uint32(c)
	}
	fmt.Fprintf(b, "070702%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", inode, 0o100644, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name)+1, sum)
	for _, part := range []string{name + "\x00", string(body)} {
		b.WriteString(part)
		b.WriteString(strings.Repeat("\x00", (4-b.Len()%4)%4))
	}
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
