//go:build device

package main

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// TestARM runs the static installers for ARM under QEMU's user mode, on machines
// with a real systemd. Kernel, service manager and what they start by themselves
// are not ARM: recovery at boot, the choice that install.sh makes by "uname -m"
// and an engine on ARM are not covered.
func TestARM(t *testing.T) {
	for _, arch := range []string{"arm64", "arm"} {
		qemu := map[string]string{"arm64": "qemu-aarch64-static", "arm": "qemu-arm-static"}[arch]
		t.Run(arch, func(t *testing.T) {
			releases := t.TempDir()
			buildCloud(t, releases, arch, "1.0.0", "1.1.0", "1.2.0")
			emulator, err := exec.LookPath(qemu)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("cp", emulator, filepath.Join(releases, "qemu")).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			onMachines(t, "testdata/arm", releases)
		})
	}
}
