package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/valise-ota/valise/bundle"
)

// takes is an engine that reads a whole load and gives answer.
func takes(answer string) fakeEngine {
	return fakeEngine{"POST /images/load": func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, answer)
	}}
}

func TestLoadAnswers(t *testing.T) {
	b := blobs{}
	images := tagged("shop", b.image(t, "linux/amd64", v1.Config{}, layer(t)))
	for _, tt := range []struct {
		name, answer, want string
	}{
		{"loaded", `{"stream":"Loaded image: x\n"}` + "\n", ""},
		{"empty", "", ""},
		{"error", `{"stream":"Loaded image: x\n"}` + "\n" + `{"errorDetail":{"message":"no space left on device"},"error":"no space left on device"}`, "engine says: no space left on device"},
		{"detail only", `{"errorDetail":{"code":1,"message":"no such layer"}}`, "engine says: no such layer"},
		{"old error", `{"error":"invalid diffID"}`, "engine says: invalid diffID"},
		{"error without text", `{"errorDetail":{}}`, "engine says:"},
		{"first error", `{"error":"one"}{"error":"two"}`, "engine says: one"},
		{"unpack", `{"stream":"Loaded image: x\n"}{"stream":"Error unpacking image x: apply layer error\n"}`, "Error unpacking image x: apply layer error"},
		{"not JSON", `<html>`, "read answer of container engine"},
		{"long error", `{"error":"` + strings.Repeat("x", 1<<20) + `"}`, "xxx..."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := takes(tt.answer).start(t).Load(t.Context(), images, nil, b.open, nil)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Load: %.4096v, want %q", err, tt.want)
			}
			if err != nil && len(err.Error()) > 4096 {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestLoadConnectionCut(t *testing.T) {
	b := blobs{}
	images := tagged("shop", b.image(t, "linux/amd64", v1.Config{}, layer(t)))
	cut := func(w http.ResponseWriter) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		c.Close()
	}
	for name, h := range map[string]http.HandlerFunc{
		"before reading": func(w http.ResponseWriter, r *http.Request) { cut(w) },
		"while reading": func(w http.ResponseWriter, r *http.Request) {
			io.CopyN(io.Discard, r.Body, 2000)
			cut(w)
		},
		"in the answer": func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, `{"stream":"Loaded image: x\n"}`)
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := fakeEngine{"POST /images/load": h}.start(t)
			if err := e.Load(t.Context(), images, nil, b.open, nil); err == nil {
				t.Error("Load: nil error")
			}
		})
	}
}

