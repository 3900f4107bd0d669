package backup_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/moby/moby/client"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
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

// truncated cuts what program writes, as if it had ended well.
type truncated struct {
	backup.Execer
	program string
	limit   int64
}

func (x truncated) Exec(ctx context.Context, service string, argv []string, stdin io.Reader, stdout io.Writer) error {
	if argv[0] != x.program {
		return x.Execer.Exec(ctx, service, argv, stdin, stdout)
	}
	var all bytes.Buffer
	if err := x.Execer.Exec(ctx, service, argv, stdin, &all); err != nil {
		return err
	}
	_, err := io.CopyN(stdout, &all, x.limit)
	return err
}

// testEngine connects the engine of the tests.
func testEngine(t *testing.T) *docker.Engine {
	host := os.Getenv("VALISE_TEST_DOCKER_HOST")
	if host == "" {
		need(t, "an engine (VALISE_TEST_DOCKER_HOST)")
	}
	e, err := docker.Connect(t.Context(), host, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// testProject runs image as service db, with a volume at data, until the test
// ends.
func testProject(t *testing.T, e *docker.Engine, image v1.Image, data string, service map[string]any) *docker.Compose {
	t.Helper()
	env := docker.Env{Path: os.Getenv("PATH"), Home: t.TempDir(), Host: e.Host(), DockerConfig: os.Getenv("DOCKER_CONFIG")}
	program, err := docker.FindCompose(t.Context(), env)
	if err != nil {
		need(t, err.Error())
	}
	app := "t" + strings.ToLower(rand.Text())
	service["image"], service["pull_policy"], service["network_mode"] = loadImage(t, e, app, image), "never", "none"
	service["volumes"] = []string{"data:" + data}
	work := t.TempDir()
	file := filepath.Join(work, "compose.yml")
	text, err := json.Marshal(map[string]any{"services": map[string]any{"db": service}, "volumes": map[string]any{"data": map[string]any{}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &docker.Compose{Program: program, Env: env, Engine: e, Project: "valise-test-" + app, Dir: work, Files: []string{file}}
	t.Cleanup(func() {
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
		// Down keeps volumes, always; this one is the test's own.
		api, err := client.New(client.WithHost(e.Host()))
		if err == nil {
			_, err = api.VolumeRemove(context.Background(), c.Project+"_data", client.VolumeRemoveOptions{})
		}
		if err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			logs := exec.Command(program.Command[0], append(program.Command[1:], "--project-name", c.Project, "logs", "--tail=40")...)
			logs.Env = append(os.Environ(), "DOCKER_HOST="+e.Host())
			out, err := logs.CombinedOutput()
			t.Logf("%s%v", out, err)
		}
	})
	if err := c.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPostgres(t *testing.T) {
	images := os.Getenv("VALISE_TEST_IMAGES")
	if images == "" {
		need(t, "the sample images (VALISE_TEST_IMAGES, printed by scripts/sample-images.sh)")
	}
	e := testEngine(t)
	c := testProject(t, e, layoutImage(t, e, filepath.Join(images, "postgres")), "/var/lib/postgresql/data", map[string]any{
		"environment": map[string]string{"POSTGRES_USER": "shop", "POSTGRES_DB": "orders", "POSTGRES_PASSWORD": "secret"},
	})
	sql := func(q string) string {
		t.Helper()
		var out bytes.Buffer
		if err := c.Exec(t.Context(), "db", []string{"psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "shop", "-d", "orders", "-c", q}, nil, &out); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
	for deadline := time.Now().Add(bundletest.Patience()); ; time.Sleep(50 * time.Millisecond) {
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

	// The service itself says who and what it is.
	declared, err := backup.Save(t.Context(), backup.Deps{Execer: c}, dir, backup.Set{Record: "declared", Version: "1.0.0"}, []bundle.Backup{{Postgres: &bundle.Postgres{Service: "db"}}}, nil)
	if err != nil || declared.Items[0].Size < info.Size*9/10 {
		t.Errorf("without a name: %+v, %v", declared, err)
	}

	// A dump cut off anywhere is no dump.
	for _, limit := range []int64{3, 100, info.Size / 2, info.Size - 1} {
		if _, err := dump(truncated{c, "pg_dump", limit}, "b", "orders"); err == nil {
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

	// A server that wants a password on its socket too gets the service's own.
	sql(`alter user shop password 'secret'`)
	sql(`copy (select 'local all all scram-sha-256') to '/var/lib/postgresql/data/pg_hba.conf'`)
	sql(`select pg_reload_conf()`)
	for deadline := time.Now().Add(bundletest.Patience()); ; time.Sleep(50 * time.Millisecond) {
		if err := c.Exec(t.Context(), "db", []string{"psql", "-X", "-q", "-w", "-U", "shop", "-d", "orders", "-c", "select 1"}, nil, io.Discard); err != nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("the server asks for no password")
		}
	}
	locked, err := dump(c, "d", "orders")
	if err != nil {
		t.Fatal(err)
	}
	if err := backup.Restore(t.Context(), backup.Deps{Execer: c}, dir, locked); err != nil {
		t.Error(err)
	}
}

// layoutImage is the image of a layout for the engine's platform.
func layoutImage(t *testing.T, e *docker.Engine, dir string) v1.Image {
	t.Helper()
	info, err := e.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	indexes, err := partial.FindIndexes(root, func(v1.Descriptor) bool { return true })
	if err != nil || len(indexes) != 1 {
		t.Fatalf("%s has %d indexes, want 1: %v", dir, len(indexes), err)
	}
	found, err := partial.FindImages(indexes[0], func(d v1.Descriptor) bool { return d.Platform.Architecture == info.Platform.Arch() })
	if err != nil || len(found) != 1 {
		t.Fatalf("%s has %d images for %s, want 1: %v", dir, len(found), info.Platform, err)
	}
	return found[0]
}

// loadImage loads an image until the test ends, and returns its ID.
func loadImage(t *testing.T, e *docker.Engine, app string, image v1.Image) (id string) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	m, err := image.Manifest()
	must(err)
	cfg, err := image.ConfigFile()
	must(err)
	d, err := partial.Descriptor(image)
	must(err)
	descriptor := func(d v1.Descriptor) bundle.Descriptor {
		return bundle.Descriptor{MediaType: string(d.MediaType), Digest: bundle.Digest(d.Digest.String()), Size: d.Size}
	}
	img := bundle.Image{Platform: bundle.Platform(cfg.OS + "/" + cfg.Architecture), Manifest: descriptor(*d), Config: descriptor(m.Config)}
	for i, l := range m.Layers {
		img.Layers = append(img.Layers, bundle.Layer{Descriptor: descriptor(l), DiffID: bundle.Digest(cfg.RootFS.DiffIDs[i].String())})
	}
	list := []docker.TaggedImage{{Tag: docker.Tag(app, img), Image: img}}
	must(e.Load(t.Context(), list, nil, func(d bundle.Descriptor) (io.ReadCloser, error) {
		switch d.Digest {
		case img.Manifest.Digest:
			b, err := image.RawManifest()
			return io.NopCloser(bytes.NewReader(b)), err
		case img.Config.Digest:
			b, err := image.RawConfigFile()
			return io.NopCloser(bytes.NewReader(b)), err
		}
		layer, err := image.LayerByDigest(v1.Hash{Algorithm: "sha256", Hex: d.Digest.Hex()})
		if err != nil {
			return nil, err
		}
		return layer.Compressed()
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
