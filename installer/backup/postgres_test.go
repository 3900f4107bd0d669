package backup_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/moby/moby/client"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/docker"
)

// need skips a test that needs something this machine lacks; in CI it fails.
func need(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing: %s", what)
	}
	t.Skipf("missing: %s", what)
}

// truncated cuts what pg_dump writes, as if it had ended well.
type truncated struct {
	backup.Execer
	limit int64
}

func (x truncated) Exec(ctx context.Context, service string, argv []string, stdin io.Reader, stdout io.Writer) error {
	if argv[0] != "pg_dump" {
		return x.Execer.Exec(ctx, service, argv, stdin, stdout)
	}
	var all bytes.Buffer
	if err := x.Execer.Exec(ctx, service, argv, stdin, &all); err != nil {
		return err
	}
	_, err := io.CopyN(stdout, &all, x.limit)
	return err
}

func TestPostgres(t *testing.T) {
	host, images := os.Getenv("VALISE_TEST_DOCKER_HOST"), os.Getenv("VALISE_TEST_IMAGES")
	if host == "" {
		need(t, "an engine (VALISE_TEST_DOCKER_HOST)")
	}
	if images == "" {
		need(t, "the sample images (VALISE_TEST_IMAGES, printed by scripts/sample-images.sh)")
	}
	e, err := docker.Connect(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	env := docker.Env{Path: os.Getenv("PATH"), Home: t.TempDir(), Host: host, DockerConfig: os.Getenv("DOCKER_CONFIG")}
	command, _, err := docker.FindCompose(t.Context(), env)
	if err != nil {
		need(t, err.Error())
	}
	app := "t" + strings.ToLower(rand.Text())
	id := loadPostgres(t, e, app, filepath.Join(images, "postgres"))

	work := t.TempDir()
	file := filepath.Join(work, "compose.yml")
	text := fmt.Sprintf(`
services:
  db: {image: %q, pull_policy: never, network_mode: none, environment: {POSTGRES_USER: shop, POSTGRES_DB: orders, POSTGRES_PASSWORD: secret}, volumes: ["data:/var/lib/postgresql/data"]}
volumes: {data: {}}
`, id)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &docker.Compose{Command: command, Env: env, Engine: e, Project: "valise-test-" + app, Dir: work, Files: []string{file}}
	t.Cleanup(func() {
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
		// Down keeps volumes, always; this one is the test's own.
		api, err := client.New(client.WithHost(host))
		if err == nil {
			_, err = api.VolumeRemove(context.Background(), c.Project+"_data", client.VolumeRemoveOptions{})
		}
		if err != nil {
			t.Error(err)
		}
	})
	if err := c.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	sql := func(q string) string {
		t.Helper()
		var out bytes.Buffer
		if err := c.Exec(t.Context(), "db", []string{"psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "shop", "-d", "orders", "-c", q}, nil, &out); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if err := c.Exec(t.Context(), "db", []string{"pg_isready", "-q", "-U", "shop", "-d", "orders"}, nil, io.Discard); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	sql(`create table customers (id int primary key, name text);
		create table orders (id int primary key, customer int references customers, note text);
		insert into customers select i, md5(i::text) from generate_series(1, 1000) i;
		insert into orders select i, 1 + i % 1000, md5(i::text) || md5((i+1)::text) from generate_series(1, 50000) i`)
	state := `select count(*), md5(string_agg(o.id || note || name, ',' order by o.id)) from orders o join customers c on c.id = customer`
	sql(`create function total(int) returns bigint language sql as 'select count(*) from orders where customer = $1';
		create type size as enum ('s', 'l'); create schema stock; create table stock.items (id serial, size size);
		create view big as select * from orders where total(customer) > 1`)
	const objects = `select string_agg(d, '; ' order by d) from (select pg_describe_object(classid, objid, objsubid) d from (
		select 'pg_class'::regclass classid, oid objid, 0 objsubid from pg_class where relnamespace in (select oid from pg_namespace where nspname !~ '^pg_(toast|catalog)|^information_schema')
		union select 'pg_class'::regclass, attrelid, attnum from pg_attribute where attnum > 0 and not attisdropped and attrelid >= 16384
		union select 'pg_proc'::regclass, oid, 0 from pg_proc where pronamespace = 'public'::regnamespace
		union select 'pg_type'::regclass, oid, 0 from pg_type where typnamespace = 'public'::regnamespace
		union select 'pg_namespace'::regclass, oid, 0 from pg_namespace) o) o where d !~ 'pg_toast'`
	before, made := sql(state), sql(objects)

	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	dump := func(x backup.Execer, record, database string) (backup.Set, error) {
		list := []bundle.Backup{{Postgres: &bundle.Postgres{Service: "db", User: "shop", Database: database}}}
		return backup.Save(t.Context(), backup.Deps{Execer: x}, dir, backup.Set{Record: record, Version: "1.0.0"}, list, nil)
	}
	set, err := dump(c, "a", "orders")
	if err != nil {
		t.Fatal(err)
	}
	info := set.Items[0]
	t.Logf("%+v", info)
	if b, err := dir.ReadFile(info.Name); err != nil || bundle.DigestOf(b) != info.Digest || int64(len(b)) != info.Size {
		t.Errorf("file differs from %+v: %v", info, err)
	}

	// A dump cut off anywhere is no dump.
	for _, limit := range []int64{3, 100, info.Size / 2, info.Size - 1} {
		if _, err := dump(truncated{c, limit}, "b", "orders"); err == nil {
			t.Errorf("dump of %d of %d bytes: nil error", limit, info.Size)
		}
	}
	if _, err := dump(c, "b", "nothing"); err == nil || !strings.Contains(err.Error(), `database "nothing" does not exist`) {
		t.Errorf("Dump of no database: %v", err)
	}
	if _, err := dir.Stat("000002-b-1.0.0-db.dump"); err == nil {
		t.Error("a failed dump got its name")
	}

	// What a migration does: data and tables changed, others added, some of
	// them depending on tables of the dump.
	const migration = `delete from orders where id % 2 = 0; alter table customers add column email text;
		create type state as enum ('open', 'paid'); create domain code as text; create type pair as (a int, b int);
		create table invoices (id int generated always as identity primary key, "order" int references orders, state state);
		create view totals as select customer, count(*) from orders group by customer;
		create materialized view names as select name from customers;
		create function first_order() returns setof orders language sql as 'select * from orders limit 1';
		create procedure nothing() language sql as 'select 1';
		create schema audit; create table audit.log (customer int references customers);
		create sequence numbers; create table parts (id int) partition by range (id)`
	for range 2 { // the second time it must find nothing of the first
		sql(migration)
		if err := backup.Restore(t.Context(), backup.Deps{Execer: c}, dir, set); err != nil {
			t.Fatal(err)
		}
		if after := sql(state); after != before {
			t.Errorf("after Restore: %s, want %s", after, before)
		}
		if after := sql(objects); after != made {
			t.Errorf("objects after Restore: %s\nwant: %s", after, made)
		}
	}

	// A restore that fails changes nothing: here a table of the dump belongs to
	// a role that is gone.
	sql(`create role guest; create table of_guest (id int); alter table of_guest owner to guest`)
	bad, err := dump(c, "c", "orders")
	if err != nil {
		t.Fatal(err)
	}
	sql(`drop table of_guest; drop role guest; ` + migration)
	changed := sql(state) + sql(objects)
	if err := backup.Restore(t.Context(), backup.Deps{Execer: c}, dir, bad); err == nil || !strings.Contains(err.Error(), `role "guest" does not exist`) {
		t.Errorf("Restore without a role: %v", err)
	}
	if after := sql(state) + sql(objects); after != changed {
		t.Errorf("a failed Restore changed the database:\n%s\nwas %s", after, changed)
	}
}

func loadPostgres(t *testing.T, e *docker.Engine, app, dir string) (id string) {
	t.Helper()
	info, err := e.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	idx, err := layout.ImageIndexFromPath(dir)
	must(err)
	p := info.Platform
	found, err := partial.FindImages(idx, func(d v1.Descriptor) bool { return true })
	must(err)
	indexes, err := partial.FindIndexes(idx, func(d v1.Descriptor) bool { return true })
	must(err)
	for _, i := range indexes {
		more, err := partial.FindImages(i, func(d v1.Descriptor) bool { return d.Platform == nil || d.Platform.Architecture == p.Arch() })
		must(err)
		found = append(found, more...)
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d images for %s, want 1", dir, len(found), p)
	}
	m, err := found[0].Manifest()
	must(err)
	cfg, err := found[0].ConfigFile()
	must(err)
	d, err := partial.Descriptor(found[0])
	must(err)
	descriptor := func(d v1.Descriptor) bundle.Descriptor {
		return bundle.Descriptor{MediaType: string(d.MediaType), Digest: bundle.Digest(d.Digest.String()), Size: d.Size}
	}
	img := bundle.Image{Platform: p, Manifest: descriptor(*d), Config: descriptor(m.Config)}
	for i, l := range m.Layers {
		img.Layers = append(img.Layers, bundle.Layer{Descriptor: descriptor(l), DiffID: bundle.Digest(cfg.RootFS.DiffIDs[i].String())})
	}
	list := []docker.TaggedImage{{Tag: docker.Tag(app, img), Image: img}}
	must(e.Load(t.Context(), list, nil, func(d bundle.Descriptor) (io.ReadCloser, error) {
		return os.Open(filepath.Join(dir, "blobs", "sha256", d.Digest.Hex()))
	}, nil))
	ids, err := e.Check(t.Context(), list)
	must(err)
	t.Cleanup(func() {
		// What is left is in use: the sample shop of another package runs the same image.
		if _, err := e.Remove(context.Background(), app, []string{list[0].Tag}); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return ids[list[0].Tag]
}
