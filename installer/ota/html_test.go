package ota

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
	g "maragu.dev/gomponents"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
)

func drawn(n g.Node) string {
	var b strings.Builder
	if n != nil {
		_ = n.Render(&b)
	}
	return b.String()
}

// TestSaved: what is saved has sentences in the reader's language, in a plan and where it lies.
func TestSaved(t *testing.T) {
	c, err := loadCatalogues(files)
	if err != nil {
		t.Fatal(err)
	}
	n := installer.Notef("%s all databases of service %s", "postgres", "db")
	v := &view{T: c.text("de"), Note: func(n installer.Note) string { return c.say("de", n.Format, n.Args, n.Text) }, Plan: &installer.Plan{Backup: []installer.Note{n}}}
	v.Backups = []daemon.Backup{{Files: []daemon.BackupFile{{What: n.Text, Format: n.Format, Args: n.Args}}}}
	for name, got := range map[string]string{"plan": drawn(v.plan()), "backups": drawn(v.backups())} {
		if want := "<p>postgres: alle Datenbanken von Dienst db"; !strings.Contains(strings.ReplaceAll(got, ` class="hint"`, ""), want) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// hostile tries to leave wherever it stands, and to begin an element and an attribute.
const hostile = `'"` + "\xff" + ` hostile="&quot;"></title></textarea></script>--><hostile><!--`

// filler gives each text of a value the name of its field, and a hostile end. What may be missing is missing now and then.
type filler struct{ *rand.Rand }

func (f filler) fill(v reflect.Value, name string) {
	switch v.Kind() {
	case reflect.String:
		text := "{" + name + "}" + hostile
		switch {
		case strings.HasSuffix(name, "URL"):
			text = "https://acme.example/" + text
		case v.Type() == reflect.TypeFor[installer.Status]() && f.IntN(5) > 0:
			text = string(statuses[f.IntN(len(statuses))])
		}
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(f.IntN(2) == 0)
	case reflect.Int, reflect.Int64:
		v.SetInt(f.Int64N(3) * int64(time.Hour))
	case reflect.Pointer:
		if v.SetZero(); f.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			f.fill(v.Elem(), name)
		}
	case reflect.Slice:
		n := f.IntN(3)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range v.Len() {
			f.fill(v.Index(i), name)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() && v.Type() != reflect.TypeFor[time.Time]() {
				f.fill(v.Field(i), name+"."+field.Name)
			}
		}
	}
}

// TestHostile: a text of the daemon's is text on the page, in whichever field it comes.
func TestHostile(t *testing.T) {
	c, err := loadCatalogues(files)
	if err != nil {
		t.Fatal(err)
	}
	draws := map[string]func(*view) g.Node{"page": (*view).page, "login": (*view).login, "plan": (*view).plan, "trouble": (*view).trouble}
	for name, p := range parts {
		draws[name] = p.draw
	}
	seen := map[string]bool{}
	named := regexp.MustCompile(`\{([A-Za-z.]+)\}`)
	check := func(draw string, n *html.Node) {
		if n.Type == html.ElementNode && n.Data == "hostile" {
			t.Errorf("%s has an element that is not ours, in %.200q", draw, n.Parent.Data)
		}
		texts := []string{n.Data}
		for _, a := range n.Attr {
			if strings.Contains(a.Key, "hostile") {
				t.Errorf("%s: <%s> has an attribute that is not ours: %s=%.200q", draw, n.Data, a.Key, a.Val)
			}
			if a.Key == "href" {
				u, err := url.Parse(a.Val)
				if err != nil || !slices.Contains([]string{"", "https"}, u.Scheme) {
					t.Errorf("%s: <%s> leads to %q: %v", draw, n.Data, a.Val, err)
					continue
				}
				a.Val = fmt.Sprint(u.Path, u.Query())
			}
			texts = append(texts, a.Val)
		}
		for _, text := range texts {
			for _, m := range named.FindAllStringSubmatch(text, -1) {
				seen[m[1]] = true
			}
		}
	}
	for seed := range uint64(300) {
		f := filler{rand.New(rand.NewPCG(seed, 0))}
		lang := []string{"en", "de"}[seed%2]
		say := func(n installer.Note) string { return c.say(lang, n.Format, n.Args, n.Text) }
		v := &view{T: c.text(lang), Note: say, Lang: lang, History: &history{Pages: 2}}
		for _, field := range []string{"Texts", "App", "Apps", "State", "Check", "Waiting", "Backups", "Health", "Failed", "Plan", "Update", "Trouble", "Login"} {
			f.fill(reflect.ValueOf(v).Elem().FieldByName(field), field)
		}
		f.fill(reflect.ValueOf(&v.History.Page).Elem(), "History")
		if v.Update == nil {
			v.Update = new(daemon.Update)
		}
		v.Me = &who{name: "{Me}" + hostile, role: Role("{Role}" + hostile), scopes: roleScopes[[]Role{Admin, Operator, Viewer}[seed%3]]}
		for name, draw := range draws {
			root, err := html.Parse(strings.NewReader(drawn(draw(v))))
			if err != nil {
				t.Fatal(err)
			}
			for n := range root.Descendants() {
				check(name, n)
			}
		}
	}
	if len(seen) < 86 {
		t.Errorf("only %d fields are on the page: %v", len(seen), seen)
	}
}
