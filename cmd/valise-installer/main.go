// Command valise-installer installs, updates and rolls back release bundles on
// the device it runs on.
package main

import (
	"os"
	"runtime/debug"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

func main() {
	// Devices are small: better to collect more often than to grow. It is no limit, as
	// a release of many files would have Go collect without a pause to stay below it.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	cli.Main(run)
}
