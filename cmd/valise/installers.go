package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// installers names the installers that belong to this program, as PLATFORM=SHA256,...
// Whoever builds it builds them first and links this: scripts/installers.sh.
var installers = ""

const (
	releasesEnv = "VALISE_RELEASES" // where releases of valise are, in place of releasesURL
	releasesURL = "https://github.com/valise-ota/valise/releases/download"

	maxInstaller = 256 << 20 // bytes of one that is downloaded
)

// installerPlatforms are the machines that there are installers for.
var installerPlatforms = map[string]bool{"linux-amd64": true, "linux-arm64": true, "linux-arm-v7": true}

// installerPlaces is where installers are looked for.
type installerPlaces struct {
	named  string   // as installers: which ones belong to this program, "" when nobody said
	beside []string // directories with PLATFORM/valise-installer
	cache  string   // directory for those that are downloaded
	url    string   // of the release of this program, "" for a build that is none
}

// findInstaller finds the installer for a platform.
func (a *app) findInstaller(ctx context.Context, platform bundle.Platform) (string, error) {
	if !installerPlatforms[platform.Dashed()] {
		a.Note("there is no valise-installer for %s: the bundle has none for it", platform)
		return "", nil
	}
	p := installerPlaces{named: installers, beside: besideProgram(), cache: filepath.Join(a.cacheDir(), "installers")}
	if version := cli.Released(); version != "" {
		p.url = cmp.Or(strings.TrimSuffix(a.Getenv(releasesEnv), "/"), releasesURL) + "/v" + version + "/"
	}
	path, err := p.find(ctx, platform.Dashed(), a.UI.Step)
	if err == nil || ctx.Err() != nil {
		return path, err
	}
	const ways = "write \"installer: DIR\" into valise.yaml, where DIR/PLATFORM/valise-installer is (make build makes dist/installer), or \"installer: none\" for a bundle that does not install itself"
	if installers != "" {
		return "", cli.WithHint(err, ways)
	}
	if !a.noInstaller { // of go build, which makes none
		a.noInstaller = true
		a.Note("%v: the bundle does not install itself; %s", err, ways)
	}
	return "", nil
}

// find returns the installer for a platform: one beside this program, else the one of
// its release, which is downloaded once. It is the one that named names.
func (p installerPlaces) find(ctx context.Context, platform string, step func(what, detail string)) (string, error) {
	want := ""
	for item := range strings.SplitSeq(p.named, ",") {
		if of, digest, ok := strings.Cut(item, "="); ok && of == platform {
			want = digest
		}
	}
	var candidates []string
	for _, dir := range p.beside {
		candidates = append(candidates, filepath.Join(dir, platform, bundle.InstallerName))
	}
	cached := filepath.Join(p.cache, want, bundle.InstallerName)
	if want != "" {
		candidates = append(candidates, cached)
	}
	other := ""
	for _, path := range candidates {
		got, err := hashFile(ctx, project.ReleaseFile{Source: path})
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return "", err
		case want == "" || got.Digest == bundle.Digest("sha256:"+want):
			return path, nil
		default:
			other = "; " + path + " is of another build of valise"
		}
	}
	if want == "" || p.url == "" {
		return "", fmt.Errorf("no valise-installer for %s beside this program%s", platform, other)
	}
	url := p.url + bundle.InstallerName + "-" + platform
	step("download", url)
	if _, err := download(ctx, url, want, cached, maxInstaller); err != nil {
		return "", fmt.Errorf("no valise-installer for %s beside this program: download %s: %w%s", platform, url, err, other)
	}
	return cached, nil
}

// besideProgram are the places of installers that come with this program: in an
// archive or dist, and of a package.
func besideProgram() []string {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return nil
	}
	dir := filepath.Dir(self)
	return []string{filepath.Join(dir, "installer"), filepath.Join(dir, "../lib/valise/installer")}
}

// installerVersion is what the build ID of an installer says, which the release build
// sets to its version: a note near the beginning of the file.
func installerVersion(head []byte) string {
	const goBuildID = "\x04\x00\x00\x00Go\x00\x00" // type and name of the note; the length of what follows stands before
	at := bytes.Index(head, []byte(goBuildID))
	if at < 4 {
		return ""
	}
	size := binary.LittleEndian.Uint32(head[at-4:])
	value := head[at+len(goBuildID):]
	if size > 64 || int(size) > len(value) {
		return ""
	}
	if v, err := bundle.ParseVersion(string(value[:size])); err == nil {
		return v.Original()
	}
	return ""
}
