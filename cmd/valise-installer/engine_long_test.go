//go:build long

package main

import (
	"os"
	"path/filepath"
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

// TestSourceLong is what networks and windows of time do to updates.
func TestSourceLong(t *testing.T) {
	t.Parallel()
	testscript.Run(t, params("testdata/source-long", realEngine(t)))
}
