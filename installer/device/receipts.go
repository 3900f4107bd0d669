package device

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/order"
	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/docker"
	"github.com/valise-ota/valise/installer/host"
	"github.com/valise-ota/valise/installer/receipt"
	"github.com/valise-ota/valise/installer/release"
)

// receiptsDir is the directory of a stick that devices write to.
const receiptsDir = "valise"

// Written is what went to a stick for one app.
type Written struct {
	App      string `json:"app"`
	Dir      string `json:"dir"`
	Receipts int    `json:"receipts"`
	Key      string `json:"key"`
}

// WriteReceipts brings an app's directory on a stick up to date.
func (m *Machine) WriteReceipts(ctx context.Context, app string, stick *os.Root) (Written, error) {
	w := Written{App: app}
	key, err := m.deviceKey()
	if err != nil {
		return w, err
	}
	w.Key = receipt.Fingerprint(key.Public().(ed25519.PublicKey))
	files, err := m.sealReceipts(ctx, app, key)
	if err != nil {
		return w, err
	}
	w.Dir = path.Join(receiptsDir, m.deviceName()+"-"+w.Key[:8], app)
	if err := stick.MkdirAll(w.Dir, 0o755); err != nil {
		return w, fmt.Errorf("write receipts: %w", err)
	}
	dir, err := stick.OpenRoot(w.Dir)
	if err != nil {
		return w, fmt.Errorf("write receipts: %w", err)
	}
	defer dir.Close()
	for i, b := range files {
		if _, err := dir.Lstat(receiptName(i + 1)); err == nil {
			continue
		}
		if err := writeStick(dir, receiptName(i+1), b); err != nil {
			return w, err
		}
		w.Receipts++
	}
	v, err := m.inventory(ctx, app)
	if err != nil {
		return w, err
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return w, err
	}
	return w, writeStick(dir, "inventory.json", append(b, '\n'))
}

// Receipt returns what to tell of the last receipt about a record, as JSON; empty where
// the record has not ended.
func (m *Machine) Receipt(ctx context.Context, app, record string) (string, error) {
	key, err := m.deviceKey()
	if err != nil {
		return "", err
	}
	files, err := m.sealReceipts(ctx, app, key)
	if err != nil {
		return "", err
	}
	for _, b := range slices.Backward(files) {
		r, err := receipt.Open(ctx, b)
		if err != nil {
			return "", err
		}
		if r.Record == record {
			text, err := json.Marshal(receipt.MentionOf(r, b))
			return string(text), err
		}
	}
	return "", nil
}

// writeStick is release.WriteFile for file systems of sticks, which have no
// modes to set. What lies there under the temporary name, perhaps a pipe that
// nobody reads, is not opened but replaced.
func writeStick(dir *os.Root, name string, b []byte) error {
	tmp := name + ".tmp"
	if err := dir.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f, err := dir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = dir.Rename(tmp, name)
	}
	if err != nil {
		dir.Remove(tmp)
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

func receiptName(n int) string { return fmt.Sprintf("%06d.json", n) }

// sealReceipts writes receipts for what ended since the last time, and returns
// all, oldest first. They are kept with the records, so that every stick gets
// the same chain.
func (m *Machine) sealReceipts(ctx context.Context, app string, key ed25519.PrivateKey) ([][]byte, error) {
	j, _, err := m.ReadState(ctx, app)
	if err != nil {
		return nil, err
	}
	defer j.Close()
	records, err := j.History(ctx, -1, 0)
	if err != nil {
		return nil, err
	}
	dir, err := release.OpenDir(filepath.Join(m.stateDir(app), "receipts"), 0o700)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	unlock, err := release.Lock(filepath.Join(dir.Name(), "lock"), "valise-installer receipts", m.Now())
	if err != nil {
		return nil, err
	}
	defer unlock()
	// A record may be tried again, with another end: that is another receipt.
	type end struct {
		record string
		ended  int64
	}
	var files [][]byte
	sealed := map[end]bool{}
	var last []byte
	for {
		b, err := dir.ReadFile(receiptName(len(files) + 1))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read receipts: %w", err)
		}
		r, err := receipt.Open(ctx, b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir.Name(), err)
		}
		sealed[end{r.Record, r.Ended.UnixNano()}] = true
		files, last = append(files, b), b
	}
	records = slices.DeleteFunc(records, func(r installer.Record) bool {
		return r.Ended.IsZero() || sealed[end{r.ID, r.Ended.UnixNano()}]
	})
	order.By(records, func(a, b installer.Record) int { return a.Ended.Compare(b.Ended) })
	for _, r := range records {
		n := receipt.Receipt{
			Device: m.deviceName(), App: app, Record: r.ID, Action: string(r.Action), To: r.To.Version, Manifest: r.To.Manifest, Signer: r.To.Signer,
			Status: string(r.Status), Reason: shorten(cmp.Or(r.Attention, r.Error), 4096), Begun: r.Created, Ended: r.Ended,
		}
		if r.From != nil {
			n.From = r.From.Version
		}
		if last, err = receipt.Seal(ctx, key, last, n); err != nil {
			return nil, err
		}
		if err := release.WriteFile(dir, receiptName(len(files)+1), last, 0o600); err != nil {
			return nil, err
		}
		files = append(files, last)
	}
	return files, nil
}

// shorten cuts a text that may be any engine's output.
func shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + " ..."
}

// inventory is what the app's running release has brought here.
func (m *Machine) inventory(ctx context.Context, app string) (*bundle.Inventory, error) {
	j, st, err := m.ReadState(ctx, app)
	if err != nil {
		return nil, err
	}
	j.Close()
	v := &bundle.Inventory{Format: bundle.InventoryFormat, App: app}
	if st.Current != nil {
		v.Version = st.Current.Version
	}
	if kindIn(st) == bundle.KindTree { // has no layers and needs no engine
		v.Platform = host.Platform()
		return v, nil
	}
	store, err := release.Open(m.AppDir(app))
	if err != nil {
		return nil, err
	}
	defer store.Close()
	engine, err := m.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer engine.Close()
	info, err := engine.Info(ctx)
	if err != nil {
		return nil, err
	}
	v.Platform = info.Platform
	if st.Current == nil {
		return v, nil
	}
	return v, m.runtime(app, store, engine, docker.Program{}).Inventory(ctx, st.Kept, v)
}

// deviceName is how people call this machine, as a name of a directory on any
// file system.
func (m *Machine) deviceName() string {
	b, _ := os.ReadFile(filepath.Join(m.Root, "etc/hostname"))
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, strings.TrimSpace(string(b)))
	return cmp.Or(name[:min(len(name), 63)], "device")
}

// deviceKey is the key this device signs receipts with, made when it is first
// needed.
func (m *Machine) deviceKey() (ed25519.PrivateKey, error) {
	const name = "device.key"
	dir, err := release.OpenDir(filepath.Join(m.Root, "var/lib/valise"), 0o755)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	b, err := dir.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		return key, release.WriteFile(dir, name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("read the device's key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("read the device's key: %s is not PEM", filepath.Join(dir.Name(), name))
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := any.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("read the device's key: %s holds no Ed25519 key", filepath.Join(dir.Name(), name))
	}
	return key, nil
}
