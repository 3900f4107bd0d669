package installer

import (
	"errors"
	"fmt"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

// TestNote: what people should know is told from progress.
func TestNote(t *testing.T) {
	for _, c := range []struct {
		event Event
		want  string
	}{
		{Event{Step: "edited", Detail: "compose.yaml was edited"}, "compose.yaml was edited"},
		{Event{Step: "repair"}, ""},
		{Event{Step: "prune", Ended: true, Err: errors.New("busy")}, "cleaning up: busy"},
		{Event{Step: "hook", Detail: "post-probe of 1.0.0"}, ""},
		{Event{Step: "hook", Ended: true, Err: errors.New("hook pre-rollback: exit status 3")}, "hook pre-rollback: exit status 3"},
		{Event{Step: "stage", Ended: true, Err: errors.New("no")}, ""},
		{Event{Step: "backup", Detail: "x", Done: 1}, ""},
	} {
		if got := c.event.Note(); got != c.want {
			t.Errorf("%+v: %q", c.event, got)
		}
	}
}

// TestNotef: a note of a plan prints as its sentence.
func TestNotef(t *testing.T) {
	n := Notef("%s is %d days old", "1.0.0", 3)
	if got, want := fmt.Sprintf("note %s", n), "note 1.0.0 is 3 days old"; got != want || n.Text != "1.0.0 is 3 days old" || len(n.Args) != 2 {
		t.Errorf("got %q of %#v, want %q", got, n, want)
	}
}

// TestSaved: the note of a backup is its description.
func TestSaved(t *testing.T) {
	for _, b := range []bundle.Backup{
		{Postgres: &bundle.Postgres{Service: "db", Database: "shop"}}, {Postgres: &bundle.Postgres{Service: "db"}}, {MySQL: &bundle.MySQL{Service: "db"}},
		{Mongo: &bundle.Mongo{Service: "db"}}, {Redis: &bundle.Redis{Service: "cache"}}, {SQLite: &bundle.SQLite{Service: "app", Path: "/data/a.db"}},
		{Volume: &bundle.Volume{Service: "app", Path: "/data"}}, {Command: &bundle.BackupCommand{Service: "app"}},
	} {
		if n := Saved(b); n.Text != b.String() || n.Format == n.Text {
			t.Errorf("%+v, want %q", n, b)
		}
	}
}
