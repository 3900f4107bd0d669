package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"testing"

	"github.com/valise-ota/valise/bundle/bundletest"
)

// buildShop builds, packs and signs the releases of examples/shop that the
// scripts use, with the program a developer uses, below dir:
//
//	shop-1.0.0.tar.gz
//	shop-1.1.0.tar.gz
//	shop-1.2.0.tar.gz   never gets healthy
//	shop-1.3.0.tar.gz   saves its database as a user that does not exist
//	shop-1.4.0.tar.gz   alters its table so that no other release can use it, and never gets healthy
//	shop-1.5.0.tar.gz   deletes the rows, and cannot give them back either
//	cosign.pub
//
// examples/shop/build.sh builds for every platform and into the repository;
// this is enough of it for one device.
func buildShop(t *testing.T, dir string) {
	t.Helper()
	const shop = "../../examples/shop"
	platform := "linux-" + runtime.GOARCH
	tools := t.TempDir()
	command := func(in string, name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = in
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "HOME="+tools, "XDG_CACHE_HOME="+filepath.Join(tools, "cache"), "COSIGN_PASSWORD=test",
			"GOCACHE="+goEnv(t, "GOCACHE"), "GOPATH="+goEnv(t, "GOPATH"), "SOURCE_DATE_EPOCH=1700000000")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	build := func(out, version, broken, pkg string) {
		t.Helper()
		command(shop, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= -X main.version="+version+" -X main.broken="+broken, "-o", out, pkg)
	}
	valise := valiseProgram(t)
	command(dir, valise, "keygen")

	work := filepath.Join(t.TempDir(), "shop")
	if err := os.CopyFS(work, os.DirFS(shop)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(work, "build")); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(work, "build", platform)
	installer := filepath.Join(work, "build/installer", platform)
	for _, d := range []string{bin, installer} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(os.Getenv("VALISE_TEST_IMAGES"), filepath.Join(work, "build/images")); err != nil {
		t.Fatal(err)
	}
	// What a release carries for technicians is not what is tested here.
	if err := os.WriteFile(filepath.Join(installer, "valise-installer"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	build(filepath.Join(bin, "frontend"), "", "", "./frontend")
	edit(t, filepath.Join(work, "valise.yaml"), `retries: \d+, interval: 1s`, "retries: 1000, interval: 250ms")
	few := fmt.Sprintf("retries: %d", bundletest.Slower(8)) // it is given up soon, but not before it answers
	for _, version := range []string{"1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0"} {
		broken := ""
		switch version {
		case "1.2.0":
			broken = "yes"
			edit(t, filepath.Join(work, "valise.yaml"), `retries: \d+`, few)
		case "1.3.0":
			edit(t, filepath.Join(work, "valise.yaml"), `retries: \d+`, "retries: 1000")
			edit(t, filepath.Join(work, "valise.yaml"), `user: shop, database`, "user: nobody, database")
		case "1.4.0":
			broken = "yes"
			edit(t, filepath.Join(work, "valise.yaml"), `retries: \d+`, few)
			edit(t, filepath.Join(work, "valise.yaml"), `user: nobody, database`, "user: shop, database")
			edit(t, filepath.Join(work, "valise.yaml"), `backup:`, "migration: irreversible\nhooks: {migrate: {service: db, run: [sh, -c, '"+
				`PGPASSWORD=$$POSTGRES_PASSWORD psql -h db -U shop -d shop -v ON_ERROR_STOP=1 -c "DELETE FROM items WHERE id > 1; ALTER TABLE items DROP COLUMN name"`+
				"']}}\nbackup:")
		case "1.5.0":
			edit(t, filepath.Join(work, "valise.yaml"), `retries: \d+`, "retries: 1000")
			edit(t, filepath.Join(work, "valise.yaml"), `WHERE id > 1; ALTER TABLE items DROP COLUMN name`, "")
		}
		build(filepath.Join(bin, "backend"), version, broken, "./backend")
		file := filepath.Join(dir, "shop-"+version+".tar.gz")
		command(work, valise, "build", version, "--platform", "linux/"+runtime.GOARCH, "-o", file)
		command(dir, valise, "sign", file, "--key", "cosign.key")
	}
}

// valiseProgram is the program a developer uses, linked once for all tests.
func valiseProgram(t *testing.T) string {
	t.Helper()
	file, err := linkValise()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var linked string // the directory of the program

var linkValise = sync.OnceValues(func() (string, error) {
	var err error
	if linked, err = os.MkdirTemp("", "valise-program-"); err != nil {
		return "", err
	}
	file := filepath.Join(linked, "valise")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", file, "../valise").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build valise: %w\n%s", err, out)
	}
	return file, nil
})

func goEnv(t *testing.T, key string) string {
	t.Helper()
	out, err := exec.Command("go", "env", key).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out[:len(out)-1])
}

func edit(t *testing.T, file, pattern, text string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := regexp.MustCompile(pattern).ReplaceAll(b, []byte(text))
	if string(changed) == string(b) {
		t.Fatalf("%s: no %s", file, pattern)
	}
	if err := os.WriteFile(file, changed, 0o644); err != nil {
		t.Fatal(err)
	}
}
