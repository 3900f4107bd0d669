package daemon

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/valise-ota/valise/installer"
)

var gauges = []struct{ name, help string }{
	{"valise_info", "Version that runs."},
	{"valise_updates", "Records by status."},
	{"valise_needs_attention", "1 when a rollback failed and a person must look."},
	{"valise_update_running", "1 while something is downloaded, verified or applied."},
	{"valise_free_bytes", "Free space where bundles are kept."},
	{"valise_last_success_timestamp_seconds", "When a release was committed last."},
}

// metrics writes what a monitoring system wants, in the text format of
// Prometheus.
func (d *Daemon) metrics(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	var b strings.Builder
	for _, m := range gauges {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n", m.name, m.help, m.name)
		for _, name := range d.names() {
			a := d.app(name)
			if a == nil {
				continue
			}
			st, err := a.records.Load(r.Context())
			if err != nil {
				continue
			}
			switch m.name {
			case "valise_info":
				if st.Current != nil {
					fmt.Fprintf(&b, "%s{app=%q,version=%q} 1\n", m.name, name, st.Current.Version)
				}
			case "valise_updates":
				for _, s := range []installer.Status{installer.Pending, installer.Completed, installer.Failed, installer.RolledBack} {
					_, n, _ := a.records.Find(r.Context(), []installer.Status{s}, 0, 0)
					fmt.Fprintf(&b, "%s{app=%q,status=%q} %d\n", m.name, name, s, n)
				}
			case "valise_needs_attention":
				fmt.Fprintf(&b, "%s{app=%q} %d\n", m.name, name, one(st.Unfinished != nil && st.Unfinished.Attention != ""))
			case "valise_update_running":
				_, n, _ := a.records.Find(r.Context(), []installer.Status{installer.Downloading, installer.Verifying, installer.Applying}, 0, 0)
				fmt.Fprintf(&b, "%s{app=%q} %d\n", m.name, name, one(n > 0))
			case "valise_free_bytes":
				if n, err := installer.FreeBytes(a.config.Inbox); err == nil {
					fmt.Fprintf(&b, "%s{app=%q} %d\n", m.name, name, n)
				}
			case "valise_last_success_timestamp_seconds":
				if st.Current != nil {
					fmt.Fprintf(&b, "%s{app=%q} %d\n", m.name, name, st.Current.CommittedAt.Unix())
				}
			}
		}
	}
	_, _ = io.WriteString(w, b.String())
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}
