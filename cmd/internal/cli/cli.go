// Package cli is what both programs have in common: what they take from the
// world, how they print a result and an error, and their exit codes. Nothing
// below cmd reads the environment or the clock, prints or exits.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/cmd/internal/ui"
	"github.com/valise-ota/valise/verify"
)

// Exit codes of both programs. They are API: docs and tests name the same
// numbers.
const (
	ExitDone      = 0  // done, or nothing to do
	ExitFailed    = 1  // failed; a device is unchanged
	ExitEnv       = 2  // required environment keys are missing
	ExitReverted  = 3  // the previous release runs again
	ExitRefused   = 4  // the bundle was refused
	ExitAttention = 5  // the rollback failed too
	ExitUsage     = 64 // wrong usage
)

// Env is all that a program takes from the world around it.
type Env struct {
	Program string // the name it was called by
	Args    []string
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Getenv  func(string) string
	Now     func() time.Time
}

// Main runs a program with the process's own Env and exits.
func Main(run func(context.Context, Env) int) {
	// A library below compose-go logs values of environment files to stderr.
	logrus.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, Env{os.Args[0], os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv, time.Now}))
}

// App is what the subcommands of one program share.
type App struct {
	Env
	UI      *ui.UI
	output  string
	started bool // flags and arguments were accepted
}

// Run runs one command line below root, prints what went wrong, and returns the
// exit code.
func (a *App) Run(ctx context.Context, root *cobra.Command) int {
	err := a.Execute(ctx, root)
	if err == nil {
		return ExitDone
	}
	fmt.Fprintf(a.Stderr, "%s: %s\n", root.Name(), OneLine(err.Error()))
	hint, page := Hint(err), see(err)
	switch {
	case hint != "" && page != "":
		fmt.Fprintf(a.Stderr, "hint: %s; see %s\n", hint, page)
	case page != "":
		fmt.Fprintf(a.Stderr, "hint: see %s\n", page)
	case hint != "":
		fmt.Fprintf(a.Stderr, "hint: %s\n", hint)
	}
	return exitCode(err)
}

// Execute runs one command line below root. Whatever is printed from here on is
// plain.Text, wherever it comes from.
func (a *App) Execute(ctx context.Context, root *cobra.Command) error {
	var progress string
	a.Stdout, a.Stderr = plain.NewWriter(a.Stdout), plain.NewWriter(a.Stderr)
	asked := versionFlag(root)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.DisableSuggestions = true // ours is the hint
	root.SuggestionsMinimumDistance = 2
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if *asked {
			return pflag.ErrHelp
		}
		if forms := outputs(cmd); !slices.Contains(forms, a.output) {
			last := len(forms) - 1
			return fmt.Errorf("unknown output %q, want %s or %s", a.output, strings.Join(forms[:last], ", "), forms[last])
		}
		u, err := ui.New(plain.Raw(a.Stderr), progress, a.Getenv, a.Now)
		if err != nil {
			return err
		}
		a.UI, a.started = u, true
		return nil
	}
	root.PersistentFlags().StringVar(&a.output, "output", "text", "form of the result: text or json")
	root.PersistentFlags().StringVar(&progress, "progress", ui.Auto, "progress on stderr: "+strings.Join(ui.Modes, ", "))
	root.SetArgs(a.Args)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !a.started {
		err = WithHint(&usageError{err}, "run %q", cmd.CommandPath()+" --help")
		if cmd == root && len(a.Args) > 0 {
			if names := root.SuggestionsFor(a.Args[0]); len(names) > 0 {
				err = WithHint(&usageError{err}, "did you mean %s?", strings.Join(names, " or "))
			}
		}
	}
	return err
}

// Explain is an error as a person should read it, advice included, in one line of
// plain.Text.
func Explain(err error) string {
	text := OneLine(err.Error())
	if hint := new(hintError); errors.As(err, &hint) {
		text += "; " + OneLine(hint.hint)
	}
	return plain.Text(text)
}

// OneLine joins the lines of a text: engines and docker compose explain
// themselves in several.
func OneLine(s string) string {
	var parts []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, "; ")
}

func exitCode(err error) int {
	if coded := new(codeError); errors.As(err, &coded) {
		return coded.code
	}
	switch {
	case errors.As(err, new(*usageError)):
		return ExitUsage
	case errors.As(err, new(*bundle.FormatError)), errors.As(err, new(*verify.Error)):
		return ExitRefused
	}
	return ExitFailed
}

// Forms is the annotation of a command whose results have more forms than text and
// JSON: their names, separated by commas.
const Forms = "forms"

func outputs(cmd *cobra.Command) []string {
	forms := []string{"text", "json"}
	if more := cmd.Annotations[Forms]; more != "" {
		forms = append(forms, strings.Split(more, ",")...)
	}
	return forms
}

// Output is the form of the result that was asked for.
func (a *App) Output() string { return a.output }

// Result writes what a command found to stdout: v as JSON, or what text writes.
func (a *App) Result(v any, text func(io.Writer)) error {
	if a.output != "json" {
		text(a.Stdout)
		return nil
	}
	e := json.NewEncoder(a.Stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Note tells people something on stderr that changes no result.
func (a *App) Note(format string, args ...any) { fmt.Fprintf(a.Stderr, "note: "+format+"\n", args...) }

// usageError is a mistake on the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// Usagef says that the command line is wrong.
func Usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// codeError is an error with an exit code of its own.
type codeError struct {
	err  error
	code int
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// WithCode gives err an exit code.
func WithCode(err error, code int) error { return &codeError{err, code} }

// hintError is an error with an advice. Libraries say what is wrong; what to do
// next is said in the programs.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// Hint is what to do next, "" when there is none.
func Hint(err error) string {
	if hint := new(hintError); errors.As(err, &hint) {
		return hint.hint
	}
	return ""
}

// WithHint adds what to do next to err.
func WithHint(err error, format string, args ...any) error {
	return &hintError{err, fmt.Sprintf(format, args...)}
}

// version is set by the release build.
var version = ""

// Released is the version of a release build, and "" of any other.
func Released() string { return version }

// versionFlag gives root "--version", which prints name and version in place of the help. Cobra has such a flag, with other words; a template
// for ours would make the linker keep every exported method in the program.
func versionFlag(root *cobra.Command) (asked *bool) {
	asked = root.Flags().BoolP("version", "v", false, "version for "+root.Name())
	_ = root.Flags().SetAnnotation("version", cobra.FlagSetByCobraAnnotation, []string{"true"})
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		if wanted, _ := cmd.Flags().GetBool("help"); *asked && !wanted {
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", root.Name(), Version())
			return
		}
		help(cmd, args)
	})
	return asked
}

// Version is the version of the program.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
