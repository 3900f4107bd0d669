package project

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// TestExamples: the two samples of docs/compose.md are releases, and carry what they
// mount.
func TestExamples(t *testing.T) {
	for name, want := range map[string]struct{ files, mounts, local, required, notes string }{
		"monitoring": {
			files:    "alertmanager/alertmanager.yml compose-source/compose.yaml compose.yaml grafana/dashboards/disk.json grafana/provisioning/dashboards/files.yml grafana/provisioning/datasources/prometheus.yml prometheus/prometheus.yml prometheus/rules/disk.yml",
			mounts:   "alertmanager/alertmanager.yml grafana/dashboards grafana/provisioning prometheus",
			required: "GRAFANA_ADMIN_PASSWORD",
		},
		"product": {
			files:    "compose-source/compose.yaml compose.yaml conf/app.env conf/postgres.conf",
			mounts:   "conf/app.env conf/postgres.conf",
			local:    "secrets/db_password.txt",
			required: "MAIL_FROM SESSION_KEY",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Load(t.Context(), filepath.Join("../../examples", name, DefaultFile))
			if err != nil {
				t.Fatal(err)
			}
			r, err := p.Release(t.Context(), "1.2.3", p.Platforms)
			if err != nil {
				t.Fatal(err)
			}
			var files []string
			var list []bundle.File
			for _, f := range r.Files {
				files = append(files, f.Path)
				list = append(list, bundle.File{Path: f.Path, Mode: 0o644, Digest: bundle.DigestOf([]byte(f.Path))})
			}
			resolved, err := r.Resolve(list)
			if err != nil {
				t.Fatal(err)
			}
			for what, c := range map[string]struct {
				got  []string
				want string
			}{"files": {files, want.files}, "mounts": {resolved.Mounts, want.mounts}, "local": {r.Local, want.local}, "required": {r.RequiredEnv, want.required}} {
				if !slices.Equal(c.got, strings.Fields(c.want)) {
					t.Errorf("%s: got  %q\nwant %q", what, c.got, strings.Fields(c.want))
				}
			}
			if len(r.Notes) > 0 {
				t.Errorf("notes: %q", r.Notes)
			}
		})
	}
}
