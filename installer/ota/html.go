package ota

import (
	"net/url"
	"time"

	g "maragu.dev/gomponents"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
)

// What a browser gets: the whole page, the login, and what the parts (parts.go) have in common. text and attr escape what
// they are given; g.Raw does not, and has only release notes, which are HTML already.

// page is all of it, with the parts that it has when it is loaded.
func (v *view) page() g.Node {
	lang, language := "de", "Deutsch"
	if v.Lang == "de" {
		lang, language = "en", "English"
	}
	other, title, may := "?lang="+lang, v.T("title"), ""
	if v.App != "" {
		other += "&app=" + url.QueryEscape(v.App)
		title += " · " + v.App
	}
	for _, s := range v.Me.scopes {
		may += string(s) + " "
	}
	return doctype(el("html", attr("lang", v.Lang),
		head(title, el("script", attr("src", "/assets/app.js"), attr("defer"))),
		el("body", attr("data-app", v.App), attr("data-texts", v.Texts), attr("data-may", may),
			el("a", css("skip"), attr("href", "#main"), v.text("skip")),
			el("header", css("top"),
				el("p", css("brand"), icon("case"), text(" Valise")),
				g.If(len(v.Apps) > 1, v.apps()),
				el("nav", attr("aria-label", v.T("account")),
					el("a", attr("href", other), attr("lang", lang), text(language)), text(" "),
					el("span", css("me"), text(v.Me.name+" "), el("small", v.text("role."+string(v.Me.role)))), text(" "),
					el("form", attr("method", "post"), attr("action", "/logout"), el("button", css("quiet"), v.text("logout"))))),
			el("main", id("main"), attr("tabindex", "-1"),
				el("div", css("head"), el("h1", v.text("title")),
					el("div", css("actions"),
						g.If(v.May("upload"), el("button", attr("data-open", "create"), v.text("create"))), text(" "),
						g.If(v.May("check"), button("primary", "check", icon("check"), v.text("check"))))),
				el("div", id("messages"), attr("role", "status"), attr("aria-live", "polite")),
				v.grid()),
			el("footer", el("p", text("Valise · "), el("a", attr("href", "/api/v1/ota/openapi.json"), text("OpenAPI")), text(" · "), v.text("offline"))),
			el("dialog", id("plan"), attr("aria-labelledby", "h-plan"), el("div")),
			el("dialog", id("confirm"), attr("aria-labelledby", "h-confirm"), el("h2", id("h-confirm")), el("p", id("confirm-text")),
				el("div", css("actions"), v.closes("cancel"), el("button", id("confirm-other"), hidden), el("button", css("primary"), id("confirm-yes")))),
			v.create())))
}

// head is what browsers are told before there is anything to see.
func head(title string, more ...g.Node) g.Node {
	return el("head",
		el("meta", attr("charset", "utf-8")), el("meta", attr("name", "viewport"), attr("content", "width=device-width,initial-scale=1")),
		el("meta", attr("name", "color-scheme"), attr("content", "light dark")),
		el("title", text(title)),
		el("link", attr("rel", "stylesheet"), attr("href", "/assets/style.css")), el("link", attr("rel", "icon"), attr("href", "/assets/favicon.svg")),
		g.Group(more))
}

// apps is the choice between several.
func (v *view) apps() g.Node {
	return el("form", css("apps"), attr("method", "get"), attr("action", "/"), el("label", el("span", css("sr"), v.text("app")),
		el("select", attr("name", "app"), attr("data-submit"), g.Map(v.Apps, func(app string) g.Node {
			return el("option", g.If(app == v.App, attr("selected")), text(app))
		}))))
}

