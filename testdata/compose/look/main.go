// Command look is all there is in the image of the projects in testdata/compose. Without an argument it runs until it is
// told to stop. "view" prints what its container sees: the environment, and every file below the places where
// something is mounted. "write FILE TEXT" puts text into a file, "end CODE" ends at once.
package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	args := append(os.Args[1:], "")
	switch args[0] {
	case "view":
		view()
	case "write":
		check(os.WriteFile(args[1], []byte(args[2]), 0o644))
	case "needs": // a file, or it ends
		b, err := os.ReadFile(args[1])
		check(err)
		fmt.Print(string(b))
		wait()
	case "end":
		code, err := strconv.Atoi(args[1])
		check(err)
		os.Exit(code)
	default:
		wait()
	}
}

func wait() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	<-c
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(9)
	}
}

func view() {
	out := struct {
		Env   []string
		Files map[string]string
	}{Files: map[string]string{}}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "HOSTNAME=") {
			out.Env = append(out.Env, kv)
		}
	}
	slices.Sort(out.Env)
	b, err := os.ReadFile("/proc/self/mountinfo")
	check(err)
	for line := range strings.Lines(string(b)) {
		at := strings.ReplaceAll(strings.Fields(line)[4], `\040`, " ")
		if at == "/" || slices.ContainsFunc([]string{"/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}, func(p string) bool {
			return at == p || strings.HasPrefix(at, p+"/")
		}) {
			continue
		}
		check(filepath.WalkDir(at, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if d.Name() == ".gitkeep" { // git's, not the app's: it stays in the repository
				return nil
			}
			text := info.Mode().String()
			if info.Mode().IsRegular() {
				content, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				text += " " + string(content[:min(len(content), 200)])
			}
			out.Files[p] = text
			return nil
		}))
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", " ")
	check(enc.Encode(out))
}
