package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/ui"
)

// comparison is what an older release means for a device that runs it. Sizes are bytes.
type comparison struct {
	From      string                    `json:"from"`
	NeedBytes map[bundle.Platform]int64 `json:"need_bytes"`       // as in difference
	Images    map[string]int64          `json:"images,omitempty"` // size of each then, by name and platform
}

// compareWith compares a release with an older one.
func compareWith(old, m *bundle.Manifest) comparison {
	c := comparison{From: old.Version, NeedBytes: map[bundle.Platform]int64{}, Images: map[string]int64{}}
	for i, p := range m.Platforms {
		c.NeedBytes[p] = needBytes(old, m, i)
	}
	for _, component := range old.Components {
		for _, img := range component.Images {
			for _, l := range img.Layers {
				c.Images[imageKey(component.Reference, img.Platform)] += l.Size
			}
		}
	}
	return c
}

// imageKey names an image in every release: without tag and digest.
func imageKey(reference string, p bundle.Platform) string {
	name, _, _ := strings.Cut(reference, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name + " " + string(p)
}

// barWidth is how many characters the largest image has.
const barWidth = 20

// markdown writes what is in a bundle, with sizes against the first of the releases
// before.
func (s *summary) markdown(file string, before []comparison) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	var last *comparison
	if len(before) > 0 {
		last = &before[0]
	}
	if s.Layers != nil {
		var largest int64
		for _, i := range s.Images {
			largest = max(largest, slices.Max(append([]int64{1}, i.Sizes...)))
		}
		head, rule := "| image | services | platform | size | |", "|---|---|---|--:|---|"
		if last != nil {
			head, rule = head+" since "+last.From+" |", rule+"--:|"
		}
		line("%s\n%s", head, rule)
		for _, i := range s.Images {
			for j, n := range i.Sizes {
				row := fmt.Sprintf("| %s | %s | %s | %s | %s |", mdCode(i.Reference), mdText(strings.Join(i.Services, ", ")), s.Platforms[j], ui.Bytes(n), bar(n, largest))
				if last != nil {
					row += " " + last.change(imageKey(i.Reference, s.Platforms[j]), n) + " |"
				}
				line("%s", row)
			}
		}
		line("\n%d layers, %s; %d of them shared, which saves %s.\n", s.Layers.Count, ui.Bytes(s.Layers.Size), s.Layers.Shared, ui.Bytes(s.Layers.Saved))
	} else {
		line("| tree for | files | size |\n|---|--:|--:|")
		for _, t := range s.Trees {
			line("| %s | %d | %s |", t.Platform, t.Files, ui.Bytes(t.Size))
		}
		line("")
	}
	line("| | | |\n|---|---|--:|\n| **bundle** | %s | %s |\n| **manifest** | `%s` | |\n| **installer** | %s | |\n", mdCode(file), ui.Bytes(s.Size), s.ManifestDigest, s.installer())
	return b.String()
}

// downloads says what a device on each of the releases before downloads.
func downloads(before []comparison) string {
	if len(before) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintln(&b, "| a device on | downloads |\n|---|---|")
	for _, c := range before {
		var all []string
		for _, p := range slices.Sorted(maps.Keys(c.NeedBytes)) {
			all = append(all, fmt.Sprintf("%s: %s", p, ui.Bytes(c.NeedBytes[p])))
		}
		fmt.Fprintf(&b, "| %s | %s |\n", c.From, strings.Join(all, ", "))
	}
	fmt.Fprintln(&b)
	return b.String()
}

// change says how the size of an image changed.
func (c *comparison) change(key string, n int64) string {
	old, ok := c.Images[key]
	switch {
	case !ok:
		return "new"
	case n > old:
		return "+" + ui.Bytes(n-old)
	case n < old:
		return "-" + ui.Bytes(old-n)
	}
	return "same"
}

func bar(n, largest int64) string {
	width := int(float64(n) / float64(largest) * barWidth)
	if n > 0 {
		width = max(width, 1)
	}
	return strings.Repeat("\u2588", width)
}

// mdText keeps text of a stranger in its cell, and from being Markdown or HTML.
func mdText(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;", "`", "'", "[", `\[`, "*", `\*`, "_", `\_`).Replace(printable(s))
}

// mdCode is mdText as code.
func mdCode(s string) string {
	return "`" + strings.NewReplacer("|", `\|`, "\n", " ", "`", "'").Replace(printable(s)) + "`"
}
