package installer_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/installertest"
	"github.com/valise-ota/valise/verify"
)

// A first installation on a device in memory: of a release that does not become
// healthy nothing is left, and of a healthy one everything.
func ExampleInstaller_Update() {
	rel, err := vector("../testdata/vectors/good.bundle")
	if err != nil {
		panic(err)
	}
	world := installertest.NewWorld()
	journal := &installertest.Journal{Faults: world.Faults}
	in := &installer.Installer{Journal: journal, Runtime: world, Now: time.Now, NewID: func() string { return fmt.Sprint("R", len(journal.Records)+1) }, Rotate: world.Rotate}

	world.Sick["1.2.3"] = true
	res := in.Update(context.Background(), rel, 3)
	fmt.Println(res.Outcome, res.Record.Status)

	world.Sick["1.2.3"] = false
	res = in.Update(context.Background(), rel, 3)
	fmt.Println(res.Outcome, res.Record.To.Version, world.Running)
	// Output:
	// unchanged failed
	// done 1.2.3 1.2.3
}

// vector is the verified release of a test file.
func vector(file string) (*verify.Release, error) {
	key, err := os.ReadFile("../testdata/vectors/signer.pub")
	if err != nil {
		return nil, err
	}
	v, err := verify.New(verify.Policy{Signers: []verify.Signer{{Key: string(key)}}})
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	_, b, _ := bytes.Cut(text, []byte("\n\n")) // behind what a test expects of it
	r, err := bundle.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	return v.Release(context.Background(), r, verify.Want{App: "shop"}, nil)
}
