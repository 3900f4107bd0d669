package project

import (
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// TestVolumeOrigins has volumes that get data of others, and what is wrong with them.
func TestVolumeOrigins(t *testing.T) {
	files := func(volumes string) map[string]string {
		return map[string]string{"valise.yaml": goodProject + "volumes: " + volumes + "\n",
			"compose.yaml": "services: {db: {image: a, restart: always, volumes: [\"new:/data\", \"theirs:/x\"]}}\nvolumes: {new: {}, theirs: {external: true}}\n"}
	}
	r, _, err := release(t, files("{new: {from: old}, theirs: {create: true}}"))
	if err != nil || r.Origins["new"] != (bundle.Origin{From: "old"}) || !slices.Equal(r.Create.Volumes, []string{"theirs"}) {
		t.Fatal(r, err)
	}
	if r, _, err = release(t, files("{new: {empty: true}}")); err != nil || !r.Origins["new"].Empty {
		t.Fatal(r, err)
	}
	for volumes, want := range map[string]string{
		"{new: {from: old, empty: true}}":   "one of create, from and empty",
		"{theirs: {from: x, create: true}}": "one of create, from and empty",
		"{new: {}}":                         "no volume new with external: true",
		"{theirs: {from: old}}":             "no volume theirs of its own",
		"{nwe: {from: old}}":                "did you mean",
		"{new: {from: new}}":                "another volume",
	} {
		if _, _, err := release(t, files(volumes)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", volumes, err, want)
		}
	}
	if got := OwnVolumes([]byte("volumes:\n  b:\n  a: {driver: local}\n  c: {external: {name: x}}\n  d: {external: true}\n")); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q", got)
	}
}
