package installer

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// ReasonOf names the kind of a failure, so that a front end can say it in its reader's
// language: what the outermost error in err with a method Kind says, else a network
// that failed, a full disk, or the step that failed. It is empty for any other.
func ReasonOf(err error) string {
	if r := interface {
		error
		Kind() string
	}(nil); errors.As(err, &r) {
		return r.Kind()
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return "space"
	}
	if errors.As(err, new(*net.OpError)) || errors.As(err, new(*net.DNSError)) {
		return "network"
	}
	if s := new(stepError); errors.As(err, &s) {
		return "step." + s.step
	}
	return ""
}

// Failure is an error of a kind that no type of its own says.
type Failure struct {
	Reason string
	Err    error
}

func (e *Failure) Error() string { return e.Err.Error() }
func (e *Failure) Unwrap() error { return e.Err }

// Kind is Reason.
func (e *Failure) Kind() string { return e.Reason }

// errInterrupted is why a record is undone that nothing else explains.
var errInterrupted = &Failure{"interrupted", errors.New("interrupted: power was lost or the installer was killed")}

// stepError says which step of an update failed.
type stepError struct {
	step, version string
	err           error
}

func (e *stepError) Error() string { return fmt.Sprintf("%s %s: %v", e.step, e.version, e.err) }
func (e *stepError) Unwrap() error { return e.err }

// Kind is the kind that ReasonOf names.
func (e *UnmetError) Kind() string { return "requirement" }

// Kind is the kind that ReasonOf names.
func (e *HeldError) Kind() string {
	if e.Halted {
		return "halted"
	}
	return "held"
}

// Kind is the kind that ReasonOf names.
func (e *NoWayError) Kind() string { return "requirement" }

// Kind is the kind that ReasonOf names.
func (e *LackingError) Kind() string { return "thin" }

// Kind is the kind that ReasonOf names.
func (e *MissingEnvError) Kind() string { return "environment" }

// Kind is the kind that ReasonOf names.
func (e *MissingFilesError) Kind() string { return "files" }

// Kind is the kind that ReasonOf names.
func (e *TakenError) Kind() string { return "taken" }

// Kind is the kind that ReasonOf names.
func (e *LacksError) Kind() string { return "lacks" }

// Kind is the kind that ReasonOf names.
func (e *DataLeftError) Kind() string { return "data" }

// Kind is the kind that ReasonOf names.
func (e *PortsError) Kind() string { return "ports" }

// Kind is the kind that ReasonOf names.
func (e *SpaceError) Kind() string { return "space" }

// Kind is the kind that ReasonOf names.
func (e *LimitError) Kind() string { return "time" }
