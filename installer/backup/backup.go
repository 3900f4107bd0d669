// Package backup saves the data of an app before a release is replaced, and
// brings them back. A backup that failed in any way is an error, never a
// warning: the update it was made for must not go on.
//
// All that one record saves is a set: a file for each backup, and an index that
// is written last. What no index names is not a backup.
package backup

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/order"
	"github.com/valise-ota/valise/bundle/trace"
)

// Execer runs a command in the running container of a compose service. The
// error is nil only when the command ended with status 0 and stdout took all
// its output.
type Execer interface {
	Exec(ctx context.Context, service string, argv []string, stdin io.Reader, stdout io.Writer) error
}

// Deps is how a backup reaches the app.
type Deps struct {
	Execer
	// HostPath is where on this device a path in a volume of a service is: a
	// directory that no container can put anything else in place of, and a
	// path below it, of which containers may have made what they like.
	HostPath func(ctx context.Context, service, path string) (source, below string, err error)
	// Pause stops the containers that use a directory of this device from
	// running on, until resume.
	Pause func(ctx context.Context, hostPath string) (resume func() error, err error)
	// MaxPause is the longest that they are paused; 0 is the package's MaxPause.
	MaxPause time.Duration
}

const (
	// MaxPause is how long containers are paused at most. Then the backup fails,
	// and they go on.
	MaxPause = 30 * time.Minute
	// maxTime is how long one backup, or what brings it back, may take: whatever
	// a container does, it cannot hold up this device for ever.
	maxTime = 6 * time.Hour
	// keepFree is how many bytes a backup leaves free on its disk; of one below
	// 1 GiB it is a sixteenth.
	keepFree = 64 << 20
)

// limited gives do a time limit, whose end err explains.
func limited(ctx context.Context, limit time.Duration, what string, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s for more than %s, which is the limit", what, limit))
	defer cancel()
	err := do(ctx)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// still runs do while the containers that may write to a directory are paused.
func (d Deps) still(ctx context.Context, dir string, do func(context.Context) error) (err error) {
	resume, err := d.Pause(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resume()) }()
	return limited(ctx, cmp.Or(d.MaxPause, MaxPause), "the containers that use it were paused", do)
}

// Item is one finished backup and pins its content.
type Item struct {
	Name   string        `json:"name"` // of its file
	Size   int64         `json:"size"` // bytes
	Digest bundle.Digest `json:"digest"`
	Backup bundle.Backup `json:"backup"`
	Raw    int64         `json:"raw_bytes,omitempty"` // of files, before they were compressed
}

// Set is all that was saved for one record.
type Set struct {
	Record  string    `json:"record"`
	Version string    `json:"version"` // that ran
	Created time.Time `json:"created_at"`
	Items   []Item    `json:"items"`

	number int // orders sets: a device may not know the time, and records and versions do not sort
}

// Size is the size of all items in bytes.
func (s Set) Size() (n int64) {
	for _, i := range s.Items {
		n += i.Size
	}
	return n
}

const (
	indexSuffix = ".json"
	tempPrefix  = ".unfinished-" // also what a power cut leaves; Prune removes it
	maxIndex    = 1 << 20
)

// suffixes are the file types by kind of backup.
var suffixes = map[string]string{
	"postgres": ".dump", "mysql": ".sql.gz", "sqlite": ".sqlite.gz", "volume": ".tar.gz", "command": ".data.gz", "mongo": ".archive.gz", "redis": ".rdb.gz",
}

// namePattern is NUMBER-RECORD-VERSION-SERVICE and a suffix, or NUMBER-RECORD-VERSION.json.
var namePattern = lazyregexp.New(`^([0-9]{6,18})-([0-9A-Za-z]+)-([0-9A-Za-z._+-]+)\.(dump|sql\.gz|sqlite\.gz|tar\.gz|data\.gz|archive\.gz|rdb\.gz|json)$`)

// kind is how the data of one bundle.Backup are saved, checked and restored.
type kind interface {
	save(ctx context.Context, w io.Writer) error
	// check proves that f, which is at its beginning, is complete.
	check(ctx context.Context, f *os.File) error
	// restore brings back what f holds. After it was cut off it may be repeated.
	restore(ctx context.Context, f *os.File) error
	// ready returns nil when the service can take a restore.
	ready(ctx context.Context) error
}

