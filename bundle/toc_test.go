package bundle_test

import (
	"bytes"
	"encoding/json"
	"runtime"
	"slices"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
)

// TestTOCIsAHint: whatever the table of contents says of a bundle that is large
// enough to be checked in parts, the verdict and the content are those of one pass
// from front to back.
func TestTOCIsAHint(t *testing.T) {
	each(t, func(t *testing.T, compression bundle.Compression) {
		m, c := bundletest.Release(t, bundletest.Spec{Layer: bundle.MemberSize, Own: bundle.MemberSize - 1000})
		for state, change := range map[string]func(f *forged, n int){
			"good":             func(*forged, int) {},
			"layer left out":   func(f *forged, n int) { f.images = slices.Delete(f.images, n-2, n-1) },
			"layer changed":    func(f *forged, n int) { f.images[n-1].data = append([]byte("x"), f.images[n-1].data[1:]...) },
			"layers exchanged": func(f *forged, n int) { f.images[n-1], f.images[n-3] = f.images[n-3], f.images[n-1] },
			"one more":         func(f *forged, _ int) { f.images = append(f.images, forgedEntry{name: "x", data: []byte("x")}) },
			"nothing between":  func(f *forged, n int) { f.images = slices.Delete(f.images, 5, n-1) },
		} {
			t.Run(state, func(t *testing.T) {
				f := forge(t, m, c, nil)
				f.format = compression
				change(f, len(f.images))
				b := f.bytes(t)
				_, err := judged(b, 1)
				want := ruleOf(err)
				if (want == "success") != (state == "good" || state == "layer left out") {
					t.Fatalf("one pass says %v", err)
				}

				var places []int64
				toc := func(at func(i int) int64) bundle.TOC {
					l := bundle.TOC{Format: "valise-toc/1"}
					for i, d := range layersOf(m) {
						l.Entries = append(l.Entries, bundle.TOCEntry{Name: bundle.ImagesName + "/" + bundle.BlobPath(d), Members: []int64{at(i)}, End: at(i) + 1})
					}
					return l
				}
				for _, d := range layersOf(m) {
					places = append(places, int64(bytes.Index(b, bundle.StoredMember(compression, c.Blobs[d])[:64])))
				}
				n := len(places)
				lies := map[string]bundle.TOC{
					"the truth": toc(func(i int) int64 { return places[i] }),
					"exchanged": toc(func(i int) int64 { return places[(i+1)%n] }),
					"inside":    toc(func(i int) int64 { return places[i] + 1<<20 }),
				}
				if state == "good" {
					lies["nothing"] = bundle.TOC{}
					lies["a byte off"] = toc(func(i int) int64 { return places[i] + 1 })
					lies["one place"] = toc(func(int) int64 { return places[3] })
					lies["backwards"] = toc(func(i int) int64 { return places[n-1-i] })
					lies["the end"] = toc(func(int) int64 { return int64(len(b)) - 1 })
					lies["beyond"] = toc(func(int) int64 { return 1 << 62 })
					lies["negative"] = toc(func(int) int64 { return -1 })
				}
				for name, lie := range lies {
					if f.toc, err = json.Marshal(lie); err != nil {
						t.Fatal(err)
					}
					r, err := judged(f.bytes(t), 4)
					if got := ruleOf(err); got != want {
						t.Errorf("%s: the verdict is %s (%v), that of one pass %s", name, got, err, want)
					}
					if err == nil && state == "good" {
						checkContent(t, r, c)
					}
				}
			})
		}
	})
}

// layersOf returns the layers, in their order.
func layersOf(m *bundle.Manifest) (layers []bundle.Digest) {
	for _, b := range m.Blobs() {
		if b.Size > 1<<20 {
			layers = append(layers, b.Digest)
		}
	}
	return layers
}

// judged opens and checks a bundle as on a machine with so many cores.
func judged(b []byte, cores int) (*bundle.Reader, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
	return open(b)
}
