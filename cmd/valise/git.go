package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
)

// gitInfo is what git knows of the working tree.
type gitInfo struct {
	time   time.Time // of the commit
	source bundle.Source
	dirty  bool   // tracked files differ from the commit
	prefix string // of dir below the top of the repository: empty, or ends in /
}

// readGit asks git about the working tree that dir is in. It returns nil when
// there is none, or git does not read it: a bundle can be built without. Why git does
// not is said by the error.
func readGit(ctx context.Context, dir, version, tag string) (*gitInfo, error) {
	git := func(args ...string) (string, bool) { return runGit(ctx, dir, args...) }
	var stderr strings.Builder
	c := exec.CommandContext(ctx, "git", "-C", dir, "log", "-1", "--format=%ct %H")
	c.Stderr = &stderr
	head, err := c.Output()
	if err != nil {
		if !inRepository(dir) {
			return nil, nil
		}
		return nil, gitError(err, stderr.String())
	}
	seconds, commit, _ := strings.Cut(strings.TrimSpace(string(head)), " ")
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return nil, err
	}
	info := &gitInfo{time: time.Unix(n, 0).UTC(), source: bundle.Source{Commit: commit}}
	status, ok := git("status", "--porcelain", "--untracked-files=no")
	info.dirty = !ok || status != ""
	info.prefix, _ = git("rev-parse", "--show-prefix")
	if remote, ok := git("remote", "get-url", "origin"); ok {
		info.source.Repository = publicURL(remote)
	}
	tags, _ := git("tag", "--points-at", "HEAD")
	for _, tag := range []string{tag, "v" + version, version} {
		if slices.Contains(strings.Fields(tags), tag) {
			info.source.Ref = "refs/tags/" + tag
			return info, nil
		}
	}
	info.source.Ref, _ = git("symbolic-ref", "--quiet", "HEAD")
	return info, nil
}

// errNoCheckout is what a job has that should have a checkout: in a container without
// git, actions/checkout leaves files only.
var errNoCheckout = errors.New("there is no .git: in a container, install git before actions/checkout, which else downloads files only")

// gitError is what git said, with what to do where the checkout belongs to another user.
func gitError(err error, stderr string) error {
	said := strings.Join(strings.Fields(stderr), " ")
	if strings.Contains(said, "safe.directory") { // its last words are the command
		if i := strings.Index(said, "git config --global"); i >= 0 {
			said = "the checkout belongs to another user: " + said[i:]
		}
	}
	return fmt.Errorf("%w: %s", err, said)
}

// trustCheckout lets git read the checkout of a job, which in a container belongs to
// another user. The job runs what is in it anyway.
func trustCheckout(dir string) error {
	n, _ := strconv.Atoi(os.Getenv("GIT_CONFIG_COUNT"))
	return errors.Join(os.Setenv(fmt.Sprintf("GIT_CONFIG_KEY_%d", n), "safe.directory"),
		os.Setenv(fmt.Sprintf("GIT_CONFIG_VALUE_%d", n), dir),
		os.Setenv("GIT_CONFIG_COUNT", strconv.Itoa(n+1)))
}

func runGit(ctx context.Context, dir string, args ...string) (string, bool) {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output()
	return strings.TrimSpace(string(out)), err == nil
}

// ignoredBelow tells which paths below dir git ignores: none where there is no
// working tree. A git that does not work is an error, since what it ignores is often
// a secret.
func ignoredBelow(dir string) func(context.Context, []string) ([]string, error) {
	return func(ctx context.Context, paths []string) ([]string, error) {
		c := exec.CommandContext(ctx, "git", "-C", dir, "check-ignore", "-z", "--stdin")
		c.Stdin = strings.NewReader(strings.Join(paths, "\x00") + "\x00")
		var stderr strings.Builder
		c.Stderr = &stderr
		out, err := c.Output()
		var exit *exec.ExitError
		if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
			if !inRepository(dir) {
				return nil, nil
			}
			return nil, fmt.Errorf("ask git which files it ignores: %w", gitError(err, stderr.String()))
		}
		return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 }), nil
	}
}

// inRepository reports whether dir or a directory above it has .git.
func inRepository(dir string) bool {
	dir, err := filepath.Abs(dir)
	for err == nil {
		if _, serr := os.Stat(filepath.Join(dir, ".git")); serr == nil {
			return true
		}
		if filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	return false
}

// maxCommits bounds the commits of a changelog.
const maxCommits = 1000

// commitsSince returns the subjects of the commits after the newest tag of another
// version of this app, newest first; none without such a tag, because all of history
// is no changelog.
func commitsSince(ctx context.Context, dir, version, tag string) []string {
	prefix, _, _ := bundle.SplitTag(tag)
	prefix = tagFamily(prefix)
	tag, ok := runGit(ctx, dir, "describe", "--tags", "--abbrev=0", "--match", prefix+"v[0-9]*", "--match", prefix+"[0-9]*", "--exclude", prefix+"v"+version, "--exclude", prefix+version)
	if !ok {
		return nil
	}
	log, ok := runGit(ctx, dir, "log", "--no-merges", "--format=%s", "--max-count="+strconv.Itoa(maxCommits), "refs/tags/"+tag+"..HEAD")
	if !ok || log == "" {
		return nil
	}
	return strings.Split(log, "\n")
}

// tagFamily is the prefix of a tag without its v, which repositories begin with and
// drop.
func tagFamily(prefix string) string { return strings.TrimSuffix(strings.TrimSuffix(prefix, "v"), "V") }

// publicURL writes the URL of a remote so that everybody can know it: without
// user and password, and the same for ssh and https. What is local is left out.
func publicURL(remote string) string {
	if !strings.Contains(remote, "://") { // [user@]host:path, as scp has it
		host, path, ok := strings.Cut(remote, ":")
		if !ok || strings.Contains(host, "/") {
			return ""
		}
		remote = "ssh://" + host + "/" + strings.TrimPrefix(path, "/")
	}
	u, err := url.Parse(remote)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	switch u.Scheme {
	case "https", "http", "ssh", "git":
	default:
		return ""
	}
	host := u.Host
	if u.Scheme == "ssh" { // its port says nothing about https
		host = u.Hostname()
	}
	return "https://" + host + strings.TrimSuffix(u.EscapedPath(), ".git")
}
