package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/spf13/cobra"

	"github.com/valise-ota/valise/bundle/order"
	"github.com/valise-ota/valise/bundle/parts"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/daemon"
	"github.com/valise-ota/valise/installer/host"
)

// maxStickFiles bounds how many files of a stick are looked at.
const maxStickFiles = 256

func usbCommand(p *program) *cobra.Command {
	return &cobra.Command{
		Use:   "usb DEVICE",
		Short: "Update from a stick that was plugged in",
		Long: "usb mounts DEVICE read-only, looks for bundles of installed apps in its top directory, and\n" +
			"passes the newest one of each app to the update service, with the releases that it requires.\n" +
			"The service copies them to this device before it verifies them. A rollout file on the stick\n" +
			"counts as one in a source. /etc/valise/APP.yaml decides what happens next:\n\n" +
			"  updates:\n" +
			"    usb: stage                # off, stage: wait until a person applies it (default), apply\n" +
			"    usb_receipts: true        # then write receipts and inventory to the stick; default false\n\n" +
			"udev starts this command when a stick is plugged in.",
		Example: "  valise-installer usb /dev/sda1",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return p.usb(cmd.Context(), args[0]) },
	}
}

func (p *program) usb(ctx context.Context, device string) error {
	dir := filepath.Join(p.RunDir(), "usb-"+filepath.Base(device))
	unmount, err := host.MountStick(device, dir, false)
	if err != nil {
		return err
	}
	taken, err := p.takeFrom(ctx, dir)
	if uerr := unmount(); err == nil {
		err = uerr
	}
	if err != nil {
		return err
	}
	for _, t := range taken {
		if err := p.finishUSB(ctx, t); err != nil {
			p.Note("%s %s: %v", t.app, t.version, err)
		}
	}
	if len(taken) == 0 {
		p.Note("nothing on %s is newer than the installed release", device)
	}
	return p.giveBack(ctx, device, dir)
}

// taken is a bundle that the update service has.
type taken struct {
	app, version, record string
	apply                bool
}

// takeFrom hands the newest bundle of each app in dir to the update service.
func (p *program) takeFrom(ctx context.Context, dir string) ([]taken, error) {
	apps, err := p.Installed()
	if err != nil {
		return nil, err
	}
	files, err := p.bundlesIn(dir)
	if err != nil {
		return nil, err
	}
	var list []taken
	for _, app := range apps {
		c, err := p.ReadConfig(app)
		if err == nil {
			err = c.Updates.Validate()
		}
		if err != nil {
			return list, err
		}
		mode := cmp.Or(c.Updates.USB, daemon.Stage)
		if mode != daemon.Off {
			if err := p.TakeRollout(ctx, app, dir); err != nil {
				return list, err
			}
		}
		newer, current, err := p.newer(ctx, app, files)
		if err != nil {
			return list, err
		}
		if mode == daemon.Off {
			continue
		}
		// A stick may hold a damaged copy beside a good one.
		var refused error
		for len(newer) > 0 {
			way, err := onStick(current, newer)
			if err != nil {
				return list, err
			}
			var id string
			last := way[len(way)-1]
			for _, f := range way {
				p.UI.Step("stick", fmt.Sprintf("%s %s is on it, in %s", app, f.version, filepath.Base(f.path)))
				if id, err = p.waiting(ctx, app, f.version); err == nil && id == "" {
					id, err = p.handOver(ctx, app, f.path)
				}
				if err != nil {
					last = f
					break
				}
			}
			if err == nil {
				list, refused = append(list, taken{app, last.version, id, mode == daemon.Apply}), nil
				break
			}
			if refused != nil {
				p.Note("%v", refused)
			}
			refused = fmt.Errorf("take %s from the stick: %w", filepath.Base(last.path), err)
			newer = slices.DeleteFunc(newer, func(f offered) bool { return f == last })
		}
		if refused != nil {
			return list, refused
		}
	}
	return list, nil
}

// onStick is the way to the newest release that the files lead to, one after the other;
// the newest alone when none is reached: others that it needs may be elsewhere. newer
// are the newest first.
func onStick(current string, newer []offered) ([]offered, error) {
	file := func(version string) offered {
		return newer[slices.IndexFunc(newer, func(f offered) bool { return f.version == version })]
	}
	var versions []string
	for _, f := range newer {
		versions = append(versions, f.version)
	}
	for _, v := range versions {
		way, err := installer.Way(current, v, versions, func(v string) (string, bool, error) { return file(v).from, true, nil })
		if errors.As(err, new(*installer.NoWayError)) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var files []offered
		for _, v := range way {
			files = append(files, file(v))
		}
		return files, nil
	}
	return newer[:1], nil
}

// offered is a bundle on a stick, and what it says of itself.
type offered struct{ path, app, version, from string }

