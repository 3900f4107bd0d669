package environ

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// ExampleName is the file of a release that shows which keys there are. A key with a
// value there is optional, and that is its value on a new device.
const ExampleName = ".env.example"

// ReadExample reads that of a release; none is empty.
func ReadExample(open func(name string) (io.ReadCloser, error)) ([]byte, error) {
	rc, err := open(ExampleName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, bundle.MaxConfigFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", ExampleName, err)
	}
	return b, nil
}

// Begin makes the environment file of a new device from the example of release m: as
// it is, but without values where a device has one of its own (required keys and
// secrets, and where a comment stands in place of a value), and without what tells
// docker compose which files and which engine to take.
func (g *Grammar) Begin(example []byte, m *bundle.Manifest) (*File, error) {
	f, err := g.Parse(example)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ExampleName, err)
	}
	for _, key := range f.Keys() {
		if g == Compose && steersCompose(key) {
			f.disable(key)
			continue
		}
		_, secret := m.Device.Secrets[key]
		if value, _ := f.Lookup(key); value != "" && (secret || slices.Contains(m.Device.RequiredEnv, key) || f.Blank(key)) {
			if err := f.Set(key, ""); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// steersCompose reports whether a key is about docker compose, not about the app.
func steersCompose(key string) bool {
	return key != "COMPOSE_PROFILES" && strings.HasPrefix(key, "COMPOSE_") || slices.Contains([]string{"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"}, key)
}

// disable makes the lines that set key comments, where that changes nothing else.
func (f *File) disable(key string) {
	for _, st := range slices.Backward(f.grammar.scan(f.data)) {
		if st.key != key {
			continue
		}
		at := f.lineStart(st)
		data := slices.Concat(f.data[:at], []byte("# "), f.data[at:])
		if values, err := f.grammar.parse(data, nil); err == nil && f.grammar.sameOthers(f.data, data, key) {
			f.data, f.values = data, values
		}
	}
}

func (f *File) lineStart(st statement) int {
	return strings.LastIndexByte(string(f.data[:st.start]), '\n') + 1
}

// Blank reports whether a key that is there has nothing for a value: no text at all,
// empty quotes, or only a comment, which both grammars take for the value.
func (f *File) Blank(key string) bool {
	text := f.text(key)
	return strings.HasPrefix(text, " #") || strings.HasPrefix(text, "\t#") || strings.Trim(text, `"' `) == ""
}

// Refers reports whether the value of a key is made of those of others.
func (f *File) Refers(key string) bool {
	text := strings.TrimSpace(f.text(key))
	return f.grammar == Compose && strings.Contains(text, "$") && !strings.HasPrefix(text, "'")
}

// text is the value of a key as it is written, with the character before it.
func (f *File) text(key string) (text string) {
	for _, st := range f.grammar.scan(f.data) {
		if st.key == key && st.start > 0 {
			text = strings.TrimLeft(string(f.data[st.start-1:st.start]), "=:\n") + string(f.data[st.start:st.end])
		}
	}
	return text
}

var assignment = lazyregexp.New(`^\s*(export\s+)?[A-Za-z_][A-Za-z0-9_]*\s*=`)

// Hint is what stands beside a key: the comment right above it, or else the one above
// the keys before it in the same paragraph, and what stands behind its value.
func (f *File) Hint(key string) string {
	var all []string
	for _, st := range f.grammar.scan(f.data) {
		if st.key != key {
			continue
		}
		all = nil
		above := strings.Split(string(f.data[:f.lineStart(st)]), "\n")
		for _, line := range slices.Backward(above[:len(above)-1]) {
			text, comment := strings.CutPrefix(strings.TrimSpace(line), "#")
			if !comment && (text == "" || all != nil) {
				break
			}
			if text = strings.TrimLeft(text, "#"); comment && !assignment.MatchString(text) {
				all = append(all, strings.TrimSpace(text))
			}
		}
		slices.Reverse(all)
		end := lineEnd(string(f.data), st.start)
		if _, behind, ok := strings.Cut(string(f.data[max(st.start-1, 0):end]), " #"); ok {
			all = append(all, strings.TrimSpace(behind))
		}
	}
	return strings.Join(all, " ")
}
