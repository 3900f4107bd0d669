// Command enginetable writes what engine tests did, one column for each engine, into a document, between the lines
// <!-- engines --> and <!-- /engines -->. Each argument is a file with the output of go test -json; what stands beside it
// in FILE.about names the engine.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

const begin, end = "<!-- engines -->\n", "<!-- /engines -->\n"

func main() {
	doc := flag.String("doc", "", "document to write into")
	flag.Parse()
	if err := run(*doc, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "enginetable:", err)
		os.Exit(1)
	}
}

func run(doc string, files []string) error {
	rows := map[string][]string{}
	count := 0
	head := "| test |"
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, ".about") })
	for i, file := range files {
		about, err := os.ReadFile(file + ".about")
		if err != nil {
			return err
		}
		_, name, ok := strings.Cut(string(about), "engine: ")
		if !ok {
			return fmt.Errorf("%s.about names no engine", file)
		}
		name, _, _ = strings.Cut(name, "\n")
		head += " " + name + " |"
		results, err := read(file)
		if err != nil {
			return err
		}
		for test, result := range results {
			if rows[test] == nil {
				rows[test] = make([]string, len(files))
			}
			rows[test][i] = result
			count++
			if result == "skipped" {
				fmt.Printf("skipped: %s on %s\n", test, name)
			}
		}
	}
	fmt.Printf("%d tests on %d engines\n", count, len(files))
	table := head + "\n|---|" + strings.Repeat("---:|", len(files)) + "\n"
	for _, test := range slices.Sorted(maps.Keys(rows)) {
		if !slices.ContainsFunc(rows[test], func(r string) bool { return r != "ok" && r != "" }) {
			continue // in less than a second nobody asked an engine for anything that differs
		}
		table += "| " + test + " | " + strings.Join(rows[test], " | ") + " |\n"
	}
	b, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no place for the table", doc)
	}
	return os.WriteFile(doc, []byte(before+begin+table+end+after), 0o644)
}

// read returns what became of every test: seconds, or ok when it took less than one.
func read(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	results := map[string]string{}
	parents := map[string]bool{}
	s := bufio.NewScanner(f)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e struct {
			Action, Package, Test string
			Elapsed               float64
		}
		if json.Unmarshal(s.Bytes(), &e) != nil || e.Test == "" {
			continue
		}
		name := e.Package[strings.LastIndex(e.Package, "/")+1:] + " " + e.Test
		if i := strings.LastIndex(name, "/"); i > 0 {
			parents[name[:i]] = true
		}
		switch {
		case e.Action == "fail":
			results[name] = "**fails**"
		case e.Action == "skip":
			results[name] = "skipped"
		case e.Action == "pass" && e.Elapsed >= 1:
			results[name] = fmt.Sprintf("%.0f s", e.Elapsed)
		case e.Action == "pass":
			results[name] = "ok"
		}
	}
	maps.DeleteFunc(results, func(name, result string) bool { return parents[name] || strings.Count(name, "/") > 1 })
	return results, s.Err()
}
