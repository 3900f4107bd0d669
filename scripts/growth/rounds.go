package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ballast is the size of the file, which cannot be compressed, that large bundles have many times.
const ballast = 100e6

// bundle measures a bundle of n MB, which has one image, and one of a file tree with the same content.
func (g *growth) bundle(ctx context.Context, n int) error {
	var images, tree strings.Builder
	for i := range n / (ballast / 1e6) {
		fmt.Fprintf(&images, "{from: ballast, to: /data/%d}, ", i)
		fmt.Fprintf(&tree, ", {from: ballast, to: data/%d}", i)
	}
	if err := g.compose(1, func(int) string { return images.String() }, map[string]string{}); err != nil {
		return err
	}
	if err := random(g.file("project", "ballast"), ballast); err != nil {
		return err
	}
	if err := g.packed(ctx, true); err != nil {
		return err
	}
	if err := g.emptied("cache", "bundles"); err != nil {
		return err
	}
	if err := g.tree(app, tree.String(), map[string]string{}); err != nil {
		return err
	}
	if err := random(g.file("project", "ballast"), ballast); err != nil {
		return err
	}
	if err := errors.Join(g.newDevice(), g.do(ctx, g.build("1.0.0", "1.0.0")...), g.do(ctx, g.sign("1.0.0")...)); err != nil {
		return err
	}
	return g.install(ctx, "valise-installer install, tree", "1.0.0")
}

// packed measures what is done with the project until it is a bundle, and with that.
func (g *growth) packed(ctx context.Context, sign bool) error {
	if err := g.emptied("cache", "bundles"); err != nil {
		return err
	}
	if err := g.measure(ctx, "valise build", g.build("1.0.0", "1.0.0")...); err != nil {
		return err
	}
	if err := os.RemoveAll(g.file("cache")); err != nil {
		return err
	}
	if sign {
		if err := g.measure(ctx, "valise sign", g.sign("1.0.0")...); err != nil {
			return err
		}
	} else if err := g.do(ctx, g.sign("1.0.0")...); err != nil {
		return err
	}
	if err := g.measure(ctx, "valise verify", g.verify("1.0.0")...); err != nil {
		return err
	}
	return g.measure(ctx, "valise inspect", g.inspect("1.0.0")...)
}

// compose writes the project of a compose app with n images, each of its own files.
func (g *growth) compose(n int, files func(i int) string, more map[string]string) error {
	var compose, images strings.Builder
	fmt.Fprintf(&compose, "services:\n")
	for i := range n {
		fmt.Fprintf(&compose, "  s%d: {image: 'growth/i%[1]d:1.0.0'}\n", i)
		fmt.Fprintf(&images, "  growth/i%d: {base: scratch, files: [%s], entrypoint: [/run]}\n", i, files(i))
	}
	more["compose.yaml"] = compose.String()
	return g.project("app: growth\ncompose: compose.yaml\nhealth: {compose: [s0]}\nimages:\n"+images.String(), more)
}

// images measures a bundle with n small images.
func (g *growth) images(ctx context.Context, n int) error {
	files := map[string]string{}
	for i := range n {
		files[fmt.Sprintf("run%d", i)] = fmt.Sprintf("%d\n", i)
	}
	if err := g.compose(n, func(i int) string { return fmt.Sprintf("{from: run%d, to: /run}", i) }, files); err != nil {
		return err
	}
	return g.packed(ctx, false)
}

// manyFiles are n small files below data, a hundred in a directory.
func manyFiles(n int) map[string]string {
	files := map[string]string{}
	for i := range n {
		files[fmt.Sprintf("data/%d/%d", i/100, i)] = fmt.Sprintf("%d\n", i)
	}
	return files
}

