//go:build long

package backup_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer/backup"
)

// mariaDB makes a database in an empty volume, with a user that may do anything in
// it and nothing else, and serves it.
const mariaDB = `
set -eu
mkdir -p /run/mysqld /tmp && chmod 1777 /tmp
if [ ! -e /var/lib/mysql/mysql ]; then
	mariadb-install-db --no-defaults --user=root --datadir=/var/lib/mysql --force --skip-test-db --auth-root-authentication-method=normal >/dev/null
fi
printf "%s\n" "CREATE DATABASE IF NOT EXISTS orders;" "CREATE USER IF NOT EXISTS shop@localhost IDENTIFIED BY '$$MARIADB_PASSWORD';" \
	"GRANT ALL ON orders.* TO shop@localhost;" >/tmp/init.sql
exec /usr/sbin/mariadbd --no-defaults --user=root --datadir=/var/lib/mysql --skip-networking --socket=/run/mysqld/mysqld.sock --init-file=/tmp/init.sql
`

func TestMariaDB(t *testing.T) {
	images, layer := os.Getenv("VALISE_TEST_IMAGES"), os.Getenv("VALISE_TEST_MARIADB")
	if images == "" || layer == "" {
		need(t, "the sample images and MariaDB (VALISE_TEST_IMAGES, VALISE_TEST_MARIADB, printed by scripts/sample-images.sh and scripts/mariadb-image.sh)")
	}
	e := testEngine(t)
	image := layoutImage(t, e, filepath.Join(images, "base"))
	layers, err := layoutImage(t, e, layer).Layers()
	if err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.AppendLayers(image, layers...); err != nil {
		t.Fatal(err)
	}
	c := testProject(t, e, image, "/var/lib/mysql", map[string]any{
		"command":     []string{"sh", "-c", mariaDB},
		"environment": map[string]string{"MARIADB_PASSWORD": `a "secret"`, "MARIADB_USER": "shop", "MARIADB_DATABASE": "orders"},
	})
	sql := func(q string) string {
		t.Helper()
		var out bytes.Buffer
		if err := c.Exec(t.Context(), "db", []string{"sh", "-c", `MYSQL_PWD=$MARIADB_PASSWORD exec mariadb --user=shop --batch --skip-column-names orders --execute="$1"`, "sh", q}, nil, &out); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
	for deadline := time.Now().Add(bundletest.Patience()); ; time.Sleep(50 * time.Millisecond) {
		if err := c.Exec(t.Context(), "db", []string{"mariadb", "--user=root", "--execute=SELECT 1", "orders"}, nil, io.Discard); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	sql("CREATE TABLE customers (id int PRIMARY KEY, name varchar(40)) ENGINE=InnoDB;" +
		"CREATE TABLE orders (id int PRIMARY KEY, customer int, note text, photo blob, FOREIGN KEY (customer) REFERENCES customers (id));" +
		"INSERT INTO customers SELECT seq, md5(seq) FROM seq_1_to_1000;" +
		"INSERT INTO orders SELECT seq, 1 + seq % 1000, concat(md5(seq), ' ärgerlich \\'\\\\'), unhex(md5(seq)) FROM seq_1_to_50000;" +
		"CREATE VIEW big AS SELECT customer, count(*) n FROM orders GROUP BY customer;" +
		"CREATE FUNCTION total(c int) RETURNS int READS SQL DATA RETURN (SELECT count(*) FROM orders WHERE customer = c);" +
		"CREATE TRIGGER noted BEFORE INSERT ON orders FOR EACH ROW SET NEW.note = coalesce(NEW.note, 'none')")
	state := func() string {
		return sql("SELECT count(*), sum(crc32(concat(o.id, note, hex(photo), name))), total(7) FROM orders o JOIN customers c ON c.id = customer; SELECT count(*) FROM big; SHOW CREATE TABLE customers; SHOW CREATE TABLE orders; SELECT trigger_name, action_statement FROM information_schema.triggers WHERE trigger_schema = 'orders'; SHOW FULL TABLES")
	}
	before := state()

	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	dump := func(x backup.Execer, record, database string) (backup.Set, error) {
		list := []bundle.Backup{{MySQL: &bundle.MySQL{Service: "db", User: "shop", Database: database}}}
		return backup.Save(t.Context(), backup.Deps{Execer: x}, dir, backup.Set{Record: record, Version: "1.0.0"}, list, nil)
	}
	set, err := dump(c, "a", "orders")
	if err != nil {
		t.Fatal(err)
	}
	info := set.Items[0]
	t.Logf("%+v", info)
	// The service itself says who and what it is.
	declared, err := backup.Save(t.Context(), backup.Deps{Execer: c}, dir, backup.Set{Record: "d", Version: "1.0.0"}, []bundle.Backup{{MySQL: &bundle.MySQL{Service: "db"}}}, nil)
	if err != nil || declared.Items[0].Size < info.Size*9/10 {
		t.Errorf("without a name: %+v, %v", declared, err)
	}

	// A dump that ends early is no dump, whatever the exit status says.
	for _, limit := range []int64{3, 1000, 1 << 20} {
		if _, err := dump(truncated{c, "sh", limit}, "b", "orders"); err == nil || !strings.Contains(err.Error(), "Dump completed") {
			t.Errorf("dump cut after %d bytes: %v", limit, err)
		}
	}
	if _, err := dump(c, "b", "nothing"); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("dump of no database: %v", err)
	}
	// And a file that was cut on the disk is not restored.
	b, err := dir.ReadFile(info.Name)
	if err != nil || bundle.DigestOf(b) != info.Digest {
		t.Fatalf("file differs from %+v: %v", info, err)
	}
	if err := dir.WriteFile(info.Name, b[:len(b)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := backup.Restore(t.Context(), backup.Deps{Execer: c}, dir, set); err == nil {
		t.Error("half a dump was restored")
	}
	if after := state(); after != before {
		t.Errorf("half a dump changed the database: %s, was %s", after, before)
	}
	if err := dir.WriteFile(info.Name, b, 0o600); err != nil {
		t.Fatal(err)
	}

	for range 2 { // the second time it must find nothing of the first
		sql("DELETE FROM orders WHERE id % 2 = 0; ALTER TABLE customers ADD COLUMN email text, DROP COLUMN name; DROP TRIGGER noted;" +
			"CREATE TABLE invoices (id int PRIMARY KEY, of int, FOREIGN KEY (of) REFERENCES orders (id)); CREATE VIEW all_invoices AS SELECT * FROM invoices;" +
			"CREATE PROCEDURE nothing() SELECT 1; DROP VIEW big; CREATE TABLE big (n int)")
		if err := backup.Restore(t.Context(), backup.Deps{Execer: c}, dir, set); err != nil {
			t.Fatal(err)
		}
		if after := state(); after != before {
			t.Errorf("after Restore: %s, want %s", after, before)
		}
		if n := sql("SELECT count(*) FROM information_schema.routines WHERE routine_schema = 'orders'"); n != "1" {
			t.Errorf("%s routines after Restore, want 1", n)
		}
	}

	// The server is stopped: no dump, and in time.
	if err := c.Stop(context.Background(), "db"); err != nil {
		t.Fatal(err)
	}
	if _, err := dump(c, "c", "orders"); err == nil {
		t.Error("a dump of a server that is stopped")
	}
}