func (p *program) bundlesIn(dir string) ([]offered, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("look at the stick: %w", err)
	}
	defer d.Close()
	entries, err := d.ReadDir(maxStickFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("look at the stick: %w", err)
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var list []offered
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		// What its directory says of a file may be a lie.
		if info, err := e.Info(); err != nil || !info.Mode().IsRegular() || e.Name()[0] == '.' {
			continue
		}
		r, f, err := parts.OpenBundle(path)
		if errors.As(err, new(*parts.Error)) {
			p.Note("%v", err)
		}
		if err != nil {
			continue // not a bundle, or a later part of one
		}
		m := r.Manifest()
		f.Close()
		from := ""
		if m.Requires != nil {
			from = m.Requires.From
		}
		list = append(list, offered{path, m.App, m.Version, from})
	}
	return list, nil
}

// newer are the files that are newer than what runs and did not fail here before,
// the newest first, and what runs.
func (p *program) newer(ctx context.Context, app string, files []offered) (list []offered, current string, err error) {
	j, st, err := p.ReadState(ctx, app)
	if err != nil {
		return nil, "", err
	}
	j.Close()
	if st.Current != nil {
		current = st.Current.Version
	}
	compare := func(a, b string) int {
		// Both were checked when they were read.
		return semver.MustParse(a).Compare(semver.MustParse(b))
	}
	for _, f := range files {
		if f.app == app && !slices.Contains(st.Bad, f.version) && (st.Current == nil || compare(f.version, st.Current.Version) > 0) {
			list = append(list, f)
		}
	}
	order.By(list, func(a, b offered) int { return -compare(a.version, b.version) })
	return list, current, nil
}

// waiting is the record of a version that the update service has already; empty
// when it has not.
func (p *program) waiting(ctx context.Context, app, version string) (string, error) {
	var page daemon.Page
	if err := p.ask().Get(ctx, "", app, nil, &page); err != nil {
		return "", err
	}
	for _, u := range page.Data {
		if u.Version == version && u.Status == installer.Pending && u.HasFirmwareFile {
			return u.PublicID, nil
		}
	}
	return "", nil
}

// handOver copies a bundle to the update service, which verifies its copy: a stick
// that gives other answers later gains nothing. It returns the record's ID.
func (p *program) handOver(ctx context.Context, app, path string) (string, error) {
	f, err := parts.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	client := p.ask()
	up, err := client.Begin(ctx, app, daemon.NewUpload{Size: f.Size(), Name: filepath.Base(path), Waits: true})
	if err != nil {
		return "", err
	}
	update, finish := p.UI.Track("copy " + filepath.Base(path))
	_, err = client.Write(ctx, app, up.ID, 0, &counted{r: f.Reader(), total: f.Size(), report: update})
	finish(err)
	if err == nil {
		var u daemon.Update
		if u, err = client.Finish(ctx, app, up.ID, f.Size()); err == nil {
			return u.PublicID, nil
		}
	}
	_ = client.Abandon(ctx, app, up.ID)
	return "", err
}

// finishUSB applies what was taken where the device says so, and waits for the
// end.
func (p *program) finishUSB(ctx context.Context, t taken) error {
	if !t.apply {
		p.UI.Step("stick", fmt.Sprintf("%s %s is verified and waits for a person to apply it", t.app, t.version))
		return nil
	}
	client := p.ask()
	if err := client.Post(ctx, "/"+t.record+"/apply", t.app, nil, nil); err != nil {
		return err
	}
	for {
		var u daemon.Update
		if err := client.Get(ctx, "/"+t.record, t.app, nil, &u); err != nil {
			return err
		}
		switch u.Status {
		case installer.Completed:
			p.UI.Step("stick", fmt.Sprintf("%s %s runs", t.app, t.version))
			return nil
		case installer.Failed, installer.RolledBack:
			why := string(u.Status)
			if u.ErrorMessage != nil {
				why += ": " + *u.ErrorMessage
			}
			return errors.New(why)
		case installer.Pending:
			if u.ErrorMessage != nil { // something stands in the way
				return errors.New(*u.ErrorMessage)
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

// giveBack writes receipts and inventories to the stick, of the apps whose operator
// wants that: what a device runs is no business of whoever plugs something in.
func (p *program) giveBack(ctx context.Context, stick, dir string) error {
	apps, err := p.Installed()
	if err != nil {
		return err
	}
	apps = slices.DeleteFunc(apps, func(app string) bool {
		c, err := p.ReadConfig(app)
		return err != nil || !c.Updates.USBReceipts || c.Updates.USB == daemon.Off
	})
	if len(apps) == 0 {
		return nil
	}
	unmount, err := host.MountStick(stick, dir, true)
	if err != nil {
		p.Note("the stick is read-only: no receipts were written")
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err == nil {
		for _, app := range apps {
			if _, err = p.WriteReceipts(ctx, app, root); err != nil {
				break
			}
		}
		root.Close()
	}
	return errors.Join(err, unmount())
}

// ask is the update service on its socket.
func (p *program) ask() *daemon.Client {
	return daemon.NewClient(p.SocketPath(), func(context.Context) string { return "usb" })
}

// counted reports how much of r was read.
type counted struct {
	r           io.Reader
	done, total int64
	report      func(done, total int64)
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.done += int64(n)
	c.report(c.done, c.total)
	return n, err
}
