package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer/receipt"
)

// chain is chain STICK TEXT: what the receipts of $APP on a stick say, oldest
// first. ! chain: they are refused.
func chain(ts *testscript.TestScript, neg bool, args []string) {
	found, err := filepath.Glob(ts.MkAbs(filepath.Join(args[0], "valise/*", ts.Getenv("APP"), "0*.json")))
	ts.Check(err)
	var files [][]byte
	for _, name := range found {
		b, err := os.ReadFile(name)
		ts.Check(err)
		files = append(files, b)
	}
	list, err := receipt.Chain(context.Background(), files)
	if neg {
		if err == nil {
			ts.Fatalf("the receipts are accepted")
		}
		return
	}
	ts.Check(err)
	var says []string
	for _, r := range list {
		says = append(says, strings.Join([]string{r.Device, r.Action, r.To, r.Status}, " "))
	}
	if got := strings.Join(says, ", "); got != args[1] {
		ts.Fatalf("the receipts say %s", got)
	}
}

// thinFor is thinfor STICK FULL OUT: the bundle FULL for the device whose
// inventory is on a stick.
func thinFor(ts *testscript.TestScript, neg bool, args []string) {
	found, err := filepath.Glob(ts.MkAbs(filepath.Join(args[0], "valise/*", ts.Getenv("APP"), "inventory.json")))
	ts.Check(err)
	b, err := os.ReadFile(found[0])
	ts.Check(err)
	v, err := bundle.ParseInventory(b)
	ts.Check(err)
	full, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	r, err := bundle.Open(bytes.NewReader(full), int64(len(full)))
	ts.Check(err)
	ts.Check(r.Check(context.Background(), nil))
	omit, err := v.Omit(r.Manifest())
	ts.Check(err)
	out, err := os.Create(ts.MkAbs(args[2]))
	ts.Check(err)
	defer out.Close()
	omitted := 0
	ts.Check(bundle.Thin(context.Background(), out, r, func(d bundle.Digest) bool {
		if omit(d) {
			omitted++
		}
		return omit(d)
	}, nil))
	if omitted == 0 {
		ts.Fatalf("the inventory leaves nothing out")
	}
}
