package main

import (
	"cmp"

	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer"
)

// reporter turns events into progress lines and bars.
func (p *program) reporter() func(installer.Event) {
	var update func(done, total int64)
	var finish func(error)
	end := func(err error) {
		if finish != nil {
			finish(err)
			update, finish = nil, nil
		}
	}
	return func(e installer.Event) {
		note := e.Note()
		switch {
		case e.Ended:
			end(e.Err)
		case note != "":
			end(nil)
		case e.Done > 0:
			if update == nil {
				update, finish = p.UI.Track(cmp.Or(e.Detail, stepLabel[e.Step]))
			}
			update(e.Done, e.Total)
		case e.Step == "download" || e.Step == "verify":
			end(nil)
			update, finish = p.UI.Track(e.Step + " " + e.Detail)
		default:
			end(nil)
			p.UI.Step(e.Step, e.Detail)
		}
		if note != "" {
			p.Note("%s", cli.OneLine(note))
		}
	}
}

var stepLabel = map[string]string{"stage": "load layers", "backup": "save data"}
