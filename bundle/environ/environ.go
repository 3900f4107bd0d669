// Package environ reads and edits environment files, and makes of one what
// a release needs (Next). A file is parsed, never run by a shell, and it means what
// the program makes of it that reads it: docker compose, whose own parser this uses,
// or systemd.
//
// One thing differs from compose on purpose: here ${KEY} in a value sees the file alone,
// while compose also looks at its own environment. Files that do not refer to
// the environment mean the same to both.
//
// The file belongs to the administrator. Set changes the one value and keeps
// comments, order, unknown keys and line ends. Writing Bytes back, durably and
// with mode 0600, is for the caller.
package environ

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Grammar is how a program reads environment files: Compose or Systemd.
type Grammar struct {
	parse func(data []byte, lookup dotenv.LookupFn) (map[string]string, error)
	scan  func(data []byte) []statement // of a file that parse accepts
	quote func(value string) []string   // ways to write a value, best first
}

// Compose is the grammar of docker compose: its .env, and env_file of services.
var Compose = &Grammar{parse: parse, scan: scan, quote: quote}

// GrammarOf is that of the environment file of apps of a kind.
func GrammarOf(kind string) *Grammar {
	if kind == bundle.KindTree {
		return Systemd
	}
	return Compose
}

// File is an environment file. It belongs to one goroutine.
type File struct {
	name    string // for people
	data    []byte
	values  map[string]string
	grammar *Grammar
}

// Load reads a file. A missing one is empty.
func (g *Grammar) Load(path string) (*File, error) {
	data, err := os.ReadFile(path)
	return g.Loaded(path, data, err)
}

// Loaded is Load of a file that was read, or could not be.
func (g *Grammar) Loaded(path string, data []byte, err error) (*File, error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load environment file: %w", err)
	}
	f, err := g.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("load environment file %s: %w", path, err)
	}
	f.name = path
	return f, nil
}

// Parse reads the content of a file.
func (g *Grammar) Parse(data []byte) (*File, error) {
	values, err := g.parse(data, nil)
	if err != nil {
		return nil, err
	}
	return &File{name: "the environment file", data: bytes.Clone(data), values: values, grammar: g}, nil
}

// parse leaves out the empty key, which the parser makes of some lines without
// a "=". Its errors quote the line they are about, and with it perhaps a
// secret; only the number of the line is kept.
func parse(data []byte, lookup dotenv.LookupFn) (map[string]string, error) {
	values, err := dotenv.ParseWithLookup(bytes.NewReader(data), lookup)
	if err != nil {
		if line := lineNumber.FindString(err.Error()); line != "" {
			return nil, fmt.Errorf("parse: %s is not KEY=value, or its quotes do not end", line)
		}
		return nil, errors.New("parse: a value refers to another one in an unknown form, or requires one that is missing")
	}
	delete(values, "")
	return values, nil
}

var lineNumber = lazyregexp.New(`^line \d+`)

// Bytes is the content as it is now.
func (f *File) Bytes() []byte { return bytes.Clone(f.data) }

// Lookup returns the value of key, and whether it is set at all. Of a key that
// is there twice, the last one counts.
func (f *File) Lookup(key string) (string, bool) {
	v, ok := f.values[key]
	return v, ok
}

// Keys returns the keys that are set, in the order of the file.
func (f *File) Keys() []string {
	var keys []string
	for _, st := range f.grammar.scan(f.data) {
		if _, ok := f.values[st.key]; ok && !slices.Contains(keys, st.key) {
			keys = append(keys, st.key)
		}
	}
	return keys
}

// Missing returns those of required that are unset or empty.
func (f *File) Missing(required []string) []string {
	var missing []string
	for _, key := range required {
		if f.values[key] == "" {
			missing = append(missing, key)
		}
	}
	return missing
}

// Set gives key a value, in its place or else at the end. It fails, and changes
// nothing, when it cannot prove that the file then reads back as that value and
// every other key as before, except where it refers to key.
func (f *File) Set(key, value string) error {
	if !bundle.ValidEnvKey(key) {
		return fmt.Errorf("set %q: it cannot be a key", key)
	}
	if strings.ContainsRune(value, 0) {
		return fmt.Errorf("set %s: the value holds a zero byte", key)
	}
	for _, quoted := range f.grammar.quote(value) {
		data := f.edit(key, quoted)
		values, err := f.grammar.parse(data, nil)
		if got, ok := values[key]; err != nil || !ok || got != value || !f.grammar.sameOthers(f.data, data, key) {
			continue
		}
		f.data, f.values = data, values
		return nil
	}
	return fmt.Errorf("set %s: the file cannot express this value", key)
}

// edit returns the file with key=quoted.
func (f *File) edit(key, quoted string) []byte {
	statements := f.grammar.scan(f.data)
	for i := len(statements) - 1; i >= 0; i-- {
		if st := statements[i]; st.key == key {
			if st.inherited {
				quoted = "=" + quoted
			}
			return slices.Concat(f.data[:st.start], []byte(quoted), f.data[st.end:])
		}
	}
	end := "\n"
	if bytes.Contains(f.data, []byte("\r\n")) {
		end = "\r\n"
	}
	data := bytes.Clone(f.data)
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data, end...)
	}
	return append(data, key+"="+quoted+end...)
}

