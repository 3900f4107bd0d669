// Package backup saves the data of an app before a release is replaced, and
// brings it back. A backup that failed in any way is an error, never a warning:
// the update it was made for must not go on.
package backup

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/valise-ota/valise/bundle"
)

// Execer runs a command in the running container of a compose service. The
// error is nil only when the command ended with status 0 and stdout took all
// its output.
type Execer interface {
	Exec(ctx context.Context, service string, argv []string, stdin io.Reader, stdout io.Writer) error
}

// Info names a finished dump and pins its content.
type Info struct {
	Name   string        `json:"name"`
	Size   int64         `json:"size"` // bytes
	Digest bundle.Digest `json:"digest"`
}

const (
	dumpSuffix = ".dump"
	tempPrefix = ".unfinished-" // also what a power cut leaves; Prune removes it
)

// namePattern is NUMBER-RECORD-VERSION-SERVICE.dump. The number orders dumps:
// a device may not know the time, and record IDs and versions do not sort.
var namePattern = regexp.MustCompile(`^([0-9]{6,18})-([0-9A-Za-z]+)-([0-9A-Za-z._+-]+)\.dump$`)

// Name is the file name of the dump of service that the record recordID makes
// while version runs. All dumps of one record have the same number, a new
// record has the next one of dir.
func Name(dir *os.Root, recordID, version, service string) (string, error) {
	all, err := list(dir)
	if err != nil {
		return "", fmt.Errorf("name backup: %w", err)
	}
	recordID = strings.ReplaceAll(recordID, "-", "")
	number := 1
	for _, d := range all {
		if d.record == recordID {
			number = d.number
			break
		}
		number = max(number, d.number+1)
	}
	name := fmt.Sprintf("%06d-%s-%s-%s%s", number, recordID, version, service, dumpSuffix)
	return name, checkName(name)
}

// dump is a finished dump by the parts of its name.
type dump struct {
	name   string
	number int
	record string
}

// list returns the finished dumps in dir, oldest first.
func list(dir *os.Root) ([]dump, error) {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return nil, err
	}
	var all []dump
	for _, e := range entries {
		if m := namePattern.FindStringSubmatch(e.Name()); m != nil && e.Type().IsRegular() {
			number, err := strconv.Atoi(m[1])
			if err != nil {
				return nil, fmt.Errorf("backup %s: %w", e.Name(), err)
			}
			all = append(all, dump{e.Name(), number, m[2]})
		}
	}
	slices.SortStableFunc(all, func(x, y dump) int { return cmp.Compare(x.number, y.number) })
	return all, nil
}

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("backup name is %.200q, want NUMBER-RECORD-VERSION-SERVICE%s", name, dumpSuffix)
	}
	return nil
}

// Dump writes a dump of the database pg to the file name in dir, mode 0600.
// The file gets its name only after it was checked and is durable; on failure
// nothing is left. Memory does not depend on the size of the database. progress
// may be nil; it is told the bytes written so far.
func Dump(ctx context.Context, x Execer, pg bundle.Postgres, dir *os.Root, name string, progress func(done int64)) (info Info, err error) {
	if err := checkName(name); err != nil {
		return Info{}, err
	}
	temp := tempPrefix + name
	defer func() {
		if err != nil {
			dir.Remove(temp)
			info, err = Info{}, fmt.Errorf("back up database %s of service %s: %w", pg.Database, pg.Service, err)
		}
	}()
	if err := dir.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Info{}, err
	}
	f, err := dir.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	w := &writer{f: f, progress: progress}
	sum := sha256.New()
	// -w: without a terminal a password prompt would only hang.
	argv := []string{"pg_dump", "-w", "-U", pg.User, "-F", "c", "-d", pg.Database}
	if err := x.Exec(ctx, pg.Service, argv, nil, io.MultiWriter(w, sum)); err != nil {
		return Info{}, err
	}
	if err := checkDump(ctx, x, pg, f); err != nil {
		return Info{}, err
	}
	if err := f.Sync(); err != nil {
		return Info{}, err
	}
	if err := f.Close(); err != nil {
		return Info{}, err
	}
	if err := dir.Rename(temp, name); err != nil {
		return Info{}, err
	}
	if err := syncDir(dir); err != nil {
		return Info{}, err
	}
	return Info{Name: name, Size: w.done, Digest: digest(sum.Sum(nil))}, nil
}

// magic begins every dump in pg_dump's custom format.
const magic = "PGDMP"

// checkDump proves that f is a complete dump: pg_restore turns all of it into
// SQL, which is thrown away. Listing its contents (-l) would not do: the table
// of contents stands at the front, so it lists a dump that was cut off as well.
func checkDump(ctx context.Context, x Execer, pg bundle.Postgres, f *os.File) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil || string(head) != magic {
		return fmt.Errorf("pg_dump ended well but its output does not begin with %s", magic)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := x.Exec(ctx, pg.Service, []string{"pg_restore", "-f", "/dev/null"}, f, io.Discard); err != nil {
		return fmt.Errorf("check dump: %w", err)
	}
	return nil
}

