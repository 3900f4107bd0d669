package docker

import (
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/valise-ota/valise/bundle"
)

// need skips a test that needs something this machine lacks; in CI it fails.
func need(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing: %s", what)
	}
	t.Skipf("missing: %s", what)
}

// realEngine connects to the engine of VALISE_TEST_DOCKER_HOST. app is a name
// no other test uses; what is under it is removed at the end.
func realEngine(t *testing.T) (e *Engine, info Info, app string) {
	t.Helper()
	host := os.Getenv("VALISE_TEST_DOCKER_HOST")
	if host == "" {
		need(t, "an engine (VALISE_TEST_DOCKER_HOST)")
	}
	e, err := Connect(t.Context(), host, 0)
	if err != nil {
		t.Fatal(err)
	}
	if info, err = e.Info(t.Context()); err != nil {
		t.Fatal(err)
	}
	app = "t" + strings.ToLower(rand.Text())
	t.Cleanup(func() {
		ctx := testContext
		tags, err := e.List(ctx, app)
		if err != nil {
			t.Error(err)
		}
		if left, err := e.Remove(ctx, app, tags); err != nil || left != nil {
			t.Errorf("clean up: left %v, %v", left, err)
		}
		e.Close()
	})
	return e, info, app
}

// load loads what is missing of images and returns how many bytes were sent.
func load(t *testing.T, e *Engine, b blobs, images []TaggedImage, known ...bundle.Image) (sent int64) {
	t.Helper()
	var plain []bundle.Image
	for _, img := range images {
		plain = append(plain, img.Image)
	}
	missing, err := e.Missing(t.Context(), plain, known)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Load(t.Context(), images, except(plain, missing), b.open, func(done, _ int64) { sent = done }); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Check(t.Context(), images); err != nil {
		t.Fatal(err)
	}
	return sent
}

func except(images []bundle.Image, missing map[bundle.Digest]bool) map[bundle.Digest]bool {
	skip := map[bundle.Digest]bool{}
	for _, img := range images {
		for _, l := range img.Layers {
			skip[l.Digest] = !missing[l.Digest]
		}
	}
	return skip
}

func wantList(t *testing.T, e *Engine, app string, want ...string) {
	t.Helper()
	got, err := e.List(t.Context(), app)
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("List: %q, %v; want %q", got, err, want)
	}
}

// An engine is asked once what it is; one that was restarted, and may be another now, is
// asked again, because its connections are new.
func TestInfoOnce(t *testing.T) {
	asked, version, info := 0, version2010, infoGraph
	e := fakeEngine{
		"GET /version": func(w http.ResponseWriter, r *http.Request) { asked++; answer(version)(w, r) },
		"GET /info":    func(w http.ResponseWriter, r *http.Request) { answer(info)(w, r) },
		"GET /containers/json": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			answer("[]")(w, r)
		},
	}.start(t)
	want := func(store Store, times int) {
		t.Helper()
		if got, err := e.Info(t.Context()); err != nil || got.Store != store || asked != times {
			t.Errorf("%+v, %v after %d questions, want %s after %d", got, err, asked, store, times)
		}
	}
	want(GraphDriver, 1)
	want(GraphDriver, 1)
	version, info = version29, infoC8d
	if _, err := e.Projects(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(Containerd, 2)
	want(Containerd, 2)
	if _, err := e.Ask(t.Context()); err != nil || asked != 3 {
		t.Errorf("%v after %d questions, want 3", err, asked)
	}
}

func TestEngineInfo(t *testing.T) {
	_, info, _ := realEngine(t)
	t.Logf("%+v", info)
	if info.Version == "" || info.APIVersion == "" || !strings.HasPrefix(string(info.Platform), "linux/") || info.Driver == "" {
		t.Errorf("Info: %+v", info)
	}
	if st, err := os.Stat(info.Root); err != nil || !st.IsDir() {
		t.Errorf("root directory: %v", err)
	}
}

