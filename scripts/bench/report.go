package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/scripts/bench/history"
)

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return history.Of(values).Median
}

// of returns one figure of all samples of a contestant.
func (g *group) of(name string, figure func(sample) float64) []float64 {
	var all []float64
	for _, s := range g.samples[name] {
		all = append(all, figure(s))
	}
	return all
}

func (g *group) ratio(name, to string, figure func(sample) float64) float64 {
	return history.Against(to, g.of(name, figure), g.of(to, figure)).Median
}

func wall(s sample) float64    { return s.Wall }
func cpu(s sample) float64     { return s.CPU }
func rss(s sample) float64     { return float64(s.RSS) / (1 << 20) }
func written(s sample) float64 { return float64(s.Written) / 1e6 }
func size(s sample) float64    { return float64(s.Size) }

// isFile reports whether a contestant leaves one file that can be shipped, and not a directory.
func isFile(name string) bool {
	return strings.HasSuffix(name, ", tar") || strings.HasPrefix(name, "docker save")
}

func (b *bench) report() string {
	var w strings.Builder
	b.writeGoals(&w)
	fmt.Fprintf(&w, "\n### Machine and versions\n\n| | |\n|---|---|\n")
	for _, row := range b.about {
		fmt.Fprintf(&w, "| %s | %s |\n", row[0], row[1])
	}
	for _, g := range b.groups {
		fmt.Fprintf(&w, "\n### %s\n\n", g.title)
		if g.far != nil {
			fmt.Fprintf(&w, "%s.\n\n", g.far)
		}
		withSize := slices.Max(g.of(g.contestants[0].name, size)) > 0
		head, rule := "| | wall s | fastest | CPU s |", "|---|---:|---:|---:|"
		if g.baseline != "" {
			head, rule = head+" wall ratio | CPU ratio |", rule+"---:|---:|"
		}
		head, rule = head+" peak MiB | written MB |", rule+"---:|---:|"
		if withSize {
			head, rule = head+" result bytes |", rule+"---:|"
		}
		fmt.Fprintf(&w, "%s\n%s\n", head, rule)
		for _, c := range g.contestants {
			fmt.Fprintf(&w, "| %s | %.2f | %.2f | %.2f |", c.name, median(g.of(c.name, wall)), slices.Min(g.of(c.name, wall)), median(g.of(c.name, cpu)))
			if g.baseline != "" {
				fmt.Fprintf(&w, " %.2f | %.2f |", g.ratio(c.name, g.baseline, wall), g.ratio(c.name, g.baseline, cpu))
			}
			fmt.Fprintf(&w, " %.0f | %.0f |", median(g.of(c.name, rss)), median(g.of(c.name, written)))
			if withSize {
				fmt.Fprintf(&w, " %.0f |", median(g.of(c.name, size)))
			}
			fmt.Fprintln(&w)
		}
		if g.baseline != "" {
			fmt.Fprintf(&w, "\nRatios are relative to %s.\n", g.baseline)
		}
		if g.name == "thin" {
			fmt.Fprintf(&w, "\nThe second version changes the top layer of one image: %d bytes compressed. Its full bundle has\n%d bytes, the thin one %d: %+d.\n",
				b.changedSize, b.files["next"], b.files["thin"], b.files["thin"]-b.changedSize)
		}
	}
	return w.String()
}

// rows are the figures that are kept by commit.
func (b *bench) rows() (rows []history.Row) {
	for _, g := range b.groups {
		row := func(row, unit, name, to string, goal float64, figure func(sample) float64) {
			r := history.Row{Run: b.began, Row: row, Unit: unit, Spread: history.Of(g.of(name, figure)), Goal: goal}
			if to != "" {
				r.Ratio = history.Against(to, g.of(name, figure), g.of(to, figure))
			}
			rows = append(rows, r)
		}
		const build, pull = "valise build", "crane pull --format=oci"
		switch g.name {
		case "pack", "pack-one":
			where := map[string]string{"pack": "two platforms", "pack-one": "linux/amd64"}[g.name]
			row("pack, "+where+": time", "s", build, pull+", sync", 0.7, wall)
			row("pack, "+where+": CPU", "s", build, pull, 1.2, cpu)
		case "far":
			row("pack, far away: time", "s", build, pull, 0, wall)
		case "verify":
			row("verify, one core: CPU", "s", "valise verify, one core", "openssl dgst, one core", 1.03, cpu)
			row("verify, two cores: time", "s", "valise verify, two cores", "openssl dgst, two cores", 0.6, wall)
		case "memory":
			row("sign: peak memory", "MiB", "sign, large", "", 0, rss)
			row("sign: bytes written", "MB", "sign, large", "", 0, written)
		}
	}
	return rows
}

