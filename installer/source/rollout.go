package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/rollout"
)

// rolloutTag begins the tags of rollout files in a registry, before their sequence.
const rolloutTag = "rollout-"

// rolloutAttempts is how often each of the two files is asked for: what comes of one look
// does not matter much, the next one is soon.
const rolloutAttempts = 3

// Rollout is the newest rollout file that a source has: a stranger's, until its signature
// is verified.
type Rollout struct {
	Sequence  int64 // as its name says
	Name      string
	Text      []byte // nil when it is not newer than what was asked for
	Signature []byte
}

func newListing(app string, files []found) *listing {
	return &listing{releases: group(app, files), rollouts: rollouts(app, files)}
}

// rollouts are those files that are rollout files of app, or signatures of such.
func rollouts(app string, files []found) (list []found) {
	for _, f := range files {
		if _, ok := rollout.ParseFileName(app, strings.TrimSuffix(f.file, rollout.SignatureSuffix)); ok {
			list = append(list, f)
		}
	}
	return list
}

// Rollout reads the rollout file with the highest sequence, unless that is not above the
// one that is known. It is nil when there is no such file. The last list of releases says
// what there is; one is made where there is none.
func (s *Source) Rollout(ctx context.Context, known int64) (*Rollout, error) {
	s.mu.Lock()
	l := s.listed
	s.mu.Unlock()
	var err error
	if l == nil {
		if l, err = s.all(ctx); err != nil {
			return nil, err
		}
	}
	r := &Rollout{}
	files := map[string]part{}
	for _, f := range l.rollouts {
		files[f.file] = f.part
		if n, ok := rollout.ParseFileName(s.app, f.file); ok && n > r.Sequence {
			r.Sequence, r.Name = n, f.file
		}
	}
	if r.Sequence == 0 {
		return nil, nil
	}
	if r.Sequence <= known {
		return r, nil
	}
	text, signature := files[r.Name], files[r.Name+rollout.SignatureSuffix]
	if t := text.tag; t != nil {
		r.Text, r.Signature, err = t.rollout(ctx)
	} else if r.Text, err = text.small(ctx, rollout.MaxSize); err == nil {
		r.Signature, err = signature.small(ctx, bundle.MaxSignatureSize)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s in %s: %w", r.Name, s, err)
	}
	return r, nil
}

// small reads a small file, wherever it is.
func (p part) small(ctx context.Context, limit int64) ([]byte, error) {
	switch {
	case p.url != "":
		b, _, err := p.read(ctx, rolloutAttempts, limit)
		return b, err
	case p.path == "":
		return nil, errors.New("there is no signature beside it")
	}
	// It may lie where others write: a pipe, or a link to something else.
	f, err := os.OpenFile(p.path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("it is not a regular file"))
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return b, err
}

// rollout reads what a tag names as a rollout file: a manifest of the file and its
// signature.
func (t *tag) rollout(ctx context.Context) (text, signature []byte, err error) {
	var artifact struct {
		Layers []descriptor `json:"layers"`
	}
	err = first(ctx, t.in.byWord(), func(at *repository) error {
		b, _, err := at.get(ctx, "manifests/"+t.name, typeManifest, maxImageManifest)
		if err == nil {
			err = json.Unmarshal(b, &artifact)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if len(artifact.Layers) != 2 {
		return nil, nil, errors.New("the tag names something else than a rollout file; valise rollout makes those")
	}
	var both [2][]byte
	for i, limit := range []int64{rollout.MaxSize, bundle.MaxSignatureSize} {
		d := artifact.Layers[i]
		if !d.Digest.Valid() || d.Size < 1 || d.Size > limit {
			return nil, nil, fmt.Errorf("%d bytes with digest %.80q in place of a rollout file or signature, limit %d", d.Size, d.Digest, limit)
		}
		err := first(ctx, t.in.byDigest(), func(at *repository) (err error) {
			if both[i], _, err = at.get(ctx, "blobs/"+string(d.Digest), "", d.Size); err == nil {
				err = rightBytes(at.base.Host, bundle.DigestOf(both[i]), d.Digest)
			}
			return err
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return both[0], both[1], nil
}
