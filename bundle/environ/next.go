package environ

import (
	"fmt"
	"maps"
	"slices"

	"github.com/valise-ota/valise/bundle"
)

// Next makes f what release m needs of it, and returns the keys of secrets whose value is
// from generate, see Generate. In this order, each only where the key has no
// value yet, except for the first and the last:
//
//   - answers, what the operator says now, replace any value, but not that of a
//     secret on which data depend;
//   - defaults, and with first, at a first installation, initial values;
//   - secrets are generated;
//   - the version of the release replaces the one before.
//
// Secrets that are files of their own are not for f.
//
// After an error f may have a part of it.
func (f *File) Next(m *bundle.Manifest, answers map[string]string, first bool, generate func(key string, s bundle.Secret) (string, error)) (generated []string, err error) {
	d := &m.Device
	for _, key := range slices.Sorted(maps.Keys(answers)) {
		if d.Secrets[key].File != "" {
			continue
		}
		if have := f.values[key]; d.Secrets[key].Immutable && have != "" && have != answers[key] {
			return nil, fmt.Errorf("set %s: existing data depends on the value it has in %s", key, f.name)
		}
		if err := f.Set(key, answers[key]); err != nil {
			return nil, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(d.Env)) {
		value := d.Env[key].Default
		if value == "" && first {
			value = d.Env[key].Initial
		}
		if value == "" || f.values[key] != "" {
			continue
		}
		if err := f.Set(key, value); err != nil {
			return nil, err
		}
	}
	for _, key := range f.Missing(slices.Sorted(maps.Keys(d.Secrets))) {
		if d.Secrets[key].File != "" {
			continue
		}
		value, err := generate(key, d.Secrets[key])
		if err != nil {
			return nil, err
		}
		if err := f.Set(key, value); err != nil {
			return nil, err
		}
		generated = append(generated, key)
	}
	if d.VersionEnv == "" {
		return generated, nil
	}
	return generated, f.Set(d.VersionEnv, m.Version)
}

// Changed are the keys but generated whose value is another one in before, or that
// it lacks, sorted.
func (f *File) Changed(before *File, generated []string) (keys []string) {
	for _, key := range slices.Sorted(maps.Keys(f.values)) {
		if have, ok := before.values[key]; (!ok || have != f.values[key]) && !slices.Contains(generated, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// PutBack makes f what it was before, but for those of keys that had no value
// then: data may depend on what was generated for them since.
func (f *File) PutBack(before []byte, keys []string) error {
	old, err := f.grammar.Parse(before)
	if err != nil {
		return err
	}
	for _, key := range old.Missing(keys) {
		if value := f.values[key]; value != "" {
			if err := old.Set(key, value); err != nil {
				return err
			}
		}
	}
	f.data, f.values = old.data, old.values
	return nil
}