// writeGoals compares what was measured with what was wanted.
func (b *bench) writeGoals(w *strings.Builder) {
	fmt.Fprintf(w, "### Rows\n\nLoad average before the run: %.2f.\n\n%s\n", b.began.Load, history.Table(b.rows()))
	fmt.Fprintf(w, "### Goals\n\n%s\n", history.Goals(b.rows()))
	fmt.Fprintf(w, "| goal | measured | met |\n|---|---|---|\n")
	row := func(goal string, met bool, format string, args ...any) {
		answer := "no"
		if met {
			answer = "yes"
		}
		fmt.Fprintf(w, "| %s | %s | %s |\n", goal, fmt.Sprintf(format, args...), answer)
	}
	const build, pull, save = "valise build", "crane pull --format=oci", "docker save, gzip, sha256sum"
	for _, g := range b.groups {
		has := func(name string) bool { return len(g.samples[name]) > 0 }
		switch g.name {
		case "pack", "pack-one", "far":
			where := map[string]string{"pack": "two platforms", "pack-one": "linux/amd64", "far": "linux/amd64, far away"}[g.name]
			if g.name == "far" {
				time, work := g.ratio(build, pull, wall), g.ratio(build, pull, cpu)
				row("pack in half the time of crane pull: "+where, time <= 0.5, "%.2f of its time, %.2f of its CPU", time, work)
			}
			if has(save) {
				time, work := g.ratio(save, build, wall), g.ratio(save, build, cpu)
				row("pack 10 times faster than docker save, gzip", time >= 10, "%.1f times faster, %.1f times less CPU", time, work)
			}
			if g.name == "far" {
				continue
			}
			peak := slices.Max(g.of(build, rss))
			row("pack in less than 64 MiB: "+where, peak < 64, "%.0f MiB at most", peak)
			mine := median(g.of(build, size))
			for _, file := range []bool{false, true} {
				smallest, name := 0.0, ""
				for _, c := range g.contestants {
					other := !strings.HasPrefix(c.name, "valise ") && !strings.HasPrefix(c.name, "cp ")
					if n := median(g.of(c.name, size)); other && isFile(c.name) == file && (name == "" || n < smallest) {
						smallest, name = n, c.name
					}
				}
				if name == "" {
					continue
				}
				goal := map[bool]string{false: "no larger than the smallest directory of the others: ", true: "no larger than the smallest file of the others: "}[file]
				row("bundle "+goal+where, mine <= smallest, "%+.3f %% to %s", 100*(mine/smallest-1), name)
			}
		case "thin":
			over := b.files["thin"] - b.changedSize
			row("thin bundle within 2 % + 64 KiB of the changed layers", over <= b.changedSize/50+64<<10, "%d bytes over %d", over, b.changedSize)
		case "memory":
			for _, step := range []string{"build", "sign", "verify"} {
				small, large := median(g.of(step+", small", rss)), median(g.of(step+", large", rss))
				row("memory of "+step+" independent of the size", large < small+16, "%.0f MiB for %.0f MB, %.0f MiB for %.0f MB",
					small, median(g.of(step+", small", size))/1e6, large, median(g.of(step+", large", size))/1e6)
			}
		}
	}
}

// machine says on what and with what this runs.
func (b *bench) machine(ctx context.Context) [][2]string {
	first := func(args ...string) string {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = b.env
		out, err := cmd.Output()
		if err != nil {
			return "unknown"
		}
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return line
	}
	inFile := func(file, pattern string) string {
		data, err := os.ReadFile(file)
		if m := regexp.MustCompile(pattern).FindSubmatch(data); err == nil && m != nil {
			return string(m[1])
		}
		return "unknown"
	}
	engine := "not measured"
	if b.engine != 0 {
		engine = first("docker", "version", "-f", "{{.Server.Version}}") + ", " + first("docker", "info", "-f", "{{.Driver}}")
	}
	return [][2]string{
		{"measured", time.Now().UTC().Format("2006-01-02 15:04 UTC")},
		{"processor", fmt.Sprintf("%s, %d cores", inFile("/proc/cpuinfo", `model name\s*: (.*)`), runtime.NumCPU())},
		{"memory", strings.TrimSpace(inFile("/proc/meminfo", `MemTotal:\s*(\d+)`)) + " KiB"},
		{"system", inFile("/etc/os-release", `PRETTY_NAME="(.*)"`) + ", kernel " + inFile("/proc/sys/kernel/osrelease", `^([0-9.]+)`)},
		{"file system", first("stat", "-f", "-c", "%T", b.work)},
		{"valise", b.source + ", " + runtime.Version()},
		{"crane", first(b.crane, "version")},
		{"skopeo", first("skopeo", "--version")},
		{"Docker engine", engine},
		{"OpenSSL", first("openssl", "version")},
		{"gzip", first("gzip", "--version")},
		{"rounds", fmt.Sprint(b.rounds)},
	}
}
