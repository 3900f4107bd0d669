// Command valise builds, signs and inspects release bundles.
package main

import "github.com/valise-ota/valise/cmd/internal/cli"

func main() { cli.Main(run) }
