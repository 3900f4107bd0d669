package bundle_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
)

// located opens a bundle without reading more of it than its two ends.
func located(b []byte) (*bundle.Reader, error) {
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	return r, r.Locate()
}

// readAll returns every file and blob that r gives without an error.
func readAll(r *bundle.Reader, m *bundle.Manifest) (map[string][]byte, error) {
	got := map[string][]byte{}
	var failure error
	add := func(name string, rc io.ReadCloser, err error) {
		if err == nil {
			got[name], err = io.ReadAll(rc)
		}
		if err != nil {
			delete(got, name)
			failure = err
		}
	}
	for _, f := range m.Files {
		rc, err := r.OpenFile(f.Path)
		add(f.Path, rc, err)
	}
	for _, b := range m.Blobs() {
		rc, err := r.OpenBlob(b.Digest)
		add(string(b.Digest), rc, err)
	}
	return got, failure
}

func TestLocate(t *testing.T) {
	each(t, func(t *testing.T, compression bundle.Compression) {
		m, c := bundletest.Release(t, bundletest.Spec{Layer: 2*bundle.MemberSize + 5})
		b := bundletest.WriteAs(t, compression, m, c)
		r, err := located(b)
		if err != nil {
			t.Fatal(err)
		}
		checkContent(t, r, c)

		// A layer is one range, and a read of it touches nothing else.
		layer := m.Components[0].Images[0].Layers[0]
		ranges := r.Ranges([]string{"compose.yaml", "not-there"}, []bundle.Digest{layer.Digest, layer.Digest})
		if len(ranges) != 2 || ranges[1].To-ranges[1].From < layer.Size || ranges[1].To-ranges[1].From > layer.Size+layer.Size/50+1024 {
			t.Fatalf("ranges of compose file and a layer of %d bytes: %v", layer.Size, ranges)
		}
		f := &touched{b: b}
		if r, err = bundle.Open(f, int64(len(b))); err != nil {
			t.Fatal(err)
		}
		if err := r.Locate(); err != nil {
			t.Fatal(err)
		}
		f.from, f.to = int64(len(b)), 0
		rc, err := r.OpenBlob(layer.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, rc); err != nil {
			t.Fatal(err)
		}
		if f.from != ranges[1].From || f.to != ranges[1].To {
			t.Errorf("read %d to %d, want %v", f.from, f.to, ranges[1])
		}
	})
}

// touched is a file that knows which part of it was read.
type touched struct {
	b        []byte
	from, to int64
}

func (f *touched) ReadAt(p []byte, off int64) (int, error) {
	f.from, f.to = min(f.from, off), max(f.to, min(off+int64(len(p)), int64(len(f.b))))
	return bytes.NewReader(f.b).ReadAt(p, off)
}

// TestLocatedFlipped: whatever byte is another one, what is read is what the
// manifest says, or an error that refuses the file.
func TestLocatedFlipped(t *testing.T) {
	each(t, func(t *testing.T, compression bundle.Compression) {
		m, c := bundletest.Release(t, bundletest.Spec{Services: []string{"api"}, Platforms: []bundle.Platform{"linux/amd64"}, Installer: 30})
		b := bundletest.WriteAs(t, compression, m, c)
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for i := 0; i < len(b); i += step(compression) {
			damaged := bytes.Clone(b)
			damaged[i] ^= 1
			r, err := located(damaged)
			if err != nil || !bytes.Equal(r.ManifestBytes(), raw) {
				continue // no manifest that anybody signed
			}
			got, err := readAll(r, m)
			if err != nil {
				if !errors.As(err, new(*bundle.FormatError)) {
					t.Fatalf("byte %d: %v, want a refusal", i, err)
				}
				refused++
			}
			for name, data := range got {
				want := c.Files[name]
				if want == nil {
					want = c.Blobs[bundle.Digest(name)]
				}
				if !bytes.Equal(data, want) {
					t.Fatalf("byte %d: %s is something else", i, name)
				}
			}
		}
		if refused < len(b)/20/step(compression) {
			t.Errorf("only %d of %d changes were noticed in content", refused, len(b))
		}
	})
}

