package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// Programs of the tests, which say their name.
const (
	oldScript = "#!/bin/sh\necho old\n"
	newScript = "#!/bin/sh\necho new\n"
)

// says runs the program and returns what it says.
func says(path string) (string, error) {
	out, err := exec.Command(path).Output()
	return strings.TrimSpace(string(out)), err
}

func programDir(t *testing.T) *os.Root {
	t.Helper()
	root := open(t, t.TempDir()).Root()
	if err := root.WriteFile("prog", []byte(oldScript), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestReplaceProgram(t *testing.T) {
	bad := errors.New("it does not work")
	for name, tt := range map[string]struct {
		script string
		wrong  string // base name of the path at which it does not work
		left   string // what is there at the end
		old    string
	}{
		"good":               {newScript, "", "new", "old"},
		"does not start":     {"#!/bin/false\n", "", "old", ""},
		"no program":         {"\x7fELF", "", "old", ""},
		"not in its place":   {newScript, "prog", "old", ""},
		"not before its own": {newScript, "prog.new", "old", ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := programDir(t)
			err := ReplaceProgram(t.Context(), root, "prog", strings.NewReader(tt.script), func(_ context.Context, path string) error {
				if filepath.Base(path) == tt.wrong {
					return bad
				}
				_, err := says(path)
				return err
			})
			if (err == nil) != (tt.left == "new") || tt.wrong != "" && !errors.Is(err, bad) {
				t.Errorf("got %v", err)
			}
			if got, err := says(filepath.Join(root.Name(), "prog")); got != tt.left || err != nil {
				t.Errorf("it is %q, %v, want %q", got, err, tt.left)
			}
			if got, _ := says(filepath.Join(root.Name(), "prog"+OldProgram)); got != tt.old {
				t.Errorf("kept is %q, want %q", got, tt.old)
			}
			if _, err := root.Stat("prog" + newProgram); err == nil {
				t.Error("the new one stayed under its first name")
			}
		})
	}
}

// newProgramIn is the process that is killed.
func newProgramIn(dir string) error {
	runtime.LockOSThread()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	return ReplaceProgram(context.Background(), root, "prog", strings.NewReader(newScript), func(_ context.Context, path string) error {
		b, err := os.ReadFile(path)
		if err == nil && string(b) != newScript {
			err = fmt.Errorf("it is %q", b)
		}
		return err
	})
}

// Killed, or refused by the disk, at every call: there is a program, it is
// complete, and the same call ends it.
func TestReplaceProgramFaults(t *testing.T) {
	for _, fault := range []string{"signal=SIGKILL", "error=EIO"} {
		runs := 0
		for _, call := range []string{"fsync", "renameat", "linkat", "unlinkat", "fchmod"} {
			again := false
			for n := 1; ; n++ {
				root := programDir(t)
				log, err := strace(t, t.TempDir(), "program "+root.Name(), "-e", "trace="+call, "-e", "inject="+call+":"+fault+":when="+strconv.Itoa(n))
				if errors.Is(err, errStrace) && !again {
					t.Log(err)
					again = true
					n--
					continue
				}
				again = false
				if !strings.Contains(log, "INJECTED") && !strings.Contains(log, "killed by SIGKILL") {
					break
				}
				runs++
				if got, err := says(filepath.Join(root.Name(), "prog")); err != nil || got != "old" && got != "new" {
					t.Fatalf("%s at %s %d: it is %q, %v", fault, call, n, got, err)
				}
				for again := range 2 {
					if err := newProgramIn(root.Name()); err != nil {
						t.Fatalf("after %s at %s %d, call %d: %v", fault, call, n, again, err)
					}
				}
				if got, _ := says(filepath.Join(root.Name(), "prog")); got != "new" {
					t.Fatalf("after %s at %s %d: it is %q", fault, call, n, got)
				}
				if left, _ := filepath.Glob(filepath.Join(root.Name(), ".*")); len(left) > 0 {
					t.Fatalf("after %s at %s %d: %v", fault, call, n, left)
				}
			}
		}
		if t.Logf("%s: %d points", fault, runs); runs < 8 {
			t.Errorf("%s: only %d points", fault, runs)
		}
	}
}

// The new file is durable before it gets the name, and the name before the old
// one may go.
func TestReplaceProgramSync(t *testing.T) {
	root := programDir(t)
	log, err := strace(t, t.TempDir(), "program "+root.Name(), "-e", "trace=fsync,renameat,renameat2,linkat")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(log) {
		if m := syncCall.FindStringSubmatch(line); m != nil {
			got = append(got, "sync "+strings.TrimPrefix(m[2], root.Name()))
		} else if m := renameCall.FindStringSubmatch(line); m != nil {
			got = append(got, "rename "+m[2]+" "+m[4])
		}
	}
	want := "sync /.prog.new.tmp, rename .prog.new.tmp prog.new, sync , rename .prog.old.tmp prog.old, sync , rename prog.new prog, sync "
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}
