package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/renameio/v2"

	"github.com/valise-ota/valise/bundle"
)

// spool keeps chunks of one file on disk, each under a name that says which bytes
// they are and what their digest was. It is a cache: what cannot be written is
// not there, and what reads otherwise than it was written is not used. A nil
// spool is always empty.
type spool struct {
	dir  string
	mu   sync.Mutex
	have map[bundle.Range]string // name of the file
	full bool                    // a write failed: no more
}

// openSpool opens the spool for key below dir and removes those of other keys.
func openSpool(dir, key string) (*spool, error) {
	sum := sha256.Sum256([]byte(key))
	name := hex.EncodeToString(sum[:16])
	if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
		return nil, err
	}
	others, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		if o.Name() != name {
			if err := os.RemoveAll(filepath.Join(dir, o.Name())); err != nil {
				return nil, err
			}
		}
	}
	s := &spool{dir: filepath.Join(dir, name), have: map[bundle.Range]string{}}
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		var r bundle.Range
		var digest string
		if n, _ := fmt.Sscanf(f.Name(), "%d-%d-%64s", &r.From, &r.To, &digest); n == 3 && f.Name() == spoolName(r, digest) {
			s.have[r] = f.Name()
		} else if err := os.Remove(filepath.Join(s.dir, f.Name())); err != nil { // of a write that was cut off
			return nil, err
		}
	}
	return s, nil
}

func spoolName(r bundle.Range, digest string) string {
	return fmt.Sprintf("%d-%d-%s", r.From, r.To, digest)
}

// get returns what is kept of a range, or nil.
func (s *spool) get(r bundle.Range) []byte {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have[r] == "" {
		return nil
	}
	name := s.have[r]
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	sum := sha256.Sum256(b)
	if err != nil || int64(len(b)) != r.To-r.From || name != spoolName(r, hex.EncodeToString(sum[:])) {
		delete(s.have, r)
		_ = os.Remove(filepath.Join(s.dir, name))
		return nil
	}
	return b
}

// put keeps a range, durable when it returns. Where there is no room, what was
// kept goes: the engine needs it more.
func (s *spool) put(r bundle.Range, b []byte) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full || s.have[r] != "" {
		return
	}
	sum := sha256.Sum256(b)
	name := spoolName(r, hex.EncodeToString(sum[:]))
	if err := renameio.WriteFile(filepath.Join(s.dir, name), b, 0o600); err != nil {
		s.full = true
		_ = os.RemoveAll(s.dir)
		clear(s.have)
		return
	}
	s.have[r] = name
}
