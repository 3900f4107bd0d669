// Package lazyregexp compiles a regular expression when it is first used. A
// command uses few of the expressions that are linked into it; package regexp
// would compile all of them at every start.
package lazyregexp

import (
	"regexp"
	"sync"
)

// Regexp is a [regexp.Regexp] that is compiled at its first use, which panics
// when the expression is malformed.
type Regexp struct {
	expr    string
	compile func() *regexp.Regexp
}

// New returns the expression expr, not compiled yet.
func New(expr string) *Regexp {
	return &Regexp{expr, sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })}
}

// String returns the expression.
func (r *Regexp) String() string { return r.expr }

func (r *Regexp) Match(b []byte) bool                  { return r.compile().Match(b) }
func (r *Regexp) MatchString(s string) bool            { return r.compile().MatchString(s) }
func (r *Regexp) FindString(s string) string           { return r.compile().FindString(s) }
func (r *Regexp) FindStringSubmatch(s string) []string { return r.compile().FindStringSubmatch(s) }
func (r *Regexp) ReplaceAllString(src, to string) string {
	return r.compile().ReplaceAllString(src, to)
}
func (r *Regexp) ReplaceAll(src, to []byte) []byte { return r.compile().ReplaceAll(src, to) }

func (r *Regexp) ReplaceAllStringFunc(src string, to func(string) string) string {
	return r.compile().ReplaceAllStringFunc(src, to)
}
func (r *Regexp) FindAllSubmatch(b []byte, n int) [][][]byte {
	return r.compile().FindAllSubmatch(b, n)
}
func (r *Regexp) FindAllStringSubmatch(s string, n int) [][]string {
	return r.compile().FindAllStringSubmatch(s, n)
}
func (r *Regexp) FindStringIndex(s string) []int { return r.compile().FindStringIndex(s) }
func (r *Regexp) FindStringSubmatchIndex(s string) []int {
	return r.compile().FindStringSubmatchIndex(s)
}
func (r *Regexp) FindAllString(s string, n int) []string { return r.compile().FindAllString(s, n) }
func (r *Regexp) FindSubmatch(b []byte) [][]byte         { return r.compile().FindSubmatch(b) }
