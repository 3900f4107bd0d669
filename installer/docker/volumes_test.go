package docker

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/moby/client"
)

// Where root begins to walk no container can have put anything: not the one whose
// data it is, and not another one that has a directory above as a volume.
func TestHostPath(t *testing.T) {
	e, info, app := realEngine(t)
	env := Env{Path: os.Getenv("PATH"), Home: t.TempDir(), Host: e.Host(), DockerConfig: os.Getenv("DOCKER_CONFIG")}
	program, err := FindCompose(t.Context(), env)
	if err != nil {
		need(t, err.Error())
	}
	b := blobs{}
	images := tagged(app, b.image(t, info.Platform, v1.Config{Cmd: []string{"/none"}}, layer(t, file{"x", 0o644, []byte(app)})))
	load(t, e, b, images)
	ids, err := e.Check(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}
	dir, project := t.TempDir(), "valise-test-"+strings.ToLower(rand.Text())
	for _, name := range []string{"shared/inner", "read/inner", "bound"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Volumes with a part of them mounted came with engine 26.
	sub, major := "", 0
	if _, err := fmt.Sscanf(info.Version, "%d.", &major); err != nil {
		t.Fatal(err)
	}
	if major >= 26 {
		sub = "      - {type: volume, source: data, target: /sub, volume: {subpath: a/b}}\n"
	}
	text := fmt.Sprintf(`
services:
  app:
    image: %[1]q
    network_mode: none
    tmpfs: [/tmp]
    volumes:
      - data:/data
      - cache:/data/cache
      - bound:/bound
      - remote:/remote
      - ./shared/inner:/inner
      - ./read/inner:/read
      - ./alone:/file
%[2]s  other:
    image: %[1]q
    network_mode: none
    volumes: ["./shared:/shared", "./read:/read:ro", "/:/host"]
volumes:
  data: {}
  cache: {}
  bound: {driver_opts: {type: none, o: bind, device: %[3]q}}
  remote: {driver_opts: {type: nfs, o: "addr=192.0.2.1", device: ":/x"}}
`, ids[images[0].Tag], sub, filepath.Join(dir, "bound"))
	compose := filepath.Join(dir, "compose.yml")
	if err := os.WriteFile(compose, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &Compose{Program: program, Env: env, Engine: e, Project: project, Dir: dir, Files: []string{compose}}
	t.Cleanup(func() {
		if err := c.Down(testContext); err != nil {
			t.Error(err)
		}
		names, err := e.Volumes(testContext, project)
		if err != nil {
			t.Error(err)
		}
		for _, name := range names {
			if _, err := e.client.VolumeRemove(testContext, name, client.VolumeRemoveOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
	if err := c.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := func(name string) string {
		v, err := e.client.VolumeInspect(t.Context(), project+"_"+name, client.VolumeInspectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return v.Volume.Mountpoint
	}
	want := map[string][2]string{
		"/data":                {kept("data"), ""},
		"/data/../data/./up/x": {kept("data"), "up/x"},
		"/database":            {},
		"/data/cache/x":        {kept("cache"), "x"},
		"/bound/x":             {filepath.Join(dir, "bound"), "x"}, // and not where the engine mounts it while a container runs
		"/remote/x":            {},
		"/tmp/x":               {},
		"/inner/x":             {filepath.Join(dir, "shared"), "inner/x"}, // another container owns what is above
		"/read/x":              {filepath.Join(dir, "read/inner"), "x"},   // and cannot write there
		"/file":                {filepath.Join(dir, "alone"), ""},
	}
	if sub != "" {
		want["/sub/x"] = [2]string{kept("data"), "a/b/x"}
	}
	for file, w := range want {
		source, below, err := c.HostPath(t.Context(), "app", file)
		if source != w[0] || below != w[1] || (err == nil) != (w[0] != "") {
			t.Errorf("%s: %q, %q, %v; want %q", file, source, below, err, w)
		}
	}
	if _, _, err := c.HostPath(t.Context(), "nobody", "/data"); err == nil {
		t.Error("a service without a container: nil error")
	}
}
