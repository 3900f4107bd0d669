package sbom

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/google/osv-scalibr/semantic"
	"github.com/package-url/packageurl-go"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Limits of what is compared: it comes from outside.
const (
	maxQuery          = 1 << 10 // bytes
	maxComparedLength = 256     // bytes of a version; the comparing takes more than linear time
)

// Query asks for packages by their name, or the name of the source that they were
// built from, and by their version.
type Query struct {
	kind   string // of a package URL: deb, npm; empty: any
	name   string
	bounds []bound // all of them hold
}

type bound struct{ operator, version string }

var queryName = lazyregexp.New(`^@?[0-9A-Za-z][0-9A-Za-z._+/:-]*$`)
var queryBound = lazyregexp.New(`^\s*(<=|>=|<|>|=)\s*([0-9A-Za-z][0-9A-Za-z.:~^+_!-]*)\s*$`)

// ParseQuery reads NAME, or NAME and bounds of versions: openssl>=3.0,<3.0.22. NAME may
// be a package URL without qualifiers, which asks for packages of one kind.
func ParseQuery(s string) (Query, error) {
	refuse := func(why string) (Query, error) {
		return Query{}, fmt.Errorf("query %.80q: %s, want NAME, NAME<VERSION or NAME>=VERSION,<VERSION", s, why)
	}
	if len(s) > maxQuery {
		return refuse("it is too long")
	}
	name, bounds := s, ""
	if i := strings.IndexAny(s, "<>="); i >= 0 {
		name, bounds = s[:i], s[i:]
	}
	q := Query{name: strings.TrimSpace(name)}
	if strings.HasPrefix(q.name, "pkg:") {
		u, err := packageurl.FromString(q.name)
		if err != nil || len(u.Qualifiers) > 0 || u.Version != "" || u.Subpath != "" {
			return refuse("want a package URL without version and qualifiers")
		}
		q.kind, q.name = kindOf(u.Type), u.Name
		if u.Namespace != "" && !isDistribution(q.kind) {
			q.name = u.Namespace + "/" + u.Name
		}
	}
	if !queryName.MatchString(q.name) {
		return refuse("no name of a package")
	}
	q.name = folded(q.name)
	if bounds == "" {
		return q, nil
	}
	for b := range strings.SplitSeq(bounds, ",") {
		m := queryBound.FindStringSubmatch(b)
		if m == nil || len(m[2]) > maxComparedLength {
			return refuse(fmt.Sprintf("%.40q is not a bound", b))
		}
		q.bounds = append(q.bounds, bound{m[1], m[2]})
	}
	return q, nil
}

// Answer is whether a package is one that a query asks for.
type Answer int

const (
	No      Answer = iota
	Unknown        // the name is right, the version cannot be compared
	Yes
)

// Ask compares a package of a document with q.
func (q Query) Ask(p Package) Answer {
	kind, names := p.names()
	if q.kind != "" && q.kind != kind {
		return No
	}
	version := p.Version
	if !slices.Contains(names, q.name) {
		if p.Source == "" || folded(p.Source) != q.name {
			return No
		}
		version = cmp.Or(p.SourceVersion, p.Version)
	}
	for _, b := range q.bounds {
		n, err := compare(kind, version, b.version)
		if err != nil {
			return Unknown
		}
		if holds := map[string]bool{"<": n < 0, "<=": n <= 0, "=": n == 0, ">=": n >= 0, ">": n > 0}; !holds[b.operator] {
			return No
		}
	}
	return Yes
}

// names are the kind of a package and all that it is called by, except by its source.
func (p Package) names() (kind string, names []string) {
	u, err := packageurl.FromString(p.PURL)
	if err != nil {
		return "", []string{folded(p.Name)}
	}
	kind = kindOf(u.Type)
	switch {
	case u.Namespace == "" || isDistribution(kind):
		names = []string{u.Name}
	case kind == packageurl.TypeMaven:
		names = []string{u.Name, u.Namespace + ":" + u.Name, u.Namespace + "/" + u.Name}
	default:
		names = []string{u.Namespace + "/" + u.Name}
	}
	for i := range names {
		names[i] = folded(names[i])
	}
	return kind, names
}

var separators = lazyregexp.New(`[-_.]+`)

// folded is a name as PyPI compares them. It does for other kinds.
func folded(name string) string {
	return separators.ReplaceAllString(strings.ToLower(name), "-")
}

func kindOf(purlType string) string {
	switch kind := strings.ToLower(purlType); kind {
	case "alpine":
		return packageurl.TypeApk
	case "opkg":
		return packageurl.TypeDebian
	default:
		return kind
	}
}

func isDistribution(kind string) bool {
	return kind == packageurl.TypeDebian || kind == packageurl.TypeApk || kind == packageurl.TypeRPM
}

// ecosystems are the rules of versions by the kind of a package URL.
var ecosystems = map[string]string{
	packageurl.TypeDebian: "Debian", packageurl.TypeApk: "Alpine", packageurl.TypeRPM: "Red Hat", "alpm": "Red Hat",
	packageurl.TypePyPi: "PyPI", packageurl.TypeMaven: "Maven", packageurl.TypeNuget: "NuGet", packageurl.TypeGem: "RubyGems",
	packageurl.TypeComposer: "Packagist", packageurl.TypeCran: "CRAN", packageurl.TypeHackage: "Hackage", "pub": "Pub",
}

var apkRelease = lazyregexp.New(`-r[0-9]+$`)

// compare compares a version with a bound, by the rules of the kind; others are
// compared as SemVer does. Epoch and revision of a distribution count when the bound
// has them: people who ask for <3.0.22 mean the version of those who wrote it.
func compare(kind, version, bound string) (int, error) {
	if version == "" || len(version) > maxComparedLength || !strings.ContainsAny(version, "0123456789") {
		return 0, fmt.Errorf("%w: %.40q", semantic.ErrInvalidVersion, version)
	}
	switch kind {
	case packageurl.TypeDebian, packageurl.TypeRPM, "alpm":
		if _, rest, ok := strings.Cut(version, ":"); ok && !strings.Contains(bound, ":") {
			version = rest
		}
		if i := strings.LastIndexByte(version, '-'); i > 0 && !strings.Contains(bound, "-") {
			version = version[:i]
		}
	case packageurl.TypeApk:
		if !apkRelease.MatchString(bound) {
			version = apkRelease.ReplaceAllString(version, "")
		}
	case packageurl.TypeGolang:
		version, bound = strings.TrimPrefix(version, "go"), strings.TrimPrefix(bound, "go")
	}
	ecosystem := cmp.Or(ecosystems[kind], "Go")
	v, err := semantic.Parse(version, ecosystem)
	if err != nil {
		return 0, err
	}
	return v.CompareStr(bound)
}
