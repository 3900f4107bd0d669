package ota

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	g "maragu.dev/gomponents"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
)

// The parts of the page: what GET /ui/NAME answers, and what the page is made of.

func (v *view) version() g.Node {
	s := v.State
	all := g.Group{el("h2", id("h-version"), v.text("installed")), el("p", css("app"), text(s.App)), v.current(), v.attention(s.Running)}
	if s.Previous != nil && v.May("apply") {
		all = append(all, el("p", css("actions"), button("", "rollback", attr("data-data", s.OnRollback), attr("data-version", s.Previous.Version),
			icon("undo"), v.text("rollback.to", s.Previous.Version))))
	}
	if s.Current != nil && v.May("apply") {
		run := func(call string) g.Node { return button("quiet", "run", attr("data-call", call), v.text("run."+call)) }
		all = append(all, el("p", css("actions"), run("apply"), run("start"), run("restart"), button("quiet", "stop", v.text("run.stop"))))
	}
	return all
}

// current is what is installed, and since when.
func (v *view) current() g.Node {
	s := v.State
	if s.Current == nil {
		return el("p", v.text("none"))
	}
	before := "–"
	if s.Previous != nil {
		before = s.Previous.Version
	}
	return g.Group{
		el("p", css("number"), text(s.Current.Version)),
		el("dl",
			v.row("since", moment(&s.Current.CommittedAt, minute+" UTC")),
			v.row("signer", css("mono"), text(s.Current.Signer)),
			v.row("before", text(before)),
			v.fleet()),
	}
}

// fleet is what a server wants that steers the app.
func (v *view) fleet() g.Node {
	f := v.State.Fleet
	if f == nil {
		return nil
	}
	wants := v.T("fleet.nothing")
	if f.Wants != "" {
		wants = v.T("fleet.wants", f.Wants)
	}
	if f.Newest != "" && f.Newest != f.Wants && f.Newest != v.State.Current.Version {
		wants += "; " + v.T("fleet.newest", f.Newest)
	}
	return v.row("fleet", text(wants+" "), el("small", css("hint"), text(f.Server)),
		g.Iff(f.Trouble != "", func() g.Node { return alert("warn", v.Why("fleet", f.Trouble)) }))
}

func (v *view) activity() g.Node {
	u := v.Update
	if u == nil {
		return nil
	}
	what := v.What(*u) + " "
	if from := value(u.FromVersion); u.FromVersion != nil && from != u.Version {
		what += from + " → "
	}
	return g.Group{
		el("p", css("row"), el("b", text(what+u.Version)), v.status(u.Status)),
		el("ol", css("steps"), g.Map(u.Steps, func(s installer.Step) g.Node {
			class, sign := string(s.State), el("i", css("spin"))
			switch {
			case s.State == installer.StepDone:
				sign = icon("ok")
			case s.State == installer.StepUndone:
				sign = icon("undo")
			case u.CompletedOn != nil:
				sign = icon("bad")
			}
			if u.CompletedOn != nil && s.State == installer.StepBegun {
				class = "failed"
			}
			return el("li", css(class), sign, v.text("step."+s.Name))
		})),
		alert("bad", v.WhyOf(*u)),
		v.attention(u),
	}
}

// from names the source of releases.
func (v *view) from() g.Node {
	return g.Group{v.text("release"), g.If(v.State.Source != "", g.Group{text(" "), el("small", css("hint"), text(v.State.Source))})}
}

