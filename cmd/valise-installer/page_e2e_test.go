//go:build e2e_page

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestBrowser drives the page in a real Chromium. It needs VALISE_AXE, the file
// axe.min.js of axe-core, and leaves pictures in VALISE_SCREENSHOTS if that is
// set: see scripts/e2e-page.sh.
func TestBrowser(t *testing.T) {
	p := params("testdata/browser", realEngine(t))
	setup := p.Setup
	p.Setup = func(e *testscript.Env) error {
		if err := setup(e); err != nil {
			return err
		}
		if strings.HasSuffix(e.WorkDir, "look") {
			e.Setenv("APP", "tiny") // as the double of GitHub calls it
		}
		if strings.HasSuffix(e.WorkDir, "load") { // what devices run, for its memory: not the tests' own program
			bin := filepath.Join(e.WorkDir, ".bin")
			build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(bin, "valise-installer"), ".")
			build.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := build.CombinedOutput(); err != nil {
				return fmt.Errorf("build: %w\n%s", err, out)
			}
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
		}
		return nil
	}
	p.Cmds["browser"] = runBrowser
	p.Cmds["load"] = load
	p.ContinueOnError = false // one thing leads to another
	testscript.Run(t, p)
}

// tab is a browser with one page of the device open.
type tab struct {
	name string
	ts   *testscript.TestScript
	ctx  context.Context
	base string
	link *wire
}

// runBrowser is browser SCENARIO: what somebody does in a browser.
func runBrowser(ts *testscript.TestScript, neg bool, args []string) {
	scenario, ok := scenarios[args[0]]
	if !ok {
		ts.Fatalf("no scenario %q", args[0])
	}
	// Between browser and device there is a network that can fail.
	link, err := newWire("127.0.0.1:" + ts.Getenv("PAGE"))
	ts.Check(err)
	defer link.Close()
	alloc, stop := chromedp.NewExecAllocator(context.Background(), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("lang", "en"), chromedp.WindowSize(1280, 900))
	defer stop()
	ctx, cancel := chromedp.NewContext(alloc)
	defer cancel()
	ts.Check(chromedp.Do(ctx, chromedp.EmulateViewport(1280, 900))) // without a limit: it begins the browser
	ctx, cancel = context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	b := &tab{args[0], ts, ctx, "http://" + link.Addr().String(), link}
	scenario(b, args[1:])
}

// another opens one more tab of the same browser, and returns what closes it:
// without asking, as when the battery is empty.
func (b *tab) another() (t *tab, closed func()) {
	ctx, cancel := chromedp.NewContext(b.ctx)
	t = &tab{b.name, b.ts, ctx, b.base, b.link}
	t.do(chromedp.EmulateViewport(1280, 900))
	return t, cancel
}

// wire is a slow TCP connection to a device that can be cut.
type wire struct {
	net.Listener
	to string

	mu    sync.Mutex
	cut   bool
	conns []net.Conn
	sent  int // bytes that the browser sent
	limit int // after so many of them nothing gets through any more, when it is not 0
}

func newWire(to string) (*wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &wire{Listener: l, to: to}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go n.carry(c)
		}
	}()
	return n, nil
}

func (l *wire) carry(c net.Conn) {
	d, err := net.Dial("tcp", l.to)
	l.mu.Lock()
	if err != nil || l.cut {
		l.mu.Unlock()
		c.Close()
		return
	}
	l.conns = append(l.conns, c, d)
	l.mu.Unlock()
	for _, pair := range [][2]net.Conn{{c, d}, {d, c}} {
		go func() {
			b := make([]byte, 64<<10)
			for {
				n, err := pair[0].Read(b)
				if pair[0] == c {
					l.count(n)
				}
				if n > 0 {
					time.Sleep(4 * time.Millisecond) // 16 MB/s
					_, _ = pair[1].Write(b[:n])
				}
				if err != nil {
					pair[1].Close()
					return
				}
			}
		}()
	}
}

// count adds bytes of the browser, and waits where no more get through.
func (l *wire) count(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.limit > 0 && l.sent > l.limit {
		l.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		l.mu.Lock()
	}
	l.sent += n
}

// let says how many bytes more the browser may send; 0 for any number. It
// returns how many it sent.
func (l *wire) let(more int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit = more
	if more > 0 {
		l.limit += l.sent
	}
	return l.sent
}

