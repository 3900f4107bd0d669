package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer/fleet/fleettest"
)

// programs are those of this package that scripts call.
var programs = map[string]func(){"valise-installer": main, "tiny-update": main}

func TestMain(m *testing.M) { testscript.Main(tidy{m}, programs) }

// tidy removes the program that tests share.
type tidy struct{ *testing.M }

func (m tidy) Run() int {
	defer func() { os.RemoveAll(linked) }()
	return m.M.Run()
}

// TestScript needs no engine: what it tries is refused before one is asked.
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, params("testdata/script", "unix:///nowhere/docker.sock"))
}

// TestEngine runs a tiny app on a real engine.
func TestEngine(t *testing.T) {
	t.Parallel()
	testscript.Run(t, params("testdata/engine", realEngine(t)))
}

// TestPage runs the update page and its API, with a tiny app on a real engine.
func TestPage(t *testing.T) {
	t.Parallel()
	testscript.Run(t, params("testdata/page", realEngine(t)))
}

// TestSource runs a tiny app on a real engine, whose releases come from a server.
func TestSource(t *testing.T) {
	t.Parallel()
	p := params("testdata/source", realEngine(t))
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		if err := setup(e); err != nil {
			return err
		}
		if strings.HasSuffix(e.WorkDir, "github") {
			e.Setenv("APP", "tiny") // whose updater is called tiny-update
		}
		return nil
	}
	testscript.Run(t, p)
}

// TestShop runs the sample app, database and all, on a real engine.
func TestShop(t *testing.T) {
	t.Parallel()
	host := realEngine(t)
	if os.Getenv("VALISE_TEST_IMAGES") == "" {
		need(t, "the sample images (VALISE_TEST_IMAGES, printed by scripts/sample-images.sh)")
	}
	p := params("testdata/shop", host)
	setup, dir := p.Setup, t.TempDir()
	buildShop(t, dir)
	p.Setup = func(e *testscript.Env) error {
		if err := setup(e); err != nil {
			return err
		}
		e.Setenv("APP", "shop")
		e.Setenv("RELEASES", dir)
		return nil
	}
	testscript.Run(t, p)
}

// need skips a test that needs something this machine lacks; in CI it fails.
func need(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing: %s", what)
	}
	t.Skipf("missing: %s", what)
}

// realEngine returns the address of the engine for tests. Test programs must
// reach the ports it publishes: see scripts/test.sh.
func realEngine(t testing.TB) string {
	t.Helper()
	host := os.Getenv("VALISE_TEST_DOCKER_HOST")
	if host == "" {
		need(t, "an engine (VALISE_TEST_DOCKER_HOST)")
	}
	return host
}

// params are what all scripts have in common. Each has an app of its own, in
// $APP, on a device of its own, whose root is $DEVICE, with a port in $PORT; at
// its end everything of the app is removed from the engine.
func params(dir, host string) testscript.Params {
	return testscript.Params{
		Dir:             dir,
		ContinueOnError: true,
		Condition:       byHandIs(true),
		Setup: func(e *testscript.Env) error {
			t := e.T().(testing.TB)
			e.Setenv("APP", "t"+strings.ToLower(rand.Text()[:10]))
			e.Setenv("DEVICE", filepath.Join(e.WorkDir, "device"))
			e.Setenv("DOCKER_HOST", host)
			e.Setenv("SCAN", bundletest.Slower(500*time.Millisecond).String())
			e.Setenv("PATIENCE", strconv.Itoa(int(bundletest.Patience().Seconds())))
			e.Setenv("DOCKER_CONFIG", os.Getenv("DOCKER_CONFIG"))
			repository, err := filepath.Abs("../..")
			if err != nil {
				return err
			}
			e.Setenv("FIXTURES", filepath.Join(repository, "verify/testdata/keyless"))
			e.Setenv("PUBLICGOOD", filepath.Join(repository, "verify/trustroot/public-good.json"))
			port, err := freePort()
			if err != nil {
				return err
			}
			e.Setenv("PORT", port)
			page, err := freePort()
			if err != nil {
				return err
			}
			e.Setenv("PAGE", page)
			e.Values[testKey{}] = &state{TB: t}
			e.Defer(func() { cleanEngine(t, host, e.Getenv("APP")) })
			return os.MkdirAll(e.Getenv("DEVICE"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ok":          ok,
			"fails":       fails,
			"snapshot":    snapshot,
			"mkbundle":    makeBundle,
			"mutate":      mutate,
			"dotenv":      dotenv,
			"runs":        runs,
			"additem":     addItem,
			"items":       countItems,
			"json":        checkJSON,
			"holdlock":    holdLock,
			"killat":      killAt,
			"terminate":   terminate,
			"during":      during,
			"mount":       mount,
			"ownengine":   ownEngine,
			"loadedonly":  loadedOnly,
			"chain":       chain,
			"thinfor":     thinFor,
			"stick":       stick,
			"unstick":     unstick,
			"awaits":      awaits,
			"token":       makeToken,
			"grows":       grows,
			"web":         web,
			"registry":    startRegistry,
			"push":        pushBundle,
			"rollout":     makeRollout,
			"fault":       fault,
			"traffic":     traffic,
			"enginedies":  engineDies,
			"enginehangs": engineHangs,
		},
	}
}

// byHandIs answers the condition [hand]: commands do not go through a daemon.
func byHandIs(hand bool) func(string) (bool, error) {
	return func(condition string) (bool, error) {
		if condition != "hand" {
			return false, fmt.Errorf("there is no condition %q", condition)
		}
		return hand, nil
	}
}

// testKey finds the state of a script in its values.
type testKey struct{}

type state struct {
	testing.TB
	unlock  func() error    // of holdlock
	running *stopped        // of during
	web     *webServer      // of web
	engine  func(string)    // of ownengine: kill, up, hang, go on
	watched func() []string // of watch
	daemon  bool            // commands go through one

	registries map[string]*httptest.Server // of registry
	hawkbit    *fleettest.Server           // of hawkbit
}

// tb lets the helpers of other packages, which want a testing.TB, end a script.
type tb struct {
	testing.TB
	ts *testscript.TestScript
}

func test(ts *testscript.TestScript) testing.TB { return tb{ts.Value(testKey{}).(*state).TB, ts} }

func (t tb) Fatal(args ...any)                 { t.ts.Fatalf("%s", fmt.Sprint(args...)) }
func (t tb) Fatalf(format string, args ...any) { t.ts.Fatalf(format, args...) }

// ports are those of this process: of each it has a name that no other test
// program of this network can have too. The kernel gives ports of this range to
// nobody who asks for any.
var ports struct {
	sync.Mutex
	claims []net.Listener
}

func freePort() (string, error) {
	ports.Lock()
	defer ports.Unlock()
	for n := 10000; n < 30000; n++ {
		port := strconv.Itoa(n)
		claim, err := net.Listen("unix", "@valise-test-port-"+port)
		if err != nil {
			continue
		}
		ports.claims = append(ports.claims, claim)
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err == nil {
			return port, l.Close()
		}
	}
	return "", errors.New("no port is free")
}
