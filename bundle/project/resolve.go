package project

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// SourceDir holds, in a bundle, the compose files that its own one was made of.
const SourceDir = "compose-source"

// filesLabel is a label of every service that reads configs or secrets of a
// release: it changes with their content, and with it compose makes a new container.
const filesLabel = "valise.files"

var windowsPath = lazyregexp.New(`^[A-Za-z]:[/\\]|\\`)

// carryReferences has what the compose file names relative to itself travel, as
// far as it is here, and returns it by its path in the bundle.
func (c *carrier) carryReferences(file *composeFile) ([]carried, error) {
	p := c.p
	var list []carried
	places := map[string]string{} // of what does not travel, below the app's directory
	for _, r := range file.references() {
		refuse := func(format string, args ...any) error {
			return p.composeError("%s uses %s, %s", r.user, r.written, fmt.Sprintf(format, args...))
		}
		if r.variable {
			if strings.Contains(r.file, "..") {
				return nil, refuse("which may lead out of the app's directory on a device: write it without .. behind the variable")
			}
			r.set("./"+r.file, false)
			file.changed = true
			continue
		}
		source := filepath.ToSlash(p.beside(filepath.FromSlash(r.file)))
		info, err := os.Stat(p.Path(source))
		name, inside := p.inBundle(source)
		local := onDevice(r.file)
		switch {
		case err != nil && windowsPath.MatchString(r.file):
			return nil, refuse("which is a path of Windows: a device has Linux, where that is one name; write it with forward slashes and without a drive")
		case !inside:
			return nil, refuse("%s", p.outside())
		case local == "." || local == "..":
			return nil, refuse("the directory of the compose file or one above, which holds passwords on a device: leave it out, or mount directories below it")
		case slices.ContainsFunc(p.Compose, func(f string) bool { return source == filepath.ToSlash(filepath.Clean(f)) }):
			return nil, refuse("the compose file itself: give the service a copy")
		}
		reason := ""
		if local != envName { // which is the device's
			if reason, err = c.stays(r, name, info, err); err != nil {
				return nil, err
			}
			if reason == "" {
				if list = append(list, carried{r, name}); r.part != "" {
					c.note("%s uses %s: the release has that, so %s decides nothing on a device", r.user, r.written, r.part)
				}
				continue
			}
		}
		if local != r.file || r.moved {
			r.set("./"+local, false)
			file.changed = true
		}
		if local == envName {
			continue
		}
		if other := places[local]; other != "" && other != r.file {
			return nil, refuse("and another one %s: both would be /opt/%s/%s on a device; give one another name", other, p.App, local)
		}
		places[local] = r.file
		if !bundle.LocalPath(local) {
			first, _, _ := strings.Cut(local, "/")
			return nil, refuse("and %s in the app's directory on a device belongs to Valise: choose another name", first)
		}
		if r.kind == refLabels {
			return nil, refuse("which %s", reason)
		}
		generated := slices.ContainsFunc(sortedKeys(p.Secrets), func(key string) bool { return p.Secrets[key].File == local })
		switch {
		case reason == notHere && (r.optional || !r.single): // data
		case r.single && !r.optional:
			c.local[local] = r
			if !generated {
				c.note("%s uses %s, which %s: it is not in the release, and the device must have it as /opt/%s/%s before an installation", r.user, r.written, reason, p.App, local)
			}
		default:
			c.note("%s uses %s, which %s: it is not in the release, and is /opt/%s/%s on a device", r.user, r.written, reason, p.App, local)
		}
	}
	return list, nil
}

// carried is a reference whose file or directory travels.
type carried struct {
	reference
	path string // in the bundle
}

const notHere = "does not exist here"

