package host

import (
	"archive/tar"
	"compress/gzip"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/verify"
)

// maxProgram bounds one program of the archive, in bytes: dockerd has 100 MiB.
const maxProgram = 512 << 20

// archiveName is what the archive is called in the spool.
const archiveName = "docker.tgz"

//go:embed docker.service
var dockerService string

// installArchive installs Docker's static archive: a directory docker with the
// programs in it. They go where the administrator's own programs belong.
func (m *Machine) installArchive(ctx context.Context, rel *verify.Release, f bundle.File) error {
	m.report("engine", "install "+filepath.Base(f.Path)+" from the bundle")
	bin := filepath.Join(m.Root, "usr/local/bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	dir, err := os.OpenRoot(bin)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer dir.Close()
	// Nothing of it is used before all of it was compared with the manifest.
	spool, cleanUp, err := m.spool()
	if err != nil {
		return err
	}
	defer cleanUp()
	if err := copyFile(rel, f, spool, archiveName, 0o600); err != nil {
		return err
	}
	r, err := spool.Open(archiveName)
	if err != nil {
		return fmt.Errorf("install container engine: %w", err)
	}
	defer r.Close()
	if err := unpack(dir, r); err != nil {
		return fmt.Errorf("install container engine from %s: %w", f.Path, err)
	}
	units := filepath.Join(m.Root, "etc/systemd/system")
	if err := os.MkdirAll(units, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	unitDir, err := os.OpenRoot(units)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer unitDir.Close()
	if err := release.WriteFile(unitDir, "docker.service", []byte(dockerService), 0o644); err != nil {
		return err
	}
	if m.Root != "/" {
		return nil
	}
	_, err = m.output(ctx, "systemctl", "daemon-reload")
	return err
}

// unpack takes the programs it knows out of the archive, and nothing else.
func unpack(dir *os.Root, r io.Reader) error {
	z, err := gzip.NewReader(r)
	if err != nil {
		return err
	}
	t := tar.NewReader(z)
	found := 0
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name, ok := strings.CutPrefix(h.Name, "docker/")
		if h.Typeflag != tar.TypeReg || !ok || !isEngineFile(name) {
			continue
		}
		if h.Size > maxProgram {
			return fmt.Errorf("%s has %d bytes, limit %d", h.Name, h.Size, maxProgram)
		}
		if err := release.CopyFile(dir, name, t, 0o755); err != nil {
			return err
		}
		found++
	}
	if found == 0 {
		return errors.New("it holds no program of Docker's static archive (docker/dockerd and others)")
	}
	return nil
}
