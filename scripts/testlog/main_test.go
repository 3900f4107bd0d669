package main

import (
	"strings"
	"testing"
)

const log = `{"Action":"start","Package":"x/a"}
{"Action":"run","Package":"x/a","Test":"TestA"}
{"Action":"output","Package":"x/a","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"run","Package":"x/a","Test":"TestA/one"}
{"Action":"output","Package":"x/a","Test":"TestA/one","Output":"of no interest\n"}
{"Action":"pass","Package":"x/a","Test":"TestA/one","Elapsed":2.5}
{"Action":"pass","Package":"x/a","Test":"TestA","Elapsed":3}
{"Action":"output","Package":"x/a","Test":"TestS","Output":"=== RUN   TestS\n"}
{"Action":"output","Package":"x/a","Test":"TestS","Output":"    a_test.go:7: missing: an engine\n"}
{"Action":"skip","Package":"x/a","Test":"TestS","Elapsed":0}
{"Action":"output","Package":"x/a","Output":"PASS\n"}
{"Action":"output","Package":"x/a","Output":"ok  \tx/a\t3.1s\n"}
{"Action":"pass","Package":"x/a","Elapsed":3.1}
`

func TestLog(t *testing.T) {
	broken := strings.NewReplacer(`"pass","Package":"x/a","Test":"TestA/one"`, `"fail","Package":"x/a","Test":"TestA/one"`,
		`"pass","Package":"x/a","Elapsed"`, `"fail","Package":"x/a","Elapsed"`, `ok  \tx/a`, `FAIL\tx/a`).Replace(log)
	cut, _, _ := strings.Cut(log, `{"Action":"pass"`)
	for name, tc := range map[string]struct {
		in     string
		failed bool
		says   []string
		not    string
	}{
		"passed": {log, false, []string{"ok  \tx/a\t3.1s\n", "skipped: a TestS: a_test.go:7: missing: an engine\n", "slowest of 2 tests:\n    2.5 s  a TestA/one\n    0.0 s"}, "of no interest"},
		"failed": {broken, true, []string{"of no interest\n", "FAIL\tx/a"}, "    3.0 s"},
		"cut":    {cut, true, []string{"of no interest\n"}, "ok"},
		"build":  {"{\"ImportPath\":\"x/a\",\"Action\":\"build-output\",\"Output\":\"a.go:1: no\\n\"}\n{\"Action\":\"build-fail\"}\n", true, []string{"a.go:1: no\n"}, "ok"},
		"go":     {"go: no such flag\n", false, []string{"go: no such flag\n"}, "ok"}, // its exit code says it
	} {
		var out strings.Builder
		failed, err := run(strings.NewReader(tc.in), &out)
		if failed != tc.failed || err != nil {
			t.Errorf("%s: failed %t, error %v", name, failed, err)
		}
		for _, text := range tc.says {
			if !strings.Contains(out.String(), text) {
				t.Errorf("%s: no %q in\n%s", name, text, &out)
			}
		}
		if strings.Contains(out.String(), tc.not) {
			t.Errorf("%s: %q in\n%s", name, tc.not, &out)
		}
	}
}