// Restore brings the database pg back to the dump info, in one transaction: it
// is either as it was in the dump or unchanged. Tables, views, sequences,
// routines, types and schemas that were added since are removed. Nothing else
// should use the database meanwhile: one that holds a lock for a minute makes
// the restore fail.
func Restore(ctx context.Context, x Execer, pg bundle.Postgres, dir *os.Root, info Info) error {
	if err := restore(ctx, x, pg, dir, info); err != nil {
		return fmt.Errorf("restore database %s of service %s from %s: %w", pg.Database, pg.Service, info.Name, err)
	}
	return nil
}

func restore(ctx context.Context, x Execer, pg bundle.Postgres, dir *os.Root, info Info) error {
	if err := checkName(info.Name); err != nil {
		return err
	}
	f, err := dir.Open(info.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if got := digest(sum.Sum(nil)); got != info.Digest || n != info.Size {
		return fmt.Errorf("got %d bytes with digest %s, want %d with %s", n, got, info.Size, info.Digest)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}

	// pg_restore could write to the database itself, but it drops only what is
	// in the dump, and that fails as soon as a newer table refers to an older
	// one. So it writes SQL, and psql runs it after clearSQL.
	pr, pw := io.Pipe()
	converted := make(chan error, 1)
	go func() {
		err := x.Exec(ctx, pg.Service, []string{"pg_restore", "--clean", "--if-exists", "--single-transaction", "-f", "-"}, f, pw)
		pw.CloseWithError(err) // psql reads to the end only when all was written
		converted <- err
	}()
	argv := []string{"psql", "-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-U", pg.User, "-d", pg.Database}
	err = x.Exec(ctx, pg.Service, argv, io.MultiReader(strings.NewReader(clearSQL), pr), io.Discard)
	pr.CloseWithError(errEnded)
	if cerr := <-converted; cerr != nil && !errors.Is(cerr, errEnded) {
		return cerr
	}
	return err
}

// errEnded is what pg_restore's output meets when psql has ended before it;
// psql knows why.
var errEnded = errors.New("psql has ended")

// clearSQL begins the transaction that pg_restore's SQL commits at its very
// end, and not at all when it is cut off; and drops what users made, whatever
// depends on it. Objects of extensions stay, and so does the schema public,
// whose owner and rights are not in a dump.
const clearSQL = `BEGIN;
SET LOCAL lock_timeout = '60s';
SET LOCAL client_min_messages = error;
DO $valise$
DECLARE
  statement text;
BEGIN
  -- All statements are made before the first one takes names away with it.
  FOREACH statement IN ARRAY ARRAY(
    SELECT format('DROP SCHEMA IF EXISTS %I CASCADE', nspname)
    FROM pg_namespace n
    WHERE nspname NOT IN ('public', 'information_schema') AND nspname !~ '^pg_'
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')
  UNION ALL
    SELECT format('DROP %s IF EXISTS public.%I CASCADE',
      CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, relname)
    FROM pg_class c
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
        AND (d.deptype = 'e' OR d.deptype = 'i' AND relkind = 'S')) -- the sequence of an identity column goes with its table
  UNION ALL
    SELECT format('DROP ROUTINE IF EXISTS %s CASCADE', p.oid::regprocedure)
    FROM pg_proc p
    WHERE pronamespace = 'public'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
  UNION ALL
    SELECT format('DROP TYPE IF EXISTS public.%I CASCADE', typname)
    FROM pg_type t
    WHERE typnamespace = 'public'::regnamespace AND (typtype IN ('e', 'd', 'r') OR typtype = 'c' AND (SELECT relkind FROM pg_class WHERE oid = typrelid) = 'c')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype IN ('e', 'i'))
  ) LOOP
    EXECUTE statement;
  END LOOP;
END
$valise$;
`

// Prune removes all dumps but those of the newest keep records, and what
// interrupted dumps left. It must not run while a dump is made.
func Prune(dir *os.Root, keep int) (removed []string, err error) {
	if keep < 1 {
		return nil, fmt.Errorf("prune backups: keep is %d, want at least 1", keep)
	}
	all, err := list(dir)
	if err != nil {
		return nil, fmt.Errorf("prune backups: %w", err)
	}
	var numbers []int
	for _, d := range all {
		numbers = append(numbers, d.number)
	}
	numbers = slices.Compact(numbers)
	old := numbers[:max(0, len(numbers)-keep)]
	for _, d := range all {
		if slices.Contains(old, d.number) {
			removed = append(removed, d.name)
		}
	}
	unfinished, err := fs.Glob(dir.FS(), tempPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("prune backups: %w", err)
	}
	removed = append(removed, unfinished...)
	for i, name := range removed {
		if err := dir.Remove(name); err != nil {
			return removed[:i], fmt.Errorf("prune backups: %w", err)
		}
	}
	if removed == nil {
		return nil, nil
	}
	return removed, syncDir(dir)
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

// writer counts what goes to the file.
type writer struct {
	f        *os.File
	done     int64
	progress func(int64)
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.done += int64(n)
	if w.progress != nil {
		w.progress(w.done)
	}
	return n, err
}
