// Command testlog reads what go test -json prints and prints it as go test does: a line for each package, and of what
// failed everything. At the end it names what was skipped and the tests that took longest. It fails when a test did.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

const slowest = 20 // tests in the table

func main() {
	failed, err := run(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testlog:", err)
	}
	if failed || err != nil {
		os.Exit(1)
	}
}

// event is one line of go test -json: see go doc test2json.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64 // seconds
}

type test struct{ pkg, name string }

type took struct {
	test
	seconds float64
}

func run(in io.Reader, out io.Writer) (failed bool, err error) {
	said := map[test]string{} // by tests and packages that have not ended
	var times []took
	var skipped []string
	r := bufio.NewReader(in)
	for {
		line, err := r.ReadString('\n')
		if line == "" && err == io.EOF {
			break
		}
		if err != nil && err != io.EOF {
			return failed, err
		}
		var e event
		if json.Unmarshal([]byte(line), &e) != nil {
			fmt.Fprint(out, line) // go itself complains
			continue
		}
		t := test{e.Package, e.Test}
		switch e.Action {
		case "output":
			said[t] += e.Output
		case "build-output":
			fmt.Fprint(out, e.Output)
		case "build-fail":
			failed = true
		case "pass", "skip":
			if t.name == "" {
				fmt.Fprint(out, verdict(said[t]))
			} else if e.Action == "skip" {
				skipped = append(skipped, short(t)+": "+reason(said[t]))
			}
		case "fail":
			failed = true
			if t.name == "" {
				for other, text := range said { // it was running when the package ended
					if other.pkg == t.pkg && other.name != "" {
						fmt.Fprint(out, text)
						delete(said, other)
					}
				}
			}
			fmt.Fprint(out, said[t])
		}
		if e.Action == "pass" || e.Action == "skip" || e.Action == "fail" {
			delete(said, t)
			if t.name != "" {
				times = append(times, took{t, e.Elapsed})
			}
		}
	}
	for _, text := range said { // go test ended before the package did
		failed = true
		fmt.Fprint(out, text)
	}
	slices.Sort(skipped)
	for _, s := range skipped {
		fmt.Fprintln(out, "skipped:", s)
	}
	table(out, times)
	return failed, nil
}

// verdict is what go test says of a package that passed.
func verdict(text string) (lines string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "ok ") || strings.HasPrefix(line, "? ") {
			lines += line
		}
	}
	return lines
}

// reason is what a test said before it was skipped.
func reason(text string) string {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(strings.TrimSpace(line), "--- ") {
			return strings.TrimSpace(line)
		}
	}
	return "it does not say why"
}

func short(t test) string {
	return t.pkg[strings.LastIndex(t.pkg, "/")+1:] + " " + t.name
}

// table prints the tests that took longest, without those that others are part of.
func table(out io.Writer, times []took) {
	whole := map[test]bool{}
	for _, t := range times {
		for i, c := range t.name {
			if c == '/' {
				whole[test{t.pkg, t.name[:i]}] = true
			}
		}
	}
	times = slices.DeleteFunc(times, func(t took) bool { return whole[t.test] })
	slices.SortFunc(times, func(a, b took) int {
		return cmp.Or(cmp.Compare(b.seconds, a.seconds), cmp.Compare(short(a.test), short(b.test)))
	})
	fmt.Fprintf(out, "\nThe slowest of %d tests:\n", len(times))
	for _, t := range times[:min(slowest, len(times))] {
		fmt.Fprintf(out, "%7.1f s  %s\n", t.seconds, short(t.test))
	}
}
