// Package history keeps what benchmarks measured, one line of JSON for each row of each run, compares a run with the one before, and draws
// all of them.
package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valise-ota/valise/scripts/chart"
)

// Row is what one run measured of one thing.
type Row struct {
	Run
	Row  string `json:"row"`
	On   string `json:"on,omitempty"` // the engine
	Unit string `json:"unit"`
	Spread
	Ratio *Ratio  `json:"ratio,omitempty"`
	Goal  float64 `json:"goal,omitempty"`  // of the ratio, at most; 0 for none
	Limit float64 `json:"limit,omitempty"` // of the value itself, at most; 0 for none
}

// Run is when and of what rows were measured.
type Run struct {
	Commit string    `json:"commit"` // with "+" behind it where files differed from it
	Time   time.Time `json:"time"`
	Load   float64   `json:"load"` // average of the last minute before the run: a busy machine measures itself
}

// Spread says how several values lie.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Ratio is that to a peer, within each round: what slows a round slows both.
type Ratio struct {
	To   string  `json:"to"`
	Peer float64 `json:"peer"` // its own median
	Spread
}

// Of is the spread of values, of which there must be one.
func Of(values []float64) Spread {
	s := slices.Sorted(slices.Values(values))
	return Spread{(s[(len(s)-1)/2] + s[len(s)/2]) / 2, s[0], s[len(s)-1]}
}

// Against is the ratio of the values of each round to those of a peer.
func Against(to string, values, peer []float64) *Ratio {
	var all []float64
	for i := range min(len(values), len(peer)) {
		all = append(all, values[i]/peer[i])
	}
	return &Ratio{to, Of(peer).Median, Of(all)}
}

// Commit asks git for the commit. Behind it is "+" where files differ; a change of the pages, which benchmarks write, counts as none.
func Commit() (string, error) {
	out, err := exec.Command("git", "rev-parse", "--short=7", "HEAD").Output()
	if err != nil {
		return "", fmt.Errorf("ask git for the commit: %w", err)
	}
	commit := strings.TrimSpace(string(out))
	if exec.Command("git", "diff", "--quiet", "HEAD", "--", ".", ":!docs").Run() != nil {
		commit += "+"
	}
	return commit, nil
}

// NewRun is a run of the commit. load is what /proc/loadavg had before the run began to build anything.
func NewRun(load string) (r Run, err error) {
	r.Time = time.Now().UTC().Truncate(time.Second)
	if r.Commit, err = Commit(); err != nil {
		return r, err
	}
	first, _, _ := strings.Cut(load, " ")
	if r.Load, err = strconv.ParseFloat(first, 64); err != nil {
		return r, fmt.Errorf("the load is no number: %w", err)
	}
	return r, nil
}

// Keep appends rows to NAME.jsonl in the directory beside page that has its name, draws all files there into images/benchmarks.svg,
// which it puts between the history marks of the page, and prints the comparison with the rows before. Its error is ErrWorse when that is all that is wrong.
func Keep(w io.Writer, page, name string, rows []Row) error {
	dir := strings.TrimSuffix(page, ".md")
	file, picture := filepath.Join(dir, name+".jsonl"), filepath.Join(filepath.Dir(page), "images/benchmarks.svg")
	before, err := Read(file)
	if err != nil {
		return err
	}
	if err := Write(file, rows); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return err
	}
	var all []Row
	for _, f := range files { // sorted
		more, err := Read(f)
		if err != nil {
			return err
		}
		all = append(all, more...)
	}
	if err := os.WriteFile(picture, Draw(all).SVG(), 0o644); err != nil {
		return err
	}
	if err := WriteInto(page, "history", "![Each ratio by commit; a dashed line is a goal](./images/benchmarks.svg)\n"); err != nil {
		return err
	}
	return Compare(w, before, rows)
}

// Read returns the rows of a file, oldest first; one that is not there has none.
func Read(file string) (rows []Row, err error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		var r Row
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		rows = append(rows, r)
	}
	return rows, s.Err()
}

