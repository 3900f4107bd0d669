package host

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// stickTypes are the file systems of sticks that are mounted, with their options
// for reading. A journal is not replayed: that would write.
var stickTypes = []struct{ name, read, write string }{
	{"vfat", "utf8", "utf8,fmask=0133,dmask=0022,quiet"},
	{"exfat", "", "fmask=0133,dmask=0022"},
	{"ext4", "noload", ""},
}

// MountStick mounts the file system of a block device at dir, which is made, and
// returns how to unmount it. Nothing on it can be run, is a device, gives
// rights or, with Linux 5.10 and newer, leads anywhere else.
func MountStick(device, dir string, write bool) (unmount func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("mount %s: %w", device, err)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW)
	if !write {
		flags |= unix.MS_RDONLY
	}
	var tried []error
	for _, t := range stickTypes {
		options := t.read
		if write {
			options = t.write
		}
		err := unix.Mount(device, dir, t.name, flags, options)
		if err == nil {
			return func() error {
				err := unix.Unmount(dir, 0)
				if err != nil { // pulled out, or somebody looks
					err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
				}
				return errors.Join(err, os.Remove(dir))
			}, nil
		}
		tried = append(tried, fmt.Errorf("%s: %w", t.name, err))
	}
	return nil, fmt.Errorf("mount %s: %w", device, errors.Join(tried...))
}
