package environ

import (
	"maps"
	"testing"
)

func TestComments(t *testing.T) {
	f, err := Compose.Parse([]byte("# head\n\n# Where it is\n## reached\nURL=https://x # not this\nPORT=1\n#\n\t# with a tab\r\nexport LAST='a\nb'\r\n#A=1\nB=\n# behind\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"URL": "Where it is\nreached", "LAST": "with a tab", "B": "A=1"}
	if got := f.Comments(); !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
