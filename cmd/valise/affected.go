package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/bundle/sbom"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// maxAffectedBundles bounds the bundles that are looked into.
const maxAffectedBundles = 10_000

func affectedCommand(a *app) *cobra.Command {
	var receipts, bundles []string
	var vulnerability string
	c := &cobra.Command{
		Use:   "affected QUERY --receipts PLACE... --bundles DIR...",
		Short: "Show which devices run a package",
		Long: "affected combines the receipts of devices (see fleet report) with the SBOMs of releases\n" +
			"(build --sbom). It shows which devices run a package, since when, and which release fixes\n" +
			"it. A release is identified by the digest of its manifest, which the device signed after it\n" +
			"had verified the release.\n\n" +
			"QUERY is NAME, NAME<VERSION or NAME>=VERSION,<VERSION; the operators are < <= = >= >. NAME\n" +
			"is the name of a package, the source package that a distribution built it from (openssl for\n" +
			"libssl3), or a package URL for one type (pkg:deb/openssl). Versions are compared by the\n" +
			"rules of the package type; epoch and revision of a distribution count only if QUERY has\n" +
			"them.\n\n" +
			"OpenVEX statements of the release are shown beside each result. The exit code is 1 if a\n" +
			"device cannot be judged, and 4 if receipts cannot be trusted.",
		Example: "  valise affected 'openssl<3.0.22' --receipts sticks --bundles dist\n" +
			"  valise affected 'pkg:golang/golang.org/x/net<0.38.0' --receipts sticks --bundles dist --vulnerability CVE-2025-22872 --output csv",
		Annotations: map[string]string{cli.Forms: "csv"},
		Args:        cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(receipts) == 0 || len(bundles) == 0 {
				return cli.Usagef("affected needs --receipts and --bundles")
			}
			return a.affected(cmd.Context(), args[0], receipts, bundles, vulnerability)
		},
	}
	c.Flags().StringArrayVar(&receipts, "receipts", nil, "read receipts from `PLACE`, as fleet report does: [SITE=]DIR, FILE or URL (repeatable)")
	c.Flags().StringArrayVar(&bundles, "bundles", nil, "find the releases in `DIR`, at any depth (repeatable)")
	c.Flags().StringVar(&vulnerability, "vulnerability", "", "show only statements about `ID`, including those about a whole release")
	return c
}

// affectedReport is which devices run what a query asks for.
type affectedReport struct {
	Query   string           `json:"query"`
	Of      int              `json:"of"` // devices that run any release
	Devices []affectedDevice `json:"devices"`
	// Refused are receipts and bundles that are none, and documents that cannot be read.
	Refused []string `json:"refused,omitempty"`
}

// affectedDevice is one app on one device.
type affectedDevice struct {
	Site       string           `json:"site,omitempty"`
	Device     string           `json:"device"`
	App        string           `json:"app"`
	Version    string           `json:"version"`
	Status     string           `json:"status"`         // affected, unknown
	Since      time.Time        `json:"since,omitzero"` // it runs releases with it, without a break
	Seen       time.Time        `json:"last_seen"`
	Key        string           `json:"key"`
	Packages   []foundPackage   `json:"packages,omitempty"`
	Fixed      string           `json:"fixed_by,omitempty"` // the next version without it
	Statements []sbom.Statement `json:"statements,omitempty"`
	Reason     string           `json:"reason,omitempty"` // why it is unknown
}

// foundPackage is a package in some images of a release, or in its file tree.
type foundPackage struct {
	Name     string   `json:"name"`
	Version  string   `json:"version,omitempty"`
	PURL     string   `json:"purl,omitempty"`
	Services []string `json:"services,omitempty"`
}

