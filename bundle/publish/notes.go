package publish

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// maxCommits is how many commits are named when there is no changelog.
const maxCommits = 50

// Facts are what release notes are made of, beside the manifest.
type Facts struct {
	Signer      bundle.Signer
	SignedBy    string   // the signer, for people
	Key         string   // file name of the signer's key in the release, when it is a key
	TrustedRoot string   // file name of the trusted root in the release, when it is a private Sigstore's
	Download    string   // URL that file names of the release are put behind
	Bundles     []string // file names
	Parts       int      // of the first one, 0 when it is one file
	Thin        []Thin
	Previous    string   // version before this one, "" for the first
	Commits     []string // since Previous, used when the manifest has no changelog
}

// Thin is a bundle for devices that run an older release.
type Thin struct {
	Name string
	From string // version
	Size string
}

// Notes writes the notes of a release in Markdown: what is new, and the commands
// that check and install it.
func Notes(m *bundle.Manifest, f Facts) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	switch {
	case m.Changelog != "":
		line("%s", m.Changelog)
	case len(f.Commits) > 0:
		line("Changes since %s:\n", f.Previous)
		for i, title := range f.Commits {
			if i == maxCommits {
				line("- and %d more", len(f.Commits)-i)
				break
			}
			line("- %s", plain(title))
		}
	case f.Previous == "":
		line("First release.")
	}
	name := f.Bundles[0]
	if len(f.Bundles) > 1 {
		line("\nThere is a bundle for each platform: %s. The commands below show the first.", code(f.Bundles))
	}
	line("\n## Check it\n\nOn any machine, also without a network:\n\n```sh")
	if f.Parts > 0 {
		line("curl -fLO %s", quote(fmt.Sprintf("%s%s.[001-%03d]", f.Download, name, f.Parts)))
	} else {
		line("curl -fLO %s", quote(f.Download+name))
	}
	line("valise verify %s%s", name, f.trust(f.Signer.Identity, ""))
	line("```\n\nIt is signed by %s.", inline(f.SignedBy))
	needs, env := "Docker Engine 20.10 or newer, Docker Compose 2.10.2 or newer", "/opt/"+m.App+"/.env"
	if m.Kind == bundle.KindTree {
		needs, env = "Linux with systemd", m.Device.Tree.EnvFile
	}
	line("\n## Install it\n\nOn the device, as root, with the file on it (%s, no network):\n\n```sh", needs)
	line("%s\n```", Install(m, f))
	if missing := unset(m); len(missing) > 0 {
		line("\nIt asks for values of %s in `%s` and changes nothing before they are there.", code(missing), env)
	}
	line("\nWhere an older release runs, with the file, or from here over the network:\n\n```sh\nvalise-installer update %s\n%s-update v%s\n```", name, m.App, m.Version)
	if len(m.Device.Backup) > 0 {
		line("\nThe data are saved first. If the release is not healthy, the one before runs again.")
	}
	if len(f.Thin) > 0 {
		line("\nSmaller files, for devices that run the release named in the second column. They carry the same signature.\n\n| file | only for devices on | size |\n|---|---|---|")
		for _, t := range f.Thin {
			line("| `%s` | %s | %s |", t.Name, t.From, t.Size)
		}
	}
	return b.String()
}

// Install is the command lines of a first installation from the first bundle, which
// begin with nothing but that: its script runs only when it is the one of the release,
// and starts only an installer that it knows.
func Install(m *bundle.Manifest, f Facts) string {
	name, trust := f.Bundles[0], f.trust("", lasting(f.Signer.Identity, m.Version))
	i := slices.IndexFunc(m.Files, func(file bundle.File) bool { return file.Path == "install.sh" })
	if i < 0 {
		return "valise-installer install " + name + trust
	}
	tar := "tar xO"
	switch {
	case strings.HasSuffix(name, bundle.Gzip.Suffix()):
		tar = "tar xzO"
	case strings.HasSuffix(name, bundle.Zstd.Suffix()):
		tar = "tar --zstd -xO"
	}
	if f.Parts > 0 {
		tar = "cat " + name + ".[0-9]* | " + tar
	} else {
		tar += "f " + name
	}
	return fmt.Sprintf("%s %s > install.sh\necho \"%s  install.sh\" | sha256sum -c && sh install.sh %s%s", tar, path.Join(m.Prefix, "install.sh"), m.Files[i].Digest.Hex(), name, trust)
}

// unset are the required keys that nobody generates.
func unset(m *bundle.Manifest) []string {
	return slices.DeleteFunc(slices.Clone(m.Device.RequiredEnv), func(key string) bool {
		_, made := m.Device.Secrets[key]
		return made || key == m.Device.VersionEnv
	})
}

// trust is the flags that name the signer: by key, or by what is given of
// identity and regexp.
func (f Facts) trust(identity, expression string) string {
	if f.Signer.Key != "" {
		return " --key " + quote(f.Key)
	}
	flags := " --identity " + quote(identity)
	if expression != "" {
		flags = " --identity-regexp " + quote(expression)
	}
	if f.Signer.Issuer != "" && f.Signer.Issuer != "https://token.actions.githubusercontent.com" {
		flags += " --issuer " + quote(f.Signer.Issuer)
	}
	if f.TrustedRoot != "" {
		flags += " --trusted-root " + quote(f.TrustedRoot)
	}
	return flags
}

// lasting is the expression for an identity that its next releases match too:
// the tag is part of an identity of a workflow.
func lasting(identity, version string) string {
	workflow, tag, _ := strings.Cut(identity, "@refs/tags/")
	switch prefix, of, ok := bundle.SplitTag(tag); {
	case !ok || of != version:
		return regexp.QuoteMeta(identity)
	case prefix == "":
		return regexp.QuoteMeta(workflow+"@refs/tags/") + "[0-9].+"
	default:
		return regexp.QuoteMeta(workflow+"@refs/tags/"+prefix) + ".+"
	}
}

var plainWord = lazyregexp.New(`^[A-Za-z0-9_./:@%+=,-]+$`)

// quote writes a word so that a shell takes it as it is: people copy these lines,
// and a branch may be called $(reboot).
func quote(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

var special = lazyregexp.New("[\\\\`*_{}\\[\\]<>#|~!&]")

// plain writes text that is not ours so that Markdown takes it as it is, and
// nobody is notified.
func plain(s string) string {
	s = special.ReplaceAllString(strings.Join(strings.Fields(s), " "), `\$0`)
	return strings.ReplaceAll(s, "@", "@<!-- -->")
}

// inline writes text as code.
func inline(s string) string {
	return "`` " + strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "``", "''") + " ``"
}

func code(words []string) string {
	var all []string
	for _, w := range words {
		all = append(all, "`"+w+"`")
	}
	return strings.Join(all, ", ")
}
