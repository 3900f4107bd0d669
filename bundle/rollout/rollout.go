// Package rollout is the rollout file of an app: which releases are for which part of
// its devices, and which must not be installed. It can only hold back. What a device
// takes is the decision of package verify, and who may sign such a file too; nothing
// here looks at a network, a clock or a file.
package rollout

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Format is the only one that is known. A file of another one might hold back what this
// program would let pass, so it is refused.
const Format = "valise-rollout/1"

// Limits of a file.
const (
	MaxSize     = 64 << 10 // bytes
	maxReleases = 256
	maxGroups   = 64 // of a release
)

// File is a rollout file.
type File struct {
	Format string `json:"format"`
	App    string `json:"app"`
	// Sequence grows with each file of an app: an older one is a replay.
	Sequence int64     `json:"sequence"`
	Releases []Release `json:"releases"` // the newest first
}

// Release says whom a release is for.
type Release struct {
	Version string `json:"version"`
	Percent int    `json:"percent"` // of the devices that are in none of Groups
	// Groups are names of groups with percents of their own. Of several that a device
	// is in the lowest counts.
	Groups map[string]int `json:"groups,omitempty"`
	Halted bool           `json:"halted,omitempty"` // for no device, wherever it comes from
}

// Device is who asks.
type Device struct {
	ID     string
	Groups []string
}

var groupName = lazyregexp.New(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// ValidGroup reports whether s can be the name of a group.
func ValidGroup(s string) bool { return groupName.MatchString(s) }

// Parse reads a file, which may be a stranger's. As with a manifest only canonical bytes
// are accepted: a duplicate key cannot mean one thing here and another one to who signed.
func Parse(b []byte) (*File, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("it has %d bytes, limit %d", len(b), MaxSize)
	}
	f := new(File)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // one might hold back what this program would let pass
	if err := d.Decode(f); err != nil {
		return nil, err
	}
	if f.Format != Format {
		return nil, fmt.Errorf("its format is %.40q, this program reads %s", f.Format, Format)
	}
	again, err := f.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, errors.New("it is not in canonical form: a duplicate or differently spelled key, order or white space")
	}
	return f, nil
}

func (f *File) check() error {
	switch {
	case !bundle.ValidApp(f.App):
		return fmt.Errorf("%.80q is not a name of an app", f.App)
	case f.Sequence < 1:
		return fmt.Errorf("its sequence is %d, want 1 or more", f.Sequence)
	case len(f.Releases) > maxReleases:
		return fmt.Errorf("it has %d releases, limit %d", len(f.Releases), maxReleases)
	}
	seen := map[string]bool{}
	for i, r := range f.Releases {
		if i > 0 && bundle.Newer(r.Version, f.Releases[i-1].Version) {
			return fmt.Errorf("%s comes after %s, want the newest first", r.Version, f.Releases[i-1].Version)
		}
		if _, err := bundle.ParseVersion(r.Version); err != nil {
			return err
		}
		if seen[r.Version] {
			return fmt.Errorf("it has %s twice", r.Version)
		}
		seen[r.Version] = true
		if len(r.Groups) > maxGroups {
			return fmt.Errorf("%s has %d groups, limit %d", r.Version, len(r.Groups), maxGroups)
		}
		if r.Percent < 0 || r.Percent > 100 {
			return fmt.Errorf("%s has %d %%, want 0 to 100", r.Version, r.Percent)
		}
		for name, percent := range r.Groups {
			if !ValidGroup(name) || percent < 0 || percent > 100 {
				return fmt.Errorf("%s has group %.80q with %d %%, want a short name and 0 to 100", r.Version, name, percent)
			}
		}
	}
	return nil
}

// Encode is the text of a file.
func (f *File) Encode() ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err == nil && len(b) >= MaxSize {
		err = fmt.Errorf("it has %d bytes, limit %d", len(b)+1, MaxSize)
	}
	return append(b, '\n'), err
}

// Of returns what the file says of a version, nil when it says nothing.
func (f *File) Of(version string) *Release {
	if i := slices.IndexFunc(f.Releases, func(r Release) bool { return r.Version == version }); i >= 0 {
		return &f.Releases[i]
	}
	return nil
}

// Set says in a file whom a release is for. It ends a halt. It is not a method, so that
// programs which only read files are without it.
func Set(f *File, r Release) {
	if old := f.Of(r.Version); old != nil {
		*old = r
		return
	}
	i := slices.IndexFunc(f.Releases, func(o Release) bool { return bundle.Newer(r.Version, o.Version) })
	if i < 0 {
		i = len(f.Releases)
	}
	f.Releases = slices.Insert(f.Releases, i, r)
}

// Halt says that a release is for no device. Its percents stay as they were.
func Halt(f *File, version string) {
	if f.Of(version) == nil {
		Set(f, Release{Version: version})
	}
	f.Of(version).Halted = true
}

// Place is where a device stands in the order of a release, from 0 to 9999: it is its
// turn when the percents are beyond that. Each release has an order of its own, so that
// the same devices are not always the first.
func Place(app, version, id string) int {
	sum := sha256.Sum256([]byte(app + "\x00" + version + "\x00" + id))
	return int(binary.BigEndian.Uint64(sum[:8]) % 10000)
}

// Share is the percent that counts for a device, and the group that it is of, if any.
func (r Release) Share(d Device) (percent int, group string) {
	percent = r.Percent
	for _, name := range slices.Sorted(maps.Keys(r.Groups)) {
		if slices.Contains(d.Groups, name) && (group == "" || r.Groups[name] < percent) {
			percent, group = r.Groups[name], name
		}
	}
	return percent, group
}

// Turn reports whether it is the turn of a device.
func (f *File) Turn(r Release, d Device) bool {
	percent, _ := r.Share(d)
	return Place(f.App, r.Version, d.ID) < percent*100
}

// FileName is how the file of an app is called, in directories and among the files of a
// release: never twice the same, so that no cache has an old one and none stands beside
// the signature of another one. The number is its sequence.
func FileName(app string, sequence int64) string {
	return app + "-rollout-" + strconv.FormatInt(sequence, 10) + ".json"
}

// SignatureSuffix is that of the signature beside it.
const SignatureSuffix = ".sigstore.json"

// ParseFileName reads the sequence in the name of a file of app.
func ParseFileName(app, name string) (sequence int64, ok bool) {
	number := strings.TrimSuffix(strings.TrimPrefix(name, app+"-rollout-"), ".json")
	sequence, err := strconv.ParseInt(number, 10, 64)
	return sequence, err == nil && sequence > 0 && FileName(app, sequence) == name
}

// ParsePercent reads "10%" or "10". Parts of one are refused: 0.1 may mean
// a tenth of all devices or a thousandth.
func ParsePercent(s string) (int, error) {
	n, err := strconv.Atoi(strings.TrimSuffix(s, "%"))
	if err != nil || n < 0 || n > 100 {
		return 0, fmt.Errorf("%.40q is not a percent, want a whole number from 0%% to 100%%", s)
	}
	return n, nil
}