func (a *app) affected(ctx context.Context, query string, receipts, dirs []string, vulnerability string) error {
	q, err := sbom.ParseQuery(query)
	if err != nil {
		return cli.Usagef("%v", err)
	}
	fleet, err := readFleet(ctx, receipts, nil)
	if err != nil {
		return fmt.Errorf("read receipts: %w", err)
	}
	s := shelf{query: q, vulnerability: vulnerability}
	for _, dir := range dirs {
		if err := s.add(ctx, dir); err != nil {
			return fmt.Errorf("read bundles: %w", err)
		}
	}
	if len(s.releases)+len(s.refused) == 0 {
		return fmt.Errorf("read bundles: no bundle in %s", strings.Join(dirs, ", "))
	}
	r := affectedReport{Query: query, Devices: []affectedDevice{}, Refused: append(fleet.Refused, s.refused...)}
	unknown := len(s.refused)
	for _, d := range fleet.Devices {
		if d.Version == "" {
			continue
		}
		r.Of++
		if next, ok := s.judge(d); ok {
			r.Devices = append(r.Devices, next)
			if next.Status != affected {
				unknown++
			}
		}
	}
	if a.Output() == "csv" {
		err = r.csv(a.Stdout)
	} else {
		err = a.Result(r, r.text)
	}
	if err == nil {
		err = fleet.trusted()
	}
	if err == nil && unknown > 0 {
		err = fmt.Errorf("the answer is not complete in %d places", unknown)
	}
	return err
}

const affected = "affected"

// release is what the documents of a bundle say about the query.
type release struct {
	app, version string
	manifest     bundle.Digest
	found        []foundPackage
	statements   []sbom.Statement
	unknown      string // why the answer is not complete
}

func (r release) clean() bool { return len(r.found) == 0 && r.unknown == "" }

// shelf is where the releases are.
type shelf struct {
	query         sbom.Query
	vulnerability string
	releases      []release
	refused       []string
	visited       int
}

// add reads all bundles below a directory. No link is followed.
func (s *shelf) add(ctx context.Context, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.visited++; s.visited > maxFleetFiles {
			return fmt.Errorf("more than %d files", maxFleetFiles)
		}
		name, n := parts.Split(path)
		if n > 1 || !d.Type().IsRegular() || !parts.NamesBundle(name) {
			return nil
		}
		if len(s.releases) == maxAffectedBundles {
			return fmt.Errorf("more than %d bundles", maxAffectedBundles)
		}
		r, err := s.read(ctx, path)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			s.refused = append(s.refused, cli.OneLine(fmt.Sprintf("%s: %v", path, err)))
		} else {
			s.releases = append(s.releases, r)
		}
		return nil
	})
}

// read asks the documents of a bundle. Their digests are in the manifest.
func (s *shelf) read(ctx context.Context, path string) (release, error) {
	b, f, err := parts.OpenBundle(path)
	if err != nil {
		return release{}, err
	}
	defer f.Close()
	if err := locate(ctx, b); err != nil {
		return release{}, err
	}
	m := b.Manifest()
	r := release{app: m.App, version: m.Version, manifest: bundle.DigestOf(b.ManifestBytes())}
	var statements []sbom.Statement
	documents := map[string][]sbom.Package{}
	for _, file := range m.Files {
		vex := sbom.IsOpenVEX(file.Path)
		if !vex && !strings.HasSuffix(file.Path, sbom.SuffixSPDX) && !strings.HasSuffix(file.Path, sbom.SuffixCycloneDX) {
			continue
		}
		content, err := readFile(b, file)
		if err != nil {
			return release{}, err
		}
		if vex {
			list, err := sbom.ReadOpenVEX(content)
			if err != nil { // a bundle may be full of files of such names
				s.refused = append(s.refused, cli.OneLine(fmt.Sprintf("%s: %s: %v", path, file.Path, err)))
			}
			statements = append(statements, list...)
			continue
		}
		list, err := sbom.Read(content)
		if err != nil {
			return release{}, fmt.Errorf("%s: %w", file.Path, err)
		}
		documents[file.Path] = list
	}
	for _, c := range m.Components {
		for _, p := range m.Platforms {
			prefix := sbom.Dir + c.Services[0] + "-" + p.Dashed()
			_, spdx := documents[prefix+sbom.SuffixSPDX]
			_, cyclone := documents[prefix+sbom.SuffixCycloneDX]
			if !spdx && !cyclone {
				r.unknown = fmt.Sprintf("release %s has no SBOM of %s for %s", m.Version, c.Services[0], p)
			}
			r.ask(s, documents[prefix+sbom.SuffixSPDX], statements, c.Services)
			r.ask(s, documents[prefix+sbom.SuffixCycloneDX], statements, c.Services)
			delete(documents, prefix+sbom.SuffixSPDX)
			delete(documents, prefix+sbom.SuffixCycloneDX)
		}
	}
	if len(m.Components) == 0 && len(documents) == 0 {
		r.unknown = fmt.Sprintf("release %s has no SBOM", m.Version)
	}
	for _, list := range documents { // what a file tree carries, and what a project adds by hand
		r.ask(s, list, statements, nil)
	}
	slices.SortFunc(r.found, func(x, y foundPackage) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Version, y.Version), cmp.Compare(x.PURL, y.PURL))
	})
	if len(r.found) > 0 && s.vulnerability != "" {
		for _, v := range statements {
			if v.Whole() {
				r.say(s, v)
			}
		}
	}
	return r, nil
}

