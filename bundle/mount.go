package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// MountDir is where a device keeps the files that the compose file mounts,
// below the app's directory: each file and directory of Device.Mounts in a place
// whose name changes with its content.
const MountDir = "releases/.mounts"

// maxMountBase bounds what of a file's own name is in its MountName, in bytes.
const maxMountBase = 100

// MountFiles returns what of files is at a path or below it, with paths
// relative to it: "" for the file itself. files are sorted as a manifest has them.
func MountFiles(files []File, at string) []File {
	var list []File
	for _, f := range files {
		rest, ok := strings.CutPrefix(f.Path, at)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		f.Path = strings.TrimPrefix(rest, "/")
		list = append(list, f)
	}
	return list
}

// MountName is the name in MountDir of what files has at a path: it changes with
// the content, names and modes of what is there, and with nothing else. It is
// empty when nothing is there.
func MountName(files []File, at string) string {
	list := MountFiles(files, at)
	if len(list) == 0 {
		return ""
	}
	h := sha256.New()
	for _, f := range list {
		fmt.Fprintf(h, "%o %s %s\n", f.Mode, f.Digest, f.Path)
	}
	base := at[strings.LastIndexByte(at, '/')+1:]
	if len(base) > maxMountBase {
		base = strings.ToValidUTF8(base[:maxMountBase], "")
	}
	return base + "-" + hex.EncodeToString(h.Sum(nil))
}

func (m *Manifest) checkMounts() error {
	list := m.Device.Mounts
	if len(list) > MaxMounts {
		return fmt.Errorf("%d, limit %d", len(list), MaxMounts)
	}
	for i, at := range list {
		if i > 0 && list[i-1] >= at {
			return fmt.Errorf("%.80q is listed twice or out of order", at)
		}
		if checkPath(at) != nil || !slices.ContainsFunc(m.Files, func(f File) bool { return f.Path == at || strings.HasPrefix(f.Path, at+"/") }) {
			return fmt.Errorf("%.80q is neither a file of the bundle nor a directory of its files", at)
		}
	}
	return nil
}

// reservedDirs are the names in an app's directory that belong to the installer.
var reservedDirs = []string{"releases", "current", "failed", "updates", ".env"}

// LocalPath reports whether p may be a file of a compose app below its directory on
// a device, beside what belongs to the installer.
func LocalPath(p string) bool {
	first, _, _ := strings.Cut(p, "/")
	return checkPath(p) == nil && !slices.Contains(reservedDirs, first) && !strings.HasPrefix(first, ".valise")
}

func (d *Device) checkLocal() error {
	if len(d.Local) > MaxMounts {
		return fmt.Errorf("%d, limit %d", len(d.Local), MaxMounts)
	}
	for i, p := range d.Local {
		if !LocalPath(p) || i > 0 && d.Local[i-1] >= p {
			return fmt.Errorf("%.80q is not a path below the app's directory, belongs to the installer, or is listed twice or out of order", p)
		}
	}
	return nil
}
