package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/bundletest"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/backup"
	"github.com/valise-ota/valise/installer/host"
	"github.com/valise-ota/valise/installer/installertest"
	"github.com/valise-ota/valise/installer/release"
	"github.com/valise-ota/valise/verify"
	"github.com/valise-ota/valise/verify/verifytest"
)

// double is a runtime whose facts and saved data a test says.
type double struct {
	*installertest.World
	facts  installer.Facts
	policy bundle.RestoreData
	sets   []backup.Set
	taken  error // of Inspect
	staged func(version string)
}

func (d *double) Stage(ctx context.Context, rel *verify.Release, to installer.Release, kept []installer.Release) error {
	if d.staged != nil {
		d.staged(to.Version)
	}
	return d.World.Stage(ctx, rel, to, kept)
}

func (d *double) Inspect(context.Context, *verify.Release, installer.State) (installer.Facts, error) {
	d.facts.Platform = host.Platform()
	return d.facts, d.taken
}

func (d *double) Backups() ([]backup.Set, error) { return d.sets, nil }
func (d *double) Save(context.Context, installer.Release, string) (backup.Set, error) {
	return backup.Set{}, nil
}
func (d *double) PruneBackups(installer.Release) error { return nil }
func (d *double) RestoreData(context.Context, installer.Release, string) error {
	return nil
}
func (d *double) RestorePolicy(installer.Release) (bundle.RestoreData, error) { return d.policy, nil }

// shop is a device with a double, and releases of an app that one signer signs.
type shop struct {
	*Machine
	*double
	t      *testing.T
	signer *verifytest.Signer
	first  Options
}

func newShop(t *testing.T) *shop {
	s := &shop{newcomer(t), &double{World: installertest.NewWorld()}, t, verifytest.NewSigner(t), Options{First: true}}
	s.Machine.Runtime = func(string) installer.Runtime { return s.double }
	s.first.Trust = Trust{Policy: func() (verify.Policy, error) { return s.signer.Policy(), nil }}
	return s
}

