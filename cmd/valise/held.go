package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
)

// maxHeld is how many bundles are looked into, the newest first.
const maxHeld = 8

// held finds blobs in bundles that lie where the new one goes, and in the one that is
// named with --from: what the release before has is not downloaded again.
type held struct {
	dir, from string

	once    sync.Once // for bundles and files
	bundles []*bundle.Reader
	files   []*parts.File

	mu    sync.Mutex                       // of blobs
	blobs map[bundle.Digest]*bundle.Reader // nil: in none of them
}

// blob opens a blob, or returns nil. The bundle that has it is read once before, because
// a damaged one must not spoil a release: then another one has it, or its registry.
func (h *held) blob(ctx context.Context, d bundle.Digest) io.ReadCloser {
	h.once.Do(h.open)
	h.mu.Lock()
	r, known := h.blobs[d]
	h.mu.Unlock()
	if !known {
		if i := slices.IndexFunc(h.bundles, func(r *bundle.Reader) bool { return r.HasBlob(d) && intact(ctx, r, d) }); i >= 0 {
			r = h.bundles[i]
		}
		h.mu.Lock()
		h.blobs[d] = r
		h.mu.Unlock()
	}
	if r == nil {
		return nil
	}
	rc, err := r.OpenBlob(d)
	if err != nil {
		return nil
	}
	return rc
}

// intact reads a blob to its end, where the reader compares it with its digest.
func intact(ctx context.Context, r *bundle.Reader, d bundle.Digest) bool {
	rc, err := r.OpenBlob(d)
	for err == nil && ctx.Err() == nil {
		_, err = io.CopyN(io.Discard, rc, 1<<20)
	}
	return err == io.EOF
}

// used counts the blobs that are in a bundle.
func (h *held) used() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.blobs {
		if r != nil {
			n++
		}
	}
	return n
}

// open opens the bundles. One that cannot be read has nothing.
func (h *held) open() {
	h.blobs = map[bundle.Digest]*bundle.Reader{}
	var infos []os.FileInfo
	entries, _ := os.ReadDir(h.dir)
	for _, e := range entries {
		name, n := parts.Split(e.Name())
		if info, err := e.Info(); parts.NamesBundle(name) && n <= 1 && err == nil && info.Mode().IsRegular() {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b os.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var paths []string
	if h.from != "" {
		paths = append(paths, h.from)
	}
	for _, info := range infos[:min(maxHeld, len(infos))] {
		paths = append(paths, filepath.Join(h.dir, info.Name()))
	}
	for _, path := range paths {
		r, f, err := parts.OpenBundle(path)
		if err != nil {
			continue
		}
		if r.Locate() != nil {
			f.Close()
			continue
		}
		h.bundles, h.files = append(h.bundles, r), append(h.files, f)
	}
}

// Close closes the bundles.
func (h *held) Close() {
	for _, f := range h.files {
		f.Close()
	}
}