// ask adds those packages of a list that the query asks for.
func (r *release) ask(s *shelf, list []sbom.Package, statements []sbom.Statement, services []string) {
	for _, p := range list {
		switch s.query.Ask(p) {
		case sbom.Unknown:
			r.unknown = cli.OneLine(fmt.Sprintf("release %s has %s of a version that cannot be compared: %.40q", r.version, p.Name, p.Version))
		case sbom.Yes:
			// The platforms of an image differ in the qualifiers.
			purl, _, _ := strings.Cut(p.PURL, "?")
			next := foundPackage{cli.OneLine(p.Name), cli.OneLine(p.Version), cli.OneLine(purl), services}
			same := func(x foundPackage) bool {
				return x.Name == next.Name && x.Version == next.Version && x.PURL == next.PURL
			}
			if i := slices.IndexFunc(r.found, same); i < 0 {
				r.found = append(r.found, next)
			} else {
				for _, service := range services {
					if !slices.Contains(r.found[i].Services, service) {
						r.found[i].Services = append(slices.Clone(r.found[i].Services), service)
					}
				}
			}
			for _, v := range statements {
				if v.About(p) {
					r.say(s, v)
				}
			}
		}
	}
}

// say adds a statement that was asked for, once.
func (r *release) say(s *shelf, v sbom.Statement) {
	if s.vulnerability != "" && !v.Is(s.vulnerability) {
		return
	}
	for _, text := range []*string{&v.Vulnerability, &v.Status, &v.Justification, &v.Impact, &v.Action} {
		*text = cli.OneLine(*text)
	}
	if !slices.ContainsFunc(r.statements, func(x sbom.Statement) bool { return x.Text() == v.Text() }) {
		r.statements = append(r.statements, v)
	}
}

// find returns the release of a version that a device ran: by the manifest, or, when no
// receipt has that, by the version.
func (s *shelf) find(app string, v fleetVersion) (release, error) {
	var same []release
	for _, r := range s.releases {
		if r.app != app || v.manifest == "" && r.version != v.Version || v.manifest != "" && r.manifest != v.manifest {
			continue
		}
		same = append(same, r)
	}
	for _, r := range same[min(1, len(same)):] {
		if r.manifest != same[0].manifest {
			return release{}, fmt.Errorf("no receipt says which of the bundles of %s it runs", v.Version)
		}
	}
	if len(same) == 0 {
		return release{}, fmt.Errorf("no bundle of release %s (manifest %.19s) is there", v.Version, cmp.Or(v.manifest, "unknown"))
	}
	return same[0], nil
}

