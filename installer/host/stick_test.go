package host

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A link on a stick leads nowhere, whoever opens it and whatever it was a moment
// before.
func TestStickLinks(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("missing: root")
		}
		t.Skip("missing: root")
	}
	command := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	dir := t.TempDir()
	files, image, outside := filepath.Join(dir, "files"), filepath.Join(dir, "image"), filepath.Join(dir, "outside")
	for _, err := range []error{
		os.Mkdir(files, 0o755), os.WriteFile(outside, []byte("of the host"), 0o600), os.WriteFile(filepath.Join(files, "file"), nil, 0o600),
		os.Symlink(outside, filepath.Join(files, "out")), os.Symlink("file", filepath.Join(files, "in")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	command("truncate", "-s", "16M", image)
	command("mkfs.ext4", "-q", "-F", "-d", files, image)
	device := command("losetup", "--show", "-f", image)
	t.Cleanup(func() { command("losetup", "-d", device) })
	for _, write := range []bool{false, true} {
		mounted := filepath.Join(dir, "mounted")
		unmount, err := MountStick(device, mounted, write)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"out", "in"} {
			if b, err := os.ReadFile(filepath.Join(mounted, name)); !errors.Is(err, unix.ELOOP) {
				t.Errorf("%s, write %v: read %q, %v", name, write, b, err)
			}
		}
		if err := unmount(); err != nil {
			t.Fatal(err)
		}
	}
}
