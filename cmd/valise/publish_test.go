package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle/publish/publishtest"
)

// doubles are the doubles of the scripts that run.
var doubles = map[string]*publishtest.Server{}

// githubDouble plays GitHub to a script:
//
//	github start [immutable]   a repository acme/shop, and the environment for it
//	github tag NAME COMMIT
//	github commit MESSAGE
//	github answer PATH FILE    what a setting is
//	github releases FILE       writes what there is, as JSON
func githubDouble(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: github start|tag|commit|answer|releases ...")
	}
	url := ts.Getenv("GITHUB_API_URL")
	switch server := doubles[url]; args[0] {
	case "start":
		dir := filepath.Join(ts.Getenv("WORK"), ".github-assets")
		ts.Check(os.MkdirAll(dir, 0o700))
		server = &publishtest.Server{Repository: "acme/shop", Dir: dir, Immutable: len(args) > 1}
		s := httptest.NewServer(server)
		ts.Defer(s.Close)
		doubles[s.URL] = server
		ts.Setenv("GITHUB_API_URL", s.URL)
		ts.Setenv("GITHUB_SERVER_URL", s.URL)
		ts.Setenv("GITHUB_REPOSITORY", "acme/shop")
		ts.Setenv("GITHUB_TOKEN", publishtest.Write)
	case "tag":
		server.Tag(args[1], args[2])
	case "commit":
		server.Commit(args[1])
	case "answer":
		if server.Answers == nil {
			server.Answers = map[string]json.RawMessage{}
		}
		server.Answers[args[1]] = json.RawMessage(ts.ReadFile(args[2]))
	case "releases":
		b, err := json.MarshalIndent(server.Releases(), "", "  ")
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), append(b, '\n'), 0o644))
	}
}
