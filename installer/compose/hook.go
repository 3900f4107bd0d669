package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/foreign"
	"github.com/valise-ota/valise/installer/hook"
	"github.com/valise-ota/valise/installer/release"
)

const (
	hookLogsDir = "updates/hooks"
	maxHookLog  = 64 << 10 // bytes of output that are kept of one hook
)

// hook runs the hook of a moment of release r, whose files are in its directory.
// What it printed last is in updates/hooks/VERSION-NAME.log.
func (a *App) hook(ctx context.Context, m *bundle.Manifest, r installer.Release, name string) error {
	return a.hookIn(ctx, m, r, filepath.Join(a.Dir, "releases", r.Dir), name)
}

// hookIn is hook for a release whose directory has not its name yet.
func (a *App) hookIn(ctx context.Context, m *bundle.Manifest, r installer.Release, dir, name string) error {
	h, ok := m.Device.Hooks[name]
	if !ok {
		return nil
	}
	a.report(installer.Event{Step: "hook", Detail: name + " of " + r.Version})
	from, _, err := a.Releases.Current()
	if err != nil {
		return err
	}
	out := &hook.Tail{Limit: maxHookLog}
	vars := []string{"VALISE_HOOK=" + name, "VALISE_APP=" + a.Name, "VALISE_VERSION=" + r.Version, "VALISE_CURRENT=" + from}
	timeout := time.Duration(h.Timeout)
	if h.Service != "" {
		err = a.hookInService(ctx, m, r, h, vars, timeout, out)
	} else {
		env := append(vars, "PATH="+a.Env.Path, "HOME="+a.Env.Home)
		if a.Env.Host != "" {
			env = append(env, "DOCKER_HOST="+a.Env.Host)
		}
		err = hook.Run(ctx, filepath.Join(dir, h.Run[0]), h.Run[1:], a.Dir, env, timeout, out)
	}
	if lerr := a.writeHookLog(r.Version+"-"+name+".log", out.Bytes()); err == nil {
		err = lerr
	}
	if err != nil {
		return fmt.Errorf("hook %s: %w%s", name, err, lastLine(out.Bytes()))
	}
	return nil
}

func (a *App) hookInService(ctx context.Context, m *bundle.Manifest, r installer.Release, h bundle.Hook, vars []string, timeout time.Duration, out io.Writer) error {
	limited, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done after %s: killed", timeout))
	defer cancel()
	return a.running(m, r).Run(limited, m.Device.Project+"-valise-hook", h.Service, h.Run, vars, out)
}

func (a *App) writeHookLog(name string, b []byte) error {
	root := a.Releases.Root()
	for _, dir := range []string{path.Dir(hookLogsDir), hookLogsDir} {
		if err := release.Mkdir(root, dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	logs, err := foreign.OpenOwn(root, hookLogsDir) // it lies in the drop folder
	if err != nil {
		return err
	}
	defer logs.Close()
	return release.WriteFile(logs, name, b, 0o600)
}

// lastLine quotes the end of what a hook printed.
func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return fmt.Sprintf(": %.500s", last)
	}
	return ""
}
