package verify_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

func TestChecksums(t *testing.T) {
	s := verifytest.NewSigner(t)
	v, err := verify.New(s.Policy())
	if err != nil {
		t.Fatal(err)
	}
	one, two := sha256.Sum256([]byte("one")), sha256.Sum256([]byte("two"))
	list := fmt.Sprintf("%x  one\n%x *two\n", one, two)
	c, err := v.Checksums([]byte(list), s.Sign(t, []byte(list)))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Check("one", one), c.Check("two", two)); err != nil {
		t.Error(err)
	}
	for name, got := range map[string]error{"changed": c.Check("one", two), "not listed": c.Check("three", one)} {
		if refused := new(verify.Error); !errors.As(got, &refused) || refused.Check != verify.CheckChecksums {
			t.Errorf("%s: %v", name, got)
		}
	}
	if err := c.Check("three", one); !strings.Contains(err.Error(), "has no three") {
		t.Error(err)
	}
	for name, list := range map[string]string{
		"cut off": strings.TrimSuffix(list, "\n"), "twice": list + list, "path": fmt.Sprintf("%x  ../one\n", one), "no name": fmt.Sprintf("%x  \n", one), "no digest": "one\n", "short digest": "abcd  one\n",
	} {
		_, err := v.Checksums([]byte(list), s.Sign(t, []byte(list)))
		if refused := new(verify.Error); !errors.As(err, &refused) || refused.Check != verify.CheckChecksums {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v.Checksums([]byte(list), s.Sign(t, []byte("another"))); err == nil {
		t.Error("the signature of another list was accepted")
	}
}

// TestKindOfSigner: a policy of identities knows no key, and says so.
func TestKindOfSigner(t *testing.T) {
	s := verifytest.NewSigner(t)
	v := keyless(t, releaseTag)
	refused := new(verify.Error)
	if _, err := v.Digest(sum, s.Sign(t, []byte("fixture"))); !errors.As(err, &refused) || refused.Check != verify.CheckSigner {
		t.Errorf("signed with a key: %v", err)
	}
	if _, err := v.Bare(sum, []byte("x")); !errors.As(err, &refused) || refused.Check != verify.CheckTime {
		t.Errorf("a bare signature: %v", err)
	}
	if _, err := verify.Identify(sum, fixture(t, "good.sigstore.json"), []byte("{}")); !errors.As(err, &refused) || refused.Check != verify.CheckPolicy {
		t.Errorf("a root that is none: %v", err)
	}
}
