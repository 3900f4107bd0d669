package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/verify/verifytest"
)

// Bundles of the tiny app, made on the spot and signed with keys of this test
// process. mkbundle writes good ones, mutate spoils them.

var signers = struct {
	sync.Mutex
	m map[string]*verifytest.Signer
}{m: map[string]*verifytest.Signer{}}

func signer(t testing.TB, name string) *verifytest.Signer {
	signers.Lock()
	defer signers.Unlock()
	if signers.m[name] == nil {
		signers.m[name] = verifytest.NewSigner(t)
	}
	return signers.m[name]
}

// makeBundle is mkbundle FILE VERSION [KEY=VALUE...]: a release of $APP, signed
// by maker, whose key is written beside it as maker.pub. Layers are real ones,
// except where no engine is. Keys:
//
//	by=NAME           another signer, or nobody
//	app=APP           another app
//	platforms=P,P     default: the one of this machine
//	compose=FILE      another compose file
//	services=S,S      its services; default: app
//	project=NAME      another compose project
//	sick=yes          never gets healthy
//	eats=yes          spoils the items of the release before when it starts
//	loops=yes         its second service ends over and over
//	swaps=yes         puts a link in the place of its uploads when it is told to end
//	save=KIND         its items are saved as volume, command or mysql, or never: it takes for ever; uploads is the volume's directory of that name
//	of=DIR,DIR        its image has the layers of OCI layouts, the last one at the bottom, and no program of ours
//	migration=M       reversible or irreversible
//	restore=R         never, ask or always
//	hook-NAME=WORD    a hook in a container runs tiny WORD
//	script-NAME=FILE  a hook on the device runs that file
//	command=WORD      a health check that runs tiny WORD
//	retries=N         of the health checks; default: 1000, and few where they are to fail
//	stable=D          all checks must pass for so long
//	same=V            its image is that of release V
//	image=APP         its image is that of app APP
//	from=V engine=V   what it requires
//	pad=N zeros=N     a layer with N bytes that do not, or do, deflate
//	each=N            a layer with N bytes for each platform, of its own
//	file=N            a file of N bytes in the bundle
//	moves=NEW=OLD     volume NEW gets what volume OLD holds
//	empty=KEY         volume KEY begins empty
//	required=KEY,KEY  environment keys
//	default=KEY=V     written where the key has no value
//	initial=KEY=V     written at the first installation
//	secret=KEY        generated, immutable and shown once
//	backup=USER       a database is saved by that user
//	health=compose    asks the engine only
//	next=NAME         it names that signer as the one after it
//	made=DAY          created_at, 2026-01-31
func makeBundle(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mkbundle FILE VERSION [KEY=VALUE...]")
	}
	o := map[string]string{
		"by": "maker", "app": ts.Getenv("APP"), "platforms": "linux/" + runtime.GOARCH, "pad": "0", "zeros": "0", "each": "0", "file": "0", "services": "app",
	}
	for _, a := range args[2:] {
		k, v, ok := strings.Cut(a, "=")
		if !ok {
			ts.Fatalf("mkbundle: %q is not KEY=VALUE", a)
		}
		o[k] = v
	}
	o["project"], o["image"] = cmp.Or(o["project"], o["app"]), cmp.Or(o["image"], o["app"])
	t := test(ts)
	var m *bundle.Manifest
	var c *bundletest.Content
	if strings.Contains(ts.Getenv("DOCKER_HOST"), "/nowhere/") {
		m, c = bundletest.Release(t, bundletest.Spec{App: o["app"], Version: args[1]})
	} else {
		m, c = tinyRelease(ts, args[1], o)
	}
	if o["next"] != "" {
		m.Trust = &bundle.Trust{Signers: []bundle.Signer{{Key: signer(t, o["next"]).PublicPEM()}}}
		ts.Check(os.WriteFile(ts.MkAbs(o["next"]+".pub"), []byte(signer(t, o["next"]).PublicPEM()), 0o644))
	}
	if o["made"] != "" {
		made, err := time.Parse(time.DateOnly, o["made"])
		ts.Check(err)
		m.CreatedAt = made
	}
	var b []byte
	if o["by"] == "nobody" {
		b = bundletest.Write(t, m, c)
	} else {
		b = signer(t, o["by"]).Bundle(t, m, c)
		ts.Check(os.WriteFile(ts.MkAbs(o["by"]+".pub"), []byte(signer(t, o["by"]).PublicPEM()), 0o644))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

const tinyCompose = `services:
  app:
    image: tiny/app:${TINY_VERSION:?}
    environment: {NOTE: "${NOTE:-}"}
    restart: unless-stopped
    volumes: ["data:/data"]
    ports: ["127.0.0.1:${TINY_PORT:?}:8080"]
volumes: {data: {}}
`

func tinyRelease(ts *testscript.TestScript, version string, o map[string]string) (*bundle.Manifest, *bundletest.Content) {
	program, err := tinyProgram()
	ts.Check(err)
	text, health := cmp.Or(o["same"], version), bundle.Health{
		Compose: []string{"app"}, HTTP: "http://127.0.0.1:${TINY_PORT}/health", Version: "version", Retries: 1000, Interval: bundle.Duration(200 * time.Millisecond),
	}
	few := int(bundletest.Slower(4)) // attempts, of what is to fail, but not before it answers
	number := func(key string) int {
		n, err := strconv.Atoi(o[key])
		ts.Check(err)
		return n
	}
	if o["sick"] != "" {
		text, health.Retries = text+" sick", few
	}
	if o["eats"] != "" {
		text += " eats"
	}
	if o["swaps"] != "" {
		text += " swaps"
	}
	if o["loops"] != "" {
		text, health.Retries = text+" loops", few
	}
	if o["command"] != "" {
		health.Command, health.Retries = &bundle.ServiceCommand{Service: "app", Run: []string{"/bin/tiny", o["command"]}}, few
	}
	if o["same"] != "" {
		health.Version = ""
	}
	if o["retries"] != "" {
		health.Retries = number("retries")
	}
	if o["stable"] != "" {
		ts.Check(health.StableFor.UnmarshalText([]byte(o["stable"])))
	}
	if o["health"] == "compose" {
		health.HTTP, health.Version = "", ""
	}
	c := &bundletest.Content{Files: map[string][]byte{}, Blobs: map[bundle.Digest][]byte{}}
	layers := []bundle.Layer{
		addLayer(ts, c, program),
		addLayer(ts, c, map[string][]byte{"version": []byte(text), "app": []byte(o["image"])}),
	}
	if o["of"] != "" {
		layers = layers[1:]
		for dir := range strings.SplitSeq(o["of"], ",") {
			layers = append(layoutLayers(ts, c, dir), layers...)
		}
	}
	if pad := number("pad"); pad > 0 {
		b := make([]byte, pad)
		_, _ = seeded(ts, version).Read(b)
		layers = append(layers, addLayer(ts, c, map[string][]byte{"pad": b}))
	}
	if zeros := number("zeros"); zeros > 0 {
		layers = append(layers, addLayer(ts, c, map[string][]byte{"zeros": make([]byte, zeros)}))
	}
	m := &bundle.Manifest{
		App: o["app"], Kind: bundle.KindCompose, Version: version, CreatedAt: time.Unix(1700000000, 0).UTC(),
		Device: bundle.Device{
			Compose: "compose.yaml", Project: o["project"], VersionEnv: "TINY_VERSION", RequiredEnv: []string{"TINY_PORT"},
			Health: health, Keep: bundle.Keep{Releases: 3, Backups: 5},
		},
	}
	if key, from, ok := strings.Cut(o["moves"], "="); ok {
		m.Device.Volumes = map[string]bundle.Origin{key: {From: from}}
	}
	if key := o["empty"]; key != "" {
		m.Device.Volumes = map[string]bundle.Origin{key: {Empty: true}}
	}
	if o["required"] != "" {
		m.Device.RequiredEnv = append(m.Device.RequiredEnv, strings.Split(o["required"], ",")...)
		slices.Sort(m.Device.RequiredEnv)
	}
	for _, what := range []string{"default", "initial"} {
		if key, value, ok := strings.Cut(o[what], "="); ok {
			e := bundle.EnvKey{Default: value}
			if what == "initial" {
				e = bundle.EnvKey{Initial: value}
			}
			m.Device.Env = set(m.Device.Env, key, e)
		}
	}
	if o["secret"] != "" {
		m.Device.Secrets = map[string]bundle.Secret{o["secret"]: {Hex: 8, Immutable: true, Show: "once"}}
	}
	if o["backup"] != "" {
		m.Device.Backup = []bundle.Backup{{Postgres: &bundle.Postgres{Service: "app", User: o["backup"], Database: "tiny"}}}
	}
	switch o["save"] {
	case "volume":
		m.Device.Backup = []bundle.Backup{{Volume: &bundle.Volume{Service: "app", Path: "/data"}}}
	case "uploads":
		m.Device.Backup = []bundle.Backup{{Volume: &bundle.Volume{Service: "app", Path: "/data/uploads"}}}
	case "command":
		m.Device.Backup = []bundle.Backup{{Command: &bundle.BackupCommand{Service: "app", Save: []string{"tiny", "save"}, Restore: []string{"tiny", "load"}}}}
	case "never":
		m.Device.Backup = []bundle.Backup{{Command: &bundle.BackupCommand{Service: "app", Save: []string{"tiny", "sleep"}, Restore: []string{"tiny", "load"}}}}
	case "mysql":
		m.Device.Backup = []bundle.Backup{{MySQL: &bundle.MySQL{Service: "app", User: "shop", Database: "orders"}}}
	}
	m.Device.Migration = bundle.Migration(o["migration"])
	if o["restore"] != "" {
		m.Device.Rollback = &bundle.Rollback{RestoreData: bundle.RestoreData(o["restore"])}
	}
	if o["from"]+o["engine"] != "" {
		m.Requires = &bundle.Requires{From: o["from"], Engine: o["engine"]}
	}
	scripts := map[string][]byte{}
	for key, value := range o {
		h := bundle.Hook{Timeout: bundle.Duration(time.Minute)}
		if value == "sleep" {
			h.Timeout = bundle.Duration(3 * time.Second)
		}
		if name, ok := strings.CutPrefix(key, "hook-"); ok {
			h.Service, h.Run = "app", []string{value, "by"}
			m.Device.Hooks = set(m.Device.Hooks, name, h)
		} else if name, ok := strings.CutPrefix(key, "script-"); ok {
			h.Run = []string{"hooks/" + name, "one"}
			scripts[h.Run[0]] = []byte(ts.ReadFile(value))
			m.Device.Hooks = set(m.Device.Hooks, name, h)
		}
	}
	component := bundle.Component{Reference: "tiny/app:" + version, Services: strings.Split(o["services"], ",")}
	for _, p := range strings.Split(o["platforms"], ",") {
		platform, err := bundle.ParsePlatform(p)
		ts.Check(err)
		m.Platforms = append(m.Platforms, platform)
		own := layers
		if n := number("each"); n > 0 {
			b := make([]byte, n)
			_, _ = seeded(ts, p).Read(b)
			own = slices.Insert(slices.Clone(layers), 1, addLayer(ts, c, map[string][]byte{"own": b}))
		}
		component.Images = append(component.Images, addImage(ts, c, o["image"], platform, own))
	}
	m.Components = []bundle.Component{component}
	files := map[string][]byte{"compose.yaml": []byte(tinyCompose)}
	if o["compose"] != "" {
		files["compose.yaml"] = []byte(ts.ReadFile(o["compose"]))
	}
	if n := number("file"); n > 0 {
		files["data.bin"] = make([]byte, n)
	}
	maps.Copy(files, scripts)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		b, mode := files[path], uint32(0o644)
		if scripts[path] != nil {
			mode = 0o755
		}
		c.Files[path] = b
		m.Files = append(m.Files, bundle.File{Path: path, Size: int64(len(b)), Mode: mode, Digest: bundle.DigestOf(b)})
	}
	ts.Check(m.Finish())
	return m, c
}

