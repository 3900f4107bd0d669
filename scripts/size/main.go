// Command size says what each module and each package of ours costs in valise-installer for linux/arm64, and writes it into
// docs/size.md. With -check it writes nothing, and fails when the program has grown by more than 64 KiB against that page. Both fail when the
// linker cannot leave methods out.
// By hand, from the top of the repository:  go run ./scripts/size [-check]      make size, make size-check
package main

import (
	"cmp"
	"debug/buildinfo"
	"debug/elf"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	own      = "github.com/valise-ota/valise"
	standard = "the standard library and runtime"
	doc      = "docs/size.md"
	begin    = "<!-- size: begin -->\n"
	end      = "<!-- size: end -->\n"
	allowed  = 64 << 10 // bytes that the program may grow without a new page
	listed   = 16 << 10 // bytes of the smallest module that has a row
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail when the program has grown by more than 64 KiB")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "size:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	page, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "valise-size-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	size, dependencies, err := build(filepath.Join(dir, "stripped"), "-s -w -dumpdep ")
	if err != nil {
		return err
	}
	if err := reflected(dependencies); err != nil {
		return err
	}
	if check {
		return grown(string(page), size)
	}
	whole := filepath.Join(dir, "whole")
	if _, _, err := build(whole, ""); err != nil {
		return err
	}
	sizes, err := attribute(whole)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", doc, begin, end)
	}
	return os.WriteFile(doc, []byte(before+begin+tables(size, sizes)+end+after), 0o644)
}

// build builds the installer with the flags of scripts/installers.sh, without a version, and returns what the linker said.
func build(file, flags string) (size int64, said string, err error) {
	c := exec.Command("go", "build", "-tags", "grpcnotrace", "-trimpath", "-buildvcs=false", "-ldflags", flags+"-buildid=", "-o", file, "./cmd/valise-installer")
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64", "GOFLAGS=", "GOWORK=off")
	out, err := c.CombinedOutput()
	if err != nil {
		return 0, "", fmt.Errorf("%w: %s", err, out)
	}
	info, err := os.Stat(file)
	if err != nil {
		return 0, "", err
	}
	return info.Size(), string(out), nil
}

var reflectMethod = regexp.MustCompile(`(\S+) \S*<ReflectMethod>`)

// reflected fails when the program has a function that calls methods by names which only run time knows, as templates do. The linker then keeps every
// exported method of every type in an interface, and says so in its graph.
func reflected(graph string) error {
	functions := map[string]bool{}
	for _, m := range reflectMethod.FindAllStringSubmatch(graph, -1) {
		functions[m[1]] = true
	}
	if len(functions) == 0 {
		return nil
	}
	return fmt.Errorf("%s can call any method, so all are linked: find what leads there with \"go build -ldflags=-dumpdep\", and leave it out", strings.Join(slices.Sorted(maps.Keys(functions)), ", "))
}

var total = regexp.MustCompile(`(?m)^\*\*([0-9]+) bytes\*\*`)

// grown compares a size with that of the page.
func grown(page string, size int64) error {
	m := total.FindStringSubmatch(page)
	if m == nil {
		return fmt.Errorf("%s names no size", doc)
	}
	was, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return err
	}
	fmt.Printf("valise-installer, linux/arm64: %d bytes, %+d against %s\n", size, size-was, doc)
	if size > was+allowed {
		return fmt.Errorf("it has grown by %d bytes, and may by %d: make it smaller, or run \"make size\" and say in %s what the bytes are for", size-was, allowed, doc)
	}
	return nil
}

// attribute sums the symbols of a program by module; those of ours by package, too.
func attribute(file string) (map[string]int64, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return nil, err
	}
	modules := []string{own}
	for _, d := range info.Deps {
		modules = append(modules, d.Path)
	}
	slices.SortFunc(modules, func(a, b string) int { return len(b) - len(a) }) // the longest that fits
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	for _, s := range symbols {
		if s.Section == elf.SHN_UNDEF || int(s.Section) >= len(f.Sections) || f.Sections[s.Section].Type == elf.SHT_NOBITS {
			continue // not in the file
		}
		sizes[of(s.Name, modules)] += int64(s.Size)
	}
	return sizes, nil
}

var generated = regexp.MustCompile(`^(type:\.(eq|hash)\.|go:itab\.|type:)\*?`)

// of is the module of a symbol, or the package when it is one of ours. What is behind a bracket or a comma is what it is made for.
func of(symbol string, modules []string) string {
	name := strings.ReplaceAll(generated.ReplaceAllString(symbol, ""), "%2e", ".")
	if end := strings.IndexAny(name, "[,"); end > 0 {
		name = name[:end]
	}
	for _, m := range modules {
		rest, ok := strings.CutPrefix(name, m)
		if !ok || rest == "" || rest[0] != '/' && rest[0] != '.' {
			continue
		}
		if m != own {
			return m
		}
		slash := strings.LastIndexByte(strings.SplitN(rest, "(", 2)[0], '/')
		if slash < 0 {
			return own
		}
		pkg, _, _ := strings.Cut(rest[slash:], ".")
		return own + rest[:slash] + pkg
	}
	return standard
}

// tables are what the page says: total, modules, packages of ours.
func tables(size int64, sizes map[string]int64) string {
	modules, packages, known, small := map[string]int64{}, map[string]int64{}, int64(0), int64(0)
	for name, n := range sizes {
		known += n
		switch {
		case name == own || strings.HasPrefix(name, own+"/"):
			modules[own] += n
			packages[strings.TrimPrefix(name, own+"/")] += n
		case n < listed:
			small += n
		default:
			modules[name] += n
		}
	}
	modules["modules below 16 KiB"] = small
	var b strings.Builder
	fmt.Fprintf(&b, "**%d bytes** (%.2f MiB). Symbols have %d of them; the rest, which the columns \"with its share\" divide by the same proportion, are tables of the linker.\n",
		size, float64(size)/(1<<20), known)
	for _, t := range []struct {
		head string
		rows map[string]int64
	}{{"module", modules}, {"package of Valise", packages}} {
		fmt.Fprintf(&b, "\n| %s | bytes of code and data | with its share |\n|---|---:|---:|\n", t.head)
		for _, name := range slices.SortedFunc(maps.Keys(t.rows), func(a, b string) int {
			return cmp.Or(cmp.Compare(t.rows[b], t.rows[a]), cmp.Compare(a, b))
		}) {
			fmt.Fprintf(&b, "| %s | %d | %d |\n", name, t.rows[name], t.rows[name]*size/known)
		}
	}
	return b.String()
}
