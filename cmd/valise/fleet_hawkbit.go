package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle"
	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/cmd/internal/cli"
	"github.com/valise-ota/valise/installer/receipt"
)

// actionStatus is what a device told about an action, as hawkBit's Management API gives it.
type actionStatus struct {
	Messages   []string `json:"messages"`
	ReportedAt int64    `json:"reportedAt"` // milliseconds since 1970
}

// told is a receipt that a device told hawkBit of, and when.
type told struct {
	receipt.Mention
	at time.Time
}

var fingerprint = lazyregexp.New(`^[0-9a-f]{32}$`)

// addHawkBit reads what devices told hawkBit: the pages of its action statuses, one after
// the other. Nothing of it is signed.
func (c *fleetCollection) addHawkBit(ctx context.Context, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	limited := &io.LimitedReader{R: f, N: maxFleetReceipts + 1}
	pages, heard := json.NewDecoder(limited), 0
	for {
		var page struct {
			Content []actionStatus `json:"content"`
		}
		err := pages.Decode(&page)
		switch {
		case limited.N <= 0:
			return fmt.Errorf("%s: more than %d bytes", name, maxFleetReceipts)
		case errors.Is(err, io.EOF) && heard == 0:
			return fmt.Errorf("%s: no receipt is mentioned there: want pages of action statuses", name)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s: want pages of action statuses: %w", name, err)
		}
		for _, status := range page.Content {
			for _, text := range status.Messages {
				if err := c.visit(ctx); err != nil {
					return err
				}
				if strings.HasPrefix(text, `{"app":`) {
					heard++
					c.hear(name, text, time.UnixMilli(status.ReportedAt).UTC())
				}
			}
		}
	}
}

// hear keeps what a message says of a receipt.
func (c *fleetCollection) hear(name, text string, at time.Time) {
	var m receipt.Mention
	err := json.Unmarshal([]byte(text), &m)
	if err == nil && (m.Receipt < 1 || !m.Digest.Valid() || !fingerprint.MatchString(m.Key)) {
		err = errors.New("want a number, a digest and the fingerprint of a key")
	}
	if err == nil && (at.Year() < 1970 || at.Year() > 9999) { // JSON has no such time
		err = fmt.Errorf("it was reported at %d", at.UnixMilli())
	}
	if err != nil {
		c.refuse(name, fmt.Errorf("a message about a receipt: %w", err))
		return
	}
	chain := c.chain(fleetKey{m.Key, m.App})
	chain.told = append(chain.told, told{m, at})
}

// compare sets what hawkBit was told against the receipts that are there.
func (f *fleetChain) compare(d *fleetDevice) {
	if len(f.told) == 0 {
		return
	}
	slices.SortStableFunc(f.told, func(x, y told) int {
		return cmp.Or(cmp.Compare(x.Receipt, y.Receipt), x.at.Compare(y.at))
	})
	here := map[int64]bundle.Digest{}
	var last int64
	for i, r := range f.receipts {
		here[r.Sequence] = bundle.DigestOf(f.files[i])
		last = max(last, r.Sequence)
	}
	for _, t := range f.told {
		switch {
		case len(f.receipts) == 0:
			d.Device, d.Version, d.Since = cli.OneLine(t.Device), cli.OneLine(t.Version), t.at
			d.Problem = "no receipts, only what hawkBit was told"
		case here[t.Receipt] == t.Digest:
		case here[t.Receipt] != "":
			d.Problem = cmp.Or(d.Problem, fmt.Sprintf("hawkBit was told of another receipt %d", t.Receipt))
		case t.Receipt > last:
			d.Problem = cmp.Or(d.Problem, fmt.Sprintf("hawkBit was told of receipt %d, which is missing", t.Receipt))
		}
		if t.at.After(d.Seen) {
			d.Seen = t.at
		}
	}
}