func (v *view) release() g.Node {
	heading := el("h2", id("h-release"), v.from())
	c := v.Check
	switch {
	case c == nil && v.May("check"):
		return g.Group{heading, hint(v.text("release.off", v.App))}
	case c == nil:
		return g.Group{heading, hint(v.text("may.not"))}
	case c.GitHubError != nil:
		failed := el("span", v.text("release.failed"), el("details", el("summary", v.text("details")), text(*c.GitHubError)))
		return g.Group{heading, el("p", v.badge("unreachable", "", "badge.unreachable")), el("div", css("alert warn"), icon("warn"), failed), hint(v.text("offline.hint"))}
	case c.GitHubLatestVersion == nil:
		return g.Group{heading, el("p", v.badge("pending", "", "badge.none"))}
	}
	latest := *c.GitHubLatestVersion
	badge := v.badge("pending", "", "badge.older")
	switch {
	case latest == c.CurrentVersion:
		badge = v.badge("completed", "ok", "badge.installed")
	case c.UpdateAvailable && latest == value(c.LatestVersion):
		badge = v.badge("newer", "up", "badge.newer")
	case c.Blocked != nil:
		badge = v.badge("pending", "", "badge.blocked")
	}
	all := g.Group{heading, el("p", css("row"), el("b", css("number small"), text(latest)), badge)}
	if c.GitHubPublishedOn != nil {
		size := ""
		if c.GitHubSizeBytes != nil {
			size = " · " + byteSize(*c.GitHubSizeBytes)
		}
		all = append(all, hint(v.text("published"), text(" "), moment(c.GitHubPublishedOn, day), text(size)))
	}
	if len(c.Way) > 1 {
		all = append(all, hint(v.text("release.way", strings.Join(c.Way, " → "))))
	}
	if c.Blocked != nil {
		all = append(all, alert("warn", v.Why(value(c.BlockedReason), *c.Blocked)))
	}
	if c.GitHubNotes != nil {
		all = append(all, el("div", css("notes"), attr("tabindex", "0"), attr("role", "group"), attr("aria-label", v.T("changelog")), g.Raw(notes(c.GitHubNotes))))
	}
	return append(all, el("p", css("actions"),
		g.If(v.May("upload") && c.UpdateAvailable, button("primary", "download", icon("down"), v.text("download"))), text("\n"),
		link(c.GitHubDownloadURL, v.text("download.stick"), css("button")), text("\n"),
		link(c.GitHubReleaseURL, v.text("release.page"), attr("target", "_blank"))))
}

func (v *view) waiting() g.Node {
	if len(v.Waiting) == 0 {
		return g.Group{v.heading("waiting"), el("p", css("hint empty"), v.text("waiting.none"))}
	}
	return g.Group{v.heading("waiting"), el("ul", css("list"), g.Map(v.Waiting, func(u daemon.Update) g.Node {
		file := v.T("no.file")
		if u.HasFirmwareFile {
			file = byteSize(value(u.FileSizeBytes)) + " · " + v.T("unverified")
			if u.Verified {
				file = byteSize(value(u.FileSizeBytes)) + " · " + v.T("verified")
			}
		}
		return el("li",
			el("div", el("b", text(u.Version)), text(" "), el("span", css("hint"), text(file)), v.why(u),
				g.If(u.Changelog != nil, el("p", css("hint clip"), text(value(u.Changelog))))),
			el("div", css("actions"), v.consent(u), g.If(v.May("admin") && !u.Queued, v.deletes(u))))
	}))}
}

// consent is what can be done so that an update that waits goes on.
func (v *view) consent(u daemon.Update) g.Node {
	switch {
	case u.Queued:
		return el("span", css("hint"), v.text("js.queued"))
	case u.Asked:
		return g.Group{el("span", css("hint"), v.text("fleet.ask")),
			g.If(v.May("apply"), button("primary", "apply", attr("data-id", u.PublicID), v.text("fleet.confirm"), unseen(" "+u.Version)))}
	case u.HasFirmwareFile:
		return button("primary", "plan", attr("data-id", u.PublicID), v.text("review"), unseen(" "+u.Version))
	}
	return nil
}

func (v *view) deletes(u daemon.Update) g.Node {
	return button("quiet", "delete", attr("data-id", u.PublicID), attr("data-version", u.Version), v.text("delete"), unseen(" "+u.Version))
}