// sameOthers reports whether every key but one means the same in both files. A
// reference to any key is replaced by the same text in both, so that a value
// that refers to the changed one still counts as the same.
func (g *Grammar) sameOthers(before, after []byte, except string) bool {
	same := func(key string) (string, bool) { return "<" + key + ">", true }
	a, errA := g.parse(before, same)
	b, errB := g.parse(after, same)
	if errA != nil || errB != nil {
		return false
	}
	delete(a, except)
	delete(b, except)
	if len(a) != len(b) {
		return false
	}
	for key, v := range a {
		if w, ok := b[key]; !ok || v != w {
			return false
		}
	}
	return true
}

var plainValue = lazyregexp.New(`^[0-9A-Za-z][0-9A-Za-z._-]*$`)

// quote returns the ways to write a value, best first. A plain one stays bare,
// for scripts that read the file with grep. In single quotes nothing is
// replaced, but a backslash before the end or before a quote cannot be written;
// that is what double quotes are for.
func quote(value string) []string {
	double := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `$$`)
	ways := []string{
		`'` + strings.ReplaceAll(value, `'`, `\'`) + `'`,
		`"` + double.Replace(value) + `"`,
	}
	if plainValue.MatchString(value) {
		ways = slices.Insert(ways, 0, value)
	}
	return ways
}

// passwordChars are those that nobody takes for another one; 57 of them.
const passwordChars = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"

// Generate makes the value of a secret with random bytes from rand. On an error
// there is no value.
func Generate(secret bundle.Secret, rand io.Reader) (string, error) {
	if err := secret.Check(); err != nil {
		return "", fmt.Errorf("generate secret: %w", err)
	}
	b := make([]byte, secret.Hex+secret.Base64+secret.Password) // two of them are zero
	if _, err := io.ReadFull(rand, b); err != nil {
		return "", fmt.Errorf("generate secret: %w", err)
	}
	switch {
	case secret.Base64 > 0:
		return secret.Prefix + base64.StdEncoding.EncodeToString(b), nil
	case secret.Password > 0:
		if err := pick(b, rand); err != nil {
			return "", fmt.Errorf("generate secret: %w", err)
		}
		return secret.Prefix + string(b), nil
	}
	return secret.Prefix + hex.EncodeToString(b), nil
}

// pick replaces random bytes by passwordChars, each as likely as the others: bytes
// beyond the last whole multiple of their number are drawn again.
func pick(b []byte, rand io.Reader) error {
	const n = len(passwordChars)
	for i := range b {
		for int(b[i]) >= 256/n*n {
			if _, err := io.ReadFull(rand, b[i:i+1]); err != nil {
				return err
			}
		}
		b[i] = passwordChars[int(b[i])%n]
	}
	return nil
}

var reference = lazyregexp.New(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^${}]*))?\}`)

// Expand replaces ${KEY} and ${KEY:-default} in s, which comes from a manifest,
// by values of the file. The default is for a key that is unset or empty;
// without one, a key that is unset is an error, as is every other use of "$".
func (f *File) Expand(s string) (string, error) {
	if rest := reference.ReplaceAllString(s, ""); strings.Contains(rest, "$") {
		return "", fmt.Errorf("expand %q: want only ${KEY} and ${KEY:-default}", s)
	}
	var unset []string
	out := reference.ReplaceAllStringFunc(s, func(ref string) string {
		m := reference.FindStringSubmatch(ref)
		v, ok := f.values[m[1]]
		switch {
		case m[2] != "" && v == "":
			return m[3]
		case !ok:
			unset = append(unset, m[1])
		}
		return v
	})
	if unset != nil {
		return "", fmt.Errorf("expand %q: the environment file does not set %s", s, strings.Join(unset, ", "))
	}
	return out, nil
}

var templateReference = lazyregexp.New(`\$?` + reference.String())

var atReference = lazyregexp.New(`@@([A-Za-z_][A-Za-z0-9_]*)@@`)

// Render replaces ${KEY} and ${KEY:-default} in the text of a configuration file
// by values of the file or, first, of more. Every other $ stays; $${ stands for
// ${. In a text that has @@KEY@@ that is replaced, and $ means nothing. A key that is
// unset and has no default is an error.
func (f *File) Render(text string, more map[string]string) (string, error) {
	var unset []string
	if atReference.MatchString(text) {
		out := atReference.ReplaceAllStringFunc(text, func(ref string) string {
			key := strings.Trim(ref, "@")
			v, ok := more[key]
			if !ok {
				v, ok = f.values[key]
			}
			if !ok {
				unset = append(unset, key)
			}
			return v
		})
		return out, notSet(unset)
	}
	if rest := templateReference.ReplaceAllString(text, ""); strings.Contains(strings.ReplaceAll(rest, "$${", ""), "${") {
		return "", errors.New("a ${ that is neither ${KEY} nor ${KEY:-default}: write $${ for one that is to stay")
	}
	out := templateReference.ReplaceAllStringFunc(text, func(ref string) string {
		if strings.HasPrefix(ref, "$$") {
			return ref[1:]
		}
		m := reference.FindStringSubmatch(ref)
		v, ok := more[m[1]]
		if !ok {
			v, ok = f.values[m[1]]
		}
		switch {
		case m[2] != "" && v == "":
			return m[3]
		case !ok:
			unset = append(unset, m[1])
		}
		return v
	})
	return out, notSet(unset)
}

// notSet names the keys that a text needs.
func notSet(keys []string) error {
	if keys == nil {
		return nil
	}
	return fmt.Errorf("the environment file does not set %s", strings.Join(keys, ", "))
}
