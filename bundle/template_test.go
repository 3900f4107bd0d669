package bundle_test

import (
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
)

// TestTemplateInRelease: a template may be a file of the release itself, in the place of
// one of the tree or a new one, and nothing else there.
func TestTemplateInRelease(t *testing.T) {
	const current = "/opt/cloud/current/"
	for to, good := range map[string]bool{
		"web/config.json": true, "web/new/config.json": true, "config.js": true, "web/index.html": true,
		"web": false, "web/config.json/x": false, "WEB/config.json": false, "Web/config.json": false, "bin/cloud": false, "packaging/cloud.service": false, "manifest.json": false, "VERSION": false, ".env.example": false,
		"../etc/passwd": false, "web//config.json": false, "": false, ".valise/web/config.json": false, "installer/linux-amd64/valise-installer": false,
	} {
		files := bundletest.TreeFiles("cloud", "1.2.3")
		files["web/config.json"] = `{"url": "@@URL@@"}`
		m, _ := bundletest.Tree(t, bundletest.Spec{}, files)
		m.Device.Tree.Templates = []bundle.Template{{From: "web/config.json", To: current + to, Mode: 0o644}}
		if err := m.Validate(); (err == nil) != good {
			t.Errorf("%s: %v", to, err)
		}
		want := to
		if to == "web/config.json" || to == "web/index.html" {
			want = bundle.TemplatesDir + "/" + to
		}
		if got := m.StagedAs(to); good && strings.HasPrefix(to, "web/") && !strings.Contains(to, "new") && got != want {
			t.Errorf("%s is staged as %s", to, got)
		}
	}
	for name, templates := range map[string][]bundle.Template{
		"twice":  {{From: "web/index.html", To: current + "a.json", Mode: 0o644}, {From: "web/index.html", To: current + "A.json", Mode: 0o644}},
		"nested": {{From: "web/index.html", To: current + "a", Mode: 0o644}, {From: "web/index.html", To: current + "a/b", Mode: 0o644}},
	} {
		m, _ := bundletest.Tree(t, bundletest.Spec{}, bundletest.TreeFiles("cloud", "1.2.3"))
		if m.Device.Tree.Templates = templates; m.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	files := bundletest.TreeFiles("cloud", "1.2.3")
	files[".valise/x"] = "x"
	m, _ := bundletest.Tree(t, bundletest.Spec{}, files)
	if m.Device.Tree.Templates = []bundle.Template{{From: "web/index.html", To: current + "x", Mode: 0o644}}; m.Validate() == nil {
		t.Error("a tree with files of the installer is accepted")
	}
}