// TestLocateLies: a table of contents that cannot be true is not used.
func TestLocateLies(t *testing.T) {
	each(t, func(t *testing.T, compression bundle.Compression) {
		m, c := bundletest.Release(t, bundletest.Spec{Services: []string{"api"}, Platforms: []bundle.Platform{"linux/amd64"}, Layer: 200_000})
		b := bundletest.WriteAs(t, compression, m, c)
		r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := bundle.RawTOC(r)
		if err != nil {
			t.Fatal(err)
		}
		change := map[string]func(*bundle.TOC){
			"nothing":              func(*bundle.TOC) {},
			"an entry twice":       func(l *bundle.TOC) { l.Entries = append(l.Entries[:1:1], l.Entries...) }, // the empty one
			"an unknown entry":     func(l *bundle.TOC) { l.Entries[1].Name = "../../etc/passwd" },
			"before the content":   func(l *bundle.TOC) { l.Entries[1].Members[0] = 0 },
			"negative":             func(l *bundle.TOC) { l.Entries[1].Members[0] = -1 },
			"behind its own end":   func(l *bundle.TOC) { l.Entries[1].End = l.Entries[1].Members[0] - 1 },
			"beyond the content":   func(l *bundle.TOC) { l.Entries[len(l.Entries)-1].End = int64(len(b)) },
			"over another one":     func(l *bundle.TOC) { l.Entries[2].Members[0] = l.Entries[1].Members[0] },
			"members out of order": func(l *bundle.TOC) { l.Entries[1].Members = append(l.Entries[1].Members, 5) },
			"a file left out":      func(l *bundle.TOC) { l.Entries = append(l.Entries[:1:1], l.Entries[2:]...) },
			"far too large": func(l *bundle.TOC) { // a small layer that begins where the large one did
				n := len(l.Entries)
				l.Entries[n-1].Members = l.Entries[n-2].Members
				l.Entries = append(l.Entries[:n-2], l.Entries[n-1])
			},
			"nothing in it": func(l *bundle.TOC) { l.Entries = nil },
		}
		for name, lie := range change {
			t.Run(name, func(t *testing.T) {
				var toc bundle.TOC
				if err := json.Unmarshal(raw, &toc); err != nil {
					t.Fatal(err)
				}
				lie(&toc)
				text, err := json.Marshal(toc)
				if err != nil {
					t.Fatal(err)
				}
				err = bundle.PlaceTOC(r, text)
				if (err == nil) != (name == "nothing") {
					t.Errorf("error is %v", err)
				}
			})
		}
	})
}

// TestLocatedImage: an image manifest that is not what the signed manifest says
// of it is refused when it is opened, as Check refuses it.
func TestLocatedImage(t *testing.T) {
	m, c := bundletest.Release(t, bundletest.Spec{})
	img := &m.Components[0].Images[0]
	config := c.Blobs[img.Config.Digest]
	other := bytes.Replace(config, []byte(`"amd64"`), []byte(`"s390x"`), 1)
	if bytes.Equal(config, other) {
		t.Fatal("the config has no architecture")
	}
	img.Config.Digest = bundle.DigestOf(other)
	c.Blobs[img.Config.Digest] = other
	manifest := bytes.Replace(c.Blobs[img.Manifest.Digest], []byte(bundle.DigestOf(config)), []byte(img.Config.Digest), 1)
	img.Manifest.Digest = bundle.DigestOf(manifest)
	c.Blobs[img.Manifest.Digest] = manifest
	if err := m.Finish(); err != nil {
		t.Fatal(err)
	}
	b := bundletest.Write(t, m, c)
	r, err := located(b)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.OpenBlob(img.Config.Digest)
	if f := new(bundle.FormatError); !errors.As(err, &f) || f.Rule != "image" {
		t.Errorf("located: %v, want rule image", err)
	}
}
