package project

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// reference is a file or directory that a compose file names relative to itself.
type reference struct {
	user     string // "service web", "config x"
	kind     string // refMount, refEnv, refConfig, refSecret, refLabels
	written  string // as the compose file has it
	file     string // relative to the directory of the compose file, clean, with slashes; may lead out of it
	optional bool   // it need not exist
	writable bool   // a mount that the service may write to
	single   bool   // it must be a file: a directory in its place would be a mistake
	// set writes another place into the model of the compose file. It is nil where
	// nothing can be written: a variable of the device decides.
	set func(place string)
}

const (
	refMount  = "mount"
	refEnv    = "env_file"
	refConfig = "config"
	refSecret = "secret"
	refLabels = "label_file"
)

// wholeDefault finds ${NAME:-default} and ${NAME-default} that stand alone.
var wholeDefault = lazyregexp.New(`^\$\{[A-Za-z_][A-Za-z0-9_]*:?-([^${}]*)\}$`)

// literal is the text that s stands for unless a device says otherwise, and how
// to write another one in its place; ok is false when only a device knows it.
func literal(s string) (text string, write func(string) string, ok bool) {
	escape := func(s string) string { return strings.ReplaceAll(s, "$", "$$") }
	if m := wholeDefault.FindStringSubmatchIndex(s); m != nil {
		return s[m[2]:m[3]], func(to string) string { return s[:m[2]] + escape(to) + s[m[3]:] }, true
	}
	if plain := strings.ReplaceAll(s, "$$", ""); strings.Contains(plain, "$") {
		return "", nil, false
	}
	return strings.ReplaceAll(s, "$$", "$"), escape, true
}

// looksLikeFile reports whether a path would be a file, by its name: conf.d and
// .config are directories, nginx.conf is a file.
func looksLikeFile(name string) bool {
	ext := strings.TrimPrefix(path.Ext(strings.TrimPrefix(path.Base(name), ".")), ".")
	return ext != "" && ext != "d" && !regexp.MustCompile(`^[0-9]`).MatchString(ext)
}

// references lists what a compose file names relative to itself. The environment
// file beside it is not the app's but the device's.
func (c *composeFile) references() []reference {
	var all []reference
	add := func(r reference, written string, set func(string)) {
		text, write, ok := literal(written)
		if !ok || text == "" || filepath.IsAbs(text) || strings.HasPrefix(text, "~") {
			return
		}
		r.written, r.file = written, path.Clean(filepath.ToSlash(text))
		if r.file == envName {
			return
		}
		r.set = func(place string) { set(write(place)) }
		all = append(all, r)
	}
	for _, name := range sortedKeys(c.services) {
		service, user := c.attributes(name), "service "+name
		volumes, _ := service["volumes"].([]any)
		for i := range volumes {
			v, _ := volumes[i].(map[string]any)
			source, _ := v["source"].(string)
			text, _, ok := literal(source)
			local := strings.HasPrefix(text, ".") || v["type"] == types.VolumeTypeBind
			if !ok || !local || v["type"] == types.VolumeTypeImage || v["type"] == types.VolumeTypeTmpfs {
				continue
			}
			target, _ := v["target"].(string)
			r := reference{user: user, kind: refMount, writable: v["read_only"] != true, single: looksLikeFile(text) && looksLikeFile(target)}
			add(r, source, func(s string) {
				v["source"], v["type"] = s, types.VolumeTypeBind
				delete(v, "volume")
				bind, _ := v["bind"].(map[string]any)
				if bind == nil {
					bind = map[string]any{}
					v["bind"] = bind
				}
				bind["create_host_path"] = false
			})
		}
		files, _ := service["env_file"].([]any)
		for i := range files {
			f, _ := files[i].(map[string]any)
			at, _ := f["path"].(string)
			add(reference{user: user, kind: refEnv, optional: f["required"] == false, single: true}, at, func(s string) { f["path"] = s })
		}
		labels, _ := service["label_file"].([]any)
		for i := range labels {
			at, _ := labels[i].(string)
			add(reference{user: user, kind: refLabels, single: true}, at, func(s string) { labels[i] = s })
		}
	}
	for _, kind := range []string{refConfig, refSecret} {
		section, _ := c.model[kind+"s"].(map[string]any)
		for _, name := range sortedKeys(section) {
			entry, _ := section[name].(map[string]any)
			at, _ := entry["file"].(string)
			add(reference{user: fmt.Sprintf("%s %s", kind, name), kind: kind, single: true}, at, func(s string) { entry["file"] = s })
		}
	}
	return all
}
