package record

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/installer"
)

// childEnv makes the test binary a process that updates until it is killed, or
// until it has done the number of updates given: "PATH COUNT".
const childEnv = "RECORD_TEST_CHILD"

func TestMain(m *testing.M) {
	path, count, ok := strings.Cut(os.Getenv(childEnv), " ")
	if !ok {
		os.Exit(m.Run())
	}
	n, err := strconv.Atoi(count)
	if err == nil {
		err = updates(path, n)
	}
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

var stepNames = []string{"stage", "load", "backup", "activate", "probe", "pin"}

// updates runs n updates (or for ever) and writes what was acknowledged to
// stdout: "step ID NAME" and "commit ID VERSION". It begins by ending what an
// earlier process left.
func updates(path string, n int) error {
	runtime.LockOSThread()
	ctx := context.Background()
	s, err := Open(ctx, path, "shop")
	if err != nil {
		return err
	}
	state, err := s.Load(ctx)
	if err != nil {
		return err
	}
	if u := state.Unfinished; u != nil {
		if err := s.End(ctx, u.ID, installer.Failed, at(0)); err != nil {
			return err
		}
	}
	records, err := s.History(ctx, -1, 0)
	if err != nil {
		return err
	}
	for i := len(records); n != 0; i, n = i+1, n-1 {
		r := installer.Record{ID: fmt.Sprint("r", i), Action: installer.ActionUpdate, From: state.Current, To: release(fmt.Sprintf("1.%d.0", i)), Created: at(0)}
		if err := oneUpdate(ctx, s, r, func(line string) { os.Stdout.WriteString(line) }); err != nil {
			return err
		}
		if state, err = s.Load(ctx); err != nil {
			return err
		}
	}
	return s.Close()
}

func oneUpdate(ctx context.Context, s *Store, r installer.Record, ack func(string)) error {
	if err := s.Begin(ctx, r); err != nil {
		return err
	}
	for _, name := range stepNames {
		if err := s.StepBegun(ctx, r.ID, name, json.RawMessage(`{"env":"A=1"}`), at(1)); err != nil {
			return err
		}
		ack("step " + r.ID + " " + name + "\n")
		if err := s.StepDone(ctx, r.ID, name, at(2)); err != nil {
			return err
		}
	}
	if err := s.Commit(ctx, r.ID, at(3)); err != nil {
		return err
	}
	ack("commit " + r.ID + " " + r.To.Version + "\n")
	return nil
}

// A process that is killed at any moment has lost nothing that it acknowledged.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.db")
	committed := map[string]string{}
	var last, lastStep string
	for round := range 12 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+path+" -1")
		out, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for i := 0; lines.Scan(); i++ {
			f := strings.Fields(lines.Text())
			switch f[0] {
			case "commit":
				committed[f[1]], last = f[2], f[2]
			case "step":
				lastStep = f[1] + " " + f[2]
			default:
				t.Fatal(lines.Text())
			}
			if i == 5 { // the child runs on while this process reads
				s, err := OpenReadOnly(t.Context(), path, "shop")
				ok(t, err)
				if st := load(t, s); version(st.Current) != st.Floor {
					t.Fatalf("reader saw current %s, floor %s", version(st.Current), st.Floor)
				}
				ok(t, s.Close())
			}
			if i == 10+7*round { // later acknowledgements are read until the pipe ends
				ok(t, cmd.Process.Kill())
			}
		}
		cmd.Wait()

		// A reader first: it meets the log as the dead process left it.
		s, err := OpenReadOnly(t.Context(), path, "shop")
		ok(t, err)
		st := load(t, s)
		records, err := s.History(t.Context(), -1, 0)
		ok(t, err)
		ok(t, s.Close())
		found, stepFound := 0, false
		for _, r := range records {
			if want, yes := committed[r.ID]; yes {
				found++
				if r.Status != installer.Completed || r.To.Version != want || len(r.Steps) != len(stepNames) {
					t.Fatalf("round %d: acknowledged %s, got %+v", round, r.ID, r)
				}
			}
			for _, step := range r.Steps {
				stepFound = stepFound || lastStep == r.ID+" "+step.Name
			}
		}
		if found != len(committed) || !stepFound {
			t.Fatalf("round %d: %d of %d acknowledged commits, step %q there: %v", round, found, len(committed), lastStep, stepFound)
		}
		// The commit after the last acknowledged one may have happened, too.
		var minor, lastMinor int
		fmt.Sscanf(st.Floor, "1.%d.0", &minor)
		fmt.Sscanf(last, "1.%d.0", &lastMinor)
		if version(st.Current) != st.Floor || minor < lastMinor || minor > lastMinor+1 {
			t.Fatalf("round %d: current %s, floor %s, last acknowledged %s", round, version(st.Current), st.Floor, last)
		}
	}
	t.Logf("%d commits acknowledged in 12 lives", len(committed))
}

