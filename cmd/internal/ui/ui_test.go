package ui

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func noEnv(string) string { return "" }

// clock advances by a second at every look.
func clock() func() time.Time {
	t := time.Unix(0, 0)
	return func() time.Time { t = t.Add(time.Second); return t }
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB",
		1<<20 - 1: "1.0 MiB", 5 << 20: "5.0 MiB", 3 << 30: "3.0 GiB", 1 << 40: "1.0 TiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestPlain(t *testing.T) {
	var b bytes.Buffer
	u, err := New(&b, Auto, noEnv, clock())
	if err != nil {
		t.Fatal(err)
	}
	u.Step("collect", "postgres:17")
	update, finish := u.Track("write")
	update(512, 2048)
	update(2048, 2048)
	finish(nil)
	update, finish = u.Track("read")
	update(1, 2)
	finish(errors.New("cut"))
	want := "collect postgres:17\nwrite ...\nwrite: 2.0 KiB in 1s\nread ...\nread: stopped after 1 B, 1s\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestNoneIsSilent(t *testing.T) {
	var b bytes.Buffer
	u, err := New(&b, None, noEnv, clock())
	if err != nil {
		t.Fatal(err)
	}
	u.Step("a", "b")
	update, finish := u.Track("c")
	update(1, 1)
	finish(nil)
	if b.Len() != 0 {
		t.Errorf("wrote %q", b.String())
	}
}

func TestColor(t *testing.T) {
	for _, c := range []struct {
		env   string
		color bool
	}{{"", true}, {"NO_COLOR=1", false}, {"TERM=dumb", false}} {
		var b bytes.Buffer
		key, value, _ := strings.Cut(c.env, "=")
		u, err := New(&b, TTY, func(k string) string {
			if k == key {
				return value
			}
			return ""
		}, clock())
		if err != nil {
			t.Fatal(err)
		}
		u.Step("collect", "")
		if got := strings.Contains(b.String(), "\x1b"); got != c.color {
			t.Errorf("%q: color %t, want %t", c.env, got, c.color)
		}
	}
}

func TestBarEnds(t *testing.T) {
	var b bytes.Buffer
	u, err := New(&b, TTY, noEnv, clock())
	if err != nil {
		t.Fatal(err)
	}
	for _, result := range []error{nil, errors.New("cut")} {
		update, finish := u.Track("write")
		update(1<<20, 4<<20)
		finish(result) // must return: a bar that waits for the rest would hang the program
	}
	if !strings.Contains(b.String(), "write") {
		t.Errorf("no bar in %q", b.String())
	}
}

func TestUnknownMode(t *testing.T) {
	if _, err := New(nil, "loud", noEnv, clock()); err == nil || !strings.Contains(err.Error(), `"loud"`) {
		t.Errorf("got %v", err)
	}
}