func TestLoadThin(t *testing.T) {
	e, info, app := realEngine(t)
	b := blobs{}
	base := []v1.Layer{layer(t), layer(t)}
	old1 := b.image(t, info.Platform, v1.Config{}, append(base[:2:2], layer(t))...)
	old2 := b.image(t, info.Platform, v1.Config{Env: []string{"A=b"}}, append(base[:2:2], layer(t))...)
	oldImages := tagged(app, old1, old2)
	if sent := load(t, e, b, oldImages); sent < 80<<10 {
		t.Errorf("full load sent %d bytes, want four layers of 20 KiB", sent)
	}
	wantList(t, e, app, oldImages[0].Tag, oldImages[1].Tag)
	ids, err := e.Check(t.Context(), oldImages)
	wantID := old1.Config.Digest
	if info.Store == Containerd {
		wantID = old1.Manifest.Digest
	}
	if err != nil || ids[oldImages[0].Tag] != string(wantID) {
		t.Errorf("Check: %v, %v", ids, err)
	}

	// The next release shares the base, and old2 as it is.
	next := b.image(t, info.Platform, v1.Config{}, append(base[:2:2], layer(t))...)
	sent := load(t, e, b, tagged(app, next, old2), old1, old2)
	if sent < 20<<10 || sent > 30<<10 {
		t.Errorf("thin load sent %d bytes, want one layer of 20 KiB and small files", sent)
	}
	// Its layer on another base is another layer on a graph driver, and the
	// same blob in a containerd store.
	if info.Store == GraphDriver {
		moved := old1
		moved.Layers = []bundle.Layer{old1.Layers[0], old1.Layers[2]}
		missing, err := e.Missing(t.Context(), []bundle.Image{moved}, nil)
		if err != nil || len(missing) != 1 || !missing[old1.Layers[2].Digest] {
			t.Errorf("Missing: %v, %v", missing, err)
		}
	}
	if err := e.Sync(t.Context()); err != nil {
		t.Error(err)
	}
}

// A thin load without its base must not pass for a success.
// Every engine gets layers that it can unpack, whole and thin.
func TestEngineZstd(t *testing.T) {
	e, info, app := realEngine(t)
	b := blobs{}
	base := layerOf(t, compression.ZStd, types.OCILayerZStd)
	old := b.image(t, info.Platform, v1.Config{}, base, layer(t))
	load(t, e, b, tagged(app, old))
	img := b.image(t, info.Platform, v1.Config{}, base, layerOf(t, compression.ZStd, types.OCILayerZStd))
	if sent := load(t, e, b, tagged(app, img), old); sent > 30<<10 {
		t.Errorf("thin load sent %d bytes", sent)
	}
	for _, i := range []bundle.Image{old, img} {
		if err := e.Keep(t.Context(), app, Tag(app, i)); err != nil {
			t.Error(err)
		}
	}
}

func TestLoadThinWithoutBase(t *testing.T) {
	e, info, app := realEngine(t)
	b := blobs{}
	images := tagged(app, b.image(t, info.Platform, v1.Config{}, layer(t), layer(t)))
	skip := map[bundle.Digest]bool{images[0].Image.Layers[0].Digest: true}
	err := e.Load(t.Context(), images, skip, b.open, nil)
	if err == nil {
		t.Error("Load: nil error")
	}
	t.Log(err)
	// Removing what it left and loading everything heals.
	if _, err := e.Remove(t.Context(), app, []string{images[0].Tag}); err != nil {
		t.Fatal(err)
	}
	load(t, e, b, images)
	if err := e.Keep(t.Context(), app, images[0].Tag); err != nil {
		t.Error(err)
	}
}

func TestLoadCorrupt(t *testing.T) {
	e, info, app := realEngine(t)
	for _, tt := range []struct {
		name string
		// spoil returns the image to load; it may change blobs.
		spoil func(b blobs, img bundle.Image) bundle.Image
	}{
		{"layer with a flipped bit", func(b blobs, img bundle.Image) bundle.Image {
			l := img.Layers[1]
			b[l.Digest][l.Size/2] ^= 1
			return img
		}},
		{"layer of another image", func(b blobs, img bundle.Image) bundle.Image {
			other := b.image(t, info.Platform, v1.Config{}, layer(t))
			l := &img.Layers[1]
			l.Size = other.Layers[0].Size
			b[l.Digest] = b[other.Layers[0].Digest]
			return img
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := blobs{}
			img := tt.spoil(b, b.image(t, info.Platform, v1.Config{}, layer(t), layer(t)))
			err := e.Load(t.Context(), tagged(app, img), nil, b.open, nil)
			if err == nil {
				t.Error("Load: nil error")
			}
			t.Log(err)
			if info.Store == GraphDriver {
				wantList(t, e, app)
			}
		})
	}
	t.Run("source fails", func(t *testing.T) {
		b := blobs{}
		img := b.image(t, info.Platform, v1.Config{}, layer(t), layer(t))
		cause := errors.New("digest mismatch in the bundle")
		err := e.Load(t.Context(), tagged(app, img), nil, func(d bundle.Descriptor) (io.ReadCloser, error) {
			r, err := b.open(d)
			if d.Digest == img.Layers[1].Digest {
				return io.NopCloser(failingReader{r, cause}), err
			}
			return r, err
		}, nil)
		if !errors.Is(err, cause) {
			t.Errorf("Load: %v", err)
		}
		// A containerd store may have tagged it already, as above.
		if info.Store == GraphDriver {
			wantList(t, e, app)
		}
	})
}

