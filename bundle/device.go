package bundle

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// The checks of what acts on a device, as far as they need no other part of the
// manifest: valise.yaml has the same types and the same rules.

// fingerprintPattern is a SHA-256 as openssl x509 -fingerprint prints it, or sha256sum.
var fingerprintPattern = lazyregexp.New(`^[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}$`)

// Check returns what is wrong with the health checks of a kind of app. The units
// of a tree must run, so it needs no other check.
func (h *Health) Check(kind string) error {
	web := h.HTTP != ""
	switch {
	case h.Retries < 1 || h.Retries > 1000:
		return fmt.Errorf("retries is %d, want 1 to 1000", h.Retries)
	case h.Interval <= 0 || time.Duration(h.Interval) > time.Hour:
		return fmt.Errorf("interval must be greater than 0s and at most 1h, got %s", time.Duration(h.Interval))
	case h.StableFor < 0 || time.Duration(h.StableFor) > time.Hour:
		return fmt.Errorf("stable_for is %s, want at most 1h", time.Duration(h.StableFor))
	case kind == KindCompose && len(h.Compose) == 0 && !web && len(h.TCP) == 0 && h.Command == nil:
		return errors.New("there is no check, want compose (services), http, tcp or command: what cannot be seen to fail cannot be rolled back")
	case web && !strings.HasPrefix(h.HTTP, "http://") && !strings.HasPrefix(h.HTTP, "https://"):
		return fmt.Errorf("http is %.80q, want a URL", h.HTTP)
	case !web && (h.Status != 0 || h.Body != "" || len(h.JSON) > 0 || h.Version != ""):
		return errors.New("status, body, json and version are about the answer to http, and http is missing")
	case (h.CA != "" || h.Fingerprint != "") && !strings.HasPrefix(h.HTTP, "https://"):
		return errors.New("ca and fingerprint are about the certificate of an https URL, and http names none")
	case h.CA != "" && h.Fingerprint != "":
		return errors.New("want ca or fingerprint, not both: a fingerprint says all of a certificate")
	case h.CA != "" && !strings.Contains(h.CA, "${") && checkPath(strings.TrimPrefix(h.CA, "/")) != nil:
		return fmt.Errorf("ca is %.80q, want the path of a file of the device, or of the release", h.CA)
	case h.Fingerprint != "" && !strings.Contains(h.Fingerprint, "${") && !fingerprintPattern.MatchString(h.Fingerprint):
		return fmt.Errorf("fingerprint is %.120q, want the SHA-256 of a certificate: 64 hex digits, with or without colons", h.Fingerprint)
	case h.Status != 0 && (h.Status < 100 || h.Status > 599):
		return fmt.Errorf("status is %d, want 100 to 599", h.Status)
	case h.Command != nil && (h.Command.Service == "" || !isCommand(h.Command.Run)):
		return errors.New("command: want service and run, a list of words")
	}
	for _, a := range h.TCP {
		// What a variable stands for, only a device knows.
		if _, port, err := net.SplitHostPort(a); !strings.Contains(a, "${") && (err != nil || port == "") {
			return fmt.Errorf("tcp is %.80q, want host:port", a)
		}
	}
	return nil
}

func (h *Health) services() []string {
	if h.Command != nil {
		return append(slices.Clone(h.Compose), h.Command.Service)
	}
	return h.Compose
}

// Check returns what is wrong with the hook of a moment.
func (h Hook) Check(name string) error {
	switch {
	case !slices.Contains(HookNames, name):
		return fmt.Errorf("%.80q is not a moment, want one of %s", name, strings.Join(HookNames, ", "))
	case h.Timeout <= 0 || time.Duration(h.Timeout) > 24*time.Hour:
		return fmt.Errorf("%s: timeout must be greater than 0s and at most 24h, got %s", name, time.Duration(h.Timeout))
	case !isCommand(h.Run):
		return fmt.Errorf("%s: want run, a list of words", name)
	case h.Service != "" && strings.HasSuffix(name, "-stage"):
		return fmt.Errorf("%s: no container of the release can run before its images are there: want a file of the bundle", name)
	}
	return nil
}

// ComposeOverrides are the files that docker compose puts over a compose file by
// itself, in its order: the first that there is.
var ComposeOverrides = [...]string{"compose.override.yml", "compose.override.yaml", "docker-compose.override.yml", "docker-compose.override.yaml"}

// longestPart is the most time that a part of a change may be given.
const longestPart = 7 * 24 * time.Hour

// Check returns what is wrong with limits.
func (l Limits) Check() error {
	for _, p := range []struct {
		name string
		d    Duration
	}{{"stage", l.Stage}, {"backup", l.Backup}, {"activate", l.Activate}, {"probe", l.Probe}, {"undo", l.Undo}} {
		if p.d < 0 || time.Duration(p.d) > longestPart {
			return fmt.Errorf("%s must be greater than 0s and at most %s, got %s", p.name, longestPart, time.Duration(p.d))
		}
	}
	return nil
}

// Or returns l, with what it does not say taken from other.
func (l Limits) Or(other Limits) Limits {
	return Limits{cmp.Or(l.Stage, other.Stage), cmp.Or(l.Backup, other.Backup), cmp.Or(l.Activate, other.Activate), cmp.Or(l.Probe, other.Probe), cmp.Or(l.Undo, other.Undo)}
}

// Limits of parts of a change for which neither the release nor the device has one.
// Hooks have their own, which are added.
const (
	stageLimit    = 24 * time.Hour // a slow link is no fault
	backupLimit   = 6 * time.Hour
	activateLimit = 30 * time.Minute
	undoLimit     = time.Hour
	attemptLimit  = 2 * time.Minute // of one attempt of the health check
)

