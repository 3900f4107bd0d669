package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/valise-ota/valise/bundle/trace"
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
func (m *Machine) ensureEngine(ctx context.Context, rel *verify.Release) error {
	h := &host.Machine{Root: "/", Path: m.Getenv("PATH"), Spool: filepath.Join(m.Root, "var/lib/valise"), Report: m.Step}
	unreachable := new(docker.UnreachableError)
	engine, err := m.connect(ctx)
	if errors.As(err, &unreachable) && m.Getenv("DOCKER_HOST") == "" && m.Root == "/" && os.Geteuid() == 0 {
		engine, err = m.installEngine(ctx, h, rel, err)
	}
	if err != nil {
		return engineHint(err)
	}
	defer engine.Close()
	_, err = docker.FindCompose(ctx, m.dockerEnv())
	if err == nil || m.Root != "/" {
		return err
	}
	if ierr := h.InstallCompose(ctx, rel); ierr != nil {
		return engineHint(ierr)
	}
	_, err = docker.FindCompose(ctx, m.dockerEnv())
	return err
}

func (m *Machine) installEngine(ctx context.Context, h *host.Machine, rel *verify.Release, cause error) (*docker.Engine, error) {
	start := errors.New("it is not installed")
	if h.HasEngine() {
		start = h.StartEngine(ctx)
	}
	if start != nil {
		// Half of it may be there: power was lost while it came.
		if err := h.InstallEngine(ctx, rel); err != nil {
			if h.HasEngine() {
				err = fmt.Errorf("%w; %w; %w", cause, start, err)
			}
			return nil, err
		}
		if err := h.StartEngine(ctx); err != nil {
			return nil, fmt.Errorf("%w; %w", cause, err)
		}
	}
	for deadline := m.Now().Add(engineStart); ; {
		engine, err := m.connect(ctx)
		if err == nil || m.Now().After(deadline) || ctx.Err() != nil {
			return engine, err
		}
		_ = trace.Sleep(ctx, "for the engine", time.Second)
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