// The engine accepts these; only Check sees that they are not what was signed.
func TestCheck(t *testing.T) {
	e, info, app := realEngine(t)
	b := blobs{}
	good := b.image(t, info.Platform, v1.Config{}, layer(t), layer(t))
	load(t, e, b, tagged(app, good))
	tag := Tag(app, good)
	clone := func(change func(*bundle.Image)) bundle.Image {
		img := good
		img.Layers = slices.Clone(good.Layers)
		change(&img)
		return img
	}
	other := bundle.DigestOf([]byte("other"))
	for _, tt := range []struct {
		want string
		img  bundle.Image
	}{
		{"layer 1 has diffID", clone(func(i *bundle.Image) { i.Layers[1].DiffID = other })},
		{"has 2 layers, want 1", clone(func(i *bundle.Image) { i.Layers = i.Layers[:1] })},
		{"image ID is", clone(func(i *bundle.Image) { i.Config.Digest, i.Manifest.Digest = other, other })},
		{"is built for linux/", clone(func(i *bundle.Image) { i.Platform = "linux/mips" })},
	} {
		_, err := e.Check(t.Context(), []TaggedImage{{tag, tt.img}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Check: %v, want %q", err, tt.want)
		}
	}
	none := clone(func(i *bundle.Image) { i.Config.Digest, i.Manifest.Digest = other, other })
	if _, err := e.Check(t.Context(), tagged(app, none)); err == nil {
		t.Error("Check of no image: nil error")
	}
}

func TestKeep(t *testing.T) {
	e, info, app := realEngine(t)
	b := blobs{}
	// The label limits the prune below to this test's images.
	cfg := v1.Config{Labels: map[string]string{"dev.valise.test": app}}
	kept := b.image(t, info.Platform, cfg, layer(t))
	cfg.Volumes = map[string]struct{}{"/data": {}}
	kept2 := b.image(t, info.Platform, cfg, layer(t))
	loose := b.image(t, info.Platform, cfg, layer(t))
	images := tagged(app, kept, kept2, loose)
	load(t, e, b, images)
	for _, tag := range []string{images[0].Tag, images[1].Tag, images[0].Tag} {
		if err := e.Keep(t.Context(), app, tag); err != nil {
			t.Fatal(err)
		}
	}
	// An image with several names loses them, whoever uses it: a prune takes all
	// but one. Its own comes back.
	second := "valise-test/" + app + ":second"
	if _, err := e.client.ImageTag(t.Context(), client.ImageTagOptions{Source: images[0].Tag, Target: second}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{images[0].Tag, second} {
		if _, err := e.client.ImageRemove(t.Context(), name, client.ImageRemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Check(t.Context(), images[:2]); err != nil {
			t.Fatal(err)
		}
	}
	keepers, err := e.client.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", "dev.valise.app="+app)})
	if err != nil || len(keepers.Items) != 2 {
		t.Fatalf("%d keepers, want 2; %v", len(keepers.Items), err)
	}
	for _, k := range keepers.Items {
		for _, m := range k.Mounts {
			if m.Type == mount.TypeVolume {
				t.Errorf("keeper %s made volume %s", k.Names, m.Name)
			}
		}
	}
	if _, err := e.client.ImagePrune(t.Context(), client.ImagePruneOptions{Filters: client.Filters{}.Add("dangling", "false").Add("label", "dev.valise.test="+app)}); err != nil {
		t.Fatal(err)
	}
	wantList(t, e, app, images[0].Tag, images[1].Tag)
	if _, err := e.Check(t.Context(), images[:2]); err != nil {
		t.Error(err)
	}
	// A keeper of nothing is listed, so that it can be removed.
	if err := e.Keep(t.Context(), app, images[2].Tag); err == nil {
		t.Error("Keep of a pruned image: nil error")
	}
	if left, err := e.Remove(t.Context(), app, []string{images[0].Tag, images[1].Tag, images[2].Tag}); err != nil || left != nil {
		t.Errorf("Remove: %v, %v", left, err)
	}
	wantList(t, e, app)
	for _, tag := range []string{"alpine", "valise/" + app + "x:" + kept.Manifest.Digest.Hex(), "valise/" + app + ":latest"} {
		if err := e.Keep(t.Context(), app, tag); err == nil {
			t.Errorf("Keep of %s: nil error", tag)
		}
		if _, err := e.Remove(t.Context(), app, []string{tag}); err == nil {
			t.Errorf("Remove of %s: nil error", tag)
		}
	}
}

func TestRemoveLeavesUsed(t *testing.T) {
	e, info, app := realEngine(t)
	b := blobs{}
	used := b.image(t, info.Platform, v1.Config{}, layer(t))
	shared := b.image(t, info.Platform, v1.Config{}, layer(t))
	images := tagged(app, used, shared)
	load(t, e, b, images)
	for _, img := range images {
		if err := e.Keep(t.Context(), app, img.Tag); err != nil {
			t.Fatal(err)
		}
	}
	foreign := "valise-test/" + app + ":mine"
	if _, err := e.client.ImageTag(t.Context(), client.ImageTagOptions{Source: images[1].Tag, Target: foreign}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.client.ImageRemove(testContext, foreign, client.ImageRemoveOptions{}) })
	user := "user-of-" + app
	ids, err := e.Check(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}
	// By ID, as the compose override names it.
	if _, err := e.client.ContainerCreate(t.Context(), client.ContainerCreateOptions{Name: user, Config: &container.Config{Image: ids[images[0].Tag], Cmd: []string{"x"}}, HostConfig: &container.HostConfig{NetworkMode: "none"}}); err != nil {
		t.Fatal(err)
	}
	removeUser := func() {
		e.client.ContainerRemove(testContext, user, client.ContainerRemoveOptions{Force: true})
	}
	t.Cleanup(removeUser)

	tags := []string{images[0].Tag, images[1].Tag}
	left, err := e.Remove(t.Context(), app, tags)
	if err != nil || len(left) != 1 || left[0].Tag != images[0].Tag || !slices.Equal(left[0].Users, []string{user}) {
		t.Errorf("Remove: %v, %v", left, err)
	}
	wantList(t, e, app, images[0].Tag)
	if _, err := e.client.ImageInspect(t.Context(), foreign); err != nil {
		t.Errorf("an image with another tag: %v", err)
	}
	if _, err := e.client.ContainerInspect(t.Context(), keeperName(app, images[0].Tag), client.ContainerInspectOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("keeper of the image that is left: %v", err)
	}
	// With another name the image stays for its user, so ours may go.
	if _, err := e.client.ImageTag(t.Context(), client.ImageTagOptions{Source: images[0].Tag, Target: foreign}); err != nil {
		t.Fatal(err)
	}
	if left, err := e.Remove(t.Context(), app, tags); err != nil || left != nil {
		t.Errorf("Remove again: %v, %v", left, err)
	}
	wantList(t, e, app)
	if got, err := e.client.ImageInspect(t.Context(), foreign); err != nil || got.ID != ids[images[0].Tag] {
		t.Errorf("an image with another tag and a user: %v, %v", got.ID, err)
	}
	removeUser()
}

// Two image manifests of one config are one image with two tags on a graph
// driver; the keeper of one tag does not hold the other.
func TestRemoveSameConfig(t *testing.T) {
	e, info, app := realEngine(t)
	b := blobs{}
	one := b.image(t, info.Platform, v1.Config{}, layer(t))
	two := one
	raw := append([]byte(" "), b[one.Manifest.Digest]...)
	two.Manifest.Digest, two.Manifest.Size = bundle.DigestOf(raw), int64(len(raw))
	b[two.Manifest.Digest] = raw
	images := tagged(app, one, two)
	load(t, e, b, images)
	for _, img := range images {
		if err := e.Keep(t.Context(), app, img.Tag); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range [][]string{{images[1].Tag}, nil} {
		if left, err := e.Remove(t.Context(), app, []string{images[i].Tag}); err != nil || left != nil {
			t.Errorf("Remove: %v, %v", left, err)
		}
		wantList(t, e, app, want...)
	}
}

// A keeper that holds something else than its tag is replaced; a container of
// somebody else under its name is not touched.
func TestKeepReplaces(t *testing.T) {
	e, info, app := realEngine(t)
	b := blobs{}
	images := tagged(app, b.image(t, info.Platform, v1.Config{}, layer(t)), b.image(t, info.Platform, v1.Config{}, layer(t)))
	load(t, e, b, images)
	name := keeperName(app, images[0].Tag)
	squat := func(labels map[string]string) {
		t.Helper()
		if _, err := e.client.ContainerCreate(t.Context(), client.ContainerCreateOptions{Name: name, Config: &container.Config{Image: images[1].Tag, Cmd: []string{"x"}, Labels: labels}}); err != nil {
			t.Fatal(err)
		}
	}
	squat(nil)
	if err := e.Keep(t.Context(), app, images[0].Tag); err == nil || !strings.Contains(err.Error(), "not ours") {
		t.Errorf("Keep: %v", err)
	}
	if _, err := e.client.ContainerRemove(t.Context(), name, client.ContainerRemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	squat(map[string]string{appLabel: app})
	if err := e.Keep(t.Context(), app, images[0].Tag); err != nil {
		t.Fatal(err)
	}
	c, err := e.client.ContainerInspect(t.Context(), name, client.ContainerInspectOptions{})
	if err != nil || c.Container.Config.Image != images[0].Tag {
		t.Errorf("keeper holds %v, %v", c.Container.Config.Image, err)
	}
}
