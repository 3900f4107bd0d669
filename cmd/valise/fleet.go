package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/bundle/web"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/receipt"
)

// Limits of what is collected: it comes from outside.
const (
	maxFleetFiles    = 1_000_000
	maxFleetReceipts = 256 << 20
)

func fleetCommand(a *app) *cobra.Command {
	c := &cobra.Command{Use: "fleet", Short: "See what many devices run"}
	var hawkBit []string
	report := &cobra.Command{
		Use:   "report [SITE=]DIR|FILE|URL...",
		Short: "Combine the receipts of many devices in one table",
		Long: "report reads every receipt below the given directories, at any depth: sticks, or copies of\n" +
			"them. A FILE or URL has one receipt on each line, as cat writes them; a URL must be https,\n" +
			"or on this machine. Receipts of one device from several places are combined. SITE is shown\n" +
			"beside the devices of that place.\n\n" +
			"Each row is one app on one device: what it runs, since when, and when it was last seen.\n" +
			"PROBLEM says where receipts are missing or changed; the exit code is then 4. A receipt\n" +
			"proves which key wrote it, not whose key that is: compare the key with the one that the\n" +
			"device showed.\n\n" +
			"--hawkbit FILE compares them with what devices told hawkBit: pages of action statuses of\n" +
			"its Management API, one after the other. Devices without receipts are listed from it, with\n" +
			"a problem, because nothing in it is signed.\n\n" +
			"--output csv is for spreadsheets. --output html is one self-contained page with versions\n" +
			"over time.",
		Example: "  valise fleet report berlin=/media/usb hamburg=sticks/hamburg\n  valise fleet report sticks --output html >fleet.html\n" +
			"  cat sticks/valise/*/*/*.json >berlin.jsonl && valise fleet report https://example.org/berlin.jsonl",
		Annotations: map[string]string{cli.Forms: "csv,html"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args)+len(hawkBit) == 0 {
				return cli.Usagef("want a place with receipts, or --hawkbit FILE")
			}
			return a.fleetReport(cmd.Context(), args, hawkBit)
		},
	}
	report.Flags().StringArrayVar(&hawkBit, "hawkbit", nil, "`FILE` with what devices told hawkBit; can be repeated")
	c.AddCommand(report)
	return c
}

// fleetReport is who runs what, by receipts.
type fleetReport struct {
	Devices []fleetDevice `json:"devices"`
	// Refused are files under the name of a receipt that are none.
	Refused []string `json:"refused,omitempty"`
}

// fleetDevice is one app on one device.
type fleetDevice struct {
	Site     string         `json:"site,omitempty"`
	Device   string         `json:"device"`
	App      string         `json:"app"`
	Version  string         `json:"version"` // empty when none runs
	Since    time.Time      `json:"since,omitzero"`
	Seen     time.Time      `json:"last_seen"` // the end of its last receipt
	Signer   string         `json:"signer,omitempty"`
	Receipts int            `json:"receipts"`
	Key      string         `json:"key"`
	Problem  string         `json:"problem,omitempty"`
	Versions []fleetVersion `json:"versions"` // oldest first
}

// fleetVersion is a version and the time from which it ran.
type fleetVersion struct {
	Version string    `json:"version"`
	Since   time.Time `json:"since"`

	manifest bundle.Digest // of the release; empty when no receipt has it
}

func (a *app) fleetReport(ctx context.Context, args, hawkBit []string) error {
	r, err := readFleet(ctx, args, hawkBit)
	if err != nil {
		return fmt.Errorf("read receipts: %w", err)
	}
	switch a.Output() {
	case "csv":
		err = r.csv(a.Stdout)
	case "html":
		err = r.html(a.Stdout)
	default:
		err = a.Result(r, r.text)
	}
	if err != nil {
		return err
	}
	return r.trusted()
}

// trusted is an error when any receipt is not, or is missing.
func (r fleetReport) trusted() error {
	bad := len(r.Refused)
	for _, d := range r.Devices {
		if d.Problem != "" {
			bad++
		}
	}
	if bad > 0 {
		return cli.WithCode(fmt.Errorf("receipts are not to be trusted or not complete in %d places", bad), cli.ExitRefused)
	}
	return nil
}

