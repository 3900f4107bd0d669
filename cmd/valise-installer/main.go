// Command valise-installer installs, updates and rolls back release bundles on
// the device it runs on.
package main

import "github.com/valise-ota/valise/cmd/internal/cli"

func main() { cli.Main(run) }
