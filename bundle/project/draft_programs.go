package project

import (
	"bufio"
	"debug/elf"
	"encoding/binary"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

const (
	// programDepth is how many directories deep programs are looked for.
	programDepth = 4
	// maxLooked is how many files are looked at for programs.
	maxLooked = 20_000
	// maxUnitLines is how many lines of a unit are read.
	maxUnitLines = 1000
)

// archWords are what builds call the processor of a platform in paths, the longer ones first.
var archWords = map[bundle.Platform][]string{
	"linux/amd64":  {"x86_64-unknown-linux-musl", "x86_64-unknown-linux-gnu", "x86_64-linux", "amd64_v1", "x86_64", "amd64", "x64"},
	"linux/arm64":  {"aarch64-unknown-linux-musl", "aarch64-unknown-linux-gnu", "aarch64-linux", "arm64_v8.0", "aarch64", "arm64"},
	"linux/arm/v7": {"armv7-unknown-linux-musleabihf", "armv7-unknown-linux-gnueabihf", "arm-v7", "armv7l", "armv7", "armhf", "arm_7", "arm"},
}

// programs are one program for the platforms that it was built for.
type programs struct {
	from      string // template of its path
	name      string // without words for system and processor
	platforms []bundle.Platform
}

var plainPath = lazyregexp.New(`^[A-Za-z0-9_./@+-]+$`)

// findPrograms finds executables for Linux below dir, and what {{.Arch}} is for them when
// that is not its name.
func findPrograms(dir string) ([]programs, map[string]string, error) {
	var all []programs
	words := map[bundle.Platform]string{}
	looked := 0
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if e.IsDir() {
			if rel != "." && (strings.HasPrefix(e.Name(), ".") || strings.Count(rel, "/") >= programDepth ||
				slices.Contains([]string{"node_modules", "vendor", "testdata", "deps", "incremental", "debug", "installer"}, e.Name())) {
				return fs.SkipDir
			}
			return nil
		}
		if looked++; looked > maxLooked {
			return fs.SkipAll
		}
		info, err := e.Info()
		if err != nil || !e.Type().IsRegular() || info.Mode()&0o111 == 0 || !plainPath.MatchString(rel) || strings.Contains(e.Name(), ".so") {
			return nil
		}
		platform := platformOf(name)
		if platform == "" {
			return nil
		}
		from, word := rel, ""
		for _, w := range archWords[platform] {
			if i := strings.LastIndex(rel, w); i >= 0 {
				from, word = rel[:i]+"{{.Arch}}"+rel[i+len(w):], w
				break
			}
		}
		if word != "" {
			if had, ok := words[platform]; ok && had != word {
				return nil // built twice: the first is taken
			}
			words[platform] = word
		}
		i := slices.IndexFunc(all, func(p programs) bool { return p.from == from })
		if i < 0 {
			i = len(all)
			all = append(all, programs{from: from, name: programName(path.Base(from))})
		}
		if !slices.Contains(all[i].platforms, platform) {
			all[i].platforms = append(all[i].platforms, platform)
		}
		return nil
	})
	arch := map[string]string{}
	for platform, word := range words {
		if word != platform.Arch() {
			arch[string(platform)] = word
		}
	}
	return all, arch, err
}

var systemWords = lazyregexp.New(`[-_.]*(\{\{\.Arch\}\}|linux)`)

func programName(base string) string {
	name := strings.Trim(systemWords.ReplaceAllString(base, ""), "-_.")
	if name == "" {
		return "program"
	}
	return name
}

// platformOf is the platform that a file is a program for, or "". It reads the beginning.
func platformOf(name string) bundle.Platform {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 20)
	if _, err := io.ReadFull(f, head); err != nil || string(head[:4]) != elf.ELFMAG || elf.Data(head[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return ""
	}
	if t := elf.Type(binary.LittleEndian.Uint16(head[16:])); t != elf.ET_EXEC && t != elf.ET_DYN {
		return ""
	}
	switch elf.Machine(binary.LittleEndian.Uint16(head[18:])) {
	case elf.EM_X86_64:
		return "linux/amd64"
	case elf.EM_AARCH64:
		return "linux/arm64"
	case elf.EM_ARM:
		return "linux/arm/v7"
	}
	return ""
}

var execLine = lazyregexp.New(`^Exec(?:Start|StartPre|StartPost|Reload|Condition)=[-@:+!|]*"?(/[^\s"]+)`)

// started are the programs that a unit starts, by their paths on a device.
func started(unit string) []string {
	f, err := os.Open(unit)
	if err != nil {
		return nil
	}
	defer f.Close()
	var all []string
	lines := bufio.NewScanner(f)
	for n := 0; n < maxUnitLines && lines.Scan(); n++ {
		if m := execLine.FindStringSubmatch(strings.TrimSpace(lines.Text())); m != nil && !slices.Contains(all, m[1]) {
			all = append(all, m[1])
		}
	}
	return all
}