// readFleet reads the receipts of all places, [SITE=]DIR, FILE or URL, and files with what
// devices told hawkBit.
func readFleet(ctx context.Context, places, hawkBit []string) (fleetReport, error) {
	c := fleetCollection{chains: map[fleetKey]*fleetChain{}}
	for _, place := range places {
		site, where, labelled := strings.Cut(place, "=")
		if !labelled || strings.ContainsRune(site, '/') {
			site, where = "", place
		}
		if err := c.addPlace(ctx, site, where); err != nil {
			return fleetReport{}, err
		}
	}
	for _, name := range hawkBit {
		if err := c.addHawkBit(ctx, name); err != nil {
			return fleetReport{}, err
		}
	}
	if len(c.chains)+len(c.refused) == 0 {
		return fleetReport{}, fmt.Errorf("no receipt (NUMBER.json, or one a line of a file) in %s", strings.Join(places, ", "))
	}
	return c.report(ctx), nil
}

// fleetKey is who wrote receipts, and about what.
type fleetKey struct{ key, app string }

type fleetChain struct {
	sites    []string
	files    [][]byte
	receipts []receipt.Receipt // of files, each with a signature that is right
	told     []told            // that hawkBit has
}

type fleetCollection struct {
	chains  map[fleetKey]*fleetChain
	refused []string
	visited int // files and lines
	taken   int // receipts
	bytes   int
}

var receiptName = lazyregexp.New(`^[0-9]{1,19}\.json$`)

// addPlace reads the receipts of a directory, a file or a URL.
func (c *fleetCollection) addPlace(ctx context.Context, site, where string) error {
	if !strings.Contains(where, "://") {
		info, err := os.Stat(where)
		if err != nil {
			return err
		}
		if info.IsDir() {
			return c.addDir(ctx, site, where)
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is neither a directory nor a file", where)
		}
		f, err := os.Open(where)
		if err != nil {
			return err
		}
		defer f.Close()
		return c.addLines(ctx, site, where, f)
	}
	u, err := url.Parse(where)
	if err != nil {
		return err
	}
	h := client(maxFleetReceipts)
	redirect := h.CheckRedirect
	h.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		return cmp.Or(redirect(req, via), private(req.URL))
	}
	if err := private(u); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	body, err := getBy(ctx, h, where)
	if err != nil {
		return fmt.Errorf("%s: %w", u.Redacted(), err)
	}
	defer body.Close()
	return c.addLines(ctx, site, u.Redacted(), body)
}

// private: who runs what is not for everybody who listens.
func private(u *url.URL) error {
	if u.Scheme == "https" || u.Scheme == "http" && web.Loopback(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("%s: want https, or http of this machine", u.Redacted())
}

// addLines reads receipts of which each is a line.
func (c *fleetCollection) addLines(ctx context.Context, site, name string, r io.Reader) error {
	taken, refused := c.taken, len(c.refused)
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, receipt.MaxSize+1)
	for n := 1; lines.Scan(); n++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		if err := c.visit(ctx); err != nil {
			return err
		}
		if err := c.take(ctx, site, fmt.Sprintf("%s, line %d", name, n), append(bytes.Clone(lines.Bytes()), '\n')); err != nil {
			return err
		}
		if c.taken == taken && len(c.refused) > refused { // not such a file
			return errors.New(c.refused[refused])
		}
	}
	err := lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		err = fmt.Errorf("a line of more than %d bytes is not a receipt", receipt.MaxSize)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// visit counts what is looked at.
func (c *fleetCollection) visit(ctx context.Context) error {
	if c.visited++; c.visited > maxFleetFiles {
		return fmt.Errorf("more than %d files", maxFleetFiles)
	}
	return ctx.Err()
}

func (c *fleetCollection) refuse(name string, why any) error {
	c.refused = append(c.refused, cli.OneLine(fmt.Sprintf("%s: %v", name, why)))
	return nil
}

