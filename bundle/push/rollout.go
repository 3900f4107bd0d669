package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/rollout"
)

// A rollout file has a tag of its own, which never changes: rollout- and its sequence. It
// names a manifest whose layers are the file and its signature, so both come at once.

const (
	typeRollout = "application/vnd.valise.rollout.v1+json"
	rolloutTag  = "rollout-"
)

// Rollout copies a rollout file into a registry, and returns what names it there.
func Rollout(ctx context.Context, to name.Repository, sequence int64, text, signature []byte, options ...remote.Option) (string, error) {
	tag := to.Tag(rolloutTag + strconv.FormatInt(sequence, 10))
	pusher, err := remote.NewPusher(options...)
	if err != nil {
		return "", err
	}
	manifest := struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		ArtifactType  string       `json:"artifactType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}{2, string(types.OCIManifestSchema1), typeRollout, descriptor{}, nil}
	for i, b := range [][]byte{[]byte("{}"), text, signature} {
		d, open := inMemory([]string{typeEmpty, typeRollout, typeSignature}[i], b)
		if err := pusher.Upload(ctx, to, &blob{descriptor: d, open: open, sent: func(int64) {}}); err != nil {
			return "", fmt.Errorf("push %s: %w", tag, err)
		}
		if i == 0 {
			manifest.Config = d
		} else {
			manifest.Layers = append(manifest.Layers, d)
		}
	}
	doc, err := encode(manifest.MediaType, manifest)
	if err != nil {
		return "", err
	}
	if err := pusher.Put(ctx, tag, doc); err != nil {
		return "", fmt.Errorf("push %s: %w", tag, err)
	}
	return tag.Name(), nil
}

// ReadRollout reads the rollout file with the highest sequence of a repository, nothing
// when it has none. The sequence is there also where the file cannot be read.
func ReadRollout(ctx context.Context, from name.Repository, options ...remote.Option) (sequence int64, text, signature []byte, err error) {
	tags, err := remote.List(from, append(slices.Clone(options), remote.WithContext(ctx))...)
	if notFound(err) {
		return 0, nil, nil, nil
	}
	if err != nil {
		return 0, nil, nil, fmt.Errorf("list %s: %w", from, err)
	}
	for _, t := range tags {
		if number, ok := strings.CutPrefix(t, rolloutTag); ok {
			if n, err := strconv.ParseInt(number, 10, 64); err == nil {
				sequence = max(sequence, n)
			}
		}
	}
	if sequence == 0 {
		return 0, nil, nil, nil
	}
	tag := from.Tag(rolloutTag + strconv.FormatInt(sequence, 10))
	both, err := readRollout(ctx, tag, options)
	if err != nil {
		return sequence, nil, nil, fmt.Errorf("read %s: %w", tag, err)
	}
	return sequence, both[0], both[1], nil
}

func readRollout(ctx context.Context, tag name.Tag, options []remote.Option) (both [2][]byte, err error) {
	options = append(slices.Clone(options), remote.WithContext(ctx))
	got, err := remote.Get(tag, options...)
	if err != nil {
		return both, err
	}
	var manifest struct {
		Layers []descriptor `json:"layers"`
	}
	if err := json.Unmarshal(got.Manifest, &manifest); err != nil || len(manifest.Layers) != 2 {
		return both, errors.New("it is not a rollout file")
	}
	for i, limit := range []int64{rollout.MaxSize, bundle.MaxSignatureSize} {
		layer, err := remote.Layer(tag.Digest(string(manifest.Layers[i].Digest)), options...)
		if err != nil {
			return both, err
		}
		rc, err := layer.Compressed() // compared with its digest
		if err != nil {
			return both, err
		}
		both[i], err = io.ReadAll(io.LimitReader(rc, limit+1))
		rc.Close()
		if err == nil && int64(len(both[i])) > limit {
			err = fmt.Errorf("it has more than %d bytes", limit)
		}
		if err != nil {
			return both, err
		}
	}
	return both, nil
}