func (v *view) history() g.Node {
	p := v.History
	if p == nil {
		return nil
	}
	top := el("div", css("row"), v.heading("history"),
		el("label", css("filter"), v.text("filter"), text(" "), el("select", attr("data-filter"),
			el("option", attr("value", ""), v.text("filter.all")),
			g.Map(statuses, func(s installer.Status) g.Node {
				return el("option", attr("value", string(s)), g.If(string(s) == p.Filter, attr("selected")), v.text("status."+string(s)))
			}))))
	if len(p.Data) == 0 {
		return g.Group{top, hint(v.text("history.none"))}
	}
	var columns g.Group
	for _, key := range []string{"version", "action", "status", "when", "took", "by"} {
		columns = append(columns, el("th", attr("scope", "col"), v.text(key)))
	}
	columns = append(columns, el("th", attr("scope", "col"), unseen(v.T("actions"))))
	turn := func(key string, to int, end bool) g.Node {
		return el("button", css("quiet"), attr("data-page", strconv.Itoa(to)), g.If(end, attr("disabled")), v.text(key))
	}
	return g.Group{top,
		el("div", css("scroll"), attr("tabindex", "0"), attr("role", "group"), attr("aria-labelledby", "h-history"),
			el("table", el("thead", el("tr", columns)), el("tbody", g.Map(p.Data, v.record)))),
		el("nav", css("pages"), attr("aria-label", v.T("pages")),
			turn("newer", p.Page.Page-1, p.Page.Page <= 1), el("span", v.text("page.of", p.Page.Page, p.Pages)), turn("older", p.Page.Page+1, p.Page.Page >= p.Pages)),
	}
}

// record is a row of the history.
func (v *view) record(u daemon.Update) g.Node {
	version := u.Version
	if version == "" {
		version = "–"
	}
	return el("tr",
		el("th", attr("scope", "row"), text(version), g.If(u.Status == installer.Failed && u.FileName != nil, el("p", css("hint file"), text(value(u.FileName))))),
		el("td", text(v.What(u))),
		el("td", v.status(u.Status), v.why(u),
			g.If(u.Log != nil, el("details", css("why"), el("summary", v.text("history.log")), el("pre", text(value(u.Log)))))),
		el("td", moment(u.CreatedOn, minute)),
		el("td", text(took(u.StartedOn, u.CompletedOn))),
		el("td", text(v.By(u.UserPublicID))),
		el("td", css("actions"), v.again(u), text("\n"),
			g.If(v.May("admin") && slices.Contains([]installer.Status{installer.Pending, installer.Failed, installer.RolledBack, installer.Completed}, u.Status), v.deletes(u)), text("\n"),
			v.back(u)))
}

// again is a button to apply an update whose file is here.
func (v *view) again(u daemon.Update) g.Node {
	if !u.HasFirmwareFile || !v.May("apply") || u.Status == installer.Applying || u.Status == installer.Verifying {
		return nil
	}
	if u.Status == installer.Pending {
		return button("", "plan", attr("data-id", u.PublicID), v.text("review"), unseen(" "+u.Version))
	}
	return button("", "plan", attr("data-id", u.PublicID), attr("data-force", strconv.FormatBool(v.May("admin"))), v.text("again"), unseen(" "+u.Version))
}

// back is a button to leave the release that an update brought, while it runs.
func (v *view) back(u daemon.Update) g.Node {
	s := v.State
	if u.Status != installer.Completed || s.Previous == nil || s.Current == nil || !v.May("apply") || u.Version != s.Current.Version || u.Action == installer.ActionRollback {
		return nil
	}
	return button("", "rollback", attr("data-data", s.OnRollback), attr("data-id", u.PublicID), attr("data-version", s.Previous.Version), v.text("rollback"))
}

func (v *view) backups() g.Node {
	now := g.If(v.May("apply"), el("p", css("actions"), button("quiet", "run", attr("data-call", "backups"), v.text("backups.now"))))
	if len(v.Backups) == 0 {
		return g.Group{v.heading("backups"), hint(v.text("backups.none")), now}
	}
	return g.Group{v.fold(false, "backups", strconv.Itoa(len(v.Backups)), el("ul", css("list"), g.Map(v.Backups, v.backup))), now}
}

func (v *view) backup(b daemon.Backup) g.Node {
	return el("li",
		el("div", el("b", moment(&b.Created, minute)), text(" "), el("span", css("hint"), v.text("backups.of", b.Version), text(" · "+byteSize(b.Size))),
			g.Map(b.Files, func(f daemon.BackupFile) g.Node {
				address := "/api/v1/ota/backups/" + url.PathEscape(b.ID) + "/" + url.PathEscape(f.Name) + "?app=" + url.QueryEscape(v.App)
				return hint(text(v.Note(installer.Note{Text: f.What, Format: f.Format, Args: f.Args})), g.If(v.May("admin"), g.Group{text(" · "), el("a", attr("href", address), attr("download", ""), v.text("save"), unseen(" "+f.Name))}))
			})),
		g.If(v.May("admin"), el("div", css("actions"), button("", "restore", attr("data-id", b.ID), attr("data-version", b.Created.UTC().Format(minute)),
			v.text("restore"), unseen(" "+b.Created.UTC().Format(minute))))))
}