// set cuts the link, or mends it.
func (l *wire) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		for _, c := range l.conns {
			c.Close()
		}
		l.conns = nil
	}
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.check(chromedp.Do(b.ctx, actions...))
}

func (b *tab) check(err error) {
	if err != nil {
		body, _ := chromedp.Run(b.ctx, chromedp.Text("body"))
		b.shot("failure-" + b.name)
		b.ts.Fatalf("%v; the page says:\n%s", err, body)
	}
}

// eval is the value of an expression, or of what it promises.
func eval[T any](b *tab, js string) T {
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	b.check(err)
	return v
}

// scheme is light, dark, or what the browser has.
func scheme(name string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	})
}

// until waits for an expression to be true.
func (b *tab) until(js string) {
	ctx, cancel := context.WithTimeout(b.ctx, 3*time.Minute)
	defer cancel()
	var err error
	for again := true; again; { // a page that loads itself anew ends what was asked of it
		_, err = chromedp.Run(ctx, chromedp.Poll[bool](js, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(0)))
		again = err != nil && ctx.Err() == nil && (strings.Contains(err.Error(), "navigated or closed") || strings.Contains(err.Error(), "Cannot find context"))
	}
	if err != nil {
		err = fmt.Errorf("never true: %s: %w", js, err)
	}
	b.check(err)
}

func (b *tab) says(selector, text string) {
	b.until(fmt.Sprintf("[...document.querySelectorAll(%q)].some(e => e.checkVisibility() && e.innerText.includes(%q))", selector, text))
}

// unfold shows a part that is folded.
func (b *tab) unfold(part string) {
	fold := fmt.Sprintf("document.querySelector('[data-part=%s] .fold')", part)
	b.until(fold + " !== null")
	eval[bool](b, fold+".open = true")
}

func (b *tab) click(selector string) { b.do(chromedp.Click(selector, chromedp.NodeVisible)) }

func (b *tab) login(name string) {
	password, err := os.ReadFile(b.ts.MkAbs(name + ".password"))
	b.ts.Check(err)
	b.do(chromedp.Navigate(b.base+"/"), chromedp.WaitVisible("input[name=password]"))
	b.axe("login")
	b.do(chromedp.SetValue("input[name=user]", name), chromedp.SendKeys("input[name=password]", string(password)+"\r"), chromedp.WaitVisible("#main"))
	b.until("document.readyState === 'complete'") // before its script has begun, nobody hears a click
}

// axe checks the page as it is against the rules for accessibility, light and
// dark.
func (b *tab) axe(where string) {
	source, err := os.ReadFile(os.Getenv("VALISE_AXE"))
	b.ts.Check(err)
	defer b.do(scheme(""), chromedp.EmulateViewport(1280, 900))
	for _, name := range []string{"light", "dark", "mobile"} {
		if name == "mobile" {
			b.do(scheme("light"), chromedp.EmulateViewport(390, 844))
		} else {
			b.do(scheme(name))
		}
		// The page's policy keeps foreign scripts out, but not those of the one
		// who drives the browser.
		_, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](string(source)+"; true"))
		b.check(err)
		list := eval[[]string](b, `axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}).then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html + ' ' + n.failureSummary).join(' | ')))`)
		if len(list) > 0 {
			b.check(fmt.Errorf("accessibility of %s, %s: %s", where, name, strings.Join(list, "; ")))
		}
	}
}

// shots takes a picture of all of the page: light, dark, and as on a telephone.
func (b *tab) shots(name string) {
	for _, mode := range []string{"light", "dark"} {
		b.do(scheme(mode))
		b.shot(name + "-" + mode)
	}
	b.do(scheme(""), chromedp.EmulateViewport(390, 844))
	b.shot(name + "-mobile")
	if over := eval[int](b, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
		b.ts.Fatalf("%s: a telephone has to scroll sideways by %d pixels", name, over)
	}
	b.do(chromedp.EmulateViewport(1280, 900))
}

// top takes a picture of the top of the page, light and dark: that of the README.
func (b *tab) top(name string) {
	b.do(chromedp.EmulateViewport(1280, 590))
	for _, mode := range []string{"light", "dark"} {
		b.do(scheme(mode))
		b.save(name+"-"+mode, chromedp.CaptureScreenshot())
	}
	b.do(scheme(""), chromedp.EmulateViewport(1280, 900))
}

