package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// InventoryFormat is the value of an inventory's format key.
const InventoryFormat = "valise-inventory/1"

// Inventory is what a device says it has, so that a bundle can be made for it that
// holds nothing else. It is not signed: when it is wrong, the bundle lacks a layer,
// and the device refuses that before it touches anything.
type Inventory struct {
	Format   string   `json:"format"`
	App      string   `json:"app"`
	Version  string   `json:"version"` // that runs; empty when none does
	Platform Platform `json:"platform"`
	Layers   []Digest `json:"layers"` // compressed
	// DiffIDs are layers by the digest of their uncompressed tar: what an engine
	// with a graph driver knows them by.
	DiffIDs   []Digest `json:"diff_ids,omitempty"`
	Installer Digest   `json:"installer,omitempty"` // of the installer program
}

// ParseInventory reads an inventory of at most MaxManifestSize bytes.
func ParseInventory(b []byte) (*Inventory, error) {
	if len(b) > MaxManifestSize {
		return nil, fmt.Errorf("inventory has %d bytes, limit %d", len(b), MaxManifestSize)
	}
	if len(b) == 0 {
		return nil, errors.New("inventory is empty")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	v := new(Inventory)
	if err := d.Decode(v); err != nil {
		return nil, fmt.Errorf("not an inventory: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("inventory: text after the end of the object")
	}
	if v.Format != InventoryFormat {
		return nil, fmt.Errorf("inventory: format is %.80q, want %q", v.Format, InventoryFormat)
	}
	if !ValidApp(v.App) {
		return nil, fmt.Errorf("inventory: app is %.80q", v.App)
	}
	if p, err := ParsePlatform(string(v.Platform)); err != nil || p != v.Platform {
		return nil, fmt.Errorf("inventory: platform is %.80q", v.Platform)
	}
	digests := append(slices.Clone(v.Layers), v.DiffIDs...)
	if v.Installer != "" {
		digests = append(digests, v.Installer)
	}
	for _, d := range digests {
		if !d.Valid() {
			return nil, fmt.Errorf("inventory: %.80q is not a digest", d)
		}
	}
	return v, nil
}

// Omit reports which layers and files of m a device with this inventory does
// without: those it has, and those of other platforms.
func (v *Inventory) Omit(m *Manifest) (func(Digest) bool, error) {
	i := slices.Index(m.Platforms, v.Platform)
	if m.App != v.App || i < 0 {
		return nil, fmt.Errorf("inventory is of a device with %s on %s; %s %s is for %v", v.App, v.Platform, m.App, m.Version, m.Platforms)
	}
	need := map[Digest]bool{}
	for _, c := range m.Components {
		for _, l := range c.Images[i].Layers {
			need[l.Digest] = !slices.Contains(v.Layers, l.Digest) && !slices.Contains(v.DiffIDs, l.DiffID)
		}
	}
	for _, f := range m.Files {
		if f.Path == InstallerPath(v.Platform) {
			need[f.Digest] = f.Digest != v.Installer
		}
	}
	return func(d Digest) bool { return !need[d] }, nil
}

// OmitFrom reports which layers and files of m a device that runs base, of any
// platform, does without.
func OmitFrom(base, m *Manifest) (func(Digest) bool, error) {
	if base.App != m.App {
		return nil, fmt.Errorf("the base is a release of %q, this is one of %q", base.App, m.App)
	}
	have := map[Digest]bool{}
	for _, c := range base.Components {
		for _, img := range c.Images {
			for _, l := range img.Layers {
				have[l.Digest] = true
			}
		}
	}
	for _, f := range base.Files {
		if f.mayBeMissing() {
			have[f.Digest] = true
		}
	}
	return func(d Digest) bool { return have[d] }, nil
}
