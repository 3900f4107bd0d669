package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// stick is stick DIR VARIABLE [readonly]: a block device with the files of DIR,
// whose name is in VARIABLE.
func stick(ts *testscript.TestScript, neg bool, args []string) {
	if os.Getuid() != 0 {
		need(test(ts), "root, to make a block device")
	}
	image := ts.MkAbs(args[1] + ".img")
	hostCommand(ts, "truncate", "-s", "64M", image)
	hostCommand(ts, "mkfs.ext4", "-q", "-F", "-d", ts.MkAbs(args[0]), image)
	options := []string{"--show", "-f", image}
	if len(args) > 2 {
		options = append([]string{"-r"}, options...)
	}
	device := strings.TrimSpace(hostCommand(ts, "losetup", options...))
	ts.Defer(func() { _ = exec.Command("losetup", "-d", device).Run() })
	ts.Setenv(args[1], device)
}

// unstick is unstick DEVICE DIR: copies what is on a stick to DIR.
func unstick(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(dir, 0o755))
	mounted := dir + ".mounted"
	ts.Check(os.MkdirAll(mounted, 0o755))
	hostCommand(ts, "mount", "-o", "ro", args[0], mounted)
	defer hostCommand(ts, "umount", mounted)
	hostCommand(ts, "cp", "-r", mounted+"/.", dir)
}

func hostCommand(ts *testscript.TestScript, name string, args ...string) string {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		ts.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// TestOnStick: several bundles on a stick are a way.
func TestOnStick(t *testing.T) {
	of := func(list string) (files []offered) {
		for _, v := range strings.Fields(list) {
			version, from, _ := strings.Cut(v, "<")
			files = append(files, offered{path: version + ".tar.gz", app: "shop", version: version, from: from})
		}
		return files
	}
	for name, tc := range map[string]struct{ newest, want string }{
		"one":                    {"1.1.0", "1.1.0"},
		"the newest":             {"1.2.0 1.1.0", "1.2.0"},
		"stops":                  {"1.3.0<1.2.0 1.2.0<1.1.0 1.1.0", "1.1.0 1.2.0 1.3.0"},
		"one that is reached":    {"2.0.0<1.9.0 1.2.0<1.1.0 1.1.0", "1.1.0 1.2.0"},
		"none that is reached":   {"2.0.0<1.9.0 1.9.0<1.8.0", "2.0.0"},
		"two files of a version": {"1.2.0<1.1.0 1.2.0 1.1.0", "1.1.0 1.2.0"},
	} {
		way, err := onStick("1.0.0", of(tc.newest))
		var got []string
		for _, f := range way {
			got = append(got, f.version)
		}
		if err != nil || strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %v, %v, want %s", name, got, err, tc.want)
		}
	}
}
