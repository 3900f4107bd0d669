package compose

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v4"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/installer/yamledit"
)

// linkedName is the compose file for people, in the directory of a release: that of
// the release, with the pins and the name of the project in it. docker compose by
// hand so does what we do, and pulls nothing.
const linkedName = "compose.linked.yaml"

// pin is what pins a service.
type pin struct {
	Image      string `json:"image"`
	PullPolicy string `json:"pull_policy"`
}

// linked puts pins into the text of a compose file.
func linked(text, pinned []byte, project string) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Load(text, &doc); err != nil {
		return nil, err
	}
	var pins struct{ Services map[string]pin }
	if err := json.Unmarshal(pinned, &pins); err != nil {
		return nil, err
	}
	top := &doc
	if doc.Kind == yaml.DocumentNode {
		top = doc.Content[0]
	}
	services := yamledit.Member(top, "services")
	if services == nil || services.Kind != yaml.MappingNode {
		return nil, errors.New("it has no services")
	}
	for i := 0; i+1 < len(services.Content); i += 2 {
		p, ok := pins.Services[services.Content[i].Value]
		if !ok {
			continue
		}
		service := services.Content[i+1]
		if service.Kind == yaml.AliasNode { // of another service: that one's pins are not these
			service = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Tag: "!!merge", Value: "<<"}, service}}
			services.Content[i+1] = service
		}
		yamledit.Set(service, "image", yamledit.Text(p.Image))
		yamledit.Set(service, "pull_policy", yamledit.Text(p.PullPolicy))
	}
	yamledit.Set(top, "name", yamledit.Text(project))
	var out bytes.Buffer
	out.WriteString("# Written by valise-installer for docker compose by hand: the compose file of the release, with its images pinned.\n" +
		"# A change here has no effect; put your own settings in " + overrideName + ".\n")
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	err := errors.Join(e.Encode(&doc), e.Close())
	return out.Bytes(), err
}

// linkedOf is what the compose file for people of release r has to be.
func (a *App) linkedOf(m *bundle.Manifest, r installer.Release) ([]byte, error) {
	text, err := a.Releases.ReadFile(r.Dir, m.Device.Compose, bundle.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	pinned, err := a.Releases.ReadFile(r.Dir, pinsName, bundle.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	b, err := linked(text, pinned, m.Device.Project)
	if err != nil {
		return nil, fmt.Errorf("read %s of release %s: %w", m.Device.Compose, r.Version, err)
	}
	return b, nil
}

// linkCompose leads the compose file's usual place to the current release, which is
// r. A file somebody put there stays.
func (a *App) linkCompose(m *bundle.Manifest, r installer.Release) error {
	want, err := a.linkedOf(m, r)
	if err != nil {
		return err
	}
	if have, err := a.Releases.ReadFile(r.Dir, linkedName, bundle.MaxManifestSize); err != nil || !bytes.Equal(have, want) {
		mode := fs.FileMode(0o644)
		if r.Signer == installer.Adopted {
			mode = 0o600 // values of the environment are in it
		}
		if err := a.Releases.PutBack(r.Dir, linkedName, mode, bytes.NewReader(want)); err != nil {
			return err
		}
	}
	root, target := a.Releases.Root(), path.Join("current", linkedName)
	if fi, err := root.Lstat(m.Device.Compose); err == nil && fi.Mode().Type() != fs.ModeSymlink {
		return nil
	}
	if to, err := root.Readlink(m.Device.Compose); err == nil && to == target {
		return nil
	}
	return release.Symlink(root, target, m.Device.Compose)
}

// unlinkCompose removes the link that linkCompose, or an older program, made.
func (a *App) unlinkCompose(name string) error {
	root := a.Releases.Root()
	to, err := root.Readlink(name)
	if err != nil || !slices.Contains([]string{path.Join("current", linkedName), path.Join("current", name)}, to) {
		return nil
	}
	return release.RemoveAll(root, name)
}

// keepLinked keeps what somebody wrote into the compose file for people of release r.
func (a *App) keepLinked(m *bundle.Manifest, r installer.Release) error {
	have, err := a.Releases.ReadFile(r.Dir, linkedName, bundle.MaxManifestSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // of an older program, or removed
	}
	if err != nil {
		return err
	}
	if want, err := a.linkedOf(m, r); err == nil && bytes.Equal(have, want) {
		return nil
	}
	name := filepath.Base(m.Device.Compose) + ".edited-" + r.Version
	if err := release.WriteFile(a.Releases.Root(), name, have, 0o600); err != nil {
		return err
	}
	a.reportEdit(m.Device.Compose, r, name, "was never in effect")
	return nil
}
