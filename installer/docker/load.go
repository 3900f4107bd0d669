package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/trace"
)

// Load streams images into the engine as one archive and gives them their tags.
// Layers in skip are not sent: the engine must have them (Missing). open
// returns a blob; what it yields must be verified by then, and its error, or
// that of a read, ends the load and is the error returned. progress may be nil;
// it is told the bytes of the blobs sent so far and in all.
//
// Memory does not depend on the size of the images and no file is written on
// our side. The error nil means that the engine took everything and complained
// of nothing; it is neither checked (Check) nor durable (Sync). After an error
// some images may be tagged all the same.
func (e *Engine) Load(ctx context.Context, images []TaggedImage, skip map[bundle.Digest]bool,
	open func(bundle.Descriptor) (io.ReadCloser, error), progress func(done, total int64)) error {
	a, err := newArchive(images, skip)
	if err != nil {
		return err
	}
	if open, err = e.inflateZstd(ctx, a, open); err != nil {
		return fmt.Errorf("load images: %w", err)
	}
	ctx, span := trace.Begin(ctx, trace.Step, "load")
	pr, pw := io.Pipe()
	written, sent := make(chan error, 1), int64(0)
	go func() {
		err := a.write(pw, open, func(done, total int64) {
			sent = done
			if progress != nil {
				progress(done, total)
			}
		})
		pw.CloseWithError(err)
		written <- err
	}()
	err = e.post(ctx, requestBody{pr})
	pr.CloseWithError(errAbandoned)
	werr := <-written // open may use the caller's file: do not return before it is done
	span.Count(sent)
	span.End(cmp.Or(err, werr))
	switch {
	case werr != nil && !errors.Is(werr, errAbandoned):
		return fmt.Errorf("load images: %w", werr)
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("load images: %w", context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("load images: %w", err)
	case werr != nil:
		return fmt.Errorf("load images: %w", werr)
	}
	return nil
}

// errAbandoned is what the archive's writer sees when the request has ended
// before it: then the request knows the reason.
var errAbandoned = errors.New("container engine answered before it had read all images")

// requestBody keeps a failure of the request apart from one of the source: the
// transport closes the body when it gives up.
type requestBody struct{ *io.PipeReader }

func (b requestBody) Close() error { return b.CloseWithError(errAbandoned) }

// post sends the archive and reads the engine's answer to its end.
func (e *Engine) post(ctx context.Context, body io.Reader) error {
	res, err := e.client.ImageLoad(ctx, body)
	if err != nil {
		return err
	}
	defer res.Close()
	return readAnswer(res)
}

// readAnswer reads the messages of a load. The status of the response was sent
// before the engine began to work, so only they tell a failure: as an error, or
// on a containerd store as a line of text after which the load "succeeds".
func readAnswer(r io.Reader) error {
	var failure error
	for dec := json.NewDecoder(r); ; {
		var msg struct {
			Stream      string `json:"stream"`
			Error       string `json:"error"`
			ErrorDetail *struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		switch err := dec.Decode(&msg); {
		case err == io.EOF:
			return failure
		case err != nil && failure != nil:
			return failure
		case err != nil:
			return fmt.Errorf("read answer of container engine: %w", err)
		case failure != nil:
		case msg.ErrorDetail != nil && msg.ErrorDetail.Message != "":
			failure = engineError(msg.ErrorDetail.Message)
		case msg.Error != "" || msg.ErrorDetail != nil:
			failure = engineError(msg.Error)
		case strings.Contains(msg.Stream, "Error unpacking image"):
			failure = engineError(msg.Stream)
		}
	}
}

// engineError quotes the engine, at most 2 KiB of it.
func engineError(s string) error {
	if s = strings.TrimSpace(s); len(s) > 2048 {
		s = s[:2048] + "..."
	}
	return fmt.Errorf("container engine says: %s", s)
}

// zstdEngine is the first engine whose graph driver unpacks zstd.
const zstdEngine = 23

// maxWindow is the most that a zstd layer may make us remember, in bytes. It is
// what levels up to 19 need; zstd --ultra and --long go beyond.
const maxWindow = 8 << 20

// inflateZstd prepares zstd layers for an engine that cannot unpack them and
// would only say "invalid tar header": they are sent as plain tars. An archive
// states sizes before content, so each is inflated once more to know its own.
func (e *Engine) inflateZstd(ctx context.Context, a *archive, open openBlob) (openBlob, error) {
	plain := map[bundle.Digest]bool{}
	for i, d := range a.layers {
		if !strings.HasSuffix(d.MediaType, "zstd") {
			continue
		}
		if len(plain) == 0 {
			info, err := e.Info(ctx)
			if err != nil {
				return nil, err
			}
			major, _, _ := strings.Cut(info.Version, ".")
			if n, err := strconv.Atoi(major); info.Store != GraphDriver || err != nil || n >= zstdEngine {
				return open, nil
			}
		}
		r, err := openZstd(open, d)
		if err != nil {
			return nil, err
		}
		n, err := io.Copy(io.Discard, r)
		r.Close()
		if err != nil {
			return nil, fmt.Errorf("inflate layer %s: %w", d.Digest, err)
		}
		a.layers[i].Size, plain[d.Digest] = n, true
		a.total += n - d.Size
	}
	return func(d bundle.Descriptor) (io.ReadCloser, error) {
		if plain[d.Digest] {
			return openZstd(open, d)
		}
		return open(d)
	}, nil
}

type openBlob = func(bundle.Descriptor) (io.ReadCloser, error)

// zstdReader closes what it reads from, too.
type zstdReader struct {
	*zstd.Decoder
	from io.Closer
}

func (r zstdReader) Close() error {
	r.Decoder.Close()
	return r.from.Close()
}

func openZstd(open openBlob, d bundle.Descriptor) (io.ReadCloser, error) {
	from, err := open(d)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", d.Digest, err)
	}
	z, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		from.Close()
		return nil, fmt.Errorf("inflate layer %s: %w", d.Digest, err)
	}
	return zstdReader{z, from}, nil
}