func (d Deps) kind(dir *os.Root, b bundle.Backup) (kind, error) {
	if err := b.Check(); err != nil {
		return nil, err
	}
	switch {
	case b.Postgres != nil:
		return &postgres{Postgres: *b.Postgres, x: d}, nil
	case b.MySQL != nil:
		return mysql{*b.MySQL, d}, nil
	case b.Mongo != nil:
		return mongo{*b.Mongo, d}, nil
	case b.Redis != nil:
		return redis{*b.Redis, d}, nil
	case b.SQLite != nil:
		return sqlite{*b.SQLite, d, dir}, nil
	case b.Volume != nil:
		return volume{*b.Volume, d}, nil
	}
	return command{*b.Command, d}, nil
}

// Save saves backups into dir, mode 0600, as the set of head.Record. The set
// exists only when all of it was checked and is durable; on failure nothing is
// left. Memory does not depend on the size of the data. progress may be nil; it
// is told the bytes written so far.
func Save(ctx context.Context, d Deps, dir *os.Root, head Set, backups []bundle.Backup, progress func(done int64)) (set Set, err error) {
	all, err := sets(dir)
	if err != nil {
		return Set{}, fmt.Errorf("back up: %w", err)
	}
	set = head
	set.Record, set.Items, set.number = compact(head.Record), nil, 1
	for _, s := range all {
		if s.Record != set.Record {
			set.number = max(set.number, s.number+1)
		}
	}
	if err := Forget(dir, set.Record); err != nil { // what an interrupted attempt left
		return Set{}, err
	}
	defer func() {
		if err != nil {
			for _, i := range set.Items {
				dir.Remove(i.Name)
			}
			set = Set{}
		}
	}()
	done := int64(0)
	for _, b := range backups {
		item, err := d.save(ctx, dir, set, b, func(n int64) {
			if progress != nil {
				progress(done + n)
			}
		})
		if err != nil {
			return set, fmt.Errorf("back up %s: %w", b, err)
		}
		set.Items = append(set.Items, item)
		done += item.Size
	}
	b, err := json.MarshalIndent(set, "", "  ")
	if err != nil {
		return set, fmt.Errorf("back up: %w", err)
	}
	name := set.prefix() + indexSuffix
	err = writeFile(dir, name, func(f *os.File) error { _, err := f.Write(b); return err })
	if err != nil {
		return set, fmt.Errorf("back up: %w", err)
	}
	return set, nil
}

func compact(record string) string { return strings.ReplaceAll(record, "-", "") }

func (s Set) prefix() string { return fmt.Sprintf("%06d-%s-%s", s.number, s.Record, s.Version) }

func (d Deps) save(ctx context.Context, dir *os.Root, set Set, b bundle.Backup, progress func(int64)) (item Item, err error) {
	k, err := d.kind(dir, b)
	if err != nil {
		return Item{}, err
	}
	name, service, _ := b.Subject()
	ctx, span := trace.Begin(ctx, trace.Step, "save "+b.String())
	defer func() { span.Count(item.Size); span.End(err) }()
	item = Item{Name: set.prefix() + "-" + service + suffixes[name], Backup: b}
	if !namePattern.MatchString(item.Name) {
		return Item{}, fmt.Errorf("name is %.200q, want NUMBER-RECORD-VERSION-SERVICE%s", item.Name, suffixes[name])
	}
	err = limited(ctx, maxTime, "it was saved", func(ctx context.Context) error {
		if m, ok := k.(measurer); ok {
			if item.Raw, err = m.measure(ctx); err != nil {
				return err
			}
		}
		return writeFile(dir, item.Name, func(f *os.File) error {
			w := &writer{f: f, progress: progress}
			sum := sha256.New()
			if err := k.save(ctx, io.MultiWriter(w, sum)); err != nil {
				return err
			}
			item.Size, item.Digest = w.done, digest(sum.Sum(nil))
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return err
			}
			return k.check(ctx, f)
		})
	})
	return item, err
}

