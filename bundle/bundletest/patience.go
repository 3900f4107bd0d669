package bundletest

import (
	"os"
	"strconv"
	"time"
)

// Patience is how long a test waits for what will come, before it calls it
// missing: minutes, and more on a machine that scripts/test.sh found to be slow
// or busy. A test that passes never waits for so long.
func Patience() time.Duration { return Slower(2 * time.Minute) }

// Slower is d on a quiet machine, and longer on one that is not. Short times that
// something must not take belong in it, and the pauses that must be longer.
func Slower(d time.Duration) time.Duration {
	slow, _ := strconv.Atoi(os.Getenv("VALISE_TEST_SLOW"))
	return time.Duration(max(slow, 1)) * d
}