// grid are the parts of the page, each in its card.
func (v *view) grid() g.Node {
	if v.Trouble != nil {
		return alert("bad", v.Trouble, attr("role", "alert"))
	}
	asking := el("p", css("hint busy"), v.text("asking"))
	waiting := "card wide"
	if v.May("upload") {
		waiting = "card"
	}
	return el("div", css("grid"),
		card("card hero", "version", id("version"), v.version()),
		card("card", "release", id("release"), later, el("h2", id("h-release"), v.from()), asking),
		el("section", css("card wide"), id("activity"), attr("aria-labelledby", "h-activity"), hidden, v.heading("activity"),
			el("div", attr("data-part", "activity"), v.activity()),
			el("div", css("bar"), id("bar"), hidden, el("progress", attr("max", "100"), attr("aria-label", v.T("activity"))), el("span")),
			el("details", css("log"), el("summary", v.text("log")), el("ol", id("log"), attr("tabindex", "0"), attr("aria-label", v.T("log"))))),
		g.If(v.May("upload"), v.upload()),
		card(waiting, "waiting", id("waiting"), v.waiting()),
		card("card wide", "history", id("history"), v.history()),
		card("card wide", "health", later, v.heading("health"), asking),
		card("card wide", "backups", v.backups()),
		card("card wide", "settings", v.settings()))
}

func card(class, part string, children ...g.Node) g.Node {
	return el("section", css(class), attr("aria-labelledby", "h-"+part), attr("data-part", part), g.Group(children))
}

// upload is where bundles are dropped.
func (v *view) upload() g.Node {
	then := "upload.stage"
	if v.State.Upload == daemon.Apply {
		then = "upload.apply"
	}
	return el("section", css("card"), attr("aria-labelledby", "h-upload"), v.heading("upload"),
		el("label", css("drop"), id("drop"), icon("up"), el("b", v.text("upload.choose")), el("span", v.text("upload.drag")),
			el("input", attr("type", "file"), id("file"), attr("multiple"), css("sr"))),
		el("div", id("upload"), hidden,
			el("p", css("row"), el("b", id("upload-name")), el("button", css("quiet"), id("upload-cancel"), v.text("cancel"))),
			el("progress", attr("max", "1"), attr("value", "0"), attr("aria-label", v.T("upload"))), el("p", css("hint"), id("upload-text"), attr("role", "status"))),
		el("p", css("hint"), v.text("upload.hint"), text(" "), v.text(then)))
}

// create is the form that announces a version.
func (v *view) create() g.Node {
	return el("dialog", id("create"), attr("aria-labelledby", "h-create"), el("form", id("create-form"),
		v.heading("create"), el("p", css("hint"), v.text("create.hint")),
		el("label", v.text("version"), el("input", attr("name", "version"), attr("required"), attr("pattern", `[0-9]+\.[0-9]+\.[0-9]+.*`), attr("placeholder", "2.1.0"), attr("maxlength", "64"))),
		text("\n"), el("label", v.text("changelog"), el("textarea", attr("name", "changelog"), attr("rows", "4"), attr("maxlength", "20000"))),
		el("div", css("actions"), el("button", attr("type", "button"), attr("data-close"), v.text("cancel")), el("button", css("primary"), v.text("create.button")))))
}

// login is the page of those who are not known yet.
func (v *view) login() g.Node {
	return doctype(el("html", attr("lang", v.Lang),
		head(v.T("login.title")),
		el("body", css("login"), el("main", el("form", css("card"), attr("method", "post"), attr("action", "/login"),
			el("p", css("brand"), icon("case"), text(" Valise")),
			el("h1", v.text("login.title")),
			v.refused(),
			el("label", v.text("login.user"), el("input", attr("name", "user"), attr("autocomplete", "username"), attr("required"), attr("autofocus"), attr("maxlength", "64"), attr("value", "admin"))),
			text("\n"), el("label", v.text("login.password"), el("input", attr("name", "password"), attr("type", "password"), attr("autocomplete", "current-password"), attr("required"), attr("maxlength", "256"))),
			text("\n"), el("button", css("primary wide"), v.text("login.button")),
			el("p", css("hint"), v.text("login.hint")))))))
}

// refused is why a login failed.
func (v *view) refused() g.Node {
	if v.Login == nil {
		return nil
	}
	why := v.T(v.Login.Text)
	if v.Login.Seconds > 0 {
		why = v.T(v.Login.Text, v.Login.Seconds)
	}
	return el("p", css("alert bad"), attr("role", "alert"), text(why))
}

