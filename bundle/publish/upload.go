package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
)

// fill uploads what a release lacks. In a draft, what differs is replaced.
func (j *job) fill(ctx context.Context, rel *Release, files []local) (uploaded int, err error) {
	assets, err := j.Assets(ctx, rel.ID)
	if err != nil {
		return 0, err
	}
	var missing []local
	var total int64
	for _, f := range files {
		i := slices.IndexFunc(assets, func(a Asset) bool { return a.Name == f.Name })
		if i >= 0 && f.is(assets[i]) && assets[i].Digest != "" {
			continue
		}
		missing = append(missing, f)
		total += f.size
		if i >= 0 {
			if err := j.remove(ctx, assets[i]); err != nil {
				return 0, err
			}
		}
	}
	for _, a := range assets {
		if ours := slices.ContainsFunc(j.files, func(f local) bool { return f.Name == a.Name }); ours {
			continue
		}
		if a.State != stateUploaded {
			if err := j.remove(ctx, a); err != nil {
				return 0, err
			}
			continue
		}
		j.Note("%s is in release %s and not from this run: it stays, unchecked", a.Name, rel.Tag)
	}
	if len(missing) == 0 {
		return 0, nil
	}
	update, finish := j.Progress(fmt.Sprintf("upload %d files", len(missing)))
	count := &counter{total: total, update: update}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, f := range missing {
		group.Go(func() error { return j.upload(groupCtx, rel, f, count) })
	}
	err = group.Wait()
	finish(err)
	return len(missing), err
}

// is reports whether GitHub has the file complete and, as far as it says, with
// the same bytes.
func (f local) is(a Asset) bool {
	return a.State == stateUploaded && a.Size == f.size && (a.Digest == "" || a.Digest == f.digest)
}

func (j *job) remove(ctx context.Context, a Asset) error {
	err := j.do(ctx, "remove "+a.Name, http.MethodDelete, fmt.Sprintf("%s/releases/assets/%d", j.path, a.ID), nil, nil)
	if errors.Is(err, errNotFound) { // an earlier try did it
		return nil
	}
	return err
}

// upload sends one file. A try that failed leaves something half there, or all
// of it: that is looked up, and removed or taken.
func (j *job) upload(ctx context.Context, rel *Release, f local, count *counter) error {
	first := true
	return j.again(ctx, func() error {
		if !first {
			assets, err := j.Assets(ctx, rel.ID)
			if err != nil {
				return err
			}
			for _, a := range assets {
				switch {
				case a.Name != f.Name:
				case f.is(a) && a.Digest != "":
					return nil
				default:
					if err := j.remove(ctx, a); err != nil {
						return err
					}
				}
			}
		}
		first = false
		return j.send(ctx, rel, f, count)
	})
}

func (j *job) send(ctx context.Context, rel *Release, f local, count *counter) (err error) {
	action := "upload " + f.Name
	file, err := os.Open(f.Path)
	if err != nil {
		return backoff.Permanent(err)
	}
	defer file.Close()
	target, _, _ := strings.Cut(rel.UploadURL, "{")
	sent := count.part()
	req, err := j.client.NewUploadRequest(target+"?name="+url.QueryEscape(f.Name), io.TeeReader(io.LimitReader(file, f.size), sent), f.size, "application/octet-stream")
	if err != nil {
		return backoff.Permanent(fmt.Errorf("%s: %w", action, err))
	}
	var a Asset
	if _, err = j.client.Do(ctx, req, &a); err != nil {
		sent.takeBack()
		err = j.wrap(ctx, action, err)
		if errors.Is(err, errNotFound) {
			err = backoff.Permanent(&PermissionError{Action: action, Token: j.token, Message: "Not Found"})
		}
		if no := new(refusal); errors.As(err, &no) && strings.Contains(no.text, "already_exists") {
			return fmt.Errorf("%s: something of that name is half there", action) // look again
		}
		return err
	}
	if a.Name != f.Name || !f.is(a) {
		sent.takeBack()
		return fmt.Errorf("%s: GitHub has %s, %d bytes, %s, state %q; sent were %d bytes, %s", action, a.Name, a.Size, a.Digest, a.State, f.size, f.digest)
	}
	return nil
}

// counter adds up what several uploads sent.
type counter struct {
	mu          sync.Mutex
	done, total int64
	update      func(done, total int64)
}

func (c *counter) add(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	c.update(c.done, c.total)
}

func (c *counter) part() *part { return &part{counter: c} }

// part is one upload of a counter.
type part struct {
	*counter
	sent int64
}

func (p *part) Write(b []byte) (int, error) {
	p.sent += int64(len(b))
	p.add(int64(len(b)))
	return len(b), nil
}

// takeBack says that nothing of it arrived.
func (p *part) takeBack() {
	p.add(-p.sent)
	p.sent = 0
}
