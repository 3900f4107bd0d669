package bundle

import (
	"bytes"
	"context"
	"errors"
)

// MediaType is what registries call a release that valise push made.
const MediaType = "application/vnd.valise.bundle.v1"

// Segment is a part of a bundle: bytes that follow from its manifest, or else content
// that the manifest pins.
type Segment struct {
	Data   []byte
	Digest Digest // of the content, without Data
	Size   int64
}

// Layout returns the complete bundle of a manifest and its signature as segments, not
// compressed: what is between contents follows from the manifest. So a bundle whose
// contents are kept one by one, as a registry keeps them, is read like any other. The
// bytes of the manifest are a stranger's; the error is a *FormatError.
func Layout(manifest, signature []byte) (*Manifest, []Segment, error) {
	m, err := ParseManifest(manifest)
	if err != nil {
		return nil, nil, err
	}
	if len(signature) > MaxSignatureSize {
		return nil, nil, formatErr("entry-size", SignatureName, "%d bytes, limit %d", len(signature), MaxSignatureSize)
	}
	var between bytes.Buffer
	w := newWriter(context.Background(), nil, plainFraming{}, m, nil)
	w.dst = &between
	var list []Segment
	place := func(name string, f File, data []byte) {
		err = errors.Join(err, w.header(f.Path, f.Size, f.Mode), w.boundary())
		e := TOCEntry{Name: name, Members: []int64{}, End: w.at + f.Size}
		for at := w.at; at < e.End; at += MemberSize {
			e.Members = append(e.Members, at)
		}
		w.toc.Entries = append(w.toc.Entries, e)
		if w.at = e.End; data != nil {
			between.Write(data)
		} else if f.Size > 0 {
			list = append(list, Segment{Data: bytes.Clone(between.Bytes()), Size: int64(between.Len())}, Segment{Digest: f.Digest, Size: f.Size})
			between.Reset()
		}
		w.zeros(padding(f.Size))
	}
	err = w.head(m, signature)
	for _, f := range m.Files {
		place(f.Path, f, nil)
	}
	if m.Kind != KindTree {
		generated, failed := m.ArchiveEntries()
		size := imagesSize(m.Archive, m.blobs())
		err = errors.Join(err, failed, w.header(ImagesName, size, 0o644))
		for i, f := range m.Archive {
			place(ImagesName+"/"+f.Path, f, generated[i].Data)
		}
		for _, b := range m.blobs() {
			place(blobEntry(b.Digest), File{Path: blobPath(b.Digest), Size: b.Size, Mode: 0o644, Digest: b.Digest}, nil)
		}
		w.zeros(2*blockSize + padding(size))
	}
	err = errors.Join(err, w.tail())
	return m, append(list, Segment{Data: between.Bytes(), Size: int64(between.Len())}), err
}
