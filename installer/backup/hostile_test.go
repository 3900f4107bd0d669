package backup

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/valise-ota/valise/bundle"
)

// The data of an app are its own, and the app may have been taken over: whatever
// it puts where root saves and restores, root stays in its volume.

// world is a mount of a container, and beside it what only the host may touch.
type world struct {
	*testing.T
	mount, host string
	sets        *os.Root
	paused      int
	deps        Deps
}

const secret = "what only the host knows"

func newWorld(t *testing.T) *world {
	w := &world{T: t, mount: t.TempDir(), host: t.TempDir(), sets: openRoot(t)}
	w.deps = onHost(w.mount, &w.paused)
	w.must(os.WriteFile(filepath.Join(w.host, "secret"), []byte(secret), 0o600))
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) in(name string) string { return filepath.Join(w.mount, name) }

func (w *world) write(name, text string) {
	w.Helper()
	w.must(os.MkdirAll(filepath.Dir(w.in(name)), 0o755))
	w.must(os.WriteFile(w.in(name), []byte(text), 0o644))
}

// hostIsWhole fails the test when anything of the host was read or changed.
func (w *world) hostIsWhole() {
	w.Helper()
	if got := tree(w.T, w.host); len(got) != 2 || !strings.HasPrefix(got[1], "secret -rw------- ") || !strings.HasSuffix(got[1], " "+string(bundle.DigestOf([]byte(secret)))) {
		w.Errorf("the host has %q", got)
	}
	if w.paused != 0 {
		w.Errorf("%d containers are paused", w.paused)
	}
}

func (w *world) save(record string, b bundle.Backup) (Set, error) {
	return Save(w.Context(), w.deps, w.sets, Set{Record: record, Version: "1.0.0"}, []bundle.Backup{b}, nil)
}

func volumeAt(path string) bundle.Backup {
	return bundle.Backup{Volume: &bundle.Volume{Service: "app", Path: path}}
}

func sqliteAt(path string) bundle.Backup {
	return bundle.Backup{SQLite: &bundle.SQLite{Service: "app", Path: path}}
}

// Every part of a path may have been replaced by a link.
func TestVolumeLinks(t *testing.T) {
	for _, name := range []string{"a", "a/b", "a/b/uploads"} {
		for _, to := range []string{"HOST", "../HOST", "/", "..", "nowhere", ".", "other"} {
			t.Run(strings.NewReplacer("/", "_").Replace(name+" to "+to), func(t *testing.T) {
				w := newWorld(t)
				w.write("a/b/uploads/picture", "flowers")
				w.write("other/b/uploads/picture", "not these")
				w.write("other/uploads/picture", "not these")
				set, err := w.save("A", volumeAt("/a/b/uploads"))
				w.must(err)
				w.must(os.RemoveAll(w.in(name)))
				w.must(os.MkdirAll(filepath.Join(w.host, filepath.Base(name)), 0o700))
				w.must(os.Remove(filepath.Join(w.host, filepath.Base(name))))
				rel, err := filepath.Rel(filepath.Dir(w.in(name)), w.host)
				w.must(err)
				w.must(os.Symlink(strings.NewReplacer("../HOST", rel, "HOST", w.host).Replace(to), w.in(name)))
				var link *linkError
				if set, err := w.save("B", volumeAt("/a/b/uploads")); !errors.As(err, &link) {
					t.Errorf("saved %+v, %v", set, err)
				}
				w.hostIsWhole()
				w.must(Restore(t.Context(), w.deps, w.sets, set))
				w.hostIsWhole()
				if b, err := os.ReadFile(w.in("a/b/uploads/picture")); err != nil || string(b) != "flowers" {
					t.Errorf("restored %q, %v", b, err)
				}
				for _, p := range []string{"a", "a/b", "a/b/uploads"} {
					if fi, err := os.Lstat(w.in(p)); err != nil || !fi.IsDir() {
						t.Errorf("%s: %v, %v", p, fi, err)
					}
				}
			})
		}
	}
}

