package backup_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer/backup"
)

// here runs commands on this machine, with programs of a directory before others.
type here struct{ env []string }

func (h here) Exec(ctx context.Context, _ string, argv []string, stdin io.Reader, stdout io.Writer) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var said strings.Builder
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = h.env, stdin, stdout, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, &said)
	}
	return nil
}

// TestMongo has stand-ins for MongoDB's tools, which Debian does not have: it is about
// what they are told, in a real shell, and about archives that are cut off.
func TestMongo(t *testing.T) {
	bin := t.TempDir()
	for name, text := range map[string]string{
		"mongodump":    "echo \"$@\" >>" + bin + "/told; cat /dev/fd/3 >>" + bin + "/told; cat " + bin + "/archive",
		"mongorestore": "echo \"$@\" >>" + bin + "/told; cat >" + bin + "/restored",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(bin, "secret")
	if err := os.WriteFile(secret, []byte("a \"b\" \\ c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	const whole = "\x6d\xe2\x99\x81 documents \xff\xff\xff\xff"
	for _, tt := range []struct{ name, archive, database, env, told, want string }{
		{"as root", whole, "", "MONGO_INITDB_ROOT_USERNAME=admin", "--quiet --username=admin --authenticationDatabase=admin --config=/dev/fd/3 --archive\npassword: \"a \\\"b\\\" \\\\ c\"\n", ""},
		{"one database", whole, "shop", "MONGODB_ROOT_USER=root", "--config=/dev/fd/3 --archive --db=shop\n", ""},
		{"without a password", whole, "", "MONGO_INITDB_ROOT_PASSWORD_FILE=", "--quiet --archive\npassword: \"\"\n", ""},
		{"cut off", whole[:10], "", "A=b", "", "without the end of an archive"},
		{"something else", "connected\n", "", "A=b", "", "its output begins with 636f6e6e"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			os.Remove(filepath.Join(bin, "told"))
			if err := os.WriteFile(filepath.Join(bin, "archive"), []byte(tt.archive), 0o600); err != nil {
				t.Fatal(err)
			}
			d := backup.Deps{Execer: here{[]string{"PATH=" + bin + ":" + os.Getenv("PATH"), "MONGO_INITDB_ROOT_PASSWORD_FILE=" + secret, "MONGODB_ROOT_PASSWORD_FILE=", tt.env}}}
			set, err := backup.Save(t.Context(), d, dir, backup.Set{Record: "a", Version: "1.0.0"}, []bundle.Backup{{Mongo: &bundle.Mongo{Service: "db", Database: tt.database}}}, nil)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v, want %q", err, tt.want)
			}
			told, _ := os.ReadFile(filepath.Join(bin, "told"))
			if !strings.Contains(string(told), tt.told) {
				t.Errorf("mongodump was told\n%s\nwant\n%s", told, tt.told)
			}
			if err != nil {
				return
			}
			if err := backup.Restore(t.Context(), d, dir, set); err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(filepath.Join(bin, "restored")); string(got) != tt.archive {
				t.Errorf("mongorestore got %q", got)
			}
			told, _ = os.ReadFile(filepath.Join(bin, "told"))
			if want := "--archive --drop --stopOnError"; !strings.Contains(string(told), want) || tt.database != "" && !strings.Contains(string(told), "--nsInclude=shop.*") {
				t.Errorf("mongorestore was told\n%s", told)
			}
		})
	}
}
