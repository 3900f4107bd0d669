package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os/exec"
)

// unpacked returns the files of a downloaded package.
func (d *debs) unpacked(name string) (tree, error) {
	if t, ok := d.cache[name]; ok {
		return t, nil
	}
	path, err := d.file(name)
	if err != nil {
		return nil, err
	}
	// A machine with apt has it, and it unpacks xz several times as fast as a Go library.
	files, err := exec.Command("dpkg-deb", "--fsys-tarfile", path).Output()
	if err != nil {
		return nil, fmt.Errorf("package %s: dpkg-deb: %w", name, err)
	}
	t, err := readTree(tar.NewReader(bytes.NewReader(files)))
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", name, err)
	}
	d.cache[name] = t
	return t, nil
}