// A container that runs on, because it has only mounted the same directory from
// elsewhere, exchanges a directory for a link all the time.
func TestVolumeRace(t *testing.T) {
	w := newWorld(t)
	w.write("uploads/deep/picture", "flowers")
	first, err := w.save("first", volumeAt("/uploads"))
	w.must(err)
	w.must(os.Symlink(w.host, w.in("evil")))
	ctx, cancel := context.WithCancel(t.Context())
	var swapping sync.WaitGroup
	for _, name := range []string{"uploads", "uploads/deep"} {
		swapping.Go(func() {
			for ctx.Err() == nil {
				_ = unix.Renameat2(unix.AT_FDCWD, w.in("evil"), unix.AT_FDCWD, w.in(name), unix.RENAME_EXCHANGE)
			}
		})
	}
	for range 25 {
		set, err := w.save("race", volumeAt("/uploads"))
		if err == nil {
			for _, item := range set.Items {
				if names := archived(t, w.sets, item.Name); slices.Contains(names, "secret") || slices.Contains(names, "deep/secret") {
					t.Fatalf("saved %q of the host", names)
				}
			}
		}
		_ = Restore(t.Context(), w.deps, w.sets, first) // may fail, and must stay inside
		w.hostIsWhole()
		if t.Failed() {
			break
		}
	}
	cancel()
	swapping.Wait()
	w.hostIsWhole()
	w.must(Restore(t.Context(), w.deps, w.sets, first))
	if b, err := os.ReadFile(w.in("uploads/deep/picture")); err != nil || string(b) != "flowers" {
		t.Errorf("restored %q, %v", b, err)
	}
}

// archived lists what is in the archive of a volume.
func archived(t *testing.T, dir *os.Root, name string) []string {
	t.Helper()
	out, err := exec.Command("tar", "tzf", filepath.Join(dir.Name(), name)).Output()
	if err != nil {
		t.Fatalf("tar: %v", err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// Pipes, sockets and whatever else would hold root up.
func TestVolumeOddFiles(t *testing.T) {
	w := newWorld(t)
	w.write("data/file", "content")
	w.must(unix.Mkfifo(w.in("data/pipe"), 0o644))
	l, err := net.Listen("unix", w.in("data/s"))
	w.must(err)
	defer l.Close()
	w.must(os.Symlink("/etc/shadow", w.in("data/link")))
	name := "data/" + strings.Repeat("long", 60) + "\n\xff"
	w.write(name, "odd")
	set, err := w.save("A", volumeAt("/data"))
	w.must(err)
	l.Close()
	want := slices.DeleteFunc(tree(t, w.in("data")), func(l string) bool { return strings.HasPrefix(l, "pipe ") || strings.HasPrefix(l, "s ") })
	w.must(Restore(t.Context(), w.deps, w.sets, set))
	if got := tree(t, w.in("data")); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// What was exchanged since it was looked at.
	d, err := openDir(w.in("data"))
	w.must(err)
	w.must(unix.Mkfifo(w.in("data/pipe"), 0o644))
	for _, name := range []string{"pipe", "link", "."} {
		if f, _, err := d.file(name); err == nil {
			f.Close()
			t.Errorf("%s is opened as a file", name)
		}
	}
	for _, name := range []string{"pipe", "link", "file"} {
		if sub, err := d.enter(name); err == nil {
			sub.Close()
			t.Errorf("%s is opened as a directory", name)
		}
	}
	d.Close()
	w.must(os.Remove(w.in("data/pipe")))
	// A pipe or a file in the place of the directory.
	for i, make := range []func(string) error{
		func(p string) error { return unix.Mkfifo(p, 0o644) },
		func(p string) error { return os.WriteFile(p, nil, 0o644) },
	} {
		w.must(os.RemoveAll(w.in("data")))
		w.must(make(w.in("data")))
		if _, err := w.save("B", volumeAt("/data")); err == nil {
			t.Errorf("%d: nil error", i)
		}
		w.must(Restore(t.Context(), w.deps, w.sets, set))
		if got := tree(t, w.in("data")); !slices.Equal(got, want) {
			t.Errorf("%d: got %q", i, got)
		}
	}
}

// A tree too deep to be walked is not saved, and stops no restore.
func TestVolumeDeep(t *testing.T) {
	w := newWorld(t)
	w.write("data/file", "content")
	set, err := w.save("A", volumeAt("/data"))
	w.must(err)
	d, err := openDir(w.in("data"))
	w.must(err)
	for range 1000 {
		w.must(unix.Mkdirat(d.fd(), "d", 0o755))
		w.must(unix.Symlinkat(w.host, d.fd(), "link"))
		next, err := d.enter("d")
		w.must(err)
		d.Close()
		d = next
	}
	d.Close()
	if _, err := w.save("B", volumeAt("/data")); err == nil || !strings.Contains(err.Error(), "more than 128 directories deep") {
		t.Errorf("saved: %v", err)
	}
	var files unix.Rlimit
	w.must(unix.Getrlimit(unix.RLIMIT_NOFILE, &files))
	w.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 512, Max: files.Max}))
	defer func() { w.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &files)) }()
	w.must(Restore(t.Context(), w.deps, w.sets, set))
	w.hostIsWhole()
	if got := tree(t, w.in("data")); len(got) != 2 {
		t.Errorf("left: %q", got)
	}
}