// files measures a tree of n files, and an update that changes one of them.
func (g *growth) files(ctx context.Context, n int) error {
	files := manyFiles(n)
	if err := g.tree(app, ", {from: data, to: data}", files); err != nil {
		return err
	}
	if err := g.packed(ctx, false); err != nil {
		return err
	}
	if err := os.WriteFile(g.file("project/data/0/0"), []byte("changed\n"), 0o644); err != nil {
		return err
	}
	if err := errors.Join(g.newDevice(), g.versions(ctx, 1, 1), g.install(ctx, "valise-installer install", "1.0.0")); err != nil {
		return err
	}
	file, err := g.carry("1.0.1")
	if err != nil {
		return err
	}
	if err := g.measure(ctx, "valise-installer plan", g.onDevice("plan", file)...); err != nil {
		return err
	}
	if err := g.apply(ctx, "valise-installer update", "1.0.1", "update"); err != nil {
		return err
	}
	return g.looks(ctx, "status", "doctor", "rollback")
}

// mounted measures a compose app that mounts a directory of n files. Its device side needs an engine.
func (g *growth) mounted(ctx context.Context, n int) error {
	files := manyFiles(n)
	files["run"] = "\n"
	if err := g.compose(1, func(int) string { return "{from: run, to: /run}" }, files); err != nil {
		return err
	}
	if err := os.WriteFile(g.file("project/compose.yaml"), []byte("services:\n  s0: {image: 'growth/i0:1.0.0', volumes: ['./data:/data:ro']}\n"), 0o644); err != nil {
		return err
	}
	return g.packed(ctx, false)
}

// kept measures updates of a device that keeps n releases.
func (g *growth) kept(ctx context.Context, n int) error {
	first := n == g.now.sizes[0]
	if first {
		if err := errors.Join(g.tree(app, "", map[string]string{}), g.emptied("bundles"), g.newDevice(), g.versions(ctx, 0, 110), g.install(ctx, "", "1.0.0")); err != nil {
			return err
		}
	}
	names, err := os.ReadDir(filepath.Join(g.root, "opt", app, "releases"))
	if err != nil {
		return err
	}
	next := len(names)
	for ; next < n; next++ {
		if err := g.apply(ctx, "", fmt.Sprintf("1.0.%d", next), "update"); err != nil {
			return err
		}
	}
	for range rounds {
		if err := g.looks(ctx, "status", "doctor"); err != nil {
			return err
		}
	}
	for i := range rounds {
		if err := g.apply(ctx, "valise-installer update", fmt.Sprintf("1.0.%d", next+i), "update"); err != nil {
			return err
		}
	}
	return nil
}

// records measures a device whose app has n records.
func (g *growth) records(ctx context.Context, n int) error {
	if n == g.now.sizes[0] {
		if err := errors.Join(g.tree(app, "", map[string]string{}), g.emptied("bundles"), g.newDevice(), g.versions(ctx, 0, len(g.now.sizes)*rounds), g.install(ctx, "", "1.0.0")); err != nil {
			return err
		}
	}
	if err := g.addRecords(ctx, n); err != nil {
		return err
	}
	for range rounds {
		if err := g.looks(ctx, "status", "history", "doctor"); err != nil {
			return err
		}
		if err := g.served(ctx, "valise-installer serve, until ready", 1, "msg=serving"); err != nil {
			return err
		}
	}
	done := 0
	for i, size := range g.now.sizes {
		if size == n {
			done = i * rounds
		}
	}
	for i := range rounds {
		if err := g.apply(ctx, "valise-installer update", fmt.Sprintf("1.0.%d", done+i+1), "update"); err != nil {
			return err
		}
	}
	return nil
}

