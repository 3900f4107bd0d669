package device

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/release"
)

// keepReleases is how many releases a rollback leaves on disk: it removes
// nothing that an update would have kept.
const keepReleases = 100

// rollbackData decides which data a rollback brings back and says what is lost.
func (p *Machine) rollbackData(ctx context.Context, d *device, restore, keep bool) (installer.Data, error) {
	if d.app == nil {
		return installer.Data{}, nil // a tree has no data of its own
	}
	st, err := d.journal.Load(ctx)
	if err != nil || st.Current == nil || st.Previous == nil || keep {
		return installer.Data{}, err
	}
	policy, err := d.app.RestorePolicy(*st.Current)
	if err != nil {
		return installer.Data{}, err
	}
	if policy == bundle.RestoreNever && !restore {
		return installer.Data{}, nil
	}
	set, err := d.savedBefore(ctx, *st.Current)
	if err != nil {
		return installer.Data{}, err
	}
	switch {
	case set == nil:
		return installer.Data{}, advise(fmt.Errorf("the data saved before %s came are not here any more", st.Current.Version), DataGone)
	case policy == bundle.RestoreAsk && !restore:
		return installer.Data{}, advise(usagef("%s leaves it to you whether the data saved before it come back: they are of %s, and what was written since would be replaced", st.Current.Version, p.since(set.Created)), ChooseData)
	}
	p.noteReplaced(*set)
	return installer.Data{Record: set.Record}, nil
}

// savedBefore is what was saved when release r came, or nil.
func (d *device) savedBefore(ctx context.Context, r installer.Release) (*backup.Set, error) {
	records, err := d.journal.History(ctx, -1, 0)
	if err != nil {
		return nil, err
	}
	sets, err := d.app.Backups()
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
// longer than those that wait for it allow. Nobody else would do it.
func (p *Machine) UntilBooted(ctx context.Context, pause time.Duration, recover func() error) error {
	for try := 1; ; try++ {
		err := recover()
		if err == nil || try == bootTries || ctx.Err() != nil {
			return err
		}
		p.Note("%v; this was try %d of %d", err, try, bootTries)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// onDevice opens the installed app for a command that takes no bundle.
func (p *Machine) onDevice(ctx context.Context, what string, do func(context.Context, *device) error) error {
	app, err := p.TheApp()
	if err != nil {
		return err
	}
	kind, err := p.kindOf(ctx, app)
	if err != nil {
		return err
	}
	d, err := p.openDevice(ctx, app, kind, what)
	if err != nil {
		return advise(err, SeeStatus)
	}
	defer d.close()
	return do(ctx, d)
}

// Restored is what came of Restore.
type Restored struct {
	Set       backup.Set
	Result    installer.Result
	RunsAgain string // version of the release whose way back ended; there is no Result then
}

// Restore brings back the backup with an ID, or the newest when it is empty. Data
// as they are now are saved first, unless discard says otherwise.
func (p *Machine) Restore(ctx context.Context, id string, discard bool) (done Restored, err error) {
	err = p.onDevice(ctx, "restore", func(ctx context.Context, d *device) error {
		if d.app == nil {
			return errNoData
		}
		set, err := d.findBackup(id)
		if err != nil {
			return err
		}
		done, err = p.restore(ctx, d, set, discard)
		return err
	})
	return done, err
}

func (p *Machine) restore(ctx context.Context, d *device, set backup.Set, discard bool) (done Restored, err error) {
	done.Set = set
	st, err := d.journal.Load(ctx)
	if err != nil {
		return done, err
	}
	if u := st.Unfinished; u != nil && u.From != nil && u.Attention != "" {
		// The release before does not get healthy, perhaps for want of its data.
		if err := d.app.RestoreData(ctx, *u.From, set.Record); err != nil {
			return done, &AttentionError{err}
		}
	}
	if err := p.recoverFirst(ctx, d); err != nil {
		return done, err
	}
	if st.Unfinished != nil && st.Unfinished.Attention != "" {
		done.RunsAgain = st.Unfinished.From.Version
		return done, nil
	}
	if !discard {
		p.noteReplaced(set)
	}
	done.Result = d.RestoreData(ctx, keepReleases, installer.Data{Record: set.Record, Discard: discard})
	return done, nil
}

// findBackup is the set with an ID, or the newest.
func (d *device) findBackup(id string) (backup.Set, error) {
	sets, err := d.app.Backups()
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
func (p *Machine) Backups(app string) ([]backup.Set, error) {
	store, err := release.Open(p.AppDir(app))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return p.runtime(app, store, nil, nil).Backups()
}

// Backup saves the data of the app now, as an update does before it switches.
func (p *Machine) Backup(ctx context.Context) (set backup.Set, err error) {
	err = p.onDevice(ctx, "backup", func(ctx context.Context, d *device) error {
		if d.app == nil {
			return errNoData
		}
		if err := p.recoverFirst(ctx, d); err != nil {
			return err
		}
		st, err := d.journal.Load(ctx)
		if err != nil {
			return err
		}
		if st.Current == nil {
			return errors.New("nothing is installed that has data")
		}
		set, err = d.app.Save(ctx, *st.Current, d.NewID())
		d.Report(installer.Event{Step: "backup", Ended: true, Err: err})
		if err != nil {
			return err
		}
		if len(set.Items) == 0 {
			return fmt.Errorf("release %s does not say what to save: its valise.yaml has no backup", st.Current.Version)
		}
		return d.app.PruneBackups(*st.Current)
	})
	return set, err
}

// Rollback returns to the release before. restore and keep overrule what the
// release that runs says about the data; not both are true.
func (p *Machine) Rollback(ctx context.Context, restore, keep bool) (res installer.Result, err error) {
	err = p.onDevice(ctx, "rollback", func(ctx context.Context, d *device) error {
		if err := p.recoverFirst(ctx, d); err != nil {
			return err
		}
		data, err := p.rollbackData(ctx, d, restore, keep)
		if err != nil {
			return err
		}
		res = d.Rollback(ctx, keepReleases, data)
		return nil
	})
	return res, err
}

// Recover undoes what is unfinished.
func (p *Machine) Recover(ctx context.Context) (res installer.Result, err error) {
	err = p.onDevice(ctx, "recover", func(ctx context.Context, d *device) (err error) {
		if res, err = d.Recover(ctx); err != nil || res.Outcome != installer.NothingToDo {
			return err
		}
		return d.resume(ctx)
	})
	return res, err
}

func (p *Machine) noteReplaced(s backup.Set) {
	p.Note("the data come back as they were with %s, %s; what was written since is saved first and then replaced", s.Version, p.since(s.Created))
}

// since says a time and how long ago that is, unless the clock is wrong.
func (p *Machine) since(t time.Time) string {
	if p.Now().Before(t) {
		return Stamp(t)
	}
	return fmt.Sprintf("%s (%s ago)", Stamp(t), p.Now().Sub(t).Round(time.Second))
}