// The library's own functions would be inlined, with a copy of their closures in each place: 720 KB.

//go:noinline
func el(name string, children ...g.Node) g.Node { return g.El(name, children...) }

//go:noinline
func attr(name string, value ...string) g.Node { return g.Attr(name, value...) }

//go:noinline
func text(s string) g.Node { return g.Text(s) }

func css(class string) g.Node { return attr("class", class) }
func id(name string) g.Node   { return attr("id", name) }

func doctype(page g.Node) g.Node { return g.Group{g.Raw("<!doctype html>"), page} }

// text is one of the page's, in its language.
func (v *view) text(key string, args ...any) g.Node { return text(v.T(key, args...)) }

// heading is that of a part whose text has the same name.
func (v *view) heading(part string) g.Node { return el("h2", id("h-"+part), v.text(part)) }

var (
	hidden = attr("hidden")
	later  = attr("data-load", "later") // the script asks for the part
)

func icon(name string) g.Node {
	return el("svg", css("icon"), attr("aria-hidden", "true"), el("use", attr("href", "/assets/icons.svg#"+name)))
}

// button does what app.js has under action, with the data of the attributes.
func button(class, action string, children ...g.Node) g.Node {
	return el("button", g.If(class != "", css(class)), attr("data-action", action), g.Group(children))
}

// closes is a button that closes its dialog.
func (v *view) closes(key string) g.Node { return el("button", attr("data-close"), v.text(key)) }

// unseen is what only screen readers say.
func unseen(words string) g.Node { return el("span", css("sr"), text(words)) }

func hint(children ...g.Node) g.Node { return el("p", css("hint"), g.Group(children)) }

// row is one line of a list of names and values.
func (v *view) row(key string, value ...g.Node) g.Node {
	return g.Group{el("dt", v.text(key)), el("dd", value...)}
}

// link leads to an address that comes from elsewhere: only the web's become a link.
func link(address *string, words g.Node, attributes ...g.Node) g.Node {
	u, err := url.Parse(value(address))
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil
	}
	return el("a", attr("href", u.String()), g.Group(attributes), attr("rel", "noopener noreferrer"), words)
}

// said is a failure: a sentence, and what is folded under it.
func (f *failure) said() g.Node {
	return el("div", text(f.Sentence), g.If(f.Text != "", el("details", el("summary", text(f.Details)), text(f.Text))))
}

// alert is a failure that should not be missed; nothing when there is none.
func alert(class string, f *failure, attributes ...g.Node) g.Node {
	if f == nil {
		return nil
	}
	return el("div", css("alert "+class), g.Group(attributes), icon("warn"), f.said())
}

// attention says that a person must help, if so.
func (v *view) attention(u *daemon.Update) g.Node {
	if u == nil || u.Attention == nil {
		return nil
	}
	return alert("bad", v.Why("attention", *u.Attention), attr("role", "alert"))
}

// why is why an update failed or waits, small; nothing when nothing is wrong.
func (v *view) why(u daemon.Update) g.Node {
	if f := v.WhyOf(u); f != nil {
		return el("div", css("why"), f.said())
	}
	return nil
}

func (v *view) status(s installer.Status) g.Node {
	icons := map[installer.Status]string{installer.Completed: "ok", installer.Failed: "bad", installer.RolledBack: "undo"}
	return v.badge(string(s), icons[s], "status."+string(s))
}

func (v *view) badge(class, name, key string) g.Node {
	return el("span", css("badge "+class), g.If(name != "", icon(name)), v.text(key))
}

const day, minute = "2006-01-02", "2006-01-02 15:04"

// moment is a time of UTC.
func moment(t *time.Time, layout string) g.Node {
	if t == nil {
		return nil
	}
	return el("time", attr("datetime", t.UTC().Format("2006-01-02T15:04:05Z")), text(t.UTC().Format(layout)))
}
