package docker

import (
	"crypto/sha256"
	"encoding/json"
	"sync"
)

// Read remembers what docker compose made of the files of a project: the same content
// means the same again, and each start of docker compose costs a small device a
// second. It is for one operation. The zero value is ready; nil remembers nothing.
type Read struct {
	mu   sync.Mutex
	made map[content]*Model
}

// content stands for all that docker compose reads of a project; the zero value for what
// it is asked each time.
type content [sha256.Size]byte

// maxRemembered is the largest file whose content is compared.
const maxRemembered = 1 << 20

func (c *Compose) content() (key content) {
	if c.Read == nil {
		return key
	}
	h := sha256.New()
	e := json.NewEncoder(h)
	_ = e.Encode([]any{c.Command, c.Env, c.Project, c.Dir, c.Profiles}) // a hash takes all
	for _, name := range append([]string{c.EnvFile}, c.Files...) {
		var b []byte
		if name != "" {
			var err error
			if b, err = readHead(name, maxRemembered); err != nil || len(b) == maxRemembered {
				return content{}
			}
		}
		_ = e.Encode(b)
	}
	h.Sum(key[:0])
	return key
}

func (r *Read) answer(key content) *Model {
	if key == (content{}) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.made[key]
}

func (r *Read) remember(key content, m *Model) {
	if key == (content{}) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.made == nil {
		r.made = map[content]*Model{}
	}
	r.made[key] = m
}