// addDir reads all receipts below a directory. No link is followed.
func (c *fleetCollection) addDir(ctx context.Context, site, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := c.visit(ctx); err != nil {
			return err
		}
		if d.IsDir() || !receiptName.MatchString(path.Base(name)) {
			return nil
		}
		whole := path.Join(dir, name)
		if !d.Type().IsRegular() {
			return c.refuse(whole, "not a regular file")
		}
		b, err := readRegular(root, name, receipt.MaxSize)
		if err != nil {
			return c.refuse(whole, err)
		}
		return c.take(ctx, site, whole, b)
	})
}

// take puts a receipt to those of its device.
func (c *fleetCollection) take(ctx context.Context, site, name string, b []byte) error {
	if c.bytes += len(b); c.bytes > maxFleetReceipts {
		return fmt.Errorf("receipts of more than %d bytes", maxFleetReceipts)
	}
	r, err := receipt.Open(ctx, b)
	if err != nil {
		return c.refuse(name, err)
	}
	c.taken++
	chain := c.chain(fleetKey{receipt.Fingerprint(r.Key), r.App})
	if site != "" && !slices.Contains(chain.sites, site) {
		chain.sites = append(chain.sites, site)
	}
	chain.files, chain.receipts = append(chain.files, b), append(chain.receipts, r)
	return nil
}

func (c *fleetCollection) chain(k fleetKey) *fleetChain {
	if c.chains[k] == nil {
		c.chains[k] = &fleetChain{}
	}
	return c.chains[k]
}

// report judges every chain.
func (c *fleetCollection) report(ctx context.Context) fleetReport {
	r := fleetReport{Devices: []fleetDevice{}, Refused: c.refused}
	for k, chain := range c.chains {
		receipts, err := receipt.Chain(ctx, chain.files)
		if err != nil { // what the receipts that are there say
			receipts = chain.receipts
			slices.SortStableFunc(receipts, func(x, y receipt.Receipt) int { return cmp.Compare(x.Sequence, y.Sequence) })
		}
		d := fleetDevice{Site: strings.Join(chain.sites, ", "), App: cli.OneLine(k.app), Receipts: len(receipts), Key: k.key, Versions: []fleetVersion{}}
		var last receipt.Receipt // none where only hawkBit was told of any
		if n := len(receipts); n > 0 {
			last = receipts[n-1]
		}
		d.Device, d.Seen = cli.OneLine(last.Device), ended(last)
		if err != nil {
			d.Problem = cli.OneLine(strings.TrimPrefix(err.Error(), "read receipts of "+last.Device+": "))
		}
		manifests := map[string]bundle.Digest{}
		for _, x := range receipts {
			version, since := x.From, x.Begun
			done := x.Status == receipt.Completed
			if done {
				version, since = x.To, ended(x)
			}
			if version != "" && version != d.Version {
				d.Version, d.Since, d.Signer = cli.OneLine(version), since, ""
				d.Versions = append(d.Versions, fleetVersion{Version: d.Version, Since: since})
			}
			if done {
				d.Signer, manifests[version] = cli.OneLine(x.Signer), x.Manifest
			}
			if len(d.Versions) > 0 {
				d.Versions[len(d.Versions)-1].manifest = manifests[version]
			}
		}
		chain.compare(&d)
		r.Devices = append(r.Devices, d)
	}
	slices.SortFunc(r.Devices, func(x, y fleetDevice) int {
		return cmp.Or(cmp.Compare(x.App, y.App), cmp.Compare(x.Site, y.Site), cmp.Compare(x.Device, y.Device), cmp.Compare(x.Key, y.Key))
	})
	for i := 1; i < len(r.Devices); i++ { // a name is not a device, a key is
		x, y := &r.Devices[i-1], &r.Devices[i]
		if x.App == y.App && x.Site == y.Site && x.Device == y.Device {
			y.Problem = cmp.Or(y.Problem, "another key writes under this name: "+x.Key)
		}
	}
	return r
}

func ended(r receipt.Receipt) time.Time {
	if r.Ended.IsZero() {
		return r.Begun
	}
	return r.Ended
}

