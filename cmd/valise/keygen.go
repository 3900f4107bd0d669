package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/valise-ota/valise/bundle/sign"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

const passwordEnv = "COSIGN_PASSWORD"

func keygenCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "keygen [PREFIX]",
		Short: "Make a key pair for signing",
		Long: "keygen writes PREFIX.key, encrypted with a password, and PREFIX.pub, in the format of cosign\n" +
			"generate-key-pair. The default PREFIX is cosign. Existing files are not overwritten. The\n" +
			"password comes from " + passwordEnv + ", or from the terminal.",
		Example: "  valise keygen\n  " + passwordEnv + "=... valise keygen keys/shop",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.keygen(append(args, "cosign")[0])
		},
	}
}

func (a *app) keygen(prefix string) error {
	password, err := a.password("password for the new private key: ")
	if err != nil {
		return err
	}
	private, public, err := sign.GenerateKey(password)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		data []byte
		mode os.FileMode
	}{{prefix + ".key", private, 0o600}, {prefix + ".pub", public, 0o644}} {
		if err := writeNew(f.path, f.data, f.mode); err != nil {
			return err
		}
	}
	result := map[string]string{"private": prefix + ".key", "public": prefix + ".pub"}
	return a.Result(result, func(w io.Writer) {
		fmt.Fprintf(w, "%s.key  keep it secret; it signs releases\n%s.pub  goes to every device and auditor\n", prefix, prefix)
	})
}

func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// password is COSIGN_PASSWORD, else what is typed on the terminal.
func (a *app) password(prompt string) ([]byte, error) {
	if p := a.Getenv(passwordEnv); p != "" {
		return []byte(p), nil
	}
	f, ok := a.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, cli.WithHint(errors.New("no password for the private key"), "set %s", passwordEnv)
	}
	fmt.Fprint(a.Stderr, prompt)
	p, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(a.Stderr)
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	return p, nil
}