// stays says why what a reference names stays on the device and does not travel;
// the empty string when it travels.
func (c *carrier) stays(r reference, name string, info os.FileInfo, err error) (string, error) {
	switch {
	case err != nil:
		return notHere, nil
	case c.left(name):
		return "a line under files leaves out", nil
	case r.kind == refVolume:
		if files, _, err := c.below(name, false); err != nil || len(withoutKeepers(files)) > 0 {
			return "", c.p.composeError("%s is %s, which is in the repository: mount that path in services, without a volume", r.user, r.written)
		}
		return notHere, nil
	case c.files[name].Source != "":
		if (r.kind == refSecret || holdsValues(name)) && !c.public[name] {
			return "", c.p.composeError("%s uses %s, which is listed under files: everyone who has a bundle can read it; write {path: %s, public: true} when they may read this", r.user, r.written, name)
		}
		return "", nil
	case r.kind == refSecret:
		return "is a secret", nil
	case holdsValues(name):
		return "is an environment file", nil
	case info.IsDir() && r.kind != refMount:
		return "", c.p.composeError("%s uses %s, which is a directory and not a file", r.user, r.written)
	}
	files, ignored, err := c.below(name, false)
	if err != nil {
		return "", c.p.composeError("%s uses %s: %v", r.user, r.written, err)
	}
	if files = withoutKeepers(files); len(files) == 0 {
		if info.IsDir() && r.single {
			return "", c.p.composeError("%s uses %s, which is an empty directory and not a file: an engine makes one in place of a file that is missing; put the file there", r.user, r.written)
		}
		if !info.IsDir() {
			return "git ignores", nil
		}
		return notHere, nil // an empty directory is one for data
	}
	if ignored > 0 {
		c.note("%s uses %s: %d files in it that git ignores are left out", r.user, r.written, ignored)
	}
	for _, f := range files {
		if holdsValues(f) && !c.public[f] {
			c.note("%s uses %s: %s in it is an environment file and is left out", r.user, r.written, f)
			continue
		}
		if err := c.add(f); err != nil {
			return "", err
		}
	}
	if r.writable && info.IsDir() {
		c.note("%s may write to %s, which is in every release (files: %d): its changes there are set aside when another release is installed; for data of the device, write files: [\"!%s\"] or mount it :ro", r.user, r.written, len(files), name)
	}
	return "", nil
}

// withoutKeepers leaves out files that only keep a directory in git.
func withoutKeepers(files []string) []string {
	return slices.DeleteFunc(files, func(f string) bool { return slices.Contains([]string{".gitkeep", ".keep", ".gitignore"}, path.Base(f)) })
}

// Resolved is a compose file whose references lead to what a release carries.
type Resolved struct {
	Text   []byte
	Mounts []string // what it mounts, as bundle.Device has it
}

