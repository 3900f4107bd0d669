package installer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFreeBytes(t *testing.T) {
	if n, err := FreeBytes(t.TempDir()); err != nil || n <= 0 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := FreeBytes("/nowhere"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
	if n, err := FreeBytesFor(t.TempDir() + "/not/yet"); err != nil || n <= 0 {
		t.Errorf("of what is to be made: %d, %v", n, err)
	}
}

func TestRoom(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil { // as a download without a name
		t.Fatal(err)
	}
	free, err := FreeBytes(filepath.Dir(f.Name()))
	if err != nil {
		t.Fatal(err)
	}
	if err := Room(f, 1); err != nil {
		t.Errorf("one byte: %v", err)
	}
	for _, n := range []int64{free - Spare/2, 900 << 30, 1<<63 - 1} {
		if err := Room(f, n); err == nil || !strings.Contains(err.Error(), "not enough space in "+filepath.Dir(f.Name())) {
			t.Errorf("%d bytes, %d free: %v", n, free, err)
		}
	}
}