func (r fleetReport) text(w io.Writer) {
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "APP\tSITE\tDEVICE\tVERSION\tSINCE\tLAST SEEN\tRECEIPTS\tPROBLEM")
	for _, d := range r.Devices {
		fmt.Fprintln(t, strings.Join([]string{d.App, cmp.Or(d.Site, "-"), d.Device, cmp.Or(d.Version, "-"), day(d.Since), day(d.Seen), strconv.Itoa(d.Receipts), cmp.Or(d.Problem, "-")}, "\t"))
	}
	t.Flush()
	for _, f := range r.Refused {
		fmt.Fprintln(w, "refused:", f)
	}
	for _, n := range r.counts() {
		fmt.Fprintf(w, "%s %s: %d of %d\n", n.App, cmp.Or(n.Version, "none"), n.Devices, n.Of)
	}
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.DateOnly)
}

type fleetCount struct {
	App, Version string
	Devices, Of  int
}

// counts are how many devices run each version of each app, most first.
func (r fleetReport) counts() (counts []fleetCount) {
	of := map[string]int{}
	n := map[[2]string]int{}
	for _, d := range r.Devices {
		of[d.App]++
		n[[2]string{d.App, d.Version}]++
	}
	for k, devices := range n {
		counts = append(counts, fleetCount{k[0], k[1], devices, of[k[0]]})
	}
	slices.SortFunc(counts, func(x, y fleetCount) int {
		return cmp.Or(cmp.Compare(x.App, y.App), cmp.Compare(y.Devices, x.Devices), cmp.Compare(x.Version, y.Version))
	})
	return counts
}

func (r fleetReport) csv(w io.Writer) error {
	rows := [][]string{{"app", "site", "device", "version", "since", "last_seen", "signer", "receipts", "key", "problem"}}
	for _, d := range r.Devices {
		rows = append(rows, []string{d.App, d.Site, d.Device, d.Version, stamp(d.Since), stamp(d.Seen), d.Signer, strconv.Itoa(d.Receipts), d.Key, d.Problem})
	}
	return writeCSV(w, rows)
}

// writeCSV is for spreadsheets, which take a cell that begins like a formula for one.
func writeCSV(w io.Writer, rows [][]string) error {
	for _, row := range rows {
		for i, cell := range row {
			if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
				row[i] = "'" + cell
			}
		}
	}
	return csv.NewWriter(w).WriteAll(rows)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

//go:embed fleet.html
var fleetPage string

// html is one page: the table, and for each device a bar of the versions that it ran.
func (r fleetReport) html(w io.Writer) error {
	var first, last time.Time
	colours := map[string]int{}
	for _, d := range r.Devices {
		for _, v := range d.Versions {
			if first.IsZero() || v.Since.Before(first) {
				first = v.Since
			}
			if _, ok := colours[v.Version]; !ok {
				colours[v.Version] = len(colours)
			}
		}
		if d.Seen.After(last) {
			last = d.Seen
		}
	}
	width := last.Sub(first).Seconds()
	type bar struct {
		Version, Since string
		X, Width       float64 // of 1000
		Hue            int
	}
	bars := func(d fleetDevice) (bars []bar) {
		at := func(t time.Time) float64 {
			if width <= 0 {
				return 1000
			}
			return min(max(1000*t.Sub(first).Seconds()/width, 0), 1000)
		}
		for i, v := range d.Versions {
			end := at(d.Seen)
			if i+1 < len(d.Versions) {
				end = at(d.Versions[i+1].Since)
			}
			bars = append(bars, bar{v.Version, stamp(v.Since), at(v.Since), max(end-at(v.Since), 3), colours[v.Version] * 137 % 360})
		}
		return bars
	}
	t, err := template.New("fleet").Funcs(template.FuncMap{"day": day, "bars": bars, "or": func(s string) string { return cmp.Or(s, "-") }}).Parse(fleetPage)
	if err != nil {
		return err
	}
	return t.Execute(w, map[string]any{"Report": r, "Counts": r.counts(), "First": day(first), "Last": day(last)})
}