func (b *tab) shot(name string) { b.save(name, chromedp.FullScreenshot(100)) }

func (b *tab) save(name string, picture chromedp.Action[[]byte]) {
	dir := os.Getenv("VALISE_SCREENSHOTS")
	if dir == "" {
		return
	}
	if png, err := chromedp.Run(b.ctx, picture); err == nil {
		b.ts.Check(os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
	}
}

// choose gives the page files to upload.
func (b *tab) choose(file string) {
	var files []string
	for name := range strings.FieldsSeq(file) {
		files = append(files, b.ts.MkAbs(name))
	}
	b.do(chromedp.SetUploadFiles("#file", files, chromedp.NodeReady))
}

var scenarios = map[string]func(*tab, []string){
	// Upload, plan, apply, live progress, completed; a reload in the middle.
	"update": func(b *tab, args []string) {
		b.login("admin")
		b.says("#version", "1.0.0")
		b.says("#release", args[0])
		b.axe("page")
		b.says("[data-part=health]", "checks ")
		b.unfold("health")
		b.says("[data-part=health]", "engine")
		b.choose("1.1.0.tar.gz")
		b.says("#plan", "What this update would do")
		b.says("#plan .versions", "1.1.0")
		b.axe("plan")
		b.shots("plan")
		b.says("#waiting", "1.1.0")
		b.click("#plan [data-action=apply]")
		b.says("#activity", "1.1.0")
		b.until("document.querySelectorAll('#log li').length > 1")
		b.shot("applying")
		b.do(chromedp.Reload(), chromedp.WaitVisible("#activity"))
		b.until("document.querySelectorAll('#log li').length > 1")
		b.says("#activity", "completed")
		b.says("#version .number", "1.1.0")
		b.says("#history", "completed")
		b.says("#waiting", "Nothing is waiting")
		b.axe("completed")
	},
	// A release that does not get healthy. Meanwhile the page's own process dies, and comes back: who watches notices
	// nothing but a moment of silence, and need not log in again.
	"sick": func(b *tab, args []string) {
		b.login("admin")
		b.choose("sick.tar.gz")
		b.says("#plan .versions", "1.2.0")
		b.click("#plan [data-action=apply]")
		b.says("#activity .steps .begun", "Switch")
		dead := processes(b.ts.Getenv("DEVICE"), "page")
		for _, pid := range dead {
			b.ts.Check(syscall.Kill(pid, syscall.SIGKILL))
		}
		for slices.Equal(dead, processes(b.ts.Getenv("DEVICE"), "page")) {
			time.Sleep(10 * time.Millisecond)
		}
		b.says("#activity", "rolled back")
		b.says("#activity", "The version did not become healthy. Version 1.1.0 runs again.")
		b.says("#activity .steps .failed", "Check health")
		b.until("!document.querySelector('#activity .spin')")
		b.says("#version .number", "1.1.0")
		b.says("#history", "rolled back")
		b.axe("rolled back")
	},
	// The update service is killed while it waits for a release to get healthy, stays away for a while and comes back.
	// Who watches is told all of it, also who opens the page meanwhile, and need not load it again.
	"killed": func(b *tab, args []string) {
		b.login("admin")
		b.choose("slow.tar.gz")
		b.says("#plan .versions", "1.4.0")
		b.click("#plan [data-action=apply]")
		b.says("#activity .steps .begun", "Check health")
		eval[bool](b, "window.before = true")
		for _, pid := range processes(b.ts.Getenv("DEVICE"), "serve") {
			b.ts.Check(syscall.Kill(pid, syscall.SIGKILL))
		}
		b.says("#messages", "The update service does not answer")
		b.until("document.querySelectorAll('[role=alert]').length === 0") // said once
		b.says("#activity .steps .begun", "Check health")                 // what is known
		b.shots("down")
		late, closed := b.another()
		defer closed()
		late.do(chromedp.Navigate(b.base+"/"), chromedp.WaitVisible("#main"))
		late.says("#main", "The update service does not answer")
		late.axe("down")
		b.ts.Check(os.WriteFile(b.ts.MkAbs("again"), nil, 0o600))
		for _, t := range []*tab{b, late} {
			t.says("#activity", "rolled back")
			t.says("#activity", "The update was interrupted")
			t.says("#version .number", "1.1.0")
			t.says("#history", "rolled back")
			t.until("document.querySelector('#messages').innerText === ''")
		}
		b.until("window.before && [...document.querySelectorAll('#log li')].some(e => e.textContent.includes('rolling back'))")
		b.axe("recovered")
		b.shots("recovered")
	},
	// Refused: an upload is nobody's word.
	"stranger": func(b *tab, args []string) {
		b.login("admin")
		b.choose("stranger.tar.gz 1.1.0.tar.gz")
		b.says("#messages", "Choose one bundle, or all parts of one")
		b.choose("stranger.tar.gz")
		b.says("#messages", ": The bundle is not signed")
		b.says("#history .file", "stranger.tar.gz")
		b.axe("refused")
		b.do(chromedp.Navigate(b.base + "/?lang=de"))
		b.says("#history", "Das Bundle ist nicht signiert")
		b.axe("refused german")
		b.shots("refused")
		b.do(chromedp.Navigate(b.base + "/?lang=en"))
	},
	// Saved data: downloaded, and brought back.
	"backups": func(b *tab, args []string) {
		b.login("admin")
		size := eval[int](b, `fetch(document.querySelector('[data-part=backups] a[download]').href).then(async r => r.ok && r.headers.get('Content-Disposition').startsWith('attachment') ? (await r.text()).length : -1)`)
		if size < 20 {
			b.ts.Fatalf("a backup of %d bytes was downloaded", size)
		}
		b.unfold("backups")
		b.click("[data-part=backups] [data-action=restore]")
		b.says("#confirm", "The current data is backed up first")
		b.axe("restore")
		b.click("#confirm-yes")
		b.says("#activity", "Data restored")
		b.says("#activity", "completed")
		b.until("document.querySelectorAll('[data-part=backups] [data-action=restore]').length === 4") // today's, too
	},
	"settings": func(b *tab, args []string) {
		b.login("admin")
		b.unfold("settings")
		b.do(chromedp.WaitVisible("#settings-form"))
		// Whom this device trusts is shown, and is no field.
		b.says("[data-part=settings]", "sha256:")
		if names := eval[string](b, "[...document.querySelector('#settings-form').elements].map(e => e.name).join(' ')"); names != "check_every auto  from to channel " {
			b.ts.Fatalf("fields %q", names)
		}
		b.axe("settings")
		set := func(name, value string) {
			eval[bool](b, fmt.Sprintf(`(e => { e.value = %q; return true })(document.querySelector('#settings-form [name=%s]'))`, value, name))
		}
		set("check_every", "6h")
		set("auto", "stage")
		set("from", "02:00")
		b.click("#settings-form button")
		b.says("#messages", "A setting has an invalid value")
		set("to", "04:30")
		set("channel", "beta")
		b.click("#settings-form button")
		b.says("#messages", "The settings are saved")
		b.do(chromedp.Reload())
		b.unfold("settings")
		if got := eval[string](b, "new URLSearchParams(new FormData(document.querySelector('#settings-form'))).toString()"); got != "check_every=6h&auto=stage&from=02%3A00&to=04%3A30&channel=beta" {
			b.ts.Fatalf("settings %s", got)
		}
		b.shots("settings")
	},
	"rollback": func(b *tab, args []string) {
		b.login("admin")
		b.click("#version [data-action=rollback]")
		b.says("#confirm", "The data is kept")
		b.axe("confirm")
		b.shots("rollback")
		b.click("#confirm-yes")
		b.says("#version .number", "1.0.0")
		b.shots("page")
		b.do(chromedp.Navigate(b.base + "/?lang=de"))
		b.says("h1", "OTA-Updates")
		b.says("#history", "zurückgenommen")
		b.axe("german")
		b.shot("german")
	},
	// The source has something newer; it is fetched, looked at and left alone.
	"download": func(b *tab, args []string) {
		b.login("admin")
		b.says("#release", "1.5.0")
		b.says("#release .badge", "available")
		b.axe("newer")
		b.click("#release [data-action=download]")
		b.says("#plan .versions", "1.5.0")
		b.click("#plan [data-close]")
		b.shots("newer")
		b.click("#waiting [data-action=delete]")
		b.click("#confirm-yes")
		b.says("#waiting", "Nothing is waiting")
	},
	// The connection is lost in the middle of an upload. The bundle is in parts.
	"lost": func(b *tab, args []string) {
		b.login("admin")
		b.choose("big.tar.gz.003 big.tar.gz.001 big.tar.gz.002")
		b.until("document.querySelector('#upload progress').value > 0.3")
		b.link.set(true)
		b.says("#upload-text", "Connection lost")
		b.shot("lost")
		b.link.set(false)
		b.until("document.querySelector('#upload progress').value > 0.5 || document.querySelector('#plan').open")
		b.says("#plan .versions", "1.5.0")
		b.click("#plan [data-close]")
		b.click("#waiting [data-action=delete]")
		b.click("#confirm-yes")
		b.says("#waiting", "Nothing is waiting")
	},
	// The page is closed in the middle of an upload, without being asked. Who opens it again and chooses the same file
	// sends what the device has not got, and nothing else.
	"closed": func(b *tab, args []string) {
		const file = "big.tar.gz.003 big.tar.gz.001 big.tar.gz.002"
		size := 0
		for name := range strings.FieldsSeq(file) {
			size += len(b.ts.ReadFile(name))
		}
		b.login("admin")
		first, shut := b.another()
		first.do(chromedp.Navigate(b.base+"/"), chromedp.WaitVisible("#main"))
		b.link.let(20 << 20)
		first.choose(file)
		first.until("document.querySelector('#upload progress').value > 0.4")
		shut()
		b.link.let(0)
		again, shut := b.another()
		defer shut()
		again.do(chromedp.Navigate(b.base+"/"), chromedp.WaitVisible("#main"))
		// What came of the piece that was cut off is there too.
		const offset = "fetch(localStorage.getItem(Object.keys(localStorage).find(k => k.startsWith('upload '))), {method: 'HEAD', headers: {'Tus-Resumable': '1.0.0'}}).then(r => +r.headers.get('Upload-Offset'))"
		again.until(offset + ".then(n => n > 18 << 20)")
		at, before := eval[int](again, offset), b.link.let(0)
		again.choose(file)
		again.says("#plan .versions", "1.5.0")
		sent := b.link.let(0) - before
		b.ts.Logf("closed: the device had %d of %d bytes; %d were sent after that", at, size, sent)
		if sent < size-at || sent > size-at+256<<10 {
			b.ts.Fatalf("%d bytes were sent, want the last %d of %d", sent, size-at, size)
		}
		again.click("#plan [data-close]")
		again.click("#waiting [data-action=delete]")
		again.click("#confirm-yes")
		again.says("#waiting", "Nothing is waiting")
		again.until("localStorage.length === 0")
	},
	"viewer": func(b *tab, args []string) {
		b.login("kim")
		b.says("#version .number", "1.0.0")
		b.until("!document.querySelector('#drop') && !document.querySelector('[data-action=rollback]') && !document.querySelector('[data-action=delete]')")
		b.unfold("settings")
		b.says("[data-part=settings]", "every 6 hours · A newer release is downloaded and waits · 02:00-04:30")
		b.until("!document.querySelector('#settings-form')")
		for _, request := range []string{"POST /api/v1/ota", "PATCH /api/v1/ota/settings", "GET " + eval[string](b, "fetch('/api/v1/ota/backups').then(r => r.json()).then(l => '/api/v1/ota/backups/' + l[0].id + '/' + l[0].files[0].name)")} {
			method, path, _ := strings.Cut(request, " ")
			status := eval[int](b, fmt.Sprintf(`fetch(%q, {method: %q, headers: {'Content-Type': 'application/json'}, body: %q === 'GET' ? undefined : '{}'}).then(r => r.status)`, path, method, method))
			if status != http.StatusForbidden {
				b.ts.Fatalf("%s by a viewer: %d", request, status)
			}
		}
		b.axe("viewer")
		b.click("header form[action='/logout'] button")
		b.do(chromedp.WaitVisible("input[name=password]"))
		b.shots("login")
		b.do(chromedp.Navigate(b.base + "/"))
		b.says("h1", "Log in")
		b.do(chromedp.SetValue("input[name=user]", "kim"), chromedp.SendKeys("input[name=password]", "wrong-wrong\r"), chromedp.WaitVisible("[role=alert]"))
		b.says("[role=alert]", "User or password is wrong.")
		b.axe("wrong password")
	},
	// A long history, a bundle that is dragged onto the page, and a part that the page cannot make.
	"look": func(b *tab, args []string) {
		b.login("admin")
		b.says("#release .badge", "available")
		link := eval[string](b, "(a => [a.href, a.target, a.rel].join(' '))([...document.querySelectorAll('#release a')].find(a => a.innerText === 'Release page'))")
		if link != "https://github.com/acme/tiny/releases/tag/v3.0.0 _blank noopener noreferrer" {
			b.ts.Fatalf("the release page is %s", link)
		}
		b.axe("github")
		b.shots("github")
		b.top("readme")
		b.says("#history .pages", "Page 1 of 2")
		b.until("document.querySelectorAll('#history tbody tr').length === 10")
		b.click("#history [data-page='2']")
		b.says("#history .pages", "Page 2 of 2")
		b.until("document.querySelectorAll('#history tbody tr').length === 3")
		b.says("#history tbody", "1.0.0")
		b.do(chromedp.SetValue("#history [data-filter]", "completed"))
		eval[bool](b, "document.querySelector('#history [data-filter]').dispatchEvent(new Event('change', {bubbles: true}))")
		b.says("#history .pages", "Page 1 of 1")
		b.until("document.querySelectorAll('#history tbody tr').length === 1 && document.querySelector('#history [data-filter]').value === 'completed'")
		b.do(chromedp.ScrollIntoView("#drop"))
		at := eval[[]float64](b, "(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector('#drop').getBoundingClientRect())")
		for _, kind := range []input.DispatchDragEventType{"dragEnter", "dragOver", "drop"} {
			b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
				_, err := cdp.Call(ctx, t, input.DispatchDragEvent, input.DispatchDragEventParams{Type: kind, X: at[0], Y: at[1], Data: &input.DragData{Items: []*input.DragDataItem{}, Files: []string{b.ts.MkAbs("1.1.0.tar.gz")}, DragOperationsMask: 1}})
				return err
			}))
		}
		b.says("#plan .versions", "1.1.0")
		b.click("#plan [data-close]")
		eval[bool](b, `fetch = () => Promise.resolve(new Response('{"status": 500, "detail": "the page cannot be shown"}', {status: 500, headers: {'Content-Type': 'application/problem+json'}})), true`)
		b.click("[data-action=check]")
		b.says("#release [role=alert]", "This failed. The details say why.")
		b.until("!document.querySelector('#release').innerText.includes('{')")
	},
	// All of it can be done by keyboard, and the first load is small.
	"keyboard": func(b *tab, args []string) {
		b.login("admin")
		b.says("[data-part=health]", "checks ")
		b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, network.SetCacheDisabled, network.SetCacheDisabledParams{CacheDisabled: true})
			return err
		}), chromedp.Reload(), chromedp.WaitVisible("#main"))
		b.says("[data-part=health]", "checks ")
		size := eval[int](b, `performance.getEntriesByType('navigation').concat(performance.getEntriesByType('resource').filter(e => /assets/.test(e.name))).reduce((n, e) => n + e.encodedBodySize, 0)`)
		b.ts.Logf("first load: %d bytes", size)
		if size < 10<<10 || size > 60<<10 {
			b.ts.Fatalf("the first load is %d bytes, want at most 60 KiB", size)
		}
		eval[bool](b, "document.activeElement.blur(), true")
		b.do(chromedp.KeyEvent("\t"))
		b.until("document.activeElement.className === 'skip'")
		b.do(chromedp.KeyEvent("\r"))
		b.until("document.activeElement.id === 'main' || location.hash === '#main'")
		b.do(chromedp.Focus("[data-open=create]"), chromedp.KeyEvent("\r"), chromedp.WaitVisible("#create[open]"))
		b.until("document.activeElement.name === 'version'")
		b.do(chromedp.KeyEvent("9.0.0"), chromedp.KeyEvent("\r"))
		b.says("#waiting", "9.0.0")
		b.until("document.activeElement.dataset.open === 'create'")
		b.click("#waiting [data-action=delete]")
		b.do(chromedp.KeyEvent("\x1b"))
		b.until("!document.querySelector('#confirm').open")
		b.says("#waiting", "9.0.0")
	},
}
