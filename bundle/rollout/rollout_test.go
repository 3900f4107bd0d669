package rollout_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle/rollout"
)

const devices = 10_000

// in are the devices whose turn it is at a percent.
func in(f *rollout.File, r rollout.Release) map[int]bool {
	all := map[int]bool{}
	for i := range devices {
		if f.Turn(r, rollout.Device{ID: fmt.Sprintf("%032x", i)}) {
			all[i] = true
		}
	}
	return all
}

func TestShare(t *testing.T) {
	f := &rollout.File{App: "shop"}
	for _, app := range []string{"shop", "pump"} {
		for _, version := range []string{"1.2.0", "1.3.0", "2.0.0-beta.1"} {
			f.App = app
			n := len(in(f, rollout.Release{Version: version, Percent: 10}))
			if math.Abs(float64(n)-devices/10) > devices/100 {
				t.Errorf("%s %s at 10 %%: %d of %d", app, version, n, devices)
			}
		}
	}
	f.App = "shop"
	if n := len(in(f, rollout.Release{Version: "1.2.0", Percent: 0})); n != 0 {
		t.Errorf("at 0 %%: %d", n)
	}
	if n := len(in(f, rollout.Release{Version: "1.2.0", Percent: 100})); n != devices {
		t.Errorf("at 100 %%: %d", n)
	}
}

func TestMonotone(t *testing.T) {
	f := &rollout.File{App: "shop"}
	for i := range 1000 {
		for percent, was := 0, false; percent <= 100; percent++ {
			now := f.Turn(rollout.Release{Version: "1.2.0", Percent: percent}, rollout.Device{ID: fmt.Sprint(i)})
			if was && !now {
				t.Fatalf("device %d is in at %d %% and not at %d %%", i, percent-1, percent)
			}
			was = now
		}
	}
}

// The same devices are not always the first.
func TestOrderOfEachRelease(t *testing.T) {
	f, both := &rollout.File{App: "shop"}, 0
	first, second := in(f, rollout.Release{Version: "1.2.0", Percent: 10}), in(f, rollout.Release{Version: "1.3.0", Percent: 10})
	for i := range first {
		if second[i] {
			both++
		}
	}
	if both < 50 || both > 150 { // a tenth of a tenth
		t.Errorf("%d of %d devices are in the first tenth of both", both, len(first))
	}
}

func TestGroups(t *testing.T) {
	r := rollout.Release{Version: "1.2.0", Percent: 10, Groups: map[string]int{"canary": 100, "berlin": 0}}
	for _, test := range []struct {
		groups  []string
		percent int
		group   string
	}{
		{nil, 10, ""},
		{[]string{"paris"}, 10, ""},
		{[]string{"canary"}, 100, "canary"},
		{[]string{"berlin"}, 0, "berlin"},
		{[]string{"canary", "berlin"}, 0, "berlin"},
		{[]string{"berlin", "canary"}, 0, "berlin"},
	} {
		if percent, group := r.Share(rollout.Device{Groups: test.groups}); percent != test.percent || group != test.group {
			t.Errorf("%v: %d %% by %q, want %d %% by %q", test.groups, percent, group, test.percent, test.group)
		}
	}
}

func TestSetEndsHalt(t *testing.T) {
	f := &rollout.File{Format: rollout.Format, App: "shop", Sequence: 1}
	rollout.Set(f, rollout.Release{Version: "1.9.0", Percent: 100})
	rollout.Set(f, rollout.Release{Version: "1.10.0", Percent: 5})
	rollout.Halt(f, "1.10.0")
	rollout.Halt(f, "1.8.0")
	b, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := rollout.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if r := got.Releases[0]; r.Version != "1.10.0" || !r.Halted || r.Percent != 5 {
		t.Errorf("the first is %+v", r)
	}
	if r := got.Of("1.8.0"); r == nil || !r.Halted || r.Percent != 0 {
		t.Errorf("one that was not named before is %+v", r)
	}
	rollout.Set(got, rollout.Release{Version: "1.10.0", Percent: 20})
	if r := got.Of("1.10.0"); r.Halted || r.Percent != 20 || len(got.Releases) != 3 {
		t.Errorf("set again it is %+v of %d", r, len(got.Releases))
	}
}