// TimeLimits are the limits of a change to the release of d: as over says, else as
// the release does, else the defaults. None is zero.
func (d *Device) TimeLimits(over Limits) Limits {
	hooks := func(limit time.Duration, names ...string) Duration {
		for _, name := range names {
			limit += time.Duration(d.Hooks[name].Timeout)
		}
		return Duration(limit)
	}
	probe := time.Duration(d.Health.Retries)*(time.Duration(d.Health.Interval)+attemptLimit) + 2*time.Duration(d.Health.StableFor)
	return over.Or(d.Limits).Or(Limits{
		Stage:    hooks(stageLimit, "pre-stage", "post-stage"),
		Backup:   hooks(backupLimit, "pre-backup", "post-backup"),
		Activate: hooks(activateLimit, "pre-activate", "migrate", "post-activate", "pre-rollback", "post-rollback"),
		Probe:    hooks(probe, "post-probe"),
		Undo:     hooks(undoLimit+probe, "pre-rollback", "post-rollback", "post-probe"),
	})
}

// Check returns what is wrong with a secret.
func (s Secret) Check() error {
	n, set, least, of := 0, 0, 8, "random bytes"
	for _, length := range []int{s.Hex, s.Base64, s.Password} {
		if length != 0 {
			n, set = length, set+1
		}
	}
	if s.Password != 0 {
		least, of = 12, "characters"
	}
	switch {
	case set != 1:
		return errors.New("want one of hex, base64 and password")
	case n < least || n > 128:
		return fmt.Errorf("%d %s, want %d to 128", n, of, least)
	case !nameArgument("x" + s.Prefix):
		return fmt.Errorf("prefix is %.80q, want at most 127 of A-Z a-z 0-9 _ . -", s.Prefix)
	case s.Show != "" && s.Show != "once":
		return fmt.Errorf("show is %.80q, want once", s.Show)
	case s.File != "" && !LocalPath(s.File):
		return fmt.Errorf("file is %.80q, want a path below the app's directory that does not belong to the installer", s.File)
	case s.User < 0 || s.User > 1<<31-1 || s.User > 0 && s.File == "":
		return fmt.Errorf("user is %d, want the number of the user that a file belongs to", s.User)
	}
	return nil
}

// Check returns what is wrong with a backup.
func (b Backup) Check() error {
	kind, service, _ := b.Subject()
	if kind == "" {
		return errors.New("want exactly one of postgres, mysql, mongo, redis, sqlite, volume and command")
	}
	if service == "" {
		return fmt.Errorf("%s: service is missing", kind)
	}
	var place string
	switch {
	case b.Postgres != nil:
		return checkDatabase(kind, b.Postgres.User, b.Postgres.Database)
	case b.MySQL != nil:
		return checkDatabase(kind, b.MySQL.User, b.MySQL.Database)
	case b.Mongo != nil:
		return checkDatabase(kind, "", b.Mongo.Database)
	case b.Redis != nil:
		return nil
	case b.Command != nil:
		if !isCommand(b.Command.Save) || !isCommand(b.Command.Restore) {
			return errors.New("command: want save and restore, each a list of words")
		}
		return nil
	case b.SQLite != nil:
		place = b.SQLite.Path
	case b.Volume != nil:
		place = b.Volume.Path
	}
	if !path.IsAbs(place) || path.Clean(place) != place || place == "/" || len(place) > MaxPathLength || !plainText(place) || strings.ContainsAny(place, "?#%") {
		return fmt.Errorf("%s: path is %.80q, want a clean absolute path in the container, below /", kind, place)
	}
	return nil
}

func checkDatabase(kind, user, name string) error {
	for _, s := range []string{user, name} {
		if s != "" && !nameArgument(s) {
			return fmt.Errorf("%s: want user and database, each of A-Z a-z 0-9 _ . -, the first not -, or none: those of the service's own environment", kind)
		}
	}
	return nil
}

// CheckRollback returns what is wrong with what d says of migration and
// rollback.
func (d *Device) CheckRollback() error {
	switch d.Migration {
	case "", Reversible, Irreversible:
	default:
		return fmt.Errorf("migration is %.80q, want reversible or irreversible", string(d.Migration))
	}
	switch d.RestoreData() {
	case RestoreNever:
		if d.Migration == Irreversible {
			return errors.New("restore_data is never after an irreversible migration: no rollback would be possible")
		}
	case RestoreAsk, RestoreAlways:
		if len(d.Backup) == 0 {
			return errors.New("data must be restored and nothing is backed up: want backup")
		}
	default:
		return fmt.Errorf("restore_data is %.80q, want never, ask or always", string(d.RestoreData()))
	}
	return nil
}

// check returns what is wrong with what is to be made.
func (c *Create) check() error {
	if c == nil {
		return nil
	}
	if len(c.Networks)+len(c.Volumes) == 0 {
		return errors.New("it names nothing")
	}
	for _, list := range [][]string{c.Networks, c.Volumes} {
		if len(list) > MaxMounts {
			return fmt.Errorf("%d, limit %d", len(list), MaxMounts)
		}
		for i, key := range list {
			if !servicePattern.MatchString(key) || i > 0 && list[i-1] >= key {
				return fmt.Errorf("%.80q is malformed, listed twice or out of order", key)
			}
		}
	}
	return nil
}

// isCommand reports whether argv can be run: it has a name that is no option,
// and is no longer than a manifest's strings may be.
func isCommand(argv []string) bool {
	n := 0
	for _, a := range argv {
		if n += len(a) + 1; strings.ContainsRune(a, 0) {
			return false
		}
	}
	return len(argv) > 0 && argv[0] != "" && argv[0][0] != '-' && n <= MaxStringLength
}
