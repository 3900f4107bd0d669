package backup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/valise-ota/valise/bundle"
)

// mysql is a database of MySQL or MariaDB, whose programs have two names.
type mysql struct {
	bundle.MySQL
	x Execer
}

// mysqlScript runs in the service's own shell: the password is in its
// environment and stays out of every command line. Words of the release come
// as arguments, never as text of the script.
// Without a user it is root where the service knows root's password, else its own
// user; without a database the service's own.
const mysqlScript = valueFunction + `
user=$1 database=$2 old=$3 new=$4
shift 4
root=$(value MARIADB_ROOT_PASSWORD MYSQL_ROOT_PASSWORD)
database=${database:-$(value MARIADB_DATABASE MYSQL_DATABASE)}
if [ -z "$user" ]; then
	user=root
	[ -n "$root" ] || user=$(value MARIADB_USER MYSQL_USER)
	user=${user:-root}
fi
if [ "$user" = root ]; then
	MYSQL_PWD=$root
else
	MYSQL_PWD=$(value MARIADB_PASSWORD MYSQL_PASSWORD)
fi
export MYSQL_PWD
command -v "$new" >/dev/null 2>&1 || new=$old
if [ "$old" = mysqldump ]; then
	[ -n "$database" ] || { echo "no database is named, and the service has no MYSQL_DATABASE" >&2; exit 1; }
	set -- "$@" --databases "$database"
fi
exec "$new" --user="$user" "$@"
`

func (m mysql) exec(ctx context.Context, old, new string, args []string, stdin io.Reader, stdout io.Writer) error {
	argv := append([]string{"sh", "-c", mysqlScript, "sh", m.User, m.Database, old, new}, args...)
	return m.x.Exec(ctx, m.Service, argv, stdin, stdout)
}

func (m mysql) save(ctx context.Context, w io.Writer) error {
	// --databases with --add-drop-database: what was added since goes when the
	// dump comes back.
	args := []string{"--single-transaction", "--routines", "--triggers", "--events", "--add-drop-database", "--no-tablespaces"}
	return compress(w, func(w io.Writer) error { return m.exec(ctx, "mysqldump", "mariadb-dump", args, nil, w) })
}

// mysqlEnd is in the last line of every complete dump.
const mysqlEnd = "-- Dump completed"

func (m mysql) check(ctx context.Context, f *os.File) error {
	_, end, err := edges(ctx, f, 0, 1<<10)
	if err != nil {
		return err
	}
	if !bytes.Contains(end, []byte(mysqlEnd)) {
		return errors.New("the dump ended well and without the line " + mysqlEnd)
	}
	return nil
}

func (m mysql) restore(ctx context.Context, f *os.File) error {
	return inflate(ctx, f, func(r io.Reader) error {
		return m.exec(ctx, "mysql", "mariadb", []string{"--batch"}, r, io.Discard)
	})
}

func (m mysql) ready(ctx context.Context) error {
	return m.exec(ctx, "mysql", "mariadb", []string{"--batch", "--execute=SELECT 1"}, nil, io.Discard)
}
