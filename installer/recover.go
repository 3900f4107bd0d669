package installer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/valise-ota/valise/bundle/trace"
)

// Recover ends what did not finish: everything before the commit is undone, and a
// rotation of signers that was committed reaches the policy on disk. It
// runs at boot, before every other change, and when a step fails. NothingToDo
// means that nothing was unfinished.
func (in *Installer) Recover(ctx context.Context) (Result, error) {
	in.rotate(ctx)
	st, err := in.Journal.Load(ctx)
	if err != nil {
		return Result{}, err
	}
	if st.Unfinished == nil {
		return Result{Outcome: NothingToDo}, nil
	}
	r := *st.Unfinished
	if r.Error == "" {
		r.Error = errInterrupted.Error()
		if err := in.Journal.Fail(ctx, r.ID, errInterrupted, false); err != nil {
			return Result{}, err
		}
	}
	activated := false
	undo := in.steps(r, nil, st.Kept, Data{Record: r.ID}) // with a backup: what was never begun is skipped
	for _, s := range slices.Backward(undo) {
		i := slices.IndexFunc(r.Steps, func(j Step) bool { return j.Name == s.name })
		if i < 0 {
			continue
		}
		activated = activated || s.name == stepActivate
		if r.Steps[i].State == StepUndone || s.undo == nil {
			continue
		}
		err := Within(ctx, "undo", s.undoLimit, func(ctx context.Context) error {
			return trace.Do(ctx, trace.Step, "undo "+s.name, func(ctx context.Context) error { return s.undo(ctx, r.Steps[i].Undo) })
		})
		if err != nil {
			err = fmt.Errorf("undo %s: %w", s.name, err)
			if ctx.Err() != nil { // as after a power cut: the next recovery goes on
				return Result{NeedsAttention, r, err}, nil
			}
			return Result{NeedsAttention, r, err}, in.Journal.Attention(ctx, r.ID, err.Error())
		}
		if err := in.Journal.StepUndone(ctx, r.ID, s.name, in.Now()); err != nil {
			return Result{}, err
		}
	}
	outcome, status := Unchanged, Failed
	if activated && r.From != nil {
		outcome, status = Reverted, RolledBack
	}
	if err := in.Journal.End(ctx, r.ID, status, in.Now()); err != nil {
		return Result{}, err
	}
	r.Status = status
	return Result{Outcome: outcome, Record: r, Err: errors.New(r.Error)}, nil
}