func blocks(t *testing.T, name string) (size, blocks int64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Size, st.Blocks
}

// Files with holes come back as they were, holes too, and anybody's tar reads
// the archive.
func TestVolumeSparse(t *testing.T) {
	w := newWorld(t)
	w.must(os.Mkdir(w.in("data"), 0o755))
	const seed = 1
	r := rand.New(rand.NewPCG(seed, seed))
	for i := range 30 {
		f, err := os.Create(w.in("data/" + string(rune('a'+i))))
		w.must(err)
		at := int64(0)
		for range r.IntN(6) {
			at += r.Int64N(1 << 20)
			b := make([]byte, r.IntN(100_000)+1)
			for i := range b {
				b[i] = byte(r.Int())
			}
			_, err := f.WriteAt(b, at)
			w.must(err)
			at += int64(len(b))
		}
		if r.IntN(2) == 0 {
			w.must(f.Truncate(at + r.Int64N(1<<20)))
		}
		w.must(f.Close())
	}
	before, held := tree(t, w.in("data")), map[string]int64{}
	for name := range each(w, "data") {
		_, held[name] = blocks(t, name)
	}
	set, err := w.save("A", volumeAt("/data"))
	w.must(err)
	gnu := t.TempDir()
	if out, err := exec.Command("tar", "xzpf", filepath.Join(w.sets.Name(), set.Items[0].Name), "-C", gnu).CombinedOutput(); err != nil {
		t.Errorf("tar: %v: %s", err, out)
	} else if got := tree(t, gnu); !slices.Equal(got, before) {
		t.Errorf("tar: got  %q\nwant %q", got, before)
	}
	w.must(os.RemoveAll(w.in("data")))
	w.must(Restore(t.Context(), w.deps, w.sets, set))
	if got := tree(t, w.in("data")); !slices.Equal(got, before) {
		t.Errorf("got  %q\nwant %q", got, before)
	}
	for name := range each(w, "data") {
		if _, n := blocks(t, name); n > held[name]+16 { // what the file system keeps of the file itself
			t.Errorf("%s takes %d blocks and took %d", name, n, held[name])
		}
	}
}

func each(w *world, dir string) map[string]bool {
	names, err := filepath.Glob(w.in(dir + "/*"))
	w.must(err)
	all := map[string]bool{}
	for _, n := range names {
		all[n] = true
	}
	return all
}

