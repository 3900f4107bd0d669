package device

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/trace"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/release"
)

// keepReleases is how many releases a rollback leaves on disk: it removes
// nothing that an update would have kept.
const keepReleases = 100

// rollbackData decides which data a rollback brings back and says what is lost.
func (m *Machine) rollbackData(ctx context.Context, a *lockedApp, restore, keep bool) (installer.Data, error) {
	if a.data == nil {
		return installer.Data{}, nil // a tree has no data of its own
	}
	st, err := a.journal.Load(ctx)
	if err != nil || st.Current == nil || st.Previous == nil || keep {
		return installer.Data{}, err
	}
	policy, err := a.data.RestorePolicy(*st.Current)
	if err != nil {
		return installer.Data{}, err
	}
	if policy == bundle.RestoreNever && !restore {
		return installer.Data{}, nil
	}
	set, err := a.savedBefore(ctx, *st.Current)
	if err != nil {
		return installer.Data{}, err
	}
	switch {
	case set == nil:
		return installer.Data{}, advise(fmt.Errorf("the data saved before %s was installed no longer exists", st.Current.Version), DataGone)
	case policy == bundle.RestoreAsk && !restore:
		return installer.Data{}, advise(usagef("%s leaves it to you whether to restore the data saved before it, of %s; this replaces what was written since", st.Current.Version, m.since(set.Created)), ChooseData)
	}
	m.noteReplaced(*set)
	return installer.Data{Record: set.Record}, nil
}

// savedBefore is what was saved when release r came, or nil.
func (a *lockedApp) savedBefore(ctx context.Context, r installer.Release) (*backup.Set, error) {
	records, err := a.journal.History(ctx, -1, 0)
	if err != nil {
		return nil, err
	}
	sets, err := a.data.Backups()
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		if rec.To.Dir != r.Dir || rec.Action == installer.ActionRollback || rec.Repairs() || rec.Status != installer.Completed && rec.Status != installer.RolledBack {
			continue
		}
		for _, s := range sets {
			if s.Record == rec.ID {
				return &s, nil
			}
		}
		break
	}
	return nil, nil
}

// How often and how long apart recovery is tried at boot; all of it within
// TimeoutStartSec of its unit.
const (
	bootTries = 5
	BootPause = 10 * time.Second
)

// UntilBooted tries again what fails while everything else on the machine starts
// too: an engine that is not there yet, a database that replays its log for
// longer than those that wait for it allow. Nothing else would do it.
func (m *Machine) UntilBooted(ctx context.Context, pause time.Duration, recover func() error) error {
	for try := 1; ; try++ {
		err := recover()
		if err == nil || try == bootTries || ctx.Err() != nil {
			return err
		}
		m.Note("%v; this was try %d of %d", err, try, bootTries)
		_ = trace.Sleep(ctx, "before recovery is tried again", pause)
	}
}

// onApp opens the installed app for a command that takes no bundle.
func (m *Machine) onApp(ctx context.Context, what string, do func(context.Context, *lockedApp) error) error {
	app, err := m.TheApp()
	if err != nil {
		return err
	}
	kind, err := m.kindOf(ctx, app)
	if err != nil {
		return err
	}
	return trace.Do(ctx, trace.Step, what+" "+app, func(ctx context.Context) error {
		a, err := m.lockApp(ctx, app, kind, what)
		if err != nil {
			return advise(err, SeeStatus)
		}
		defer a.close()
		return do(ctx, a)
	})
}

// Restored is what came of Restore.
type Restored struct {
	Set       backup.Set
	Result    installer.Result
	RunsAgain string // version of the release whose way back ended; there is no Result then
}

// Restore restores the backup with an ID, or the newest when it is empty. Data
// as they are now are saved first, unless discard says otherwise.
func (m *Machine) Restore(ctx context.Context, id string, discard bool) (done Restored, err error) {
	err = m.onApp(ctx, "restore", func(ctx context.Context, a *lockedApp) error {
		set, err := a.findBackup(id)
		if err != nil {
			return err
		}
		done, err = m.restore(ctx, a, set, discard)
		return err
	})
	return done, err
}

