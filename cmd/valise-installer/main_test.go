package main

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"valise-installer": main, "tiny-update": main})
}

// TestScript needs no engine: what it tries is refused before one is asked.
func TestScript(t *testing.T) {
	testscript.Run(t, params("testdata/script", "unix:///nowhere/docker.sock"))
}

// TestEngine runs a tiny app on a real engine.
func TestEngine(t *testing.T) {
	p := params("testdata/engine", realEngine(t))
	if os.Getenv("VALISE_TEST_IMAGES") == "" || os.Getenv("VALISE_TEST_MARIADB") == "" {
		need(t, "the sample images and MariaDB (VALISE_TEST_IMAGES, VALISE_TEST_MARIADB)")
	}
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		e.Setenv("MARIADB", os.Getenv("VALISE_TEST_MARIADB")+","+filepath.Join(os.Getenv("VALISE_TEST_IMAGES"), "base"))
		return setup(e)
	}
	testscript.Run(t, p)
}

// TestPage runs the update page and its API, with a tiny app on a real engine.
func TestPage(t *testing.T) {
	testscript.Run(t, params("testdata/page", realEngine(t)))
}

// TestSource runs a tiny app on a real engine, whose releases come from a server.
func TestSource(t *testing.T) {
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
		Setup: func(e *testscript.Env) error {
			t := e.T().(testing.TB)
			e.Setenv("APP", "t"+strings.ToLower(rand.Text()[:10]))
			e.Setenv("DEVICE", filepath.Join(e.WorkDir, "device"))
			e.Setenv("DOCKER_HOST", host)
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
			"ok":         ok,
			"fails":      fails,
			"snapshot":   snapshot,
			"mkbundle":   makeBundle,
			"mutate":     mutate,
			"dotenv":     dotenv,
			"runs":       runs,
			"additem":    addItem,
			"items":      countItems,
			"json":       checkJSON,
			"holdlock":   holdLock,
			"killat":     killAt,
			"terminate":  terminate,
			"during":     during,
			"mount":      mount,
			"ownengine":  ownEngine,
			"loadedonly": loadedOnly,
			"chain":      chain,
			"thinfor":    thinFor,
			"stick":      stick,
			"unstick":    unstick,
			"awaits":     awaits,
			"token":      makeToken,
			"grows":      grows,
			"web":        web,
			"fault":      fault,
			"traffic":    traffic,
			"enginedies": engineDies,
		},
	}
}

// testKey finds the state of a script in its values.
type testKey struct{}

type state struct {
	testing.TB
	unlock  func() error    // of holdlock
	running *stopped        // of during
	web     *webServer      // of web
	engine  func(string)    // of ownengine: kill, up
	watched func() []string // of watch
}

// tb lets the helpers of other packages, which want a testing.TB, end a script.
type tb struct {
	testing.TB
	ts *testscript.TestScript
}

func test(ts *testscript.TestScript) testing.TB { return tb{ts.Value(testKey{}).(*state).TB, ts} }

func (t tb) Fatal(args ...any)                 { t.ts.Fatalf("%s", fmt.Sprint(args...)) }
func (t tb) Fatalf(format string, args ...any) { t.ts.Fatalf(format, args...) }

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
