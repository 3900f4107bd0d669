package main

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// picture is picture FILE [COMMAND OUTPUT]...: FILE, in the repository, is the
// picture of a terminal with these commands and what they printed. Durations and
// sizes differ from run to run; VALISE_PICTURES=write writes it anew.
func picture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args)%2 != 1 {
		ts.Fatalf("usage: picture FILE [COMMAND OUTPUT]...")
	}
	file := filepath.Join(filepath.Dir(ts.Getenv("README")), args[0])
	var transcript strings.Builder
	for i := 1; i < len(args); i += 2 {
		fmt.Fprintf(&transcript, "$ %s\n%s", args[i], ts.ReadFile(args[i+1]))
	}
	now := terminal(transcript.String())
	if os.Getenv("VALISE_PICTURES") == "write" {
		ts.Check(os.WriteFile(file, []byte(now), 0o644))
	}
	before, err := os.ReadFile(file)
	ts.Check(err)
	if measured := regexp.MustCompile(`\d[\d.]* ?(B|KiB|MiB|GiB|ms|s)\b`); measured.ReplaceAllString(now, "") != measured.ReplaceAllString(string(before), "") {
		ts.Fatalf("%s shows what is not printed any more; VALISE_PICTURES=write rewrites it:\n%s", file, &transcript)
	}
}

// terminal draws lines as SVG, light and dark. Commands begin with "$ ".
func terminal(transcript string) string {
	const line, char, margin = 20, 8.0, 16
	lines := strings.Split(strings.TrimSpace(transcript), "\n")
	width := 0
	for _, l := range lines {
		width = max(width, len(l))
	}
	w, h := float64(width)*char+2*margin, len(lines)*line+2*margin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" viewBox="0 0 %.0f %d" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" font-size="13">
<style>
rect { fill: #f6f8fa } text { fill: #1f2328; white-space: pre } .command { font-weight: bold } .good { fill: #1a7f37 } .bad { fill: #b35900 }
@media (prefers-color-scheme: dark) { rect { fill: #161b22 } text { fill: #e6edf3 } .good { fill: #3fb950 } .bad { fill: #d29922 } }
</style>
<rect width="100%%" height="100%%" rx="8"/>
`, w, h, w, h)
	for i, l := range lines {
		class := ""
		switch {
		case strings.HasPrefix(l, "$ "):
			class = "command"
		case strings.Contains(l, "runs and is healthy"), strings.HasPrefix(l, "rolled back"):
			class = "good"
		case strings.Contains(l, "not healthy"), strings.Contains(l, "not accepted"):
			class = "bad"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" class="%s">%s</text>`+"\n", margin, margin+i*line+14, class, html.EscapeString(l))
	}
	b.WriteString("</svg>\n")
	return b.String()
}
