package docker

import (
	"net/http"
	"strings"
	"testing"
)

// TestPauseAgain: a freezer that gave up is asked again, any other refusal counts.
func TestPauseAgain(t *testing.T) {
	for _, c := range []struct {
		name, message string
		works, asked  int
	}{
		{"busy", "OCI runtime pause failed: unable to freeze: unknown", 3, 3},
		{"always busy", "OCI runtime pause failed: unable to freeze: unknown", 99, freezeTries},
		{"refused", "container is not running", 99, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := 0
			e := fakeEngine{"POST /containers/abc/pause": func(w http.ResponseWriter, r *http.Request) {
				if asked++; asked == c.works {
					w.WriteHeader(http.StatusNoContent)
					return
				}
				w.WriteHeader(http.StatusInternalServerError)
				w.Write([]byte(`{"message": "` + c.message + `"}`))
			}}.start(t)
			err := e.pause(t.Context(), "abc")
			if asked != c.asked || (err == nil) != (c.works == c.asked) || err != nil && !strings.Contains(err.Error(), c.message) {
				t.Errorf("asked %d times, %v; want %d", asked, err, c.asked)
			}
		})
	}
}