// bundle is the file of a release, to which change may do something.
func (s *shop) bundle(version string, change func(*bundle.Manifest)) string {
	s.t.Helper()
	m, c := bundletest.Release(s.t, bundletest.Spec{Version: version})
	if change != nil {
		change(m)
		if err := m.Finish(); err != nil {
			s.t.Fatal(err)
		}
	}
	file := filepath.Join(s.t.TempDir(), "shop-"+version+".tar.gz")
	if err := os.WriteFile(file, s.signer.Bundle(s.t, m, c), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// take verifies, plans and applies.
func (s *shop) take(file string, o Options) error {
	c, err := s.Verify(s.t.Context(), file, o)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := s.Plan(s.t.Context(), c, o); err != nil {
		return err
	}
	res, err := s.Apply(s.t.Context(), c, o)
	return errors.Join(err, res.Err)
}

// installed is a shop that runs version 1.0.0.
func installed(t *testing.T) *shop {
	s := newShop(t)
	if err := s.take(s.bundle("1.0.0", nil), s.first); err != nil {
		t.Fatal(err)
	}
	return s
}

// updated is a shop that runs 1.1.0, and 1.0.0 before.
func updated(t *testing.T) *shop {
	s := installed(t)
	if err := s.take(s.bundle("1.1.0", nil), Options{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAdvice reaches every advice that the library gives without a command line.
func TestAdvice(t *testing.T) {
	refusals := map[Advice]func(*testing.T) error{
		InstallFirst:  func(t *testing.T) error { s := newShop(t); return s.take(s.bundle("1.0.0", nil), Options{}) },
		InstallAny:    func(t *testing.T) error { _, err := newcomer(t).TheApp(); return err },
		UpdateInstead: func(t *testing.T) error { s := installed(t); return s.take(s.bundle("1.1.0", nil), s.first) },
		NameApp: func(t *testing.T) error {
			s := installed(t)
			if err := os.CopyFS(s.stateDir("stall"), os.DirFS(s.stateDir("shop"))); err != nil {
				t.Fatal(err)
			}
			_, err := s.TheApp()
			return err
		},
		NameNewApp: func(t *testing.T) error {
			_, err := newcomer(t).Verify(t.Context(), "", Options{First: true, Source: "https://releases.example/shop/"})
			return err
		},
		NameBundle: func(t *testing.T) error {
			_, err := newcomer(t).Verify(t.Context(), "", Options{First: true})
			return err
		},
		Wait: func(t *testing.T) error {
			s := installed(t)
			unlock, err := release.Lock(filepath.Join(s.stateDir("shop"), "lock"), "a test", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			defer unlock()
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // it is not waited for
			_, err = s.lock(ctx, "shop", "update")
			return err
		},
		SeeStatus: func(t *testing.T) error {
			s := installed(t)
			s.Machine.Runtime, s.Getenv = nil, func(string) string { return "unix:///nowhere.sock" }
			_, err := s.Machine.Recover(t.Context())
			return err
		},
		Again: func(t *testing.T) error {
			s := installed(t)
			c, err := s.Verify(t.Context(), s.bundle("1.1.0", nil), Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := s.Plan(t.Context(), c, Options{}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.ChangeTrust(t.Context(), "rotate", func(p *verify.Policy) error {
				*p = verifytest.NewSigner(t).Policy()
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			_, err = s.Apply(t.Context(), c, Options{})
			return err
		},
		AddTrust: func(t *testing.T) error {
			s := installed(t)
			o := s.first
			o.Trust.Policy = func() (verify.Policy, error) { return verifytest.NewSigner(t).Policy(), nil }
			return s.take(s.bundle("1.0.0", nil), o)
		},
		NameSigner: func(t *testing.T) error { s := newShop(t); return s.take(s.bundle("1.0.0", nil), Options{First: true}) },
		NameAdopted: func(t *testing.T) error {
			_, err := newcomer(t).adoptedPolicy(t.Context(), &Adoption{App: "shop", EnvFile: "/nowhere.env"}, Trust{})
			return err
		},
		ListSigners: func(t *testing.T) error { p := verifytest.NewSigner(t).Policy(); return RemoveSigner(&p, "x") },
		RotateInstead: func(t *testing.T) error {
			p := verifytest.NewSigner(t).Policy()
			return RemoveSigner(&p, p.Signers[0].String())
		},
		WritePolicy: func(t *testing.T) error { _, err := newcomer(t).TrustApp(); return err },
		NameSource:  func(t *testing.T) error { _, err := installed(t).Look(t.Context()); return err },
		DataGone: func(t *testing.T) error {
			s := updated(t)
			s.policy = bundle.RestoreAlways
			_, err := s.Machine.Rollback(t.Context(), false, false)
			return err
		},
		ChooseData: func(t *testing.T) error {
			s := updated(t)
			_, st, err := s.ReadState(t.Context(), "shop")
			if err != nil {
				t.Fatal(err)
			}
			j, _, _ := s.ReadState(t.Context(), "shop")
			last, err := j.History(t.Context(), 1, 0)
			if err != nil || last[0].To.Version != st.Current.Version {
				t.Fatal(last, err)
			}
			s.policy, s.sets = bundle.RestoreAsk, []backup.Set{{Record: last[0].ID, Version: "1.0.0"}}
			_, err = s.Machine.Rollback(t.Context(), false, false)
			return err
		},
		ListBackups: func(t *testing.T) error { _, err := installed(t).Machine.Restore(t.Context(), "X", false); return err },
		BringEngine: func(*testing.T) error { return engineHint(&host.NoEngineError{}) },
		SeeEngineLog: func(t *testing.T) error {
			s := newShop(t)
			s.Machine.Runtime, s.Getenv = nil, func(string) string { return "unix:///nowhere.sock" }
			return s.take(s.bundle("1.0.0", nil), s.first)
		},
		EditEnv: func(t *testing.T) error {
			s := installed(t)
			s.Given, s.facts.EnvChanged = map[string]string{"PORT": "1"}, []string{"PORT"}
			return s.take(s.bundle("1.0.0", nil), Options{})
		},
		TakeOver: func(t *testing.T) error {
			s := newShop(t)
			s.taken = &installer.TakenError{Project: "shop", Services: []string{"web (running)"}}
			return s.take(s.bundle("1.0.0", nil), s.first)
		},
		RepairRecords: func(t *testing.T) error {
			s := installed(t)
			if err := os.WriteFile(s.journalPath("shop"), bytes.Repeat([]byte("x"), 1<<13), 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, err := s.ReadState(t.Context(), "shop")
			return err
		},
		UnmetCondition: func(t *testing.T) error {
			s := installed(t)
			return s.take(s.bundle("2.0.0", func(m *bundle.Manifest) { m.Requires = &bundle.Requires{From: "1.5.0"} }), Options{})
		},
	}
	for advice, provoke := range refusals {
		t.Run(string(advice), func(t *testing.T) {
			err := provoke(t)
			if got := new(Error); !errors.As(err, &got) || got.Advice != advice {
				t.Errorf("%v, want an error with that advice", err)
			}
		})
	}
	// Only a machine on which no group can be made gives this one.
	for _, a := range declaredAdvice(t) {
		if refusals[a] == nil && a != MakeGroup {
			t.Errorf("no test reaches %q", a)
		}
	}
}

// TestSameVersion: the bundle of the version that was adopted is taken; another release
// of one that came in a bundle is not.
func TestSameVersion(t *testing.T) {
	s := newShop(t)
	c, err := s.Verify(t.Context(), s.bundle("1.0.0", nil), s.first)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for signer, taken := range map[string]bool{installer.Adopted: true, "key x": false} {
		r := installer.Release{Version: "1.0.0", Dir: "1.0.0", Manifest: bundle.DigestOf(nil), Signer: signer}
		st := installer.State{App: "shop", Current: &r, Kept: []installer.Release{r}, Floor: "1.0.0"}
		if _, err := s.evaluate(t.Context(), s.double, nil, c.rel, st, "x", Options{}); (err == nil) != taken {
			t.Errorf("%s: %v", signer, err)
		}
	}
}

// declaredAdvice reads them from the source.
func declaredAdvice(t *testing.T) (all []Advice) {
	f, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		if g, ok := n.(*ast.GenDecl); ok && strings.Contains(g.Doc.Text(), "Finding") {
			return false // they are no errors
		}
		if v, ok := n.(*ast.ValueSpec); ok && fmt.Sprint(v.Type) == "Advice" {
			text, _ := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			all = append(all, Advice(text))
		}
		return true
	})
	if len(all) < 20 {
		t.Fatalf("only %d were found: %v", len(all), all)
	}
	return all
}

// TestRefusals reaches the refusals of other types.
func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		want    error
		provoke func(*testing.T) error
	}{
		"no app of that name": {new(UsageError), func(t *testing.T) error {
			m := newcomer(t)
			m.App = "../x"
			_, err := m.TheApp()
			return err
		}},
		"a tree below a root": {new(UsageError), func(t *testing.T) error {
			s := newShop(t)
			m, c := bundletest.Tree(t, bundletest.Spec{App: "shop"}, bundletest.TreeFiles("shop", "1.2.3"))
			file := filepath.Join(t.TempDir(), "shop.tar.gz")
			if err := os.WriteFile(file, s.signer.Bundle(t, m, c), 0o600); err != nil {
				t.Fatal(err)
			}
			return s.take(file, s.first)
		}},
		"no source": {new(UsageError), func(t *testing.T) error {
			_, err := newcomer(t).Verify(t.Context(), "", Options{First: true, Source: "nowhere"})
			return err
		}},
		"another app": {new(verify.Error), func(t *testing.T) error {
			s := installed(t)
			s.Machine.App = "stall"
			return s.take(s.bundle("1.1.0", nil), Options{})
		}},
		"another signer": {new(verify.Error), func(t *testing.T) error {
			s := installed(t)
			s.signer = verifytest.NewSigner(t)
			return s.take(s.bundle("1.1.0", nil), Options{})
		}},
		"a downgrade": {new(verify.Error), func(t *testing.T) error { s := updated(t); return s.take(s.bundle("1.0.0", nil), Options{}) }},
		"a damaged file": {new(bundle.FormatError), func(t *testing.T) error {
			s := installed(t)
			file := s.bundle("1.1.0", nil)
			return errors.Join(os.Truncate(file, 1000), s.take(file, Options{}))
		}},
		"a missing key": {new(EnvError), func(t *testing.T) error {
			s := installed(t)
			s.facts.EnvMissing = []string{"TOKEN"}
			return s.take(s.bundle("1.1.0", nil), Options{})
		}},
		"a missing file": {new(installer.MissingFilesError), func(t *testing.T) error {
			s := installed(t)
			s.facts.LocalMissing = []string{"secret.txt"}
			return s.take(s.bundle("1.1.0", nil), Options{})
		}},
		"nothing newer": {new(NewestError), func(t *testing.T) error {
			s := newShop(t)
			file := s.bundle("1.0.0", nil)
			o := s.first
			o.Source = filepath.Dir(file)
			if err := s.take(file, o); err != nil {
				t.Fatal(err)
			}
			_, err := s.Verify(t.Context(), "", Options{})
			return err
		}},
		"a way back that failed": {new(AttentionError), func(t *testing.T) error {
			s := installed(t)
			s.Sick["1.0.0"], s.Sick["1.1.0"] = true, true
			if err := s.take(s.bundle("1.1.0", nil), Options{}); err == nil {
				t.Fatal("it runs")
			}
			_, err := s.Machine.Rollback(t.Context(), false, false)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.provoke(t); !errors.As(err, reflect.New(reflect.TypeOf(tc.want)).Interface()) {
				t.Errorf("%T: %v, want a %T", err, err, tc.want)
			}
		})
	}
	// What is refused leaves no trace.
	s := newShop(t)
	if err := s.take(s.bundle("1.0.0", nil), Options{}); err == nil {
		t.Error("an update without an installation")
	}
	if left, err := fs.ReadDir(os.DirFS(s.Root), "."); err != nil || slices.ContainsFunc(left, func(e fs.DirEntry) bool { return e.Name() == "var" || e.Name() == "opt" }) {
		t.Errorf("left: %v %v", left, err)
	}
}
