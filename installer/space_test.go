package installer

import (
	"errors"
	"io/fs"
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
