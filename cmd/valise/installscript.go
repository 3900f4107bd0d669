package main

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/valise-ota/valise/bundle"
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
	var installers []string
	for _, f := range m.Files {
		if f.Path == installScriptName {
			return nil
		}
		platform, ok := strings.CutPrefix(f.Path, bundle.InstallerDir)
		if platform, named := strings.CutSuffix(platform, "/"+bundle.InstallerName); ok && named {
			installers = append(installers, platform+" "+f.Digest.Hex())
		}
	}
	if len(installers) == 0 {
		return nil
	}
	if strings.ContainsAny(bundleName, "'\"$`\\\n ") {
		return fmt.Errorf("output gives %q: a name for %s without quotes, spaces, $ and \\ is needed", bundleName, installScriptName)
	}
	prefix := ""
	if m.Prefix != "" {
		prefix = m.Prefix + "/"
	}
	text := strings.NewReplacer("@APP@", m.App, "@VERSION@", m.Version, "@BUNDLE@", bundleName,
		"@INSTALLERS@", strings.Join(installers, "\n"), "@PREFIX@", prefix).Replace(installScript)
	return c.add(m, installScriptName, []byte(text))
}
