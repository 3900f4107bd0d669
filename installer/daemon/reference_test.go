package daemon

import (
	"encoding/json"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
)

var update = flag.Bool("update", false, "write docs/reference/events.md again")

// TestReference: docs/reference/events.md has the events of a webhook and all
// metrics, as they are sent.
func TestReference(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	shop := &app{name: "shop"}
	event, err := json.MarshalIndent(shop.cloudEvent(installer.Record{
		ID: "01K0EXAMPLE", Action: installer.ActionUpdate, To: installer.Release{Version: "1.2.0", Signer: "key sha256:2a6487f34ab437aa"}, Status: installer.RolledBack,
		Error: "probe 1.2.0: not healthy after 10 attempts: service backend is unhealthy, want healthy", Created: at.Add(-2 * time.Minute), Started: at.Add(-time.Minute), Ended: at,
	}, at), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Events and metrics\n\n## Webhook\n\n`updates: {webhook: URL}` in [/etc/valise/APP.yaml](app-yaml.md) gets a CloudEvents 1.0 event in JSON by POST each time the status of a record changes. "+
		"The daemon tries each event for a minute. `data` is an [Update](api.md#update).\n\n```json\n%s\n```\n\n| `type` | the record |\n|---|---|\n", event)
	for _, s := range []installer.Status{installer.Pending, installer.Downloading, installer.Verifying, installer.Applying, installer.Completed, installer.Failed, installer.RolledBack} {
		fmt.Fprintf(&b, "| `%s` | is `%s` |\n", shop.cloudEvent(installer.Record{Status: s}, at)["type"], s)
	}
	b.WriteString("\n## Metrics\n\n[GET /api/v1/ota/metrics](api.md#get-apiv1otametrics) answers in Prometheus' text format. All are gauges with the label `app`.\n\n| name | |\n|---|---|\n")
	for _, m := range gauges {
		fmt.Fprintf(&b, "| `%s` | %s |\n", m.name, m.help)
	}
	bundletest.Page(t, "../..", "events.md", b.String(), *update)
}
