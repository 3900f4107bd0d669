package main

import (
	"strings"
	"testing"

	"github.com/valise-ota/valise/bundle"
	"rsc.io/qr"
)

// TestQRText: every module of the code stands in the text, inside a white border.
func TestQRText(t *testing.T) {
	const address = "https://github.com/acme/shop/releases/tag/v1.2.3"
	code, err := qr.Encode(address, qr.M)
	if err != nil {
		t.Fatal(err)
	}
	black := map[[2]int]bool{}
	lines := strings.Split(strings.TrimSuffix(qrText(address), "\n"), "\n")
	for row, line := range lines {
		runes := []rune(line)
		if len(runes) != code.Size+2*qrMargin {
			t.Fatalf("line %d has %d characters", row, len(runes))
		}
		for column, r := range runes {
			x, y := column-qrMargin, 2*row-qrMargin
			black[[2]int{x, y}] = r == '█' || r == '▀'
			black[[2]int{x, y + 1}] = r == '█' || r == '▄'
		}
	}
	for y := -qrMargin; y < code.Size+qrMargin; y++ {
		for x := -qrMargin; x < code.Size+qrMargin; x++ {
			if black[[2]int{x, y}] != code.Black(x, y) {
				t.Fatalf("module %d, %d is wrong", x, y)
			}
		}
	}
	if got := qrText(strings.Repeat("x", 5000)); got != "" {
		t.Errorf("5000 characters: %d bytes", len(got))
	}
}

// TestReleasePage: only what can be a release on GitHub gets a code; the bundle is a stranger's.
func TestReleasePage(t *testing.T) {
	for _, tc := range []struct{ repository, ref, want string }{
		{"https://github.com/acme/shop", "refs/tags/v1.2.3", "https://github.com/acme/shop/releases/tag/v1.2.3"},
		{"https://github.com/acme/shop", "refs/tags/app/v1.2.3", "https://github.com/acme/shop/releases/tag/app%2Fv1.2.3"},
		{"https://github.com/acme/shop", "refs/tags/a>`x` [b](c)", "https://github.com/acme/shop/releases/tag/a%3E%60x%60%20%5Bb%5D%28c%29"},
		{"https://github.com/acme/shop", "refs/heads/main", ""},
		{"https://github.com/acme/shop>\n# x", "refs/tags/v1.2.3", ""},
		{"https://github.com.evil.example/acme/shop", "refs/tags/v1.2.3", ""},
		{"https://gitlab.com/acme/shop", "refs/tags/v1.2.3", ""},
	} {
		s := inspection{summary: &summary{Source: &bundle.Source{Repository: tc.repository, Ref: tc.ref}}}
		if got := s.releasePage(); got != tc.want {
			t.Errorf("%+v: got %q", tc, got)
		}
	}
	if got := (&inspection{summary: &summary{}}).releasePage(); got != "" {
		t.Errorf("got %q", got)
	}
}