// fold is a part of which only the heading is seen at first.
func (v *view) fold(open bool, part, about string, children ...g.Node) g.Node {
	return el("details", css("fold"), g.If(open, attr("open")),
		el("summary", v.heading(part), g.If(about != "", g.Group{text(" "), el("span", css("hint"), text(about))})), g.Group(children))
}

func (v *view) health() g.Node {
	about := v.T("health.good", len(v.Health))
	if v.Failed > 0 {
		about = v.T("health.bad", v.Failed, len(v.Health))
	}
	checks := el("ul", css("checks"), g.Map(v.Health, func(f daemon.Finding) g.Node {
		class, sign := "bad", "bad"
		if f.OK {
			class, sign = "good", "ok"
		}
		return el("li", css(class), icon(sign), el("div", el("b", text(f.Name)), text(" "+f.Text), g.If(f.Remedy != "", hint(text(f.Remedy)))))
	}))
	return g.Group{v.fold(v.Failed > 0, "health", about, checks),
		g.If(v.May("admin"), el("p", css("actions"), el("a", css("button"), attr("href", "/api/v1/ota/logs?app="+url.QueryEscape(v.App)+"&lines=200"),
			attr("target", "_blank"), attr("rel", "noopener"), v.text("logs"))))}
}

func (v *view) settings() g.Node {
	s := v.State
	or := func(set, none string) g.Node {
		if set == "" {
			return v.text(none)
		}
		return text(set)
	}
	facts := g.Group{
		v.row("signers", g.Map(s.Signers, func(signer string) g.Node { return el("p", css("mono"), icon("shield"), text(signer)) })),
		v.row("source", or(s.Source, "source.none")),
	}
	if !v.May("admin") {
		schedule := v.Every(s.Check.String())
		if s.Check != 0 {
			schedule += " · " + v.T("auto") + " " + v.T("auto."+string(s.Auto))
			if s.Window != "" {
				schedule += " · " + s.Window
			}
		}
		facts = append(facts, v.row("schedule", text(schedule)), v.row("channel", or(s.Channel, "channel.none")))
	}
	facts = append(facts,
		v.row("drop", el("span", css("mono"), text(s.Drop)), text(" · "), v.text("mode."+string(s.DropMode))),
		v.row("uploads", v.text("mode."+string(s.Upload))),
		v.row("free", text(byteSize(s.FreeBytes))))
	return v.fold(false, "settings", "", el("dl", css("wide"), facts), g.If(v.May("admin"), v.form()), hint(v.text("settings.hint", s.App)))
}

// form is where the settings that the page may change are changed.
func (v *view) form() g.Node {
	s := v.State
	end := func(name string, n int) g.Node {
		return el("label", unseen(v.T("window."+name)), el("input", attr("type", "time"), attr("name", name), attr("value", clockTime(s.Window, n))))
	}
	return el("form", id("settings-form"), css("fields"),
		el("label", v.text("schedule"), el("select", attr("name", "check_every"), g.Map(times(s.Check), func(t string) g.Node {
			return el("option", attr("value", t), g.If(t == s.Check.String(), attr("selected")), text(v.Every(t)))
		}))), text("\n"),
		el("label", v.text("auto"), el("select", attr("name", "auto"), g.Map([]daemon.Mode{daemon.Off, daemon.Stage, daemon.Apply}, func(m daemon.Mode) g.Node {
			return el("option", attr("value", string(m)), g.If(m == s.Auto, attr("selected")), v.text("auto."+string(m)))
		}))),
		el("fieldset", el("legend", v.text("window")), end("from", 0), text(" – "), end("to", 1)),
		el("label", v.text("channel"), el("input", attr("name", "channel"), attr("value", s.Channel), attr("placeholder", v.T("channel.none")), attr("pattern", `[0-9A-Za-z\-]*`), attr("maxlength", "64"),
			attr("autocomplete", "off"), attr("spellcheck", "false"), g.If(s.Source == "", attr("disabled")))), text("\n"),
		el("button", v.text("settings.save")))
}

