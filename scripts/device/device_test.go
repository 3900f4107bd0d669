//go:build device

package device

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience is how long anything on an emulated machine may take.
const patience = 15 * time.Minute

// bench is what a test needs beside the machine.
type bench struct {
	*testing.T
	ctx      context.Context
	image    Image
	dir      string // of the machine
	releases string
	vm       *VM
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{T: t, ctx: t.Context(), dir: t.TempDir(), image: Image(os.Getenv("VALISE_VM_IMAGE")), releases: os.Getenv("VALISE_DEVICE_RELEASES")}
	if b.image == "" || b.releases == "" {
		t.Fatal("missing: a machine to boot and releases for it; run scripts/e2e-device.sh")
	}
	t.Cleanup(func() {
		if b.vm != nil {
			b.vm.Cut()
		}
		if t.Failed() {
			console, _ := os.ReadFile(filepath.Join(b.dir, "console.log"))
			t.Logf("console: %s", console[max(0, len(console)-4000):])
		}
	})
	return b
}

func (b *bench) disk() string { return filepath.Join(b.dir, "disk.qcow2") }

func (b *bench) check(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// boot starts the machine; more are arguments of QEMU.
func (b *bench) boot(more ...string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	vm, err := b.image.Boot(ctx, b.dir, b.disk(), more...)
	b.check(err)
	b.vm = vm
}

// try runs a command on the device.
func (b *bench) try(script string) (string, int) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	out, code, err := b.vm.Run(ctx, script)
	b.check(err)
	return out, code
}

// run runs a command on the device that must work.
func (b *bench) run(script string) string {
	b.Helper()
	start := time.Now()
	out, code := b.try(script)
	b.Logf("%s (%.1fs)\n$ %s\n%s", time.Now().Format(time.TimeOnly), time.Since(start).Seconds(), script, out)
	if code != 0 {
		b.Fatalf("exit code %d: %s", code, script)
	}
	return out
}

// stick makes a stick with files of the releases directory.
func (b *bench) stick(name, kind string, files ...string) string {
	b.Helper()
	image := filepath.Join(b.dir, name+".img")
	b.check(os.WriteFile(image, nil, 0o644))
	b.check(os.Truncate(image, 512<<20))
	switch kind {
	case "vfat":
		b.check(command("mkfs.vfat", "-n", "VALISE", image))
		for _, f := range files {
			b.check(command("mcopy", "-i", image, filepath.Join(b.releases, f), "::"))
		}
	case "exfat": // nothing here writes into one
		b.check(command("mkfs.exfat", image))
	case "ext4":
		content := b.TempDir()
		for _, f := range files {
			b.check(command("cp", filepath.Join(b.releases, f), content))
		}
		b.check(command("mkfs.ext4", "-q", "-F", "-d", content, image))
	}
	return image
}

// plug plugs a stick in and waits for its block device.
func (b *bench) plug(name, image string, readOnly bool) {
	b.Helper()
	b.check(b.vm.Plug(name, image, readOnly))
	b.run("for i in $(seq 300); do test -b /dev/sda && exit 0; sleep 0.2; done; exit 1")
}

const shop = "http://127.0.0.1:18080"

// rows are what the app has stored.
func (b *bench) rows() string {
	b.Helper()
	return b.run("/usr/local/bin/client GET " + shop + "/api/items")
}

// answers waits until the app answers and returns its version.
func (b *bench) answers() string {
	b.Helper()
	out := b.run("for i in $(seq 600); do /usr/local/bin/client GET " + shop + "/health && exit 0; sleep 1; done; exit 1")
	_, version, _ := strings.Cut(out, `"version":"`)
	version, _, _ = strings.Cut(version, `"`)
	return version
}

func (b *bench) installed(stick string) {
	b.Helper()
	b.plug("first", stick, true)
	b.run("mkdir -p /mnt && mount -o ro /dev/sda /mnt && cp /mnt/client /usr/local/bin && chmod 755 /usr/local/bin/client")
	b.run("command -v docker && exit 1; sh /mnt/install.sh /mnt/shop-1.0.0.tar.gz --key /mnt/cosign.pub")
	b.run("umount /mnt")
	b.check(b.vm.Pull("first"))
	if v := b.answers(); v != "1.0.0" {
		b.Fatalf("%s answers, want 1.0.0", v)
	}
	b.run(`/usr/local/bin/client POST ` + shop + `/api/items '{"name":"apples"}'`)
}

// TestFirstInstall is a technician with a stick before a device that has nothing.
func TestFirstInstall(t *testing.T) {
	b := newBench(t)
	b.begin()
	rows := b.rows()
	b.run("valise-installer doctor")

	b.Log("switched off and on again")
	b.check(b.vm.Off(b.ctx))
	b.boot()
	if v := b.answers(); v != "1.0.0" {
		t.Errorf("after a reboot %s answers, want 1.0.0", v)
	}
	if got := b.rows(); got != rows {
		t.Errorf("after a reboot the rows are %s, want %s", got, rows)
	}
}

// begin boots a machine that has the app, as TestFirstInstall leaves it; the
// first test that asks installs it.
func (b *bench) begin() {
	b.Helper()
	disk := filepath.Join(b.releases, "installed.qcow2")
	if _, err := os.Stat(disk); err == nil {
		b.check(Overlay(disk, b.disk()))
		b.boot()
		b.answers()
		return
	}
	b.check(Overlay(filepath.Join(string(b.image), "root.qcow2"), b.disk()))
	script, err := exec.Command("tar", "-xzOf", filepath.Join(b.releases, "shop-1.0.0.tar.gz"), "install.sh").Output()
	b.check(err)
	b.check(os.WriteFile(filepath.Join(b.releases, "install.sh"), script, 0o644))
	stick := b.stick("first", "vfat", "install.sh", "shop-1.0.0.tar.gz", "cosign.pub", "client")
	b.boot()
	b.installed(stick)
	b.check(b.vm.Off(b.ctx))
	b.check(os.Rename(b.disk(), disk))
	b.begin()
}
