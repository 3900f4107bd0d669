package main

import "golang.org/x/sys/unix"

// startWriteback has the kernel begin to write a range of a file to its disk, so that
// Sync has less left to wait for. It promises nothing.
func startWriteback(f pendingPart, off, n int64) {
	if c, err := f.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { unix.SyncFileRange(int(fd), off, n, unix.SYNC_FILE_RANGE_WRITE) })
	}
}
