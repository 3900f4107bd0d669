package device_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/bundle/trace/tracetest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/installer/hook"
	"github.com/valise-ota/valise/installer/installertest"
	"github.com/valise-ota/valise/verify"
)

// hooked is a runtime in memory that runs a program of the release when it stages it.
type hooked struct{ *installertest.World }

func (h hooked) Stage(ctx context.Context, rel *verify.Release, to installer.Release, kept []installer.Release) error {
	return errors.Join(hook.Run(ctx, "/bin/true", nil, "/", nil, time.Minute, io.Discard), h.World.Stage(ctx, rel, to, kept))
}

// TestTrace: the trace of an update, of one that goes back, and of what is done to an app
// besides has the steps, the programs in them, and the bytes that were read.
func TestTrace(t *testing.T) {
	dir, trusted := releases("1.0.0", "1.1.0", "1.2.0")
	defer os.RemoveAll(dir)
	world, verified := installertest.NewWorld(), int64(0)
	m := &device.Machine{
		Root: filepath.Join(dir, "root"), Getenv: func(string) string { return "" }, Now: time.Now, Note: func(string, ...any) {},
		Step: func(string, string) {}, Report: func(e installer.Event) {
			if e.Step == "verify" && e.Done > 0 {
				verified = e.Done
			}
		}, Secret: func(string, string, string) {},
		Runtime: func(string) installer.Runtime { return hooked{world} },
	}
	var out bytes.Buffer
	ctx, root := trace.New(t.Context(), &out, time.Now, "test", func(err error) { t.Error(err) })
	update := func(version string, o device.Options) installer.Result {
		c, err := m.Verify(ctx, filepath.Join(dir, version+".tar.gz"), o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := m.Plan(ctx, c, o); err != nil {
			t.Fatal(err)
		}
		res, err := m.Apply(ctx, c, o)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	update("1.0.0", device.Options{First: true, Trust: device.Trust{Policy: func() (verify.Policy, error) { return trusted, nil }}})
	update("1.1.0", device.Options{})
	read := verified
	world.Sick["1.2.0"] = true
	if res := update("1.2.0", device.Options{}); res.Outcome != installer.Reverted {
		t.Fatalf("got %+v", res)
	}
	if _, err := m.Rollback(ctx, false, false); err != nil {
		t.Fatal(err)
	}
	root.End(nil)
	spans := tracetest.Spans(t, out.Bytes())
	apply := "test > apply shop 1.1.0 > "
	tracetest.Want(t, spans,
		"test > open 1.1.0.tar.gz step", fmt.Sprintf("test > open 1.1.0.tar.gz > verify shop 1.1.0 step %d", read), "test > plan step", "test > apply shop 1.1.0 step",
		apply+"stage step", apply+"stage > true child", apply+"backup step", apply+"activate step", apply+"probe step", apply+"prune step",
		"test > apply shop 1.2.0 > undo activate step", "test > rollback shop step", "test > rollback shop > activate step")
}
