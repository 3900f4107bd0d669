package main

import (
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle/project"
)

func schemaCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of valise.yaml",
		Long: "schema prints the JSON Schema of valise.yaml, generated from the types that valise build\n" +
			"reads. Editors use it to complete keys and mark mistakes. Editors with yaml-language-server\n" +
			"(VS Code, Neovim, Helix and others) find it through the first line of valise.yaml:\n\n" +
			"  # yaml-language-server: $schema=valise.schema.json",
		Example:           "  valise schema > valise.schema.json",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(*cobra.Command, []string) error { return a.schema() },
	}
}

func (a *app) schema() error {
	raw, err := project.SchemaJSON()
	if err != nil {
		return err
	}
	// A schema is JSON whatever --output says.
	_, err = a.Stdout.Write(raw)
	return err
}
