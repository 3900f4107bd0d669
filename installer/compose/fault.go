package compose

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/installer"
)

// deviceFault is what engines say of docker compose's requests when something of the
// device is in the way, and no release could do better.
var deviceFault = lazyregexp.New(`(?i)port is already allocated|address already in use|ports are not available|` +
	`container name "[^"]+" is already in use|no space left on device|disk quota exceeded|read-only file system|too many open files|cannot allocate memory|` +
	`no such image`) // it was there when the release was staged

// faultOf says whose fault it is that compose could not start a release. Nothing
// that the containers print is in the text.
func faultOf(err error) error {
	if err != nil && deviceFault.MatchString(err.Error()) {
		return &installer.DeviceError{Err: err}
	}
	return err
}

// envIsFile returns nil when the environment file can be replaced, or is not there.
func (a *App) envIsFile() error {
	info, err := os.Lstat(a.envPath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at the environment file: %w", err)
	case info.Mode().Type() == fs.ModeSymlink:
		return fmt.Errorf("%s is a symbolic link, and an update writes a new file in its place: put the file itself there", a.envPath())
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file: put the environment file there", a.envPath())
	}
	return nil
}