func set[V any](m map[string]V, key string, value V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[key] = value
	return m
}

// tinyProgram is the content of the first layer: it is the same in all releases.
var tinyProgram = sync.OnceValues(func() (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "tiny")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(dir, "tiny"), "./testdata/tiny")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build testdata/tiny: %w: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "tiny"))
	return map[string][]byte{"bin/tiny": b, "data/": nil}, err
})

// seeded gives bytes that no other script's layers have: what an engine shared
// with others holds already is no download.
func seeded(ts *testscript.TestScript, what string) *rand.ChaCha8 {
	return rand.NewChaCha8(sha256.Sum256([]byte(ts.Getenv("APP") + " " + what)))
}

// addLayer adds a layer with these files; a name with a slash at its end is a
// directory. What is in bin can be run, and called pg_dump and pg_restore too.
func addLayer(ts *testscript.TestScript, c *bundletest.Content, files map[string][]byte) bundle.Layer {
	var plain, packed bytes.Buffer
	tw := tar.NewWriter(&plain)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		b := files[name]
		h := &tar.Header{Name: name, Size: int64(len(b)), Mode: 0o755, Format: tar.FormatUSTAR}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		ts.Check(tw.WriteHeader(h))
		_, err := tw.Write(b)
		ts.Check(err)
		if name == "bin/tiny" {
			for _, other := range []string{"bin/pg_dump", "bin/pg_restore"} {
				ts.Check(tw.WriteHeader(&tar.Header{Name: other, Linkname: "tiny", Typeflag: tar.TypeSymlink, Format: tar.FormatUSTAR}))
			}
		}
	}
	ts.Check(tw.Close())
	zw, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	ts.Check(err)
	_, err = zw.Write(plain.Bytes())
	ts.Check(err)
	ts.Check(zw.Close())
	d := addBlob(c, "application/vnd.oci.image.layer.v1.tar+gzip", packed.Bytes())
	return bundle.Layer{Descriptor: d, DiffID: bundle.DigestOf(plain.Bytes())}
}

