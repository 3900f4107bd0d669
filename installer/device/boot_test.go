package device

import (
	"context"
	"errors"
	"testing"
)

// TestUntilBooted: at boot recovery is tried again, since nobody else would, but
// not for ever and not when it is told to end.
func TestUntilBooted(t *testing.T) {
	failure := errors.New("the engine is not there yet")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx   context.Context
		fails int
		tries int
		err   error
	}{
		"works":       {t.Context(), 0, 1, nil},
		"works later": {t.Context(), 2, 3, nil},
		"never works": {t.Context(), 100, bootTries, failure},
		"told to end": {ended, 100, 1, failure},
	} {
		tries := 0
		err := newcomer(t).UntilBooted(tc.ctx, 0, func() error {
			if tries++; tries <= tc.fails {
				return failure
			}
			return nil
		})
		if tries != tc.tries || !errors.Is(err, tc.err) {
			t.Errorf("%s: %d tries, error %v, want %d and %v", name, tries, err, tc.tries, tc.err)
		}
	}
}
