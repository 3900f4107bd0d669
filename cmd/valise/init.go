package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle/project"
	"github.com/valise-ota/valise/cmd/internal/cli"
)

func initCommand(a *app) *cobra.Command {
	var f initFlags
	c := &cobra.Command{
		Use:   "init [COMPOSE...]",
		Short: "Draft valise.yaml from a compose file or systemd units",
		Long: "init reads a compose file and drafts valise.yaml: sources of images, health checks, database\n" +
			"backups, generated secrets and mounted files, with a comment for each line. It prints notes\n" +
			"about what only you can decide. It never overwrites a file.\n\n" +
			"With several files, each overrides those before it, as with docker compose -f. Without\n" +
			"COMPOSE, init uses the files in COMPOSE_FILE of a committed .env, else\n" +
			"docker-compose.prod.yml or a similar file over the main file (alone, if it is complete),\n" +
			"else what docker compose would use. If there is no compose file, it drafts a file tree from\n" +
			"systemd units or programs for Linux; if there is no unit, it drafts one too.\n\n" +
			"--github also writes .github/workflows/release.yml, with the tags of the repository, QEMU\n" +
			"and buildx for Dockerfiles, and actions pinned by commit. If valise.yaml exists, it writes\n" +
			"only the workflow.",
		Example: "  valise init\n  valise init docker-compose.prod.yml\n  valise init compose.yaml compose.prod.yaml\n  valise init --github",
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.init(cmd.Context(), f, args) },
	}
	c.Flags().StringVar(&f.project, "project", project.DefaultFile, "project file to write")
	c.Flags().BoolVar(&f.github, "github", false, "also write a GitHub workflow that makes releases")
	c.Flags().StringVar(&f.action, "action", "", "Action for the workflow: OWNER/NAME@COMMIT (default: valise-ota/valise at the commit of this program's release)")
	return c
}

type initFlags struct {
	project string
	github  bool
	action  string
}

// initResult is the result of init.
type initResult struct {
	Path     string   `json:"path"`
	Compose  []string `json:"compose,omitempty"`
	Files    []string `json:"files,omitempty"` // units that were drafted
	Workflow string   `json:"workflow,omitempty"`
	Notes    []string `json:"notes"`
	Next     string   `json:"next"`
	drafted  bool
}

func (a *app) init(ctx context.Context, f initFlags, args []string) error {
	r := initResult{Path: f.project, Notes: []string{}, Next: "valise build VERSION"}
	if filepath.Clean(f.project) != project.DefaultFile {
		r.Next += " --project " + f.project
	}
	_, err := os.Stat(f.project)
	if there := err == nil; !there || !f.github || len(args) > 0 {
		if err := a.draft(ctx, &r, args); err != nil {
			return err
		}
	}
	if f.github {
		var notes []string
		if r.Workflow, notes, err = a.writeWorkflow(ctx, f.project, f.action); err != nil {
			return err
		}
		r.Notes = append(r.Notes, notes...)
	}
	for _, note := range r.Notes {
		a.Note("%s", note)
	}
	return a.Result(r, func(w io.Writer) {
		if r.drafted {
			fmt.Fprintf(w, "wrote %s for %s\n", r.Path, cmp.Or(project.ComposeFiles(r.Compose).String(), "a file tree"))
		}
		for _, file := range r.Files {
			fmt.Fprintf(w, "wrote %s\n", file)
		}
		if r.Workflow != "" {
			fmt.Fprintf(w, "wrote %s\n", r.Workflow)
		}
		fmt.Fprintf(w, "\nnext: read it, then %s\n", r.Next)
	})
}

// draft writes the project file of r.
func (a *app) draft(ctx context.Context, r *initResult, args []string) error {
	dir := filepath.Dir(r.Path)
	compose, notes, err := findCompose(ctx, dir, args)
	if err != nil {
		return err
	}
	var draft *project.Draft
	if len(compose) > 0 {
		draft, err = project.NewDraft(ctx, dir, compose, ignoredBelow(dir))
		if part := partOf(args, err); part != "" {
			err = cli.WithHint(err, "when it goes over another file, name that one before it: %s", part)
		}
	} else if draft, err = project.NewTreeDraft(dir); err == nil && draft == nil {
		err = cli.WithHint(fmt.Errorf("find compose file in %s: none of the usual names exists, and no unit of systemd or program for Linux either", dir), "%s", nameCompose(dir))
	}
	if err != nil {
		return err
	}
	if err := writeProject(r.Path, draft.YAML); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return cli.WithHint(fmt.Errorf("write project: %s exists", r.Path), "delete it first, or write another file with --project and compare")
		}
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(draft.Files)) {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := writeProject(file, draft.Files[name]); err != nil {
			return err
		}
		r.Files = append(r.Files, file)
	}
	r.Compose, r.drafted = compose, true
	r.Notes = append(append(r.Notes, notes...), draft.Notes...)
	return nil
}

// partOf is the command for a file that does not stand alone, when that may be why it
// was refused.
func partOf(args []string, err error) string {
	if err == nil || len(args) != 1 {
		return ""
	}
	in := filepath.Dir(args[0])
	for _, name := range project.ComposeNames {
		base := filepath.Join(in, name)
		if _, serr := os.Stat(base); serr == nil && base != filepath.Clean(args[0]) {
			return "valise init " + base + " " + args[0]
		}
	}
	return ""
}

// nameCompose says how to name a compose file, by those in directories of dir.
func nameCompose(dir string) string {
	for _, name := range append(slices.Clone(project.ComposeNames), "*compose*.y*ml") {
		if found, err := filepath.Glob(filepath.Join(dir, "*", name)); err == nil && len(found) > 0 {
			return "name it: valise init " + found[0]
		}
	}
	return "name it: valise init COMPOSE"
}

// findCompose returns the paths of the compose files from dir.
func findCompose(ctx context.Context, dir string, args []string) (project.ComposeFiles, []string, error) {
	if len(args) == 0 {
		return project.FindCompose(ctx, dir, ignoredBelow(dir))
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