// Write appends rows to a file.
func Write(file string, rows []Row) error {
	var b []byte
	for _, r := range rows {
		line, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("row %s: %w", r.name(), err)
		}
		b = append(append(b, line...), '\n')
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// ErrWorse is that a ratio became worse.
var ErrWorse = errors.New("worse by more than 10 % than the run before")

// Compare prints each ratio beside the last one of the same row, of another commit. A ratio is worse when its median grew by more than 10 %, and
// even its best round is above the median before: one slow round is no reason to fail.
func Compare(w io.Writer, before, rows []Row) error {
	var worse []string
	for _, r := range rows {
		if r.Ratio == nil {
			continue
		}
		var last *Row
		for i := range before {
			if b := &before[i]; b.Row == r.Row && b.On == r.On && b.Commit != r.Commit && b.Ratio != nil && b.Ratio.To == r.Ratio.To {
				last = b
			}
		}
		if last == nil {
			fmt.Fprintf(w, "%-50s %8.3f x %s, for the first time\n", r.name(), r.Ratio.Median, r.Ratio.To)
			continue
		}
		mark := ""
		if r.Ratio.Median > 1.1*last.Ratio.Median && r.Ratio.Min > last.Ratio.Median {
			mark = "  WORSE"
			worse = append(worse, r.name())
		}
		fmt.Fprintf(w, "%-50s %8.3f x %s, %.3f at %s, %+.0f %%%s\n", r.name(), r.Ratio.Median, r.Ratio.To, last.Ratio.Median, last.Commit,
			100*(r.Ratio.Median/last.Ratio.Median-1), mark)
	}
	if worse != nil {
		return fmt.Errorf("%w: %s", ErrWorse, strings.Join(worse, "; "))
	}
	return nil
}

func (r Row) name() string {
	if r.On == "" {
		return r.Row
	}
	return r.Row + ", " + r.On
}

// Goals is a table of what was wanted and what was measured.
func Goals(rows []Row) string {
	var w strings.Builder
	fmt.Fprintf(&w, "| what | wanted | measured: median (spread) | reached |\n|---|---|---|---|\n")
	for _, r := range rows {
		answer := map[bool]string{false: "no", true: "yes"}
		if r.Goal > 0 && r.Ratio != nil {
			fmt.Fprintf(&w, "| %s | at most %g x %s | %s | %s |\n", r.name(), r.Goal, r.Ratio.To, r.Ratio.text(), answer[r.Ratio.Median <= r.Goal])
		}
		if r.Limit > 0 {
			fmt.Fprintf(&w, "| %s | at most %g %s | %s %s | %s |\n", r.name(), r.Limit, r.Unit, r.Spread.text(), r.Unit, answer[r.Median <= r.Limit])
		}
	}
	return w.String()
}

// Table has all of rows, each beside its peer.
func Table(rows []Row) string {
	var w strings.Builder
	fmt.Fprintf(&w, "| what | | median (spread) | peer | its median | ratio (spread) |\n|---|---|---:|---|---:|---:|\n")
	for _, r := range rows {
		fmt.Fprintf(&w, "| %s | %s | %s %s |", r.Row, r.On, r.Spread.text(), r.Unit)
		if r.Ratio == nil {
			fmt.Fprintln(&w, " | | |")
			continue
		}
		fmt.Fprintf(&w, " %s | %.2f %s | %s |\n", r.Ratio.To, r.Ratio.Peer, r.Unit, r.Ratio.text())
	}
	return w.String()
}

func (s Spread) text() string {
	if s.Min == s.Max {
		return fmt.Sprintf("%.2f", s.Median)
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", s.Median, s.Min, s.Max)
}

// WriteInto puts text between the marks of a page: <!-- MARK: begin --> and <!-- MARK: end -->.
func WriteInto(page, mark, text string) error {
	begin, end := "<!-- "+mark+": begin -->\n", "<!-- "+mark+": end -->"
	data, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(data), begin)
	_, tail, found := strings.Cut(rest, end)
	if !ok || !found {
		return fmt.Errorf("%s has no lines %q and %q", page, strings.TrimSpace(begin), end)
	}
	return os.WriteFile(page, []byte(head+begin+"\n"+text+"\n"+end+tail), 0o644)
}

// Draw makes a panel for each row that has a ratio: the ratio by commit, a line for each engine, and its goal. Of several runs of a commit, the
// last counts.
func Draw(rows []Row) chart.Chart {
	c := chart.Chart{Title: "Benchmarks by commit: ratios to the peer, smaller is better", Columns: 4}
	rows = slices.Clone(rows)
	slices.SortStableFunc(rows, func(a, b Row) int { return a.Time.Compare(b.Time) })
	var commits []string
	for _, r := range rows {
		if !slices.Contains(commits, r.Commit) {
			commits = append(commits, r.Commit)
		}
	}
	for _, r := range rows {
		if r.Ratio == nil {
			continue
		}
		title := r.Row
		i := slices.IndexFunc(c.Panels, func(p chart.Panel) bool { return p.Title == title })
		if i < 0 {
			i = len(c.Panels)
			c.Panels = append(c.Panels, chart.Panel{Title: title, X: chart.Axis{Names: commits}})
		}
		p := &c.Panels[i]
		p.Y.Label, p.Goal = "x "+r.Ratio.To, r.Goal
		j := slices.IndexFunc(p.Series, func(s chart.Series) bool { return s.Name == r.On })
		if j < 0 {
			j = len(p.Series)
			p.Series = append(p.Series, chart.Series{Name: r.On})
		}
		s := &p.Series[j]
		x := float64(slices.Index(commits, r.Commit))
		s.Points = slices.DeleteFunc(s.Points, func(q chart.Point) bool { return q.X == x })
		s.Points = append(s.Points, chart.Point{X: x, Y: r.Ratio.Median, Low: r.Ratio.Min, High: r.Ratio.Max})
		slices.SortFunc(s.Points, func(a, b chart.Point) int { return int(a.X - b.X) })
	}
	return c
}
