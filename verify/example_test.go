package verify_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/verify"
)

// A release is what a Verifier gives, and nothing else is one.
func ExampleVerifier_Release() {
	key, err := os.ReadFile("../testdata/vectors/signer.pub")
	if err != nil {
		panic(err)
	}
	v, err := verify.New(verify.Policy{Signers: []verify.Signer{{Key: string(key)}}})
	if err != nil {
		panic(err)
	}
	text, err := os.ReadFile("../testdata/vectors/good.bundle")
	if err != nil {
		panic(err)
	}
	_, b, _ := bytes.Cut(text, []byte("\n\n")) // behind what a test expects of it
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		panic(err)
	}
	rel, err := v.Release(context.Background(), r, verify.Want{App: "shop", Platform: "linux/amd64", Floor: "1.0.0"}, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(rel.Manifest().App, rel.Manifest().Version, "may be installed")

	_, err = v.Release(context.Background(), r, verify.Want{App: "shop", Floor: "2.0.0"}, nil)
	refused := new(verify.Error)
	fmt.Println(errors.As(err, &refused), refused.Check)
	// Output:
	// shop 1.2.3 may be installed
	// true downgrade
}
