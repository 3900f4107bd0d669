package release

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// LockedError says who holds a lock. Owner is empty when the holder had no time
// to say.
type LockedError struct {
	Path    string
	Owner   string
	PID     int
	Started time.Time
	Age     time.Duration // zero when unknown, or when the clock went backward
}

// Kind names these errors for front ends.
func (e *LockedError) Kind() string { return "busy" }

func (e *LockedError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("lock %s: another process holds it", e.Path)
	}
	s := fmt.Sprintf("lock %s: held by %s (process %d)", e.Path, e.Owner, e.PID)
	if e.Age > 0 {
		s += fmt.Sprintf(" for %s", e.Age.Round(time.Second))
	}
	return s
}

// holder is the content of a lock file. It is for people: the lock itself is
// the flock, which the kernel drops when its process ends in whatever way.
type holder struct {
	Owner   string    `json:"owner"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

// Lock takes the exclusive lock of the file at path, or returns a *LockedError
// at once. owner says what the caller does with it ("update to 2.1.0"), now is
// the caller's clock. The file stays when the lock is released: removing it
// would let two processes hold a lock each. Its directory must belong to root.
// A child process does not inherit the lock.
func Lock(path, owner string, now time.Time) (unlock func() error, err error) {
	const flags = os.O_RDWR | os.O_CREATE | syscall.O_NOFOLLOW
	l := flock.New(path, flock.SetFlag(flags), flock.SetPermissions(0o644))
	ok, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if !ok {
		return nil, lockedError(path, now)
	}
	writeHolder(path, holder{Owner: owner, PID: os.Getpid(), Started: now})
	return l.Unlock, nil
}

// writeHolder ignores errors: a full disk must not stop a rollback only because
// the next caller could not be told about it.
func writeHolder(path string, h holder) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer f.Close()
	json.NewEncoder(f).Encode(h)
}

func lockedError(path string, now time.Time) error {
	e := &LockedError{Path: path}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return e
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4<<10))
	var h holder
	if err != nil || json.Unmarshal(b, &h) != nil {
		return e
	}
	e.Owner, e.PID, e.Started = h.Owner, h.PID, h.Started
	if !h.Started.IsZero() {
		e.Age = max(0, now.Sub(h.Started))
	}
	return e
}
