package source

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/order"
	"github.com/valise-ota/valise/bundle/parts"
)

// name is what the file name of a bundle says:
//
//	APP[-update]-[v]VERSION[-PLATFORM][-from-BASE].tar.gz|.tar.zst|.tar[.001]
//
// PLATFORM is one of platformNames; a bundle with BASE is thin; a number at the
// end is that of a part.
type name struct {
	Name     string          `json:"name"` // without the number
	Version  string          `json:"version"`
	From     string          `json:"from,omitempty"`
	Platform bundle.Platform `json:"platform,omitempty"`
}

var platformNames = map[string]bundle.Platform{
	"linux-amd64": "linux/amd64", "x86_64-linux": "linux/amd64", "linux-x86_64": "linux/amd64", "amd64": "linux/amd64", "x86_64": "linux/amd64",
	"linux-arm64": "linux/arm64", "aarch64-linux": "linux/arm64", "linux-aarch64": "linux/arm64", "arm64": "linux/arm64", "aarch64": "linux/arm64",
	"linux-arm-v7": "linux/arm/v7", "armv7-linux": "linux/arm/v7", "linux-armv7": "linux/arm/v7", "arm-v7": "linux/arm/v7", "armv7": "linux/arm/v7", "armhf": "linux/arm/v7",
}

// parseName reads the name of a file of app. part is 0 for a file that is no
// part.
func parseName(app, file string) (n name, part int, ok bool) {
	file, part = parts.Split(file)
	n.Name = file
	rest, found := file, false
	for _, c := range []bundle.Compression{bundle.Gzip, bundle.Zstd, bundle.None} {
		if rest, found = strings.CutSuffix(file, c.Suffix()); found {
			break
		}
	}
	if !found {
		return n, 0, false
	}
	if rest, found = strings.CutPrefix(rest, app+"-"); !found {
		return n, 0, false
	}
	rest = strings.TrimPrefix(rest, "update-")
	rest = strings.TrimPrefix(rest, "v")
	if i := strings.LastIndex(rest, "-from-"); i > 0 {
		rest, n.From = rest[:i], strings.TrimPrefix(rest[i+len("-from-"):], "v")
		if _, err := bundle.ParseVersion(n.From); err != nil {
			return n, 0, false
		}
	}
	for _, word := range platformWords {
		if r, found := strings.CutSuffix(rest, "-"+word); found {
			rest, n.Platform = r, platformNames[word]
			break
		}
	}
	n.Version = rest
	_, err := bundle.ParseVersion(n.Version)
	return n, part, err == nil
}

// platformWords are the keys of platformNames, the longest first: "arm64" ends
// "linux-arm64".
var platformWords = func() []string {
	var list []string
	for w := range platformNames {
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return list
}()

// found is a file that a source has.
type found struct {
	file string
	size int64 // -1: unknown
	part
}

// group makes releases of files: parts of a bundle come together, bundles of a
// version too. A bundle that lacks a part is left out.
func group(app string, files []found) []Release {
	type numbered struct {
		found
		n int
	}
	byName := map[name][]numbered{}
	for _, f := range files {
		if n, i, ok := parseName(app, f.file); ok {
			byName[n] = append(byName[n], numbered{f, i})
		}
	}
	releases := map[string]*Release{}
	for n, list := range byName {
		order.By(list, func(a, b numbered) int { return a.n - b.n })
		whole := list[0].n == 0
		if whole {
			list = list[:1]
		}
		b := Bundle{name: n}
		for i, f := range list {
			if !whole && f.n != i+1 {
				b.parts = nil
				break
			}
			f.part.size = f.size
			b.parts = append(b.parts, f.part)
			if f.size < 0 || b.Size < 0 || f.size > math.MaxInt64-b.Size {
				b.Size = -1
			} else {
				b.Size += f.size
			}
		}
		if b.parts == nil {
			continue
		}
		if releases[n.Version] == nil {
			releases[n.Version] = &Release{Version: n.Version}
		}
		r := releases[n.Version]
		r.Bundles = append(r.Bundles, b)
	}
	var all []Release
	for _, r := range releases {
		order.By(r.Bundles, func(a, b Bundle) int { return strings.Compare(a.Name, b.Name) })
		all = append(all, *r)
	}
	return all
}