func (m *Machine) restore(ctx context.Context, a *lockedApp, set backup.Set, discard bool) (done Restored, err error) {
	done.Set = set
	st, err := a.journal.Load(ctx)
	if err != nil {
		return done, err
	}
	if u := st.Unfinished; u != nil && u.From != nil && u.Attention != "" {
		// The release before does not get healthy, perhaps for want of its data.
		err := installer.Within(ctx, "backup", a.Limits.Backup, func(ctx context.Context) error { return a.data.RestoreData(ctx, *u.From, set.Record) })
		if err != nil {
			return done, &AttentionError{err}
		}
	}
	if err := m.recoverFirst(ctx, a); err != nil {
		return done, err
	}
	if st.Unfinished != nil && st.Unfinished.Attention != "" {
		done.RunsAgain = st.Unfinished.From.Version
		return done, nil
	}
	if !discard {
		m.noteReplaced(set)
	}
	done.Result = a.RestoreData(ctx, keepReleases, installer.Data{Record: set.Record, Discard: discard})
	return done, nil
}

// findBackup is the set with an ID, or the newest.
func (a *lockedApp) findBackup(id string) (backup.Set, error) {
	if a.data == nil {
		return backup.Set{}, errNoData
	}
	sets, err := a.data.Backups()
	if err != nil {
		return backup.Set{}, err
	}
	for i := len(sets) - 1; i >= 0; i-- {
		if id == "" || sets[i].Record == id {
			return sets[i], nil
		}
	}
	if id == "" {
		return backup.Set{}, errors.New("no data were saved here")
	}
	return backup.Set{}, advise(fmt.Errorf("there is no backup %.80q", id), ListBackups)
}

// Backups lists what was saved, oldest first, without engine and lock.
func (m *Machine) Backups(app string) ([]backup.Set, error) {
	store, err := release.Open(m.AppDir(app))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return m.runtime(app, store, nil, docker.Program{}).Backups()
}

var errNoBackup = errors.New("its valise.yaml has no backup")

// Backup saves the data of the app now, as an update does before it switches.
func (m *Machine) Backup(ctx context.Context) (set backup.Set, err error) {
	err = m.onApp(ctx, "backup", func(ctx context.Context, a *lockedApp) error {
		if a.data == nil {
			return errNoData
		}
		if err := m.recoverFirst(ctx, a); err != nil {
			return err
		}
		st, err := a.journal.Load(ctx)
		if err != nil {
			return err
		}
		if st.Current == nil {
			return errors.New("no installed app has data")
		}
		err = installer.Within(ctx, "backup", a.Limits.Backup, func(ctx context.Context) error {
			set, err = a.data.Save(ctx, *st.Current, a.NewID())
			return err
		})
		a.Report(installer.Event{Step: "backup", Ended: true, Err: err})
		if err != nil {
			return err
		}
		if len(set.Items) == 0 {
			return fmt.Errorf("release %s does not say what to save: %w", st.Current.Version, errNoBackup)
		}
		return a.data.PruneBackups(*st.Current)
	})
	return set, err
}

// Rollback returns to the release before. restore and keep overrule what the
// release that runs says about the data; not both are true.
func (m *Machine) Rollback(ctx context.Context, restore, keep bool) (res installer.Result, err error) {
	err = m.onApp(ctx, "rollback", func(ctx context.Context, a *lockedApp) error {
		if err := m.recoverFirst(ctx, a); err != nil {
			return err
		}
		data, err := m.rollbackData(ctx, a, restore, keep)
		if err != nil {
			return err
		}
		res = a.Rollback(ctx, keepReleases, data)
		return nil
	})
	return res, err
}

// Recover undoes what is unfinished.
func (m *Machine) Recover(ctx context.Context) (res installer.Result, err error) {
	err = m.onApp(ctx, "recover", func(ctx context.Context, a *lockedApp) (err error) {
		if res, err = a.Recover(ctx); err != nil || res.Outcome != installer.NothingToDo {
			return err
		}
		return a.resume(ctx)
	})
	return res, err
}

func (m *Machine) noteReplaced(s backup.Set) {
	m.Note("the data is restored to its state with %s, %s; what was written since is saved first and then replaced", s.Version, m.since(s.Created))
}

// since says a time and how long ago that is, unless the clock is wrong.
func (m *Machine) since(t time.Time) string {
	if m.Now().Before(t) {
		return Stamp(t)
	}
	return fmt.Sprintf("%s (%s ago)", Stamp(t), m.Now().Sub(t).Round(time.Second))
}
