// Command publish puts files on GitHub as a release of this repository, with the
// package that `valise publish` uses: a draft, uploaded, downloaded again and
// compared, and published in one request. Stopped, it goes on when it is run
// again. scripts/release.sh verifies the files before.
//
//	publish -tag v1.2.3 -commit SHA -notes FILE FILE...
//
// GITHUB_REPOSITORY, GITHUB_API_URL and GITHUB_TOKEN say where and as whom.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/publish"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "publish:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	q := publish.Request{Note: func(format string, args ...any) { fmt.Fprintf(os.Stderr, "note: "+format+"\n", args...) }}
	flag.StringVar(&q.Tag, "tag", "", "tag, v and a version")
	flag.StringVar(&q.Commit, "commit", "", "that the tag must be")
	notes := flag.String("notes", "", "file with the notes")
	flag.Parse()
	version, err := bundle.ParseVersion(strings.TrimPrefix(q.Tag, "v"))
	if err != nil {
		return err
	}
	q.Title, q.Prerelease = "Valise "+version.String(), version.Prerelease() != ""
	text, err := os.ReadFile(*notes)
	if err != nil {
		return err
	}
	if q.Notes = strings.TrimSpace(string(text)); q.Notes == "" || q.Commit == "" || flag.NArg() == 0 {
		return errors.New("want -tag, -commit, -notes with something in it, and files")
	}
	for _, path := range flag.Args() {
		q.Files = append(q.Files, publish.File{Name: filepath.Base(path), Path: path})
	}
	r, err := publish.Open(publish.Options{API: cmp.Or(os.Getenv("GITHUB_API_URL"), "https://api.github.com"),
		Token: os.Getenv("GITHUB_TOKEN"), Repository: os.Getenv("GITHUB_REPOSITORY"), UserAgent: "valise-release"})
	if err != nil {
		return err
	}
	result, err := r.Publish(ctx, q)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d files, %d of them uploaded now\n", result.URL, len(q.Files), result.Uploaded)
	return nil
}
