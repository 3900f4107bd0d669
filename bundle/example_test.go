package bundle_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/valise-ota/valise/bundle"
)

// What Open returns is well-formed and a stranger's.
func ExampleOpen() {
	b := good()
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b))) // any io.ReaderAt, such as an *os.File
	if err != nil {
		panic(err)
	}
	m := r.Manifest()
	fmt.Println("it says that it is", m.App, m.Version, "for", m.Platforms)
	fmt.Println("signed by somebody:", r.Signature() != nil)
	// Output:
	// it says that it is shop 1.2.3 for [linux/amd64]
	// signed by somebody: true
}

// Check compares the whole file with its manifest, and then content can be read.
func ExampleReader_Check() {
	b := good()
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		panic(err)
	}
	if err := r.Check(context.Background(), nil); err != nil {
		panic(err)
	}
	f, err := r.OpenFile("compose.yaml")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	text, err := io.ReadAll(f) // it counts when this ends without an error
	fmt.Printf("%s%v\n", text, err)

	b[len(b)/2]++ // one bit of it is another
	if r, err = bundle.Open(bytes.NewReader(b), int64(len(b))); err == nil {
		err = r.Check(context.Background(), nil)
	}
	fmt.Println(err)
	// Output:
	// services: {}
	// <nil>
	// not an acceptable bundle: images.tar/manifest.json: damaged: gzip: invalid checksum (rule gzip)
}

// good is a bundle of the test vectors, which stands there behind what a test
// expects of it.
func good() []byte {
	text, err := os.ReadFile("../testdata/vectors/good.bundle")
	if err != nil {
		panic(err)
	}
	_, b, _ := bytes.Cut(text, []byte("\n\n"))
	return b
}

// memory is content for Write.
type memory map[string]string

func (m memory) OpenFile(path string) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader([]byte(m[path]))), nil
}

func (memory) OpenBlob(d bundle.Digest) (io.ReadCloser, error) { return nil, os.ErrNotExist }

// A release of kind tree: files that systemd runs.
func ExampleWrite() {
	files := memory{"VERSION": "v1.0.0\n", "bin/hello": "#!/bin/sh\necho hello\n", "hello.service": "[Service]\nExecStart=/opt/hello/current/bin/hello\n"}
	m := &bundle.Manifest{
		App: "hello", Kind: bundle.KindTree, Version: "1.0.0", CreatedAt: time.Unix(1700000000, 0).UTC(), Platforms: []bundle.Platform{"linux/amd64"}, Prefix: "hello-v1.0.0",
		Device: bundle.Device{
			Tree: &bundle.Tree{Units: []string{"hello.service"}, EnvFile: "/etc/hello/hello.env"}, Keep: bundle.Keep{Releases: 3, Backups: 3},
			Health: bundle.Health{HTTP: "http://127.0.0.1:8080/", Retries: 3, Interval: bundle.Duration(time.Second)},
		},
	}
	for _, path := range []string{"VERSION", "bin/hello", "hello.service"} {
		f := bundle.File{Path: path, Size: int64(len(files[path])), Mode: 0o644, Digest: bundle.DigestOf([]byte(files[path]))}
		if path == "bin/hello" {
			f.Mode = 0o755
		}
		m.Files = append(m.Files, f)
	}
	if err := m.Finish(); err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "bundle")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	f, err := os.Create(filepath.Join(dir, "hello-1.0.0.tar.gz"))
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if err := bundle.Write(context.Background(), f, bundle.Gzip, m, files, nil); err != nil {
		panic(err)
	}
	info, err := f.Stat()
	if err != nil {
		panic(err)
	}
	r, err := bundle.Open(f, info.Size())
	if err == nil {
		err = r.Check(context.Background(), nil)
	}
	fmt.Println(r.Manifest().Version, err)
	// Output: 1.0.0 <nil>
}
