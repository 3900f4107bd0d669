package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/host"
	"github.com/valise-ota/valise/verify"
)

// engineStart is how long a container engine may take to answer after it was
// started: a small device that starts one for the first time takes its time.
const engineStart = 90 * time.Second

// ensureEngine gives this machine a running engine and docker compose when it
// lacks them: from the verified release, else from the distribution. An engine
// that somebody named with DOCKER_HOST is theirs.
func (p *Machine) ensureEngine(ctx context.Context, rel *verify.Release) error {
	m := &host.Machine{Root: "/", Path: p.Getenv("PATH"), Spool: filepath.Join(p.Root, "var/lib/valise"), Report: p.Step}
	unreachable := new(docker.UnreachableError)
	engine, err := p.connect(ctx)
	if errors.As(err, &unreachable) && p.Getenv("DOCKER_HOST") == "" && p.Root == "/" && os.Geteuid() == 0 {
		engine, err = p.installEngine(ctx, m, rel, err)
	}
	if err != nil {
		return engineHint(err)
	}
	defer engine.Close()
	_, _, err = docker.FindCompose(ctx, p.dockerEnv())
	if err == nil || p.Root != "/" {
		return err
	}
	if ierr := m.InstallCompose(ctx, rel); ierr != nil {
		return engineHint(ierr)
	}
	_, _, err = docker.FindCompose(ctx, p.dockerEnv())
	return err
}

func (p *Machine) installEngine(ctx context.Context, m *host.Machine, rel *verify.Release, cause error) (*docker.Engine, error) {
	start := errors.New("it is not installed")
	if m.HasEngine() {
		start = m.StartEngine(ctx)
	}
	if start != nil {
		// Half of it may be there: power was lost while it came.
		if err := m.InstallEngine(ctx, rel); err != nil {
			if m.HasEngine() {
				err = fmt.Errorf("%w; %w; %w", cause, start, err)
			}
			return nil, err
		}
		if err := m.StartEngine(ctx); err != nil {
			return nil, fmt.Errorf("%w; %w", cause, err)
		}
	}
	for deadline := p.Now().Add(engineStart); ; {
		engine, err := p.connect(ctx)
		if err == nil || p.Now().After(deadline) || ctx.Err() != nil {
			return engine, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// engineHint says how an engine can be brought to a machine without a network.
func engineHint(err error) error {
	if none := new(host.NoEngineError); errors.As(err, &none) {
		return advise(err, BringEngine, none.Bring)
	}
	if errors.As(err, new(*docker.UnreachableError)) {
		return advise(err, SeeEngineLog)
	}
	return err
}
