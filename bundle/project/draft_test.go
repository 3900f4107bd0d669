package project

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestDraft writes a project for compose files as they are found in the world.
// The result and the notes stand in the archives, after the files; -update writes
// them.
func TestDraft(t *testing.T) {
	archives, err := filepath.Glob("testdata/draft/*.txtar")
	if err != nil || len(archives) < 5 {
		t.Fatal(archives, err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "My Project")
			want := map[string]string{}
			archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool {
				if strings.HasPrefix(f.Name, "want/") {
					want[f.Name] = string(f.Data)
					return true
				}
				write(t, filepath.Join(dir, f.Name), string(f.Data))
				return false
			})
			compose := archive.Files[0].Name
			d, err := NewDraft(t.Context(), dir, []string{compose}, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{"want/valise.yaml": string(d.YAML), "want/notes": strings.Join(append(d.Notes, ""), "\n")}
			if *update {
				for _, name := range []string{"want/valise.yaml", "want/notes"} {
					archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(got[name])})
				}
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			for name := range got {
				if got[name] != want[name] {
					t.Errorf("%s: got\n%s\nwant\n%s", name, got[name], want[name])
				}
			}
			// It loads, and every line that says something explains it.
			write(t, filepath.Join(dir, DefaultFile), got["want/valise.yaml"])
			p, err := Load(t.Context(), filepath.Join(dir, DefaultFile))
			if err != nil {
				t.Fatal(err)
			}
			explained := false
			for line := range strings.Lines(got["want/valise.yaml"]) {
				switch line = strings.TrimSpace(line); {
				case strings.HasPrefix(line, "#"):
					explained = true
				case line == "":
					explained = false
				case !strings.Contains(line, " # ") && !explained:
					t.Errorf("not explained: %s", line)
				}
			}
			// With what the notes ask for it is a release; where they ask for nothing, it is one at once.
			if _, err := p.Release(t.Context(), "1.2.3", p.Platforms); (err == nil) != !slices.ContainsFunc(d.Notes, func(n string) bool {
				return strings.Contains(n, "write") && !strings.Contains(n, "restart") || strings.Contains(n, "only a device knows: use") || strings.Contains(n, "want it and") || strings.Contains(n, "give it a default")
			}) {
				t.Errorf("release: %v", err)
			}
		})
	}
}

func TestDraftRefused(t *testing.T) {
	dir := t.TempDir()
	if _, err := NewDraft(t.Context(), dir, []string{"compose.yaml"}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	write(t, filepath.Join(dir, "compose.yaml"), "services: {a: {imagge: b}}\n")
	_, err := NewDraft(t.Context(), dir, []string{"compose.yaml"}, nil)
	if want := dir + "/compose.yaml: validating: services.a.imagge is not a known key"; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func FuzzDraft(f *testing.F) {
	archives, err := filepath.Glob("testdata/draft/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(archive.Files[0].Data)
	}
	f.Add([]byte("name: m"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "compose.yaml"), string(data))
		// A draft that Load would refuse is an error of its own kind.
		if _, err := NewDraft(t.Context(), dir, []string{"compose.yaml"}, nil); err != nil && bytes.Contains([]byte(err.Error()), []byte("write a project for")) {
			t.Error(err)
		}
	})
}