// The engine's reason counts, not the broken pipe it leaves behind.
func TestLoadEarlyRefusal(t *testing.T) {
	images, open := hugeImage(64 << 20)
	for name, h := range map[string]http.HandlerFunc{
		"status": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(500)
			io.WriteString(w, `{"message":"no space left on device"}`)
		},
		"stream": func(w http.ResponseWriter, r *http.Request) {
			io.CopyN(io.Discard, r.Body, 1<<20)
			io.WriteString(w, `{"error":"no space left on device"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := fakeEngine{"POST /images/load": h}.start(t).Load(t.Context(), images, nil, open, nil)
			if err == nil || !strings.Contains(err.Error(), "no space left on device") {
				t.Errorf("Load: %v", err)
			}
		})
	}
	t.Run("success too early", func(t *testing.T) {
		e := fakeEngine{"POST /images/load": answer(`{"stream":"Loaded image: x\n"}`)}.start(t)
		if err := e.Load(t.Context(), images, nil, open, nil); err == nil {
			t.Error("Load: nil error")
		}
	})
}

// hugeImage is an image with one layer of size zeros.
func hugeImage(size int64) ([]TaggedImage, func(bundle.Descriptor) (io.ReadCloser, error)) {
	desc := func(s string, size int64) bundle.Descriptor {
		return bundle.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Digest: bundle.DigestOf([]byte(s)), Size: size}
	}
	img := bundle.Image{Manifest: desc("m", 10), Config: desc("c", 10), Layers: []bundle.Layer{{Descriptor: desc("l", size)}}}
	return tagged("shop", img), func(d bundle.Descriptor) (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(zeros{}, d.Size)), nil
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestLoadMemory(t *testing.T) {
	const size = 128 << 20
	images, open := hugeImage(size)
	e := takes("").start(t)
	var done, total int64
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := e.Load(t.Context(), images, nil, open, func(d, n int64) { done, total = d, n }); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("loading %d bytes allocated %d", size, n)
	}
	if done != total || total != size+20 {
		t.Errorf("progress ended at %d of %d", done, total)
	}
}

type failingReader struct {
	r   io.Reader
	err error
}

func (f failingReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err == io.EOF {
		err = f.err
	}
	return n, err
}

func TestLoadSourceErrors(t *testing.T) {
	b := blobs{}
	img := b.image(t, "linux/amd64", v1.Config{}, layer(t))
	images := tagged("shop", img)
	bad := img.Layers[0].Digest
	cause := errors.New("digest mismatch")
	for _, tt := range []struct {
		name string
		open func(d bundle.Descriptor) (io.ReadCloser, error)
		want string
	}{
		{"open", func(d bundle.Descriptor) (io.ReadCloser, error) { return nil, cause }, "open blob " + string(bad) + ": digest mismatch"},
		{"read", func(d bundle.Descriptor) (io.ReadCloser, error) {
			return io.NopCloser(failingReader{bytes.NewReader(b[bad][:100]), cause}), nil
		}, "copy blob " + string(bad) + ": digest mismatch"},
		{"at the end", func(d bundle.Descriptor) (io.ReadCloser, error) {
			return io.NopCloser(failingReader{bytes.NewReader(b[bad]), cause}), nil
		}, "copy blob " + string(bad) + ": digest mismatch"},
		{"short", func(d bundle.Descriptor) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b[bad][1:])), nil
		}, fmt.Sprintf("got %d bytes, want %d", len(b[bad])-1, len(b[bad]))},
		{"long", func(d bundle.Descriptor) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(b[bad]), strings.NewReader("x"))), nil
		}, "write too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var sawEOF atomic.Bool
			t.Cleanup(func() { // after the engine's own, which ends its handlers
				if sawEOF.Load() {
					t.Error("the engine saw a complete request")
				}
			})
			e := fakeEngine{"POST /images/load": func(w http.ResponseWriter, r *http.Request) {
				_, err := io.Copy(io.Discard, r.Body)
				sawEOF.Store(err == nil)
				io.WriteString(w, `{"stream":"Loaded image"}`)
			}}.start(t)
			err := e.Load(t.Context(), images, nil, func(d bundle.Descriptor) (io.ReadCloser, error) {
				if d.Digest == bad {
					return tt.open(d)
				}
				return b.open(d)
			}, nil)
			// Not "Post http://...: ...": it is not the engine's fault.
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), string(bad)) || strings.Contains(err.Error(), "http") {
				t.Errorf("Load: %v, want %q", err, tt.want)
			}
			if strings.Contains(tt.want, cause.Error()) && !errors.Is(err, cause) {
				t.Errorf("Load: %v does not wrap the cause", err)
			}
		})
	}
}

func TestLoadCancel(t *testing.T) {
	images, open := hugeImage(1 << 40)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped by the operator")
	e := fakeEngine{"POST /images/load": func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(io.Discard, r.Body, 1<<20)
		cancel(stop)
		io.Copy(io.Discard, r.Body)
	}}.start(t)
	if err := e.Load(ctx, images, nil, open, nil); !errors.Is(err, stop) {
		t.Errorf("Load: %v, want %v", err, stop)
	}
}

// An engine that cannot unpack zstd is sent what is in it; another one the very
// blob.
func TestLoadZstd(t *testing.T) {
	plain := bytes.Repeat([]byte("tar"), 100_000)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := z.EncodeAll(plain, nil)
	images, _ := hugeImage(int64(len(packed)))
	layer := &images[0].Image.Layers[0]
	layer.MediaType = "application/vnd.oci.image.layer.v1.tar+zstd"
	small := int64(100)
	images[0].Image.Manifest.Size, images[0].Image.Config.Size = small, small
	broken := false
	open := func(d bundle.Descriptor) (io.ReadCloser, error) {
		switch {
		case d.Digest == layer.Digest && broken:
			return io.NopCloser(bytes.NewReader(packed[:len(packed)/2])), nil
		case d.Digest == layer.Digest:
			return io.NopCloser(bytes.NewReader(packed)), nil
		}
		return io.NopCloser(io.LimitReader(zeros{}, small)), nil
	}
	for name, want := range map[string][]byte{version2010: plain, version29: packed} {
		var got []byte
		f := fakeEngine{"GET /version": answer(name), "GET /info": answer(infoGraph), "POST /images/load": func(w http.ResponseWriter, r *http.Request) {
			for tr := tar.NewReader(r.Body); ; {
				h, err := tr.Next()
				if err != nil {
					break
				}
				if strings.HasSuffix(h.Name, layer.Digest.Hex()) {
					got, _ = io.ReadAll(tr)
				}
			}
			io.Copy(io.Discard, r.Body)
		}}
		var done, total int64
		if err := f.start(t).Load(t.Context(), images, nil, open, func(d, n int64) { done, total = d, n }); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(got, want) || done != total || total != 2*small+int64(len(want)) {
			t.Errorf("sent %d bytes, want %d; progress %d of %d", len(got), len(want), done, total)
		}
	}
	broken = true
	e := fakeEngine{"GET /version": answer(version2010), "GET /info": answer(infoGraph)}.start(t)
	if err := e.Load(t.Context(), images, nil, open, nil); err == nil || !strings.Contains(err.Error(), "inflate layer "+string(layer.Digest)) {
		t.Errorf("Load: %v", err)
	}
	// Not sent, not in the way.
	if err := takes("").start(t).Load(t.Context(), images, map[bundle.Digest]bool{layer.Digest: true}, open, nil); err != nil {
		t.Error(err)
	}
}

func TestArchive(t *testing.T) {
	b := blobs{}
	base, shared := layer(t), layer(t)
	one := b.image(t, "linux/amd64", v1.Config{}, base, shared)
	two := b.image(t, "linux/amd64", v1.Config{}, base, shared, layer(t))
	images := tagged("shop", two, one, two) // one twice
	skip := map[bundle.Digest]bool{one.Layers[0].Digest: true}

	write := func(images []TaggedImage) []byte {
		a, err := newArchive(images, skip)
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		if err := a.write(&buf, b.open, nil); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	raw := write(images)
	if !bytes.Equal(raw, write(images)) {
		t.Error("the archive is another one each time")
	}

	var names []string
	content := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Mode != 0o644 {
			t.Errorf("%s: time %s, mode %o", h.Name, h.ModTime, h.Mode)
		}
		names = append(names, h.Name)
		if content[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
	// In the order of the images, as a bundle has them: one that is fetched in
	// parts is read from its beginning to its end.
	small := []string{blobPath(two.Manifest.Digest), blobPath(two.Config.Digest), blobPath(one.Manifest.Digest), blobPath(one.Config.Digest)}
	layers := []string{blobPath(one.Layers[1].Digest), blobPath(two.Layers[2].Digest)}
	if want := slices.Concat([]string{"oci-layout", "index.json", "manifest.json"}, small, layers); !slices.Equal(names, want) {
		t.Errorf("entries\n%q, want\n%q", names, want)
	}
	for d, body := range b {
		if got, ok := content[blobPath(d)]; ok && !bytes.Equal(got, body) {
			t.Errorf("blob %s differs", d)
		}
	}
	var docker []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(content["manifest.json"], &docker); err != nil || len(docker) != 2 {
		t.Fatalf("manifest.json: %v: %s", err, content["manifest.json"])
	}
	var index struct {
		Manifests []struct {
			Digest      bundle.Digest
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal(content["index.json"], &index); err != nil || len(index.Manifests) != 2 {
		t.Fatalf("index.json: %v: %s", err, content["index.json"])
	}
	for i, img := range []bundle.Image{one, two} {
		if strings.Compare(Tag("shop", one), Tag("shop", two)) > 0 {
			img = []bundle.Image{two, one}[i]
		}
		tag := Tag("shop", img)
		if d := docker[i]; d.Config != blobPath(img.Config.Digest) || !slices.Equal(d.RepoTags, []string{tag}) || len(d.Layers) != len(img.Layers) || d.Layers[0] != blobPath(one.Layers[0].Digest) {
			t.Errorf("manifest.json[%d]: %+v", i, d)
		}
		if m := index.Manifests[i]; m.Digest != img.Manifest.Digest || m.Annotations["io.containerd.image.name"] != "docker.io/"+tag || m.Annotations["org.opencontainers.image.ref.name"] != img.Manifest.Digest.Hex() {
			t.Errorf("index.json[%d]: %+v", i, m)
		}
	}
}

func TestConnect(t *testing.T) {
	_, err := Connect(t.Context(), "tcp://127.0.0.1:2375", 0)
	if err == nil || !strings.Contains(err.Error(), "must be on this device") {
		t.Errorf("tcp: %v", err)
	}
	host := "unix://" + filepath.Join(t.TempDir(), "none.sock")
	_, err = Connect(t.Context(), host, 0)
	var unreachable *UnreachableError
	if !errors.As(err, &unreachable) || unreachable.Host != host || !strings.Contains(err.Error(), host) {
		t.Errorf("no socket: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = Connect(ctx, host, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestInfo(t *testing.T) {
	e := fakeEngine{"GET /version": answer(version29), "GET /info": answer(infoC8d)}.start(t)
	got, err := e.Info(t.Context())
	want := Info{Version: "29.1.0", APIVersion: "1.41", Platform: "linux/arm64", Root: "/var/lib/docker", Store: Containerd, Driver: "overlayfs"}
	if err != nil || got != want {
		t.Errorf("Info: %+v, %v", got, err)
	}
	for _, tt := range []struct {
		arch, machine string
		want          bundle.Platform
	}{
		{"amd64", "x86_64", "linux/amd64"},
		{"arm64", "aarch64", "linux/arm64"},
		{"arm", "armv7l", "linux/arm/v7"},
		{"arm", "armv6l", "linux/arm/v6"},
		{"arm", "aarch64", "linux/arm/v7"}, // 32-bit engine on a 64-bit kernel
		{"riscv64", "riscv64", "linux/riscv64"},
	} {
		if got, err := platform("linux", tt.arch, tt.machine); err != nil || got != tt.want {
			t.Errorf("platform of %s on %s: %s, %v", tt.arch, tt.machine, got, err)
		}
	}
}

func TestMissingContainerd(t *testing.T) {
	b := blobs{}
	base := layer(t)
	old := b.image(t, "linux/arm64", v1.Config{}, base, layer(t))
	next := b.image(t, "linux/arm64", v1.Config{}, base, layer(t))
	all := map[bundle.Digest]bool{next.Layers[0].Digest: true, next.Layers[1].Digest: true}
	one := map[bundle.Digest]bool{next.Layers[1].Digest: true}
	manifests := func(available bool) string {
		return fmt.Sprintf(`[{"Id":%q,"Manifests":[{"ID":%q,"Available":%t,"Kind":"image"}]}]`, old.Manifest.Digest, old.Manifest.Digest, available)
	}
	for _, tt := range []struct {
		name, list string
		known      []bundle.Image
		want       map[bundle.Digest]bool
	}{
		{"nothing there", `[]`, []bundle.Image{old}, all},
		{"not known", manifests(true), nil, all},
		{"known", manifests(true), []bundle.Image{old}, one},
		{"incomplete", manifests(false), []bundle.Image{old}, all},
		{"engine does not tell", fmt.Sprintf(`[{"Id":%q}]`, old.Manifest.Digest), []bundle.Image{old}, one},
		{"config digest is not an image ID", fmt.Sprintf(`[{"Id":%q}]`, old.Config.Digest), []bundle.Image{old}, all},
		{"completely there", fmt.Sprintf(`[{"Id":%q}]`, next.Manifest.Digest), nil, map[bundle.Digest]bool{}},
	} {
		e := fakeEngine{"GET /version": answer(version29), "GET /info": answer(infoC8d), "GET /images/json": answer(tt.list)}.start(t)
		got, err := e.Missing(t.Context(), []bundle.Image{next}, tt.known)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: %v, %v, want %v", tt.name, got, err, tt.want)
		}
	}
}

// TestTornImage: an image that the engine lists and cannot read, as a power cut leaves
// it, stands in no other's way.
func TestTornImage(t *testing.T) {
	b := blobs{}
	whole, torn := b.image(t, "linux/amd64", v1.Config{}, layer(t)), b.image(t, "linux/amd64", v1.Config{}, layer(t))
	fails := func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, `{"message":"readlink /var/lib/docker/overlay2/\u0000\u0000: invalid argument"}`)
	}
	tag := "valise/shop:" + torn.Manifest.Digest.Hex()
	e := fakeEngine{
		"GET /version": answer(version2010), "GET /info": answer(infoGraph),
		"GET /images/json":                                     answer(`[{"Id":"sha256:torn"},{"Id":"sha256:whole"}]`),
		"GET /images/sha256:torn/json":                         fails,
		"GET /images/sha256:whole/json":                        answer(fmt.Sprintf(`{"Id":"sha256:whole","RootFS":{"Layers":[%q]}}`, whole.Layers[0].DiffID)),
		"GET /containers/json":                                 answer(`[]`),
		"GET /images/" + tag + "/json":                         fails,
		"DELETE /images/" + tag:                                fails,
		"GET /containers/" + keeperName("shop", tag) + "/json": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotFound) },
	}.start(t)
	got, err := e.Missing(t.Context(), []bundle.Image{whole, torn}, nil)
	if want := map[bundle.Digest]bool{torn.Layers[0].Digest: true}; err != nil || !maps.Equal(got, want) {
		t.Errorf("Missing: %v, %v; want %v", got, err, want)
	}
	left, err := e.Remove(t.Context(), "shop", []string{tag})
	if err != nil || len(left) != 1 || left[0].Tag != tag || !strings.Contains(left[0].Users[0], "readlink") {
		t.Errorf("Remove: %v, %v", left, err)
	}
}