// One file under many names is saved once, and has them again afterwards: otherwise
// a container could make a backup of any size of it.
func TestVolumeHardLinks(t *testing.T) {
	w := newWorld(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	w.must(os.MkdirAll(w.in("data/a/b"), 0o755))
	w.must(os.WriteFile(w.in("data/a/b/big"), big, 0o640))
	for i := range 300 {
		w.must(os.Link(w.in("data/a/b/big"), w.in(fmt.Sprint("data/n", i))))
	}
	w.write("data/small", "x")
	w.must(os.Link(w.in("data/small"), w.in("data/a/small")))
	w.must(os.Link(w.in("data/small"), w.in("outside"))) // and one name that is not saved
	if n := Estimate(t.Context(), w.deps, []bundle.Backup{volumeAt("/data")}, Set{}); n > 2*int64(len(big)) {
		t.Errorf("%d bytes are expected of a file of %d", n, len(big))
	}
	before := tree(t, w.in("data"))
	set, err := w.save("A", volumeAt("/data"))
	w.must(err)
	for range 2 {
		w.must(Restore(t.Context(), w.deps, w.sets, set))
		if got := tree(t, w.in("data")); !slices.Equal(got, before) {
			t.Errorf("got  %q\nwant %q", got, before)
		}
		var st unix.Stat_t
		w.must(unix.Stat(w.in("data/n7"), &st))
		if st.Nlink != 301 {
			t.Errorf("the file has %d names, want 301", st.Nlink)
		}
	}
}

// Terabytes of nothing take no time and no room; many small pieces no memory.
func TestVolumeHuge(t *testing.T) {
	w := newWorld(t)
	w.write("data/file", "content")
	f, err := os.Create(w.in("data/huge"))
	w.must(err)
	defer f.Close()
	const huge = 4 << 40
	w.must(f.Truncate(huge))
	_, err = f.WriteAt([]byte("end"), huge-3)
	w.must(err)
	hole, err := os.Create(w.in("data/hole"))
	w.must(err)
	w.must(hole.Truncate(huge))
	w.must(hole.Close())
	set, err := w.save("A", volumeAt("/data"))
	w.must(err)
	if set.Size() > 10_000 || set.Items[0].Raw > 100_000 {
		t.Errorf("%+v", set.Items)
	}
	w.must(Restore(t.Context(), w.deps, w.sets, set))
	for _, name := range []string{"data/huge", "data/hole"} {
		if size, n := blocks(t, w.in(name)); size != huge || n > 64 {
			t.Errorf("%s has %d bytes in %d blocks", name, size, n)
		}
	}
}

// What a backup cost grows with the data, and what was not measured before counts
// in full.
func TestEstimate(t *testing.T) {
	w := newWorld(t)
	w.write("data/file", strings.Repeat("a", 1<<20))
	b := []bundle.Backup{volumeAt("/data"), {Command: &bundle.BackupCommand{Service: "app", Save: []string{"a"}, Restore: []string{"b"}}}}
	if n := Estimate(t.Context(), w.deps, b, Set{}); n != 1<<20 {
		t.Errorf("the first one: %d", n)
	}
	last := Set{Items: []Item{{Size: 1 << 18, Raw: 1 << 19, Backup: b[0]}, {Size: 77, Backup: b[1]}}}
	if n := Estimate(t.Context(), w.deps, b, last); n != 1<<19+77 {
		t.Errorf("the next one: %d", n)
	}
	last.Items[0].Raw = 0
	if n := Estimate(t.Context(), w.deps, b, last); n != 1<<18+77 {
		t.Errorf("not measured then: %d", n)
	}
	w.must(os.RemoveAll(w.in("data")))
	if n := Estimate(t.Context(), w.deps, b, last); n != 1<<18+77 {
		t.Errorf("what is not there: %d", n)
	}
}

// A backup that is told to end, or that holds the app for too long, lets it go
// on and leaves nothing.
func TestSaveEnds(t *testing.T) {
	w := newWorld(t)
	w.must(os.Mkdir(w.in("data"), 0o755))
	f, err := os.Create(w.in("data/large"))
	w.must(err)
	defer f.Close()
	r := rand.NewChaCha8([32]byte{})
	_, err = io.CopyN(f, r, 32<<20)
	w.must(err)
	for name, b := range map[string]bundle.Backup{"volume": volumeAt("/data"), "sqlite": sqliteAt("/data/large")} {
		ctx, cancel := context.WithCancel(t.Context())
		pause, seen := w.deps.Pause, int64(0)
		d := w.deps
		d.Pause = func(ctx context.Context, dir string) (func() error, error) {
			if name == "sqlite" {
				cancel()
			}
			return pause(ctx, dir)
		}
		_, err := Save(ctx, d, w.sets, head, []bundle.Backup{b}, func(n int64) { seen = n; cancel() })
		if !errors.Is(err, context.Canceled) || seen > 8<<20 {
			t.Errorf("%s: %v after %d bytes", name, err, seen)
		}
		w.hostIsWhole()
		d = w.deps
		d.MaxPause = 1
		if _, err := Save(t.Context(), d, w.sets, head, []bundle.Backup{b}, nil); err == nil || !strings.Contains(err.Error(), "were paused for more than 1ns") {
			t.Errorf("%s: %v", name, err)
		}
		w.hostIsWhole()
		if got := ls(t, w.sets); len(got) != 0 {
			t.Errorf("%s: left %q", name, got)
		}
	}
}

// A database of another app, by links in every place where SQLite would look.
func TestSQLiteLinks(t *testing.T) {
	w := newWorld(t)
	other := filepath.Join(t.TempDir(), "other.db")
	for file, what := range map[string]string{w.in("app.db"): "ours", other: "theirs"} {
		db, err := sql.Open("sqlite", file)
		w.must(err)
		execute(t, db, "CREATE TABLE item (name TEXT)")
		execute(t, db, "INSERT INTO item VALUES ('"+what+"')")
		db.Close()
	}
	set, err := w.save("A", sqliteAt("/app.db"))
	w.must(err)
	secretFile := filepath.Join(w.host, "secret")
	for _, suffix := range []string{walSuffix, journalSuffix, ""} {
		target := secretFile
		if suffix == "" {
			target = other
		}
		for name, make := range map[string]func(string) error{
			"link":      func(p string) error { return os.Symlink(target, p) },
			"pipe":      func(p string) error { return unix.Mkfifo(p, 0o600) },
			"directory": func(p string) error { return os.MkdirAll(p+"/x/y", 0o700) },
		} {
			w.must(os.RemoveAll(w.in("app.db" + suffix)))
			w.must(make(w.in("app.db" + suffix)))
			if _, err := w.save("B", sqliteAt("/app.db")); err == nil {
				t.Errorf("%s in place of app.db%s: saved", name, suffix)
			}
			w.hostIsWhole()
			w.must(Restore(t.Context(), w.deps, w.sets, set))
			w.hostIsWhole()
			if fi, err := os.Lstat(w.in("app.db")); err != nil || !fi.Mode().IsRegular() || fi.Mode().Perm() != 0o644 {
				t.Errorf("%s%s: %v, %v", name, suffix, fi.Mode(), err)
			}
			if _, err := os.Lstat(w.in("app.db" + suffix)); suffix != "" && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s%s: %v", name, suffix, err)
			}
		}
	}
	if _, err := w.save("B", bundle.Backup{SQLite: &bundle.SQLite{Service: "app", Path: "/"}}); err == nil {
		t.Error("a mount that is not a directory: saved")
	}
}