// layoutLayers adds the layers of this machine's image in an OCI layout.
func layoutLayers(ts *testscript.TestScript, c *bundletest.Content, dir string) (list []bundle.Layer) {
	root, err := layout.ImageIndexFromPath(dir)
	ts.Check(err)
	indexes, err := partial.FindIndexes(root, func(v1.Descriptor) bool { return true })
	ts.Check(err)
	found, err := partial.FindImages(indexes[0], func(d v1.Descriptor) bool { return d.Platform.Architecture == runtime.GOARCH })
	ts.Check(err)
	layers, err := found[0].Layers()
	ts.Check(err)
	for _, l := range layers {
		r, err := l.Compressed()
		ts.Check(err)
		b, err := io.ReadAll(r)
		ts.Check(err)
		mediaType, err := l.MediaType()
		ts.Check(err)
		diffID, err := l.DiffID()
		ts.Check(err)
		list = append(list, bundle.Layer{Descriptor: addBlob(c, string(mediaType), b), DiffID: bundle.Digest(diffID.String())})
	}
	return list
}

// addImage adds an image that no other app has: the engine knows equal images as
// one, whatever their names.
func addImage(ts *testscript.TestScript, c *bundletest.Content, app string, p bundle.Platform, layers []bundle.Layer) bundle.Image {
	var diffIDs []bundle.Digest
	var descriptors []bundle.Descriptor
	for _, l := range layers {
		diffIDs, descriptors = append(diffIDs, l.DiffID), append(descriptors, l.Descriptor)
	}
	config, err := json.Marshal(map[string]any{
		"os": p.OS(), "architecture": p.Arch(), "rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
		"config": map[string]any{"Entrypoint": []string{"/bin/tiny"}, "Env": []string{"PATH=/bin", "APP=" + app}},
	})
	ts.Check(err)
	img := bundle.Image{Platform: p, Layers: layers, Config: addBlob(c, "application/vnd.oci.image.config.v1+json", config)}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": img.Config, "layers": descriptors,
	})
	ts.Check(err)
	img.Manifest = addBlob(c, "application/vnd.oci.image.manifest.v1+json", manifest)
	return img
}

