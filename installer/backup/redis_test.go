//go:build long

package backup_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer/backup"
)

// TestRedis saves and restores a real server, one that writes an append-only file
// and has a password in a file, and one that has neither.
func TestRedis(t *testing.T) {
	images, layer := os.Getenv("VALISE_TEST_IMAGES"), os.Getenv("VALISE_TEST_MARIADB")
	if images == "" || layer == "" {
		need(t, "the sample images and Redis (VALISE_TEST_IMAGES, VALISE_TEST_MARIADB, printed by scripts/sample-images.sh and scripts/mariadb-image.sh)")
	}
	for name, tt := range map[string]struct{ args, password string }{
		"plain":       {"", ""},
		"append-only": {"--appendonly yes", `a "secret" \ word`},
	} {
		t.Run(name, func(t *testing.T) {
			e := testEngine(t)
			image := layoutImage(t, e, filepath.Join(images, "base"))
			layers, err := layoutImage(t, e, layer).Layers()
			if err != nil {
				t.Fatal(err)
			}
			if image, err = mutate.AppendLayers(image, layers...); err != nil {
				t.Fatal(err)
			}
			service := map[string]any{"command": []string{"sh", "-c", "mkdir -p /tmp && printf %s \"$$PASSWORD\" >/tmp/password && exec redis-server --dir /data --requirepass \"$$PASSWORD\" " + tt.args},
				"environment": map[string]string{"PASSWORD": tt.password, "REDIS_PASSWORD_FILE": "/tmp/password"}}
			c := testProject(t, e, image, "/data", service)
			ask := func(words ...string) string {
				t.Helper()
				var out bytes.Buffer
				argv := append([]string{"sh", "-c", `export REDISCLI_AUTH="$PASSWORD"; exec redis-cli --no-auth-warning "$@"`, "sh"}, words...)
				if err := c.Exec(t.Context(), "db", argv, nil, &out); err != nil {
					t.Fatal(err)
				}
				return strings.TrimSpace(out.String())
			}
			wait := func() {
				t.Helper()
				for deadline := time.Now().Add(bundletest.Patience()); ; time.Sleep(50 * time.Millisecond) {
					var out bytes.Buffer
					c.Exec(t.Context(), "db", []string{"sh", "-c", `REDISCLI_AUTH="$PASSWORD" redis-cli --no-auth-warning PING`}, nil, &out)
					if strings.Contains(out.String(), "PONG") {
						break
					} else if time.Now().After(deadline) {
						t.Fatal(out.String())
					}
				}
			}
			wait()
			ask("EVAL", "for i=1,20000 do redis.call('SET', 'k'..i, i) end redis.call('HSET', 'h', 'a', 'b') redis.call('ZADD', 'z', 1, 'x') redis.call('SET', 'ttl', 1, 'EX', 100000)", "0")
			state := func() string {
				return ask("DBSIZE") + ask("GET", "k777") + ask("HGETALL", "h") + ask("ZRANGE", "z", "0", "-1")
			}
			before := state()
			dir, err := os.OpenRoot(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			dump := func(x backup.Execer, record string) (backup.Set, error) {
				list := []bundle.Backup{{Redis: &bundle.Redis{Service: "db"}}}
				return backup.Save(t.Context(), backup.Deps{Execer: x}, dir, backup.Set{Record: record, Version: "1.0.0"}, list, nil)
			}
			set, err := dump(c, "a")
			if err != nil {
				t.Fatal(err)
			}
			for _, limit := range []int64{3, 1000, 100_000} {
				if _, err := dump(truncated{c, "sh", limit}, "b"); err == nil || !strings.Contains(err.Error(), "without its end") && !strings.Contains(err.Error(), "begins with") {
					t.Errorf("snapshot cut after %d bytes: %v", limit, err)
				}
			}
			for range 2 {
				ask("EVAL", "for i=1,10000 do redis.call('DEL', 'k'..i) redis.call('SET', 'new'..i, i) end redis.call('DEL', 'h')", "0")
				if err := backup.Restore(t.Context(), backup.Deps{Execer: c}, dir, set); err != nil {
					t.Fatal(err)
				}
				if after := state(); after != before {
					t.Errorf("after Restore: %s, want %s", after, before)
				}
			}
			if role := ask("ROLE"); !strings.HasPrefix(role, "master") {
				t.Errorf("it is still a replica: %s", role)
			}
			if ttl := ask("TTL", "ttl"); len(ttl) < 5 {
				t.Errorf("a key lost its time: %s", ttl)
			}
			// What came back is what a restart finds.
			if err := c.Stop(t.Context(), "db"); err != nil {
				t.Fatal(err)
			}
			if err := c.Up(t.Context(), "db"); err != nil {
				t.Fatal(err)
			}
			wait()
			if after := state(); after != before {
				t.Errorf("after a restart: %s, want %s", after, before)
			}
		})
	}
}
