// Command valise-installer installs, updates and rolls back release bundles on
// the device it runs on.
package main

import (
	"os"
	"runtime/debug"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

func main() {
	// Devices are small: better to collect more often than to grow. GOMEMLIMIT
	// overrules it.
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(24 << 20)
	}
	cli.Main(run)
}