func (v *view) plan() g.Node {
	if v.Trouble != nil {
		return g.Group{v.heading("plan"), alert("bad", v.Trouble, attr("role", "alert")),
			el("div", css("actions"), v.closes("close"), g.Iff(v.Update != nil && v.May("admin"), func() g.Node {
				return button("", "plan", attr("data-id", v.Update.PublicID), attr("data-force", "true"), v.text("plan.force"))
			}))}
	}
	p := v.Plan
	if p == nil {
		return v.heading("plan")
	}
	does := v.effects()
	if len(p.Way) > 0 {
		does = g.Group{el("p", v.text("plan.way")), el("ol", css("plain"), g.Map(p.Way, func(hop installer.Hop) g.Node {
			return el("li", el("b", text(hop.Version)), text(" "), el("span", css("hint"), text(byteSize(hop.Bytes)+" · "), v.text("down."+string(hop.Downtime))))
		}))}
	}
	warn := func(sign string, words ...g.Node) g.Node {
		return el("p", css("alert warn"), icon(sign), el("span", words...))
	}
	return g.Group{v.heading("plan"),
		el("p", css("versions"), el("span", text(p.From)), el("i", attr("aria-hidden", "true"), text("→")), el("b", text(p.To))),
		does,
		g.If(len(p.Signers) > 0, warn("shield", v.text("plan.signers"), text(" "), el("span", css("mono"), text(strings.Join(p.Signers, ", "))))),
		g.Map(p.Notes, func(n installer.Note) g.Node { return warn("warn", text(v.Note(n))) }),
		g.Map(v.Wrong(), func(f *failure) g.Node { return alert("bad", f, attr("role", "alert")) }),
		el("div", css("actions"), v.closes("cancel"), g.Iff(v.May("apply") && p.Check() == nil && p.Action != "", func() g.Node {
			return button("primary", "apply", attr("data-id", v.Update.PublicID), v.text("apply"), text(" "+p.To))
		})),
	}
}

// effects are what a plan of one update does to the device.
func (v *view) effects() g.Node {
	p := v.Plan
	images := g.Map(p.Load, func(i installer.PlanImage) g.Node {
		about := v.T("plan.layers", i.Missing, i.Layers)
		if i.Missing > 0 {
			about += ", " + byteSize(i.Bytes)
		}
		return el("li", el("span", css("mono"), text(i.Reference)), text(" "), el("span", css("hint"), text(about+" · "+strings.Join(i.Services, ", "))))
	})
	space := g.Group{v.text("plan.free", byteSize(p.NeedBytes), byteSize(p.FreeBytes))}
	if p.FilesNeed != 0 {
		space = append(space, el("br"), v.text("plan.files", byteSize(p.FilesNeed), byteSize(p.FilesFree)))
	}
	saved := g.Map(p.Backup, func(n installer.Note) g.Node { return el("p", text(v.Note(n))) })
	if len(saved) == 0 {
		saved = g.Group{v.text("plan.nothing")}
	}
	return el("dl", css("wide"),
		v.row("signer", css("mono"), icon("shield"), text(p.Signer)),
		v.row("plan.load", v.text("plan.of", byteSize(p.LoadBytes), byteSize(p.TotalBytes)), el("ul", css("plain"), images)),
		v.row("plan.disk", space),
		g.If(len(p.Services) > 0, v.row("plan.services", g.Map(p.Services, func(s installer.ServiceChange) g.Node {
			return g.Group{el("span", css("chip"), text(s.Service+": "), v.text("change."+string(s.Change))), text(" ")}
		}))),
		g.If(p.Downtime != "", v.row("plan.down", v.text("down."+string(p.Downtime)))),
		v.row("plan.saved", saved),
		g.If(len(p.EnvChanged) > 0, v.row("plan.changed", css("mono"), text(strings.Join(p.EnvChanged, ", ")))),
		g.If(len(p.EnvNew) > 0, v.row("plan.new", css("mono"), text(strings.Join(p.EnvNew, ", ")))),
		g.If(p.Migration != "", v.row("plan.migration", v.text("migration."+string(p.Migration)))),
		g.If(p.RollbackTo != "", v.row("plan.back", v.text("plan.back.to", p.RollbackTo))))
}

// trouble is what is in the place of a part that cannot be shown.
func (v *view) trouble() g.Node { return alert("warn", v.Trouble, attr("role", "alert")) }
