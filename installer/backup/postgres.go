package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
)

// postgres is a database dumped with pg_dump, which compresses by itself.
type postgres struct {
	bundle.Postgres
	x Execer
	// asks says that the server wanted a password of a user that is named.
	asks bool
}

// postgresScript runs a program of PostgreSQL as the user, on the database, that
// the service itself was given, where none is named, and with the password that the
// service knows of that user: its own, or that of the superuser beside it.
const postgresScript = valueFunction + `
own=$(value POSTGRES_USER POSTGRESQL_USERNAME POSTGRESQL_USER DB_USER)
own=${own:-postgres}
PGUSER=${1:-$own} PGDATABASE=${2:-$(value POSTGRES_DB POSTGRESQL_DATABASE DB_NAME)}
PGDATABASE=${PGDATABASE:-$PGUSER}
export PGUSER PGDATABASE
password=$(value PGPASSWORD)
if [ -z "$password" ] && [ "$PGUSER" != "$own" ]; then
	password=$(value POSTGRESQL_POSTGRES_PASSWORD POSTGRES_POSTGRES_PASSWORD POSTGRESQL_ADMIN_PASSWORD PG_PASSWORD)
elif [ -z "$password" ]; then
	password=$(value POSTGRES_PASSWORD POSTGRESQL_PASSWORD DB_PASS)
fi
if [ -n "$password" ]; then export PGPASSWORD="$password"; fi
shift 2
exec "$@"
`

// exec runs a program with arguments on the database.
func (pg *postgres) exec(ctx context.Context, argv []string, stdin io.Reader, stdout io.Writer) error {
	// -w: without a terminal a password prompt would only hang.
	argv = append(argv[:1:1], append([]string{"-w"}, argv[1:]...)...)
	if pg.User != "" && pg.Database != "" && !pg.asks {
		out := counted{w: stdout}
		err := pg.x.Exec(ctx, pg.Service, append(slices.Clone(argv), "-U", pg.User, "-d", pg.Database), stdin, &out)
		if err == nil || stdin != nil || out.n > 0 || !strings.Contains(err.Error(), "password") {
			return err
		}
		pg.asks = true
	}
	return pg.x.Exec(ctx, pg.Service, append([]string{"sh", "-c", postgresScript, "sh", pg.User, pg.Database}, argv...), stdin, stdout)
}

// counted counts what is written.
type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (pg *postgres) save(ctx context.Context, w io.Writer) error {
	// A table that somebody holds for longer is named, and the dump ends.
	return pg.exec(ctx, []string{"pg_dump", "--lock-wait-timeout=" + lockWait, "-F", "c"}, nil, w)
}

// lockWait is how long a dump waits for a table that something else has locked.
const lockWait = "300000" // milliseconds: every server understands a number

// magic begins every dump in pg_dump's custom format.
const magic = "PGDMP"

// check proves that f is a complete dump: pg_restore turns all of it into SQL, which is thrown away. Listing its contents (-l) would not do: the table
// of contents stands at the front, so it lists a dump that was cut off as well.
func (pg *postgres) check(ctx context.Context, f *os.File) error {
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil || string(head) != magic {
		return fmt.Errorf("pg_dump ended well but its output does not begin with %s", magic)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := pg.x.Exec(ctx, pg.Service, []string{"pg_restore", "-f", "/dev/null"}, f, io.Discard); err != nil {
		return fmt.Errorf("read the dump back: %w", err)
	}
	return nil
}

// restore brings the database back in one transaction: it is either as it was in
// the dump or unchanged. Tables, views, sequences, routines, types and schemas
// that were added since are removed. Nothing else should use the database
// meanwhile: one that holds a lock for a minute makes the restore fail.
func (pg *postgres) restore(ctx context.Context, f *os.File) error {
	// pg_restore could write to the database itself, but it drops only what is
	// in the dump, and that fails as soon as a newer table refers to an older
	// one. So it writes SQL, and psql runs it after clearSQL.
	pr, pw := io.Pipe()
	converted := make(chan error, 1)
	go func() {
		err := pg.x.Exec(ctx, pg.Service, []string{"pg_restore", "--clean", "--if-exists", "--single-transaction", "-f", "-"}, f, pw)
		pw.CloseWithError(err) // psql reads to the end only when all was written
		converted <- err
	}()
	argv := []string{"psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"}
	err := pg.exec(ctx, argv, io.MultiReader(strings.NewReader(clearSQL), pr), io.Discard)
	pr.CloseWithError(errEnded)
	if cerr := <-converted; cerr != nil && !errors.Is(cerr, errEnded) {
		return cerr
	}
	return err
}

func (pg *postgres) ready(ctx context.Context) error {
	return pg.exec(ctx, []string{"psql", "-X", "-q", "-c", "SELECT 1"}, nil, io.Discard)
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