// measurer is a kind that knows what there is to save, in bytes, before it is
// read.
type measurer interface {
	measure(ctx context.Context) (int64, error)
}

// Estimate is how many bytes the next set will need: as much as the last one,
// grown as the files have. What cannot be measured now counts as it was then.
func Estimate(ctx context.Context, d Deps, backups []bundle.Backup, last Set) (n int64) {
	for _, b := range backups {
		var before Item
		if i := slices.IndexFunc(last.Items, func(i Item) bool { return i.Backup.String() == b.String() }); i >= 0 {
			before = last.Items[i]
		}
		k, err := d.kind(nil, b)
		m, ok := k.(measurer)
		if err != nil || !ok {
			n += before.Size
			continue
		}
		raw, err := m.measure(ctx)
		switch {
		case err != nil, before.Raw == 0 && before.Size > 0: // an empty one, or one of an older installer
			n += before.Size
		case before.Raw > 0:
			n += int64(float64(raw) * float64(before.Size) / float64(before.Raw))
		default:
			n += raw
		}
		if err == nil && b.SQLite != nil {
			n += raw // its copy, for a while
		}
	}
	return n
}

// writeFile gives a file its name when write has ended well and all is durable.
func writeFile(dir *os.Root, name string, write func(*os.File) error) (err error) {
	temp := tempPrefix + name
	if err := dir.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := dir.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			dir.Remove(temp)
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := dir.Rename(temp, name); err != nil {
		return err
	}
	return syncDir(dir)
}

// Restore restores a set. Other services than those of the set should be
// stopped, and those must run, unless it is their volume that is restored.
// Interrupted, it may be repeated, and has to be: a database is restored in one
// transaction where it can, other data are half old until the end.
func Restore(ctx context.Context, d Deps, dir *os.Root, set Set) error {
	for _, item := range set.Items {
		if err := d.restore(ctx, dir, item); err != nil {
			return fmt.Errorf("restore %s from %s: %w", item.Backup, item.Name, err)
		}
	}
	return nil
}

