package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/device"
	"github.com/valise-ota/valise/verify"
)

// person is who sits at the terminal.
type person struct {
	p  *program
	in *bufio.Reader
}

// person is nil when nobody sits at a terminal.
func (p *program) person() device.Person {
	if in, ok := p.Stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		return &person{p, bufio.NewReader(in)}
	}
	return nil
}

func (a *person) Trust(app, version string, by verify.Signer, anyTag bool) bool {
	more := ""
	if anyTag {
		more = ", and the same workflow at other tags,"
	}
	fmt.Fprintf(a.p.Stderr, "%s %s was signed by %s (issuer %s).\n", app, version, by.Identity, by.Issuer)
	return a.agrees(fmt.Sprintf("Trust it%s for app %s from now on?", more, app))
}

func (a *person) Value(key, help string) (string, error) {
	if help != "" {
		fmt.Fprintln(a.p.Stderr, help)
	}
	fmt.Fprintf(a.p.Stderr, "%s = ", key)
	line, err := a.in.ReadString('\n')
	return strings.TrimSpace(line), err
}

func (a *person) agrees(question string) bool {
	fmt.Fprintf(a.p.Stderr, "%s [y/N] ", question)
	line, err := a.in.ReadString('\n')
	answer := strings.ToLower(strings.TrimSpace(line))
	return err == nil && (answer == "y" || answer == "yes")
}

// confirm asks a person; without one the answer is no.
func (p *program) confirm(question string) error {
	if a, ok := p.person().(*person); !ok || !a.agrees(question) {
		return cli.Usagef("nothing was changed: pass --yes to do it")
	}
	return nil
}

// parseGiven reads --set KEY=VALUE.
func (p *program) parseGiven(list []string) error {
	p.Given = map[string]string{}
	for _, s := range list {
		key, value, ok := strings.Cut(s, "=")
		if !ok || !bundle.ValidEnvKey(key) {
			return cli.Usagef("--set %q: want KEY=VALUE", s)
		}
		p.Given[key] = value
	}
	return nil
}
