package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

// composeNames are the names that docker compose looks for, in its order, and
// before them the one that means a release.
var composeNames = []string{
	"docker-compose.prod.yml", "docker-compose.prod.yaml", "compose.prod.yaml", "compose.prod.yml",
	"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml",
}

func initCommand(a *app) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "init [COMPOSE]",
		Short: "Write a first valise.yaml for a compose file",
		Long: "init reads a compose file and writes a short valise.yaml for it: where images come from,\n" +
			"health checks, database backups, generated secrets and mounted files, each line explained. What\n" +
			"only you can decide is printed as notes. It never overwrites a file.\n\n" +
			"Without COMPOSE it takes docker-compose.prod.yml or else what docker compose would take.",
		Example: "  valise init\n  valise init docker-compose.prod.yml",
		Args:    cobra.MaximumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.init(cmd.Context(), path, args) },
	}
	c.Flags().StringVar(&path, "project", project.DefaultFile, "project file to write")
	return c
}

func (a *app) init(ctx context.Context, path string, args []string) error {
	dir := filepath.Dir(path)
	compose, err := findCompose(dir, args)
	if err != nil {
		return err
	}
	draft, err := project.NewDraft(ctx, dir, compose, ignoredBelow(dir))
	if err != nil {
		return err
	}
	if err := writeProject(path, draft.YAML); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return cli.WithHint(fmt.Errorf("write project: %s exists", path), "delete it first, or write another file with --project and compare")
		}
		return err
	}
	for _, note := range draft.Notes {
		a.Note("%s", note)
	}
	next := "valise build VERSION"
	if filepath.Clean(path) != project.DefaultFile {
		next += " --project " + path
	}
	return a.Result(struct {
		Path    string   `json:"path"`
		Compose string   `json:"compose"`
		Notes   []string `json:"notes"`
		Next    string   `json:"next"`
	}{path, compose, append([]string{}, draft.Notes...), next}, func(w io.Writer) {
		fmt.Fprintf(w, "wrote %s for %s\n\nnext: read it, then %s\n", path, compose, next)
	})
}

// findCompose returns the path of the compose file from dir.
func findCompose(dir string, args []string) (string, error) {
	if len(args) == 1 {
		file, err := filepath.Abs(args[0])
		if err != nil {
			return "", err
		}
		from, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		return filepath.Rel(from, file)
	}
	for _, name := range composeNames {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return name, nil
		}
	}
	return "", cli.WithHint(fmt.Errorf("find compose file in %s: none of the usual names exists", dir), "name it: valise init COMPOSE")
}

// writeProject writes a file that must not exist.
func writeProject(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write project: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write project: %w", err), os.Remove(path)) // it is ours, and half a file
	}
	return nil
}