func (d Deps) restore(ctx context.Context, dir *os.Root, item Item) error {
	k, err := d.kind(dir, item.Backup)
	if err != nil {
		return err
	}
	if !namePattern.MatchString(item.Name) {
		return fmt.Errorf("%.200q is not the name of a backup", item.Name)
	}
	f, err := dir.Open(item.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := copyAll(ctx, sum, f)
	if err != nil {
		return err
	}
	if got := digest(sum.Sum(nil)); got != item.Digest || n != item.Size {
		return fmt.Errorf("got %d bytes with digest %s, want %d with %s", n, got, item.Size, item.Digest)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return limited(ctx, maxTime, "it was restored", func(ctx context.Context) error {
		if err := wait(ctx, k.ready); err != nil {
			return err
		}
		return k.restore(ctx, f)
	})
}

// startTime is how long a service may take until it can be restored.
const startTime = 2 * time.Minute

func wait(ctx context.Context, ready func(context.Context) error) error {
	for deadline := time.Now().Add(startTime); ; {
		err := ready(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		if err := trace.Sleep(ctx, "until the service takes its data", 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// sets reads the names of the sets in dir, oldest first; those without an index
// too.
func sets(dir *os.Root) ([]Set, error) {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return nil, err
	}
	var all []Set
	for _, e := range entries {
		m := namePattern.FindStringSubmatch(e.Name())
		if m == nil || !e.Type().IsRegular() {
			continue
		}
		number, err := strconv.Atoi(m[1])
		if err != nil {
			return nil, fmt.Errorf("backup %s: %w", e.Name(), err)
		}
		i := slices.IndexFunc(all, func(s Set) bool { return s.number == number && s.Record == m[2] })
		if i < 0 {
			i = len(all)
			all = append(all, Set{Record: m[2], number: number})
		}
		all[i].Items = append(all[i].Items, Item{Name: e.Name()})
	}
	order.By(all, func(x, y Set) int { return cmp.Compare(x.number, y.number) })
	return all, nil
}

// List returns the sets in dir, oldest first.
func List(dir *os.Root) ([]Set, error) {
	all, err := sets(dir)
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	var found []Set
	for _, s := range all {
		for _, i := range s.Items {
			if !strings.HasSuffix(i.Name, indexSuffix) {
				continue
			}
			set, err := readIndex(dir, i.Name)
			if err != nil {
				return nil, fmt.Errorf("read backup %s: %w", i.Name, err)
			}
			set.number = s.number
			found = append(found, set)
		}
	}
	return found, nil
}

// Find returns the set of a record.
func Find(dir *os.Root, record string) (Set, bool, error) {
	all, err := List(dir)
	if err != nil {
		return Set{}, false, err
	}
	i := slices.IndexFunc(all, func(s Set) bool { return s.Record == compact(record) })
	if i < 0 {
		return Set{}, false, nil
	}
	return all[i], true, nil
}

func readIndex(dir *os.Root, name string) (set Set, err error) {
	f, err := dir.Open(name)
	if err != nil {
		return Set{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxIndex))
	if err == nil {
		err = json.Unmarshal(b, &set)
	}
	return set, err
}

// Forget removes what was saved for one record.
func Forget(dir *os.Root, record string) error {
	all, err := sets(dir)
	if err != nil {
		return fmt.Errorf("remove backup: %w", err)
	}
	_, err = remove(dir, slices.DeleteFunc(all, func(s Set) bool { return s.Record != compact(record) }))
	return err
}

// remove removes sets, each without its index first.
func remove(dir *os.Root, list []Set) (removed []string, err error) {
	for _, s := range list {
		for _, index := range []bool{true, false} {
			for _, i := range s.Items {
				if strings.HasSuffix(i.Name, indexSuffix) == index {
					removed = append(removed, i.Name)
				}
			}
		}
	}
	for i, name := range removed {
		if err := dir.Remove(name); err != nil {
			return removed[:i], fmt.Errorf("remove backup: %w", err)
		}
	}
	if removed == nil {
		return nil, nil
	}
	return removed, syncDir(dir)
}

// Prune removes all but the newest keep sets, and what interrupted backups left.
// It must not run while one is made. The newest set that was made while another
// version than current ran stays too: it is what a rollback restores.
func Prune(dir *os.Root, keep int, current string) (removed []string, err error) {
	if keep < 1 {
		return nil, fmt.Errorf("prune backups: keep is %d, want at least 1", keep)
	}
	all, err := sets(dir)
	if err != nil {
		return nil, fmt.Errorf("prune backups: %w", err)
	}
	whole, err := List(dir)
	if err != nil {
		return nil, fmt.Errorf("prune backups: %w", err)
	}
	var stay []int
	before := false
	for i, s := range slices.Backward(whole) {
		other := s.Version != current && !before
		if before = before || other; other || len(whole)-i <= keep {
			stay = append(stay, s.number)
		}
	}
	old := slices.DeleteFunc(all, func(s Set) bool { return slices.Contains(stay, s.number) })
	unfinished, err := fs.Glob(dir.FS(), tempPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("prune backups: %w", err)
	}
	for _, name := range unfinished {
		old = append(old, Set{Items: []Item{{Name: name}}})
	}
	return remove(dir, old)
}

func digest(sum []byte) bundle.Digest { return bundle.Digest("sha256:" + hex.EncodeToString(sum)) }

// syncDir makes renames and removals in dir durable.
func syncDir(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writer counts what goes to the file, and leaves room on its disk.
type writer struct {
	f        *os.File
	done     int64
	progress func(int64)
}

func (w *writer) Write(p []byte) (int, error) {
	if err := room(w.f, int64(len(p))); err != nil {
		return 0, err
	}
	n, err := w.f.Write(p)
	w.done += int64(n)
	w.progress(w.done)
	return n, err
}

// room fails when n bytes more on the disk of f would leave too little of it.
func room(f *os.File, n int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("measure free space of %s: %w", f.Name(), err)
	}
	block := int64(st.Bsize)
	free, keep := int64(st.Bavail)*block, min(keepFree, int64(st.Blocks)*block/16)
	if free-keep < n {
		return fmt.Errorf("not enough space for backups: %d bytes free, of which %d stay free, and %d more needed", free, keep, n)
	}
	return nil
}