func TestFileName(t *testing.T) {
	if n, ok := rollout.ParseFileName("shop", rollout.FileName("shop", 1764512345)); !ok || n != 1764512345 {
		t.Error(n, ok)
	}
	for _, name := range []string{
		"shop-rollout-1.json.sigstore.json", "shop-rollout-01.json", "shop-rollout-+1.json", "shop-rollout-0.json", "shop-rollout--1.json",
		"shop-rollout-99999999999999999999.json", "shop-rollout-.json", "pump-rollout-1.json", "shop-1.2.0.tar.gz", "../shop-rollout-1.json",
	} {
		if n, ok := rollout.ParseFileName("shop", name); ok {
			t.Errorf("%s: %d", name, n)
		}
	}
}

func TestParsePercent(t *testing.T) {
	for s, want := range map[string]int{"10%": 10, "0%": 0, "100": 100} {
		if got, err := rollout.ParsePercent(s); err != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "%", "0.1", "0.5%", "101%", "-1%", "10 %", "ten", "1e1"} {
		if got, err := rollout.ParsePercent(s); err == nil {
			t.Errorf("%q is %d", s, got)
		}
	}
}

// good is a file as Encode writes it.
const good = `{
  "format": "valise-rollout/1",
  "app": "shop",
  "sequence": 7,
  "releases": [
    {
      "version": "1.2.0",
      "percent": 10,
      "groups": {
        "canary": 100
      }
    }
  ]
}
`

// hostile are changes of it after which it is refused, and as what.
var hostile = []struct{ old, new, want string }{
	{"{", strings.Repeat(" ", rollout.MaxSize) + "{", "limit 65536"},
	{"[", strings.Repeat("[", 30000), "depth"},
	{good, "", "EOF"},
	{good, "null", "format"},
	{good, "[]", "array"},
	{"rollout/1", "rollout/2", "valise-rollout/2"},
	{`"sequence"`, `"not_before": "2026-01-01", "sequence"`, "not_before"},
	{`"percent": 10,`, `"percent": 10, "percent": 100,`, "canonical"},
	{`"percent"`, `"Percent"`, "canonical"},
	{"]\n}\n", "]\n}", "canonical"},
	{"]\n}\n", "]\n}\n{}\n", "canonical"},
	{`"percent": 10,`, `"percent": 0.1,`, "0.1"},
	{`"percent": 10,`, `"percent": "10%",`, "string"},
	{`"percent": 10,`, `"percent": 101,`, "101 %"},
	{`"percent": 10,`, `"percent": -1,`, "-1 %"},
	{`"sequence": 7`, `"sequence": 0`, "sequence"},
	{`"sequence": 7`, `"sequence": 9223372036854775808`, "sequence"},
	{`"shop"`, `"../shop"`, "not a name of an app"},
	{"1.2.0", "../../etc", "SemVer"},
	{"    {\n", "    {\n      \"version\": \"1.1.0\",\n      \"percent\": 10\n    },\n    {\n", "want the newest first"},
	{`"canary": 100`, `"canary": 1000`, "1000 %"},
	{"canary", `a b\n`, "short name"},
}

func TestHostile(t *testing.T) {
	many := &rollout.File{Format: rollout.Format, App: "shop", Sequence: 1}
	for i := range 257 {
		rollout.Set(many, rollout.Release{Version: fmt.Sprintf("1.%d.0", i)})
	}
	if _, err := many.Encode(); err == nil {
		t.Error("257 releases are encoded")
	}
	groups := map[string]int{}
	for i := range 65 {
		groups[fmt.Sprint(i)] = 1
	}
	many.Releases = []rollout.Release{{Version: "1.0.0", Groups: groups}}
	if _, err := many.Encode(); err == nil {
		t.Error("65 groups are encoded")
	}
	if _, err := rollout.Parse([]byte(good)); err != nil {
		t.Error(err)
	}
	for _, change := range hostile {
		text := strings.Replace(good, change.old, change.new, 1)
		if f, err := rollout.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), change.want) || len(err.Error()) > 300 {
			t.Errorf("%.40q in place of %.40q: %+v, %v", change.new, change.old, f, err)
		}
	}
	twice := rollout.File{Format: rollout.Format, App: "shop", Sequence: 1, Releases: []rollout.Release{{Version: "1.0.0"}, {Version: "1.0.0", Halted: true}}}
	if b, err := twice.Encode(); err == nil {
		t.Errorf("%s is encoded", b)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	for _, change := range hostile {
		if text := strings.Replace(good, change.old, change.new, 1); len(text) < 1000 {
			f.Add([]byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := rollout.Parse(b)
		if err != nil {
			return
		}
		again, err := file.Encode()
		if err != nil || string(again) != string(b) {
			t.Fatalf("%q is read, and written as %q (%v)", b, again, err)
		}
	})
}
