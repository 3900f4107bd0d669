package ota

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// fallback is the language that has every text.
const fallback = "en"

// catalogues are the texts of the page by language: i18n/LANG.json, one object of
// keys and texts with the verbs of package fmt. Another language is another file;
// a text it lacks is shown in English.
type catalogues struct {
	texts map[string]map[string]string
}

func loadCatalogues(files fs.FS) (*catalogues, error) {
	names, err := fs.Glob(files, "i18n/*.json")
	if err != nil {
		return nil, err
	}
	c := &catalogues{map[string]map[string]string{}}
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		var texts map[string]string
		if err := json.Unmarshal(b, &texts); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		c.texts[strings.TrimSuffix(path.Base(name), ".json")] = texts
	}
	return c, nil
}

// choose is the language that somebody asks for: by the page, else by browser.
func (c *catalogues) choose(r *http.Request) string {
	wanted := []string{r.URL.Query().Get("lang")}
	if cookie, err := r.Cookie("lang"); err == nil {
		wanted = append(wanted, cookie.Value)
	}
	for part := range strings.SplitSeq(r.Header.Get("Accept-Language"), ",") {
		tag, _, _ := strings.Cut(part, ";")
		base, _, _ := strings.Cut(strings.TrimSpace(tag), "-")
		wanted = append(wanted, strings.ToLower(base))
	}
	for _, lang := range wanted {
		if c.texts[lang] != nil {
			return lang
		}
	}
	return fallback
}

// text returns the texts of a language.
func (c *catalogues) text(lang string) func(key string, args ...any) string {
	return func(key string, args ...any) string {
		s, ok := c.texts[lang][key]
		if !ok {
			s, ok = c.texts[fallback][key]
		}
		if !ok {
			return key
		}
		if len(args) == 0 {
			return s
		}
		return fmt.Sprintf(s, args...)
	}
}

// forScript are the texts that the script shows, as JSON.
func (c *catalogues) forScript(lang string) string {
	text, out := c.text(lang), map[string]string{}
	for key := range c.texts[fallback] {
		if name, ok := strings.CutPrefix(key, "js."); ok {
			out[name] = text(key)
		} else if strings.HasPrefix(key, "step.") || strings.HasPrefix(key, "status.") {
			out[key] = text(key)
		}
	}
	b, _ := json.Marshal(out)
	return string(b)
}