func addBlob(c *bundletest.Content, mediaType string, b []byte) bundle.Descriptor {
	d := bundle.DigestOf(b)
	c.Blobs[d] = b
	return bundle.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

// mutate is mutate FROM TO HOW: a copy of a bundle that is not what was made.
//
//	cut=N        only the first N bytes; -N: without the last N
//	cut=head     ends where manifest and signature end
//	cut=images   ends in the middle of images.tar
//	append       with one byte more
//	flip         one byte of the last layer is another one
//	order        the manifest comes second
//	key          the manifest has an unknown key, and maker signed it
//	version=V    the manifest says another version
//	thin=N       without layer N of the first image, which is no fault
//	toc          its table of contents is empty, which is no fault
//	entry        with a file that the manifest does not list
//	swap=FILE    that file of it has other content
//	drop=FILE    without that file
//	images=B     with images.tar of the bundle B
//	signature=B  with the signature of the bundle B
//	twice        the manifest names an app twice, and maker signed it
func mutate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: mutate FROM TO HOW")
	}
	b := []byte(ts.ReadFile(args[0]))
	how, value, _ := strings.Cut(args[2], "=")
	list := unpack(ts, b)
	images := slices.IndexFunc(list, func(e entry) bool { return e.name == bundle.ImagesName })
	switch how {
	case "cut":
		b = b[:cutAt(ts, b, value)]
	case "append":
		b = append(b, 0)
	case "flip":
		m := manifestOf(ts, list)
		layers := m.Components[0].Images[0].Layers
		digest := layers[len(layers)-1].Digest
		inner := split(ts, list[images].data)
		i := slices.IndexFunc(inner, func(e entry) bool { return strings.HasSuffix(e.name, digest.Hex()) })
		inner[i].data[len(inner[i].data)/2] ^= 1
		list[images] = list[images].with(join(inner))
		b = pack(list)
	case "order":
		list[0], list[1] = list[1], list[0]
		b = pack(list)
	case "key":
		list[0] = list[0].with(bytes.Replace(list[0].data, []byte("{\n"), []byte("{\n  \"colour\": \"red\",\n"), 1))
		list[1] = list[1].with(signer(test(ts), "maker").Sign(test(ts), list[0].data))
		b = pack(list)
	case "version":
		m := manifestOf(ts, list)
		old := fmt.Sprintf("  \"version\": %q,", m.Version)
		list[0] = list[0].with(bytes.Replace(list[0].data, []byte(old), fmt.Appendf(nil, "  \"version\": %q,", value), 1))
		b = pack(list)
	case "thin":
		n, err := strconv.Atoi(value)
		ts.Check(err)
		digest := manifestOf(ts, list).Components[0].Images[0].Layers[n].Digest
		inner := slices.DeleteFunc(split(ts, list[images].data), func(e entry) bool { return strings.HasSuffix(e.name, digest.Hex()) })
		list[images] = list[images].with(join(inner))
		b = pack(list)
	case "toc":
		last := len(list) - 1
		list[last] = list[last].with([]byte("{}"))
		b = pack(list)
	case "entry":
		extra := list[2]
		list = slices.Insert(list, 3, extra)
		b = pack(list)
	case "swap", "drop":
		i := slices.IndexFunc(list, func(e entry) bool { return e.name == value })
		if i < 0 {
			ts.Fatalf("mutate: no %s in it", value)
		}
		if list[i].data[0] ^= 1; how == "drop" {
			list = slices.Delete(list, i, i+1)
		}
		b = pack(list)
	case "images", "signature":
		other, i := unpack(ts, []byte(ts.ReadFile(value))), images
		if how == "signature" {
			i = 1
		}
		j := slices.IndexFunc(other, func(e entry) bool { return e.name == list[i].name })
		list[i] = other[j]
		b = pack(list)
	case "twice":
		list[0] = list[0].with(bytes.Replace(list[0].data, []byte("  \"app\":"), []byte("  \"app\": \"till\",\n  \"app\":"), 1))
		list[1] = list[1].with(signer(test(ts), "maker").Sign(test(ts), list[0].data))
		b = pack(list)
	default:
		ts.Fatalf("mutate: unknown %q", args[2])
	}
	if bytes.Equal(b, []byte(ts.ReadFile(args[0]))) {
		ts.Fatalf("mutate: nothing changed")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o644))
}

