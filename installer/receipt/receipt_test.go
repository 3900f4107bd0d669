package receipt

import (
	"crypto/ed25519"
	"slices"
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
)

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func chain(t *testing.T, key ed25519.PrivateKey, device string, versions ...string) [][]byte {
	t.Helper()
	var files [][]byte
	var before []byte
	for _, v := range versions {
		b, err := Seal(t.Context(), key, before, Receipt{Device: device, App: "shop", Action: "update", To: v, Manifest: bundle.DigestOf([]byte(v)), Status: "completed"})
		if err != nil {
			t.Fatal(err)
		}
		files, before = append(files, b), b
	}
	return files
}

func TestChain(t *testing.T) {
	key := newKey(t)
	files := chain(t, key, "pump-7", "1.0.0", "1.1.0", "1.2.0")
	slices.Reverse(files)
	got, err := Chain(t.Context(), append(files, files[0]))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[0].To != "1.0.0" || got[2].To != "1.2.0" || got[2].Sequence != 3 || !got[0].Key.Equal(key.Public()) {
		t.Errorf("got %+v", got)
	}
}

func TestBadChain(t *testing.T) {
	key := newKey(t)
	good := chain(t, key, "pump-7", "1.0.0", "1.1.0", "1.2.0")
	edit := func(b []byte) []byte { // one byte of the payload
		c := slices.Clone(b)
		i := strings.Index(string(c), `"payload":"`) + 60
		c[i] ^= 1
		return c
	}
	for name, c := range map[string]struct {
		files [][]byte
		want  string
	}{
		"changed":     {[][]byte{edit(good[0])}, "read receipt"},
		"first lost":  {good[1:], "begin with number 2"},
		"one lost":    {[][]byte{good[0], good[2]}, "number 2 is missing"},
		"other key":   {[][]byte{good[0], chain(t, newKey(t), "pump-7", "1.0.0", "1.1.0")[1]}, "with key"},
		"other name":  {[][]byte{good[0], chain(t, key, "pump-8", "1.0.0", "1.1.0")[1]}, "pump-8"},
		"fork":        {append(slices.Clone(good), chain(t, key, "pump-7", "1.0.0", "9.0.0")[1]), "two different ones with number 2"},
		"other past":  {[][]byte{good[0], chain(t, key, "pump-7", "9.0.0", "1.1.0")[1]}, "does not follow"},
		"not JSON":    {[][]byte{[]byte("hello")}, "read receipt"},
		"two values":  {[][]byte{append(slices.Clone(good[0]), good[0]...)}, "after the end"},
		"other type":  {[][]byte{[]byte(strings.Replace(string(good[0]), "receipt.v1", "receipt.v2", 1))}, "type"},
		"unknown key": {[][]byte{[]byte(strings.Replace(string(good[0]), `{"payloadType"`, `{"extra":1,"payloadType"`, 1))}, "unknown field"},
		"too long":    {[][]byte{make([]byte, MaxSize+1)}, "limit"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Chain(t.Context(), c.files)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v, want %s", got, err, c.want)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	good, err := Seal(f.Context(), key, nil, Receipt{Device: "d", App: "shop", To: "1.0.0"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) { Open(t.Context(), b) })
}
