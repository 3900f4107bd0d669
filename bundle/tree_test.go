package bundle_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
)

// TestTree reads a tree with the standard library, as a script that strips one
// component does, and with our reader.
func TestTree(t *testing.T) {
	files := bundletest.TreeFiles("cloud", "1.2.3")
	files["empty"] = ""
	files["web/"+strings.Repeat("d", 90)+"/"+strings.Repeat("f", 90)] = strings.Repeat("large", bundle.MemberSize/2)
	m, c := bundletest.Tree(t, bundletest.Spec{}, files)
	b := bundletest.Write(t, m, c)
	if again := bundletest.Write(t, m, c); !bytes.Equal(b, again) {
		t.Error("writing the same release twice gives different bytes")
	}
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	if err := bundle.Seal(t.Context(), &sealed, r, []byte(`{"signature":1}`)); err != nil {
		t.Fatal(err)
	}
	if r, err = open(sealed.Bytes()); err != nil {
		t.Fatal(err)
	}
	checkContent(t, r, c)

	gz, err := gzip.NewReader(&sealed)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for tr := tar.NewReader(gz); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(h.Name, m.Prefix+"/")
		if !ok {
			t.Errorf("%s is outside of %s", h.Name, m.Prefix)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o755 && strings.HasPrefix(name, "bin/") {
			t.Errorf("%s has mode %o", name, h.Mode)
		}
		got[name] = string(data)
	}
	for _, own := range []string{bundle.ManifestName, bundle.SignatureName, bundle.TOCName} {
		if _, ok := got[own]; !ok {
			t.Errorf("%s is missing", own)
		}
		delete(got, own)
	}
	if !maps.Equal(got, files) {
		t.Errorf("got %q", slices.Sorted(maps.Keys(got)))
	}
}

func TestTreeFiles(t *testing.T) {
	both := map[string]string{
		"all/packaging/cloud.service": "unit", "all/web/x": "x", "linux-amd64/bin/cloud": "amd64", "linux-arm64/bin/cloud": "arm64",
		"linux-arm64/bin/more": "arm64", "installer/linux-amd64/valise-installer": "program",
	}
	m, _ := bundletest.Tree(t, bundletest.Spec{Platforms: []bundle.Platform{"linux/amd64", "linux/arm64"}}, both)
	for p, want := range map[bundle.Platform]string{
		"linux/amd64": "bin/cloud=linux-amd64/bin/cloud packaging/cloud.service=all/packaging/cloud.service web/x=all/web/x",
		"linux/arm64": "bin/cloud=linux-arm64/bin/cloud bin/more=linux-arm64/bin/more packaging/cloud.service=all/packaging/cloud.service web/x=all/web/x",
	} {
		var got []string
		for _, f := range m.TreeFiles(p) {
			got = append(got, f.TreePath+"="+f.Path)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s has %q, want %q", p, got, want)
		}
	}
}

// TestUnitFiles: units, templates, instances and drop-ins, and where each belongs.
func TestUnitFiles(t *testing.T) {
	for _, tc := range []struct {
		units, instances []string
		names, err       string
	}{
		{units: []string{"a.socket", "u/a.service"}, names: "a.socket a.service"},
		{units: []string{"w@.service", "a.target"}, instances: []string{`w@x\x2dy.service`, "w@1.service"}, names: `a.target w@x\x2dy.service w@1.service`},
		{units: []string{"srv-data.mount", "x/srv-data.mount.d/size.conf"}, names: "srv-data.mount"},
		{units: []string{"w@.service", "w@.service.d/a.conf", "w@1.service.d/b.conf"}, instances: []string{"w@1.service"}, names: "w@1.service"},
		{units: []string{"w@.service"}, err: "templates only"},
		{units: []string{"w@.service"}, instances: []string{"w@1.service", "w@1.service"}, err: "instance"},
		{units: []string{"w@.service"}, instances: []string{"v@1.service"}, err: "instance"},
		{units: []string{"w@.service"}, instances: []string{"w@1.timer"}, err: "instance"},
		{units: []string{"w@.service"}, instances: []string{"w@../x.service"}, err: "instance"},
		{units: []string{"a.service", "ssh.service.d/a.conf"}, err: "drop-in"},
		{units: []string{"a.service", "a.service.d/.conf"}, err: "drop-in"},
		{units: []string{"a.service", "x/a.service.d/a.conf", "y/a.service.d/a.conf"}, err: "repeated"},
		{units: []string{"a.service", "x/a.service"}, err: "repeated"},
		{units: []string{"a.device"}, err: "no name of a unit"},
	} {
		files := bundletest.TreeFiles("cloud", "1.2.3")
		for _, u := range tc.units {
			files[u] = "unit"
		}
		m, _ := bundletest.Tree(t, bundletest.Spec{}, files)
		m.Device.Tree.Units, m.Device.Tree.Instances = tc.units, tc.instances
		err := m.Validate()
		if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%q, %q: %v, want %q", tc.units, tc.instances, err, tc.err)
		}
		if got := strings.Join(m.Device.Tree.UnitNames(), " "); tc.err == "" && got != tc.names {
			t.Errorf("%q: units are %q, want %q", tc.units, got, tc.names)
		}
	}
	if got := bundle.UnitFile("packaging/a.service.d/x.conf") + " " + bundle.UnitFile("etc/x.conf") + " " + bundle.UnitFile("a.d/b.service"); got != "a.service.d/x.conf x.conf b.service" {
		t.Error(got)
	}
}
