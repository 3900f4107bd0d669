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

func initCommand(a *app) *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "init [COMPOSE...]",
		Short: "Write a first valise.yaml for a compose file",
		Long: "init reads a compose file and writes a short valise.yaml for it: where images come from,\n" +
			"health checks, database backups, generated secrets and mounted files, each line explained. What\n" +
			"only you can decide is printed as notes. It never overwrites a file.\n\n" +
			"Several files are each over those before it, as with docker compose -f. Without COMPOSE it takes\n" +
			"what COMPOSE_FILE in a committed .env says; or docker-compose.prod.yml and the like, over the main\n" +
			"file when it does not stand alone; or else what docker compose would take.",
		Example: "  valise init\n  valise init docker-compose.prod.yml\n  valise init compose.yaml compose.prod.yaml",
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
	compose, notes, err := findCompose(ctx, dir, args)
	if err != nil {
		return err
	}
	draft, err := project.NewDraft(ctx, dir, compose, ignoredBelow(dir))
	if err != nil {
		return err
	}
	draft.Notes = append(notes, draft.Notes...)
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
		Compose []string `json:"compose"`
		Notes   []string `json:"notes"`
		Next    string   `json:"next"`
	}{path, compose, append([]string{}, draft.Notes...), next}, func(w io.Writer) {
		fmt.Fprintf(w, "wrote %s for %s\n\nnext: read it, then %s\n", path, compose, next)
	})
}

// findCompose returns the paths of the compose files from dir.
func findCompose(ctx context.Context, dir string, args []string) (project.ComposeFiles, []string, error) {
	if len(args) == 0 {
		files, notes, err := project.FindCompose(ctx, dir, ignoredBelow(dir))
		if err == nil && len(files) == 0 {
			err = cli.WithHint(fmt.Errorf("find compose file in %s: none of the usual names exists", dir), "name it: valise init COMPOSE")
		}
		return files, notes, err
	}
	from, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, err
	}
	var files project.ComposeFiles
	for _, arg := range args {
		file, err := filepath.Abs(arg)
		if err != nil {
			return nil, nil, err
		}
		if file, err = filepath.Rel(from, file); err != nil {
			return nil, nil, err
		}
		files = append(files, file)
	}
	return files, nil, nil
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