// judge returns false for a device that does not run what is asked for.
func (s *shelf) judge(d fleetDevice) (affectedDevice, bool) {
	next := affectedDevice{Site: d.Site, Device: d.Device, App: d.App, Version: d.Version, Status: affected, Seen: d.Seen, Key: d.Key}
	last := len(d.Versions) - 1
	r, err := s.find(d.App, d.Versions[last])
	if err == nil && d.Problem != "" && len(r.found) == 0 {
		err = errors.New(d.Problem)
	}
	if err == nil && len(r.found) == 0 && r.unknown != "" {
		err = errors.New(r.unknown)
	}
	if err != nil {
		next.Status, next.Reason = "unknown", cli.OneLine(err.Error())
		return next, true
	}
	if len(r.found) == 0 {
		return next, false
	}
	next.Packages, next.Statements, next.Fixed = r.found, r.statements, s.fixedBy(r)
	for i := last; i >= 0; i-- {
		if i < last {
			if r, err = s.find(d.App, d.Versions[i]); err != nil || len(r.found) == 0 {
				break
			}
		}
		next.Since = d.Versions[i].Since
	}
	return next, true
}

// fixedBy is the lowest version above r, none before a release itself, that is without
// what is asked for in all its bundles.
func (s *shelf) fixedBy(r release) string {
	running, err := bundle.ParseVersion(r.version)
	if err != nil {
		return ""
	}
	var lowest *semver.Version
	for _, candidate := range s.releases {
		v, err := bundle.ParseVersion(candidate.version)
		if err != nil || candidate.app != r.app || !v.GreaterThan(running) || v.Prerelease() != "" || lowest != nil && !v.LessThan(lowest) {
			continue
		}
		if !slices.ContainsFunc(s.releases, func(x release) bool { return x.app == r.app && x.version == candidate.version && !x.clean() }) {
			lowest = v
		}
	}
	if lowest == nil {
		return ""
	}
	return lowest.String()
}

func (p foundPackage) String() string {
	s := strings.TrimSpace(p.Name + " " + p.Version)
	if len(p.Services) > 0 {
		s += " (" + strings.Join(p.Services, ", ") + ")"
	}
	return s
}

// cells are what text and CSV show of a device.
func (d affectedDevice) cells() (packages, statements string) {
	var p, v []string
	for _, x := range d.Packages {
		p = append(p, x.String())
	}
	for _, x := range d.Statements {
		v = append(v, x.Text())
	}
	return strings.Join(p, "; "), strings.Join(v, "; ")
}

func (r affectedReport) text(w io.Writer) {
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	if len(r.Devices) > 0 {
		fmt.Fprintln(t, "APP\tSITE\tDEVICE\tVERSION\tSINCE\tLAST SEEN\tFIXED BY\tPACKAGES\tSTATEMENTS")
	}
	n := 0
	for _, d := range r.Devices {
		packages, statements := d.cells()
		if d.Status == affected {
			n++
		} else {
			packages = "unknown: " + d.Reason
		}
		fmt.Fprintln(t, strings.Join([]string{d.App, cmp.Or(d.Site, "-"), d.Device, d.Version, day(d.Since), day(d.Seen), cmp.Or(d.Fixed, "-"), packages, cmp.Or(statements, "-")}, "\t"))
	}
	t.Flush()
	for _, f := range r.Refused {
		fmt.Fprintln(w, "refused:", f)
	}
	fmt.Fprintf(w, "%s: %d of %d run it, %d unknown\n", r.Query, n, r.Of, len(r.Devices)-n)
}

func (r affectedReport) csv(w io.Writer) error {
	rows := [][]string{{"app", "site", "device", "version", "status", "since", "last_seen", "key", "fixed_by", "packages", "statements", "reason"}}
	for _, d := range r.Devices {
		packages, statements := d.cells()
		rows = append(rows, []string{d.App, d.Site, d.Device, d.Version, d.Status, stamp(d.Since), stamp(d.Seen), d.Key, d.Fixed, packages, statements, d.Reason})
	}
	return writeCSV(w, rows)
}