// The journal of a transaction over several databases is of no use without the
// others.
func TestSQLiteSuperJournal(t *testing.T) {
	w := newWorld(t)
	db, err := sql.Open("sqlite", w.in("app.db"))
	w.must(err)
	execute(t, db, "CREATE TABLE item (name TEXT)")
	db.Close()
	w.write("app.db-journal", strings.Repeat("x", 600)+string(journalMagic))
	if _, err := w.save("A", sqliteAt("/app.db")); err == nil || !strings.Contains(err.Error(), "in the middle of a transaction over several databases") {
		t.Errorf("saved: %v", err)
	}
	if got := ls(t, w.sets); len(got) != 0 {
		t.Errorf("left %q", got)
	}
}

// A transaction that was cut off is rolled back in the copy.
func TestSQLiteJournal(t *testing.T) {
	w := newWorld(t)
	db, err := sql.Open("sqlite", w.in("live.db"))
	w.must(err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	execute(t, db, "PRAGMA cache_size=1")
	execute(t, db, "CREATE TABLE item (name TEXT)")
	execute(t, db, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 200) INSERT INTO item SELECT hex(zeroblob(1000)) FROM n")
	execute(t, db, "BEGIN")
	execute(t, db, "UPDATE item SET name = hex(randomblob(1000))") // more than fits into the cache: the file has half of it
	for _, suffix := range []string{"", journalSuffix} {
		b, err := os.ReadFile(w.in("live.db" + suffix))
		w.must(err)
		w.must(os.WriteFile(w.in("app.db"+suffix), b, 0o600))
	}
	set, err := w.save("A", sqliteAt("/app.db"))
	w.must(err)
	w.must(Restore(t.Context(), w.deps, w.sets, set))
	saved, err := sql.Open("sqlite", w.in("app.db"))
	w.must(err)
	defer saved.Close()
	n := 0
	if err := saved.QueryRow("SELECT count(*) FROM item WHERE name = hex(zeroblob(1000))").Scan(&n); err != nil || n != 200 {
		t.Errorf("%d rows as they were, %v", n, err)
	}
}

// A container that writes without end fills no disk, setuid does not come back
// to where it does not count, and a mount below the directory stays.
func TestMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("missing: root")
		}
		t.Skip("missing: root")
	}
	mount := func(w *world, dir string, flags uintptr, data string) {
		t.Helper()
		w.must(os.MkdirAll(dir, 0o755))
		w.must(unix.Mount("tmpfs", dir, "tmpfs", flags, data))
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	w := newWorld(t)
	mount(w, w.in("data"), unix.MS_NOSUID, "")
	w.write("data/program", "run")
	w.must(unix.Chmod(w.in("data/program"), 0o6755))
	w.must(unix.Mknod(w.in("data/device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	set, err := w.save("A", volumeAt("/data"))
	w.must(err)
	w.must(os.RemoveAll(w.in("data/device")))
	w.must(Restore(t.Context(), w.deps, w.sets, set))
	var st unix.Stat_t
	w.must(unix.Stat(w.in("data/program"), &st))
	if st.Mode&0o7777 != 0o755 {
		t.Errorf("mode %o", st.Mode)
	}
	if got := tree(t, w.in("data")); len(got) != 2 {
		t.Errorf("restored %q", got)
	}
	// The mount of another file system below a directory that is emptied.
	mount(w, w.in("data/sub/mounted"), 0, "")
	w.write("data/sub/mounted/x", "x")
	if set, err = w.save("B", volumeAt("/data")); err != nil {
		t.Fatal(err)
	}
	w.write("data/sub/mounted/x", "y")
	w.must(Restore(t.Context(), w.deps, w.sets, set))
	if b, err := os.ReadFile(w.in("data/sub/mounted/x")); err != nil || string(b) != "x" {
		t.Errorf("below the mount: %q, %v", b, err)
	}

	small := t.TempDir()
	mount(w, small, 0, "size=80m")
	dir, err := os.OpenRoot(small)
	w.must(err)
	defer dir.Close()
	d := Deps{Execer: execer(func(_ []string, _ io.Reader, stdout io.Writer) error {
		_, err := io.Copy(stdout, rand.NewChaCha8([32]byte{}))
		return err
	})}
	_, err = Save(t.Context(), d, dir, head, []bundle.Backup{{Command: &bundle.BackupCommand{Service: "app", Save: []string{"a"}, Restore: []string{"b"}}}}, nil)
	if err == nil || !strings.Contains(err.Error(), "not enough space for backups") {
		t.Errorf("without end: %v", err)
	}
	if got := ls(t, dir); len(got) != 0 {
		t.Errorf("left %q", got)
	}
}
