package bundle

import (
	"path"
	"strings"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// updater are names of services and images that replace the containers of others.
var updater = lazyregexp.New(`watchtower|ouroboros|shepherd|dockupdater|pullio|(^|[-_])(auto|self)?[-_]?(updater?|upgrader?|ota)([-_]|$)`)

// UpdatesItself reports whether a service looks, by its name and image, like one that
// updates the app it is a part of.
func UpdatesItself(service, image string) bool {
	name, _, _ := strings.Cut(path.Base(image), ":")
	return updater.MatchString(strings.ToLower(service)) || updater.MatchString(strings.ToLower(name))
}

// EngineSocket reports whether a path is that of the container engine's socket.
func EngineSocket(p string) bool {
	return path.Base(p) == "docker.sock" || path.Base(p) == "podman.sock"
}