var (
	resumedCall = regexp.MustCompile(`^\d+ +<\.\.\. \w+ resumed>`)
	writeCall   = regexp.MustCompile(`pwrite64\(\d+<[^>]*record\.db(-wal)?>`)
	syncCall    = regexp.MustCompile(`(fsync|fdatasync)\(\d+<[^>]*record\.db(-wal)?>.* = 0`)
	logCall     = regexp.MustCompile(`open(at)?\(.*"[^"]*record\.db-`)
	dirCall     = regexp.MustCompile(`fsync\(\d+<([^>]*)>`)
	ackCall     = regexp.MustCompile(`write\(1<[^>]*>, "(commit|step)`)
)

// Killing finds no missing fsync, so the system calls are watched: whatever was
// written to the record is fsynced before the next acknowledgement, and the
// directory of a new one before SQLite uses it.
func TestSync(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("no strace")
	}
	dir := t.TempDir()
	log := filepath.Join(dir, "strace.log")
	cmd := exec.Command(strace, "--seccomp-bpf", "-f", "-y", "-qq", "-o", log, "-e", "trace=open,openat,write,pwrite64,fsync,fdatasync", os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+filepath.Join(dir, "record.db")+" 3")
	out, runErr := cmd.CombinedOutput()
	b, err := os.ReadFile(log)
	if err != nil {
		t.Skipf("strace does not work here: %v", runErr)
	}
	if runErr != nil {
		t.Fatalf("%v: %s", runErr, out)
	}
	var dirty, dirSynced bool
	var acks, syncs, commits int
	unfinished := map[string]string{} // by thread: the head of a call during which another thread made one
	for line := range strings.Lines(string(b)) {
		thread, _, _ := strings.Cut(line, " ")
		if head, yes := strings.CutSuffix(line, " <unfinished ...>\n"); yes {
			unfinished[thread] = head
			continue
		}
		if m := resumedCall.FindStringIndex(line); m != nil {
			line = unfinished[thread] + line[m[1]:]
		}
		switch {
		case writeCall.MatchString(line):
			dirty = true
		case logCall.MatchString(line):
			if !dirSynced { // by us: SQLite does it for its own files only
				t.Fatal("the name of the new file was not durable before SQLite used it")
			}
		case syncCall.MatchString(line):
			dirty = false
			syncs++
		case ackCall.MatchString(line):
			acks++
			if strings.Contains(line, `"commit`) {
				commits++
			}
			if dirty {
				t.Fatalf("acknowledgement %d before the fsync", acks)
			}
		default:
			if m := dirCall.FindStringSubmatch(line); m != nil && m[1] == dir {
				dirSynced = true
			}
		}
	}
	if want := 3 * (len(stepNames) + 1); acks != want || commits != 3 {
		t.Fatalf("%d acknowledgements with %d commits, want %d with 3", acks, commits, want)
	}
	if least := 3 * (2*len(stepNames) + 2); syncs < least {
		t.Fatalf("%d fsyncs, want at least %d: one for each change", syncs, least)
	}
}

// BenchmarkUpdate is what the record costs an update: Begin, six steps, Commit.
// Set TMPDIR to measure a certain disk.
func BenchmarkUpdate(b *testing.B) {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "record.db"), "shop")
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var from *installer.Release
	for i := 0; b.Loop(); i++ {
		r := installer.Record{ID: fmt.Sprint("r", i), Action: installer.ActionUpdate, From: from, To: release(fmt.Sprintf("1.%d.0", i)), Created: time.Unix(0, 0)}
		if err := oneUpdate(b.Context(), s, r, func(string) {}); err != nil {
			b.Fatal(err)
		}
		from = &r.To
	}
}

// TestCreateCut: a process that is killed while it makes the file, at any call that writes or
// renames, or that cannot read it once, leaves none, or one that can be read. The next one goes on.
func TestCreateCut(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("missing: strace")
		}
		t.Skip("missing: strace")
	}
	kills := 0
	for call, how := range map[string]string{"pwrite64": "signal=SIGKILL", "renameat": "signal=SIGKILL", "pread64": "error=EIO"} {
		for n := 1; ; n++ {
			path := filepath.Join(t.TempDir(), "record.db")
			cmd := exec.Command(strace, "-f", "-qq", "-o", path+"-log", "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:%s:when=%d", call, how, n), os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+path+" 0")
			out, err := cmd.CombinedOutput()
			if strings.Contains(string(out), "strace: ") {
				t.Fatalf("%s", out)
			}
			s, rerr := OpenReadOnly(t.Context(), path, "shop")
			switch {
			case rerr == nil:
				ok(t, s.Close())
			default:
				if _, serr := os.Stat(path); !os.IsNotExist(serr) {
					t.Errorf("%s %d: %v: %s", call, n, serr, rerr)
				}
			}
			s, oerr := Open(t.Context(), path, "shop")
			ok(t, oerr)
			ok(t, s.Close())
			if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
				t.Errorf("%s %d leaves %q", call, n, left)
			}
			log, lerr := os.ReadFile(path + "-log")
			ok(t, lerr)
			if !strings.Contains(string(log), "INJECTED") && !strings.Contains(string(log), "killed by SIGKILL") { // it made fewer such calls
				ok(t, err)
				break
			}
			kills++
		}
	}
	if kills < 10 {
		t.Errorf("killed %d times", kills)
	}
}