// drop measures the daemon with n bundles in a drop folder: until all are verified, and until all are applied.
func (g *growth) drop(ctx context.Context, n int) error {
	built, err := filepath.Glob(g.bundleFile("*"))
	if err != nil {
		return err
	}
	if len(built) == 0 {
		if err := errors.Join(g.tree(app, "", map[string]string{}), g.emptied("bundles")); err != nil {
			return err
		}
	}
	if err := g.versions(ctx, len(built), n); err != nil {
		return err
	}
	for _, how := range []struct{ mode, status, program string }{
		{"stage", "status=pending", "valise-installer serve, drop_mode: stage"},
		{"apply", "status=completed", "valise-installer serve, drop_mode: apply"},
	} {
		if err := errors.Join(g.newDevice(), g.install(ctx, "", "1.0.0")); err != nil {
			return err
		}
		config, err := os.OpenFile(filepath.Join(g.root, "etc/valise", app+".yaml"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(config, "updates: {drop_mode: %s}\n", how.mode)
		if err := errors.Join(err, config.Close()); err != nil {
			return err
		}
		folder := filepath.Join(g.root, "opt", app, "updates")
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		for i := range n {
			name := fmt.Sprintf("1.0.%d", i+1)
			if err := os.Link(g.bundleFile(name), filepath.Join(folder, name+".tar.gz")); err != nil {
				return err
			}
		}
		if err := g.served(ctx, how.program, n, "msg=record", how.status); err != nil {
			return err
		}
	}
	return nil
}

// apps measures a device with n apps.
func (g *growth) apps(ctx context.Context, n int) error {
	if n == g.now.sizes[0] {
		if err := errors.Join(g.emptied("bundles"), g.newDevice()); err != nil {
			return err
		}
	}
	installed, err := filepath.Glob(filepath.Join(g.root, "var/lib/valise/*/state.db"))
	if err != nil {
		return err
	}
	from := len(installed) + 1
	var names []string
	for i := from; i <= n; i++ {
		name := fmt.Sprintf("a%d", i)
		if err := errors.Join(g.tree(name, "", map[string]string{}), g.do(ctx, g.build("1.0.0", name)...)); err != nil {
			return err
		}
		names = append(names, name)
	}
	if err := g.do(ctx, g.sign(names...)...); err != nil {
		return err
	}
	for i, name := range names {
		program := ""
		if i >= len(names)-rounds {
			program = "valise-installer install, one more"
		}
		if err := g.install(ctx, program, name); err != nil {
			return err
		}
	}
	for range rounds {
		if err := g.looks(ctx, "--app a1 status", "doctor"); err != nil {
			return err
		}
		if err := g.served(ctx, "valise-installer serve, until ready", 1, "msg=serving"); err != nil {
			return err
		}
	}
	return nil
}

// clients measures page and daemon while n clients watch, and each loads the page once.
func (g *growth) clients(ctx context.Context, n int) (err error) {
	if err := errors.Join(g.tree(app, "", map[string]string{}), g.emptied("bundles"), g.newDevice(), g.versions(ctx, 0, 0), g.install(ctx, "", "1.0.0")); err != nil {
		return err
	}
	address, err := freePort()
	if err != nil {
		return err
	}
	if err := g.do(ctx, g.onDevice("page", "setup", "--listen", address)...); err != nil {
		return err
	}
	var tokens []string
	for i := range 10 { // one has at most 250 streams
		out, err := g.output(ctx, g.onDevice("page", "token", fmt.Sprintf("t%d", i), "--scope", "read")...)
		if err != nil {
			return err
		}
		_, token, _ := strings.Cut(strings.TrimSpace(out), ": ")
		tokens = append(tokens, token)
	}
	daemon, err := g.start(ctx, "serve")
	if err != nil {
		return err
	}
	defer func() {
		cost, derr := daemon.stop()
		if err = errors.Join(err, derr); err == nil {
			g.add("valise-installer serve", cost)
		}
	}()
	if _, err := daemon.count(ctx, 1, "msg=serving"); err != nil {
		return err
	}
	page, err := g.start(ctx, "page")
	if err != nil {
		return err
	}
	_, err = page.count(ctx, 1, "msg=serving")
	begin := time.Now()
	if err == nil {
		err = g.watch(ctx, "http://"+address, tokens, n)
	}
	wall := time.Since(begin).Seconds()
	cost, perr := page.stop()
	if err := errors.Join(err, perr); err != nil {
		return err
	}
	cost.wall = wall
	g.add("valise-installer page", cost)
	return nil
}

// random writes size bytes that are the same each time and do not compress.
func random(file string, size int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	return errors.Join(err, f.Sync(), f.Close())
}
