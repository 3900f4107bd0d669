// Command systemctl is a double of the real one for scripts/growth: each unit that has a file runs, and whatever is asked for
// is done. So what is measured is valise-installer alone.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

func main() {
	args := os.Args[1:]
	if len(args) < 2 || args[0] != "show" {
		return
	}
	if args[1] == "--property=Version" {
		fmt.Println("Version=252")
	}
	names := args[1+slices.Index(args, "--"):]
	if !strings.HasPrefix(args[1], "--property=LoadState") {
		return
	}
	for _, name := range names {
		load, active, sub, enabled := "not-found", "inactive", "dead", ""
		if _, err := os.Stat("/etc/systemd/system/" + name); err == nil {
			load, active, sub, enabled = "loaded", "active", "running", "enabled"
		}
		fmt.Printf("LoadState=%s\nActiveState=%s\nSubState=%s\nUnitFileState=%s\nResult=success\nNRestarts=0\nNeedDaemonReload=no\nInvocationID=1\nType=simple\nConditionResult=yes\n\n",
			load, active, sub, enabled)
	}
}
