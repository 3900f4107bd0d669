package main

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// installScriptName is the script that a technician without a signed program of
// ours starts with.
const installScriptName = "install.sh"

//go:embed install.sh
var installScript string

// addInstallScript puts the script into a bundle that carries installers. It
// knows their digests: whoever trusts the script need not trust the stick. A
// project's own install.sh stays.
func addInstallScript(m *bundle.Manifest, c *content, bundleName string) error {
	script := installScriptOf(m, bundleName)
	if script == "" || slices.ContainsFunc(m.Files, func(f bundle.File) bool { return f.Path == installScriptName }) {
		return nil
	}
	if strings.ContainsAny(bundleName, "'\"$`\\\n ") {
		return fmt.Errorf("output gives %q: a name for %s without quotes, spaces, $ and \\ is needed", bundleName, installScriptName)
	}
	return c.add(m, installScriptName, []byte(script))
}

// installScriptOf is the script for a bundle, or "" for one without installers.
func installScriptOf(m *bundle.Manifest, bundleName string) string {
	var installers []string
	for _, f := range m.Files {
		platform, ok := strings.CutPrefix(f.Path, bundle.InstallerDir)
		if platform, named := strings.CutSuffix(platform, "/"+bundle.InstallerName); ok && named {
			installers = append(installers, platform+" "+f.Digest.Hex())
		}
	}
	if len(installers) == 0 {
		return ""
	}
	prefix := ""
	if m.Prefix != "" {
		prefix = m.Prefix + "/"
	}
	return strings.NewReplacer("@APP@", m.App, "@VERSION@", m.Version, "@BUNDLE@", bundleName,
		"@INSTALLERS@", strings.Join(installers, "\n"), "@PREFIX@", prefix).Replace(installScript)
}

// bundleLine is where the script names its bundle.
var bundleLine = lazyregexp.New(`(?m)^bundle=\$\(dirname "\$0"\)/(.+)$`)

// scriptFor is the name of the bundle in a script that addInstallScript made for m, or
// "" of any other.
func scriptFor(m *bundle.Manifest, script []byte) string {
	name := bundleLine.FindSubmatch(script)
	if name == nil || installScriptOf(m, string(name[1])) != string(script) {
		return ""
	}
	return string(name[1])
}
