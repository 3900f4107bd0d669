//go:build device

package device

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestStickPulled pulls a stick out while the bundle on it is verified, and while
// its layers are loaded.
func TestStickPulled(t *testing.T) {
	b := newBench(t)
	b.begin()
	rows := b.rows()
	image := b.stick("hand", "ext4", "shop-1.1.0.tar.gz", "client")
	for _, line := range []string{"verify", "stage"} {
		b.plug("hand", image, true)
		b.run("mkdir -p /mnt && mount -o ro /dev/sda /mnt && cp /mnt/client /usr/local/bin/ && echo 3 >/proc/sys/vm/drop_caches")
		b.run("(echo; valise-installer --progress plain update /mnt/shop-1.1.0.tar.gz; echo ended after " + line + " $?) >/dev/ttyS0 2>&1 &")
		b.says(line)
		b.check(b.vm.Pull("hand"))
		b.run("echo 3 >/proc/sys/vm/drop_caches") // so that nothing comes from memory
		b.says("ended after " + line + " 1")
		b.run("umount -l /mnt")
		b.runs("1.0.0", rows)
		if s := b.run("valise-installer status"); strings.Contains(s, "unfinished") {
			t.Errorf("after %s: %s", line, s)
		}
	}
	t.Logf("console: %s", b.console())
	b.plug("hand", image, true)
	b.run("mount -o ro /dev/sda /mnt && valise-installer update /mnt/shop-1.1.0.tar.gz")
	b.runs("1.1.0", rows)
}

// TestStickNoticed plugs a stick into a machine whose services run as they are
// installed.
func TestStickNoticed(t *testing.T) {
	b := newBench(t)
	b.begin()
	rows := b.rows()

	// Only the machine can write to exFAT, and nothing looks at sticks there yet.
	exfat := b.stick("exfat", "exfat")
	b.plug("source", b.stick("source", "ext4", "shop-1.2.0.tar.gz"), true)
	b.check(b.vm.Plug("exfat", exfat, false))
	b.run(`for i in $(seq 300); do test -b /dev/sdb && break; sleep 0.2; done
		mkdir -p /mnt /media/x && mount -o ro /dev/sda /mnt && mount /dev/sdb /media/x && cp /mnt/shop-1.2.0.tar.gz /media/x && umount /mnt /media/x`)
	b.check(b.vm.Pull("source"))
	b.check(b.vm.Pull("exfat"))
	b.run("for i in $(seq 300); do test -b /dev/sda -o -b /dev/sdb || exit 0; sleep 0.2; done; exit 1")

	t.Log("FAT, noticed by udev: it waits, as the device's policy is by default")
	b.run(`printf 'updates: {usb_receipts: true}\n' >>/etc/valise/shop.yaml`)
	b.run("valise-installer page setup && systemctl enable --now valise")
	fat := b.stick("fat", "vfat", "shop-1.1.0.tar.gz")
	b.plug("fat", fat, false)
	b.until("pending 1.1.0", "cat /run/valise/shop.state")
	b.until("inactive", "systemctl is-active 'valise-usb@sda.service'")
	b.run("journalctl -u 'valise-usb@*' --no-pager -o cat; ! grep valise/usb /proc/mounts")
	b.check(b.vm.Pull("fat"))
	b.runs("1.0.0", rows)
	back := t.TempDir()
	b.check(command("mcopy", "-s", "-i", fat, "::valise", back))
	b.check(command(os.Getenv("VALISE_DEVICE_TOOL"), "receipts", filepath.Join(back, "valise")))
	if found, err := filepath.Glob(filepath.Join(back, "valise/device-*/shop/inventory.json")); err != nil || len(found) != 1 {
		t.Errorf("the stick has no inventory: %v, %v", found, err)
	}

	t.Log("somebody applies it over the API")
	const api = "/usr/local/bin/client --socket /run/valise/daemon.sock "
	id := regexp.MustCompile(`"public_id":"([A-Z2-7]+)"`).FindStringSubmatch(b.run(api + "GET 'http://valise/api/v1/ota?status=pending'"))
	if id == nil {
		t.Fatal("no record waits")
	}
	b.run(api + "POST http://valise/api/v1/ota/" + id[1] + "/apply")
	b.until("completed 1.1.0", "cat /run/valise/shop.state")
	b.runs("1.1.0", rows)

	t.Log("exFAT, where the device's policy says apply")
	b.run(`sed -i 's/^updates: .*/updates: {usb: apply}/' /etc/valise/shop.yaml`)
	b.plug("exfat", exfat, false)
	b.until("completed 1.2.0", "cat /run/valise/shop.state")
	b.runs("1.2.0", rows)
}

// runs checks which version answers, and that the data are there.
func (b *bench) runs(version, rows string) {
	b.Helper()
	if v := b.answers(); v != version {
		b.Fatalf("%s answers, want %s", v, version)
	}
	if got := b.rows(); got != rows {
		b.Errorf("the rows are %s, want %s", got, rows)
	}
}

// says waits until a line of the console begins with text.
func (b *bench) says(text string) {
	b.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains("\n"+strings.ReplaceAll(string(b.console()), "\r", ""), "\n"+text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("the console never says %q: %s", text, b.console())
		}
	}
}

// until waits until a command on the device prints text.
func (b *bench) until(text, script string) {
	b.Helper()
	start, out := time.Now(), ""
	for ; time.Since(start) < patience; time.Sleep(time.Second) { // asking costs the machine, too
		if out, _ = b.try(script); strings.Contains(out, text) {
			b.Logf("%q after %.0f s", text, time.Since(start).Seconds())
			return
		}
	}
	log, _ := b.try("systemctl status --no-pager 'valise-usb@*' valise; journalctl --no-pager -n 40")
	b.Fatalf("%s never says %q, but %s\n%s", script, text, out, log)
}
