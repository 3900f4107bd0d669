//go:build long

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestEngineLong is what takes minutes, such as a kill at each step of an update.
func TestEngineLong(t *testing.T) {
	t.Parallel()
	p := params("testdata/engine-long", realEngine(t))
	if os.Getenv("VALISE_TEST_IMAGES") == "" || os.Getenv("VALISE_TEST_MARIADB") == "" {
		need(t, "the sample images and MariaDB (VALISE_TEST_IMAGES, VALISE_TEST_MARIADB)")
	}
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		e.Setenv("MARIADB", os.Getenv("VALISE_TEST_MARIADB")+","+filepath.Join(os.Getenv("VALISE_TEST_IMAGES"), "base"))
		return setup(e)
	}
	testscript.Run(t, p)
}

// TestSourceLong is what networks, windows of time and a fleet server do to updates.
func TestSourceLong(t *testing.T) {
	t.Parallel()
	p := params("testdata/source-long", realEngine(t))
	p.Cmds["hawkbit"] = hawkbit
	testscript.Run(t, p)
}

// TestComposeVersions: what an app goes through, with real versions of docker compose from
// the oldest that is accepted on (scripts/compose-plugin.sh).
func TestComposeVersions(t *testing.T) {
	t.Parallel()
	host := realEngine(t)
	plugins := strings.Fields(os.Getenv("VALISE_TEST_COMPOSE_VERSIONS"))
	if len(plugins) == 0 {
		need(t, "older versions of docker compose (VALISE_TEST_COMPOSE_VERSIONS, printed by scripts/compose-plugin.sh)")
	}
	for _, plugin := range plugins {
		version := filepath.Base(filepath.Dir(plugin))
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			config := t.TempDir()
			if err := os.Mkdir(filepath.Join(config, "cli-plugins"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(plugin, filepath.Join(config, "cli-plugins/docker-compose")); err != nil {
				t.Fatal(err)
			}
			asked := exec.Command("docker", "compose", "version", "--short")
			asked.Env = append(os.Environ(), "DOCKER_CONFIG="+config)
			if out, err := asked.CombinedOutput(); err != nil || strings.TrimPrefix(strings.TrimSpace(string(out)), "v") != version[1:] {
				t.Fatalf("docker takes compose %q: %v", out, err)
			}
			p := params("", host)
			p.Files = []string{"testdata/engine/update.txtar"}
			setup := p.Setup
			p.Setup = func(e *testscript.Env) error {
				err := setup(e)
				e.Setenv("DOCKER_CONFIG", config)
				return err
			}
			testscript.Run(t, p)
		})
	}
}
