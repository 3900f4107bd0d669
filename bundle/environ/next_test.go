package environ

import (
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

func TestNext(t *testing.T) {
	m := &bundle.Manifest{Version: "1.2.0", Device: bundle.Device{
		VersionEnv: "APP_VERSION",
		Env:        map[string]bundle.EnvKey{"PORT": {Default: "80"}, "LANG": {Initial: "en"}, "HELP": {Help: "only that"}},
		Secrets:    map[string]bundle.Secret{"TOKEN": {Hex: 8}, "KEY": {Hex: 8, Immutable: true}},
	}}
	const secrets = "\nKEY=6161616161616161\nTOKEN=6161616161616161\nAPP_VERSION=1.2.0\n"
	for _, tc := range []struct {
		name, before string
		answers      map[string]string
		first        bool
		after, err   string
	}{
		{"first", "", nil, true, "LANG=en\nPORT=80" + secrets, ""},
		{"update", "", nil, false, "PORT=80" + secrets, ""},
		{"values stay", "PORT=81\nLANG=de\nKEY=k\nTOKEN=t\n", nil, true, "PORT=81\nLANG=de\nKEY=k\nTOKEN=t\nAPP_VERSION=1.2.0\n", ""},
		{"empty is none", "PORT=\nLANG=''\nKEY=k\nTOKEN=t\nAPP_VERSION=1.1.0\n", nil, true, "PORT=80\nLANG=en\nKEY=k\nTOKEN=t\nAPP_VERSION=1.2.0\n", ""},
		{"answers replace", "PORT=81\nKEY=k\nTOKEN=t\n", map[string]string{"PORT": "82", "NEW": "n", "TOKEN": "u"}, false, "PORT=82\nKEY=k\nTOKEN=u\nNEW=n\nAPP_VERSION=1.2.0\n", ""},
		{"answers come first", "", map[string]string{"KEY": "k", "TOKEN": "t", "PORT": "82"}, true, "KEY=k\nPORT=82\nTOKEN=t\nLANG=en\nAPP_VERSION=1.2.0\n", ""},
		{"no answer to data", "KEY=k\n", map[string]string{"KEY": "other"}, false, "", "set KEY: existing data depends on the value it has in the environment file"},
		{"no key", "", map[string]string{"A B": "x"}, false, "", "cannot be a key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := mustParse(t, tc.before)
			generated, err := f.Next(m, tc.answers, tc.first, from(strings.Repeat("a", 16)))
			if tc.err != "" {
				wantErr(t, err, tc.err)
				return
			}
			if err != nil || string(f.Bytes()) != tc.after {
				t.Fatalf("%v\n got %q\nwant %q", err, f.Bytes(), tc.after)
			}
			if want := strings.HasSuffix(tc.after, secrets); want != slices.Equal(generated, []string{"KEY", "TOKEN"}) {
				t.Errorf("generated %q", generated)
			}
			changed := f.Changed(mustParse(t, tc.before), generated)
			if !slices.IsSorted(changed) || !slices.Contains(changed, "APP_VERSION") || slices.Contains(changed, "TOKEN") != (tc.answers["TOKEN"] != "") {
				t.Errorf("changed %q", changed)
			}
		})
	}
	f := mustParse(t, "")
	_, err := f.Next(m, nil, true, from(""))
	wantErr(t, err, "EOF")
}

// from generates secrets with such bytes.
func from(random string) func(string, bundle.Secret) (string, error) {
	r := strings.NewReader(random)
	return func(_ string, s bundle.Secret) (string, error) { return Generate(s, r) }
}

func TestPutBack(t *testing.T) {
	f := mustParse(t, "PORT=82\nKEY=new\nTOKEN=new\nMORE=m\n")
	if err := f.PutBack([]byte("# ours\nPORT=81\nKEY=old\nTOKEN=\n"), []string{"KEY", "TOKEN", "GONE"}); err != nil {
		t.Fatal(err)
	}
	if got, want := string(f.Bytes()), "# ours\nPORT=81\nKEY=old\nTOKEN=new\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	wantErr(t, f.PutBack([]byte("A='"), nil), "line 1")
}
