package ota

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/valise-ota/valise/installer/daemon"
)

// fallback is the language that has every text.
const fallback = "en"

// catalogues are the texts of the page by language: i18n/LANG.json, one object of
// keys and texts with the verbs of package fmt. Another language is another file;
// a text it lacks is shown in English.
type catalogues struct {
	texts map[string]map[string]string
	// found are sentences of the daemon in other languages: i18n/found/LANG.json, by
	// what they are in English, without what stands in them.
	found map[string]map[string]string
}

func loadCatalogues(files fs.FS) (*catalogues, error) {
	c := &catalogues{}
	var err1, err2 error
	c.texts, err1 = loadTexts(files, "i18n/*.json")
	c.found, err2 = loadTexts(files, "i18n/found/*.json")
	return c, errors.Join(err1, err2)
}

func loadTexts(files fs.FS, pattern string) (map[string]map[string]string, error) {
	names, err := fs.Glob(files, pattern)
	if err != nil {
		return nil, err
	}
	all := map[string]map[string]string{}
	for _, name := range names {
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		var texts map[string]string
		if err := json.Unmarshal(b, &texts); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		all[strings.TrimSuffix(path.Base(name), ".json")] = texts
	}
	return all, nil
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

// say is a sentence of the daemon in a language, as far as it has the words.
func (c *catalogues) say(lang, key string, args []string, english string) string {
	s, ok := c.found[lang][key]
	if !ok {
		return english
	}
	all := make([]any, len(args))
	for i, a := range args {
		all[i] = a
	}
	return fmt.Sprintf(s, all...)
}

// finding is a finding of the daemon in a language.
func (c *catalogues) finding(lang string, f daemon.Finding) daemon.Finding {
	f.Name, f.Text, f.Remedy = c.say(lang, f.Name, nil, f.Name), c.say(lang, f.Format, f.Args, f.Text), c.say(lang, f.Advice, f.AdviceArgs, f.Remedy)
	return f
}

// forScript are the texts that the script shows, as JSON.
func (c *catalogues) forScript(lang string) string {
	text, out := c.text(lang), map[string]string{}
	for key := range c.texts[fallback] {
		if name, ok := strings.CutPrefix(key, "js."); ok {
			out[name] = text(key)
		} else if strings.HasPrefix(key, "step.") || strings.HasPrefix(key, "status.") || strings.HasPrefix(key, "why.") || key == "details" {
			out[key] = text(key)
		}
	}
	b, _ := json.Marshal(out)
	return string(b)
}
