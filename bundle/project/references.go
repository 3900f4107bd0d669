package project

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
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
	variable bool   // the file has a variable of the device in it, and leads up
	moved    bool   // a device needs another text for the same place
	part     string // a variable whose default the path begins with
	optional bool   // it need not exist
	writable bool   // a mount that the service may write to
	single   bool   // it must be a file: a directory in its place would be a mistake
	// set writes another place into the model of the compose file; carried says that it
	// is one of the release.
	set func(place string, carried bool)
}

const (
	refMount  = "mount"
	refEnv    = "env_file"
	refConfig = "config"
	refSecret = "secret"
	refLabels = "label_file"
	refVolume = "volume"
	refOption = "security_opt"
)

// working finds the directory in which docker compose runs, by its variable.
var working = lazyregexp.New(`^\$(?:PWD|\{PWD(?::?[-?][^{}]*)?\})(/|$)`)

// here writes a path from the working directory as one from the compose file.
func here(s string) string { return working.ReplaceAllString(s, ".$1") }

// wholeDefault finds ${NAME:-default} and ${NAME-default} that stand alone.
var wholeDefault = lazyregexp.New(`^\$\{[A-Za-z_][A-Za-z0-9_]*:?-([^${}]*)\}$`)

// partDefault finds ${NAME:-./default}/rest.
var partDefault = lazyregexp.New(`^(\$\{([A-Za-z_][A-Za-z0-9_]*):?-)(\.[^${}]*)(\}/[^$]*)$`)

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
	add := func(r reference, written string, set func(string, bool)) {
		plain := here(written)
		text, write, ok := literal(plain)
		r.written, r.moved = written, plain != written
		part := partDefault.FindStringSubmatch(plain) // start, name, default, rest
		switch {
		case part != nil: // a device cannot choose between its own directory and a file of the release
			r.part, r.file = part[2], path.Clean(part[3]+strings.TrimPrefix(part[4], "}"))
			r.set = func(place string, carried bool) {
				if !carried {
					above := strings.TrimSuffix(onDevice(path.Clean(part[3])+"/"), "/")
					place = part[1] + strings.TrimSuffix("./"+above, "/") + part[4]
				}
				set(place, carried)
			}
		case !ok && (strings.HasPrefix(plain, "../") || r.moved): // the rest is the device's
			r.variable, r.file = true, onDevice(strings.TrimPrefix(plain, "./"))
			r.set = set
		case !ok || text == "" || filepath.IsAbs(text) || strings.HasPrefix(text, "~"):
			return
		default:
			r.file = path.Clean(filepath.ToSlash(text))
			r.set = func(place string, carried bool) { set(write(place), carried) }
		}
		all = append(all, r)
	}
	for _, name := range sortedKeys(c.services) {
		service, user := c.attributes(name), "service "+name
		volumes, _ := service["volumes"].([]any)
		for i := range volumes {
			v, _ := volumes[i].(map[string]any)
			source, _ := v["source"].(string)
			text, _, ok := literal(here(source))
			if part := partDefault.FindStringSubmatch(here(source)); part != nil {
				text = part[3] + part[4]
			} else if !ok {
				text = here(source)
			}
			local := strings.HasPrefix(text, ".") || v["type"] == types.VolumeTypeBind
			if !local || v["type"] == types.VolumeTypeImage || v["type"] == types.VolumeTypeTmpfs {
				continue
			}
			target, _ := v["target"].(string)
			r := reference{user: user, kind: refMount, writable: v["read_only"] != true, single: looksLikeFile(text) && looksLikeFile(target)}
			add(r, source, func(s string, carried bool) {
				if v["source"] = s; !carried {
					return
				}
				v["type"] = types.VolumeTypeBind
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
			add(reference{user: user, kind: refEnv, optional: f["required"] == false, single: true}, at, func(s string, _ bool) { f["path"] = s })
		}
		options, _ := service["security_opt"].([]any)
		for i := range options {
			text, _ := options[i].(string)
			if profile := seccomp.FindString(text); profile != "" && text != profile+"unconfined" && text != profile+"builtin" {
				add(reference{user: user, kind: refOption, single: true}, text[len(profile):], func(s string, _ bool) { options[i] = profile + s })
			}
		}
		labels, _ := service["label_file"].([]any)
		for i := range labels {
			at, _ := labels[i].(string)
			add(reference{user: user, kind: refLabels, single: true}, at, func(s string, _ bool) { labels[i] = s })
		}
	}
	for _, kind := range []string{refConfig, refSecret} {
		section, _ := c.model[kind+"s"].(map[string]any)
		for _, name := range sortedKeys(section) {
			entry, _ := section[name].(map[string]any)
			at, _ := entry["file"].(string)
			add(reference{user: fmt.Sprintf("%s %s", kind, name), kind: kind, single: true}, at, func(s string, _ bool) { entry["file"] = s })
		}
	}
	volumes, _ := c.model["volumes"].(map[string]any)
	for _, name := range sortedKeys(volumes) {
		volume, _ := volumes[name].(map[string]any)
		options, _ := volume["driver_opts"].(map[string]any)
		at, _ := options["device"].(string)
		if how, _ := options["o"].(string); slices.Contains(strings.Split(how, ","), "bind") {
			add(reference{user: "volume " + name, kind: refVolume, writable: true}, at, func(s string, _ bool) { options["device"], volume["driver"] = s, "local" })
		}
	}
	return all
}

// seccomp is what begins an option that names the file of a profile.
var seccomp = lazyregexp.New(`^seccomp[:=]`)
