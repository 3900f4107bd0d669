// Package proc reads what /proc tells of a process.
package proc

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Written is how many bytes a process passed to disks.
func Written(pid int) (int64, error) { return member(pid, "io", "write_bytes:") }

// Peak is the most memory that a process had, in bytes.
func Peak(pid int) (int64, error) {
	kib, err := member(pid, "status", "VmHWM:")
	return kib << 10, err
}

// member returns the number behind a key of a file of a process.
func member(pid int, name, key string) (int64, error) {
	file := fmt.Sprintf("/proc/%d/%s", pid, name)
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	words := strings.Fields(string(data))
	i := slices.Index(words, key)
	if i < 0 || i+1 == len(words) {
		return 0, fmt.Errorf("%s has no %s", file, key)
	}
	return strconv.ParseInt(words[i+1], 10, 64)
}
