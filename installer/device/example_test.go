package device_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/installertest"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

// A device in a temporary directory takes two releases of an app. Its runtime is a
// double: nothing needs root, Docker or systemd.
func Example() {
	dir, trusted := releases("1.0.0", "1.1.0")
	defer os.RemoveAll(dir)
	world, quiet := installertest.NewWorld(), func(string, ...any) {}
	m := &device.Machine{
		Root: filepath.Join(dir, "root"), Getenv: func(string) string { return "" }, Now: time.Now, Note: quiet,
		Step: func(string, string) {}, Report: func(installer.Event) {}, Secret: func(string, string, string) {},
		Runtime: func(string) installer.Runtime { return world },
	}
	update := func(file string, o device.Options) error {
		c, err := m.Verify(context.Background(), filepath.Join(dir, file), o)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := m.Plan(context.Background(), c, o); err != nil {
			return err
		}
		res, err := m.Apply(context.Background(), c, o)
		return errors.Join(err, res.Err)
	}
	trust := device.Trust{Policy: func() (verify.Policy, error) { return trusted, nil }}
	fmt.Println(update("1.0.0.tar.gz", device.Options{First: true, Trust: trust}), world.Running)
	fmt.Println(update("1.1.0.tar.gz", device.Options{}), world.Running)
	// Output:
	// <nil> 1.0.0
	// <nil> 1.1.0
}

// releases writes bundles of an app into a directory, and says who signed them.
func releases(versions ...string) (dir string, trusted verify.Policy) {
	dir, err := os.MkdirTemp("", "device")
	t := noTest{dir: dir}
	signer := verifytest.NewSigner(t)
	for _, v := range versions {
		m, c := bundletest.Release(t, bundletest.Spec{Version: v})
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, v+".tar.gz"), signer.Bundle(t, m, c), 0o600))
	}
	if err != nil {
		panic(err)
	}
	return dir, signer.Policy()
}

// noTest lets helpers of tests make what an example needs.
type noTest struct {
	testing.TB
	dir string
}

func (noTest) Helper()           {}
func (noTest) Fatal(args ...any) { panic(fmt.Sprint(args...)) }
func (t noTest) TempDir() string { return t.dir }
