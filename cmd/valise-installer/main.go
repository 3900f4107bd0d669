// Command valise-installer installs, updates and rolls back release bundles on
// the device it runs on.
package main

import (
	"os"
	"runtime/debug"

	"github.com/valise-ota/valise/cmd/internal/cli"
)

func main() {
	collectAt(50)
	cli.Main(run)
}

// collectAt has Go collect when memory has grown by this percentage: devices are small. It
// is no limit, as a release of many files would have Go collect without a pause to stay below it.
func collectAt(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}