func manifestOf(ts *testscript.TestScript, list []entry) *bundle.Manifest {
	m, err := bundle.ParseManifest(list[0].data)
	ts.Check(err)
	return m
}

func cutAt(ts *testscript.TestScript, b []byte, where string) int {
	switch where {
	case "head":
		// The members of manifest and signature, header, content and padding
		// of each.
		return memberEnds(ts, b)[5]
	case "images":
		return len(b) / 2
	}
	n, err := strconv.Atoi(where)
	ts.Check(err)
	if n < 0 {
		n += len(b)
	}
	return n
}

// entry is one file of a tar: its header block and content.
type entry struct {
	name string
	head []byte
	data []byte
}

// with is e with other content.
func (e entry) with(data []byte) entry {
	h := bytes.Clone(e.head)
	copy(h[124:], fmt.Sprintf("%011o", len(data)))
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return entry{e.name, h, data}
}

func (e entry) padding() []byte { return make([]byte, -len(e.data)&511) }

// unpack reads a bundle that is well-formed.
func unpack(ts *testscript.TestScript, b []byte) []entry {
	zr, err := gzip.NewReader(bytes.NewReader(b))
	ts.Check(err)
	plain, err := io.ReadAll(zr)
	ts.Check(err)
	return split(ts, plain)
}

