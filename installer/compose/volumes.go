package compose

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/docker"
)

// move is a volume that a release begins to use, and the one whose data it gets. Both
// are the engine's names.
type move struct{ from, to string }

// volumes is what becomes of data in volumes when one release follows another.
type volumes struct {
	moves []move
	fresh []installer.Note // about volumes that begin empty, and should
	left  []installer.Note // about data that would be left behind
}

// volumes compares what two releases use. What a new volume holds already is somebody's
// wish, and stays.
func (a *App) volumes(ctx context.Context, m *bundle.Manifest, model *docker.Model, old func() (*docker.Model, error)) (v volumes, err error) {
	now := model.Uses()
	var before map[string]docker.Use // asked for when it matters
	for _, name := range slices.Sorted(maps.Keys(now)) {
		key, origin := now[name].Key, m.Device.Volumes[now[name].Key]
		held, err := a.holds(ctx, name)
		if err != nil {
			return v, err
		}
		if held && origin.From == "" {
			continue
		}
		if before == nil {
			model, err := old()
			if err != nil {
				return v, err
			}
			before = model.Uses()
		}
		if _, used := before[name]; used {
			continue
		}
		if origin.From != "" {
			from := nameOf(before, origin.From)
			switch {
			case from == "":
				if !held {
					v.fresh = append(v.fresh, installer.Notef("volume %s starts empty: the running release has no volume %s to copy", key, origin.From))
				}
			case held:
				v.left = append(v.left, installer.Notef("volume %s is to get what volume %s holds, and has data already: docker volume rm %s when they are not needed", name, from, name))
			default:
				v.moves = append(v.moves, move{from, name})
			}
			continue
		}
		other, err := a.leaves(ctx, now[name], now, before)
		if err != nil {
			return v, err
		}
		switch {
		case origin.Empty || other == "":
			v.fresh = append(v.fresh, installer.Notef("volume %s is new and starts empty", key))
		default:
			v.left = append(v.left, installer.Notef("%s uses an empty volume %s, and %s of the release that runs is not used any more; data was not moved: its maker declares volumes: {%s: {from: %s}} in valise.yaml, or {empty: true}", m.Version, key, other, key, other))
		}
	}
	return v, nil
}

// leaves is the key of a volume with data that is not used any more, best one that was
// where use is; "" when there is none.
func (a *App) leaves(ctx context.Context, use docker.Use, now, before map[string]docker.Use) (key string, err error) {
	best := -1
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, used := now[name]; used {
			continue
		}
		held, err := a.holds(ctx, name)
		if err != nil {
			return "", err
		}
		if like := use.Like(before[name]); held && like > best {
			best, key = like, before[name].Key
		}
	}
	return key, nil
}

func nameOf(uses map[string]docker.Use, key string) string {
	for name, use := range uses {
		if use.Key == key {
			return name
		}
	}
	return ""
}

// holds reports whether a volume has data. Where that cannot be seen, it has.
func (a *App) holds(ctx context.Context, name string) (bool, error) {
	at, exists, err := a.Engine.VolumeAt(ctx, name)
	if err != nil || !exists || at == "" {
		return exists, err
	}
	empty, err := backup.Empty(at)
	return !empty, err
}

// switchedVolumes is what volumes says of a switch; nothing of a first installation, and
// nothing moves on the way back.
func (a *App) switchedVolumes(ctx context.Context, sw installer.Switch) (v volumes, err error) {
	if sw.From == nil || sw.Action == installer.ActionRollback || sw.From.Dir == sw.To.Dir {
		return v, nil
	}
	m, err := a.manifest(sw.To)
	if err != nil || len(m.Device.Volumes) == 0 {
		return v, err
	}
	model, err := a.running(m, sw.To).Model(ctx)
	if err != nil {
		return v, err
	}
	v, err = a.volumes(ctx, m, model, func() (*docker.Model, error) { return a.modelOf(ctx, *sw.From) })
	if err == nil && len(v.left) > 0 { // since it was planned
		err = &installer.DataLeftError{What: v.left}
	}
	return v, err
}

// modelOf is the project as a release on disk runs it.
func (a *App) modelOf(ctx context.Context, r installer.Release) (*docker.Model, error) {
	m, err := a.manifest(r)
	if err != nil {
		return nil, err
	}
	return a.running(m, r).Model(ctx)
}

// moveData copies what volumes hold into those that take their place, while nothing of
// the app runs. The old ones stay as they are: the way back uses them.
func (a *App) moveData(ctx context.Context, m *bundle.Manifest, sw installer.Switch, moves []move) error {
	if len(moves) == 0 {
		return nil
	}
	from, err := a.manifest(*sw.From)
	if err != nil {
		return err
	}
	if err := a.running(from, *sw.From).Stop(ctx); err != nil {
		return err
	}
	if err := a.running(m, sw.To).Create(ctx); err != nil { // docker compose makes its volumes itself
		return err
	}
	for _, v := range moves {
		source, _, err := a.Engine.VolumeAt(ctx, v.from)
		if err != nil {
			return err
		}
		target, _, err := a.Engine.VolumeAt(ctx, v.to)
		if err != nil {
			return err
		}
		if source == "" || target == "" {
			return fmt.Errorf("copy volume %s to %s: one of them is not on a disk of this device: copy by a migrate hook", v.from, v.to)
		}
		a.report(installer.Event{Step: "volumes", Detail: fmt.Sprintf("copying what %s holds to %s", v.from, v.to)})
		if err := backup.Copy(ctx, source, target); err != nil {
			return fmt.Errorf("copy volume %s to %s: %w", v.from, v.to, err)
		}
	}
	return nil
}

// unmoveData empties what was copied for a release that is left: the next attempt
// copies what the old volumes hold then.
func (a *App) unmoveData(ctx context.Context, names []string) {
	for _, name := range names {
		at, exists, err := a.Engine.VolumeAt(ctx, name)
		if err == nil && exists && at != "" {
			err = backup.Clear(ctx, at)
		}
		if err != nil {
			a.report(installer.Event{Step: "undo", Detail: fmt.Sprintf("volume %s keeps a copy that nothing uses: %v", name, err)})
		}
	}
}

func (v volumes) notes() (notes []installer.Note) {
	for _, x := range v.moves {
		notes = append(notes, installer.Notef("volume %s gets a copy of what %s holds while the app is stopped; %s stays, for a rollback", x.to, x.from, x.from))
	}
	return append(notes, v.fresh...)
}

// targets are the names of volumes that get data.
func (v volumes) targets() (names []string) {
	for _, x := range v.moves {
		names = append(names, x.to)
	}
	return names
}