// Resolve writes the release's compose file again when it has to be another one than
// it is here: with what it takes from other files in it, and with the places on a
// device of what travels. files are those of the manifest. It returns nil when
// the file is good as it is.
func (r *Release) Resolve(files []bundle.File) (*Resolved, error) {
	if r.compose == nil || len(r.carried) == 0 && !r.compose.changed {
		return nil, nil
	}
	var out Resolved
	names := map[string]string{} // of configs and secrets, by kind and name
	for _, c := range r.carried {
		name := bundle.MountName(files, c.path)
		place := "./" + path.Join(bundle.MountDir, name)
		switch c.kind {
		case refLabels:
			continue
		case refConfig, refSecret:
			names[c.user] = name
		case refEnv:
			// Spelled in another way, so that a device that only plans can tell it from a
			// mount: what counts of it is its content.
			place = "./" + bundle.MountDir + "/./" + name
		}
		c.set(place, true)
		out.Mounts = append(out.Mounts, c.path)
	}
	slices.Sort(out.Mounts)
	out.Mounts = slices.Compact(out.Mounts)
	model := r.compose.model
	for _, key := range []string{"version", "include"} {
		delete(model, key)
	}
	services, _ := model["services"].(map[string]any)
	for _, name := range sortedKeys(services) {
		service, _ := services[name].(map[string]any)
		err := r.compose.restore(name, service)
		if err == nil {
			err = r.resolveService(service, names)
		}
		if err != nil {
			return nil, r.compose.p.composeError("service %s: %v", name, err)
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made by valise build of the files in %s: their includes and extensions are in it, and\n# files of the release have their paths on a device.\n", SourceDir)
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(model); err != nil {
		return nil, err
	}
	out.Text = b.Bytes()
	return &out, nil
}

// resolveService writes what a device needs of a service, in the words that every
// version of docker compose understands.
func (r *Release) resolveService(service map[string]any, names map[string]string) error {
	for _, key := range []string{"build", "develop"} {
		delete(service, key)
	}
	if err := r.inlineLabels(service); err != nil {
		return err
	}
	var used []string
	for _, kind := range []string{refConfig, refSecret} {
		list, _ := service[kind+"s"].([]any)
		for _, e := range list {
			source, _ := e.(string)
			if m, ok := e.(map[string]any); ok {
				source, _ = m["source"].(string)
			}
			if name := names[kind+" "+source]; name != "" {
				used = append(used, name)
			}
		}
	}
	if len(used) > 0 {
		slices.Sort(used)
		sum := sha256.Sum256([]byte(strings.Join(used, "\n")))
		addLabel(service, filesLabel, hex.EncodeToString(sum[:16]))
	}
	files, _ := service["env_file"].([]any)
	for i := range files {
		if f, ok := files[i].(map[string]any); ok && f["required"] == true && f["format"] == nil {
			files[i] = f["path"]
		}
	}
	if depends, ok := service["depends_on"].(map[string]any); ok {
		for _, d := range depends {
			if d, ok := d.(map[string]any); ok && d["required"] == true {
				delete(d, "required")
			}
		}
	}
	volumes, _ := service["volumes"].([]any)
	for i := range volumes {
		if v, ok := volumes[i].(map[string]any); ok {
			volumes[i] = asWritten(v)
		}
	}
	return nil
}

// asWritten brings a mount whose source is a variable back to the short form: what
// it is, volume or directory, is known only on the device.
func asWritten(v map[string]any) any {
	source, _ := v["source"].(string)
	volume, _ := v["volume"].(map[string]any)
	if v["type"] != "volume" || !strings.Contains(source, "$") || len(volume) > 0 {
		return v
	}
	var options []string
	if v["read_only"] == true {
		options = append(options, "ro")
	}
	bind, _ := v["bind"].(map[string]any)
	for _, key := range []string{"selinux", "propagation"} {
		if option, _ := bind[key].(string); option != "" {
			options = append(options, option)
		}
	}
	return strings.TrimSuffix(fmt.Sprintf("%s:%s:%s", source, v["target"], strings.Join(options, ",")), ":")
}

func addLabel(service map[string]any, key, value string) {
	switch labels := service["labels"].(type) {
	case []any:
		service["labels"] = append(labels, key+"="+value)
	case map[string]any:
		labels[key] = value
	default:
		service["labels"] = map[string]any{key: value}
	}
}

// inlineLabels takes the labels of files into the compose file, which few versions
// of docker compose could do on the device.
func (r *Release) inlineLabels(service map[string]any) error {
	files, _ := service["label_file"].([]any)
	if len(files) == 0 {
		return nil
	}
	delete(service, "label_file")
	labels := map[string]any{}
	for _, f := range files {
		name, _ := f.(string)
		text, _, ok := literal(here(name))
		if !ok {
			return fmt.Errorf("label_file %s depends on a variable of the device: write the labels here", name)
		}
		file, err := os.Open(r.compose.p.Path(r.compose.p.beside(filepath.FromSlash(text))))
		if err != nil {
			return err
		}
		values, err := dotenv.Parse(io.LimitReader(file, MaxComposeSize))
		file.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for key, value := range values {
			labels[key] = strings.ReplaceAll(value, "$", "$$")
		}
	}
	switch own := service["labels"].(type) {
	case []any:
		for _, l := range own {
			key, value, _ := strings.Cut(fmt.Sprint(l), "=")
			labels[key] = value
		}
	case map[string]any:
		maps.Copy(labels, own)
	}
	service["labels"] = labels
	return nil
}
