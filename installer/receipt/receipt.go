// Package receipt is what a device gives back on a stick: what it did, signed
// with a key of its own and chained, so that those who collect sticks can tell
// that nothing was changed, left out or made up on the way.
//
// A receipt is a DSSE envelope whose payload is a Receipt in JSON. The first one
// shows the device's key; who collects remembers its fingerprint.
package receipt

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/order"
)

// PayloadType is the DSSE payload type of a receipt.
const PayloadType = "application/vnd.valise.receipt.v1+json"

// Completed is the status of what the device did and kept.
const Completed = "completed"

// MaxSize bounds a receipt, in bytes.
const MaxSize = 64 << 10

// Receipt is one thing that a device did with one app.
type Receipt struct {
	Device   string            `json:"device"` // name of the machine
	Key      ed25519.PublicKey `json:"key"`    // the device's, as base64
	App      string            `json:"app"`
	Sequence int64             `json:"sequence"`           // 1 and up, without a gap, per device and app
	Previous bundle.Digest     `json:"previous,omitempty"` // of the receipt before, its file; none at 1

	Record   string        `json:"record"` // identifier in the device's history
	Action   string        `json:"action"` // install, update, rollback
	From     string        `json:"from,omitempty"`
	To       string        `json:"to"`
	Manifest bundle.Digest `json:"manifest"` // of the release To
	Signer   string        `json:"signer"`   // who had signed it
	Status   string        `json:"status"`   // completed, failed, rolled_back
	Reason   string        `json:"reason,omitempty"`
	Begun    time.Time     `json:"begun_at"`
	Ended    time.Time     `json:"ended_at,omitzero"`
}

// Fingerprint names a device's key.
func Fingerprint(key ed25519.PublicKey) string {
	return bundle.DigestOf(key).Hex()[:32]
}

// Mention is what others are told of a receipt, as JSON: enough to see later whether the
// receipts that people collect are those that the device wrote, and all of them.
type Mention struct {
	App     string        `json:"app"`
	Device  string        `json:"device"`
	Key     string        `json:"key"`     // its Fingerprint
	Receipt int64         `json:"receipt"` // its sequence
	Digest  bundle.Digest `json:"digest"`  // of its file
	Version string        `json:"version"` // that ran afterwards; empty for none
}

// MentionOf returns what to tell of the receipt in a file.
func MentionOf(r Receipt, file []byte) Mention {
	m := Mention{App: r.App, Device: r.Device, Key: Fingerprint(r.Key), Receipt: r.Sequence, Digest: bundle.DigestOf(file), Version: r.From}
	if r.Status == Completed {
		m.Version = r.To
	}
	return m
}

// Seal signs r as the receipt after the file before, which is nil for the first
// one, and returns its file.
func Seal(ctx context.Context, key ed25519.PrivateKey, before []byte, r Receipt) ([]byte, error) {
	r.Key, r.Sequence, r.Previous = key.Public().(ed25519.PublicKey), 1, ""
	if before != nil {
		last, err := Open(ctx, before)
		if err != nil {
			return nil, fmt.Errorf("write receipt: the one before: %w", err)
		}
		r.Sequence, r.Previous = last.Sequence+1, bundle.DigestOf(before)
	}
	payload, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("write receipt: %w", err)
	}
	signer, err := dsse.NewEnvelopeSigner(pair{key, r.Key})
	if err != nil {
		return nil, fmt.Errorf("write receipt: %w", err)
	}
	envelope, err := signer.SignPayload(ctx, PayloadType, payload)
	if err != nil {
		return nil, fmt.Errorf("write receipt: %w", err)
	}
	b, err := json.Marshal(envelope)
	return append(b, '\n'), err
}

// Open returns the receipt in a file after checking its signature with the key
// it names. Whose key that is, it cannot tell.
func Open(ctx context.Context, file []byte) (Receipt, error) {
	var r Receipt
	if len(file) > MaxSize {
		return r, fmt.Errorf("read receipt: %d bytes, limit %d", len(file), MaxSize)
	}
	var envelope dsse.Envelope
	if err := strict(file, &envelope); err != nil {
		return r, fmt.Errorf("read receipt: %w", err)
	}
	if envelope.PayloadType != PayloadType {
		return r, fmt.Errorf("read receipt: its type is %.80q, want %q", envelope.PayloadType, PayloadType)
	}
	payload, err := envelope.DecodeB64Payload()
	if err != nil {
		return r, fmt.Errorf("read receipt: %w", err)
	}
	if err := strict(payload, &r); err != nil {
		return r, fmt.Errorf("read receipt: %w", err)
	}
	if len(r.Key) != ed25519.PublicKeySize {
		return r, fmt.Errorf("read receipt: its key has %d bytes, want %d", len(r.Key), ed25519.PublicKeySize)
	}
	verifier, err := dsse.NewEnvelopeVerifier(pair{public: r.Key})
	if err != nil {
		return r, fmt.Errorf("read receipt: %w", err)
	}
	if _, err := verifier.Verify(ctx, &envelope); err != nil {
		return r, errors.New("read receipt: its signature is not that of its key: it was changed")
	}
	return r, nil
}

// Chain reads all receipts of one device about one app, in any order, and checks
// that together they are what the device wrote: one key, no gap, no fork.
func Chain(ctx context.Context, files [][]byte) ([]Receipt, error) {
	type link struct {
		Receipt
		digest bundle.Digest
	}
	var links []link
	for _, f := range files {
		r, err := Open(ctx, f)
		if err != nil {
			return nil, err
		}
		links = append(links, link{r, bundle.DigestOf(f)})
	}
	order.By(links, func(a, b link) int { return cmp.Compare(a.Sequence, b.Sequence) })
	var chain []Receipt
	for i, l := range links {
		if i == 0 && l.Sequence != 1 {
			return nil, fmt.Errorf("read receipts of %s: they begin with number %d: earlier ones are missing", l.Device, l.Sequence)
		}
		if i > 0 {
			before := links[i-1]
			switch {
			case l.digest == before.digest:
				continue // the same file twice
			case !l.Key.Equal(before.Key) || l.Device != before.Device || l.App != before.App:
				return nil, fmt.Errorf("read receipts: number %d is of %s about %s with key %s, the one before of %s about %s with key %s",
					l.Sequence, l.Device, l.App, Fingerprint(l.Key), before.Device, before.App, Fingerprint(before.Key))
			case l.Sequence == before.Sequence:
				return nil, fmt.Errorf("read receipts of %s: there are two different ones with number %d", l.Device, l.Sequence)
			case l.Sequence != before.Sequence+1:
				return nil, fmt.Errorf("read receipts of %s: number %d is missing", l.Device, before.Sequence+1)
			case l.Previous != before.digest:
				return nil, fmt.Errorf("read receipts of %s: number %d does not follow the number %d that is here", l.Device, l.Sequence, before.Sequence)
			}
		}
		chain = append(chain, l.Receipt)
	}
	return chain, nil
}

// strict decodes one JSON value without unknown keys and without anything after it.
func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("text after the end of the object")
	}
	return nil
}

// pair signs and verifies for package dsse.
type pair struct {
	private ed25519.PrivateKey
	public  ed25519.PublicKey
}

func (p pair) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(p.private, data), nil
}

func (p pair) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(p.public, data, sig) {
		return errors.New("wrong signature")
	}
	return nil
}

func (p pair) KeyID() (string, error)   { return hex.EncodeToString(p.public[:8]), nil }
func (p pair) Public() crypto.PublicKey { return p.public }