func split(ts *testscript.TestScript, plain []byte) (list []entry) {
	for at := 0; plain[at] != 0; {
		h, err := tar.NewReader(bytes.NewReader(plain[at:])).Next()
		ts.Check(err)
		end := at + 512 + int(h.Size)
		list = append(list, entry{h.Name, plain[at : at+512], bytes.Clone(plain[at+512 : end])})
		at = end + -int(h.Size)&511
	}
	return list
}

func join(list []entry) []byte {
	var b []byte
	for _, e := range list {
		b = slices.Concat(b, e.head, e.data, e.padding())
	}
	return append(b, make([]byte, 1024)...)
}

// pack writes a bundle whose gzip members begin where format valise/1 wants it.
func pack(list []entry) []byte {
	var out bytes.Buffer
	member := func(b []byte) {
		if len(b) > 0 {
			w := gzip.NewWriter(&out)
			_, _ = w.Write(b)
			_ = w.Close()
		}
	}
	toc := 0
	for i, e := range list {
		last := i == len(list)-1
		if last {
			toc = out.Len()
		}
		member(e.head)
		if e.name == bundle.ImagesName {
			ends := 0
			for rest := e.data; len(rest) > 1024; rest = e.data[ends:] {
				h, _ := tar.NewReader(bytes.NewReader(rest)).Next()
				member(rest[:512])
				member(rest[512 : 512+h.Size])
				next := 512 + h.Size + -h.Size&511
				member(rest[512+h.Size : next])
				ends += int(next)
			}
			member(e.data[ends:])
		} else {
			member(e.data)
		}
		if last {
			member(append(e.padding(), make([]byte, 1024)...))
		} else {
			member(e.padding())
		}
	}
	out.Write([]byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 12, 0, 'V', 'A', 8, 0})
	out.Write(binary.LittleEndian.AppendUint64(nil, uint64(toc)))
	out.Write([]byte{1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0})
	return out.Bytes()
}

// memberEnds are the offsets behind the gzip members of b.
func memberEnds(ts *testscript.TestScript, b []byte) (ends []int) {
	src := bytes.NewReader(b)
	r := bufio.NewReader(src)
	zr, err := gzip.NewReader(r)
	ts.Check(err)
	for {
		zr.Multistream(false)
		_, err := io.Copy(io.Discard, zr)
		ts.Check(err)
		ends = append(ends, len(b)-src.Len()-r.Buffered())
		if err := zr.Reset(r); err == io.EOF {
			return ends
		}
		ts.Check(err)
	}
}
