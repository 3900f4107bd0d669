package docs_test

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestSidebar: each text in docs has a place in the navigation of the site, and
// what has a place is there. The index of the decisions lists the records.
func TestSidebar(t *testing.T) {
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile(`\['.+', '(.+\.md)'\]`).FindAllStringSubmatch(read(t, ".vitepress/pages.mjs"), -1) {
		listed[m[1]] = true
		if _, err := os.Stat("../" + m[1]); err != nil {
			t.Errorf("pages.mjs: %v", err)
		}
	}
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".md") || name == "index.md" || regexp.MustCompile(`^decisions/\d`).MatchString(name) {
			return err
		}
		if !listed["docs/"+name] {
			t.Errorf("pages.mjs has no place for docs/%s", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
