package backup_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer/backup"
)

// inShell finds programs as a shell of the service would.
type inShell struct{ here }

func (x inShell) Exec(ctx context.Context, service string, argv []string, stdin io.Reader, stdout io.Writer) error {
	return x.here.Exec(ctx, service, append([]string{"/bin/sh", "-c", `exec "$@"`, "sh"}, argv...), stdin, stdout)
}

// TestPostgresPassword has servers that want a password on their socket, and images that
// call it by other names. The stand-ins say what libpq does; the shell is real.
func TestPostgresPassword(t *testing.T) {
	bin := t.TempDir()
	asks := "[ \"${PGPASSWORD:-}\" = sesame ] || { echo 'connection to server on socket failed: fe_sendauth: no password supplied' >&2; exit 1; }\n"
	for name, text := range map[string]string{
		"pg_dump":    asks + "echo $PGUSER@$PGDATABASE >" + bin + "/who; echo PGDMP",
		"psql":       asks + "cat >/dev/null; echo $PGUSER@$PGDATABASE >" + bin + "/who",
		"pg_restore": "cat",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(bin, "password")
	if err := os.WriteFile(file, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for name, tt := range map[string]struct {
		env  string
		user string
		want string
	}{
		"official":           {"POSTGRES_USER=shop POSTGRES_PASSWORD=sesame", "shop", ""},
		"official, a file":   {"POSTGRES_USER=shop POSTGRES_PASSWORD_FILE=" + file, "shop", ""},
		"official, default":  {"POSTGRES_PASSWORD=sesame", "postgres", ""},
		"bitnami":            {"POSTGRESQL_USERNAME=shop POSTGRESQL_PASSWORD=sesame", "shop", ""},
		"bitnami, superuser": {"POSTGRESQL_USERNAME=shop POSTGRESQL_PASSWORD=no POSTGRESQL_POSTGRES_PASSWORD=sesame", "postgres", ""},
		"sameersbn":          {"DB_USER=shop DB_PASS=sesame", "shop", ""},
		"libpq's own":        {"PGPASSWORD=sesame POSTGRES_PASSWORD=no", "shop", ""},
		"of another user":    {"POSTGRES_USER=shop POSTGRES_PASSWORD=sesame", "other", "no password supplied"},
		"none":               {"A=b", "shop", "no password supplied"},
	} {
		t.Run(name, func(t *testing.T) {
			d := backup.Deps{Execer: inShell{here{append(strings.Fields(tt.env), "PATH="+bin+":"+os.Getenv("PATH"))}}}
			set, err := backup.Save(t.Context(), d, dir, backup.Set{Record: "a", Version: "1.0.0"}, []bundle.Backup{{Postgres: &bundle.Postgres{Service: "db", User: tt.user, Database: "orders"}}}, nil)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v, want %q", err, tt.want)
			}
			if err != nil {
				return
			}
			if err := backup.Restore(t.Context(), d, dir, set); err != nil {
				t.Fatal(err)
			}
			if who, _ := os.ReadFile(filepath.Join(bin, "who")); tt.env != "PGPASSWORD=sesame POSTGRES_PASSWORD=no" && string(who) != tt.user+"@orders\n" {
				t.Errorf("it was %s", who)
			}
		})
	}
}
