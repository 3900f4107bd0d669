package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// MaxChecksums is the most bytes a list of checksums may have.
const MaxChecksums = 1 << 20

// Checksums are the SHA-256 of files by their bare names, as one signature
// vouches for them.
type Checksums struct {
	Signer Signer
	sums   map[string][sha256.Size]byte
}

// Checksums checks a list as sha256sum writes it, and its signature.
func (v *Verifier) Checksums(list, sigstore []byte) (*Checksums, error) {
	signer, err := v.Digest(sha256.Sum256(list), sigstore)
	if err != nil {
		return nil, err
	}
	c := &Checksums{signer, map[string][sha256.Size]byte{}}
	if len(list) > MaxChecksums || len(list) > 0 && !bytes.HasSuffix(list, []byte("\n")) {
		return nil, refuse(CheckChecksums, nil, "the signed list of checksums is truncated or longer than %d bytes", MaxChecksums)
	}
	number := 0
	for line := range strings.Lines(string(list)) {
		number++
		sum, name, err := parseChecksum(strings.TrimSuffix(line, "\n"))
		if _, twice := c.sums[name]; err == nil && twice {
			err = fmt.Errorf("%q stands in it twice", name)
		}
		if err != nil {
			return nil, refuse(CheckChecksums, err, "line %d of the signed list of checksums is none: %v", number, err)
		}
		c.sums[name] = sum
	}
	return c, nil
}

// parseChecksum reads "64 HEX DIGITS, two spaces or a space and a star, NAME".
func parseChecksum(line string) (sum [sha256.Size]byte, name string, err error) {
	digits, name, ok := strings.Cut(line, " ")
	raw, err := hex.DecodeString(digits)
	if !ok || err != nil || len(raw) != sha256.Size || len(name) < 2 || name[0] != ' ' && name[0] != '*' {
		return sum, "", fmt.Errorf("%.80q, want a SHA-256 in hex, two spaces and a file name", line)
	}
	if name = name[1:]; strings.ContainsAny(name, `/\`) {
		return sum, "", fmt.Errorf("%.80q is a path, want a bare file name", name)
	}
	return [sha256.Size]byte(raw), name, nil
}

// Check compares a file of that bare name with the list.
func (c *Checksums) Check(name string, sum [sha256.Size]byte) error {
	want, ok := c.sums[name]
	if !ok {
		return refuse(CheckChecksums, nil, "the list of checksums that %s signed has no %s: the file was renamed, or belongs to another release", c.Signer, name)
	}
	if sum != want {
		return refuse(CheckChecksums, nil, "%s has SHA-256 %x, and the list that %s signed says %x: the file was changed, or belongs to another release; get it again", name, sum, c.Signer, want)
	}
	return nil
}
