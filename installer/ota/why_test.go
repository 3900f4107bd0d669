package ota

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/verify"
)

// TestWhy: every kind of failure that the daemon can name has a sentence of its own in every language.
func TestWhy(t *testing.T) {
	c, err := loadCatalogues(files)
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]bool{"attention": true, "unreachable": true, "": true, "back": true}
	for status := 400; status < 600; status++ {
		reasons[daemon.ReasonFor(status)] = true
	}
	for _, step := range []string{"stage", "backup", "activate", "probe", "repair"} {
		reasons["step."+step] = true
	}
	said := regexp.MustCompile(`Kind\(\) string\s*\{ return "([a-z.-]+)" \}|because\("([a-z.-]+)"|Reason: "([a-z.-]+)"|Failure\{"([a-z.-]+)"|cmp\.Or\(installer\.ReasonOf\(\w+\), "([a-z.-]+)"\)|reason = '([a-z.-]+)'|return "(space|network|held|halted)"|\tCheck[A-Z]\w+ += "([a-z-]+)"`)
	for _, dir := range []string{"../*.go", "../*/*.go", "../../bundle/*.go", "../../bundle/parts/*.go", "../../verify/*.go"} {
		names, err := filepath.Glob(dir)
		if err != nil || len(names) == 0 {
			t.Fatal(dir, err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range said.FindAllStringSubmatch(string(b), -1) {
				reason := strings.Join(m[1:], "")
				if strings.HasPrefix(m[0], "\tCheck") {
					reason = "check." + reason
				}
				reasons[reason] = true
			}
		}
	}
	if len(reasons) < 45 {
		t.Fatalf("only %d kinds were found: %v", len(reasons), reasons)
	}
	for lang, texts := range c.texts {
		for reason := range reasons {
			if texts["why."+reason] == "" {
				t.Errorf("%s: there is no sentence why.%s", lang, reason)
			}
		}
	}
}

// TestWhySaid: the sentence is in the reader's language; what the program said is folded under it, whatever it holds.
func TestWhySaid(t *testing.T) {
	c, err := loadCatalogues(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		err  error
		want string
	}{
		{&verify.Error{Check: verify.CheckSigner, Reason: "x"}, "dem dieses Gerät nicht vertraut"},
		{fmt.Errorf("read: %w", &bundle.FormatError{Rule: "toc"}), "kein vollständiges Bundle"},
		{&installer.SpaceError{Where: "here"}, "nicht genug Platz"},
		{errors.New("<script>odd</script>"), "Warum, steht in den Einzelheiten"},
		{&daemon.Problem{Detail: "no", Reason: daemon.ReasonFor(http.StatusConflict)}, "jetzt nicht möglich"},
	} {
		text, reason, from := x.err.Error(), installer.ReasonOf(x.err), "1.0.0"
		if p := new(daemon.Problem); errors.As(x.err, &p) {
			reason = p.Reason
		}
		v := view{T: c.text("de"), Lang: "de", Me: &who{}, Update: &daemon.Update{Status: installer.RolledBack, Version: "1.1.0", FromVersion: &from, ErrorMessage: &text, Reason: &reason}}
		if got := drawn(v.activity()); !strings.Contains(got, x.want) || !strings.Contains(got, "Version 1.0.0 läuft wieder.") || !strings.Contains(got, "<details><summary>Einzelheiten</summary>") || strings.Contains(got, "<script>") {
			t.Errorf("%v: %s, want %q", x.err, got, x.want)
		}
	}
}

// TestPlanSaid: what speaks against a plan, what it backs up, and who asked for an update are in the reader's language.
func TestPlanSaid(t *testing.T) {
	c, err := loadCatalogues(files)
	if err != nil {
		t.Fatal(err)
	}
	v := view{T: c.text("de"), Lang: "de", Me: &who{}, Update: &daemon.Update{}, Plan: &installer.Plan{
		From: "1.0.0", To: "1.1.0", Action: installer.ActionUpdate,
		Unmet:    []installer.Note{installer.Notef("service %s joins container %s, which does not exist", "web", "proxy")},
		DataLeft: []installer.Note{installer.Notef("volume %s is to get what volume %s holds, and has data already: docker volume rm %s when they are not needed", "b", "a", "b")},
		Backup:   []installer.Note{installer.Saved(bundle.Backup{Postgres: &bundle.Postgres{Service: "db"}})},
	}}
	v.Note = func(n installer.Note) string { return c.say("de", n.Format, n.Args, n.Text) }
	got := drawn(v.plan())
	for _, want := range []string{"Dienst web verwendet Container proxy", "Volume b soll den Inhalt von Volume a bekommen", "postgres: Datenbank von Dienst db"} {
		if !strings.Contains(got, want) {
			t.Errorf("the plan does not say %q: %s", want, got)
		}
	}
	if got := v.By("schedule") + v.By("kim"); got != "Zeitplankim" {
		t.Error(got)
	}
}
