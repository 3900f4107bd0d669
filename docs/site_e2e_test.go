//go:build e2e_page

package docs_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

const site = "../build/pages"

// TestSite opens pages of the site as it is published below /valise/, in a real
// Chromium: light, dark and as on a telephone. They keep the rules for
// accessibility, ask no other server for anything, and are found by searching. It
// needs VALISE_AXE, and leaves pictures in VALISE_SCREENSHOTS if that is set: see
// scripts/e2e-page.sh.
func TestSite(t *testing.T) {
	axe, err := os.ReadFile(os.Getenv("VALISE_AXE"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(serve))
	defer server.Close()
	alloc, stop := chromedp.NewExecAllocator(context.Background(), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("lang", "en"))
	defer stop()
	ctx, cancel := chromedp.NewContext(alloc)
	defer cancel()
	b := &browser{t, ctx}
	b.do(chromedp.EmulateViewport(1280, 900)) // without a limit: it begins the browser
	b.ctx, cancel = context.WithTimeout(ctx, time.Hour)
	defer cancel()
	var requests sync.Map
	if err := chromedp.Listen(b.ctx, func(ev any) {
		if sent, ok := ev.(*network.EventRequestWillBeSent); ok {
			requests.Store(sent.Request.URL, sent.DocumentURL)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if root, err := os.ReadFile(filepath.Join(site, "index.html")); err != nil || !strings.Contains(string(root), "url=main/") {
		t.Errorf("the root does not lead to a version: %v, %s", err, root)
	}
	for _, page := range []string{"", "tour", "tutorials/technician", "how-to/", "architecture", "decisions/0058-root-walks", "reference/valise-yaml", "reference/api", "troubleshooting", "format", "changelog", "not-there"} {
		name := strings.Trim(strings.ReplaceAll(page, "/", "-"), "-")
		if name == "" {
			name = "home"
		}
		b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(server.URL+"/valise/main/"+page), chromedp.WaitVisible("h1, .NotFound"))
		b.accessible(name, axe)
		if over := eval[int](b, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
			t.Errorf("%s: a telephone has to scroll sideways by %d pixels", name, over)
		}
	}
	if at := eval[string](b, "document.querySelector('.VPNavBarMenuGroup a[target=_self]')?.pathname ?? ''"); at != "/valise/main/" {
		t.Errorf("the menu of versions leads to %q", at)
	}
	// What the policy of a page forbids, such as a script that was put into it, does not happen.
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(server.URL+"/valise/main/tour"))
	if eval[bool](b, `{const s = document.createElement('script'); s.textContent = 'window.ran = true'; document.head.append(s)}; window.ran === true`) {
		t.Error("a script that the page does not have was run")
	}
	b.do(chromedp.Click("#local-search button", chromedp.NodeVisible), chromedp.WaitVisible("#localsearch-input"),
		chromedp.SendKeys("#localsearch-input", "power cut"))
	b.until("document.querySelectorAll('#localsearch-list .result').length > 0")
	b.accessible("search", axe)
	b.do(chromedp.EmulateViewport(1280, 900), chromedp.SendKeys("#localsearch-input", "\r"))
	b.until("document.querySelector('#localsearch-input') === null && location.hash !== '' && document.getElementById(decodeURIComponent(location.hash.slice(1))) !== null")
	requests.Range(func(to, from any) bool {
		if to := to.(string); !strings.HasPrefix(to, server.URL+"/valise/") && !strings.HasPrefix(to, "data:") {
			t.Errorf("%s asks for %s", from, to)
		}
		return true
	})
}

// serve answers as GitHub's pages do: /valise/main/tour is main/tour.html.
func serve(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(path.Clean(r.URL.Path), "/valise")
	for _, file := range []string{name, name + ".html", path.Join(name, "index.html")} {
		if info, err := os.Stat(filepath.Join(site, file)); err == nil && !info.IsDir() {
			http.ServeFile(w, r, filepath.Join(site, file)) // index.html itself is never asked for
			return
		}
	}
	page, _ := os.ReadFile(filepath.Join(site, "404.html"))
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusNotFound)
	_, _ = w.Write(page)
}

type browser struct {
	t   *testing.T
	ctx context.Context
}

// accessible checks the page as it is against the rules for accessibility, and
// leaves pictures of it: light, dark and as on a telephone.
func (b *browser) accessible(name string, axe []byte) {
	for _, mode := range []string{"light", "dark", "mobile"} {
		if mode == "mobile" {
			b.do(scheme("light"), chromedp.EmulateViewport(390, 844))
		} else {
			b.do(scheme(mode))
		}
		b.until(fmt.Sprintf("document.documentElement.classList.contains('dark') === %t", mode == "dark"))
		eval[bool](b, string(axe)+"; true")
		rules := "{}"
		if name == "search" { // VitePress's own: options with links in them, labels on kbd
			rules = "{'nested-interactive': {enabled: false}, 'aria-prohibited-attr': {enabled: false}}"
		}
		for _, v := range eval[[]string](b, `axe.run(document, {rules: `+rules+`, runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}).then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html + ' ' + n.failureSummary).join(' | ')))`) {
			b.t.Errorf("%s, %s: %s", name, mode, v)
		}
		b.shot("site-" + name + "-" + mode)
	}
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

func eval[T any](b *browser, js string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *browser) until(js string) {
	b.t.Helper()
	if _, err := chromedp.Run(b.ctx, chromedp.Poll[bool](js, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(3*time.Minute))); err != nil {
		b.t.Fatalf("never true: %s: %v", js, err)
	}
}

func scheme(name string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	})
}

func (b *browser) shot(name string) {
	dir := os.Getenv("VALISE_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}
