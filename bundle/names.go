package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Digest is "sha256:" and 64 lower-case hex digits.
type Digest string

var digestPattern = lazyregexp.New(`^sha256:[0-9a-f]{64}$`)

// Valid reports whether d has the form of a digest. Only a valid digest may
// become part of a path.
func (d Digest) Valid() bool { return digestPattern.MatchString(string(d)) }

// Hex is d without its algorithm.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// DigestOf is the digest of b.
func DigestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return digestFrom(sum[:])
}

// ReadDigest is the digest of all that r has, and how many bytes that is.
func ReadDigest(r io.Reader) (Digest, int64, error) {
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	return digestFrom(sum.Sum(nil)), n, err
}

func digestFrom(sum []byte) Digest { return Digest("sha256:" + hex.EncodeToString(sum)) }

// Platform is os/architecture or os/architecture/variant, as in the OCI image
// spec: "linux/amd64", "linux/arm/v7".
type Platform string

var platformPattern = lazyregexp.New(`^[a-z0-9]{1,32}/[a-z0-9_]{1,32}(/[a-z0-9.]{1,16})?$`)

// ParsePlatform checks the form of s. linux/arm64/v8 is the same machine as
// linux/arm64 and becomes it.
func ParsePlatform(s string) (Platform, error) {
	if !platformPattern.MatchString(s) {
		return "", fmt.Errorf("platform %q: want os/architecture or os/architecture/variant", s)
	}
	if s == "linux/arm64/v8" {
		s = "linux/arm64"
	}
	return Platform(s), nil
}

// OS, Arch and Variant are the parts of a platform.
func (p Platform) OS() string      { return p.part(0) }
func (p Platform) Arch() string    { return p.part(1) }
func (p Platform) Variant() string { return p.part(2) }

func (p Platform) part(i int) string {
	parts := strings.Split(string(p), "/")
	if i < len(parts) {
		return parts[i]
	}
	return ""
}

// Dashed is p as part of a file name: linux-arm-v7.
func (p Platform) Dashed() string { return strings.ReplaceAll(string(p), "/", "-") }

var appPattern = lazyregexp.New(`^[a-z][a-z0-9-]{0,62}$`)

// ValidApp reports whether s may be the name of an app: it becomes part of
// paths, unit names and the compose project name.
func ValidApp(s string) bool { return appPattern.MatchString(s) }

var envPattern = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// ValidEnvKey reports whether s may be a key of an environment file.
func ValidEnvKey(s string) bool { return envPattern.MatchString(s) }

// VersionEnvOf is the key of the environment file that carries the version of an app,
// unless its release says another one.
func VersionEnvOf(app string) string {
	return strings.ToUpper(strings.ReplaceAll(app, "-", "_")) + "_VERSION"
}

// checkPath says what is wrong with p as the path of an entry: it must be
// relative, clean, printable UTF-8, and stay below where it is extracted on
// every common file system.
func checkPath(p string) error {
	switch {
	case p == "" || len(p) > MaxPathLength:
		return fmt.Errorf("path has %d bytes, want 1 to %d", len(p), MaxPathLength)
	case !utf8.ValidString(p):
		return fmt.Errorf("path is not UTF-8")
	case strings.HasPrefix(p, "/"):
		return fmt.Errorf("path is absolute")
	case path.Clean(p) != p || p == "." || p == ".." || strings.HasPrefix(p, "../"):
		return fmt.Errorf("path is not clean or leaves the bundle")
	case strings.ContainsAny(p, "\\:"):
		return fmt.Errorf("path has a backslash or colon")
	}
	for _, r := range p {
		if unicode.IsControl(r) || unicode.Is(unicode.M, r) {
			return fmt.Errorf("path has a control character or a combining mark")
		}
	}
	return nil
}
