package manpage

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Markdown is the reference of a program: each command that people see, with its
// flags.
func Markdown(root *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n\n", root.Name())
	section(&b, root, root)
	return b.String()
}

func section(b *strings.Builder, c, root *cobra.Command) {
	c.InitDefaultHelpFlag()
	if c != root {
		fmt.Fprintf(b, "## %s\n\n", c.CommandPath())
	}
	fmt.Fprintf(b, "%s.\n\n", strings.TrimSuffix(c.Short, "."))
	if c.Long != "" {
		block(b, "text", c.Long)
	}
	if c.Runnable() {
		block(b, "sh", c.UseLine())
	}
	if c.Example != "" {
		b.WriteString("Examples:\n\n")
		block(b, "sh", indent.ReplaceAllString(c.Example, ""))
	}
	table(b, "Flags", c.LocalNonPersistentFlags())
	if c == root {
		table(b, "Flags of every command", c.PersistentFlags())
	} else {
		table(b, "Flags of its commands too", c.PersistentFlags())
	}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" && sub.Name() != "completion" {
			section(b, sub, root)
		}
	}
}

var indent = lazyregexp.New(`(?m)^  `)

func block(b *strings.Builder, language, text string) {
	lines := strings.Split(strings.Trim(text, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	fmt.Fprintf(b, "```%s\n%s\n```\n\n", language, strings.Join(lines, "\n"))
}

func table(b *strings.Builder, title string, flags *pflag.FlagSet) {
	rows := 0
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			return
		}
		if rows++; rows == 1 {
			fmt.Fprintf(b, "| %s | default | |\n|---|---|---|\n", title)
		}
		name, usage := pflag.UnquoteUsage(f)
		flag := "--" + f.Name
		if f.Shorthand != "" {
			flag = "-" + f.Shorthand + ", " + flag
		}
		if name != "" {
			flag += " " + name
		}
		value := ""
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0s" {
			value = "`" + f.DefValue + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", flag, value, Cell(usage))
	})
	if rows > 0 {
		b.WriteString("\n")
	}
}

// Cell is a text in a table of Markdown.
func Cell(s string) string {
	return strings.NewReplacer("\n", " ", "|", `\|`, "<", "&lt;", "*", `\*`, "{{", "&#123;&#123;").Replace(s)
}
